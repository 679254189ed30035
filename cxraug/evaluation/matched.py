"""Gaps at matched case mix or matched prevalence: both sides weighted to what they have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxraug.evaluation.auroc import placements
from cxraug.evaluation.cells import Subject, effective
from cxraug.evaluation.measured import Array, Measured, Patients, measured
from cxraug.evaluation.metrics import base_metric


@dataclass(frozen=True)
class Matching:
    """Overlap weights of a level and its reference over strata.

    Attributes
    ----------
    left, right : (n,) bool, disjoint. stratum : (n,) int from 0. weight : (n,) 0 outside both sides.
    size : (K,) images of both sides per stratum.
    """

    left: Array
    right: Array
    stratum: Array
    weight: Array
    size: Array

    @property
    def mirrored(self) -> Matching:
        """Reference and level exchanged; the weights are the same."""
        return Matching(self.right, self.left, self.stratum, self.weight, self.size)


def overlap(left: Array, right: Array, known: Array, stratum: Array) -> Matching:
    """Weight the images of both sides so that every stratum has the same share of either side.

    An image of stratum x weighs ``n_other(x) / (n_left(x) + n_right(x))``, so both sides have the mix ``n_left n_right
    / (n_left + n_right)`` (overlap weights: Li, Morgan & Zaslavsky 2018, JASA 113, 390-400; here the propensity is the
    stratum's own share). Among all common mixes it leaves the most to judge by: no weight exceeds 1, strata that only
    one side has drop out, and a small level against the rest keeps nearly its own mix. With the label as the stratum
    both sides have the same prevalence.

    Parameters
    ----------
    left, right, known : (n,) bool. stratum : (n,) int from 0.
    """
    kinds = int(stratum.max()) + 1
    ours, theirs = (np.bincount(stratum[side & known], minlength=kinds) for side in (left, right))
    size = ours + theirs
    filled = np.maximum(size, 1)
    weight = np.where(left, (theirs / filled)[stratum], np.where(right, (ours / filled)[stratum], 0.0)) * known
    return Matching(left & known, right & known, stratum, weight, filled)


def measure_matched(subject: Subject, metric: str, matching: Matching, patients: Patients) -> Measured:
    """``metric`` of the left side of ``matching``, in every run.

    Notes
    -----
    With ``g_i`` the derivative of the metric with respect to the weight of image i, and weights that depend on the
    counts of a stratum, the influence of an image of the left side is ``w_i g_i - w_i G / N`` and of one of the right
    side ``w_i G / N`` (``G`` the sum of g over the left images of its stratum, ``N`` the stratum's images of both
    sides): the weights are estimated, and their noise is part of the variance. The right side enters through it, so
    level and reference are correlated although they share no image.
    """
    name = base_metric(metric, subject.name)
    flipped = name == "fnr"
    value, slope, needed = _derivative(subject, "tpr" if flipped else name, matching)
    rate = np.zeros((len(slope), len(matching.size)))
    for run, g in enumerate(slope):
        rate[run] = np.bincount(matching.stratum, g, minlength=len(matching.size))
    spill = (rate / matching.size)[:, matching.stratum]
    parts = matching.weight * np.where(matching.left, slope - spill, np.where(matching.right, spill, 0.0))
    count = np.array([min(effective(mask, matching.weight, patients)[1] for mask in masks) for masks in needed])
    factor = np.sqrt(count / np.maximum(count - 1, 0.5))
    found = measured(value, patients.sum(parts) * factor[:, None], count)
    return found.complement() if flipped else found


def _derivative(subject: Subject, name: str, matching: Matching) -> tuple[Array, Array, list[list[Array]]]:
    """Value (R,), derivative by image weight (R, n; 0 outside the left side), and per run the masks that must hold
    enough patients."""
    side, weight = matching.left & (matching.weight > 0), matching.weight
    present, absent = side & (subject.y == 1), side & (subject.y == 0)
    if name in ("auroc", "auprc"):
        assert subject.scores is not None
        assert subject.order is not None
        kernel, needed = (_auroc, [present, absent]) if name == "auroc" else (_auprc, [present])
        value, slope = np.empty(len(subject.scores)), np.zeros(subject.scores.shape)
        for run, (score, rows) in enumerate(zip(subject.scores, subject.order, strict=True)):
            rows = rows[side[rows]]
            value[run], slope[run, rows] = kernel(score[rows], present[rows], weight[rows])
        return value, slope, [needed] * len(value)
    if name == "brier":
        assert subject.calibrated is not None
        numerator = np.where(side, (subject.calibrated - np.where(side, subject.y, 0)) ** 2, 0)
        denominator = np.broadcast_to(side.astype(float), numerator.shape)
    else:
        assert subject.decision is not None
        called = subject.decision & side
        cleared = ~subject.decision & side
        pairs: dict[str, tuple[Array, Array]] = {
            "tpr": (called & present, present),
            "fpr": (called & absent, absent),
            "ppv": (called & present, called),
            "npv": (cleared & absent, cleared),
            "f1": (2.0 * (called & present), called.astype(float) + present),
        }
        numerator, denominator = (np.broadcast_to(np.asarray(a, dtype=float), called.shape) for a in pairs[name])
    total = denominator @ weight
    value = (numerator @ weight) / total
    slope = (numerator - value[:, None] * denominator) / total[:, None]
    return value, slope, [[row > 0] for row in denominator]


def _auroc(score: Array, positive: Array, weight: Array) -> tuple[float, Array]:
    """Weighted AUROC of ascending scores and its derivative by weight."""
    below, above = placements(score, positive, weight)
    m, n = weight[positive].sum(), weight[~positive].sum()
    area = float(weight[positive] @ below[positive]) / (m * n)
    return area, np.where(positive, (below / n - area) / m, (above / m - area) / n)


def _auprc(score: Array, positive: Array, weight: Array) -> tuple[float, Array]:
    """Weighted average precision of ascending scores and its derivative by weight."""
    score, positive, weight = score[::-1], positive[::-1], weight[::-1]
    first = np.concatenate(([0], np.flatnonzero(score[1:] != score[:-1]) + 1))
    hits = np.add.reduceat(np.where(positive, weight, 0.0), first)
    true, called = np.cumsum(hits), np.cumsum(np.add.reduceat(weight, first))
    precision, m = true / called, true[-1]
    area = float(hits @ precision) / m
    gain = np.cumsum((hits * (called - true) / called**2)[::-1])[::-1]
    loss = np.cumsum((hits * true / called**2)[::-1])[::-1]
    sizes = np.diff(np.append(first, len(score)))
    slope = np.where(positive, np.repeat(precision - area + gain, sizes), -np.repeat(loss, sizes)) / m
    return area, slope[::-1]
