"""Known answers for ratios, intervals and corrections."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cxraug.balance.association import cramers_v, fisher_p, holm, odds_ratio, prevalence_ratio, share_interval


def test_prevalence_ratio_by_hand() -> None:
    ratio = prevalence_ratio(10, 100, 20, 100)
    error = math.sqrt(1 / 10 - 1 / 100 + 1 / 20 - 1 / 100)
    assert ratio.value == pytest.approx(0.5)
    assert ratio.low == pytest.approx(0.5 * math.exp(-1.959964 * error), rel=1e-6)
    assert ratio.high == pytest.approx(0.5 * math.exp(1.959964 * error), rel=1e-6)


def test_ratio_without_cases_is_finite_and_one_sided() -> None:
    ratio = prevalence_ratio(0, 200, 60, 200)
    assert 0 < ratio.value < 0.05
    assert ratio.high < 0.2
    assert math.isnan(prevalence_ratio(0, 10, 0, 10).value)


def test_odds_ratio_by_hand() -> None:
    odds = odds_ratio(30, 100, 10, 100)
    assert odds.value == pytest.approx(30 * 90 / (70 * 10))
    assert odds.low == pytest.approx(1.767, abs=2e-3)


def test_fisher_of_the_lady_tasting_tea() -> None:
    assert fisher_p(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert fisher_p(0, 4, 0, 4) == 1.0


def test_fisher_agrees_with_scipy() -> None:
    from scipy.stats import hypergeom

    rng = np.random.default_rng(0)
    for n, m in rng.integers(5, 60, (40, 2)):
        a, b = int(rng.integers(0, n + 1)), int(rng.integers(0, m + 1))
        if a + b in (0, n + m):
            continue
        law = hypergeom(n + m, a + b, n)
        x = np.arange(max(0, a + b - m), min(n, a + b) + 1)
        expected = law.pmf(x)[law.pmf(x) <= law.pmf(a) * (1 + 1e-7)].sum()
        assert fisher_p(a, int(n), b, int(m)) == pytest.approx(expected, rel=1e-6)


def test_cramers_v_at_its_ends() -> None:
    assert cramers_v([50, 0], [50, 50]) == pytest.approx(1.0, abs=0.01)
    assert cramers_v([20, 20, 20], [100, 100, 100]) == 0.0
    assert math.isnan(cramers_v([5], [10]))


def test_wilson_interval() -> None:
    assert share_interval(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert share_interval(0, 0) == (0.0, 1.0)
    assert share_interval(0, 50)[0] == 0.0


def test_holm_known_answer() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert len(holm([])) == 0
    assert np.all(holm([0.9, 0.8]) <= 1)


def test_intervals_cover_what_they_claim() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.binomial(300, 0.1, 2000), rng.binomial(300, 0.2, 2000)
    hits = [prevalence_ratio(int(x), 300, int(y), 300) for x, y in zip(a, b, strict=True)]
    covered = np.mean([h.low <= 0.5 <= h.high for h in hits])
    assert 0.93 <= covered <= 0.97
