import numpy as np
import pandas as pd
import pytest
from simulated import table
from sklearn.metrics import f1_score, roc_curve

from cxraug.errors import InputError
from cxraug.evaluation.predictions import read_predictions
from cxraug.evaluation.thresholds import choose_threshold, parse_rule, read_thresholds, thresholds_from_validation


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = (rng.random(300) < 0.3).astype(float)
    return y, np.round(1 / (1 + np.exp(-(y + rng.standard_normal(300)))), 2)


def test_youden_is_the_best_corner_of_the_roc_curve(data):
    y, p = data
    fpr, tpr, cuts = roc_curve(y, p, drop_intermediate=False)
    chosen = choose_threshold(y, p)
    at = np.flatnonzero(cuts == chosen)[0]
    assert tpr[at] - fpr[at] == pytest.approx((tpr - fpr).max())


def test_the_other_rules_keep_their_word(data):
    y, p = data
    called = p >= choose_threshold(y, p, "sensitivity=0.9")
    assert called[y == 1].mean() >= 0.9
    assert (p > choose_threshold(y, p, "sensitivity=0.9"))[y == 1].mean() < 0.9
    cut = choose_threshold(y, p, "fpr=0.1")
    assert (p >= cut)[y == 0].mean() <= 0.1
    assert (p >= p[p < cut].max())[y == 0].mean() > 0.1
    best = max(f1_score(y, p >= t) for t in np.unique(p))
    assert f1_score(y, p >= choose_threshold(y, p, "f1")) == pytest.approx(best)


def test_blank_labels_are_left_out_and_one_class_has_no_threshold():
    assert choose_threshold(np.array([1, 0, np.nan]), np.array([0.6, 0.4, 0.9])) == 0.6
    assert np.isnan(choose_threshold(np.array([1.0, 1.0]), np.array([0.6, 0.4])))


@pytest.mark.parametrize("rule", ["best", "sensitivity", "sensitivity=1.2", "fpr=x", "youden=0.5"])
def test_unknown_rules_are_refused(rule):
    with pytest.raises(InputError, match="youden, f1"):
        parse_rule(rule)


def test_every_run_takes_its_own_validation_rows():
    frames = [table(seed=1, validation=80, run=r).assign(seed=r) for r in range(2)]
    predictions = read_predictions(frames)
    cuts, notes = thresholds_from_validation(predictions, "youden")
    assert notes == []
    for run, frame in enumerate(frames):
        val = frame[frame["split"] == "val"]
        assert cuts[run, 0] == choose_threshold(val["y_A"].to_numpy(), val["p_A"].to_numpy())


def test_without_validation_there_is_no_threshold_and_never_a_half():
    cuts, notes = thresholds_from_validation(read_predictions([table()]), "youden")
    assert np.isnan(cuts).all()
    assert "0.5 is never assumed" in notes[0]


def test_tables_apply_to_all_runs_to_files_or_to_named_runs():
    predictions = read_predictions([table(run=0), table(run=1)])
    one = pd.DataFrame({"finding": ["A", "B"], "threshold": [0.3, 0.4]})
    assert read_thresholds([one], predictions)[0].tolist() == [[0.3, 0.4]] * 2
    two = one.assign(threshold=[0.5, 0.6])
    assert read_thresholds([one, two], predictions)[0].tolist() == [[0.3, 0.4], [0.5, 0.6]]
    named = pd.DataFrame({"finding": ["A", "A"], "threshold": [0.1, 0.2], "seed": ["0", "1"]})
    cuts, notes = read_thresholds([named], predictions)
    assert cuts[:, 0].tolist() == [0.1, 0.2]
    assert "B" in notes[0]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"finding": ["A"]}), "missing column"),
        (pd.DataFrame({"finding": ["A"], "threshold": ["high"]}), "row 2.*'high'"),
        (pd.DataFrame({"finding": ["C"], "threshold": [0.5]}), "names no finding"),
        (pd.DataFrame({"finding": ["A", "A"], "threshold": [0.5, 0.6]}), "row 3: a second threshold of one finding"),
        (pd.DataFrame({"finding": ["A", "B"], "threshold": [0.5, -1.2]}), "row 3.*not a probability; found '-1.2'"),
        (pd.DataFrame({"finding": ["A"], "threshold": [np.inf]}), "not a probability; found 'inf'"),
        (pd.DataFrame({"finding": ["A"], "threshold": [0.5], "arm": ["x"]}), "names no arm.*expected model 0 0"),
    ],
)
def test_bad_threshold_tables_are_named(frame, message):
    with pytest.raises(InputError, match=message):
        read_thresholds([frame], read_predictions([table()]))


def test_three_threshold_tables_for_two_files_are_refused():
    one = pd.DataFrame({"finding": ["A", "B"], "threshold": [0.3, 0.4]})
    with pytest.raises(InputError, match="once per prediction file; found 3; expected 1 or 2"):
        read_thresholds([one] * 3, read_predictions([table(run=0), table(run=1)]))
