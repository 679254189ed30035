"""Gaps at matched case mix or matched prevalence: both sides weighted to what they have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    _effective: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @cached_property
    def unit_weight(self) -> Array:
        """Weight (u,) of an image of each unit."""
        return self.weight[self.tally.stratum]

    def per_patient(self, values: Array) -> Array:
        """Sums (P,) of ``values`` (u,) over the units of each patient."""
        return np.bincount(self.tally.patient, values, len(self.cell.patients))

    def effective(self, needs: str) -> list[tuple[float, float]]:
        """Kish's effective numbers ``(sum w)^2 / sum w^2`` of images and of patients, of everything that is needed."""
        if needs not in self._effective:
            self._effective[needs] = [self._kish(count) for count in needed(needs, self.tally)]
        return self._effective[needs]

    def _kish(self, count: Array) -> tuple[float, float]:
        weighted = count * self.unit_weight
        total, square, by_patient = (
            float(weighted.sum()),
            float(weighted @ self.unit_weight),
            self.per_patient(weighted),
        )
        return (total**2 / square, total**2 / float(by_patient @ by_patient)) if total > 0 else (0.0, 0.0)


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
    """Flag of the left side: suppressed or few by the effective numbers of the weighted images and patients.

    At matched prevalence both classes are needed, whatever the metric: with one of them missing nothing is matched.
    """
    side, subject = matching.left, matching.subject
    known = METRICS[base_metric(metric, subject.name)]
    needs = [known.needs, "both"] if known.matched == "prevalence" else [known.needs]
    enough = min(int(min(numbers) + 1e-9) for need in needs for numbers in side.effective(need))
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
    if name == "fnr":
        return measure_matched("tpr", matching).complement()
    value, slope = (_of_scores if name in ("auroc", "auprc") else _of_rates)(name, matching)
    influence = np.empty((len(value), len(left.cell.patients)))
    ours, theirs = left.tally, right.tally
    for run, unit in enumerate(slope):
        spill = np.bincount(ours.stratum, unit, matching.units.kinds) / matching.size
        influence[run] = left.per_patient(left.unit_weight * (unit - spill[ours.stratum] * ours.images))
        influence[run] += right.per_patient((right.weight * spill)[theirs.stratum] * theirs.images)
    patients = [numbers[1] for numbers in left.effective(METRICS[name].needs)]
    count = np.broadcast_to(min(patients) if name == "auroc" else patients, len(value))
    influence *= np.sqrt(count / np.maximum(count - 1, 0.5))[:, None]
    return measured(value, influence, count)


def _of_rates(name: str, matching: Matching) -> tuple[Array, Array]:
    """Value (R,), and the derivative by image weight, summed over the images of each unit (R, u)."""
    side = matching.left
    numerator, denominator = np.broadcast_arrays(*RATES[name](side.tally))
    total = denominator @ side.unit_weight
    value = (numerator @ side.unit_weight) / total
    return value, (numerator - value[:, None] * denominator) / total[:, None]


def _of_scores(name: str, matching: Matching) -> tuple[Array, Array]:
    """The same for AUROC and AUPRC, from the rows by ascending score."""
    subject, side, units = matching.subject, matching.left, matching.units
    assert subject.scores is not None
    kernel = area_and_slope if name == "auroc" else precision_and_slope
    row_weight = side.weight[units.row_stratum]
    value, slope = np.empty(len(subject.scores)), np.empty((len(subject.scores), len(side.tally.at)))
    for run, (score, order) in enumerate(zip(subject.scores, subject.order, strict=True)):
        rows = side.cell.ascending(score, order, subject)
        weight = row_weight[rows]
        if not weight.all():
            rows, weight = rows[weight > 0], weight[weight > 0]
        value[run], per_row = kernel(score[rows], subject.y[rows] == 1, weight)
        slope[run] = np.bincount(units.of[rows], per_row, len(units))[side.tally.at]
    return value, slope
