from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from simulated import table
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, roc_auc_score

from cxraug.errors import InputError
from cxraug.evaluation.assembly import CELLS, COMPARISON, GAPS
from cxraug.evaluation.endpoint import Endpoint
from cxraug.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate, write_evaluation
from cxraug.evaluation.predictions import read_predictions

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "predictions"
NIH = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the published predictions in ../shared/data/predictions")
SEEDS = (11, 37, 45)


def at(frame, **where):
    """The one row where the columns have these values."""
    rows = frame[np.logical_and.reduce([frame[key] == value for key, value in where.items()])]
    assert len(rows) == 1, (where, len(rows))
    return rows.iloc[0]


def settings(**changes):
    return EvaluationSettings(**{"bootstrap": 100, **changes})


@pytest.fixture(scope="module")
def arms():
    """Two arms, two draws x two seeds, with validation rows; arm ``new`` is better on A."""
    frames = []
    for arm, boost in (("old", 0.0), ("new", 0.8)):
        for draw in range(2):
            for seed in range(2):
                run = 10 * draw + seed + (100 if arm == "new" else 0)
                frames.append(table(300, validation=100, run=run, boost=boost).assign(arm=arm, seed=seed, draw=draw))
    return read_predictions([pd.concat(frames, ignore_index=True)])


@pytest.fixture(scope="module")
def result(arms):
    primary = Endpoint(arm="new", control="old", finding="A")
    return evaluate(arms, settings(groups=("sex", "age", "sex*age"), controls=("old",), primary=primary))


def test_columns_are_the_contracts(result):
    assert tuple(result.cells.columns) == CELLS
    assert tuple(result.gaps.columns) == GAPS
    assert tuple(result.comparison.columns) == COMPARISON
    assert set(result.cells["flag"]) <= {"", "few", "suppressed"}


def test_values_are_scikit_learns_and_means_over_runs(result):
    frame = table(300, validation=100, run=0)
    test = frame[frame["split"] == "test"]
    women = test[test["sex"] == "F"]
    cells = result.cells
    run = {"arm": "old", "seed": "0", "draw": "0", "finding": "A"}
    where = {"group": "sex", "level": "F"}
    assert at(cells, **run, **where, metric="auroc")["value"] == pytest.approx(
        roc_auc_score(women["y_A"], women["p_A"])
    )
    whole = {"group": "all", "level": "all"}
    assert at(cells, **run, **whole, metric="auprc")["value"] == pytest.approx(
        average_precision_score(test["y_A"], test["p_A"])
    )
    cut = next(row["threshold"] for row in result.info["thresholds"] if all(row[k] == v for k, v in run.items()))
    tn, fp, fn, tp = confusion_matrix(women["y_A"], women["p_A"] >= cut).ravel()
    wanted = {
        "tpr": tp / (tp + fn),
        "fnr": fn / (tp + fn),
        "fpr": fp / (fp + tn),
        "ppv": tp / (tp + fp),
        "npv": tn / (tn + fn),
    }
    for metric, value in wanted.items():
        assert at(cells, **run, **where, metric=metric)["value"] == pytest.approx(value)
    alone = cells[
        (cells["arm"] == "old") & (cells["seed"] != "all") & (cells["finding"] == "A") & (cells["group"] == "all")
    ]
    mean = alone[alone["metric"] == "auroc"]["value"].mean()
    everything = {"arm": "old", "seed": "all", "draw": "all", "finding": "A"}
    row = at(cells, **everything, **whole, metric="auroc")
    assert row["value"] == pytest.approx(mean)
    assert row["ci_low"] < mean < row["ci_high"]
    assert (row["n"], row["n_pos"], row["n_patients"]) == (len(test), test["y_A"].sum(), 300)


def test_probabilities_are_recalibrated_before_brier(result, arms):
    row = at(result.cells, arm="new", seed="0", draw="0", finding="A", group="all", level="all", metric="brier")
    raw = brier_score_loss(arms.y[0], arms.p[4, 0])
    assert row["method"].endswith("p recalibrated on validation (Platt)")
    assert row["value"] < raw


def test_macro_is_the_mean_over_findings(result):
    rows = result.cells[
        (result.cells["seed"] == "all") & (result.cells["arm"] == "new") & (result.cells["group"] == "all")
        & (result.cells["metric"] == "auroc")
    ].set_index("finding")["value"]  # fmt: skip
    assert rows["macro"] == pytest.approx((rows["A"] + rows["B"]) / 2)


def test_without_no_finding_any_finding_is_judged_by_the_stated_rule(result, arms):
    y = arms.y.any(axis=0)
    cuts = {(r["arm"], r["seed"], r["draw"], r["finding"]): r["threshold"] for r in result.info["thresholds"]}
    called = np.any([arms.p[0, k] >= cuts["old", "0", "0", f] for k, f in enumerate("AB")], axis=0)
    where = {"arm": "old", "seed": "0", "draw": "0", "finding": "any finding", "group": "all", "level": "all"}
    assert at(result.cells, **where, metric="underdiagnosis")["value"] == pytest.approx((~called & y).sum() / y.sum())
    assert at(result.cells, **where, metric="overdiagnosis")["value"] == pytest.approx((called & ~y).sum() / (~y).sum())


