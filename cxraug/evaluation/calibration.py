"""Recalibration on validation, and the calibration slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cxraug.evaluation.measured import Array, Measured, Patients, measured

ENOUGH = 10  # positives and negatives on validation from which on more than the intercept is fitted
Asked = Literal["platt", "temperature", "isotonic", "none"]
NAMES: dict[str, str] = {asked: asked for asked in get_args(Asked)} | {"platt": "Platt"}


@dataclass(frozen=True)
class Recalibration:
    """``logit(p') = intercept + slope logit(p)``, or a line through ``steps`` (p, p') where there are any.

    ``method`` is ``Platt``, ``temperature``, ``isotonic``, ``intercept`` or ``none``.
    """

    intercept: float
    slope: float
    method: str
    steps: tuple[Array, Array] | None = None

    def apply(self, p: Array) -> Array:
        """Recalibrated probabilities."""
        if self.method == "none":
            return p
        if self.steps is not None:
            return np.interp(p, *self.steps)
        return _expit(self.intercept + self.slope * logit(p))


def fit_recalibration(y: Array, p: Array, method: str | None = None) -> Recalibration:
    """Fit on validation rows (blank y left out).

    With at least 10 positives and 10 negatives what is asked for: Platt scaling (Platt 1999), temperature scaling (its
    slope alone; Guo et al. 2017), or isotonic regression (Zadrozny & Elkan 2002, through scikit-learn). With fewer: the
    intercept alone (it corrects prevalence). Without any row: none. All but isotonic regression take Platt's smoothed
    targets, so that separable data give finite values.

    ``method``: as :func:`recalibration_method` names it, which chooses where none is given.
    """
    known = ~np.isnan(y)
    y, p = y[known], p[known]
    method = method or recalibration_method(y)
    if method == "none":
        return Recalibration(0.0, 1.0, "none")
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, y)
        return Recalibration(0.0, 1.0, method, (curve.X_thresholds_, curve.y_thresholds_))
    positives, negatives = float((y == 1).sum()), float((y == 0).sum())
    target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    x = logit(p)
    if method == "Platt":
        intercept, slope = _logistic(np.stack([np.ones_like(x), x]), target, np.zeros_like(x), np.array([0.0, 1.0]))
        return Recalibration(intercept, slope, method)
    if method == "temperature":
        (slope,) = _logistic(x[None], target, np.zeros_like(x), np.ones(1))
        return Recalibration(0.0, max(float(slope), 1e-3), method)  # a temperature is positive: it keeps the order
    (intercept,) = _logistic(np.ones((1, len(x))), target, x, np.zeros(1))
    return Recalibration(intercept, 1.0, method)


def recalibration_method(y: Array, asked: Asked = "platt") -> str:
    """Which recalibration the labels ``y`` (1, 0, NaN) of a validation set allow where ``asked`` is wanted."""
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    if positives + negatives == 0:
        return "none"
    return NAMES[asked] if min(positives, negatives) >= ENOUGH or asked == "none" else "intercept"


def calibration_slope(p: Array, rows: Array, y: Array, patients: Patients) -> Measured:
    """Slope of the logistic regression of y on ``logit(p)``; 1 is best, below 1 the probabilities are too extreme.

    ``p`` (R, n), ``y`` (n,); ``rows`` (k,) are those to judge, where y is 1 or 0.

    Influence values are those of the maximum likelihood estimate (cluster-robust sandwich). Perfectly separated or
    constant scores have no slope: NaN.
    """
    target, count = y[rows], patients.count(rows)
    factor = np.sqrt(count / max(count - 1, 1))
    value, influence = np.full(len(p), np.nan), np.zeros((len(p), len(patients)))
    for run, probability in enumerate(p):
        x = logit(probability[rows])
        overlap = x[target == 1].min() < x[target == 0].max() and x[target == 0].min() < x[target == 1].max()
        if not overlap:
            continue
        design = np.stack([np.ones_like(x), x])
        beta = _logistic(design, target, np.zeros_like(x), np.array([0.0, 1.0]))
        mu = _expit(beta @ design)
        information = (design * (mu * (1 - mu))) @ design.T
        influence[run] = patients.sum(rows, (np.linalg.inv(information)[1] @ design) * (target - mu) * factor)
        value[run] = beta[1]
    fewest = min(patients.count(rows[target == label]) for label in (1, 0))
    return measured(value, influence, np.full(len(p), fewest))


def logit(p: Array) -> Array:
    """Log odds, probabilities kept 1e-9 away from 0 and 1."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.log(p) - np.log1p(-p)


def _expit(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))


def _logistic(design: Array, target: Array, offset: Array, beta: Array) -> Array:
    """Newton's method with step halving for logistic regression; ``design`` (k, n)."""

    def loss(b: Array) -> float:
        eta = offset + b @ design
        return float((np.logaddexp(0, eta) - target * eta).sum())

    current = loss(beta)
    for _ in range(100):
        mu = _expit(offset + beta @ design)
        hessian = (design * (mu * (1 - mu))) @ design.T + 1e-10 * np.eye(len(beta))
        step = np.linalg.solve(hessian, design @ (target - mu))
        scale = 1.0
        while (candidate := loss(beta + scale * step)) > current + 1e-12 and scale > 1e-6:
            scale /= 2
        if candidate > current:
            return beta
        beta, gained, current = beta + scale * step, current - candidate, candidate
        if gained < 1e-10 and np.abs(step).max() < 1e-6:
            return beta
    return beta
