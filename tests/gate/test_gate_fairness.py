"""Tests of rejection by group level: against known answers, and how often they reject what is fair."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from cxraug.gate.fairness import exact_test, fairness_notes, level_test, rejection_by_level


def rows_of(table: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    (a, b), (c, d) = table
    return np.repeat([True, False, True, False], [a, b, c, d]), np.repeat([True, True, False, False], [a, b, c, d])


@pytest.mark.parametrize("table", [[[3, 17], [1, 60]], [[0, 20], [5, 30]], [[8, 2], [1, 9]], [[0, 5], [0, 9]]])
def test_one_stratum_is_fishers_exact_test(table: list[list[int]]) -> None:
    rejected, mine = rows_of(table)
    assert exact_test(rejected, mine, np.zeros(len(mine), int)) == pytest.approx(fisher_exact(table).pvalue)


def test_strata_agree_with_permutations_within_them() -> None:
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], [14, 20])
    mine = rng.random(34) < np.where(strata, 0.7, 0.3)
    rejected = rng.random(34) < np.where(strata, 0.5, 0.1) + 0.2 * mine
    sums = []
    for _ in range(20_000):
        shuffled = mine.copy()
        for s in (0, 1):
            shuffled[strata == s] = rng.permutation(mine[strata == s])
        sums.append(int((shuffled & rejected).sum()))
    share = np.bincount(sums) / len(sums)
    observed = share[int((mine & rejected).sum())]
    assert exact_test(rejected, mine, strata) == pytest.approx(share[share <= observed * 1.05].sum(), abs=0.015)


def test_what_was_asked_for_explains_a_difference() -> None:
    """Women are asked for with a finding that is rejected more, and within each request are rejected as often."""
    asked = np.repeat(["Mass", "Mass", ""], [80, 20, 100])
    female = np.repeat([True, False, True, False], [80, 20, 20, 80])
    rejected = np.zeros(200, bool)
    rejected[np.r_[0:40, 80:90]] = True  # half of either sex with a mass, none without
    patients = np.arange(200)
    assert level_test(rejected, female, patients) < 1e-5
    assert level_test(rejected, female, patients, asked) == pytest.approx(1.0)


def test_patients_with_many_images_count_as_one_patient() -> None:
    """All rejected images of the level are of one patient: the exact test alone would be sure."""
    patients = np.repeat(np.arange(60), 10)
    mine = np.repeat(np.arange(60) < 20, 10)
    rejected = patients == 3
    assert exact_test(rejected, mine, np.zeros(600, int)) < 1e-4
    assert level_test(rejected, mine, patients) > 0.2


@pytest.mark.parametrize("per_patient", [1, 3])
def test_a_fair_gate_is_called_unfair_at_most_at_the_stated_rate(per_patient: int) -> None:
    rng = np.random.default_rng(per_patient)
    called = []
    for _ in range(400):
        n = 150
        risk = rng.beta(0.5, 9.5, n)  # 5 % on average, and patients differ
        patients = np.repeat(np.arange(n), per_patient)
        rejected = rng.random(n * per_patient) < risk[patients]
        mine = (rng.random(n) < 0.4)[patients]
        called.append(level_test(rejected, mine, patients) < 0.05)
    assert np.mean(called) <= 0.07


def test_rows_tell_rates_and_notes_name_the_level_that_is_rejected_more() -> None:
    sex = np.repeat(np.array(["F", "M"], object), [100, 300])
    band = np.tile(np.array(["0-19", "20-39", "40-59", "60-79"], object), 100)
    rejected = np.zeros(400, bool)
    rejected[:20], rejected[100:106] = True, True
    rows = rejection_by_level(rejected, {"sex": sex, "age": band}, np.arange(400))
    women, men = rows[:2]
    assert (women["n"], women["rejected"], women["rate"], women["rest_rate"]) == (100, 20, 0.2, 0.02)
    assert 0.12 < women["ci_low"] < 0.2 < women["ci_high"] < 0.3
    assert women["p_value"] == men["p_value"] == pytest.approx(fisher_exact([[20, 80], [6, 294]]).pvalue)
    assert women["p_adjusted"] == pytest.approx(5 * women["p_value"])  # one test of sex, four of age bands
    assert [row["level"] for row in rows[2:]] == ["0-19", "20-39", "40-59", "60-79"]
    notes = fairness_notes(rows, "real images")
    assert len(notes) == 1
    assert notes[0].startswith("sex F is rejected more: 20.0% [")
    assert "of 100 real images, and 2.0% of the others" in notes[0]


def test_a_level_with_few_rows_is_counted_but_not_tested() -> None:
    sex = np.repeat(np.array(["F", "M", "missing"], object), [5, 60, 40])
    rows = rejection_by_level(sex == "F", {"sex": sex}, np.arange(105))
    assert [(row["level"], row["flag"]) for row in rows] == [("F", "few"), ("M", ""), ("missing", "few")]
    assert np.isnan(rows[0]["p_adjusted"])
    assert rows[0]["rate"] == 1
