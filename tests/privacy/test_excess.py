"""The set-level test holds its level although all images share one calibration, and finds what a core copies."""

from __future__ import annotations

import numpy as np
import pytest

from cxraug.privacy.excess import excess

REPLICATES = 2000


@pytest.mark.parametrize(("n_null", "n"), [(50, 10_000), (200, 300), (1000, 10_000)])
def test_the_level_is_held(n_null: int, n: int) -> None:
    rng = np.random.default_rng(n_null)
    p = np.array([_p(rng.random(n_null), rng.random(n)) for _ in range(REPLICATES)])
    for level in (0.01, 0.05, 0.2):
        assert abs((p <= level).mean() - level) < 3.3 * np.sqrt(level * (1 - level) / REPLICATES)


def test_several_images_of_a_patient_do_not_make_it_liberal() -> None:
    """Patients whose three images agree nearly: counting images would call 5 % far more often."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(100), 3)
    by_patient, by_image = [], []
    for _ in range(1000):
        null = rng.normal(size=100)[patients] + 0.1 * rng.normal(size=300)
        scores = rng.normal(size=1000) * np.sqrt(1.01)
        by_patient.append(_p(null, scores, patients))
        by_image.append(_p(null, scores))
    assert (np.array(by_patient) <= 0.05).mean() < 0.065
    assert (np.array(by_image) <= 0.05).mean() > 0.1


@pytest.mark.parametrize(("n_null", "share", "power"), [(1000, 0.01, 0.95), (200, 0.05, 0.95), (50, 0.15, 0.9)])
def test_a_core_that_copies_some_is_found(n_null: int, share: float, power: float) -> None:
    rng = np.random.default_rng(1)
    n = 2000
    found = []
    for _ in range(100):
        scores = rng.random(n)
        scores[: int(share * n)] += 1
        result = excess(rng.random(n_null), scores)
        assert result is not None
        found.append(result.p_value <= 0.05)
        assert result.detectable < share
    assert np.mean(found) >= power


def test_with_few_patients_it_is_the_negative_hypergeometric_tail() -> None:
    """Nine patients: rank 1 alone is asked, P(K >= k) of n = 5 images above the highest of 9."""
    null = np.arange(9.0)
    for k in range(6):
        result = excess(null, np.r_[np.full(k, 10.0), np.zeros(5 - k)])
        assert result is not None
        exact = _above(9, 5, k)
        assert result.p_value == pytest.approx(exact, abs=0.015)
        assert (result.rank, result.above, result.n_calibration) == (1, k, 9)


def test_ties_count_for_chance_and_nothing_to_ask_is_none() -> None:
    null = np.ones(100)
    assert _p(null, np.ones(500)) == 1
    assert excess(np.full(5, np.nan), np.ones(3)) is None
    assert excess(null, np.zeros(0)) is None
    assert _p(np.r_[null, np.nan], np.r_[np.nan, np.full(50, 2.0)]) < 1e-4


def _above(patients: int, n: int, k: int) -> float:
    """P(at least k of n are above all of ``patients``), all exchangeable: product of (n - i) / (n + patients - i)."""
    return float(np.prod([(n - i) / (n + patients - i) for i in range(k)]))


def _p(null: np.ndarray, scores: np.ndarray, clusters: np.ndarray | None = None) -> float:
    result = excess(null, scores, clusters=clusters)
    assert result is not None
    return result.p_value
