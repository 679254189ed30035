import sys

import numpy as np
import pandas as pd
import pytest
from simulated import table

from cxraug.errors import InputError
from cxraug.evaluation.evaluate import EvaluationSettings, evaluate, write_evaluation
from cxraug.evaluation.mitigation import MITIGATION, _fit, mitigation_frame
from cxraug.evaluation.predictions import read_predictions

pytest.importorskip("fairlearn")
SETTINGS = EvaluationSettings(groups=("sex",), metrics=("auroc", "tpr", "fpr"), bootstrap=0)


def biased(run=0, **changes):
    """Women's scores are 1.5 too high on the logit scale: one threshold calls far more of them."""
    frame = table(700, validation=700, run=run)
    for finding in ("A", "B"):
        shifted = np.log(frame[f"p_{finding}"] / (1 - frame[f"p_{finding}"])) + 1.5 * (frame["sex"] == "F")
        frame[f"p_{finding}"] = 1 / (1 + np.exp(-shifted))
    return frame.assign(**changes)


def mitigated(*frames, group="sex", constraint="equalized_odds", settings=SETTINGS):
    return evaluate(read_predictions(list(frames)), settings, mitigation=(group, constraint))


@pytest.fixture(scope="module")
def plain():
    return mitigated(biased())


def row(result, **where):
    rows = mitigation_frame(result.info["mitigation"])
    rows = rows[np.logical_and.reduce([rows[key] == value for key, value in where.items()])]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_planted_gap_is_closed_and_the_price_is_shown(plain):
    for metric in ("tpr", "fpr"):
        found = row(plain, finding="A", level="F", metric=metric)
        assert found["gap_before_low"] > 0.05
        assert abs(found["gap_after"]) < 0.09
        assert found["gap_after_low"] < 0 < found["gap_after_high"]
        assert found["gap_change"] == pytest.approx(found["gap_after"] - found["gap_before"])
        assert found["gap_change_high"] < 0
        assert (found["threshold"], found["reference"], found["flag"]) == ("group", "rest", "")
    whole = row(plain, finding="A", level="all", metric="fpr")
    assert np.isnan(whole["gap_before"])
    assert 0 < whole["after_low"] < whole["after"] < whole["after_high"] < 1


def test_before_is_what_the_other_tables_say(plain):
    cells, gaps = (t[(t["finding"] == "B") & (t["level"] == "F")] for t in (plain.cells, plain.gaps))
    for metric in ("tpr", "fpr"):
        found = row(plain, finding="B", level="F", metric=metric)
        cell = cells[cells["metric"] == metric].iloc[0]
        gap = gaps[(gaps["metric"] == metric) & (gaps["matched"] == "")].iloc[0]
        names = ["before", "before_low", "before_high", "n", "n_pos", "n_patients"]
        assert found[names].tolist() == cell[["value", "ci_low", "ci_high", "n", "n_pos", "n_patients"]].tolist()
        names = ["gap_before", "gap_before_low", "gap_before_high"]
        np.testing.assert_allclose(found[names].tolist(), gap[["gap", "ci_low", "ci_high"]].tolist(), rtol=1e-9)


def test_the_rule_makes_the_rates_equal_on_the_rows_it_was_fitted_on():
    frame = biased()
    val = frame[frame["split"] == "val"]
    p, y, sex = (val[name].to_numpy() for name in ("p_A", "y_A", "sex"))
    called = _fit(p, y, sex, "equalized_odds")._pmf_predict(p[:, None], sensitive_features=sex)[:, 1]
    for label in (0, 1):
        women, men = (called[(sex == level) & (y == label)].mean() for level in "FM")
        assert women == pytest.approx(men, abs=1e-6)


def test_it_is_never_applied_to_anything_else(plain):
    bare = evaluate(read_predictions([biased()]), SETTINGS)
    for name in ("cells", "gaps", "comparison"):
        pd.testing.assert_frame_equal(getattr(bare, name), getattr(plain, name))
    assert bare.info == {key: value for key, value in plain.info.items() if key != "mitigation"}


def test_its_draws_follow_the_seed_and_not_the_order_of_rows(plain):
    again = mitigated(biased().sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(*(mitigation_frame(r.info["mitigation"]) for r in (plain, again)))
    other = mitigated(biased(), settings=SETTINGS.model_copy(update={"seed": 1}))
    assert other.info["mitigation"]["rows"] != plain.info["mitigation"]["rows"]
    assert all(0 < share < 0.5 for share in plain.info["mitigation"]["redrawn"].values())


def test_small_and_unknown_levels_keep_the_one_threshold():
    frame = biased()
    ids = frame["patient_id"].drop_duplicates()
    race = pd.Series(np.resize(["a", "b"], len(ids)), index=ids).astype(object)
    race.iloc[:100] = None
    race.iloc[100:200] = "c"  # on test only: validation patients are the last
    result = mitigated(frame.assign(race=frame["patient_id"].map(race)), group="race")
    kept = {level: row(result, finding="A", level=level, metric="tpr") for level in ("c", "missing", "a")}
    assert [found["threshold"] for found in kept.values()] == ["kept", "kept", "group"]
    for level in ("c", "missing"):
        assert kept[level]["before"] == kept[level]["after"]


def test_arms_and_seeds_have_rules_of_their_own():
    frames = [biased(run=k).assign(arm=arm, seed=seed) for k, (arm, seed) in enumerate([("x", 0), ("x", 1), ("y", 0)])]
    rows = mitigation_frame(mitigated(*frames).info["mitigation"])
    assert rows["arm"].unique().tolist() == ["x", "y"]
    assert len(rows) == 2 * 2 * 2 * 3  # arms, findings, rates, all F M


@pytest.mark.parametrize(
    ("frame", "group", "constraint", "message"),
    [
        (table(60), "sex", "equalized_odds", "a mitigation is fitted on validation rows"),
        (table(60, validation=60), "race", "equalized_odds", "no such group column"),
        (table(60, validation=60), "sex", "parity", "unknown mitigation; found 'parity'; expected equalized_odds"),
        (table(60, validation=15), "sex", "equalized_odds", "nothing to mitigate.*fewer than two levels hold 10"),
    ],
)
def test_what_cannot_be_fitted_is_refused(frame, group, constraint, message):
    with pytest.raises(InputError, match=message):
        mitigated(frame, group=group, constraint=constraint)


def test_without_fairlearn_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "fairlearn.postprocessing", None)
    with pytest.raises(InputError, match=r"needs fairlearn.*pip install 'cxraug\[fairlearn\]'"):
        mitigated(table(60, validation=60))


def test_the_table_is_written_and_an_old_one_removed(plain, tmp_path):
    write_evaluation(plain, tmp_path)
    rows = pd.read_csv(tmp_path / "mitigation.csv")
    assert tuple(rows.columns) == MITIGATION
    assert len(rows) == 2 * 2 * 3
    bare = evaluate(read_predictions([biased()]), SETTINGS)
    write_evaluation(bare, tmp_path)
    assert not (tmp_path / "mitigation.csv").exists()
