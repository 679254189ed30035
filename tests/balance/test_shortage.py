"""What a target is short of, and which rows lend their labels."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cxraug.balance.refusal import SamplingError
from cxraug.balance.shortage import class_donors, label_donors, missing_positives

NAMES = ["Effusion", "Mass", "Nodule"]
Y = np.array([[1, 0, 0]] * 8 + [[1, 1, 0]] * 2 + [[0, 1, 0]] * 2 + [[0, 0, 1]] + [[0, 0, 0]] * 7)  # 10, 4 and 1


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("auto", {"Mass": 6, "Nodule": 9}),
        ("not majority", {"Mass": 6, "Nodule": 9}),
        ("all", {"Mass": 6, "Nodule": 9}),
        ("minority", {"Nodule": 9}),
        ("not minority", {"Mass": 6}),
        (0.5, {"Mass": 1, "Nodule": 4}),
        (0.3, {"Nodule": 2}),
        (1.0, {"Mass": 6, "Nodule": 9}),
        ({"Nodule": 3, "Effusion": 10}, {"Nodule": 2}),
        (lambda y: {"Mass": int(y.sum())}, {"Mass": 11}),
    ],
)
def test_what_each_strategy_misses(strategy: object, expected: dict[str, int]) -> None:
    assert missing_positives(strategy, Y, NAMES) == expected


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("majority", "expected one of auto"),
        (1.5, "a float in"),
        ({"Hernia": 3}, "found 'Hernia'; expected one of Effusion, Mass, Nodule"),
        ({"Mass": 3}, "at least the 4 there are"),
        ({"Mass": 5.5}, "a whole number"),
        (lambda y: 3, "a dict of finding to positives"),
    ],
)
def test_strategies_that_are_refused(strategy: object, message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        missing_positives(strategy, Y, NAMES)


def test_a_finding_that_no_row_shows_has_no_label_set_to_repeat() -> None:
    y = np.column_stack([Y[:, :2], np.zeros(len(Y), int)])
    with pytest.warns(UserWarning, match="no row shows Nodule: there are no labels to repeat"):
        assert missing_positives("auto", y, NAMES) == {"Mass": 6}
    with pytest.raises(SamplingError, match="no row shows Nodule"):
        missing_positives({"Nodule": 4}, y, NAMES)
    with pytest.raises(SamplingError, match="one class only"):
        missing_positives("auto", np.zeros((4, 3), int), NAMES)


def test_the_float_bounds_the_imbalance_ratio_per_label() -> None:
    for ratio in (0.25, 0.4, 0.9):
        missing = missing_positives(ratio, Y, NAMES)
        after = {f: n + missing.get(f, 0) for f, n in zip(NAMES, Y.sum(axis=0), strict=True)}
        assert max(10 / n for n in after.values()) <= 1 / ratio + 1e-9


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.int64, st.tuples(st.integers(1, 30), st.integers(2, 5)), elements=st.integers(0, 1)), st.integers(0, 9)
)
def test_every_need_is_met_by_real_label_sets(y: np.ndarray, seed: int) -> None:
    names = [f"f{i}" for i in range(y.shape[1])]
    if not y.any():
        return
    with warnings.catch_warnings(action="ignore"):
        missing = missing_positives("auto", y, names)
    donors, wanted = label_donors(y, missing, names, np.random.RandomState(seed))
    assert len(donors) == len(wanted) <= sum(missing.values())
    after = y.sum(axis=0) + y[donors].sum(axis=0)
    for at, name in enumerate(names):
        assert after[at] >= y[:, at].sum() + missing.get(name, 0)
    assert all(y[row, names.index(name)] == 1 for row, name in zip(donors, wanted, strict=True))


def test_companions_keep_their_real_frequency() -> None:
    """The rows drawn for Mass are drawn from all that show it: here half of them have an Effusion too."""
    donors, wanted = label_donors(Y, {"Mass": 4000}, NAMES, np.random.RandomState(0))
    assert set(wanted) == {"Mass"}
    assert abs(Y[donors, 0].mean() - 0.5) < 0.03


def test_donors_of_classes_are_those_of_random_over_sampling() -> None:
    from imblearn.over_sampling import RandomOverSampler

    y = np.array([0] * 9 + [1] * 3 + [2] * 5)
    peer = RandomOverSampler(random_state=4)
    peer.fit_resample(np.arange(len(y))[:, None], y)
    donors, wanted = class_donors(y, peer.sampling_strategy_, np.random.RandomState(4))
    assert donors.tolist() == peer.sample_indices_[len(y) :].tolist()
    assert Counter(wanted.tolist()) == {1: 6, 2: 4}
