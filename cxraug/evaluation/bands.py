"""Pointwise bands of ROC and calibration curves: patients, seeds and draws put together at every vertex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from cxraug.evaluation.measured import Array
from cxraug.evaluation.uncertainty import bounds, mixed_df

# Denser where the curve is steep and where a screening threshold lies.
FALSE_POSITIVE_RATES = np.linspace(0, 1, 59) ** 2
WINDOW = 0.5  # half-width in probits over which the slope of a ROC curve is taken
CALLED = 5  # patients without the finding that should be called where a band begins
TIED = 0.01  # share of rows from which on equal scores count as a segment of a ROC curve and not as one row
BLOCK = 2048  # patients at once, so that their influence on every vertex stays in the processor's cache


@dataclass(frozen=True)
class Rows:
    """The m rows of a cell: ``positive`` (m,) bool and ``patient`` (m,) 0, 0, ..., P - 1, rising."""

    positive: Array
    patient: Array

    @property
    def n_patients(self) -> int:
        """P."""
        return int(self.patient[-1]) + 1

    def count(self, mask: Array) -> int:
        """How many patients have a row in ``mask`` (m,)."""
        return int(np.count_nonzero(np.diff(self.patient[mask], prepend=-1)))

    def block(self, first: int) -> slice:
        """The rows of the patients ``first, ..., first + BLOCK - 1``."""
        return slice(*np.searchsorted(self.patient, (first, first + BLOCK)))


class Roc:
    """The empirical ROC curve of one run at K places, the :data:`FALSE_POSITIVE_RATES`.

    Attributes
    ----------
    x, y : (K,) FPR and TPR. patients : (K,) independent patients that a band rests on: the positive or the negative
        ones, whichever are fewer; 0 where fewer than :data:`CALLED` negative patients would be called, because so few
        decide there that the curve is biased.

    Notes
    -----
    ``y`` is exact; equal scores are one straight segment (Fawcett 2006, Pattern Recognit Lett 27, 861).
    """

    def __init__(self, score: Array, rows: Rows) -> None:
        """``score`` (m,): higher means more likely. Both classes must occur in ``rows``."""
        order = np.argsort(-score)
        last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) + 1
        called = np.append(0, last)  # rows that are called at each vertex of the whole curve
        hits = np.append(0, np.cumsum(rows.positive[order])[last - 1])
        n_pos, n_neg = int(hits[-1]), len(score) - int(hits[-1])
        tpr, fpr = hits / n_pos, (called - hits) / n_neg
        at = np.minimum(np.searchsorted(fpr, FALSE_POSITIVE_RATES, side="right") - 1, len(fpr) - 1)
        after = np.minimum(at + 1, len(fpr) - 1)
        width = fpr[after] - fpr[at]
        self._share = np.divide(FALSE_POSITIVE_RATES - fpr[at], width, out=np.zeros_like(width), where=width > 0)
        self.x, self.y = FALSE_POSITIVE_RATES, tpr[at] + self._share * (tpr[after] - tpr[at])
        self._rows, self._counts, self._at = rows, (n_pos, n_neg), at
        self._slope = _slope(self.y, n_pos, n_neg)
        self._since = np.empty(len(score), dtype=np.int64)  # the place from which on a row is called
        self._since[order] = np.repeat(np.arange(len(at)), np.diff(called[at], prepend=0))
        self._tied = {
            int(group): order[called[group] : called[group + 1]]
            for group in np.unique(at[(called[after] - called[at] > TIED * len(score)) & (self._share > 0)])
        }
        sides = rows.count(rows.positive), rows.count(~rows.positive)
        self.patients = np.where(self.x * sides[1] >= CALLED, min(sides), 0)

    def influence(self, first: int) -> Array:
        """Influence (K, b) on ``y`` of the patients from ``first`` on, at most :data:`BLOCK` of them.

        Notes
        -----
        The derivative of the TPR at FPR t with respect to a patient's weight: ``sum over its positives (called - y) /
        M - y'(t) sum over its negatives (called - t) / N`` (Hsieh & Turnbull 1996, Ann Stat 24, 25, theorem 2.2, with
        patients as clusters). The slope ``y'(t)`` is that of a straight line in probits, as of a binormal curve,
        through the points half a probit away.
        """
        here = self._rows.block(first)
        positive, patient = self._rows.positive[here], self._rows.patient[here] - first
        size, places = int(patient[-1]) + 1, len(self.x)
        key = self._since[here] * size + patient
        parts = []
        for side, level in ((positive, self.y), (~positive, self.x)):
            part = np.bincount(key[side], minlength=places * size).astype(np.float32).reshape(places, size)
            for k in range(1, places):
                part[k] += part[k - 1]  # several times as fast as a cumulative sum over the first axis
            total = part[-1].copy()  # at FPR 1 every row is called
            self._share_ties(part, side, here, patient)
            part -= level[:, None].astype(np.float32) * total
            parts.append(part)
        parts[0] /= self._counts[0]
        parts[1] *= (self._slope / self._counts[1])[:, None].astype(np.float32)
        return parts[0] - parts[1]

    def _share_ties(self, part: Array, side: Array, here: slice, patient: Array) -> None:
        """Add the rows of a segment where it is passed in part."""
        for group, rows in self._tied.items():
            own = rows[(rows >= here.start) & (rows < here.stop)] - here.start
            count = np.bincount(patient[own[side[own]]], minlength=part.shape[1])
            places = np.flatnonzero(self._at == group)
            part[places] += self._share[places, None] * count


class Reliability:
    """Calibration of one run in K bins of equal mass.

    Attributes
    ----------
    x, y : (K,) mean probability and frequency of positives; NaN in an empty bin. patients : (K,) in each bin.
    """

    def __init__(self, probability: Array, rows: Rows, bins: int) -> None:
        """``probability`` (m,); equal ones share a bin."""
        m = len(probability)
        cuts = np.sort(probability)[-(-m * np.arange(1, bins) // bins)]
        self._rows, self._bin = rows, np.zeros(m, dtype=np.int64)
        for cut in cuts:  # faster than a binary search for so few
            self._bin += probability >= cut
        self._count = np.bincount(self._bin, minlength=bins)
        with np.errstate(invalid="ignore"):
            self.x, self.y = (
                np.bincount(self._bin, weights=part, minlength=bins) / self._count
                for part in (probability, rows.positive)
            )
        key = np.bincount(self._bin * rows.n_patients + rows.patient, minlength=bins * rows.n_patients)
        self.patients = np.count_nonzero(key.reshape(bins, -1), axis=1)

    def influence(self, first: int) -> Array:
        """Influence (K, b) on ``y`` of the patients from ``first`` on, at most :data:`BLOCK`: that of a ratio."""
        here = self._rows.block(first)
        bins, patient = self._bin[here], self._rows.patient[here] - first
        size = int(patient[-1]) + 1
        weights = (self._rows.positive[here] - self.y[bins]) / self._count[bins]
        return np.bincount(bins * size + patient, weights=weights, minlength=len(self.x) * size).reshape(-1, size)


def band(units: Sequence[Sequence[Roc | Reliability]], n_patients: int, alpha: float) -> Array:
    """Mean curve over ``units`` with its pointwise ``1 - alpha`` band: (K, 5) of x, y, low, high, patients.

    Parameters
    ----------
    units : draws with their seeds; with one draw each seed is a unit. n_patients : of the cell.

    Notes
    -----
    At every place the variance and degrees of freedom of :func:`cxraug.evaluation.uncertainty.combine`, and Wilson's
    interval with the effective number that this variance means. No limits (NaN) where a run has no patients.
    """
    count = len(units)
    xs, ys = (np.array([np.mean([getattr(run, name) for run in unit], axis=0) for unit in units]) for name in "xy")
    fewest = np.min([run.patients for unit in units for run in unit], axis=0)
    clustered, squares = np.zeros(len(fewest)), np.zeros(len(fewest))
    for first in range(0, n_patients, BLOCK):
        parts = [sum(run.influence(first) for run in unit) / len(unit) for unit in units]
        mean = sum(parts) / count
        clustered += np.einsum("kp,kp->k", mean, mean)
        if count > 1:
            squares += sum(np.einsum("kp,kp->k", part, part) for part in parts)
    y, df, variance = ys.mean(axis=0), np.maximum(fewest - 1.0, 1.0), clustered
    if count > 1:
        between = ys.var(axis=0, ddof=1) / count
        shared = (squares / count - clustered) / (count - 1)
        variance = np.maximum(between + clustered - shared, np.maximum(between, clustered))
        moves = variance > 0
        df[moves] = mixed_df((between[moves], (variance - between)[moves]), (count - 1, df[moves]))
    limits = bounds(y, variance, np.maximum(fewest, 1), "wilson", special.stdtrit(df, 1 - alpha / 2))
    low, high = (np.where(fewest > 0, limit, np.nan) for limit in limits)
    return np.column_stack([xs.mean(axis=0), y, low, high, fewest])


def roc_band(units: Sequence[Sequence[Roc]], n_patients: int, alpha: float) -> Array:
    """:func:`band` of ROC curves, (K, 4) of x, y, low, high, whose limits rise as the curve does.

    What holds at one FPR holds at every larger one: a lower limit is at least each one before it, an upper limit at
    most each one after it. Where every row is called the TPR is 1.
    """
    found = band(units, n_patients, alpha)[:, :4]
    found[-1, 2:] = 1.0
    known = ~np.isnan(found[:, 2])
    found[known, 2] = np.maximum.accumulate(found[known, 2])
    found[known, 3] = np.minimum.accumulate(found[known, 3][::-1])[::-1]
    return found


def _slope(y: Array, n_pos: int, n_neg: int) -> Array:
    """Slope of a ROC curve at its places, from a straight line in probits over a window of one probit."""
    t = FALSE_POSITIVE_RATES
    across = special.ndtri(np.clip(t, 0.5 / n_neg, 1 - 0.5 / n_neg))
    up = special.ndtri(np.clip(y, 0.5 / n_pos, 1 - 0.5 / n_pos))
    low, high = np.maximum(across - WINDOW, across[0]), np.minimum(across + WINDOW, across[-1])
    rise = np.interp(high, across, up) - np.interp(low, across, up)
    return rise / np.maximum(high - low, 1e-12) * np.exp((across**2 - up**2) / 2)
