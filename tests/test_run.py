"""A run walks from data to verdict, survives a kill at any moment, and refuses what would fool its user."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from cxraug.arm_job import ArmJob, _same_images, _train
from cxraug.conclusion import unjudged
from cxraug.errors import HiddenDataError, InputError
from cxraug.run import Run, run_recipe
from cxraug.storage import read_json

TINY = {
    "name": "tiny",
    "draws": 2,
    "seeds": 1,
    "workers": 1,
    "data": {
        "phantom": {"n": 150, "seed": 5, "size": 32, "prevalence": {"Effusion": 0.3}, "splits": [0.5, 0.2, 0.3]},
        "findings": ["Cardiomegaly", "Effusion"],
        "size": 32,
        "limit": [{"finding": "Effusion", "patients": 8}],
    },
    "plan": {"budget": 32},
    "core": {"name": "gaussian"},
    "gate": {"steps": 3},
    "arms": {"use": ["real", "duplicated", "mixed"], "ratios": [0.25, 0.5]},
    "train": {"steps": 6, "batch_size": 8, "eval_every": 3, "checkpoint_every": 2, "model": "test_resnet"},
    "curve": {"finding": "Effusion", "patients": [4], "draws": 1, "seeds": 1},
    "evaluate": {
        "groups": ["sex"],
        "min_cell": 2,
        "primary": {"arm": "mixed", "control": "duplicated", "finding": "Effusion"},
    },
}
TABLES = (
    "evaluation/cells.csv",
    "evaluation/gaps.csv",
    "evaluation/comparison.csv",
    "curve/points.csv",
    "verdict.json",
)


def write(folder: Path, changes: dict | None = None) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **(changes or {})}))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_recipe(write(folder), folder / "out")
    return folder


def test_a_run_ends_with_a_verdict_and_the_contracts_tables(finished: Path) -> None:
    out = finished / "out"
    verdict = read_json(out / "verdict.json")
    assert verdict["finding"] == "Effusion"
    assert verdict["n_draws"] == 2
    assert verdict["outside"] is False
    assert verdict["sentence"].startswith("Effusion AUROC")
    comparison = pd.read_csv(out / "evaluation" / "comparison.csv")
    assert {"baseline", "arm", "finding", "difference", "ci_low", "ci_high", "mde"} <= set(comparison)
    assert (out / "report.html").stat().st_size < 5e6
    points = pd.read_csv(out / "curve" / "points.csv")
    assert set(points["n_patients"].astype(str)) == {"4", "8", "all"}


def test_arms_of_one_draw_add_equally_many_images(finished: Path) -> None:
    for draw in range(2):
        folder = finished / "out" / f"draw-{draw:02d}"
        ratio = read_json(folder / "ratio.json")["chosen"]
        cards = [
            read_json(folder / "arms" / f"{arm}@{ratio:g}" / "seed-0" / "card.json") for arm in ("mixed", "duplicated")
        ]
        assert cards[0]["data"]["added"] == cards[1]["data"]["added"] > 0
        assert cards[0]["settings"] == cards[1]["settings"]


def test_limits_hold_and_say_what_else_went(finished: Path) -> None:
    run = Run.open(finished / "out")
    frame, y = run.manifest.frame, run.y[:, 1]
    for draw in range(2):
        kept = run.keep(draw).keep & run.rows("train") & (y == 1)
        assert frame["patient_id"][kept].nunique() == 8
        assert run.keep(draw).keep[run.rows("test")].all()
        told = read_json(run.draw_folder(draw) / "limit.json")
        assert told["removed"]
        assert [(limit["finding"], limit["asked"], limit["left"]) for limit in told["limits"]] == [("Effusion", 8, 8)]


def test_nothing_that_was_trained_has_seen_hidden_rows(finished: Path) -> None:
    from cxraug.studies.seen import Seen

    run = Run.open(finished / "out")
    cards = sorted((finished / "out").glob("draw-*/**/card.json"))
    assert len(cards) >= 6
    for path in cards:
        draw = int(next(part for part in path.parts if part.startswith("draw-"))[5:])
        patients, _ = run.forbidden(run.keep(draw).keep)
        seen = Seen.from_json(read_json(path)["seen"])
        assert seen.patients
        assert all(seen.count_patients(ids) == 0 for ids in patients.values()), path


def test_a_finished_run_is_not_done_again(finished: Path) -> None:
    files = {p: p.stat().st_mtime_ns for p in (finished / "out").rglob("card.json")}
    run_recipe(finished / "tiny.yaml", finished / "out")
    assert files == {p: p.stat().st_mtime_ns for p in (finished / "out").rglob("card.json")}


def test_other_versions_are_said_once_and_kept_for_the_report(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cxraug.pages.report import settings_section
    from cxraug.pages.runfolder import read_run

    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    settings = read_json(out / "settings.json")
    now = dict(settings["versions"])
    settings["versions"] |= {"torch": "1.0", "timm": "0.1"}
    (out / "settings.json").write_text(json.dumps(settings))
    for sitting in range(2):
        run_recipe(finished / "tiny.yaml", out, until="data")
        told = [line for line in capsys.readouterr().err.splitlines() if "other versions" in line]
        assert len(told) == (1 if sitting == 0 else 0)
        if told:
            assert f"torch {now['torch']} (was 1.0), timm {now['timm']} (was 0.1)" in told[0]
        assert read_json(out / "settings.json")["resumed with"] == [{"torch": now["torch"], "timm": now["timm"]}]
    page = str(settings_section(read_run(out)))
    assert "resumed with.0.torch" in page
    assert now["torch"] in page


def test_an_arm_is_predicted_on_the_device_it_was_trained_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxraug.classifiers import prediction, training

    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    run = Run.open(out)
    run.recipe.train.device = "cpu"
    asked: list[str] = []

    def predict(folder: Path, pixels: np.ndarray, *, device: str = "auto") -> np.ndarray:
        asked.append(device)
        return np.full((len(pixels), 2), 0.5, np.float32)

    monkeypatch.setattr(prediction, "predict_arm", predict)
    monkeypatch.setattr(training, "train_arm", lambda *_, **__: None)
    _train(run, ArmJob(str(out), "real", None, 0, 0))
    assert asked == ["cpu"]


def test_another_recipe_on_an_old_folder_is_refused_by_key(finished: Path) -> None:
    with pytest.raises(InputError, match=r"train\.steps differs"):
        run_recipe(finished / "tiny.yaml", finished / "out", overrides=["train.steps=7"])


def test_the_verdict_says_where_the_gate_was_blind(finished: Path) -> None:
    run = Run.open(finished / "out")
    blind = 0
    for path in sorted((finished / "out").glob("draw-*/sets/core/gate.json")):
        judged = json.loads(path.read_text())["checks"]["agreement"]["findings"]["Effusion"]
        blind += judged["present_cutoff"] is None and judged["absent_cutoff"] is None
    notes = unjudged(run)
    assert [f"in {blind} of {run.recipe.draws} draw" in note for note in notes] == [True] * bool(blind)
    assert [
        note for note in json.loads((finished / "out" / "verdict.json").read_text())["notes"] if "judge" in note
    ] == notes
    run.recipe.gate.agreement = False
    assert unjudged(run) == ["the gate did not check labels (gate.agreement: false): synthetic Effusion is unchecked"]


def test_a_setting_that_is_newer_than_the_run_takes_its_default(finished: Path) -> None:
    path = finished / "out" / "settings.json"
    saved = path.read_text()
    older = json.loads(saved)
    del older["recipe"]["arms"]["pretrain_share"]
    path.write_text(json.dumps(older))
    try:
        assert run_recipe(finished / "tiny.yaml", finished / "out", until="audit") is None
        with pytest.raises(InputError, match=r"another recipe: arms.pretrain_share differs"):
            run_recipe(finished / "tiny.yaml", finished / "out", overrides=["arms.pretrain_share=0.3"])
    finally:
        path.write_text(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": ["ward"]}, "evaluate.groups names a column that the data do not have"),
        ({"primary": TINY["evaluate"]["primary"] | {"group": "sex", "level": "X"}}, "level 'X' does not occur"),
        ({"primary": TINY["evaluate"]["primary"] | {"finding": "Mass"}}, "'Mass'"),
    ],
)
def test_what_the_data_refuse_leaves_no_run_behind(tmp_path: Path, change: dict, words: str) -> None:
    """A corrected recipe may use the folder: nothing in it claims another recipe yet."""
    with pytest.raises(InputError, match=words):
        run_recipe(write(tmp_path, {"evaluate": TINY["evaluate"] | change, "curve": None}), tmp_path / "out")
    assert not (tmp_path / "out" / "settings.json").exists()
    run_recipe(write(tmp_path), tmp_path / "out", until="data")
    assert (tmp_path / "out" / "settings.json").exists()


def test_a_control_core_stands_in_cell_by_cell() -> None:
    """Image for image where the gate took both, else another of the cell, of the label set, or any."""
    asked = pd.DataFrame({"prompt_id": ["a", "b", "c", "d"], "view": "PA"})
    other = pd.DataFrame({"prompt_id": ["x", "a", "y"], "view": "PA"})
    rows = _same_images(asked, ["A|F", "A|F", "B|M", "C|F"], other, ["A|F", "A|F", "B|F"])
    assert list(rows[:1]) == [1]  # the same prompt
    assert rows[1] in (0, 1)  # of the cell
    assert rows[2] == 2  # of the label set
    assert rows[3] in (0, 1, 2)


def test_fresh_deletes_run_folders_only(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="run folders only"):
        run_recipe(finished / "tiny.yaml", tmp_path / "precious", fresh=True)
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_killed_again_and_again_it_ends_with_the_same_tables(finished: Path, tmp_path: Path) -> None:
    write(tmp_path)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cxraug.cli.main", "run", "tiny.yaml", "--out", "out", "--json"]
    moments = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(4 + moments.random() * 8)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finding"] == "Effusion"
    for name in TABLES:
        assert (out / name).read_bytes() == (finished / "out" / name).read_bytes(), name


@pytest.mark.parametrize("what", ["core", "gate", "weights"])
def test_a_model_that_has_seen_hidden_rows_is_refused(finished: Path, tmp_path: Path, what: str) -> None:
    """Models made for draw 0 have seen rows that draw 1 must not: a folder of theirs cannot serve another recipe."""
    draw = finished / "out" / "draw-00"
    own = {
        "core": ("core", {"name": str(draw / "cores" / "gaussian")}),
        "gate": ("gate", {**TINY["gate"], "weights": str(next((draw / "gate").glob("classifier-*")))}),
        "weights": ("train", {**TINY["train"], "weights": str(draw / "arms/real/seed-0/model.safetensors")}),
    }[what]
    with pytest.raises(HiddenDataError, match=r"has seen \d+ patients .* limited-out rows"):
        run_recipe(write(tmp_path, {own[0]: own[1], "seed": 1}), tmp_path / "out")


def test_a_core_trained_on_test_or_validation_rows_is_refused(finished: Path, tmp_path: Path) -> None:
    """The same cohort with other splits: what was training there is test and validation here."""
    core = str(finished / "out" / "draw-00" / "cores" / "gaussian")
    data = {**TINY["data"], "phantom": {**TINY["data"]["phantom"], "splits": [0.1, 0.2, 0.7]}, "limit": []}
    changes = {"core": {"name": core}, "data": data, "curve": None}
    with pytest.raises(HiddenDataError, match=r"has seen \d+ patients and \d+ images of the test rows"):
        run_recipe(write(tmp_path, changes), tmp_path / "out")
