"""The Hugging Face image folder: what `datasets` itself loads from it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from interop.clinic import assert_same_rows, read_study
from PIL import Image

from cxraug.errors import InputError
from cxraug.interop.export import export
from cxraug.interop.settings import ExportSettings
from cxraug.studies.images import read_pixels
from cxraug.studies.manifest import read_manifest

HF = ExportSettings(to="hf")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    real = read_study(folder / "clinic")
    answer = export(real, folder / "out", HF)
    return real, folder / "out", answer


def test_datasets_loads_every_split_with_pixels_labels_and_boxes(study, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    real, out, answer = study
    loaded = load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == answer["splits"]
    y = pd.DataFrame(real.y(), columns=real.findings)
    paths = real.paths()
    row_of = {name: row for row, name in enumerate(real.frame["image"])}
    seen = set()
    for part in loaded.values():
        for item in part:
            row = row_of[item["original_image"]]
            seen.add(row)
            pixels = read_pixels(paths[row])
            found = np.asarray(item["image"])
            assert (found == pixels).all()
            for finding in real.findings:
                value = item[f"y_{finding}"]
                assert (value is None and np.isnan(y[finding][row])) or value == y[finding][row]
            text = real.frame["boxes"][row]
            if pd.isna(text):
                assert item["objects"] is None
            else:
                boxes = json.loads(text)
                assert item["objects"]["category"] == [box["label"] for box in boxes]
                assert item["objects"]["bbox"] == [[box[s] for s in "xywh"] for box in boxes]
            if pd.isna(real.frame["mask"][row]):
                assert item["mask"] is None
            else:
                with Image.open(real.root / real.frame["mask"][row]) as mask:
                    assert (np.asarray(item["mask"]) == np.asarray(mask)).all()
    assert seen == set(range(len(real)))


def test_the_export_is_itself_a_data_folder(study):
    real, out, _ = study
    own = read_manifest(out / "manifest.parquet")
    assert_same_rows(own.frame, real.frame)
    assert own.annotated == real.annotated
    for a, b in zip(own.take(own.frame["mask"].notna()).paths("mask"),
                    real.take(real.frame["mask"].notna()).paths("mask"), strict=True):  # fmt: skip
        assert a.read_bytes() == b.read_bytes()


def test_every_split_has_the_same_columns_and_types(study):
    _, out, _ = study
    schemas = [pq.read_schema(out / split / "metadata.parquet") for split in ("train", "validation", "test")]
    assert schemas[0].equals(schemas[1])
    assert schemas[0].equals(schemas[2])


def test_a_dicom_files_header_stays_behind(study):
    _, out, _ = study
    assert not list(out.rglob("*.dcm"))
    for path in out.rglob("*"):
        assert not path.is_file() or b"Secret" not in path.read_bytes()


@pytest.mark.parametrize("name", ["file_name", "scan_file_names", "objects", "y_Mass"])
def test_columns_that_mean_something_else_there_are_refused_by_name(tmp_path, name):
    real = read_study(tmp_path / "clinic", 4)
    named = type(real)(real.frame.assign(**{name: "x"}), real.root, real.file, real.findings, real.annotated)
    with pytest.raises(InputError, match=f"column '{name}'"):
        export(named, tmp_path / "out", HF)
