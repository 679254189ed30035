"""COCO boxes out and in again; the arithmetic is done once more with pandas."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from interop.clinic import SIZE, assert_same_rows, read_study

from cxraug.errors import InputError
from cxraug.interop.annotation import annotate_boxes
from cxraug.interop.coco import read_coco
from cxraug.interop.export import export
from cxraug.interop.settings import ExportSettings
from cxraug.studies.manifest import read_manifest


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    real = read_study(folder / "clinic", 18)
    answer = export(real, folder / "out", ExportSettings(to="coco"))
    return real, folder / "out", answer


def test_the_files_say_what_the_manifest_says(study):
    real, out, answer = study
    kept = real.frame[real.frame["boxes"].notna()]
    total, seen = 0, []
    for path in sorted((out / "annotations").glob("*.json")):
        value = json.loads(path.read_text())
        names = {entry["id"]: entry["name"] for entry in value["categories"]}
        assert list(names.values()) == ["Effusion", "Mass", "Nodule/Mass"]
        notes = pd.DataFrame(value["annotations"])
        assert notes.empty or notes["id"].is_unique
        split = path.stem.removeprefix("instances_")
        for image in value["images"]:
            assert (image["height"], image["width"]) == SIZE
            assert (out / split / image["file_name"]).is_file()
            row = kept[kept["image"] == image["cxraug"]["original_image"]].iloc[0]
            assert row["split"] == split
            seen.append(row["image"])
            mine = [note for note in value["annotations"] if note["image_id"] == image["id"]]
            assert [
                {"label": names[n["category_id"]], **dict(zip("xywh", n["bbox"], strict=True))} for n in mine
            ] == json.loads(row["boxes"])
            assert all(n["area"] == n["bbox"][2] * n["bbox"][3] and n["iscrowd"] == 0 for n in mine)
            total += len(mine)
    assert sorted(seen) == sorted(kept["image"])
    assert answer["boxes"] == total == sum(len(json.loads(text)) for text in kept["boxes"])
    assert answer["left_out"] == {"rows without boxes": len(real) - len(kept)}


def test_boxes_come_back_into_a_manifest_without_them(study, tmp_path):
    real, out, _ = study
    there = read_manifest(out / "manifest.parquet")
    bare = type(there)(there.frame.drop(columns="boxes"), there.root, there.file, there.findings, there.annotated)
    for path in sorted((out / "annotations").glob("*.json")):
        bare, counts = annotate_boxes(bare, read_coco(path), path)
        assert counts["not_in_manifest"] == 0
    bare.save(out / "again.parquet")
    kept = real.frame[real.frame["boxes"].notna()].reset_index(drop=True)
    assert_same_rows(read_manifest(out / "again.parquet").frame, kept)


def test_a_manifest_without_boxes_is_refused(tmp_path):
    real = read_study(tmp_path / "clinic", 4)
    bare = type(real)(real.frame.drop(columns="boxes"), real.root, real.file, real.findings, real.annotated)
    with pytest.raises(InputError, match="no row has boxes"):
        export(bare, tmp_path / "out", ExportSettings(to="coco"))
