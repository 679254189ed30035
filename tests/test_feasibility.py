"""`recipe check` and the start of a run refuse the same recipes, before anything is decoded or trained."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cxraug.cli.main import run
from cxraug.feasibility import refuse_impossible
from cxraug.recipe import read_recipe
from cxraug.storage import write_json
from cxraug.studies.manifest import Manifest

RECIPE: dict[str, Any] = {
    "name": "r",
    "data": {"manifest": "manifest.csv", "size": 32},
    "core": {"name": "phantom-nano"},
    "gate": {"model": "test_resnet"},
    "arms": {"use": ["real", "duplicated", "mixed"]},
    "train": {"model": "test_resnet"},
    "evaluate": {"groups": ["sex"], "primary": {"arm": "mixed", "control": "duplicated", "finding": "Effusion"}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest of 12 patients whose images are there."""
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.fromarray(np.full((40, 40), i, np.uint8)).save(tmp_path / f"images/{i}.png")
    rows = {
        "image": [f"images/{i}.png" for i in range(12)], "patient_id": [f"p{i}" for i in range(12)],
        "sex": ["F", "M"] * 6, "view": "PA", "labels": ["Effusion", "No Finding", "Scurvy"] * 4,
        "split": ["train"] * 6 + ["val"] * 3 + ["test"] * 3,
    }  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path


def write(folder: Path, changes: dict[str, dict[str, Any]]) -> Path:
    raw = {**RECIPE, **{part: {**RECIPE.get(part, {}), **values} for part, values in changes.items()}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw))
    return folder / "recipe.yaml"


def refusal(folder: Path, changes: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of `recipe check`, after seeing that `run` says the same and has decoded nothing."""
    path = write(folder, changes)
    said = []
    for words in (["recipe", "check", str(path)], ["run", str(path), "--out", str(folder / "out")]):
        assert run(words) == 2
        said += [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 2
    assert said[0] == said[1]
    assert not (folder / "out" / "cache").exists()
    return said[0]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train": {"model": "resnet10"}}, ["train settings", "'resnet10'", "any timm model name", "near this one"]),
        ({"gate": {"model": "qqqq"}}, ["gate settings", "'qqqq'", "any timm model name"]),
        ({"train": {"weights": "none.pt"}}, ["train settings", "none.pt", "no such weights file"]),
        ({"core": {"name": "phantom-nono"}}, ["no such core", "'phantom-nono'", "phantom-nano"]),
        ({"plan": {"views": ["AP"]}}, ["plan.views", "phantom-nano", "'AP'", "expected one of Lateral, PA"]),
        ({"plan": {"findings": ["Scurvy"]}}, ["plan.findings", "'Scurvy'", "expected one of Effusion, No Finding"]),
        ({"evaluate": {"groups": ["ward"]}}, ["evaluate.groups", "'ward'"]),
        ({"data": {"limit": [{"finding": "Effusion", "patients": 9}]}}, ["asked for 9", "2 are available"]),
    ],
)
def test_check_and_run_refuse_the_same(folder: Path, capsys, changes: dict, parts: list[str]) -> None:
    line = refusal(folder, changes, capsys)
    for part in parts:
        assert part in line


def test_a_primary_finding_that_the_core_does_not_know_is_refused(folder: Path, capsys) -> None:
    primary = {**RECIPE["evaluate"]["primary"], "finding": "Scurvy"}
    assert "core phantom-nano does not know the finding of evaluate.primary; found 'Scurvy'" in refusal(
        folder, {"evaluate": {"primary": primary}}, capsys
    )


def test_missing_images_are_counted_and_may_be_skipped(folder: Path, capsys) -> None:
    for i in (3, 7):
        (folder / f"images/{i}.png").unlink()
    assert "images/3.png: no such image (and 1 more)" in refusal(folder, {}, capsys)
    assert run(["recipe", "check", str(write(folder, {"data": {"on_bad_image": "skip"}}))]) == 0


def test_images_behind_a_link_name_the_data_root_to_set(folder: Path, capsys) -> None:
    (folder / "linked").mkdir()
    os.symlink(folder / "images", folder / "linked" / "images")
    shutil.copy(folder / "manifest.csv", folder / "linked" / "manifest.csv")
    line = refusal(folder, {"data": {"manifest": "linked/manifest.csv"}}, capsys)
    assert f"({folder}) named by data.root (recipe) or --root (command)" in line
    changes = {"data": {"manifest": "linked/manifest.csv", "root": str(folder)}}
    assert run(["recipe", "check", str(write(folder, changes))]) == 0


def test_a_core_without_weights_or_sampler_is_refused(folder: Path, capsys) -> None:
    seen = {"key": "00", "patients": [], "images": []}
    card = {
        "name": "mine", "version": "1", "kind": "gaussian", "sha256": "", "resolution": 32, "licence": "x",
        "views": ["AP"], "findings": ["Effusion"], "conditions": ["views", "findings"], "training_data": {},
        "seen": seen,
    }  # fmt: skip
    write_json(folder / "mine" / "card.json", card)
    assert "the core has no weights" in refusal(folder, {"core": {"name": "mine"}}, capsys)
    (folder / "mine" / "model.safetensors").write_bytes(b"")
    assert "remove core.guidance" in refusal(folder, {"core": {"name": "mine", "guidance": 2.0}}, capsys)
    assert "knows none of the views" in refusal(folder, {"core": {"name": "mine"}}, capsys)


def test_a_good_recipe_is_accepted_and_only_read_when_asked(folder: Path) -> None:
    recipe = read_recipe(write(folder, {}))
    read: list[Path] = []

    def manifest() -> Manifest:
        read.append(folder / "manifest.csv")
        return recipe.data.read(read[-1])

    refuse_impossible(recipe, manifest)
    assert len(read) == 1
    (folder / "manifest.csv").unlink()
    refuse_impossible(recipe)  # the data are not looked at
    assert len(read) == 1
