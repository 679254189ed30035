import numpy as np
import pytest
from simulated import measure_in

from cxraug.evaluation.ece import commensurate
from cxraug.evaluation.uncertainty import interval


def forecasts(rng, n_patients, off=0.0, images=3.0):
    """Probabilities that are ``off`` (added to the true probability) and labels that images of a patient share."""
    ids = np.repeat(np.arange(n_patients), rng.geometric(1 / images, n_patients))
    truth = rng.uniform(0.2, 0.6, n_patients)[ids]
    level = rng.random(n_patients)[ids]  # one draw for most images of a patient: truly clustered
    own = rng.random(len(ids)) < 0.5
    y = (np.where(own, rng.random(len(ids)), level) < truth).astype(float)
    return ids, y, truth + off


def found(ids, y, p):
    return measure_in("ece", ids, y, p=p[None], scores=p[None])


@pytest.mark.parametrize("n_patients", [40, 400])
def test_a_calibrated_classifier_has_no_error_on_average_at_any_size(n_patients):
    rng = np.random.default_rng(n_patients)
    values, claimed, starts_at_zero = [], [], 0
    for _ in range(200):
        one = found(*forecasts(rng, n_patients))
        values.append(one.value[0])
        claimed.append(one.variance[0])
        starts_at_zero += interval(one.value, one.variance, one.df, "root", 0.05)[0][0] == 0
    assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / np.sqrt(200))
    assert np.sqrt(np.mean(claimed)) >= np.std(values)
    assert starts_at_zero / 200 >= 0.97


@pytest.mark.parametrize("off", [0.03, 0.08, 0.2])
def test_the_interval_covers_the_true_error(off):
    rng = np.random.default_rng(7)
    hits, values = 0, []
    for _ in range(200):
        one = found(*forecasts(rng, 200, off))
        low, high = interval(one.value, one.variance, one.df, "root", 0.05)
        hits += bool(low[0] <= off <= high[0])
        values.append(one.value[0])
    assert np.mean(values) == pytest.approx(off**2, abs=4 * np.std(values) / np.sqrt(200))
    assert hits / 200 >= 0.92


def test_the_plug_in_is_the_mean_over_bins_by_hand():
    rng = np.random.default_rng(1)
    p = np.repeat([0.1, 0.4, 0.7], 200)  # ties: three bins whatever the number asked for
    y = (rng.random(600) < p + 0.1).astype(float)
    one = found(np.arange(600), y, p)
    by_hand = 0.0
    for value in (0.1, 0.4, 0.7):
        part = y[p == value]
        by_hand += (200 / 600) * ((part.mean() - value) ** 2 - part.var(ddof=1) / 200)
    assert one.value[0] == pytest.approx(by_hand)


def test_groups_of_any_size_have_no_gap_when_both_are_calibrated():
    rng = np.random.default_rng(2)
    gaps, rejected = [], 0
    for _ in range(200):
        ids, y, p = forecasts(rng, 250)
        small = ids < 30
        sides = [measure_in("ece", ids, y, p=p[None], scores=p[None], cell=cell) for cell in (small, ~small)]
        left, right = commensurate(*sides)
        gap = left.minus(right)
        gaps.append(gap.value[0])
        low, high = interval(gap.value, gap.variance, gap.df, "linear", 0.05)
        rejected += bool(low[0] > 0 or high[0] < 0)
    assert rejected / 200 <= 0.07
    assert np.mean(gaps) == pytest.approx(0, abs=0.02)


def test_the_difference_of_commensurate_errors_is_the_difference_of_the_roots():
    rng = np.random.default_rng(3)
    ids, y, p = forecasts(rng, 300, 0.25)
    sides = [found(ids, y, q) for q in (p, p - 0.1)]
    left, right = commensurate(*sides)
    roots = [np.sqrt(side.value[0]) for side in sides]
    assert left.minus(right).value[0] == pytest.approx(roots[0] - roots[1])


def test_a_bin_of_one_patient_adds_nothing():
    ids = np.repeat(np.arange(3), 10)
    y = np.tile([0.0, 1.0], 15)
    assert found(ids, y, np.repeat([0.1, 0.5, 0.9], 10)).value[0] == pytest.approx(0)
