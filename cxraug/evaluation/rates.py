"""Rates and other ratios of sums (TPR, FPR, PPV, NPV, F1, Brier) with patient-clustered variance."""

from __future__ import annotations

import numpy as np

from cxraug.evaluation.measured import Array, Measured, Patients, measured


def ratio(numerator: Array, denominator: Array, patients: Patients) -> Measured:
    """``sum(numerator) / sum(denominator)`` over images, per run.

    Parameters
    ----------
    numerator, denominator : (R, n) or (n,), already 0 outside the cell. The sums must not be 0.

    Notes
    -----
    Influence of patient i: ``sqrt(I / (I - 1)) (x_i - v n_i) / sum(n)`` with ``I`` patients whose denominator is not 0
    (the ratio estimator of cluster sampling; Rao & Scott 1992, Biometrics 48, 577-585).
    """
    x = patients.sum(np.atleast_2d(np.asarray(numerator, dtype=float)))
    size = patients.sum(np.atleast_2d(np.asarray(denominator, dtype=float)))
    runs = max(len(x), len(size))
    x, size = np.broadcast_to(x, (runs, len(patients))), np.broadcast_to(size, (runs, len(patients)))
    total = size.sum(axis=1)
    value = x.sum(axis=1) / total
    count = (size > 0).sum(axis=1)
    scale = np.sqrt(count / np.maximum(count - 1, 1)) / total
    return measured(value, (x - value[:, None] * size) * scale[:, None], count)


def true_positive_rate(decision: Array, y: Array, cell: Array, patients: Patients) -> Measured:
    """Share of the present that are called present. 1 is best. ``decision`` (R, n), ``y`` and ``cell`` (n,)."""
    present = cell & (y == 1)
    return ratio(decision & present, present, patients)


def false_positive_rate(decision: Array, y: Array, cell: Array, patients: Patients) -> Measured:
    """Share of the absent that are called present. 0 is best."""
    absent = cell & (y == 0)
    return ratio(decision & absent, absent, patients)


def positive_predictive_value(decision: Array, y: Array, cell: Array, patients: Patients) -> Measured:
    """Share of those called present that are present. Depends on prevalence."""
    called = decision & (cell & ~np.isnan(y))
    return ratio(called & (y == 1), called, patients)


def negative_predictive_value(decision: Array, y: Array, cell: Array, patients: Patients) -> Measured:
    """Share of those called absent that are absent. Depends on prevalence."""
    called = ~decision & (cell & ~np.isnan(y))
    return ratio(called & (y == 0), called, patients)


def f1_score(decision: Array, y: Array, cell: Array, patients: Patients) -> Measured:
    """``2 TP / (2 TP + FP + FN)``. Depends on prevalence."""
    known = cell & ~np.isnan(y)
    called, present = (decision & known).astype(float), (y == 1) & known
    return ratio(2 * called * present, called + present, patients)
