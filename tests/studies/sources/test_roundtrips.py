"""Import, export, import: every archive through every layout that another program reads, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from interop.clinic import assert_same_rows
from PIL import Image
from studies.sources.layouts import LAYOUTS, build

from cxraug.cli.main import run
from cxraug.studies.images import read_mask_values, read_pixels
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.sources.registry import KEYS

MORE = {
    "mimic": lambda root: ["--mimic-iv", str(root)],
    "siim": lambda root: ["--masks", str(root / "masks")],
    "chexpert": lambda root: ["--demographics", str(root / "people.csv")],
}
BOXED = ("nih", "vindr", "rsna", "siim")
PEOPLE = "PATIENT,PRIMARY_RACE\npatient00001,Asian\npatient00002,White\n"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The manifest of an archive's small folder, imported once."""
    made: dict[str, Manifest] = {}

    def get(key: str) -> Manifest:
        if key not in made:
            root = build(key, tmp_path_factory.mktemp(key))
            (root / "people.csv").write_text(PEOPLE)
            more = MORE.get(key, lambda _: [])(root)
            assert run(["import", key, str(root), "--out", str(root / "first.parquet"), *more]) == 0
            made[key] = read_manifest(root / "first.parquet")
        return made[key]

    return get


def same(found: Manifest, expected: Manifest) -> None:
    """Rows, labels, what is annotated, pixels and masks."""
    assert_same_rows(found.frame, expected.frame)
    assert found.findings == expected.findings
    assert found.annotated == expected.annotated
    np.testing.assert_array_equal(found.y(), expected.y())
    for a, b in zip(found.paths(), expected.paths(), strict=True):
        np.testing.assert_array_equal(read_pixels(a), read_pixels(b))
    if "mask" in expected.frame:
        there = expected.frame["mask"].notna().to_numpy()
        assert (found.frame["mask"].notna().to_numpy() == there).all()
        for a, b in zip(found.take(there).paths("mask"), expected.take(there).paths("mask"), strict=True):
            np.testing.assert_array_equal(read_mask_values(a), read_mask_values(b))


@pytest.mark.parametrize("to", ["hf", "webdataset"])
@pytest.mark.parametrize("key", KEYS)
def test_an_archive_comes_back_from_an_export_as_it_was(first, key: str, to: str, tmp_path: Path) -> None:
    real = first(key)
    assert run(["export", str(real.file), "--to", to, "--out", str(tmp_path / "out")]) == 0
    (tmp_path / "out/manifest.parquet").unlink(missing_ok=True)  # what was published may lack it
    assert run(["import", to, str(tmp_path / "out"), "--out", str(tmp_path / "second.parquet")]) == 0
    second = read_manifest(tmp_path / "second.parquet")
    same(second, real)
    again = ["import", to, str(tmp_path / "out"), "--out", str(tmp_path / "second.parquet"), "--fresh", "--json"]
    assert run(again) == 0
    assert read_manifest(tmp_path / "second.parquet").digest() == second.digest()


def test_the_folders_hold_what_a_round_trip_could_lose(first) -> None:
    frames = {key: first(key).frame for key in KEYS}
    assert {key for key in KEYS if "boxes" in frames[key]} == set(BOXED)
    assert {key for key in KEYS if "report" in frames[key]} == {"mimic", "padchest", "openi"}
    assert {key for key in KEYS if "race" in frames[key]} == {"mimic", "chexpert"}
    assert {key for key in KEYS if "mask" in frames[key]} == {"siim"}
    assert {key for key in KEYS if frames[key]["labels"].str.contains("?", regex=False, na=False).any()} == {
        key for key in KEYS if LAYOUTS[key].uncertain
    }
    whole = pd.concat(frames.values())
    assert {"M", "F"} <= set(whole["sex"].dropna())
    assert set(whole["view"]) == {"PA", "AP", "AP Supine", "Lateral", "unknown"}
    assert set(whole["split"]) == {"train", "val", "test"}


@pytest.mark.parametrize("key", BOXED)
def test_boxes_come_back_from_coco(first, key: str, tmp_path: Path) -> None:
    real = first(key)
    frame = real.frame.assign(boxes=_inside(real)).drop(columns="mask", errors="ignore")  # COCO leaves masks out
    Manifest(frame, real.root, None, real.findings, real.annotated).save(real.root / "boxed.parquet")
    real = read_manifest(real.root / "boxed.parquet")
    out = tmp_path / "out"
    assert run(["export", str(real.file), "--to", "coco", "--out", str(out)]) == 0
    there = read_manifest(out / "manifest.parquet")
    bare = Manifest(there.frame.drop(columns="boxes"), there.root, None, there.findings, there.annotated)
    bare.save(out / "bare.parquet")
    files = [item for path in sorted((out / "annotations").glob("*.json")) for item in ("--coco", str(path))]
    assert run(["annotate", str(out / "bare.parquet"), *files, "--out", str(out / "second.parquet")]) == 0
    second = read_manifest(out / "second.parquet")
    same(second, real.take(real.frame["boxes"].notna()))


def _inside(real: Manifest) -> pd.Series:
    """Boxes brought into the small images, which are not as large as the archive's."""
    sides = [read_pixels(path).shape for path in real.paths()]
    made = []
    for text, (height, width) in zip(real.frame["boxes"], sides, strict=True):
        if not isinstance(text, str):
            made.append(None)
            continue
        boxes = json.loads(text)
        for at, box in enumerate(boxes):
            box.update(x=at % (width - 2) + 0.25, y=1, w=1.5, h=height - 2)
        made.append(json.dumps(boxes))
    return pd.Series(made, dtype="str")


def test_masks_of_siim_come_back_as_pngs(first, tmp_path: Path) -> None:
    real = first("siim")
    root = tmp_path / "data"
    shutil.copytree(real.root, root)
    for number, path in enumerate(sorted((root / "masks").glob("*.png")), 1):  # as large as the small images
        mask = np.zeros((8, 8), np.uint8)
        mask[number, 2:6] = 4
        Image.fromarray(mask).save(path)
    real = read_manifest(root / "first.parquet")
    bare = Manifest(real.frame.drop(columns="mask"), root, None, real.findings, real.annotated)
    bare.save(root / "bare.parquet")
    assert run(["annotate", str(root / "bare.parquet"), "--masks", f"lesion={root / 'masks'}",
                "--out", str(root / "second.parquet")]) == 0  # fmt: skip
    same(read_manifest(root / "second.parquet"), real)
