"""Scores with their floor: order, intervals, and what they may not be asked."""

from __future__ import annotations

import numpy as np
import pytest

from cxraug.fidelity.frechet import frechet_distance
from cxraug.fidelity.kernel import block_distances
from cxraug.fidelity.neighbours import Distances, neighbourhood_scores
from cxraug.fidelity.score import BLOCKS, MEASURES, Score, score_features

SPREAD = 1 / np.sqrt(np.arange(1, 41))


def sample(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    x = np.random.default_rng([n, seed]).normal(size=(n, len(SPREAD))) * SPREAD
    x[:, 0] += shift
    return x


def scores(n: int, seed: int = 0, shift: float = 0.0) -> dict[str, Score]:
    found = score_features(sample(n, 3 * seed), sample(n, 3 * seed + 1), sample(n, 3 * seed + 2, shift))
    return {score.measure: score for score in found}


def test_values_are_those_of_the_measures() -> None:
    reference, floor, synthetic = sample(60, 0), sample(60, 1), sample(60, 2)
    found = score_features(reference, floor, synthetic)
    assert tuple(s.measure for s in found) == MEASURES
    for other, at in ((synthetic, "score"), (floor, "floor")):
        expected = {
            "frechet": frechet_distance(reference, other),
            "kid": block_distances(reference, other, BLOCKS).mean(),
            **neighbourhood_scores(Distances.of(reference, other)),
        }
        assert {s.measure: getattr(s, at) for s in found} == pytest.approx(expected)
    for s in found:
        assert s.difference == pytest.approx(s.score - s.floor)
        assert s.low <= s.score <= s.high
        assert s.difference_low < s.difference < s.difference_high


def test_a_shift_is_seen_and_none_is_not() -> None:
    same, moved = scores(120), scores(120, shift=2.0)
    for measure in ("frechet", "kid"):
        assert same[measure].difference_low < 0 < same[measure].difference_high
        assert moved[measure].difference_low > 0
    assert scores(120, shift=6.0)["precision"].difference_high < 0


def test_intervals_of_the_difference_hold_their_mean() -> None:
    """In 80 worlds: 95 % is promised, and 87 % is three standard errors below."""
    worlds = [scores(40, seed, 0.5) for seed in range(80)]
    for measure in MEASURES:
        mean = np.mean([w[measure].difference for w in worlds])
        held = np.mean([w[measure].difference_low <= mean <= w[measure].difference_high for w in worlds])
        assert held >= 0.87, measure


def test_a_share_of_zero_has_an_interval() -> None:
    far = scores(40, shift=1e3)["precision"]
    assert far.score == far.low == 0
    assert 0.05 < far.high < 0.3


@pytest.mark.parametrize(("n", "m"), [(29, 29), (40, 39)])
def test_few_or_unequal_samples_are_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="three samples of one size"):
        score_features(sample(n, 0), sample(n, 1), sample(m, 2))
