"""Gaps at matched case mix or matched prevalence: both sides weighted to what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cxraug.evaluation.auprc import precision_and_slope
from cxraug.evaluation.auroc import area_and_slope
from cxraug.evaluation.cells import Cell, flag_of, needed
from cxraug.evaluation.measured import Array, Measured, measured
from cxraug.evaluation.metrics import METRICS, base_metric
from cxraug.evaluation.rates import RATES
from cxraug.evaluation.subjects import Subject
from cxraug.evaluation.tally import Tally, Units


@dataclass(frozen=True, eq=False)
class Side:
    """A level, or its reference: its rows, what is counted in them per patient and stratum, and ``weight`` (K,)."""

    cell: Cell
    tally: Tally
    weight: Array

    @cached_property
    def unit_weight(self) -> Array:
        """Weight (u,) of an image of each unit."""
        return self.weight[self.tally.stratum]

    def per_patient(self, values: Array) -> Array:
        """Sums (P,) of ``values`` (u,) over the units of each patient."""
        return np.bincount(self.tally.patient, values, len(self.cell.patients))

    def effective(self, count: Array) -> tuple[float, float]:
        """Kish's effective number ``(sum w)^2 / sum w^2`` of the images counted by ``count`` (u,), and of patients."""
        weight = self.unit_weight
        total, square = float(count @ weight), float(count @ weight**2)
        by_patient = self.per_patient(count * weight)
        if total <= 0:
            return 0.0, 0.0
        return total**2 / square, total**2 / float(by_patient @ by_patient)


@dataclass(frozen=True, eq=False)
class Matching:
    """Overlap weights of a level (``left``) and its reference (``right``) over K strata of ``units``.

    ``size`` (K,): images of both sides per stratum.
    """

    subject: Subject
    left: Side
    right: Side
    units: Units
    size: Array

    @property
    def mirrored(self) -> Matching:
        """Reference and level exchanged; the weights are the same."""
        return Matching(self.subject, self.right, self.left, self.units, self.size)


def overlap(subject: Subject, left: Cell, right: Cell, units: Units) -> Matching:
    """Weight the images of both sides so that every stratum has the same share of either side.

    An image of stratum x weighs ``n_other(x) / (n_left(x) + n_right(x))``, so both sides have the mix ``n_left n_right
    / (n_left + n_right)`` (overlap weights: Li, Morgan & Zaslavsky 2018, JASA 113, 390-400; here the propensity is the
    stratum's own share). Among all common mixes it leaves the most to judge by: no weight exceeds 1, strata that only
    one side has drop out, and a small level against the rest keeps nearly its own mix. With the label as the stratum
    both sides have the same prevalence.

    Parameters
    ----------
    left, right : disjoint; images whose label is blank do not count.
    """
    tallies = [side.tally(subject, units) for side in (left, right)]
    ours, theirs = (tally.size for tally in tallies)
    size = np.maximum(ours + theirs, 1)
    return Matching(subject, Side(left, tallies[0], theirs / size), Side(right, tallies[1], ours / size), units, size)


def matched_flag(metric: str, matching: Matching, *, min_cell: int, few: int) -> str:
    """Flag of the left side: suppressed or few by the effective numbers of the weighted images and patients."""
    side, subject = matching.left, matching.subject
    needs = METRICS[base_metric(metric, subject.name)].needs
    enough = min(int(min(side.effective(count)) + 1e-9) for count in needed(needs, side.tally))
    counted = side.unit_weight > 0
    n, n_pos = (int(count[counted].sum()) for count in (side.tally.images, side.tally["present"][0]))
    return flag_of(metric, enough, n, n_pos, min_cell, few)


def measure_matched(metric: str, matching: Matching) -> Measured:
    """``metric`` of the left side of ``matching``, in every run.

    Notes
    -----
    With ``g_i`` the derivative of the metric with respect to the weight of image i, and weights that depend on the
    counts of a stratum, the influence of an image of the left side is ``w_i g_i - w_i G / N`` and of one of the right
    side ``w_i G / N`` (``G`` the sum of g over the left images of its stratum, ``N`` the stratum's images of both
    sides): the weights are estimated, and their noise is part of the variance. The right side enters through it, so
    level and reference are correlated although they share no image.
    """
    name, left, right = base_metric(metric, matching.subject.name), matching.left, matching.right
    flipped = name == "fnr"
    value, influence, slope, count = (_of_rates if name not in ("auroc", "auprc") else _of_scores)(
        "tpr" if flipped else name, matching
    )
    for own, per_stratum in zip(influence, slope / matching.size, strict=True):
        for side, sign in ((left, -1), (right, 1)):
            own += sign * side.per_patient(side.tally.images * (side.weight * per_stratum)[side.tally.stratum])
    influence *= np.sqrt(count / np.maximum(count - 1, 0.5))[:, None]
    found = measured(value, influence, count)
    return found.complement() if flipped else found


def _of_rates(name: str, matching: Matching) -> tuple[Array, Array, Array, Array]:
    """Value (R,), weighted sums of the derivative per patient (R, P), its plain sums per stratum (R, K), and the
    effective patients (R,)."""
    side = matching.left
    weight = side.unit_weight
    numerator, denominator = np.broadcast_arrays(*RATES[name](side.tally))
    total = denominator @ weight
    value = (numerator @ weight) / total
    slope = (numerator - value[:, None] * denominator) / total[:, None]
    influence = np.stack([side.per_patient(one * weight) for one in slope])
    per_stratum = np.stack([np.bincount(side.tally.stratum, one, matching.units.kinds) for one in slope])
    images = denominator - side.tally["hits"] if name == "f1" else denominator  # F1 counts a called positive twice
    return value, influence, per_stratum, np.array([side.effective(one)[1] for one in images])


def _of_scores(name: str, matching: Matching) -> tuple[Array, Array, Array, Array]:
    """The same for AUROC and AUPRC, from the rows by ascending score."""
    subject, side, units = matching.subject, matching.left, matching.units
    assert subject.scores is not None
    patients, kernel = side.cell.patients, area_and_slope if name == "auroc" else precision_and_slope
    value = np.empty(len(subject.scores))
    influence, per_stratum = np.empty((len(value), len(patients))), np.empty((len(value), units.kinds))
    for run, (score, order) in enumerate(zip(subject.scores, subject.order, strict=True)):
        rows = side.cell.ascending(score, order, subject)
        weight = side.weight[units.row_stratum[rows]]
        if not weight.all():
            rows, weight = rows[weight > 0], weight[weight > 0]
        value[run], slope = kernel(score[rows], subject.y[rows] == 1, weight)
        influence[run] = patients.sum(rows, slope * weight)
        per_stratum[run] = np.bincount(units.row_stratum[rows], slope, units.kinds)
    count = min(side.effective(one)[1] for one in needed(METRICS[name].needs, side.tally))
    return value, influence, per_stratum, np.full(len(value), count)
