"""Membership and closest records: measures against a library, exact tests, false alarms at the promised rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom
from sklearn.metrics import roc_auc_score

from cxraug.evaluation.measured import Patients
from cxraug.privacy.closest import closest_record
from cxraug.privacy.membership import distance_scores, membership, top_test


def patients_of(rng: np.random.Generator, members: int, others: int) -> tuple[np.ndarray, np.ndarray]:
    """Patient names and membership of rows; 1 to 5 images of each patient."""
    n = 1 + rng.integers(0, 5, members + others)
    who = np.repeat(np.arange(members + others), n)
    return np.array([f"p{i:04d}" for i in who]), who < members


def rows_of(found: dict) -> dict:
    return {row["measure"]: row for row in found["rows"]}


def test_the_auc_is_sklearns_and_the_rate_is_that_of_the_strictest_threshold() -> None:
    rng = np.random.default_rng(0)
    patient, member = patients_of(rng, 60, 60)
    score = rng.normal(0, 1, len(patient)) + 0.5 * member
    rows = rows_of(membership(score, member, patient, fprs=(0.1,), replicates=50))
    assert rows["auc"]["value"] == pytest.approx(roc_auc_score(member, score))
    cut = np.sort(score[~member])[::-1][int(0.1 * (~member).sum())]
    assert rows["tpr at fpr 0.1"]["value"] == pytest.approx((score[member] > cut).mean())


def test_a_rate_below_one_in_k_is_refused_and_says_why() -> None:
    rng = np.random.default_rng(1)
    patient, member = patients_of(rng, 300, 300)
    score = rng.normal(0, 1, len(patient))
    rows = rows_of(membership(score, member, patient, replicates=50))
    assert rows["tpr at fpr 0.01"]["value"] is not None
    assert rows["tpr at fpr 0.001"]["value"] is None
    assert rows["tpr at fpr 0.001"]["flag"] == "unresolved"
    assert "1 / 300" in rows["tpr at fpr 0.001"]["method"]


def test_few_patients_on_a_side_give_no_verdict() -> None:
    patient, member = patients_of(np.random.default_rng(2), 9, 50)
    found = membership(np.arange(len(patient)), member, patient)
    assert found["alarm"] is None
    assert {row["flag"] for row in found["rows"]} == {"suppressed"}


@pytest.mark.parametrize(("members", "others"), [(40, 200), (150, 150)])
def test_false_alarms_are_as_rare_as_the_rule_says(members: int, others: int) -> None:
    rng, rounds, alarms = np.random.default_rng(3), 300, 0
    for _ in range(rounds):
        patient, member = patients_of(rng, members, others)
        own = rng.normal(0, 1, members + others)[np.unique(patient, return_inverse=True)[1]]
        score = own + rng.normal(0, 0.7, len(patient))
        alarms += membership(score, member, patient, fprs=(), replicates=2)["alarm"]
    assert alarms / rounds <= 0.08  # 5 % promised; 300 rounds have a standard error of 1.3 %
    assert alarms > 0


def test_a_few_memorised_patients_raise_the_alarm_although_the_auc_is_near_chance() -> None:
    rng = np.random.default_rng(4)
    patient, member = patients_of(rng, 200, 200)
    score = rng.normal(0, 1, len(patient))
    score[np.isin(patient, [f"p{i:04d}" for i in range(14)])] += 6
    found = membership(score, member, patient, replicates=50)
    assert found["alarm"]
    assert rows_of(found)["auc"]["value"] < 0.58
    assert found["p_top"] < 0.025


def test_every_member_a_little_closer_raises_the_alarm_too() -> None:
    rng = np.random.default_rng(5)
    patient, member = patients_of(rng, 300, 300)
    found = membership(rng.normal(0, 1, len(patient)) + 0.4 * member, member, patient, replicates=50)
    assert found["alarm"]
    assert rows_of(found)["auc"]["ci_low"] > 0.5


def test_a_difference_between_sources_is_no_membership() -> None:
    rng = np.random.default_rng(6)
    patient, member = patients_of(rng, 150, 150)
    code = np.unique(patient, return_inverse=True)[1]
    source = np.where(rng.random(300)[code] < np.where(member, 0.8, 0.2), "near", "far")
    score = rng.normal(0, 1, len(patient)) + 3 * (source == "near")
    assert membership(score, member, patient, replicates=50)["alarm"]
    assert not membership(score, member, patient, source, replicates=50)["alarm"]


def test_a_source_without_non_members_is_left_out_and_counted() -> None:
    rng = np.random.default_rng(7)
    patient, member = patients_of(rng, 100, 60)
    source = np.where(np.unique(patient, return_inverse=True)[1] < 30, "members only", "both")
    found = membership(rng.normal(0, 1, len(patient)), member, patient, source, replicates=50)
    assert found["left_out"] == (source == "members only").sum()
    assert found["members"] == 70


def test_the_top_test_is_exact() -> None:
    score = np.array([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0, -1, -2])
    member = np.array([True, True, True, True, False, False, False, True, False, False, False, False])
    p, caught, top = top_test(score, member, Patients(np.arange(12), 12))
    assert (caught, top) == (4, 5)
    assert p == pytest.approx(hypergeom.sf(3, 12, 5, 5))


def test_a_patient_counts_once_in_the_top_test_with_the_highest_image() -> None:
    score = np.array([9.0, 8.5, 8.4, 8.3, 8.2, 8.1, 1, 2, 3, 4, 5, 6, 7])
    member = np.array([True] * 6 + [False] * 7)
    p, caught, top = top_test(score, member, Patients(np.array([0, *range(6, 13)]), 13))
    assert (caught, top) == (1, 5)
    assert p == pytest.approx(hypergeom.sf(0, 8, 1, 5))


def test_distance_scores_are_highest_where_a_synthetic_image_is() -> None:
    rng = np.random.default_rng(8)
    real = rng.normal(0, 1, (50, 8)).astype(np.float32)
    synthetic = np.concatenate([real[3:4] + 0.01, rng.normal(0, 1, (20, 8)).astype(np.float32)])
    plain = distance_scores(real, synthetic)
    apart = np.sqrt(((real[:, None] - synthetic[None]) ** 2).sum(2)).min(1)
    np.testing.assert_allclose(plain, -np.log(apart), rtol=1e-4)
    assert plain.argmax() == 3


def test_calibration_takes_off_how_lonely_an_image_is() -> None:
    rng = np.random.default_rng(9)
    real = rng.normal(0, 1, (60, 8)).astype(np.float32)
    real[0] = 30  # an image of a rare kind, and a synthetic one beside it, far as distances go
    synthetic = np.concatenate([rng.normal(0, 1, (60, 8)), np.full((1, 8), 31)]).astype(np.float32)
    assert distance_scores(real, synthetic)[0] < np.median(distance_scores(real, synthetic))
    assert distance_scores(real, synthetic, np.arange(60)).argmax() == 0


def drawn(rng: np.random.Generator, patients: int, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Features of images that scatter about their patient, and the patients' names."""
    n = 1 + rng.integers(0, 4, patients)
    who = np.repeat(np.arange(patients), n)
    return (rng.normal(0, 1, (patients, width))[who] + rng.normal(0, 0.2, (len(who), width))).astype(np.float32), who


