"""Probes of a run: asked for in the recipe or afterwards, resumed, shown, and refused where the data cannot say."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_recipe import tiny_recipe

from cxraug.classifiers.probe import arm_features
from cxraug.cli.main import run
from cxraug.pages.markdown import plain_text
from cxraug.pages.probes import probes_section
from cxraug.pages.runfolder import read_run
from cxraug.run import run_recipe
from cxraug.storage import read_json

RECIPE = tiny_recipe(
    "probed",
    {"phantom": {"n": 130, "seed": 3, "size": 32, "prevalence": {"Effusion": 0.4}, "splits": [0.5, 0.2, 0.3]}},
    seeds=2, min_cell=4, probes=["sex", "age"], recalibration="none",
)  # fmt: skip
COLUMNS = "arm,seed,draw,attribute,level,value,ci_low,ci_high,n,n_pos,n_patients,flag"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probes")
    (folder / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    run_recipe(folder / "r.yaml", folder / "out")
    return folder


def test_every_arm_and_seed_is_probed_for_every_level(folder: Path) -> None:
    path = folder / "out" / "evaluation" / "probes.csv"
    assert path.read_text().splitlines()[0] == COLUMNS
    table = pd.read_csv(path, dtype={"seed": str, "draw": str}, keep_default_na=False, na_values={"value": ""})
    manifest = pd.read_parquet(folder / "out" / "cohort" / "manifest.parquet")
    test = manifest[manifest["split"] == "test"]
    assert set(table["arm"]) == {"duplicated", "mixed", "untrained"}
    assert set(zip(table["seed"], table["draw"], strict=True)) == {("all", "all"), ("0", "0"), ("1", "0")}
    assert set(table["attribute"]) == {"sex", "age"}
    assert set(table.loc[table["attribute"] == "sex", "level"]) == {"F"}  # that of M is the same number
    one = table[(table["attribute"] == "sex") & (table["seed"] == "all") & (table["arm"] == "mixed")].iloc[0]
    assert (one["n"], one["n_pos"]) == (len(test), (test["sex"] == "F").sum())
    assert one["n_patients"] == test["patient_id"].nunique()
    shown = table[table["flag"] != "suppressed"]
    assert shown["value"].between(0, 1).all()
    means = shown[shown["seed"] != "all"].groupby(["arm", "attribute", "level"])["value"].mean()
    whole = shown[shown["seed"] == "all"].set_index(["arm", "attribute", "level"])["value"]
    assert np.allclose(whole[means.index], means)


def test_differences_are_paired_and_those_of_the_tables(folder: Path) -> None:
    """Two arms that begin with one network have one difference each to it, between them, and its sign."""
    values = read_run(folder / "out").probes
    values = values[(values["seed"] == "all") & (values["level"] == "F")].set_index("arm")["value"]
    rows = read_run(folder / "out").probe_differences
    rows = rows[rows["level"] == "F"]
    pairs = [("untrained", "duplicated"), ("untrained", "mixed"), ("duplicated", "mixed")]
    assert sorted(zip(rows["baseline"], rows["arm"], strict=True)) == sorted(pairs)
    for row in rows.to_dict("records"):
        assert row["difference"] == pytest.approx(values[row["arm"]] - values[row["baseline"]], abs=1e-4)
        assert row["ci_low"] < row["difference"] < row["ci_high"]
    every = read_run(folder / "out").probes
    alone = every[(every["level"] == "F") & (every["seed"] == "all")].set_index("arm")
    wide = alone.loc["mixed", "ci_high"] - alone.loc["mixed", "ci_low"]
    own = rows[(rows["baseline"] == "duplicated") & (rows["arm"] == "mixed")].iloc[0]
    assert own["ci_high"] - own["ci_low"] < 1.5 * wide  # unpaired it would be the wider the closer the arms are


def test_before_training_all_arms_of_a_seed_are_one_network_and_training_changes_it(folder: Path) -> None:
    folders = [folder / "out" / "draw-00" / "arms" / name / "seed-0" for name in ("duplicated", "mixed")]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    before = [arm_features(part, pixels, trained=False) for part in folders]
    assert np.array_equal(*before)
    assert not np.allclose(before[0], arm_features(folders[0], pixels))
    other = arm_features(folder / "out" / "draw-00" / "arms" / "mixed" / "seed-1", pixels, trained=False)
    assert not np.allclose(before[0], other)


def test_an_evaluation_folder_shows_its_probes_too(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out" / "evaluation", tmp_path / "e")
    assert run(["report", str(tmp_path / "e"), "--format", "html,md"]) == 0
    found = read_run(folder / "out").probes
    one = found[(found["attribute"] == "sex") & (found["seed"] == "all")].set_index("arm")
    mixed, before = (f"{r['value']:.3f} [{r['ci_low']:.3f}, {r['ci_high']:.3f}]"
                     for r in (one.loc["mixed"], one.loc["untrained"]))  # fmt: skip
    verb = "encodes" if one.loc["mixed", "ci_low"] > 0.5 else "is not shown to encode"
    said = f"mixed {verb} sex: AUROC {mixed}; the same network before training: {before}"
    page = (tmp_path / "e" / "report.html").read_text()
    assert said in page
    assert 'id="probes"' in page
    assert plain_text(said) in (tmp_path / "e" / "report.md").read_text()
    (tmp_path / "e" / "probe_differences.csv").unlink()  # a folder that is older
    assert run(["report", str(tmp_path / "e")]) == 0
    assert "difference in AUROC of the probe" not in (tmp_path / "e" / "report.html").read_text()


def test_recalibration_is_what_the_recipe_asks_for(folder: Path) -> None:
    assert read_json(folder / "out" / "evaluation" / "evaluation.json")["recalibration"] == {"Effusion": "none"}


def test_levels_of_few_patients_are_suppressed(folder: Path) -> None:
    table = pd.read_csv(folder / "out" / "evaluation" / "probes.csv")
    manifest = pd.read_parquet(folder / "out" / "cohort" / "manifest.parquet")
    bands = pd.cut(
        manifest["age"], [0, 20, 40, 60, 80, 200], right=False, labels=["0-19", "20-39", "40-59", "60-79", "80+"]
    )
    patients = manifest.groupby([bands.astype(str), "split"])["patient_id"].nunique()
    for level, rows in table[table["attribute"] == "age"].groupby("level"):
        least = min(patients.get((level, split), 0) for split in ("train", "test"))
        assert (rows["flag"] == "suppressed").all() == (least < 4), level
        assert rows["value"].isna().all() == (least < 4), level


def test_a_kill_between_probes_ends_with_the_same_table(folder: Path) -> None:
    out = folder / "out"
    before = (out / "evaluation" / "probes.csv").read_bytes()
    markers = sorted(out.glob("draw-*/arms/*/seed-*/probes/*/done.json"))
    assert len(markers) == 4
    kept = {path: path.stat().st_mtime_ns for path in markers[1:]}
    for path in (markers[0], out / "evaluation" / "done.json", out / "evaluation" / "probes.csv"):
        path.unlink()
    run_recipe(folder / "r.yaml", out)
    assert (out / "evaluation" / "probes.csv").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in markers[1:]} == kept


def test_a_finished_training_is_probed_for_more_and_keeps_what_was_found(folder: Path) -> None:
    path = folder / "out" / "evaluation" / "probes.csv"
    before = path.read_text().splitlines()
    models = {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("model.safetensors")}
    assert run(["train", str(folder / "r.yaml"), "--out", str(folder / "out"), "--probe", "sex*age"]) == 0
    after = path.read_text().splitlines()
    assert after[: len(before)] == before
    assert {line.split(",")[3] for line in after[len(before) :]} == {"sex*age"}
    assert models == {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("model.safetensors")}


def test_the_report_shows_the_probes_and_what_they_do_not_mean(folder: Path) -> None:
    found = read_run(folder / "out")
    page = str(probes_section(found))
    one = found.probes[(found.probes["attribute"] == "sex") & (found.probes["seed"] == "all")].iloc[0]
    assert f"{one['value']:.3f} [{one['ci_low']:.3f}, {one['ci_high']:.3f}]" in page
    for words in ("Encoding is not use", "eBioMedicine", "Lancet Digital Health"):
        assert words in page
    assert 'id="probes"' in (folder / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("probes", "words"),
    [
        (["ward"], ["column 'ward'", "no such column to probe", "sex"]),
        (["patient_id"], ["too many levels to probe", "patient_id", "at most 20"]),
        (["source"], ["a probe needs two levels in the train rows"]),
        (["sex", "sex"], ["evaluate.probes", "each attribute once"]),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], probes: list[str], words: list[str]
) -> None:
    data = {**RECIPE["data"], "manifest": str(folder / "out" / "cohort" / "manifest.parquet"), "phantom": None}
    recipe = {**RECIPE, "data": data, "evaluate": {**RECIPE["evaluate"], "probes": probes}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["run", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines
    assert not (tmp_path / "out" / "settings.json").exists()


def test_probe_of_no_column_is_refused_before_the_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for asked, word in (("ward", "'ward'"), (" , ", "--probe names no column")):
        assert run(["train", str(folder / "r.yaml"), "--out", str(folder / "out"), "--probe", asked]) == 2
        assert word in capsys.readouterr().err
