"""Arms with and without the gate: one count per cell, the images each is said to hold, and what the verdict says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny_recipe import tiny_recipe

from cxraug import stages
from cxraug.arm_job import ArmJob, added_images
from cxraug.conclusion import comparisons, thrown_out
from cxraug.gate import gate
from cxraug.run import Run, run_recipe
from cxraug.storage import read_json, write_json
from cxraug.studies.images import encode, read_pixels
from cxraug.synthesis.assembly import write_set
from cxraug.synthesis.generate import first_draw, redraw

EVERY, TWICE = 3, 6  # every third study is rejected once, every sixth twice
KINDS = ("mixed", "ungated", "random_reject")


def planted_gate(out: Path, *_: Any, core: Any, **__: Any) -> dict[str, Any]:
    """In place of the gate: a known rejection."""
    lines = first_draw(out)
    ids = [line["prompt_id"] for line in lines]
    again, given_up = ids[::EVERY], ids[::TWICE]
    lines += redraw(out, core, again, 1)
    last = {line["prompt_id"]: line["image"] for line in lines}
    frame = write_set(out, lines, {image: ["planted"] * (name in given_up) for name, image in last.items()})
    accepted = int((frame["gate"] == "accept").sum())
    studies = {"n": len(ids), "accepted_first": len(ids) - len(again), "accepted": accepted}
    summary = {"accepted": accepted, "total": len(frame), "studies": {"all": studies}, "notes": []}
    summary["checks"] = {"agreement": {"findings": {}}}
    write_json(out / "gate.json", summary)
    return summary


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose first draw has a plan, a set of 16 studies, and both controls of the gate."""
    folder = tmp_path_factory.mktemp("gate-arms")
    phantom = {"n": 120, "seed": 5, "size": 32, "prevalence": {"Effusion": 0.3}, "splits": [0.5, 0.2, 0.3]}
    raw = tiny_recipe("gate-arms", {"phantom": phantom, "findings": ["Cardiomegaly", "Effusion"]}, min_cell=2)
    raw["arms"]["use"] = ["duplicated", *KINDS]
    raw["evaluate"]["primary"]["control"] = "ungated"
    (folder / "gate-arms.yaml").write_text(yaml.safe_dump(raw))
    run_recipe(folder / "gate-arms.yaml", folder / "out", until="data")
    run = Run.open(folder / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "gate_set", planted_gate)
        stages.fill_draw(run, 0)
    return run


def added(run: Run, kind: str, ratio: float | None = None) -> tuple[Any, list[str]]:
    images, cells = added_images(run, ArmJob(str(run.folder), kind, ratio, 0, 0), 40)
    assert cells is not None
    return images, cells


def pictures(run: Run, images: list[str]) -> Counter[bytes]:
    encoding = run.recipe.data.encoding
    return Counter(encode(read_pixels(run.draw_folder(0) / name), encoding).tobytes() for name in images)


def test_the_arms_with_and_without_a_gate_have_one_count_per_cell_and_label(filled: Run) -> None:
    for ratio in (None, 0.2):
        arms = {kind: added(filled, kind, ratio) for kind in KINDS}
        n = 8 if ratio else 13  # of 16 studies 3 are left out
        for images, cells in arms.values():
            assert len(images) == len(cells) == n
            assert cells == arms["mixed"][1]
            np.testing.assert_array_equal(images.y, arms["mixed"][0].y)


def test_each_arm_holds_what_it_is_said_to_hold(filled: Run) -> None:
    folder = filled.draw_folder(0)
    core = pd.read_parquet(folder / "sets" / "core" / "manifest.parquet")
    plan = pd.read_parquet(folder / "plan" / "plan.parquet")
    accepted = pictures(filled, ["sets/core/" + name for name in core.loc[core["gate"] == "accept", "image"]])
    first = pictures(filled, [f"sets/core/images/{p}-PA.png" for p in plan["prompt_id"]])
    redrawn = pictures(filled, ["sets/core/" + name for name in core["image"] if "draw1" in name])
    held = {kind: Counter(map(bytes, added(filled, kind)[0].pixels)) for kind in KINDS}
    assert held["mixed"] == accepted
    assert not held["ungated"] - first
    assert not held["ungated"] & redrawn
    random = pd.read_parquet(folder / "random_reject" / "manifest.parquet")
    assert held["random_reject"] == pictures(filled, random["image"].tolist())
    fresh = random["image"].str.startswith("random_reject/fresh/")
    assert fresh.sum() == 3  # as many as the gate accepted after a re-draw
    counts = read_json(folder / "random_reject" / "done.json")["result"]
    assert (counts["drawn_again"], counts["left_out"]) == (3, 3)
    assert held["random_reject"] != held["mixed"]


def test_arms_share_the_place_of_the_images_that_they_share(filled: Run) -> None:
    """So that one batch of both differs in the rejected images alone."""
    mixed, ungated = (added(filled, kind)[0] for kind in ("mixed", "ungated"))
    same = (mixed.pixels == ungated.pixels).all(axis=(1, 2)).sum()
    shared = Counter(map(bytes, mixed.pixels)) & Counter(map(bytes, ungated.pixels))
    assert same == sum(shared.values()) >= 8


def test_the_verdict_is_told_what_the_gate_threw_out(filled: Run) -> None:
    assert comparisons(filled)[0] == ("ungated", "mixed")
    assert {("random_reject", "mixed"), ("duplicated", "ungated"), ("random_reject", "ungated")} <= set(
        comparisons(filled)
    )
    assert thrown_out(filled) == [
        "the gate threw out the first draw of 6 of 16 studies (37.5%) and left out 3 after its re-draws"
    ]
    path = filled.draw_folder(0) / "sets" / "core" / "gate.json"
    saved = read_json(path)
    write_json(path, saved | {"studies": {"all": {"n": 16, "accepted_first": 16, "accepted": 16}}})
    assert thrown_out(filled) == ["the gate threw out nothing, so the arms with and without it hold the same images"]
    write_json(path, saved)
    other = Run(filled.recipe.model_copy(deep=True), filled.folder)
    other.recipe.arms.use = ["duplicated", "mixed"]
    assert thrown_out(other) == []


def test_a_run_about_the_gate_ends_with_a_verdict_about_it(filled: Run, tmp_path: Path) -> None:
    """The trainings and the evaluation over what was filled in."""
    recipe = filled.folder.parent / "gate-arms.yaml"
    found = run_recipe(recipe, filled.folder)
    assert found is not None
    assert "against the same core without its gate (ungated)" in found["sentence"]
    assert any("threw out the first draw of 6 of 16 studies" in note for note in found["notes"])
    table = pd.read_csv(filled.folder / "evaluation" / "comparison.csv")
    assert {"ungated", "random_reject", "duplicated"} <= set(table.loc[table["arm"] == "mixed", "baseline"])
    page = (filled.folder / "report.html").read_text()
    assert "threw out the first draw of 6 of 16" in page