def test_closest_record_holds_its_level_where_nothing_was_learnt() -> None:
    rng, rounds, alarms, held = np.random.default_rng(10), 150, 0, 0
    for _ in range(rounds):
        real, who = drawn(rng, 60)
        member = who < 35
        synthetic = rng.normal(0, 1, (200, 6)).astype(np.float32)
        row = closest_record(synthetic, real, member, who)["rows"][0]
        alarms += row["flag"].endswith("alarm")
        held += row["ci_low"] <= 0.5 <= row["ci_high"]
    assert alarms / rounds <= 0.06
    assert held / rounds >= 0.9


def test_closest_record_finds_copies_and_says_which_side() -> None:
    rng = np.random.default_rng(11)
    real, who = drawn(rng, 120)
    member = who < 80
    copies = real[member][rng.integers(0, member.sum(), 100)] + rng.normal(0, 0.05, (100, 6)).astype(np.float32)
    found = closest_record(copies, real, member, who)
    share, ratio = found["rows"]
    assert share["value"] > 0.6
    assert "alarm" in share["flag"]
    assert ratio["value"] < 0.8
    assert found["n_each"] == (~member).sum()


def test_closest_record_needs_both_sides() -> None:
    real, who = drawn(np.random.default_rng(12), 30)
    found = closest_record(real, real, who < 25, who)
    assert {row["flag"] for row in found["rows"]} == {"suppressed"}


def test_both_sides_have_the_same_number_of_each_source() -> None:
    rng = np.random.default_rng(13)
    real, who = drawn(rng, 200)
    member, source = who % 4 > 0, np.where(who < 100, "a", "b")
    real[source == "b"] += 20
    lost = member & (source == "b") & (rng.random(len(who)) < 0.9)  # few training images where the synthetic ones are
    synthetic = rng.normal(20, 1, (150, 6)).astype(np.float32)
    keep = ~lost
    plain = closest_record(synthetic, real[keep], member[keep], who[keep])["rows"][0]
    fair = closest_record(synthetic, real[keep], member[keep], who[keep], source[keep])["rows"][0]
    assert plain["ci_high"] < 0.5
    assert fair["ci_low"] < 0.5 < fair["ci_high"]


def test_a_stricter_level_is_a_stricter_alarm() -> None:
    rng = np.random.default_rng(14)
    patient, member = patients_of(rng, 150, 150)
    score = rng.normal(0, 1, len(patient)) + 0.28 * member
    loose, strict = (membership(score, member, patient, level=v, fprs=(), replicates=2) for v in (0.5, 1e-12))
    assert loose["alarm"]
    assert not strict["alarm"]
    assert loose["rows"][0]["ci_low"] == strict["rows"][0]["ci_low"]
