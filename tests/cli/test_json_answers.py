"""Every command answers ``--json`` with one JSON object on standard output, and nothing else."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from cores.chexgen.tinychexgen import PLAIN, save_checkpoint
from interop.clinic import read_study
from studies.sources.layouts import LAYOUTS, build
from tiny_recipe import tiny_recipe

from cxraug.cli.main import app, run
from cxraug.interop.export import export
from cxraug.interop.settings import ExportSettings

RECIPE = tiny_recipe("tiny", {"manifest": "cohort/manifest.parquet"}, min_cell=2)
CORE = {
    "name": "tiny-core", "data": {"manifest": "cohort/manifest.parquet"}, "encoding": {"size": 32},
    "core": {"kind": "gaussian"},
}  # fmt: skip
MODEL = "run/draw-00/arms/mixed/seed-0"
STEPS = {  # in an order in which each finds what it needs; command -> (arguments, a key of its answer, its value)
    "phantom": ("--n 120 --size 32 --workers 1 --prevalence Effusion=0.4 --out cohort", "images", 120),
    **{f"import {key}": (f"archives/{key} --out {key}.parquet", "images", len(LAYOUTS[key].images)) for key in LAYOUTS},
    "import csv": (
        "cohort/manifest.parquet --map image=image --map patient_id=patient_id --map labels=labels --out own.parquet",
        "images", 120,
    ),
    "import hf": ("exports/hf --out hf.parquet", "images", 12),
    "import webdataset": ("exports/webdataset --out webdataset.parquet", "images", 12),
    "audit": ("cohort/manifest.parquet --no-pixels --out audit", "images", 120),
    "plan": ("cohort/manifest.parquet --n 20 --groups sex --out plan", "studies", 20),
    "recipe new": ("cohort/manifest.parquet --finding Effusion --out new.yaml", "recipe", "new.yaml"),
    "recipe check": ("tiny.yaml", "name", "tiny"),
    "core train": ("core.yaml --out core", "folder", "core"),
    "core show": ("core", "name", "tiny-core"),
    "core list": ("", "cores", None),
    "core search": ("roentgen", "cores", None),
    "core convert": ("chexgen:chexgen.pth converted", "folder", "converted"),
    "core sample": ("core --n 2 --out sample", "studies", 2),
    "core bench": (
        "phantom-nano cohort/manifest.parquet --n 20 --steps 1 --splits train,val,test --out bench", "written", False
    ),
    "core evaluate": (
        "core cohort/manifest.parquet --n 30 --sets attributes --probe-steps 2 --swaps 0 --pairs 0 --out m --side 32",
        "core", None,
    ),
    "generate": ("plan/plan.parquet --core core --out set", "finished", True),
    "gate": ("set --real cohort/manifest.parquet --steps 2 --size 32 --model test_resnet", "total", 20),
    "card": ("set", "gated", True),
    "export": ("cohort/manifest.parquet --to coco --out exported", "format", "coco"),
    "annotate": (
        "exported/manifest.parquet --coco exported/annotations/instances_train.json --replace --out exported/again.csv",
        "manifest", "exported/again.csv",
    ),
    "privacy": (
        "set --real cohort/manifest.parquet --core core --size 32 --steps 2 --out attacks", "rows", None
    ),
    "anonymize": (
        "cohort/manifest.parquet --core core --out swapped --k 2 --candidates 1 --size 32 --only-copies --no-report",
        "rows_never_written", None,
    ),
    "train": ("tiny.yaml --out run", "predictions", None),
    "run": ("tiny.yaml --out run", "folder", "run"),
    "report": ("run", "report", "run/report.html"),
    "predict": (f"{MODEL} cohort/manifest.parquet --out p.csv", "images", 120),
    "fidelity": ("cohort/manifest.parquet cohort/manifest.parquet --n 30", "n", 30),
    "evaluate": ("p.csv --groups sex --bootstrap 20", "out", None),
}  # fmt: skip


def answer(arguments: list[str]) -> tuple[int, str]:
    """Exit code and everything that Python or a library wrote to standard output."""
    with tempfile.TemporaryFile() as kept:
        saved = os.dup(1)
        os.dup2(kept.fileno(), 1)
        try:
            with os.fdopen(os.dup(1), "w") as stream, redirect_stdout(stream):
                code = run(arguments)
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        kept.seek(0)
        return code, kept.read().decode()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    folder, before = tmp_path_factory.mktemp("json"), Path.cwd()
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "core.yaml").write_text(yaml.safe_dump(CORE))
    save_checkpoint(folder / "chexgen.pth", PLAIN)
    for key in LAYOUTS:
        build(key, folder / "archives" / key)
    real = read_study(folder / "clinic")
    for to in ("hf", "webdataset"):
        export(real, folder / "exports" / to, ExportSettings(to=to))
    os.chdir(folder)
    try:
        return {name: answer([*name.split(), *text.split(), "--json"]) for name, (text, _, _) in STEPS.items()}
    finally:
        os.chdir(before)


def commands() -> set[str]:
    own = {c.name or c.callback.__name__ for c in app.registered_commands}  # type: ignore[union-attr]
    for group in app.registered_groups:
        inner = group.typer_instance.registered_commands  # type: ignore[union-attr]
        own |= {f"{group.name} {c.name or c.callback.__name__}" for c in inner}  # type: ignore[union-attr]
    return own


def test_no_command_is_left_out() -> None:
    assert commands() == set(STEPS)


@pytest.mark.parametrize("name", STEPS)
def test_one_json_object_and_nothing_else(answers: dict[str, tuple[int, str]], name: str) -> None:
    code, text = answers[name]

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(text, parse_constant=refuse)
    assert code == 0
    assert isinstance(found, dict)
    _, key, value = STEPS[name]
    assert key in found
    assert value is None or found[key] == value


def test_an_error_leaves_standard_output_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", str(tmp_path / "none.csv"), "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "no such file" in told.err
