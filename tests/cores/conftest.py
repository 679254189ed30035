"""Tiny cores on made-up 16-pixel images, built once for the whole folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toystudies import learned, learned_folder, toy_folder  # noqa: F401 - fixtures

from cxraug.cores.conditions import Conditions
from cxraug.cores.diffusion.training import train_diffusion
from cxraug.cores.gaussian import fit_gaussian
from cxraug.cores.settings import DiffusionSettings
from cxraug.studies.seen import Seen

FINDINGS = ("Effusion", "Nodule")
KEY = "ab" * 16


def tiny_settings(**changes) -> DiffusionSettings:
    """A network of a few thousand weights."""
    base = {
        "steps": 6, "batch_size": 4, "channels": (8, 16), "grid": 8, "components": 8, "threads": 1,
        "sampler_steps": 3, "sample_batch": 4, "checkpoint_every": 2, "warmup": 0,
    }  # fmt: skip
    return DiffusionSettings(**{**base, **changes})


def cohort(n: int = 80, size: int = 16, seed: int = 0, views: tuple[str, ...] = ("PA", "Lateral")):
    """Images whose mean depends on the findings, sex and view; returns pixels and conditions."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 2)) < 0.4).astype(np.float32)
    y[rng.random((n, 2)) < 0.1] = np.nan
    sex = rng.choice(["M", "F", ""], n)
    age = np.where(rng.random(n) < 0.1, np.nan, rng.uniform(20, 90, n))
    view = rng.choice(views, n)
    images = rng.normal(110, 12, (n, size, size)) + rng.normal(0, 20, (n, 1, 1))
    images[np.nan_to_num(y[:, 0]) == 1, size // 2 :] += 60
    images[sex == "F", :, : size // 2] += 25
    images[view == "Lateral", : size // 4] -= 60
    conditions = Conditions.of(FINDINGS, y, sex=list(sex), age=age, view=list(view), source=["here"] * n)
    return np.clip(images, 0, 255).astype(np.uint8), conditions


def seen() -> Seen:
    return Seen.of(["p1"], ["i1"], key=KEY)


@pytest.fixture(scope="session")
def gaussian_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gaussian")
    pixels, conditions = cohort()
    fit_gaussian(pixels, conditions, folder, components=6, seen=seen(), training_data={"images": 80})
    return folder


@pytest.fixture(scope="session")
def diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffusion")
    pixels, conditions = cohort()
    return train_diffusion(
        pixels, conditions, folder, tiny_settings(lr=1e-2, steps=12), seen=seen(), training_data={}, name="tiny", seed=3
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> folder of a tiny random pipeline; not to be changed."""
    from tinypipelines import KINDS, save_tiny

    folder = tmp_path_factory.mktemp("pipelines")
    return {kind: save_tiny(kind, folder / kind) for kind in KINDS}
