"""Small manifests with known imbalance, made in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxraug.studies.manifest import Manifest

MakeManifest = Callable[..., Manifest]


def manifest_of(rows: Sequence[dict[str, Any]], annotated: dict[str, tuple[str, ...]] | None = None) -> Manifest:
    """A manifest of ``rows``; what a row does not say is one PA image of a train patient of its own."""
    frame = pd.DataFrame(list(rows))
    number = [f"{i:05d}" for i in range(len(frame))]
    defaults = {"image": number, "patient_id": number, "view": "PA", "source": "", "split": "train"}
    for name, value in {**defaults, "sex": np.nan, "age": np.nan, "labels": np.nan}.items():
        filled = pd.Series(value, index=frame.index)
        frame[name] = frame[name].where(frame[name].notna(), filled) if name in frame.columns else filled
    if "study_id" not in frame.columns:
        frame["study_id"] = frame["image"]
    text = ["image", "patient_id", "study_id", "view", "source", "split", "sex", "labels"]
    frame = frame.astype({**dict.fromkeys(text, "str"), "age": "float64"})
    found = sorted({p.lstrip("-?") for t in frame["labels"].dropna() for p in t.split("|")})
    sources = {s: tuple(found) for s in frame["source"].unique()}
    return Manifest(frame, Path("."), None, tuple(found), annotated or sources)


@pytest.fixture
def make_manifest() -> MakeManifest:
    return manifest_of


def cohort(n: int = 1200, seed: int = 0) -> Manifest:
    """Effusion is common, Cardiomegaly too but rarer in women, who are a quarter, and Nodule is rare."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        female = rng.random() < 0.25
        present = [
            name
            for name, p in (("Cardiomegaly", 0.06 if female else 0.18), ("Effusion", 0.2), ("Nodule", 0.03))
            if rng.random() < p
        ]
        age = float(rng.integers(18, 95))
        split = "train" if i % 5 < 4 else "test"
        rows.append(
            {"sex": "F" if female else "M", "age": age, "split": split, "labels": "|".join(present) or "No Finding"}
        )
    return manifest_of(rows)


@pytest.fixture(scope="session")
def imbalanced() -> Manifest:
    return cohort()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, np.ndarray, Path]:
    """240 phantoms, their pixels (n, 64, 64) as decoded, and the manifest's path; Cardiomegaly is common."""
    from cxraug.studies.cache import build_cache
    from cxraug.studies.images import Encoding
    from cxraug.studies.manifest import read_manifest
    from cxraug.studies.phantom.cohort import PhantomSettings, make_cohort

    folder = tmp_path_factory.mktemp("pictures")
    settings = PhantomSettings(n=240, size=64, seed=21, prevalence={"Cardiomegaly": 0.35})
    path = make_cohort(settings, folder / "set", workers=1)
    manifest, cache = build_cache(read_manifest(path), folder / "cache", Encoding())
    return manifest, np.asarray(cache.pixels), path


@pytest.fixture(scope="session")
def large() -> Manifest:
    """Enough patients for AUROCs of validation rows to say something."""
    return cohort(9000, seed=1)
