"""A toy real data set for the gate: pictures whose findings can be seen, two images for every third patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from toycore import FINDINGS, draw_chest

from cxraug.gate.check import Images
from cxraug.studies.cache import PixelCache, build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import Manifest, read_manifest

ENCODING = Encoding(size=32)


def toy_images(n: int, *, seed: int = 0, blind: bool = False, positives: float = 0.4) -> Images:
    """``blind`` draws pictures that do not show their labels."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 2)) < positives).astype(np.float32)
    pixels = [draw_chest({} if blind else dict(zip(FINDINGS, row, strict=True)), rng) for row in y.astype(int).tolist()]
    patients = np.array([f"patient-{i - (i % 3 == 2)}" for i in range(n)], dtype=object)
    return Images(np.stack(pixels), y, patients, np.array([f"sha-{seed}-{i}" for i in range(n)]))


def write_cohort(folder: Path, n: int = 160) -> Path:
    """The same as files: a manifest with n training rows and 10 of validation and test each."""
    images = toy_images(n + 20, seed=1)
    (folder / "images").mkdir(parents=True)
    rows = []
    for i, (pixels, y) in enumerate(zip(images.pixels, images.y, strict=True)):
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        split = "train" if i < n else "val" if i < n + 10 else "test"
        patient = images.patients[i] if i < n else f"{split}-{i}"
        labels = "|".join(("" if value else "-") + name for name, value in zip(FINDINGS, y, strict=True))
        rows.append(
            {"image": f"images/{i}.png", "patient_id": patient, "sex": "F" if i % 2 else "M", "age": 30 + i % 50,
             "view": "PA", "labels": labels, "split": split, "source": "here"}
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def read_cohort(path: Path) -> tuple[Manifest, PixelCache]:
    return build_cache(read_manifest(path), path.parent / "cache", ENCODING)


def train_rows(path: Path) -> tuple[Manifest, PixelCache]:
    manifest, cache = read_cohort(path)
    rows = (manifest.frame["split"] == "train").to_numpy()
    return manifest.take(rows), cache.take(rows)