def test_gaps_are_level_minus_rest_and_mirror_each_other(result):
    where = {"arm": "new", "seed": "0", "draw": "1", "finding": "B", "metric": "auroc"}
    raw = result.gaps[result.gaps["matched"] == ""]
    women, men = (at(result.cells, **where, group="sex", level=level)["value"] for level in "FM")
    gap, mirror = (at(raw, **where, group="sex", level=level) for level in "FM")
    assert gap["gap"] == pytest.approx(women - men)
    assert mirror["gap"] == pytest.approx(men - women)
    assert (gap["p_adjusted"], gap["ci_low"]) == pytest.approx((mirror["p_adjusted"], -mirror["ci_high"]))
    assert (gap["reference"], gap["matched"], gap["family"]) == ("rest", "", "auroc x sex")
    shown = result.gaps.dropna(subset="gap")
    assert ((shown["p_adjusted"] <= 0.05) == ((shown["ci_low"] > 0) | (shown["ci_high"] < 0))).all()
    rates = {"auroc", "tpr", "fpr", "fnr", "underdiagnosis", "overdiagnosis"}
    metrics = {matched: set(rows["metric"]) for matched, rows in result.gaps.groupby("matched")}
    only_matched = {"auprc", "ppv", "npv", "f1", "brier"}  # they move with prevalence
    assert metrics == {"": rates | {"ece"}, "population": rates, "prevalence": only_matched}


def test_comparison_pairs_runs_and_puts_the_primary_first(result):
    first = result.comparison.iloc[0]
    assert (first["family"], first["finding"], first["metric"]) == ("primary", "A", "auroc")
    assert first["p_adjusted"] == pytest.approx(first["p_value"])
    assert (first["n_draws"], first["n_seeds"], first["n_patients"]) == (2, 2, 300)
    cells = result.cells[(result.cells["seed"] == "all") & (result.cells["group"] == "all")]
    old, new = (at(cells, arm=arm, finding="A", metric="auroc")["value"] for arm in ("old", "new"))
    assert first["difference"] == pytest.approx(new - old)
    assert first["ci_low"] > 0
    assert (result.comparison["family"] == "primary").sum() == 1
    shown = result.comparison.dropna(subset="p_value")
    assert (shown["p_adjusted"] >= shown["p_value"] - 1e-15).all()
    assert (shown["mde"] > 0).all()


def test_a_named_reference_and_missing_levels():
    frame = table(200, validation=60)
    frame.loc[frame["patient_id"].isin(["p0000", "p0001", "p0002"]), "sex"] = None
    found = evaluate(read_predictions([frame]), settings(groups=("sex",), reference={"sex": "M"}))
    assert set(found.gaps["level"]) == {"F", "missing"}
    assert set(found.gaps["reference"]) == {"M"}
    hidden = found.cells[(found.cells["level"] == "missing") & (found.cells["metric"] == "auroc")]
    assert set(hidden["flag"]) == {"suppressed"}
    assert hidden["value"].isna().all()
    assert (
        found.cells[(found.cells["group"] == "sex") & (found.cells["finding"] == "macro")]["level"] != "missing"
    ).all()
    assert set(found.cells["seed"]) == {"all"}  # one run: no single rows


def test_rows_without_a_group_do_not_decide_what_a_macro_mean_runs_over():
    frame = table(200)
    frame.loc[frame["patient_id"].isin(frame["patient_id"].unique()[:6]), "sex"] = None
    found = evaluate(read_predictions([frame]), settings(groups=("sex",), metrics=("auroc",)))
    cells = found.cells[found.cells["group"] == "sex"].set_index(["finding", "level"])
    assert cells.loc[("A", "missing"), "flag"] == "suppressed"
    for level in ("F", "M"):
        both = cells.loc[("A", level), "value"], cells.loc[("B", level), "value"]
        assert cells.loc[("macro", level), "value"] == pytest.approx(np.mean(both))
    assert ("macro", "missing") not in cells.index


def test_small_cells_are_suppressed_and_flagged_by_what_the_metric_needs():
    frame = table(400, validation=100)
    keep = frame["y_A"] == 0
    few = frame[~keep].groupby("split").head(9).index
    y = frame["y_A"].where(keep, np.nan)
    y.loc[few] = 1.0
    found = evaluate(read_predictions([frame.assign(y_A=y)]), settings(groups=())).cells
    rows = found[found["finding"] == "A"].set_index("metric")
    assert rows.loc["auroc", "flag"] == rows.loc["tpr", "flag"] == "suppressed"
    assert rows.loc["fpr", "flag"] == ""
    assert rows.loc["auroc", "n_pos"] == 9
    shown = evaluate(read_predictions([frame.assign(y_A=y)]), settings(groups=(), min_cell=0)).cells
    assert shown[shown["finding"] == "A"].set_index("metric").loc["auroc", "flag"] == "few"


