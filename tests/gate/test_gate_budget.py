"""Conformal p-values, cut-offs and the joint budget: known answers and invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from cxraug.gate.check import (
    Check,
    Evidence,
    Images,
    Test,
    conformal_high,
    conformal_low,
    highest_accepted,
    lowest_accepted,
)
from cxraug.gate.gate import Gate, joint_levels
from cxraug.gate.settings import GateSettings


def test_p_values_count_ranks() -> None:
    null = np.array([1.0, 2, 3, 4])
    assert conformal_low(null, np.array([0.0, 1, 2.5, 9])).tolist() == [1 / 5, 2 / 5, 3 / 5, 1]
    assert conformal_high(null, np.array([9.0, 4, 2.5, 0])).tolist() == [1 / 5, 2 / 5, 3 / 5, 1]
    assert conformal_low(null, null, member=True).tolist() == [1 / 4, 2 / 4, 3 / 4, 1]
    assert np.isnan(conformal_low(null, np.array([np.nan])))[0]


def test_19_images_are_the_fewest_that_resolve_five_percent() -> None:
    assert lowest_accepted(np.arange(19.0), 0.05) == 0.0
    assert lowest_accepted(np.arange(18.0), 0.05) is None
    assert highest_accepted(np.arange(19.0), 0.05) == 18.0
    assert lowest_accepted(np.arange(39.0), 0.05) == 1.0


@given(
    null=arrays(float, st.integers(1, 60), elements=st.integers(0, 20).map(float)),
    x=arrays(float, 10, elements=st.integers(-1, 21).map(float)),
    level=st.floats(0.005, 0.4),
)
def test_cut_offs_are_where_the_p_value_crosses_the_level(null: np.ndarray, x: np.ndarray, level: float) -> None:
    cut = lowest_accepted(null, level)
    rejected = conformal_low(null, x) <= level + 1e-12
    assert np.array_equal(rejected, np.zeros(10, bool) if cut is None else x < cut)


def test_cut_offs_reject_the_promised_share_of_newreal_images() -> None:
    rng = np.random.default_rng(0)
    rejected = [rng.normal() < (lowest_accepted(rng.normal(size=59), 0.05) or -9) for _ in range(4000)]
    assert np.mean(rejected) == pytest.approx(3 / 60, abs=0.012)


@settings(max_examples=60)
@given(
    p=arrays(float, st.tuples(st.integers(20, 120), st.integers(1, 6)), elements=st.floats(0.001, 1)),
    budget=st.floats(0.02, 0.3),
    seed=st.integers(0, 99),
)
def test_the_union_never_exceeds_the_budget(p: np.ndarray, budget: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p[rng.random(p.shape) < 0.3] = np.nan
    rates = rng.uniform(0.001, budget, p.shape[1])
    levels = joint_levels(p, rates.tolist(), [True] * p.shape[1], budget)
    assert (p <= levels).any(axis=1).sum() <= np.floor(budget * len(p))
    assert (levels <= budget).all()


def test_levels_are_raised_until_the_budget_is_used() -> None:
    n = 1000
    p = (np.random.default_rng(0).permuted(np.tile(np.arange(1, n + 1), (4, 1)), axis=1) / n).T
    p[:, 3] = np.where(p[:, 3] <= 0.01, p[:, 3], 1.0)
    levels = joint_levels(p, [0.005, 0.005, 0.005, 0.01], [True, True, True, False], 0.05)
    assert levels[3] == 0.01
    assert levels[0] == levels[1] == levels[2] > 0.005
    assert 48 <= (p <= levels).any(axis=1).sum() <= 50


def test_no_tests_no_levels() -> None:
    assert joint_levels(np.zeros((5, 0)), [], [], 0.05).tolist() == []


class Brightness(Check):
    """p-values that are written into the pixels, in thousandths; 255 is NaN."""

    name = "brightness"
    tests = (Test("a", "too dark", 0.02), Test("b", "too flat", 0.01, scales=False))

    def fit(self, real: Images) -> Evidence:
        return self.score(real)

    def score(self, batch: Images) -> Evidence:
        p = batch.pixels[:, 0, :2].astype(float)
        return Evidence(np.where(p == 255, np.nan, p / 1000))

    def describe(self, levels: dict[str, float]) -> dict:
        return {}


def pictures(*p: tuple[int, int]) -> Images:
    pixels = np.zeros((len(p), 2, 2), np.uint8)
    pixels[:, 0] = p
    return Images(pixels, np.zeros((len(p), 0), np.float32), np.array([f"p{i}" for i in range(len(p))], object))


def test_scores_rank_candidates_by_their_worst_test_and_agree_with_the_verdict() -> None:
    gate = Gate([Brightness()], 0.02).fit(pictures(*[(200, 200)] * 100))
    assert gate.levels.tolist() == pytest.approx([0.02, 0.01])  # the budget of 2 % caps the level that may rise
    batch = pictures((20, 200), (40, 200), (40, 5), (255, 255), (100, 255))
    scores = gate.scores(batch)
    assert scores.tolist() == pytest.approx([1, 2, 0.5, np.inf, 5])
    assert [bool(why) for why in gate.judge(batch)] == (scores <= 1).tolist()
    assert Gate([], 0.05).fit(pictures((1, 1))).scores(batch).tolist() == [np.inf] * 5


@pytest.mark.parametrize("bad", [{"false_reject": 0}, {"copy_rate": 0.05}, {"folds": 1}, {"unknown": 1}])
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValidationError):
        GateSettings(**bad)
