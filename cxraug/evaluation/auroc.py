"""AUROC, exact with ties, with patient-clustered structural components."""

from __future__ import annotations

import numpy as np

from cxraug.evaluation.measured import Array, Measured, Patients, measured


def auroc(scores: Array, order: Array, y: Array, cell: Array, patients: Patients) -> Measured:
    """Area under the ROC curve of R runs in one cell; 0.5 is chance, 1 is best.

    Parameters
    ----------
    scores : (R, n). order : (R, n) ``argsort`` of each run's scores (any order among ties).
    y : (n,) 1, 0 or NaN (left out). cell : (n,) bool. Both classes must occur in the cell.

    Notes
    -----
    Ties count one half (midranks). With M positives X and N negatives Y, structural components
    ``V10(x) = mean_y psi(x, y)`` and ``V01(y) = mean_x psi(x, y)`` (DeLong et al. 1988). Per patient, influence =
    ``sqrt(I10/(I10-1)) sum(V10 - A)/M + sqrt(I01/(I01-1)) sum(V01 - A)/N``: its sum of squares is the clustered
    variance of Obuchowski 1997, eq. 4, with the factor ``sqrt(I10 I01 / ((I10-1)(I01-1)))`` in place of ``I/(I-1)`` on
    the cross term, which keeps every covariance matrix positive. One image per patient gives DeLong's variance exactly.
    """
    known = cell & ~np.isnan(y)
    positive = y == 1
    count10, count01 = patients.count(known & positive), patients.count(known & ~positive)
    factor10 = np.sqrt(count10 / max(count10 - 1, 1))
    factor01 = np.sqrt(count01 / max(count01 - 1, 1))
    value = np.empty(len(scores))
    parts = np.zeros(scores.shape)
    for run, (score, rows) in enumerate(zip(scores, order, strict=True)):
        rows = rows[known[rows]]
        below, above = placements(score[rows], positive[rows])
        is_positive = positive[rows]
        m = int(is_positive.sum())
        n = len(rows) - m
        value[run] = area = below[is_positive].mean() / n
        parts[run, rows] = np.where(
            is_positive, (below / n - area) * (factor10 / m), (above / m - area) * (factor01 / n)
        )
    return measured(value, patients.sum(parts), np.full(len(scores), min(count10, count01)))


def placements(score: Array, positive: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """For sorted scores: (the weight of) negatives below and positives above each row, ties counted one half."""
    first = np.concatenate(([0], np.flatnonzero(score[1:] != score[:-1]) + 1))
    sizes = np.diff(np.append(first, len(score)))
    weight = np.ones(len(score)) if weight is None else weight
    positives = np.add.reduceat(positive * weight, first)
    negatives = np.add.reduceat(~positive * weight, first)
    below = np.cumsum(negatives) - negatives / 2
    above = positives.sum() - np.cumsum(positives) + positives / 2
    return np.repeat(below, sizes), np.repeat(above, sizes)
