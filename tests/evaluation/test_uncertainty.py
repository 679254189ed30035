import numpy as np
import pytest
from scipy import stats

from cxraug.evaluation.measured import Measured
from cxraug.evaluation.uncertainty import combine, interval


def runs(value, influence, df=99):
    value, influence = np.asarray(value, dtype=float), np.asarray(influence, dtype=float)
    return Measured(value, influence, np.zeros(len(value)), np.full(len(value), float(df)))


def test_one_run_has_its_patients_variance():
    found = combine(runs([0.8], [[0.03, 0.04]]), np.array([0]))
    assert (found.value, found.variance, found.df) == pytest.approx((0.8, 0.0025, 99))
    assert (found.n_draws, found.n_seeds) == (1, 1)


def test_mean_over_draws_of_mean_over_seeds():
    found = combine(runs([1.0, 3.0, 10.0], np.zeros((3, 2))), np.array(["a", "a", "b"]))
    assert found.value == pytest.approx(6.0)
    assert (found.n_draws, found.n_seeds) == (2, 1)


def test_same_patient_noise_in_every_run_is_counted_once_and_added_to_the_scatter():
    found = combine(runs([0.1, 0.2, 0.3], np.tile([[0.03, 0.04]], (3, 1))), np.arange(3))
    between = 0.01 / 3
    assert found.variance == pytest.approx(between + 0.0025)
    assert found.df == pytest.approx((between + 0.0025) / (between / 2 + 0.0025 / 99))


def test_patient_noise_that_the_scatter_holds_already_is_subtracted():
    influence = np.diag([0.03, 0.03, 0.03])  # independent noise: all of it shows between the runs
    scatter = runs([0.0, 0.1, 0.2], influence)
    assert combine(scatter, np.arange(3)).variance == pytest.approx(0.01 / 3)
    calm = combine(runs([0.1, 0.1, 0.1], influence), np.arange(3))
    assert calm.variance == pytest.approx(3 * 0.0009 / 9)  # floored at the clustered variance


def test_seeds_of_one_draw_stand_in_for_draws():
    influence = np.tile([[0.03, 0.04]], (3, 1))
    one = combine(runs([0.1, 0.2, 0.3], influence), np.zeros(3))
    assert one.variance == pytest.approx(0.01 / 3 + 0.0025)
    assert (one.n_draws, one.n_seeds) == (1, 3)
    assert combine(runs([0.1, 0.2, 0.3], influence), np.zeros(3), spread=False).variance == pytest.approx(0.0025)


def test_test_interval_and_detectable_effect_agree():
    found = combine(runs([0.05, 0.09], np.tile([[0.01, 0.02]], (2, 1))), np.arange(2))
    t = found.value / np.sqrt(found.variance)
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, found.df))
    assert found.margin(found.p_value) == pytest.approx(found.value)
    expected = (stats.t.ppf(0.975, found.df) + stats.t.ppf(0.8, found.df)) * np.sqrt(found.variance)
    assert found.detectable(0.05) == pytest.approx(expected)


def test_logit_interval_is_symmetric_in_log_odds_and_linear_in_value():
    low, high = interval(np.array([0.9]), np.array([0.0004]), np.array([200.0]), "logit", 0.05)
    log_odds = [np.log(v / (1 - v)) for v in (low[0], 0.9, high[0])]
    assert log_odds[2] - log_odds[1] == pytest.approx(log_odds[1] - log_odds[0])
    low, high = interval(np.array([1.2]), np.array([0.04]), np.array([1e9]), "linear", 0.05)
    assert (low[0], high[0]) == pytest.approx((1.2 - 1.96 * 0.2, 1.2 + 1.96 * 0.2), abs=1e-3)


def test_crossed_patients_draws_and_seeds_are_covered():
    """A linear model with known components, 400 replicates: between 92.5 and 98.5 % (nominal 95)."""
    rng = np.random.default_rng(0)
    n, hits = 150, 0
    draws = np.repeat(np.arange(8), 3)
    for _ in range(400):
        patient = rng.standard_normal(n) + 0 * draws[:, None]
        patient = patient + rng.standard_normal((8, n))[draws] + rng.standard_normal((24, n))
        shift = 0.1 * rng.standard_normal(8)[draws] + 0.1 * rng.standard_normal(24)
        score = patient + shift[:, None]
        value = score.mean(axis=1)
        influence = (score - value[:, None]) / np.sqrt(n * (n - 1))
        found = combine(runs(value, influence, n - 1), draws)
        hits += abs(found.value) <= found.margin(0.05)
    assert 0.925 <= hits / 400 <= 0.985
