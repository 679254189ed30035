"""Plans aimed by an evaluation: of validation rows only, at the worst gap or interval, within the budget."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from balance.toys import train_of
from typer.testing import CliRunner

from cxraug.balance.evaluated import read_aims
from cxraug.balance.plan import PlanSettings, make_plan
from cxraug.cli import evaluate as evaluate_command
from cxraug.cli import plan as plan_command
from cxraug.errors import InputError
from cxraug.evaluation.evaluate import EvaluationSettings, evaluate, write_evaluation
from cxraug.evaluation.predictions import read_predictions
from cxraug.studies.manifest import Manifest

FINDINGS = ("Cardiomegaly", "Effusion")
QUICK = EvaluationSettings(groups=("sex",), metrics=("auroc",), matched=(), bootstrap=0)


def predictions_of(manifest: Manifest, *, hard: float = 0.4, seed: int = 0) -> pd.DataFrame:
    """Scores that tell Cardiomegaly well in men and hardly in women; every second test patient becomes validation."""
    rng = np.random.default_rng(seed)
    rows = manifest.frame[manifest.frame["split"] == "test"].reset_index(drop=True)
    split = np.where(np.arange(len(rows)) % 4 < 3, "val", "test")
    table = rows[["image", "patient_id", "sex", "age"]].assign(split=split)
    for finding in FINDINGS:
        y = rows["labels"].str.split("|").map(lambda parts, f=finding: f in parts).to_numpy(float)
        signal = np.where((rows["sex"] == "F") & (finding == "Cardiomegaly"), hard, 2.5)
        table[f"y_{finding}"], table[f"p_{finding}"] = y, 1 / (1 + np.exp(-(signal * y + rng.normal(size=len(rows)))))
    return table


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, large: Manifest) -> tuple[Path, Path, Manifest]:
    """A folder with predictions, one with an evaluation of their validation rows, and the manifest."""
    folder, manifest = tmp_path_factory.mktemp("evaluated"), large
    table = predictions_of(manifest)
    table.to_parquet(folder / "predictions.parquet", index=False)
    validation = table.loc[table["split"] == "val", "patient_id"]
    split = manifest.frame["split"].where(~manifest.frame["patient_id"].isin(validation), "val")
    whole = Manifest(manifest.frame.assign(split=split.astype("str")), Path("."), None, manifest.findings,
                     manifest.annotated)  # fmt: skip
    found = evaluate(read_predictions([folder / "predictions.parquet"], on="val"), QUICK)
    write_evaluation(found, folder / "validation")
    return folder, folder / "validation", whole


def test_the_evaluation_of_validation_rows_reads_no_test_row(data: tuple[Path, Path, Manifest]) -> None:
    table = pd.read_parquet(data[0] / "predictions.parquet")
    other = table.copy()
    test = other["split"] == "test"
    other.loc[test, "p_Effusion"] = 1 - other.loc[test, "p_Effusion"]
    one, two = (evaluate(read_predictions([frame], on="val"), QUICK).cells for frame in (table, other))
    pd.testing.assert_frame_equal(one, two)
    assert one.loc[(one["group"] == "all") & (one["finding"] == "Effusion"), "n"].iloc[0] == (~test).sum()
    with pytest.raises(InputError, match="no validation rows"):
        read_predictions([table.drop(columns="split")], on="val")


def test_the_budget_goes_where_the_gap_is_worst(data: tuple[Path, Path, Manifest]) -> None:
    train = train_of(data[2])
    aims = read_aims(data[1], aim="gap", manifest=data[2])
    worst = aims.cells.loc[aims.cells["weight"].idxmax()]
    assert (worst["finding"], worst["group"], worst["level"]) == ("Cardiomegaly", "sex", "F")
    plan = make_plan(train, PlanSettings(budget=120, findings=list(FINDINGS)), aims=aims)
    assert len(plan.frame) == 120
    wanted = plan.frame["labels"].str.contains("Cardiomegaly") & (plan.frame["sex"] == "F")
    assert wanted.mean() > 0.6
    with pytest.raises(InputError, match="needs a budget"):
        make_plan(train, aims=aims)


def test_the_budget_goes_where_the_interval_is_widest(data: tuple[Path, Path, Manifest]) -> None:
    aims = read_aims(data[1], aim="interval")
    cells = pd.read_csv(data[1] / "cells.csv")
    cells = cells[(cells["metric"] == "auroc") & (cells["group"] == "sex") & cells["finding"].isin(FINDINGS)]
    width = (cells["ci_high"] - cells["ci_low"]).to_numpy()
    assert np.allclose(sorted(aims.cells["weight"]), sorted(width))
    plan = make_plan(train_of(data[2]), PlanSettings(budget=200), aims=aims)
    planned = plan.table.set_index(["finding", "level"])["planned"]
    order = aims.cells.sort_values("weight")
    least, most = order.iloc[0], order.iloc[-1]
    assert planned[most["finding"], most["level"]] > planned[least["finding"], least["level"]]


def test_gaps_that_are_noise_are_shrunk(large: Manifest, tmp_path: Path) -> None:
    """Scores that are as good for everybody: what is left of the gaps is smaller, and nothing if they scatter less
    than their errors say."""
    for seed in range(4):
        table = predictions_of(large, hard=2.5, seed=seed)
        write_evaluation(evaluate(read_predictions([table], on="val"), QUICK), tmp_path / str(seed))
        raw = pd.read_csv(tmp_path / str(seed) / "gaps.csv")["gap"].abs().max()
        aims = read_aims(tmp_path / str(seed), aim="gap")
        if "intervals instead" not in " ".join(aims.notes):
            assert aims.cells["weight"].max() < 0.8 * raw


def test_an_evaluation_that_was_read_on_test_rows_is_refused(data: tuple[Path, Path, Manifest], tmp_path: Path) -> None:
    table = pd.read_parquet(data[0] / "predictions.parquet")
    write_evaluation(evaluate(read_predictions([table]), QUICK), tmp_path / "test")
    with pytest.raises(InputError, match=r"validation rows only; this evaluation was read on test rows.*--on val"):
        read_aims(tmp_path / "test")
    info = json.loads((tmp_path / "test" / "evaluation.json").read_text())
    del info["judged"]  # of an older version
    (tmp_path / "test" / "evaluation.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="rows that it does not name"):
        read_aims(tmp_path / "test")
    with pytest.raises(InputError, match="no such file"):
        read_aims(tmp_path)


def test_test_patients_that_call_themselves_validation_are_refused(
    data: tuple[Path, Path, Manifest], tmp_path: Path
) -> None:
    manifest = data[2]
    split = manifest.frame["split"].where(manifest.frame["split"] != "val", "test")
    renamed = Manifest(manifest.frame.assign(split=split), Path("."), None, manifest.findings, manifest.annotated)
    with pytest.raises(InputError, match="judged patients of the manifest's test split"):
        read_aims(data[1], manifest=renamed)


def test_patients_of_another_manifest_are_refused_and_missing_ones_told(data: tuple[Path, Path, Manifest]) -> None:
    manifest = data[2]

    def with_patients(patients: pd.Series) -> Manifest:
        frame = manifest.frame.assign(patient_id=patients.astype("str"))
        return Manifest(frame, Path("."), None, manifest.findings, manifest.annotated)

    own = manifest.frame["patient_id"]
    with pytest.raises(InputError, match="other patients than those of the manifest; found 'none of"):
        read_aims(data[1], manifest=with_patients("x" + own))
    val = own[manifest.frame["split"] == "val"].unique()
    gone = own.where(own != val[0], "x")
    assert (
        f"1 of {len(val):,} judged patients are not in the manifest"
        in read_aims(data[1], manifest=with_patients(gone)).notes
    )


def test_arms_must_be_named_where_there_are_several(data: tuple[Path, Path, Manifest], tmp_path: Path) -> None:
    table = pd.read_parquet(data[0] / "predictions.parquet")
    both = pd.concat([table.assign(arm="a"), table.assign(arm="b")])
    write_evaluation(evaluate(read_predictions([both], on="val"), QUICK), tmp_path)
    with pytest.raises(InputError, match="several arms"):
        read_aims(tmp_path)
    with pytest.raises(InputError, match="no such arm"):
        read_aims(tmp_path, arm="c")
    with pytest.raises(InputError, match="--aim is not known"):
        read_aims(tmp_path, arm="a", aim="luck")
    assert len(read_aims(tmp_path, arm="b").cells)


def test_the_commands_from_predictions_to_a_second_round(data: tuple[Path, Path, Manifest], tmp_path: Path) -> None:
    app = typer.Typer()
    plan_command.register(app)
    evaluate_command.register(app)
    manifest = tmp_path / "manifest.csv"
    frame = data[2].frame
    frame.assign(image=frame["image"] + ".png").drop(columns="study_id").to_csv(manifest, index=False)
    words = ["evaluate", str(data[0] / "predictions.parquet"), "--on", "val", "--groups", "sex", "--metrics", "auroc",
             "--matched", "", "--out", str(tmp_path / "val")]  # fmt: skip
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "validation images of" in result.output
    words = ["plan", str(manifest), "--from-evaluation", str(tmp_path / "val"), "--budget", "80", "--per-real", "3"]
    first = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "one")], catch_exceptions=False)
    assert first.exit_code == 0
    assert "limits: " in first.output
    assert "all kept" in first.output
    assert (tmp_path / "one" / "plan.html").is_file()
    about = json.loads((tmp_path / "one" / "plan.json").read_text())
    assert about["cost"]["images"] == 80
    assert any("worst validation gap is Cardiomegaly, sex F" in note for note in about["notes"])
    # what the first round made counts as there in the second
    rows = pd.read_parquet(tmp_path / "one" / "plan.parquet")
    made = tmp_path / "made"
    made.mkdir()
    table = pd.DataFrame({
        "image": rows["prompt_id"] + ".png", "patient_id": "syn-" + rows["prompt_id"], "study_id": rows["prompt_id"],
        "view": "PA", "sex": rows["sex"], "age": rows["age"], "labels": rows["labels"], "split": "train",
        "synthetic": True, "gate": ["reject" if i % 4 == 0 else "accept" for i in range(len(rows))],
    })  # fmt: skip
    table.to_parquet(made / "manifest.parquet", index=False)
    words += ["--with", str(made), "--json"]
    second = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "two")], catch_exceptions=False)
    assert "60 synthetic studies are there already" in " ".join(json.loads(second.stdout)["notes"])
    for wrong, message in (
        (["--groups", "age"], "takes targets and groups"), (["--time"], "--time times a core"),
        (["--aim", "luck"], "--aim is not known"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, [*words, *wrong, "--out", str(tmp_path / "x")], catch_exceptions=False)
