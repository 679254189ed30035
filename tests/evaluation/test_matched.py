import numpy as np
import pytest
from simulated import patients_of
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from cxraug.evaluation.cells import Cell, measure
from cxraug.evaluation.evaluate import EvaluationSettings, evaluate
from cxraug.evaluation.matched import matched_flag, measure_matched, overlap
from cxraug.evaluation.predictions import read_predictions
from cxraug.evaluation.subjects import Subject
from cxraug.evaluation.tally import Units


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
    return Subject("A", y, scores, 1 / (1 + np.exp(-scores + 1.5)), scores >= cut)


def matching_of(subject, ids, left, stratum):
    """``left`` rows and all others, matched on ``stratum`` (n,); and the two cells."""
    whole = Cell.whole(patients_of(ids))
    part = whole.part(left)
    return overlap(subject, part, whole.rest(part), Units.within(whole.patients, stratum)), part, whole.rest(part)


def weights_of(matching):
    """Weight (n,) of every row."""
    stratum = matching.units.row_stratum
    return np.where(matching.left.cell.mask, matching.left.weight[stratum], matching.right.weight[stratum])


def test_both_sides_get_the_same_mix_and_no_weight_exceeds_one():
    ids, old, woman, y, score = cohort(300, 0)
    weight = weights_of(matching_of(subject_of(y, score), ids, woman, old)[0])
    shares = [np.bincount(old[s], weight[s]) / weight[s].sum() for s in (woman, ~woman)]
    np.testing.assert_allclose(shares[0], shares[1])
    assert 0 <= weight.min() <= weight.max() <= 1
    alone = matching_of(subject_of(y, score), ids, woman, woman.astype(int))[0]  # nothing in common
    assert weights_of(alone).sum() == 0
    assert matched_flag("tpr", alone, min_cell=0, few=0) == "suppressed"


@pytest.mark.parametrize("metric", ["auroc", "auprc", "tpr", "fpr", "ppv", "npv", "f1", "brier"])
def test_values_are_scikit_learns_with_sample_weights(metric):
    ids, old, woman, y, score = cohort(200, 1, levels=12)
    y[::17] = np.nan
    subject = subject_of(y, score, cut=6)
    matching = matching_of(subject, ids, woman, old)[0]
    found = measure_matched(metric, matching).value[0]
    keep = woman & ~np.isnan(y)
    truth, s, w, called = y[keep], score[keep], weights_of(matching)[keep], subject.decision[0, keep]
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
    found = measure_matched(metric, matching_of(subject_of(y, score, 4), ids, woman, old)[0])

    def doubled(patient):
        """The metric when ``patient`` comes twice, weights estimated again."""
        rows = np.sort(np.concatenate([np.arange(len(ids)), np.flatnonzero(ids == patient)]))
        again = matching_of(subject_of(y[rows], score[rows], 4), ids[rows], woman[rows], old[rows])[0]
        return measure_matched(metric, again).value[0]

    steps = np.array([doubled(patient) - found.value[0] for patient in range(60)])
    assert np.corrcoef(steps, found.influence[0])[0, 1] > 0.98
    assert found.influence[0].sum() == pytest.approx(0, abs=1e-9)


def test_equal_mixes_give_the_raw_metric_and_its_variance():
    ids, _, woman, y, score = cohort(150, 3)
    subject = subject_of(y, score)
    same, women, _ = matching_of(subject, ids, woman, np.zeros(len(ids), dtype=int))
    for metric in ("auroc", "auprc", "tpr", "f1"):
        matched, raw = measure_matched(metric, same), measure(subject, metric, women)
        assert matched.value[0] == pytest.approx(raw.value[0])
        assert matched.variance[0] == pytest.approx(raw.variance[0], rel=0.03)


def gap(metric, seed, stratum):
    ids, old, woman, y, score = cohort(300, seed)
    subject = subject_of(y, score)
    matching, *cells = matching_of(subject, ids, woman, old if stratum == "age" else y.astype(int))
    sides = [measure_matched(metric, side) for side in (matching, matching.mirrored)]
    return sides[0].minus(sides[1]), [measure(subject, metric, cell).value[0] for cell in cells]


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
        subject = subject_of(y, score, 1.0)
        matching, *cells = matching_of(subject, np.arange(800), woman, y.astype(int))
        sides = [measure_matched("ppv", side) for side in (matching, matching.mirrored)]
        matched.append(sides[0].minus(sides[1]).value[0])
        raw.append(np.subtract(*(measure(subject, "ppv", cell).value[0] for cell in cells)))
    assert np.mean(raw) < -0.2
    assert np.mean(matched) == pytest.approx(0, abs=3.5 * np.std(matched) / 10)


def test_prevalence_is_not_matched_where_one_side_has_no_positives():
    """Only negatives would be compared: a Brier score of the absent, not one at the same share of positives."""
    rng = np.random.default_rng(6)
    woman = rng.random(400) < 0.3
    y = np.where(woman, 0.0, rng.random(400) < 0.3)
    matching = matching_of(subject_of(y, y + rng.standard_normal(400)), np.arange(400), woman, y.astype(int))[0]
    for metric in ("brier", "ppv", "npv", "f1", "auprc"):
        assert matched_flag(metric, matching, min_cell=10, few=50) == "suppressed", metric
    assert matched_flag("fpr", matching, min_cell=10, few=50) == ""


def test_few_heavy_images_are_few_effective_ones():
    """10 of 100 positives on the left have a counterpart each, 90 share one: weights 1/2 and 1/91."""
    left = np.r_[np.ones(100, dtype=bool), np.zeros(11, dtype=bool)]
    stratum = np.r_[np.arange(10), np.full(90, 10), np.arange(11)]
    subject = subject_of(np.ones(111), np.ones(111))
    matching = matching_of(subject, np.arange(111), left, stratum)[0]
    total, square = 10 / 2 + 90 / 91, 10 / 4 + 90 / 91**2
    assert matching.left.effective("any") == [pytest.approx((total**2 / square,) * 2)]
    assert 10 < total**2 / square < 15
    flags = [matched_flag("tpr", matching, min_cell=n, few=50) for n in (10, 15)]
    assert flags == ["few", "suppressed"]


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
