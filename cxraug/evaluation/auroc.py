"""AUROC, exact with ties, with patient-clustered structural components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxraug.evaluation.measured import Array, Measured, Patients, measured


def auroc(scores: Array, order: Sequence[Array], y: Array, patients: Patients) -> Measured:
    """Area under the ROC curve of R runs in one cell; 0.5 is chance, 1 is best.

    Parameters
    ----------
    scores : (R, n). order : R times (k,), the rows to judge by ascending score of each run (any order among ties).
    y : (n,) 1 or 0 at those rows, which hold both.

    Notes
    -----
    Ties count one half (midranks). With M positives X and N negatives Y, structural components
    ``V10(x) = mean_y psi(x, y)`` and ``V01(y) = mean_x psi(x, y)`` (DeLong et al. 1988). Per patient, influence =
    ``sqrt(I10/(I10-1)) sum(V10 - A)/M + sqrt(I01/(I01-1)) sum(V01 - A)/N``: its sum of squares is the clustered
    variance of Obuchowski 1997, eq. 4, with the factor ``sqrt(I10 I01 / ((I10-1)(I01-1)))`` in place of ``I/(I-1)`` on
    the cross term, which keeps every covariance matrix positive. One image per patient gives DeLong's variance exactly.
    """
    present = y[order[0]] == 1
    counts = [patients.count(order[0][side]) for side in (present, ~present)]
    factors = [np.sqrt(count / max(count - 1, 1)) for count in counts]
    value, influence = np.empty(len(scores)), np.empty((len(scores), len(patients)))
    for run, (score, rows) in enumerate(zip(scores, order, strict=True)):
        positive = y[rows] == 1
        value[run], slope = area_and_slope(score[rows], positive)
        influence[run] = patients.sum(rows, slope * np.where(positive, *factors))
    return measured(value, influence, np.full(len(scores), min(counts)))


def area_and_slope(score: Array, positive: Array, weight: Array | None = None) -> tuple[float, Array]:
    """(Weighted) AUROC of ascending scores and its derivative (k,) by the weight of each row."""
    below, above = placements(score, positive, weight)
    if weight is None:
        m = int(np.count_nonzero(positive))
        n = len(positive) - m
        area = float(below[positive].sum()) / (m * n)
    else:
        m, n = weight[positive].sum(), weight[~positive].sum()
        area = float(weight[positive] @ below[positive]) / (m * n)
    return area, np.where(positive, (below / n - area) / m, (above / m - area) / n)


def placements(score: Array, positive: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """For sorted scores: (the weight of) negatives below and positives above each row, ties counted one half."""
    weight = np.ones(len(score)) if weight is None else weight
    hits = positive * weight
    misses = weight - hits
    tied = score[1:] == score[:-1]
    if not tied.any():
        return np.cumsum(misses) - misses / 2, hits.sum() - np.cumsum(hits) + hits / 2
    first = np.concatenate(([0], np.flatnonzero(~tied) + 1))
    sizes = np.diff(np.append(first, len(score)))
    positives, negatives = np.add.reduceat(hits, first), np.add.reduceat(misses, first)
    below = np.cumsum(negatives) - negatives / 2
    above = positives.sum() - np.cumsum(positives) + positives / 2
    return np.repeat(below, sizes), np.repeat(above, sizes)
