import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated import measure_in, table
from sklearn.metrics import roc_auc_score

from cxraug.evaluation.evaluate import EvaluationSettings, evaluate
from cxraug.evaluation.extremes import largest_range
from cxraug.evaluation.predictions import read_predictions
from cxraug.evaluation.uncertainty import Estimate, combine


def independent(values, error, n=1000, df=1e6):
    influence = np.zeros((len(values), n))
    for k in range(len(values)):
        influence[k, k] = error
    return [Estimate(v, error**2, df, error**2, row, 1, 1) for v, row in zip(values, influence, strict=True)]


def test_the_null_of_independent_levels_is_the_studentised_range():
    found = largest_range([independent([0.5] * 5, 0.02)], seed=0, draws=40000)
    assert (found.value, found.p_value) == (0, 1)
    assert found.quantile == pytest.approx(0.02 * stats.studentized_range.ppf(0.95, 5, 1e6), rel=0.02)
    assert found.mean == pytest.approx(0.02 * 2.326, rel=0.01)  # d2 of five normals
    seen = largest_range([independent([0.5, 0.5, 0.5, 0.5, 0.57], 0.02)], seed=0, draws=40000)
    assert seen.p_value == pytest.approx(stats.studentized_range.sf(0.07 / 0.02, 5, 1e6), abs=0.005)


def test_few_patients_widen_the_null():
    wide, narrow = (largest_range([independent([0, 0, 0], 1.0, df=df)], 1).quantile for df in (5, 1e6))
    assert wide > 1.2 * narrow


def test_levels_that_move_together_have_no_range():
    one = independent([0.4, 0.4], 0.1)[0]
    assert largest_range([[one, one]], 0).quantile == pytest.approx(0, abs=0.1)  # correlation 1, t noise apart
    blocks = [independent([0.1, 0.2], 0.01), independent([0.3, 0.6], 0.01)]
    assert largest_range(blocks, 0).value == pytest.approx(0.3)


def test_p_values_are_uniform_where_there_is_no_gap():
    rng, found = np.random.default_rng(3), []
    for replicate in range(200):
        ids = np.repeat(np.arange(250), rng.geometric(0.4, 250))
        level = rng.integers(0, 4, 250)[ids]
        called = (rng.standard_normal(250)[ids] + rng.standard_normal(len(ids)) > 0.3)[None]
        rates = [
            combine(measure_in("fpr", ids, np.zeros(len(ids)), decision=called, cell=level == k), np.zeros(1))
            for k in range(4)
        ]
        found.append(largest_range([rates], replicate, draws=500))
    p = [one.p_value for one in found]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean([one.value for one in found]) == pytest.approx(np.mean([one.mean for one in found]), rel=0.1)


@pytest.fixture(scope="module")
def audited():
    frame = table(300, validation=100)
    frame.loc[frame.index[:12], "sex"] = None
    settings = EvaluationSettings(groups=("sex", "age"), bootstrap=0, matched=(), few=20)
    return frame[frame["split"] == "test"], evaluate(read_predictions([frame]), settings)


def test_equalised_odds_are_fairlearns(audited):
    metrics = pytest.importorskip("fairlearn.metrics")
    frame, found = audited
    cut = next(row["threshold"] for row in found.info["thresholds"] if row["finding"] == "A")
    bands = pd.cut(frame["age"], [0, 20, 40, 60, 80, 200], right=False)
    for group, of in (("sex", frame["sex"]), ("age", bands)):
        known = of.notna()
        wanted = metrics.equalized_odds_difference(
            frame["y_A"][known], frame["p_A"][known] >= cut, sensitive_features=of[known].astype(str)
        )
        cells = found.cells
        row = cells[(cells["metric"] == "equalised_odds") & (cells["group"] == group) & (cells["finding"] == "A")]
        assert row["value"].tolist() == pytest.approx([wanted])
        assert (row["level"].item(), row["ci_low"].isna().item()) == ("all", True)


def test_max_min_stands_beside_its_null(audited):
    frame, found = audited
    rows = found.cells[(found.cells["metric"] == "max_min") & (found.cells["group"] == "sex")]
    assert set(rows["level"]) == {"auroc", "tpr", "fpr", "underdiagnosis", "overdiagnosis"}
    row = rows[(rows["level"] == "auroc") & (rows["finding"] == "A")].iloc[0]
    by_sex = [roc_auc_score(part["y_A"], part["p_A"]) for _, part in frame.groupby("sex")]
    assert row["value"] == pytest.approx(max(by_sex) - min(by_sex))
    told = re.fullmatch(
        r"max - min over 2 levels; biased upwards; with no gap: mean ([\d.]+), 95 % quantile ([\d.]+), p ([\d.]+)",
        row["method"],
    )
    mean, quantile, p = map(float, told.groups())
    assert 0 < mean < quantile
    raw = found.gaps[(found.gaps["group"] == "sex") & (found.gaps["metric"] == "auroc")]
    assert set(raw["level"]) == {"F", "M", "missing"}
    listed = next(e for e in found.info["extremes"] if (e["of"], e["finding"], e["group"]) == ("auroc", "A", "sex"))
    assert (listed["levels"], round(listed["p_value"], 4)) == (["F", "M"], p)


def test_one_level_alone_is_suppressed_as_a_row():
    frame = table(150, validation=50).assign(sex="F")
    found = evaluate(
        read_predictions([frame]), EvaluationSettings(groups=("sex",), bootstrap=0, metrics=("auroc", "max_min"))
    ).cells
    rows = found[found["metric"] == "max_min"]
    assert set(rows["flag"]) == {"suppressed"}
    assert rows["value"].isna().all()
