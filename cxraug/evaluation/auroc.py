"""AUROC, exact with ties, with patient-clustered structural components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxraug.evaluation.measured import Array, Measured, Patients, measured
from cxraug.evaluation.ranking import Ranking


def auroc(
    scores: Array, order: Sequence[Array], y: Array, patients: Patients, counts: tuple[int, int] | None = None
) -> Measured:
    """Area under the ROC curve of R runs in one cell; 0.5 is chance, 1 is best.

    Parameters
    ----------
    scores : (R, n). order : R times (k,), the rows to judge by ascending score of each run (any order among ties).
    y : (n,) 1 or 0 at those rows, which hold both. counts : patients with a positive, with a negative, where known.

    Notes
    -----
    Ties count one half (midranks). With M positives X and N negatives Y, structural components
    ``V10(x) = mean_y psi(x, y)`` and ``V01(y) = mean_x psi(x, y)`` (DeLong et al. 1988). Per patient, influence =
    ``sqrt(I10/(I10-1)) sum(V10 - A)/M + sqrt(I01/(I01-1)) sum(V01 - A)/N``: its sum of squares is the clustered
    variance of Obuchowski 1997, eq. 4, with the factor ``sqrt(I10 I01 / ((I10-1)(I01-1)))`` in place of ``I/(I-1)`` on
    the cross term, which keeps every covariance matrix positive. One image per patient gives DeLong's variance exactly.
    """
    counts = counts or class_counts(order[0], y, patients)
    factors = [np.sqrt(count / max(count - 1, 1)) for count in counts]
    value, influence = np.empty(len(scores)), np.empty((len(scores), len(patients)))
    for run, (score, rows) in enumerate(zip(scores, order, strict=True)):
        positive = y[rows] == 1
        value[run], slope = area_and_slope(score[rows], positive)
        influence[run] = patients.sum(rows, slope * np.where(positive, *factors))
    return measured(value, influence, np.full(len(scores), min(counts)))


def class_counts(rows: Array, y: Array, patients: Patients) -> tuple[int, int]:
    """Patients with a positive, and with a negative, among ``rows`` (k,)."""
    present = y[rows] == 1
    return patients.count(rows[present]), patients.count(rows[~present])


def area_and_slope(score: Array, positive: Array, weight: Array | None = None) -> tuple[float, Array]:
    """(Weighted) AUROC of ascending scores and its derivative (k,) by the weight of each row; ties count one half."""
    ranking = Ranking.of(score, positive, weight)
    hits, true = ranking.hits, np.cumsum(ranking.hits)
    m = float(true[-1])
    n = ranking.total - m
    below = ranking.called - true - (ranking.every - hits) / 2  # weight of the negatives below a positive
    above = ranking.between(m, m - true)  # weight of the positives above a negative
    above[ranking.at] += hits / 2
    area = float(hits @ below) / (m * n)
    return area, ranking.rows((below / n - area) / m, (above / m - area) / n)
