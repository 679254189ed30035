"""Adjusted odds against scikit-learn, a row-by-row sandwich, statsmodels where it is installed, and simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from cxraug.balance.adjustment import COVARIATES, Sums, covariates, level_odds


def simulated(patients: int, seed: int, truth: float = 1.0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Women are X-rayed AP more often, AP images show the finding more often, patients have several images."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 1 + rng.poisson(2, patients))
    female = (rng.random(patients) < 0.5)[patient]
    age = rng.normal(55, 15, patients).clip(18, 90).round()[patient]
    ap = rng.random(len(patient)) < np.where(female, 0.65, 0.3)
    logit = -2 + np.log(truth) * female + 1.2 * ap + 0.02 * (age - 55) + rng.normal(0, 0.8, patients)[patient]
    y = (rng.random(len(patient)) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    frame = pd.DataFrame(
        {"age": age, "view": np.where(ap, "AP", "PA"), "sex": np.where(female, "F", "M"), "source": ""}
    )
    return frame, y, patient, female


def fitted(frame: pd.DataFrame, y: np.ndarray, patient: np.ndarray, inside: np.ndarray, without: tuple[str, ...]):
    """The odds ratio and the design of every row."""
    others = covariates(frame, without)
    pattern, at = np.unique(others.of * 2 + inside, return_inverse=True)
    design = others.design[pattern // 2]
    found = level_odds(Sums.of(y[:, None], patient, at).finding(0), pattern % 2 == 1, design)
    return found, np.column_stack([design[at], inside.astype(float)])


def test_coefficient_and_sandwich_by_rows() -> None:
    frame, y, patient, female = simulated(400, 3, truth=1.6)
    found, x = fitted(frame, y, patient, female, ("sex",))
    assert x.shape[1] == 1 + 3 + 1 + 1  # intercept, spline of age, AP, woman
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(x[:, 1:], y)
    assert found.log == pytest.approx(model.coef_[0, -1], abs=1e-4)
    p = model.predict_proba(x[:, 1:])[:, 1]
    bread = np.linalg.inv((x.T * (p * (1 - p))) @ x)
    meat = np.zeros_like(bread)
    for who in np.unique(patient):
        score = x[patient == who].T @ (y - p)[patient == who]
        meat += np.outer(score, score)
    groups = len(np.unique(patient))
    variance = (bread @ meat @ bread)[-1, -1] * groups / (groups - 1)
    assert found.variance == pytest.approx(variance, rel=1e-3)
    assert found.patients == groups
    low, high = found.limits()
    assert low < np.exp(found.log) < high
    assert 1 <= found.df <= groups - 1


def test_statsmodels_agrees() -> None:
    statsmodels = pytest.importorskip("statsmodels.api", reason="needs statsmodels")
    frame, y, patient, female = simulated(500, 8)
    y[:7] = np.nan
    found, x = fitted(frame, y, patient, female, ("sex",))
    known = ~np.isnan(y)
    model = statsmodels.GLM(y[known], x[known], family=statsmodels.families.Binomial())
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": patient[known], "use_correction": False})
    groups = len(np.unique(patient[known]))
    assert found.log == pytest.approx(fit.params[-1], abs=1e-5)
    assert found.variance * (groups - 1) / groups == pytest.approx(fit.bse[-1] ** 2, rel=1e-4)


def test_intervals_cover_and_adjustment_removes_confounding() -> None:
    held, crude_logs = 0, []
    for seed in range(120):
        frame, y, patient, female = simulated(250, 1000 + seed)
        found, _ = fitted(frame, y, patient, female, ("sex",))
        low, high = found.limits()
        held += low <= 1 <= high
        crude_logs.append(fitted(frame, y, patient, female, COVARIATES)[0].log)
    assert 0.89 <= held / 120 <= 0.99
    assert np.exp(np.mean(crude_logs)) > 1.2


def test_covariates_of_odd_columns() -> None:
    frame = pd.DataFrame(
        {"age": [50.0, np.nan, 50.0, 61.0], "sex": ["F", np.nan, "M", "M"], "view": "PA", "source": "a"}
    )
    found = covariates(frame)
    assert found.names == ("age", "sex")  # one view, one source
    assert np.array_equal(found.design[:, 0], np.ones(len(found.design)))
    rows = found.design[found.of]
    assert len(np.unique(rows, axis=0)) == 4
    alone = covariates(frame.assign(age=np.nan), ("sex",))
    assert (alone.names, alone.design.shape) == ((), (1, 1))


def test_a_view_that_separates_stays_finite() -> None:
    rng = np.random.default_rng(0)
    n = 400
    view = rng.choice(["PA", "AP"], n)
    y = np.where(view == "AP", 0.0, rng.random(n) < 0.4).astype(np.float32)
    frame = pd.DataFrame({"age": 50.0, "sex": "F", "view": view, "source": ""})
    found, _ = fitted(frame, y, np.arange(n), rng.random(n) < 0.5, ())
    assert np.isfinite([found.log, found.variance, *found.limits()]).all()
    assert 0.3 < np.exp(found.log) < 3
