import numpy as np
import pytest
from simulated import patients_of
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from cxraug.evaluation.cells import Subject, effective, measure, support
from cxraug.evaluation.evaluate import EvaluationSettings, evaluate
from cxraug.evaluation.matched import measure_matched, overlap
from cxraug.evaluation.predictions import read_predictions


def cohort(n_patients, seed, *, levels=None):
    """Women are younger; the young have a lower FPR and less disease: a crude gap of FPR, none among the same age."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n_patients), rng.geometric(0.4, n_patients))
    old = (rng.random(n_patients) < 0.5)[ids]
    woman = rng.random(n_patients)[ids] < np.where(old, 0.25, 0.75)
    y = (rng.random(len(ids)) < np.where(old, 0.5, 0.2)).astype(float)
    score = 1.5 * y + 1.0 * old + rng.standard_normal(n_patients)[ids] * 0.6 + rng.standard_normal(len(ids)) * 0.8
    if levels:
        score = np.digitize(score, np.quantile(score, np.linspace(0, 1, levels + 1)[1:-1])).astype(float)
    return ids, old.astype(int), woman, y, score


def subject_of(y, score, cut=1.5):
    scores = score[None]
    return Subject("A", y, scores, np.argsort(scores, axis=1), 1 / (1 + np.exp(-scores + 1.5)), scores >= cut)


def test_both_sides_get_the_same_mix_and_no_weight_exceeds_one():
    ids, old, woman, _, _ = cohort(300, 0)
    found = overlap(woman, ~woman, np.ones(len(ids), dtype=bool), old)
    shares = [np.bincount(old[s], found.weight[s]) / found.weight[s].sum() for s in (woman, ~woman)]
    np.testing.assert_allclose(shares[0], shares[1])
    assert 0 <= found.weight.min() <= found.weight.max() <= 1
    alone = overlap(woman, ~woman, np.ones(len(ids), dtype=bool), woman.astype(int))  # nothing in common
    assert alone.weight.sum() == 0


@pytest.mark.parametrize("metric", ["auroc", "auprc", "tpr", "fpr", "ppv", "npv", "f1", "brier"])
def test_values_are_scikit_learns_with_sample_weights(metric):
    ids, old, woman, y, score = cohort(200, 1, levels=12)
    y[::17] = np.nan
    subject, patients = subject_of(y, score, cut=6), patients_of(ids)
    matching = overlap(woman, ~woman, ~np.isnan(y), old)
    found = measure_matched(subject, metric, matching, patients).value[0]
    keep = woman & ~np.isnan(y)
    truth, s, w, called = y[keep], score[keep], matching.weight[keep], subject.decision[0, keep]
    wanted = {
        "auroc": lambda: roc_auc_score(truth, s, sample_weight=w),
        "auprc": lambda: average_precision_score(truth, s, sample_weight=w),
        "tpr": lambda: recall_score(truth, called, sample_weight=w),
        "fpr": lambda: 1 - recall_score(1 - truth, ~called, sample_weight=w),
        "ppv": lambda: precision_score(truth, called, sample_weight=w),
        "npv": lambda: precision_score(1 - truth, ~called, sample_weight=w),
        "f1": lambda: f1_score(truth, called, sample_weight=w),
        "brier": lambda: np.average((subject.calibrated[0, keep] - truth) ** 2, weights=w),
    }[metric]()
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("metric", ["auroc", "auprc", "fpr", "ppv", "brier"])
def test_influence_is_the_derivative_by_patient_weights_that_are_estimated_again(metric):
    ids, old, woman, y, score = cohort(60, 2, levels=9)
    patients, known = patients_of(ids), np.ones(len(ids), dtype=bool)
    found = measure_matched(subject_of(y, score, 4), metric, overlap(woman, ~woman, known, old), patients)

    def doubled(patient):
        """The metric when ``patient`` comes twice, weights estimated again."""
        rows = np.sort(np.concatenate([np.arange(len(ids)), np.flatnonzero(ids == patient)]))
        again = overlap(woman[rows], ~woman[rows], known[rows], old[rows])
        return measure_matched(subject_of(y[rows], score[rows], 4), metric, again, patients_of(ids[rows])).value[0]

    steps = np.array([doubled(patient) - found.value[0] for patient in range(60)])
    assert np.corrcoef(steps, found.influence[0])[0, 1] > 0.98
    assert found.influence[0].sum() == pytest.approx(0, abs=1e-9)


def test_equal_mixes_give_the_raw_metric_and_its_variance():
    ids, _, woman, y, score = cohort(150, 3)
    subject, patients = subject_of(y, score), patients_of(ids)
    same = overlap(woman, ~woman, np.ones(len(ids), dtype=bool), np.zeros(len(ids), dtype=int))
    for metric in ("auroc", "auprc", "tpr", "f1"):
        matched, raw = measure_matched(subject, metric, same, patients), measure(subject, metric, woman, patients)
        assert matched.value[0] == pytest.approx(raw.value[0])
        assert matched.variance[0] == pytest.approx(raw.variance[0], rel=0.03)


def gap(metric, seed, stratum):
    ids, old, woman, y, score = cohort(300, seed)
    subject, patients = subject_of(y, score), patients_of(ids)
    matching = overlap(woman, ~woman, np.ones(len(ids), dtype=bool), old if stratum == "age" else y.astype(int))
    sides = [measure_matched(subject, metric, side, patients) for side in (matching, matching.mirrored)]
    return sides[0].minus(sides[1]), [measure(subject, metric, cell, patients).value[0] for cell in (woman, ~woman)]


def test_a_gap_of_case_mix_vanishes_and_its_error_is_claimed_right():
    gaps, claimed, raw = [], [], []
    for seed in range(150):
        found, (women, men) = gap("fpr", seed, "age")
        gaps.append(found.value[0])
        claimed.append(found.variance[0])
        raw.append(women - men)
    assert np.mean(raw) < -0.08
    assert np.mean(gaps) == pytest.approx(0, abs=3.5 * np.std(gaps) / np.sqrt(150))
    assert np.sqrt(np.mean(claimed)) == pytest.approx(np.std(gaps), rel=0.15)


def test_matched_prevalence_takes_prevalence_out_of_ppv():
    rng = np.random.default_rng(4)
    matched, raw = [], []
    for _ in range(100):
        woman = rng.random(800) < 0.5
        y = (rng.random(800) < np.where(woman, 0.15, 0.45)).astype(float)
        score = 1.5 * y + rng.standard_normal(800)  # the same classifier for both
        subject, patients = subject_of(y, score, 1.0), patients_of(np.arange(800))
        matching = overlap(woman, ~woman, np.ones(800, dtype=bool), y.astype(int))
        sides = [measure_matched(subject, "ppv", side, patients) for side in (matching, matching.mirrored)]
        matched.append(sides[0].minus(sides[1]).value[0])
        raw.append(np.subtract(*(measure(subject, "ppv", cell, patients).value[0] for cell in (woman, ~woman))))
    assert np.mean(raw) < -0.2
    assert np.mean(matched) == pytest.approx(0, abs=3.5 * np.std(matched) / 10)


def test_few_heavy_images_are_few_effective_ones():
    weight = np.r_[np.ones(10), np.full(90, 0.01)]
    patients = patients_of(np.arange(100))
    assert effective(np.ones(100, dtype=bool), weight, patients)[0] == pytest.approx(10.9**2 / 10.009)
    y = np.tile([0.0, 1.0], 50)
    held = support(subject_of(y, y), "tpr", np.ones(100, dtype=bool), patients, min_cell=10, few=50, weight=weight)
    assert (held.enough, held.flag) == (5, "suppressed")


def test_rows_stand_beside_the_raw_ones_which_stay_as_they_are():
    ids, old, woman, y, score = cohort(400, 5)
    columns = {"image": [f"{k}.png" for k in range(len(ids))], "patient_id": [f"p{k:03d}" for k in ids],
               "sex": np.where(woman, "F", "M"), "age": np.where(old, 70, 30)}  # fmt: skip
    import pandas as pd

    frame = pd.DataFrame({**columns, "y_A": y, "p_A": 1 / (1 + np.exp(-score))})
    frame["split"] = np.where(ids < 100, "val", "test")
    wanted = ("auroc", "fpr", "ppv", "auprc")
    both, none = (
        evaluate(
            read_predictions([frame]),
            EvaluationSettings(groups=("sex", "sex*age"), metrics=wanted, bootstrap=0, matched=matched),
        )
        for matched in (("population", "prevalence"), ())
    )
    pd.testing.assert_frame_equal(both.gaps[both.gaps["matched"] == ""].reset_index(drop=True), none.gaps)
    pd.testing.assert_frame_equal(both.cells, none.cells)
    kinds = both.gaps.groupby("matched")["metric"].agg(set).to_dict()
    assert kinds == {"": {"auroc", "fpr"}, "population": {"auroc", "fpr"}, "prevalence": {"ppv", "auprc"}}
    assert set(both.gaps[both.gaps["matched"] == "population"]["group"]) == {"sex"}  # nothing is left to match sex*age
    rows = both.gaps[(both.gaps["matched"] == "population") & (both.gaps["metric"] == "fpr")].set_index("level")
    assert rows.loc["F", "gap"] == pytest.approx(-rows.loc["M", "gap"])
    assert rows.loc["F", "family"] == "fpr x sex, population matched"
    assert both.info["matching"]["sex"]["matched_on"] == ["age"]
