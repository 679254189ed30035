"""Bad input ends with exit code 2 and one line that says where, what was found and what was expected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from tiny_recipe import tiny_recipe

from cxraug.cli.main import run

N = 12


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with a small, good manifest and a recipe for it."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(N):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(tmp_path / f"images/{i}.png")
    frame = pd.DataFrame(
        {
            "image": [f"images/{i}.png" for i in range(N)],
            "patient_id": [f"p{i}" for i in range(N)],
            "sex": ["F", "M"] * (N // 2),
            "age": ["40"] * N,
            "labels": ["Effusion", "No Finding", "Mass"] * (N // 3),
            "split": ["train"] * 6 + ["val"] * 3 + ["test"] * 3,
        }
    )
    frame.to_csv(tmp_path / "manifest.csv", index=False)
    recipe = {
        "name": "r",
        "data": {"manifest": "manifest.csv", "size": 32},
        "evaluate": {"primary": {"arm": "mixed", "control": "duplicated", "finding": "Effusion"}},
        "core": {"name": "gaussian"},
        "arms": {"use": ["real", "duplicated", "mixed"]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def change(study: Path, row: int, column: str, value: str) -> None:
    frame = pd.read_csv(study / "manifest.csv", dtype=str)
    frame.loc[row, column] = value
    frame.to_csv(study / "manifest.csv", index=False)


def edit_recipe(study: Path, part: str, key: str, value: object) -> None:
    recipe = yaml.safe_load((study / "recipe.yaml").read_text())
    recipe.setdefault(part, {})[key] = value
    (study / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def refused(study: Path, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    code = run(["run", str(study / "recipe.yaml"), "--out", str(study / "out")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 2, lines
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]
    assert not (study / "out" / "draw-00" / "plan").exists()


BAD_CELLS = {
    "patient in two splits": (8, "patient_id", "p0", ["manifest.csv", "p0", "split"]),
    "outside the folder": (0, "image", "../images/0.png", ["manifest.csv", "row 2", "image", "../images/0.png"]),
    "absolute path": (0, "image", "/etc/hostname", ["manifest.csv", "row 2", "image", "/etc/hostname"]),
    "age 999": (3, "age", "999", ["manifest.csv", "row 5", "age", "999", "120"]),
    "age old": (3, "age", "old", ["manifest.csv", "row 5", "age", "old"]),
    "same path twice": (4, "image", "images/0.png", ["manifest.csv", "row 6", "image", "images/0.png"]),
    "no such image": (4, "image", "images/none.png", ["images/none.png"]),
    "bad sex": (1, "sex", "Q", ["manifest.csv", "row 3", "sex", "Q"]),
    "bad labels": (1, "labels", "A||B", ["manifest.csv", "row 3", "labels"]),
}


@pytest.mark.parametrize("name", BAD_CELLS)
def test_a_bad_cell_is_refused(study: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    row, column, value, words = BAD_CELLS[name]
    change(study, row, column, value)
    refused(study, capsys, *words)


def test_a_missing_column_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(study / "manifest.csv").drop(columns="patient_id")
    frame.to_csv(study / "manifest.csv", index=False)
    refused(study, capsys, "manifest.csv", "patient_id")


def test_an_empty_manifest_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.read_csv(study / "manifest.csv").iloc[:0].to_csv(study / "manifest.csv", index=False)
    refused(study, capsys, "manifest.csv", "empty")


def test_an_unknown_finding_of_the_recipe_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_recipe(study, "data", "findings", ["Effusion", "Scurvy"])
    refused(study, capsys, "data.findings", "Scurvy", "Effusion")


def test_a_named_finding_with_no_positive_in_train_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(study / "manifest.csv", dtype=str)
    frame.loc[(frame["labels"] == "Mass") & (frame["split"] == "train"), "labels"] = "No Finding"
    frame.to_csv(study / "manifest.csv", index=False)
    edit_recipe(study, "data", "findings", ["Effusion", "Mass"])
    refused(study, capsys, "Mass", "no positive in train")


@pytest.mark.parametrize("content", [b"this is not an image", b""])
def test_a_text_file_called_png_is_refused(study: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (study / "images/2.png").write_bytes(content)
    refused(study, capsys, "images/2.png")


def test_a_truncated_png_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study / "images/2.png"
    path.write_bytes(path.read_bytes()[:400])
    refused(study, capsys, "images/2.png", "truncated")


def test_odd_but_good_images_and_missing_ages_are_accepted(study: Path) -> None:
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 65535, (40, 40), dtype=np.uint16)).save(study / "images/0.png")
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(study / "images/1.jpg")
    change(study, 1, "image", "images/1.jpg")
    change(study, 2, "age", "")
    assert run(["audit", str(study / "manifest.csv"), "--groups", "sex", "--out", str(study / "audit")]) == 0
    assert (study / "audit" / "audit.json").is_file()
    assert run(["recipe", "check", str(study / "recipe.yaml")]) == 0


def test_the_audit_refuses_a_group_that_is_no_column(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", str(study / "manifest.csv"), "--groups", "sex*ward", "--out", str(study / "audit")]) == 2
    assert "column 'ward'" in capsys.readouterr().err


def test_a_bad_image_can_be_skipped_and_is_listed(study: Path) -> None:
    from cxraug.run import run_recipe

    (study / "images/2.png").write_bytes(b"x")
    edit_recipe(study, "data", "on_bad_image", "skip")
    run_recipe(study / "recipe.yaml", study / "out", until="data")
    rejected = pd.read_csv(study / "out" / "cache" / "rejected.csv")
    assert list(rejected["image"]) == ["images/2.png"]


@pytest.mark.parametrize("arguments", [["nonsense"], ["run"], ["run", "none.yaml"], ["run", "x.yaml", "--frsh"]])
def test_bad_usage_is_exit_code_2(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2


def test_a_new_recipe_is_valid_and_never_overwrites(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cxraug.recipe import read_recipe

    rng = np.random.default_rng(2)
    rows = 600
    frame = pd.DataFrame(
        {
            "image": [f"images/x{i}.png" for i in range(rows)],
            "patient_id": [f"q{i}" for i in range(rows)],
            "sex": rng.choice(["F", "M"], rows),
            "age": 50,
            "labels": rng.choice(["Effusion", "Mass", "No Finding"], rows, p=[0.5, 0.2, 0.3]),
        }
    )
    frame.to_csv(study / "mine.csv", index=False)
    out = study / "new.yaml"
    assert run(["recipe", "new", str(study / "mine.csv"), "--out", str(out)]) == 0
    assert "# probes: [" in out.read_text()
    recipe = read_recipe(out)
    assert recipe.evaluate.primary.finding == "Mass"  # the rarer one
    assert recipe.data.manifest == str((study / "mine.csv").resolve())
    before = out.read_text()
    assert run(["recipe", "new", str(study / "mine.csv"), "--out", str(out)]) == 2
    assert out.read_text() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "plan.csv", "--core", "phantom-nano", "--out", "out"],
        ["core", "sample", "phantom-nano", "--out", "out"],
        ["anonymize", "manifest.csv", "--core", "phantom-nano", "--out", "out"],
        ["gate", "set", "--real", "manifest.csv"],
        ["privacy", "set", "--real", "manifest.csv", "--out", "out"],
        ["core", "bench", "phantom-nano", "manifest.csv", "--out", "out"],
        ["core", "evaluate", "phantom-nano", "manifest.csv", "--out", "out"],
    ],
)
def test_a_device_that_is_not_there_is_refused_first(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # nothing else that the command names is there
    for device, said in (("cuda", "--device is cuda, and torch sees no CUDA device"), ("tpu", "--device is not known")):
        assert run([*command, "--device", device]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
@pytest.mark.parametrize("key", ["core.device", "train.device"])
def test_a_recipe_names_a_device_that_is_there(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe("device", {"phantom": {"n": 60}})))
    assert run(["run", str(recipe), "--out", str(tmp_path / "out"), "--set", f"{key}=cuda"]) == 2
    assert f"{key} is cuda, and torch sees no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
