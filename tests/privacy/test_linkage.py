"""Linkage: the measures are those of a hand-computed table, their intervals hold the truth, and impostors match."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from cxraug.privacy.linkage import (
    Attributes,
    Curve,
    Scored,
    Trials,
    auc,
    draw_trials,
    effective_pairs,
    gallery_size,
    genuine_pairs,
    linkage,
    rank_one,
)


def scored(genuine: list[float], impostors: list[list[float]], patient: list[int], other: list[list[int]]) -> Scored:
    start = np.concatenate([[0], np.cumsum([len(row) for row in impostors])])
    flat = np.concatenate([np.asarray(row, float) for row in impostors])
    at = np.arange(len(genuine))
    trials = Trials(at, at, start, np.arange(len(flat)), np.array(patient), np.concatenate(other))
    return Scored(trials, np.array(genuine), flat)


def simulated(
    patients: int, separation: float, rng: np.random.Generator, *, per_patient: int = 3, impostors: int = 20,
    person: float = 0.6,
) -> Scored:  # fmt: skip
    """Pairs whose scores share the probe's patient and, weaker, the impostor's; the true AUC is :func:`truth`."""
    own, as_other = rng.normal(0, person, patients), rng.normal(0, person, patients)
    n = 1 + rng.integers(0, per_patient, patients)
    patient = np.repeat(np.arange(patients), n)
    other = np.stack([rng.permutation(np.delete(np.arange(patients), p))[:impostors] for p in patient])
    genuine = separation + own[patient] + rng.normal(0, 1, len(patient))
    impostor = as_other[other] + rng.normal(0, 1, other.shape)
    start = np.arange(len(patient) + 1) * impostors
    trials = Trials(np.arange(len(patient)), np.arange(len(patient)), start, other.ravel(), patient, other.ravel())
    return Scored(trials, genuine, impostor.ravel())


def truth(separation: float, person: float = 0.6) -> float:
    return float(stats.norm.cdf(separation / np.sqrt(2 * (1 + person**2))))


def test_auc_and_rank_one_of_a_table_by_hand() -> None:
    # trial 1 beats 2 of 3 impostors, trial 2 ties with one and beats one of 2
    table = scored([0.5, 0.4], [[0.1, 0.6, 0.2], [0.4, 0.3]], [0, 1], [[1, 2, 3], [0, 2]])
    assert auc(table).value[0] == pytest.approx((2 / 3 + 3 / 4) / 2)
    # one impostor of three, drawn at random, beats the first with chance 1/3; of two, with 1/4 (half a tie)
    assert rank_one(table, 2).value[0] == pytest.approx((2 / 3 + 3 / 4) / 2)


def test_rank_one_is_the_mean_over_all_galleries() -> None:
    rng = np.random.default_rng(0)
    genuine, impostors = rng.normal(1, 1, 4), rng.normal(0, 1, (4, 6))
    table = scored(genuine.tolist(), impostors.tolist(), [0, 1, 2, 3], [[9] * 6] * 4)
    won = [np.mean([g > max(some) for some in combinations(row, 3)]) for g, row in zip(genuine, impostors, strict=True)]
    assert rank_one(table, 4).value[0] == pytest.approx(np.mean(won))


def test_one_common_set_of_impostors_gives_sklearns_auc_and_curve() -> None:
    rng = np.random.default_rng(1)
    genuine, common = rng.normal(1, 1, 30).round(1), rng.normal(0, 1, 40).round(1)
    table = scored(genuine.tolist(), [common.tolist()] * 30, list(range(30)), [list(range(100, 140))] * 30)
    label, score = np.repeat([1, 0], [30, 40]), np.concatenate([genuine, common])
    assert auc(table).value[0] == pytest.approx(roc_auc_score(label, score))
    false, true, _ = roc_curve(label, score, drop_intermediate=False)
    curve = Curve.of(table)
    for rate in (0.05, 0.1, 0.5):
        assert curve.tpr(rate) == pytest.approx(true[false <= rate + 1e-12].max())
    at = np.argmin(np.abs(1 - true - false))
    assert curve.eer() == pytest.approx((1 - true[at] + false[at]) / 2, abs=1e-9)


def test_trials_weigh_the_same_however_many_impostors_they_have() -> None:
    table = scored([1.0, 1.0], [[0.0], [2.0] * 99], [0, 1], [[5], list(range(10, 109))])
    assert auc(table).value[0] == pytest.approx(0.5)
    hit, false = Curve.of(table).rates()
    assert false[0] == pytest.approx(0.5)  # all 99 impostors of one trial
    assert hit[0] == 0
    assert effective_pairs(table.trials) == pytest.approx(4 / (1 + 1 / 99))


@pytest.mark.parametrize("separation", [0.0, 1.0])
def test_the_auc_interval_holds_the_truth_and_image_level_ones_do_not(separation: float) -> None:
    rng = np.random.default_rng(2)
    hits, naive, rounds = 0, 0, 300
    for _ in range(rounds):
        table = simulated(40, separation, rng)
        row = linkage(table, replicates=2, fmrs=())[0]
        hits += row["ci_low"] <= truth(separation) <= row["ci_high"]
        beats = table.genuine[:, None] > table.impostor.reshape(len(table.genuine), -1)
        half = 1.96 * np.sqrt(0.25 / beats.size)
        naive += abs(beats.mean() - truth(separation)) <= half
    assert 0.92 <= hits / rounds <= 0.985
    assert naive / rounds < 0.7


def test_the_bootstrap_holds_the_true_rate_and_equal_error_rate() -> None:
    rng, rounds, separation = np.random.default_rng(3), 150, 1.5
    spread = np.sqrt(1 + 0.6**2)
    cut = spread * stats.norm.isf(0.05)
    true_rate = stats.norm.sf((cut - separation) / spread)
    true_eer = stats.norm.sf(separation / 2 / spread)
    hits = np.zeros(2)
    for _ in range(rounds):
        rows = {row["measure"]: row for row in linkage(simulated(60, separation, rng), replicates=80, fmrs=(0.05,))}
        for i, (name, value) in enumerate((("tpr at fmr 0.05", true_rate), ("eer", true_eer))):
            hits[i] += rows[name]["ci_low"] <= value <= rows[name]["ci_high"]
    assert (hits / rounds >= 0.9).all()
    assert (hits / rounds <= 0.995).all()


def test_a_rate_that_cannot_be_resolved_is_not_printed() -> None:
    table = simulated(20, 3.0, np.random.default_rng(4), impostors=15)
    rows = {row["measure"]: row for row in linkage(table, replicates=50)}
    assert rows["tpr at fmr 0.01"]["value"] is None
    assert rows["tpr at fmr 0.01"]["flag"] == "unresolved"
    assert "1000 are needed" in rows["tpr at fmr 0.01"]["method"]
    assert rows["auc"]["flag"] == "few"


def test_a_handful_of_patients_is_suppressed() -> None:
    rows = linkage(simulated(9, 3.0, np.random.default_rng(5), impostors=5), replicates=50)
    assert {row["flag"] for row in rows} == {"suppressed"}
    assert all(row["value"] is None for row in rows)


def test_a_perfect_attack_has_an_interval() -> None:
    table = simulated(60, 50.0, np.random.default_rng(6), impostors=50)
    rows = {row["measure"]: row for row in linkage(table, replicates=50)}
    for name, best in (("auc", 1), ("tpr at fmr 0.01", 1), ("eer", 0)):
        row = rows[name]
        assert row["value"] == best
        assert row["ci_high"] - row["ci_low"] > 0.03
        assert best in (row["ci_low"], row["ci_high"])


def test_the_gallery_is_the_largest_that_nine_in_ten_trials_fill() -> None:
    assert gallery_size(np.array([19] * 9 + [3])) == 20
    assert gallery_size(np.array([19] * 8 + [3] * 2)) == 2
    assert gallery_size(np.array([0, 0])) is None


def test_genuine_pairs_are_of_one_patient_and_one_kind_and_never_one_picture_twice() -> None:
    patient = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    kind = np.array([0, 0, 1, 0, 0, 0, 0, 0])
    identity = np.array(list("abcddefg"))
    probe, target, same = genuine_pairs(patient, kind, identity, most=5, seed=0)
    assert {frozenset(pair) for pair in zip(probe.tolist(), target.tolist(), strict=True)} == {
        frozenset({0, 1}), frozenset({6, 7})
    }  # fmt: skip
    assert same == 1  # of patient 1


def test_no_patient_has_more_pairs_than_allowed() -> None:
    patient = np.repeat([0, 1], [30, 3])
    probe, _, _ = genuine_pairs(patient, np.zeros(33, int), np.arange(33), most=4, seed=0)
    assert np.bincount(patient[probe]).tolist() == [4, 3]


def cohort(n: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "source": rng.choice(["a", "b"], n), "view": rng.choice(["PA", "AP"], n), "sex": rng.choice(["M", "F"], n),
            "labels": rng.choice(["Edema|Mass", "Mass|Edema|-Effusion", "No Finding", "?Mass"], n),
            "age": rng.integers(20, 90, n).astype(float), "patient_id": [f"p{i}" for i in rng.integers(0, 150, n)],
        }
    )  # fmt: skip
    frame.loc[:30, "age"] = np.nan
    frame.loc[20:60, "sex"] = np.nan
    return frame


def test_impostors_share_every_attribute_and_are_other_patients_once_each() -> None:
    frame = cohort()
    patient = np.unique(frame["patient_id"], return_inverse=True)[1]
    within = np.arange(len(frame)) % 2
    target = np.arange(len(frame))
    trials, lost = draw_trials(target, target, patient, within, Attributes.of(frame), most=50, seed=0)
    assert len(trials) + lost == len(frame)
    assert lost > 0
    assert len(trials) > 100
    same = {"Mass|Edema|-Effusion": "Edema|Mass"}
    labels = frame["labels"].replace(same)
    for i in range(len(trials)):
        rows, own = trials.other[trials.start[i] : trials.start[i + 1]], trials.target[i]
        assert len(set(patient[rows])) == len(rows)
        assert patient[own] not in patient[rows]
        assert (within[rows] == within[own]).all()
        assert (labels[rows] == labels[own]).all()
        for name in ("source", "view", "sex"):
            assert (frame[name].fillna("")[rows] == frame[name].fillna("")[own]).all()
        apart = (frame["age"][rows] - frame["age"][own]).abs()
        assert ((apart <= 5) | (frame["age"][rows].isna() & np.isnan(frame["age"][own]))).all()
    # the count of those left out, by looking at every pair
    by_hand = 0
    for own in range(len(frame)):
        ok = (patient != patient[own]) & (within == within[own]) & (labels == labels[own]).to_numpy()
        for name in ("source", "view", "sex"):
            ok &= (frame[name].fillna("") == frame[name].fillna("")[own]).to_numpy()
        age = frame["age"].to_numpy()
        ok &= np.isnan(age) if np.isnan(age[own]) else np.abs(age - age[own]) <= 5
        by_hand += not ok.any()
    assert lost == by_hand


def test_attributes_alone_give_nothing_to_the_matched_attack_and_much_to_the_unmatched() -> None:
    frame = cohort(600)
    frame["age"] = np.nan
    patient = np.arange(600) // 2
    frame.loc[1::2, ["source", "view", "sex", "labels"]] = frame.loc[
        ::2, ["source", "view", "sex", "labels"]
    ].to_numpy()
    key = Attributes.of(frame).key
    rng = np.random.default_rng(8)
    found = {}
    for attributes in (Attributes.of(frame), None):
        probe, target, _ = genuine_pairs(patient, np.zeros(600), np.arange(600), most=1, seed=0)
        trials, _ = draw_trials(probe, target, patient, np.zeros(600, int), attributes, most=100, seed=0)
        of = np.repeat(np.arange(len(trials)), trials.counts)
        genuine = (key[trials.probe] == key[trials.target]) + rng.normal(0, 0.1, len(trials))
        impostor = (key[trials.probe[of]] == key[trials.other]) + rng.normal(0, 0.1, len(of))
        found[attributes is None] = linkage(Scored(trials, genuine, impostor), replicates=50)[0]
    assert found[False]["ci_low"] < 0.5 < found[False]["ci_high"]
    assert found[True]["ci_low"] > 0.9
