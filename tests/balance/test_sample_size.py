"""Power and numbers: against the bivariate normal, Hanley & McNeil, and simulated tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import multivariate_normal

from cxraug.balance.audit import audit_manifest
from cxraug.balance.sample_size import (
    Question,
    auroc_moments,
    auroc_variance,
    detectable_gap,
    growth_needed,
    patients_needed,
    positives_needed,
    power_of,
)
from cxraug.evaluation.auroc import auroc
from cxraug.evaluation.measured import Patients


def test_moments_are_bivariate_normal_probabilities() -> None:
    for area in (0.6, 0.8, 0.95):
        own, shared = auroc_moments(area)
        both = multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]]).cdf([ndtri(area)] * 2)
        assert own == pytest.approx(area * (1 - area))
        assert shared == pytest.approx(both - area**2, abs=1e-6)


def test_variance_is_near_hanley_and_mcneil_and_is_infinite_without_patients() -> None:
    for area in (0.7, 0.85):
        q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
        m, n = 60, 400
        theirs = (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)
        assert 0.6 < auroc_variance(area, np.array(m), np.array(n)) / theirs < 1  # exponential scores vary more
    assert np.isinf(auroc_variance(0.8, np.array([0]), np.array([5])))


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 3000), st.integers(50, 9000), st.integers(20, 3000), st.integers(50, 9000),
       st.sampled_from([0.03, 0.05, 0.1]))  # fmt: skip
def test_the_number_named_is_the_smallest(m: int, n: int, rest_m: int, rest_n: int, gap: float) -> None:
    question, level, rest = Question(gap), np.array([m, n]), np.array([rest_m, rest_n])
    needed = float(positives_needed(question, level, rest))
    if np.isfinite(needed):
        assert power_of(question, np.array([needed, n]), rest) >= 0.8 - 1e-6
        assert needed <= 1 or power_of(question, np.array([needed - 1, n]), rest) < 0.8 + 1e-6
    else:
        assert power_of(question, np.array([10**9, n]), rest) < 0.8
    factor = float(growth_needed(question, level, rest))
    assert power_of(question, level * factor, rest * factor) == pytest.approx(0.8, abs=1e-3)
    smallest = float(detectable_gap(question, level, rest))
    if np.isfinite(smallest):
        assert power_of(Question(smallest), level, rest) == pytest.approx(0.8, abs=1e-3)
        assert (smallest <= gap) == (power_of(question, level, rest) >= 0.8)


def test_the_number_named_gives_the_power() -> None:
    question, rest = Question(0.1, 0.8), np.array([150, 1500])
    whole = float(patients_needed(question, np.array([0, 0]), rest, np.array(0.2)))
    level = np.array([round(whole * 0.2), round(whole * 0.8)])
    rng, hits, trials = np.random.default_rng(0), 0, 600
    for _ in range(trials):
        difference, variance = 0.0, 0.0
        for (m, n), area, sign in ((level, 0.7, -1), (rest, 0.8, 1)):
            score = np.concatenate([rng.normal(np.sqrt(2) * ndtri(area), 1, m), rng.normal(size=n)])
            found = auroc(score[None], [np.argsort(score)], np.repeat([1.0, 0.0], [m, n]),
                          Patients(np.arange(m + n), m + n), (int(m), int(n)))  # fmt: skip
            difference += sign * found.value[0]
            variance += found.variance[0]
        hits += abs(difference) / np.sqrt(variance) > 1.96
    assert 0.75 <= hits / trials <= 0.86


def test_questions_without_sense_are_refused() -> None:
    for gap, area in ((0.5, 0.8), (0.0, 0.8), (0.05, 0.5), (0.05, 1.0)):
        with pytest.raises(ValueError, match="chance"):
            Question(gap, area)
    with pytest.raises(ValueError, match="alpha"):
        Question(power=0.01)


def test_the_audit_counts_test_patients(make_manifest) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"patient_id": f"p{i // 2}", "sex": "FM"[i // 2 % 2], "split": "test" if i % 8 < 4 else "train",
         "labels": "Mass" if rng.random() < 0.3 else "-Mass"} for i in range(800)
    ]  # fmt: skip
    audit = audit_manifest(make_manifest(rows), groups=("sex",), question=Question(0.2, 0.8))
    answer = audit["measurable"]
    assert answer["rows"] == "test"
    cell = next(c for c in answer["cells"] if c["level"] == "F")
    women = {r["patient_id"] for r in rows if r["split"] == "test" and r["sex"] == "F" and r["labels"] == "Mass"}
    train = {r["patient_id"] for r in rows if r["split"] == "train" and r["sex"] == "F" and r["labels"] == "Mass"}
    assert (cell["positive"], cell["positive_in_train"]) == (len(women), len(train))
    man = next(c for c in answer["cells"] if c["level"] == "M")
    assert (cell["rest_positive"], cell["rest_negative"]) == (man["positive"], man["negative"])
    assert cell["positives_missing"] == max(0, cell["positives_needed"] - cell["positive"])
    assert cell["positives_needed_corrected"] is None or cell["positives_needed_corrected"] >= cell["positives_needed"]
    small = audit_manifest(make_manifest(rows), groups=("sex",))
    told = [n for n in small["named"] if n["kind"] == "gaps out of reach"]
    assert len(told) == 1
    assert "0 of 2 cells of test" in told[0]["sentence"]
