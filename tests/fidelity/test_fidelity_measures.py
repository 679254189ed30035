"""Fréchet distance, KID and the neighbourhood scores against closed forms and naive loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.linalg import sqrtm

from cxraug.fidelity.frechet import frechet_distance
from cxraug.fidelity.kernel import block_distances, kernel_distance
from cxraug.fidelity.neighbours import Distances, neighbourhood_scores


def with_moments(rng: np.random.Generator, n: int, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Rows (n, d) whose sample mean and covariance are exactly these."""
    x = rng.normal(size=(n, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_of_two_known_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    a, b = (q @ q.T + np.eye(5) for q in rng.normal(size=(2, 5, 5)))
    m, k = rng.normal(size=(2, 5))
    closed = float(((m - k) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b))))
    x, y = with_moments(rng, 40, m, a), with_moments(rng, 25, k, b)
    assert frechet_distance(x, y) == pytest.approx(closed, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(closed, rel=1e-9)
    assert frechet_distance(x + 100, y + 100) == pytest.approx(closed, rel=1e-6)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-9)


def test_frechet_of_diagonal_gaussians_is_that_of_means_and_deviations() -> None:
    rng = np.random.default_rng(1)
    s, r = np.array([1.0, 2.0, 0.5]), np.array([2.0, 2.0, 1.0])
    x = with_moments(rng, 30, np.zeros(3), np.diag(s**2))
    y = with_moments(rng, 30, np.array([1.0, 0, 0]), np.diag(r**2))
    assert frechet_distance(x, y) == pytest.approx(1 + ((s - r) ** 2).sum())


def test_frechet_needs_no_more_images_than_features() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 50)), 2 * rng.normal(size=(9, 50)) + 1
    a, b = np.cov(x.T), np.cov(y.T)
    root = np.sqrt(np.clip(np.linalg.eigvals(a @ b).real, 0, None)).sum()
    naive = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(naive, rel=1e-5)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_kid_is_the_direct_double_loop() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(7, 4)), rng.normal(size=(5, 4)) + 0.5

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 4 + 1) ** 3)

    def within(z: np.ndarray) -> float:
        return float(np.mean([kernel(a, b) for a, b in itertools.permutations(z, 2)]))

    between = np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(within(x) + within(y) - 2 * between)
    blocks = block_distances(x[:6], y[:4], 2)
    assert blocks == pytest.approx([kernel_distance(x[:3], y[:2]), kernel_distance(x[3:6], y[2:4])])


def test_kid_is_zero_on_average_for_equal_distributions() -> None:
    rng = np.random.default_rng(4)
    values = block_distances(*rng.normal(size=(2, 4000, 6)), 200)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean()) < 3 * error
    assert (values < 0).mean() > 0.3
    moved = block_distances(rng.normal(size=(4000, 6)), rng.normal(size=(4000, 6)) + 0.5, 200)
    assert moved.mean() > 10 * moved.std(ddof=1) / np.sqrt(len(moved))


def naive_scores(real: np.ndarray, synthetic: np.ndarray, nearest: int, dense: int) -> dict[str, float]:
    def gap(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a - b))

    def radius(x: int, own: np.ndarray, k: int) -> float:
        return sorted(gap(own[x], other) for i, other in enumerate(own) if i != x)[k - 1]

    real_3 = [radius(i, real, nearest) for i in range(len(real))]
    real_5 = [radius(i, real, dense) for i in range(len(real))]
    synthetic_3 = [radius(j, synthetic, nearest) for j in range(len(synthetic))]
    n, m = range(len(real)), range(len(synthetic))
    return {
        "precision": np.mean([any(gap(real[i], synthetic[j]) < real_3[i] for i in n) for j in m]),
        "recall": np.mean([any(gap(real[i], synthetic[j]) < synthetic_3[j] for j in m) for i in n]),
        "density": np.mean([sum(gap(real[i], synthetic[j]) < real_5[i] for i in n) for j in m]) / dense,
        "coverage": np.mean([any(gap(real[i], synthetic[j]) < real_5[i] for j in m) for i in n]),
    }


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_neighbourhood_scores_are_the_naive_loop(shift: float) -> None:
    rng = np.random.default_rng(5)
    real, synthetic = rng.normal(size=(30, 3)), 0.7 * rng.normal(size=(24, 3)) + shift
    found = neighbourhood_scores(Distances.of(real, synthetic), nearest=2, dense=4)
    assert found == pytest.approx(naive_scores(real, synthetic, 2, 4))
    assert 0 < found["recall"] < 1


def test_identical_sets_are_one_and_disjoint_sets_zero() -> None:
    x = np.random.default_rng(6).normal(size=(40, 8))
    assert set(neighbourhood_scores(Distances.of(x, x)).values()) == {1.0}
    assert set(neighbourhood_scores(Distances.of(x, x + 1e3)).values()) == {0.0}


def test_a_collapsed_set_is_precise_and_covers_little() -> None:
    x = np.random.default_rng(7).normal(size=(60, 8))
    found = neighbourhood_scores(Distances.of(x, x[:1] + 1e-3 * x))
    assert found["precision"] == 1
    assert found["recall"] < 0.1
    assert found["coverage"] < 0.5


def test_distances_can_be_cut_to_some_positions() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(2, 20, 3))
    rows = np.array([1, 4, 5, 7, 9, 12, 13])
    cut = neighbourhood_scores(Distances.of(x, y).take(rows))
    assert cut == neighbourhood_scores(Distances.of(x[rows], y[rows]))
    with pytest.raises(ValueError, match="too few for 5 neighbours"):
        neighbourhood_scores(Distances.of(x, y).take(rows[:5]))
