"""Curves agree with the metrics they draw, and exist only where those are shown."""

import numpy as np
import pandas as pd
import pytest
from simulated import table

from cxraug.evaluation.bands import FALSE_POSITIVE_RATES, Reliability, Roc, Rows
from cxraug.evaluation.curves import CURVES
from cxraug.evaluation.evaluate import EvaluationSettings, evaluate
from cxraug.evaluation.predictions import read_predictions


def area(x, y):
    return float(np.sum(np.diff(x) * (np.asarray(y)[1:] + np.asarray(y)[:-1]) / 2))


def test_roc_of_four_scores_is_its_steps():
    """Scores 4+, 3-, 2+, 1-: TPR 1/2 until half of the negatives are called, then 1."""
    found = Roc(np.array([4.0, 3, 2, 1]), Rows(np.array([True, False, True, False]), np.arange(4))).y
    assert set(found[FALSE_POSITIVE_RATES < 0.5]) == {0.5}
    assert set(found[FALSE_POSITIVE_RATES >= 0.5]) == {1.0}


def test_roc_of_equal_scores_is_the_diagonal():
    found = Roc(np.zeros(7), Rows(np.arange(7) < 3, np.arange(7))).y
    np.testing.assert_allclose(found, FALSE_POSITIVE_RATES)


def test_bins_hold_means_and_frequencies():
    p = np.array([0.1, 0.9, 0.2, 0.8])
    found = Reliability(p, Rows(p > 0.85, np.array([0, 0, 1, 1])), bins=2)
    np.testing.assert_allclose(found.x, [0.15, 0.85])
    np.testing.assert_allclose(found.y, [0.0, 0.5])
    assert found.patients.tolist() == [2, 2]


@pytest.fixture(scope="module")
def found():
    frames = [table(260, run=k) for k in range(2)]
    settings = EvaluationSettings(groups=("sex", "sex*age"), metrics=("auroc", "ece"), bootstrap=0)
    return evaluate(read_predictions(frames), settings)


def test_curves_stand_exactly_where_the_metric_is_shown(found):
    keys = ["arm", "finding", "group", "level"]
    rows = found.cells[(found.cells["seed"] == "all") & (found.cells["finding"] != "macro")]
    for curve, metric in (("roc", "auroc"), ("calibration", "ece")):
        part = rows[rows["metric"] == metric]
        assert (part["flag"] == "suppressed").any()
        shown = set(part.loc[part["flag"] != "suppressed", keys].itertuples(index=False, name=None))
        drawn = found.curves[found.curves["curve"] == curve][keys]
        assert set(drawn.itertuples(index=False, name=None)) == shown
        assert drawn.value_counts().max() <= 60


def test_the_area_under_the_drawn_curve_is_the_auroc(found):
    values = found.cells[(found.cells["seed"] == "all") & (found.cells["metric"] == "auroc")]
    values = values.set_index(["finding", "group", "level"])["value"]
    rocs = found.curves[found.curves["curve"] == "roc"]
    for key, part in rocs.groupby(["finding", "group", "level"]):
        assert area(part["x"], part["y"]) == pytest.approx(values[key], abs=0.012)
    assert list(found.curves.columns) == list(CURVES)


def test_a_curve_lies_in_its_band(found):
    drawn = found.curves.dropna(subset=["low"])
    assert len(drawn) > 0.5 * len(found.curves)
    assert ((drawn["low"] <= drawn["y"]) & (drawn["y"] <= drawn["high"])).all()
    assert drawn["low"].min() >= 0
    assert drawn["high"].max() <= 1


def test_without_auroc_there_is_no_curve():
    settings = EvaluationSettings(groups=("sex",), metrics=("brier",), bootstrap=0)
    assert isinstance(evaluate(read_predictions([table(60)]), settings).curves, pd.DataFrame)
    assert evaluate(read_predictions([table(60)]), settings).curves.empty
