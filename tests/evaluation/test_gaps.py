import numpy as np
import pytest
from scipy import stats
from simulated import measure_in, scored

from cxraug.evaluation.gaps import Gaps, max_t
from cxraug.evaluation.uncertainty import combine


def family(rng, n_levels, n_patients=400):
    """Gaps of FPR, level against the rest, where there is none; and their influence values."""
    ids = np.repeat(np.arange(n_patients), rng.geometric(0.4, n_patients))
    level = rng.integers(0, n_levels, n_patients)[ids]
    called = (rng.standard_normal(n_patients)[ids] + rng.standard_normal(len(ids)) > 0.3)[None]
    y = np.zeros(len(ids))
    rates = [
        [measure_in("fpr", ids, y, decision=called, cell=cell) for cell in (level == k, level != k)]
        for k in range(n_levels)
    ]
    one = np.zeros(1)
    gaps = [combine(a.minus(b), one) for a, b in rates]
    sides = ([combine(pair[k], one) for pair in rates] for k in (0, 1))
    return Gaps.of(gaps, *sides, "wilson"), np.stack([gap.influence for gap in gaps])


def test_mirror_images_count_once():
    gaps, influence = family(np.random.default_rng(0), 2)
    assert gaps.value[0] == pytest.approx(-gaps.value[1])
    p = gaps.p_values()
    found = max_t(influence, p, 0.05, seed=0)
    assert found.alpha == 0.05
    np.testing.assert_allclose(found.p_adjusted, p)
    low, high = gaps.interval(0.05)
    assert (low[0], high[0]) == pytest.approx((-high[1], -low[1]))


def test_gap_of_two_independent_proportions_is_newcombes():
    """Newcombe 1998, table II, method 10: 56/70 - 48/80 has the 95 % interval 0.0524 to 0.3339."""

    def side(x, n):
        return np.array([x / n]), np.array([x / n * (1 - x / n) / n]), np.array([float(n)])

    a, b = side(56, 70), side(48, 80)
    gaps = Gaps(a[0] - b[0], a[1] + b[1], np.array([1e9]), a, b, "wilson")
    low, high = gaps.interval(0.05)
    assert (low[0], high[0]) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_p_value_is_where_the_interval_reaches_zero():
    gaps, _ = family(np.random.default_rng(1), 4)
    for k, p in enumerate(gaps.p_values()):
        low, high = gaps.interval(p)
        assert min(abs(low[k]), abs(high[k])) < 1e-9


def test_independent_statistics_need_sidaks_level():
    influence = np.eye(10)
    p = np.full(10, 0.2)
    p[3] = 0.001
    found = max_t(influence, p, 0.05, seed=1, draws=20000)
    assert found.alpha == pytest.approx(1 - 0.95**0.1, rel=0.12)
    assert found.p_adjusted[3] == pytest.approx(1 - 0.999**10, rel=0.2)


def test_interval_and_p_value_never_disagree():
    rng = np.random.default_rng(2)
    for seed in range(20):
        influence = (rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6))).T
        p = rng.random(6) ** 3
        found = max_t(influence, p, 0.05, seed)
        np.testing.assert_array_equal(found.p_adjusted <= 0.05, p <= found.alpha)
        assert (found.p_adjusted >= p).all()
        assert 0.05 / 6 - 1e-12 <= found.alpha <= 0.05


def test_p_values_are_uniform_where_there_is_no_gap_and_the_family_errs_in_5_percent():
    rng = np.random.default_rng(3)
    marginal, smallest = [], []
    for replicate in range(200):
        gaps, influence = family(rng, 5, n_patients=250)
        p = gaps.p_values()
        marginal.append(p[0])
        smallest.append(max_t(influence, p, 0.05, replicate, draws=1000).p_adjusted.min())
    assert stats.kstest(marginal, "uniform").pvalue > 0.01
    assert np.mean(np.array(smallest) <= 0.05) == pytest.approx(0.05, abs=0.04)


def test_patients_in_two_levels_enter_the_covariance():
    ids, _, scores = scored(200, 5)
    y = np.zeros(len(ids))
    position = np.arange(len(ids)) - np.searchsorted(ids, ids)
    first = position % 2 == 0  # the level changes from image to image of a patient
    a, b = (measure_in("fpr", ids, y, decision=scores >= 0.5, cell=cell) for cell in (first, ~first))
    gap = a.minus(b)
    apart = a.variance + b.variance
    covariance = (a.influence * b.influence).sum(axis=1)
    assert covariance[0] > 0
    assert gap.variance[0] == pytest.approx((apart - 2 * covariance)[0])
