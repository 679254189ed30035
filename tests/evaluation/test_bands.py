"""Bands of curves hold what they promise: known curves, the bootstrap, and the combination of runs of the metrics."""

import numpy as np
import pytest
from scipy import special, stats

from cxraug.evaluation.bands import CALLED, FALSE_POSITIVE_RATES, Reliability, Roc, Rows, band, roc_band
from cxraug.evaluation.measured import Measured
from cxraug.evaluation.uncertainty import combine

MU = 1.2


def cohort(n_patients, seed, *, rate=0.25, runs=1, levels=None):
    """Rows of patients with three images on average and ``runs`` scores (R, m) that follow a binormal ROC curve."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n_patients), rng.geometric(1 / 3, n_patients))
    positive = rng.random(len(ids)) < rate
    common = np.sqrt(0.5) * rng.standard_normal(n_patients)[ids]
    scores = MU * positive + common + np.sqrt(0.5) * rng.standard_normal((runs, len(ids)))
    return Rows(positive, ids), np.round(scores * levels) / levels if levels else scores


def test_the_band_of_a_binormal_curve_covers_it_in_95_of_100_cohorts():
    truth = special.ndtr(MU + special.ndtri(np.clip(FALSE_POSITIVE_RATES, 1e-12, 1 - 1e-12)))
    truth[-1] = 1
    hit, drawn = np.zeros(59), np.zeros(59)
    for seed in range(150):
        rows, (score,) = cohort(200, seed)
        found = roc_band([[Roc(score, rows)]], rows.n_patients, 0.05)
        has = ~np.isnan(found[:, 2])
        drawn += has
        hit += has & (found[:, 2] <= truth) & (truth <= found[:, 3])
    inside = drawn == 150
    assert inside.sum() > 45
    share = hit[inside] / 150
    assert share.mean() == pytest.approx(0.95, abs=0.02)
    assert share.min() > 0.88
    assert (np.diff(found[inside, 2:], axis=0) >= 0).all()


def test_the_same_image_thrice_tells_nothing_new():
    rows, (score,) = cohort(200, 0)
    thrice = Rows(np.repeat(rows.positive, 3), np.repeat(rows.patient, 3))
    once, again = (
        band([[Roc(values, part)]], 200, 0.05) for values, part in ((score, rows), (np.repeat(score, 3), thrice))
    )
    np.testing.assert_allclose(again[:, :2], once[:, :2])
    np.testing.assert_allclose(again[:, 2:4], once[:, 2:4], atol=0.02)


@pytest.mark.parametrize("levels", [None, 1.0])
def test_roc_influence_agrees_with_the_patient_bootstrap(levels):
    """Also where equal scores make long segments (``levels``: scores from about ten values)."""
    rows, (score,) = cohort(400, 3, levels=levels)
    rng = np.random.default_rng(0)
    roc, order = Roc(score, rows), np.arange(len(score))
    starts = np.flatnonzero(np.diff(rows.patient, prepend=-1))
    sizes = np.diff(np.append(starts, len(score)))
    replicates = []
    for _ in range(150):
        drawn = np.sort(rng.integers(0, 400, 400))
        taken = np.concatenate([order[starts[k] : starts[k] + sizes[k]] for k in drawn])
        replicates.append(Roc(score[taken], Rows(rows.positive[taken], np.repeat(np.arange(400), sizes[drawn]))).y)
    error = np.sqrt(np.square(roc.influence(0)).sum(axis=1))
    inner = (FALSE_POSITIVE_RATES > 0.02) & (FALSE_POSITIVE_RATES < 0.8)
    ratio = error[inner] / np.std(replicates, axis=0)[inner]
    assert np.median(ratio) == pytest.approx(1, abs=0.12)
    assert 0.7 < ratio.min() < ratio.max() < 1.4
    assert np.abs(roc.influence(0).sum(axis=1)).max() < 0.03  # influence values sum to zero but for single rows


def test_runs_are_put_together_as_those_of_every_metric():
    """Two draws of two seeds at one vertex: variance and degrees of freedom of ``combine``."""
    rows, scores = cohort(300, 1, runs=4)
    runs = [Roc(score, rows) for score in scores]
    found = band([runs[:2], runs[2:]], rows.n_patients, 0.05)
    for k in (20, 40):
        influence = np.stack([run.influence(0)[k] for run in runs])
        patients = np.full(4, float(runs[0].patients[k] - 1))
        single = Measured(np.array([run.y[k] for run in runs]), influence, np.zeros(4), patients)
        both = combine(single, np.array(["0", "0", "1", "1"]))
        n, z = both.value * (1 - both.value) / both.variance, stats.t.ppf(0.975, both.df)
        middle = (both.value + z**2 / (2 * n)) / (1 + z**2 / n)
        assert found[k, 1] == pytest.approx(both.value)
        assert found[k, 2:4].mean() == pytest.approx(middle, rel=1e-4)
        half = z / (1 + z**2 / n) * np.sqrt(both.value * (1 - both.value) / n + z**2 / (4 * n**2))
        assert (found[k, 3] - found[k, 2]) / 2 == pytest.approx(half, rel=1e-4)


def test_a_band_does_not_depend_on_the_blocks_it_is_computed_in(monkeypatch):
    rows, scores = cohort(300, 2, runs=2, levels=1.0)
    whole = band([[Roc(score, rows)] for score in scores], rows.n_patients, 0.05)
    monkeypatch.setattr("cxraug.evaluation.bands.BLOCK", 64)
    np.testing.assert_allclose(band([[Roc(score, rows)] for score in scores], rows.n_patients, 0.05), whole, rtol=1e-4)


def test_where_hardly_anybody_is_called_there_is_no_band():
    rows, (score,) = cohort(100, 0)
    found = band([[Roc(score, rows)]], rows.n_patients, 0.05)
    negative = rows.count(~rows.positive)
    np.testing.assert_array_equal(np.isnan(found[:, 2]), FALSE_POSITIVE_RATES * negative < CALLED)


def test_limits_do_not_widen_where_every_positive_is_called():
    """Without a missed case the proportion's own limit is wide; that of the smaller FPR before it holds there too."""
    rows, (score,) = cohort(400, 0)
    found = roc_band([[Roc(score + 3 * rows.positive, rows)]], rows.n_patients, 0.05)
    assert (found[:, 1] == 1).sum() > 10
    known = ~np.isnan(found[:, 2])
    assert (np.diff(found[known, 2:], axis=0) >= 0).all()
    assert found[-1].tolist() == [1, 1, 1, 1]


def test_calibration_bins_are_clustered_shares():
    """One bin of 40 patients with two images each, all equal inside a patient: the error of 40 shares, not of 80."""
    positive = np.repeat(np.arange(40) < 10, 2)
    rows = Rows(positive, np.repeat(np.arange(40), 2))
    line = Reliability(np.linspace(0, 1, 80), rows, 1)
    assert (line.x[0], line.y[0], line.patients[0]) == (0.5, 0.25, 40)
    assert np.square(line.influence(0)).sum() == pytest.approx(0.25 * 0.75 / 40)
    _, _, low, high, _ = band([[line]], 40, 0.05)[0]
    z = stats.t.ppf(0.975, 39)
    middle = (0.25 + z**2 / 80) / (1 + z**2 / 40)
    assert (low + high) / 2 == pytest.approx(middle)
    assert low < 0.25 < high


def test_equal_probabilities_share_a_bin():
    p = np.repeat([0.1, 0.6], [70, 30])
    line = Reliability(p, Rows(p > 0.5, np.arange(100)), 4)
    held = line.patients > 0
    np.testing.assert_allclose(line.x[held], [0.1, 0.6])
    assert line.patients.sum() == 100
    np.testing.assert_array_equal(np.isnan(line.x), ~held)
