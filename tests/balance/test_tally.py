"""Counts against pandas; intervals against what independence and copies give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from cxraug.balance.tally import group_rows, summing, tally_levels


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 40))
def test_counts_are_those_of_pandas(seed: int, n: int, findings: int) -> None:
    rng = np.random.default_rng(seed)
    patient, level = rng.integers(0, 12, n), rng.integers(0, 3, n)
    y = rng.choice([0.0, 1.0, np.nan], (n, findings)).astype(np.float32)
    tally = tally_levels(y, patient, level, ["a", "b", "c", "nobody"])
    table = pd.DataFrame({"patient": patient, "level": level})
    for k in range(4):
        mine = table[level == k]
        assert tally.patients[k] == mine["patient"].nunique()
        f = findings - 1
        column = y[level == k, f]
        assert tally.images[k, f] == np.count_nonzero(~np.isnan(column))
        assert tally.positive_images[k, f] == np.count_nonzero(column == 1)
        assert tally.positive[k, f] == mine["patient"][column == 1].nunique()
        assert tally.negative[k, f] == mine["patient"][column == 0].nunique()
        assert tally.known[k, f] == mine["patient"][~np.isnan(column)].nunique()
        if tally.images[k, f]:
            assert tally.low[k, f] - 1e-12 <= tally.prevalence[k, f] <= tally.high[k, f] + 1e-12
        else:
            assert np.isnan(tally.prevalence[k, f])


@pytest.mark.parametrize("n", [1, 2, 17, 167, 5000])
def test_independent_images_have_the_exact_interval_and_it_grows_with_the_count(n: int) -> None:
    before = (-1.0, -1.0)
    for x in sorted({0, 1, 2, 3, n // 10, n // 2, n - 1, n} & set(range(n + 1))):
        y = (np.arange(n) < x).astype(np.float32)[:, None]
        tally = tally_levels(y, np.arange(n), np.zeros(n, int), ["all"])
        exact = binomtest(x, n).proportion_ci(method="exact")
        assert tally.design_effect[0, 0] == 1
        assert (tally.low[0, 0], tally.high[0, 0]) == pytest.approx((exact.low, exact.high), abs=1e-9)
        assert before < (tally.low[0, 0], tally.high[0, 0])
        before = (tally.low[0, 0], tally.high[0, 0])


def test_one_case_more_never_lowers_the_limits_of_a_rare_finding() -> None:
    """The first few positives among patients with several images: no jump because patients with it are few."""
    patient = np.repeat(np.arange(60), 1 + np.arange(60) % 5)
    first = np.flatnonzero(np.diff(patient, prepend=-1))
    limits = []
    for x in range(6):
        y = np.zeros((len(patient), 1), np.float32)
        y[first[3 : 3 + x]] = 1
        tally = tally_levels(y, patient, np.zeros(len(patient), int), ["all"])
        limits.append((tally.low[0, 0], tally.high[0, 0]))
    low, high = np.array(limits).T
    assert (np.diff(low) > 0).all()
    assert (np.diff(high) > 0).all()
    assert (np.diff(high) < 0.03).all()


def test_copies_of_a_patients_image_add_nothing() -> None:
    y = (np.random.default_rng(0).random((1000, 1)) < 0.1).astype(np.float32)
    once = tally_levels(y, np.arange(1000), np.zeros(1000, int), ["all"])
    five = tally_levels(np.repeat(y, 5, axis=0), np.repeat(np.arange(1000), 5), np.zeros(5000, int), ["all"])
    assert five.design_effect[0, 0] == pytest.approx(5, rel=0.01)
    assert (five.low[0, 0], five.high[0, 0]) == pytest.approx((once.low[0, 0], once.high[0, 0]), rel=0.02)


def test_design_effect_is_that_of_the_ratio_estimator_where_patients_are_many() -> None:
    rng = np.random.default_rng(5)
    images = 1 + rng.poisson(2, 4000)
    patient = np.repeat(np.arange(4000), images)
    y = (rng.random(len(patient)) < rng.beta(0.5, 2.0, 4000)[patient]).astype(np.float32)
    tally = tally_levels(y[:, None], patient, np.zeros(len(patient), int), ["all"])
    p = y.mean()
    residual = np.bincount(patient, y - p)
    assert tally.design_effect[0, 0] == pytest.approx((residual**2).sum() / (len(y) * p * (1 - p)), rel=0.02)


def test_a_level_without_cases_learns_from_the_others() -> None:
    rng = np.random.default_rng(6)
    patient = np.repeat(np.arange(600), 4)
    level = (patient < 100).astype(int)
    y = ((rng.random(2400) < 0.2) & (level == 0)).astype(np.float32)[:, None]  # a patient's images are not alike
    both = tally_levels(y, patient, level, ["many", "none"])
    alone = tally_levels(y[level == 1], patient[level == 1], np.zeros(400, int), ["none"])
    assert alone.design_effect[0, 0] == pytest.approx(4)
    assert 1 <= both.design_effect[1, 0] < 1.7
    assert both.high[1, 0] < alone.high[0, 0]


def test_clustered_interval_covers() -> None:
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        images = 1 + rng.poisson(3, 200)
        rate = rng.beta(0.5, 2.0, 200)  # mean 0.2
        patient = np.repeat(np.arange(200), images)
        y = (rng.random(len(patient)) < rate[patient]).astype(np.float32)[:, None]
        tally = tally_levels(y, patient, np.zeros(len(patient), int), ["all"])
        held += tally.low[0, 0] <= 0.2 <= tally.high[0, 0]
    assert 0.915 <= held / 300 <= 0.985


def test_rows_are_grouped_and_summed() -> None:
    number, first = group_rows(np.array([7, 3, 7, 5]))
    assert number.tolist() == [2, 0, 2, 1]
    assert first.tolist() == [1, 3, 0]
    assert (summing(number, 3) @ np.arange(4.0)[:, None]).ravel().tolist() == [1.0, 3.0, 2.0]


def test_some_levels_can_be_taken() -> None:
    y = np.array([[1.0], [0.0], [1.0]], np.float32)
    part = tally_levels(y, np.arange(3), np.arange(3), ["a", "b", "c"]).take(["c", "b"])
    assert (part.names, part.positive[:, 0].tolist()) == (["c", "b"], [1, 0])