def test_nine_positive_images_of_one_patient_do_not_make_a_cell():
    frame = table(200)
    frame["y_A"] = 0.0
    frame.loc[frame.index[:30], "patient_id"] = "p0000"
    frame.loc[frame.index[:30], "y_A"] = 1.0
    rows = evaluate(read_predictions([frame]), settings(groups=())).cells
    assert at(rows, finding="A", metric="auroc")["flag"] == "suppressed"


def test_without_thresholds_threshold_metrics_are_left_out():
    found = evaluate(read_predictions([table()]), settings(groups=("sex",)))
    assert set(found.cells["metric"]) == {"auroc", "auprc", "brier", "ece", "calibration_slope", "max_min"}
    assert "left out" in found.info["notes"][0]


def test_written_files_read_back_and_are_the_same_every_time(result, tmp_path):
    write_evaluation(result, tmp_path / "one")
    loaded = Evaluation.load(tmp_path / "one")
    for name in ("cells", "gaps", "comparison"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(result, name), check_dtype=False)
    assert loaded.info["primary"]["arm"] == "new"
    write_evaluation(loaded, tmp_path / "two")
    for name in ("cells.csv", "gaps.csv", "comparison.csv", "curves.csv", "thresholds.csv", "evaluation.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": ("race",)}, "no such group column"),
        ({"reference": {"sex": "X"}}, "no such reference level of sex; found 'X'; expected F, M"),
        ({"reference": {"view": "PA"}}, "not asked for"),
        ({"controls": ("real",)}, "no such arm.*'real'.*model"),
        ({"primary": Endpoint(arm="model", control="model", finding="C")}, "finding was not predicted"),
    ],
)
def test_names_that_are_not_there_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        evaluate(read_predictions([table()]), settings(**changes))


def test_a_column_of_names_is_no_group():
    with pytest.raises(InputError, match="column 'image': too many levels for a group; found 6"):
        evaluate(read_predictions([table(250)]), settings(groups=("image",)))


@pytest.mark.parametrize(
    "changes", [{"metrics": ["auc"]}, {"threshold_rule": "best"}, {"age_bins": [20, 0]}, {"alpha": 0}, {"seeds": 3}]
)
def test_settings_are_checked(changes):
    with pytest.raises(ValidationError):
        EvaluationSettings(**changes)


# -- a published audit ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nih():
    predictions = read_predictions([SHARED / f"nih_seed{seed}.csv.gz" for seed in SEEDS])
    cuts = [SHARED / f"nih_seed{seed}_thresholds.csv" for seed in SEEDS]
    wanted = ("auroc", "fpr", "fnr", "underdiagnosis", "overdiagnosis")
    return evaluate(
        predictions, settings(groups=("sex", "age", "sex*age"), min_cell=0, metrics=wanted, matched=()), cuts
    )


def markdown_tables(text):
    """The rows of the Markdown tables, numbers in brackets dropped."""
    tables, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.split(" (")[0].strip() for cell in line.strip("|").split("|")])
        elif rows:
            tables.append([rows[0], *rows[2:]])
            rows = []
    return tables


@NIH
def test_published_aurocs_to_five_digits(nih):
    published = markdown_tables((SHARED / "README.md").read_text())[0][1:]
    assert len(published) == 15
    for finding, *values in published:
        for k, value in enumerate(values):
            row = at(nih.cells, seed=str(k), finding=finding, group="all", level="all", metric="auroc")
            assert row["value"] == pytest.approx(float(value), abs=1e-5)


@NIH
def test_published_rates_of_no_finding_by_group_to_the_printed_digit(nih):
    by_sex, by_age = markdown_tables((SHARED / "README.md").read_text())[1:3]
    checked = 0
    for level, *values in by_sex[1:] + by_age[1:]:
        age, _, sex = level.removeprefix("age ").partition(", sex ")
        group, name = ("sex", level) if level in "MF" else ("sex*age", f"{sex}*{age}") if sex else ("age", age)
        for k in range(3):
            for metric, value in zip(("underdiagnosis", "overdiagnosis"), values[2 * k : 2 * k + 2], strict=True):
                row = at(nih.cells, seed=str(k), finding="No Finding", group=group, level=name, metric=metric)
                assert f"{row['value']:.3f}" == value
                checked += 1
    assert checked == 6 * 17


@NIH
def test_three_seeds_make_one_report_with_wider_intervals(nih):
    where = {"finding": "Nodule", "group": "all", "level": "all", "metric": "auroc"}
    spread = at(nih.cells, seed="all", **where)
    assert spread["value"] == pytest.approx(np.mean([at(nih.cells, seed=str(k), **where)["value"] for k in range(3)]))
    assert "1 draw x 3 seeds" in spread["method"]
    assert nih.info["n_patients"] == 1835
