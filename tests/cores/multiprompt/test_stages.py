"""The stages of a multi-prompt core as commands: each stops where asked, the next goes on, and nothing is left over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cxraug.cli import core as command
from cxraug.cores.recipe import finished_stage, read_core_recipe, start_over, train_core
from cxraug.cores.registry import read_card
from cxraug.errors import InputError
from cxraug.storage import read_json, write_json

app = typer.Typer()
command.register(app)


@app.callback()
def _root() -> None: ...


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["core", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def write(folder: Path, **changes: object) -> Path:
    core = {
        "kind": "multiprompt", "channels": [8, 32], "grid": 8, "band": 8, "components": 4, "depth": 1, "steps": 2,
        "batch_size": 4, "alignment_steps": 2, "recognition_steps": 2, "shared_width": 8, "threads": 1,
        "sampler_steps": 1, "sheet_every": 1, "checkpoint_every": 1, "precision": "float32",
        "report": {"tokens": 2, "channels": 4, "vocabulary": 300, "max_tokens": 400, "width": 16, "heads": 2,
                   "encoder_layers": 1, "decoder_layers": 1, "steps": 2, "batch_size": 4},
        **changes,
    }  # fmt: skip
    recipe = {"name": "tiny", "data": {"phantom": {"n": 40, "seed": 3, "size": 32}}, "encoding": {"size": 32},
              "core": core}  # fmt: skip
    path = folder / "core.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_stage_by_stage_is_the_training_in_one_go(tmp_path: Path) -> None:
    recipe, out = write(tmp_path), tmp_path / "core"
    said = call("train", recipe, "--out", out, "--stage", "report")
    assert "stage report is finished" in said
    assert "next: alignment" in said
    assert (out / "report" / "codec.json").is_file()
    assert not (out / "alignment.pt").exists()
    answer = json.loads(call("train", recipe, "--out", out, "--stage", "alignment", "--json"))
    assert (answer["stage"], answer["next"], answer["card"]) == ("alignment", "denoiser", None)
    assert (out / "alignment.pt").is_file()
    call("train", recipe, "--out", out, "--stage", "report")
    assert finished_stage(out) == "alignment", "an earlier stage asked for again takes nothing back"
    answer = json.loads(call("train", recipe, "--out", out, "--json"))
    assert (answer["stage"], answer["next"]) == ("denoiser", None)
    assert not (out / "stage.json").exists()
    train_core(read_core_recipe(recipe), tmp_path / "whole")
    assert read_card(out).sha256 == read_card(tmp_path / "whole").sha256

    (out / "sheets" / "mine.png").write_bytes(b"")
    start_over(out)
    assert [str(p.relative_to(out)) for p in out.rglob("*")] == ["sheets", "sheets/mine.png"], "what is not ours stays"


def test_stages_that_a_recipe_has_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--stage.*report.*alignment, denoiser"):
        call("train", write(tmp_path, report=None), "--out", tmp_path / "core", "--stage", "report")
    with pytest.raises(InputError, match="no such stage"):
        call("train", write(tmp_path), "--out", tmp_path / "core", "--stage", "magic")
    assert not (tmp_path / "core").exists()


def test_a_setting_that_came_later_does_not_make_another_recipe(tmp_path: Path) -> None:
    """A folder begun before a setting existed goes on: what its recipe does not name has its default."""
    recipe = read_core_recipe(write(tmp_path))
    train_core(recipe, tmp_path / "core", until="report")
    written = read_json(tmp_path / "core" / "recipe.json")
    del written["core"]["sheet_every"], written["core"]["joint"]
    write_json(tmp_path / "core" / "recipe.json", {**written, "core": {**written["core"], "sheet_every": 1}})
    train_core(recipe, tmp_path / "core", until="report")
    write_json(tmp_path / "core" / "recipe.json", {**written, "seed": 9})
    with pytest.raises(InputError, match="another recipe"):
        train_core(recipe, tmp_path / "core", until="report")
