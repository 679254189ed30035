"""``cxraug core``: recipes checked by key path, a core trained from one, sampled and shown from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from cxraug.cli import core as command
from cxraug.cores.multiprompt.settings import SAMPLER
from cxraug.cores.recipe import MultipromptKind, read_core_recipe
from cxraug.cores.registry import read_card
from cxraug.errors import InputError
from cxraug.studies.phantom.cohort import make_cohort

RECIPES = Path(__file__).parents[2] / "recipes"
FREE = {*SAMPLER, "sample_batch", "checkpoint_every", "sheet_every"}  # no part of the weights
app = typer.Typer()
command.register(app)


@app.callback()
def _root() -> None: ...


def call(*arguments: object):
    result = CliRunner().invoke(app, ["core", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write(folder: Path, **changes: object) -> Path:
    recipe = {
        "name": "tiny", "data": {"phantom": {"n": 24, "seed": 3, "size": 32}}, "encoding": {"size": 32},
        "core": {"kind": "gaussian", "components": 4}, **changes,
    }  # fmt: skip
    path = folder / "core.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_shipped_recipe_is_the_shipped_core() -> None:
    recipe = read_core_recipe(RECIPES / "phantom-nano.yaml")
    assert recipe.data.phantom is not None
    assert recipe.data.phantom.seed == 90001
    assert isinstance(recipe.core, MultipromptKind)
    card = read_card("phantom-nano")
    made_with = card.training_data["phantom"]
    assert made_with == recipe.data.phantom.model_dump(mode="json")
    asked = recipe.core.model_dump(mode="json")
    assert {k: v for k, v in card.settings["multiprompt"].items() if asked.get(k) != v and k not in FREE} == {}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"colour": 1}, "colour"),
        ({"data": {}}, "data: give either"),
        ({"data": {"phantom": {"n": 4, "speed": 1}}}, "data.phantom.speed"),
        ({"core": {"kind": "diffusion", "channels": [7]}}, "core.diffusion"),
        ({"core": {"kind": "magic"}}, "core"),
        ({"encoding": {"size": "big"}}, "encoding.size"),
    ],
)
def test_bad_recipes_name_the_key(tmp_path: Path, change: dict, key: str) -> None:
    with pytest.raises(InputError, match=key):
        read_core_recipe(write(tmp_path, **change))


def test_missing_and_broken_recipes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such recipe"):
        read_core_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(InputError, match="mapping"):
        read_core_recipe(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match="YAML"):
        read_core_recipe(tmp_path / "bad.yaml")


def test_train_show_and_sample(tmp_path: Path) -> None:
    recipe, folder = write(tmp_path), tmp_path / "core"
    call("train", recipe, "--out", folder)
    card = json.loads(call("show", folder).output)
    assert card["training_data"]["phantom"]["seed"] == 3
    assert card["seen"]["images"] == card["training_data"]["images"] < 24  # the train split only
    call("train", recipe, "--out", folder)  # finished: nothing to do
    with pytest.raises(InputError, match="another recipe"):
        call("train", write(tmp_path, seed=5), "--out", folder)
    call("train", write(tmp_path, seed=5), "--out", folder, "--fresh")
    out = tmp_path / "samples"
    call("sample", folder, "--n", 5, "--findings", "Effusion|-Edema", "--sex", "F", "--age", 64, "--out", out)
    table = pd.read_csv(out / "reports.csv")
    assert len(table) == 5
    assert table["report"].str.contains("ffusion|pleural fluid", regex=True).all()
    assert all((out / name).is_file() for name in table["image"])


def test_a_core_of_a_manifest_sees_its_train_rows_only(tmp_path: Path) -> None:
    recipe = read_core_recipe(write(tmp_path))
    assert recipe.data.phantom is not None
    manifest = make_cohort(recipe.data.phantom, tmp_path / "cohort", workers=1)
    settings = {"kind": "diffusion", "steps": 2, "channels": [8], "grid": 16, "components": 2, "threads": 1}
    path = write(tmp_path, data={"manifest": "cohort/manifest.parquet", "findings": ["Effusion"]}, core=settings)
    call("train", path, "--out", tmp_path / "core")
    card, frame = read_card(tmp_path / "core"), pd.read_parquet(manifest)
    split = frame["split"].to_numpy()
    assert card.findings == ["Effusion"]
    assert card.hashes.count_patients(frame["patient_id"][split == "train"]) == len(card.hashes.patients) > 0
    assert card.hashes.count_patients(frame["patient_id"][split != "train"]) == 0


def test_bad_options(tmp_path: Path) -> None:
    for option in (("--sex", "X"), ("--age", "200"), ("--findings", "A||B")):
        with pytest.raises(InputError, match=option[0]):
            call("sample", "phantom-nano", "--out", tmp_path, *option)


def test_list_names_the_shipped_core() -> None:
    cards = json.loads(call("list", "--json").output)["cores"]
    assert "phantom-nano" in [card["name"] for card in cards]
    assert np.isfinite(cards[0]["resolution"])
