import pandas as pd
import pytest
from simulated import table

from cxraug.evaluation.endpoint import Endpoint
from cxraug.evaluation.evaluate import EvaluationSettings, evaluate
from cxraug.evaluation.predictions import read_predictions
from cxraug.evaluation.worst import worst_levels


@pytest.fixture(scope="module")
def result():
    frames = [table(300, validation=100, run=k, boost=0.8 * k).assign(arm=arm) for k, arm in enumerate(("old", "new"))]
    settings = EvaluationSettings(
        groups=("sex",), bootstrap=0, metrics=("auroc", "fpr", "ece"), non_inferiority=0.01, controls=("old",),
        primary=Endpoint(arm="new", control="old", finding="B", margin=0.03),
    )  # fmt: skip
    return evaluate(read_predictions([pd.concat(frames)]), settings)


def test_the_worst_level_is_lowest_auroc_and_highest_fpr(result):
    cells = result.cells[(result.cells["arm"] == "new") & (result.cells["group"] == "sex")]
    for metric, pick in (("auroc", "idxmin"), ("fpr", "idxmax")):
        rows = cells[(cells["metric"] == metric) & (cells["finding"] == "A")]
        row = rows.loc[getattr(rows["value"], pick)()]
        found = [
            w for w in result.info["worst_levels"] if (w["arm"], w["metric"], w["finding"]) == ("new", metric, "A")
        ]
        assert [(w["level"], w["value"], w["levels"]) for w in found] == [(row["level"], row["value"], 2)]


def test_suppressed_and_unknown_levels_are_never_the_worst():
    row = {"arm": "m", "seed": "all", "draw": "all", "finding": "A", "group": "sex", "metric": "auroc", "flag": "",
           "ci_low": 0.1, "ci_high": 0.9}  # fmt: skip
    levels = [("F", 0.7, ""), ("M", 0.8, "few"), ("X", 0.1, "suppressed"), ("missing", 0.2, "")]
    frame = pd.DataFrame([{**row, "level": level, "value": value, "flag": flag} for level, value, flag in levels])
    assert [(w["level"], w["levels"]) for w in worst_levels(frame)] == [("F", 2)]
    assert worst_levels(frame.iloc[:1]) == []


def test_macro_weighted_by_positives(result):
    cells = result.cells[(result.cells["arm"] == "old") & (result.cells["group"] == "all")]
    rows = cells[cells["metric"] == "auroc"].set_index("finding")
    weights = rows.loc[["A", "B"], "n_pos"].astype(float)
    wanted = (rows.loc[["A", "B"], "value"] * weights).sum() / weights.sum()
    found = next(w for w in result.info["macro_weighted_by_positives"] if (w["arm"], w["group"]) == ("old", "all"))
    assert found["value"] == pytest.approx(wanted)
    assert found["ci_low"] < found["value"] < found["ci_high"]
    assert (found["metric"], found["findings"]) == ("auroc", 2)


def test_the_primary_endpoint_has_its_own_margin_and_is_corrected_by_nothing(result):
    rows = result.info["non_inferiority"]
    assert [(r["finding"], r["margin"], r["primary"]) for r in rows] == [
        ("B", 0.03, True), ("A", 0.01, False), ("macro", 0.01, False),
    ]  # fmt: skip
    assert rows[0]["p_adjusted"] == rows[0]["p_value"]
    smallest = min(r["p_value"] for r in rows[1:])
    assert min(r["p_adjusted"] for r in rows[1:]) == pytest.approx(2 * smallest)


def test_ece_rows_are_roots_and_compared_in_their_unit(result):
    cells = result.cells[(result.cells["metric"] == "ece") & (result.cells["finding"] == "A")]
    assert (cells["ci_low"] <= cells["value"]).all()
    assert (cells["value"] <= cells["ci_high"]).all()
    assert (cells["ci_low"] >= 0).all()
    assert cells["method"].str.contains("debiased, p recalibrated on validation").all()
    women, men = (cells[(cells["arm"] == "old") & (cells["level"] == level)]["value"].item() for level in "FM")
    rows = result.gaps[(result.gaps["metric"] == "ece") & (result.gaps["finding"] == "A")]
    gap = rows[(rows["arm"] == "old") & (rows["level"] == "F")]["gap"].item()
    assert gap == pytest.approx(women - men, abs=0.03)
