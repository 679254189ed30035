import numpy as np
import pytest
from simulated import measure_in
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from cxraug.evaluation.calibration import fit_recalibration, logit, recalibration_method


def sample(n, seed, shift=0.0, stretch=1.0):
    rng = np.random.default_rng(seed)
    eta = rng.standard_normal(n) * 1.5 - 1
    y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(float)
    return y, 1 / (1 + np.exp(-(stretch * eta + shift)))


def test_platt_undoes_a_shift_and_a_stretch():
    y, p = sample(20000, 0, shift=1.5, stretch=2.0)
    fitted = fit_recalibration(y, p)
    assert fitted.method == "Platt"
    assert (fitted.intercept, fitted.slope) == pytest.approx((-0.75, 0.5), abs=0.06)
    reference = LogisticRegression(C=1e9).fit(logit(p)[:, None], y)
    assert fitted.slope == pytest.approx(reference.coef_[0, 0], rel=0.01)
    assert np.mean(fitted.apply(p)) == pytest.approx(y.mean(), abs=0.002)


def test_platt_is_scikit_learns():
    y, p = sample(500, 3, shift=1.0, stretch=2.0)
    x = logit(p)[:, None]
    scores = LogisticRegression(C=np.inf).fit(x, y)  # its decision function is linear in x, which Platt absorbs
    oracle = CalibratedClassifierCV(FrozenEstimator(scores), method="sigmoid", ensemble=False).fit(x, y)
    np.testing.assert_allclose(fit_recalibration(y, p).apply(p), oracle.predict_proba(x)[:, 1], atol=1e-5)


def test_temperature_is_scikit_learns_slope_without_intercept_on_smoothed_targets():
    y, p = sample(500, 4, stretch=2.0)
    fitted = fit_recalibration(y, p, "temperature")
    target = np.where(y == 1, (y.sum() + 1) / (y.sum() + 2), 1 / (len(y) - y.sum() + 2))
    twice, labels = np.tile(logit(p), 2)[:, None], np.repeat([1, 0], len(y))
    weight = np.concatenate([target, 1 - target])
    oracle = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(twice, labels, sample_weight=weight)
    assert fitted.intercept == 0
    assert fitted.slope == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
    assert fitted.slope == pytest.approx(0.5, abs=0.1)
    turned = fit_recalibration(1 - y, p, "temperature")
    assert (np.diff(turned.apply(np.linspace(0.01, 0.99, 9))) > 0).all()  # never turns the order round


def test_isotonic_is_scikit_learns():
    y, p = sample(500, 5, shift=1.0)
    x = np.random.default_rng(0).random(300)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(p, y)
    np.testing.assert_allclose(fit_recalibration(y, p, "isotonic").apply(x), oracle.predict(x), atol=1e-12)


def test_what_is_asked_for_needs_ten_of_each_class():
    few, enough = np.repeat([0.0, 1.0], [50, 9]), np.repeat([0.0, 1.0], [50, 10])
    for asked in ("temperature", "isotonic"):
        assert [recalibration_method(y, asked) for y in (few, enough)] == ["intercept", asked]
    assert [recalibration_method(y, "none") for y in (few, enough)] == ["none", "none"]
    assert recalibration_method(np.full(3, np.nan), "isotonic") == "none"


def test_few_positives_move_the_prevalence_only():
    y, p = sample(400, 1, shift=2.0)
    keep = (y == 0) | (np.cumsum(y) <= 5)
    fitted = fit_recalibration(y[keep], p[keep])
    assert (fitted.method, fitted.slope) == ("intercept", 1.0)
    assert fitted.apply(p[keep]).mean() == pytest.approx(y[keep].mean(), abs=0.01)


def test_separated_labels_give_finite_values_and_no_rows_change_nothing():
    y = np.repeat([0.0, 1.0], 20)
    fitted = fit_recalibration(y, np.where(y == 1, 0.9, 0.1))
    assert np.isfinite([fitted.intercept, fitted.slope]).all()
    none = fit_recalibration(np.full(3, np.nan), np.full(3, 0.2))
    assert none.method == "none"
    assert none.apply(np.array([0.3])).tolist() == [0.3]


def test_brier_is_scikit_learns():
    y, p = sample(300, 2)
    found = measure_in("brier", np.arange(300), y, p=p[None])
    assert found.value[0] == pytest.approx(brier_score_loss(y, p))
    assert found.variance[0] == pytest.approx(((p - y) ** 2).var(ddof=1) / 300)


def test_slope_finds_overconfidence_and_has_the_right_error():
    slopes, claimed = [], []
    for seed in range(150):
        y, p = sample(400, seed, stretch=2.0)
        found = measure_in("calibration_slope", np.arange(400), y, p=p[None])
        slopes.append(found.value[0])
        claimed.append(found.variance[0])
    assert np.mean(slopes) == pytest.approx(0.5, abs=0.02)
    assert np.sqrt(np.mean(claimed)) == pytest.approx(np.std(slopes), rel=0.15)


def test_separated_scores_have_no_slope():
    y = np.repeat([0.0, 1.0], 10)
    found = measure_in("calibration_slope", np.arange(20), y, p=(0.2 + 0.6 * y)[None])
    assert np.isnan(found.value[0])
