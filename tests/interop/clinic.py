"""A small data folder with everything that an export carries: labels of every kind, boxes, masks, DICOM, 16 bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from dicomfile import dataset, save
from PIL import Image

from cxraug.studies.manifest import Manifest, read_manifest

LABELS = ("Effusion|-Mass", "No Finding", "?Mass", None, "Mass|?Effusion", "-Mass|Effusion")
BOXES = (
    json.dumps([{"label": "Effusion", "x": 2, "y": 3, "w": 10.5, "h": 8}]), "[]", None, None,
    json.dumps([{"label": "Mass", "x": 0, "y": 0, "w": 4, "h": 5},
                {"label": "Nodule/Mass", "x": 9, "y": 9, "w": 3, "h": 3}]),
    None,
)  # fmt: skip
SIZE = (30, 40)
REPORT = "Heart normal, “clear” lungs.\nNo\tmore."


def write_study(folder: Path, n: int = 12) -> Path:
    """``folder/manifest.csv`` with n rows: PNG, JPEG, 16-bit PNG, and a DICOM file; returns its path."""
    (folder / "scans/deep").mkdir(parents=True)
    (folder / "scans/masks").mkdir()
    rng = np.random.default_rng(3)
    rows = []
    for i in range(n):
        pixels = rng.integers(0, 255, SIZE, dtype=np.uint8)
        name = f"scans/{'deep/' if i % 2 else ''}test-{i}.{'jpg' if i % 5 == 4 else 'png'}"
        if i == 7:
            name = "scans/seven.dcm"
            save(folder / name, dataset(pixels.astype(np.uint16) * 16, PatientName="Secret^Name"))
        else:
            Image.fromarray(pixels.astype(np.uint16) * 256 if i == 3 else pixels).save(folder / name)
        mask = f"scans/masks/{i}.png" if i % 3 == 0 else None
        if mask:
            Image.fromarray(rng.integers(0, 8, SIZE, dtype=np.uint8)).save(folder / mask)
        rows.append(
            {
                "image": name, "patient_id": f"{i // 2:04d}", "study_id": f"s{i}", "sex": ("F", "M", None)[i // 2 % 3],
                "age": 30.5 + i if i % 4 else None, "view": ("PA", "AP", "Lateral")[i % 3], "labels": LABELS[i % 6],
                "boxes": BOXES[i % 6], "mask": mask, "source": "north", "report": REPORT if i % 2 else None,
                "split": ("train", "train", "val", "test")[i // 2 % 4], "site": f"site {i % 2}",
            }
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def read_study(folder: Path, n: int = 12) -> Manifest:
    return read_manifest(write_study(folder, n))


def assert_same_rows(found: pd.DataFrame, expected: pd.DataFrame, *, but: tuple[str, ...] = ()) -> None:
    """Every column of ``expected`` but paths and ``but`` has the same values in ``found``, row by row."""
    assert len(found) == len(expected)
    for name in expected.columns.difference(["image", "mask", *but]):
        there, wanted = found[name].tolist(), expected[name].tolist()
        for row, (a, b) in enumerate(zip(there, wanted, strict=True)):
            if pd.isna(b):
                assert pd.isna(a), (name, row, a)
            elif name == "boxes":
                assert json.loads(a) == json.loads(b), (name, row)
            else:
                assert a == b, (name, row, a, b)
