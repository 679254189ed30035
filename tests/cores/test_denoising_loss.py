"""A core's denoising loss: known by hand, the same noise for all, lower for what was learnt by heart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import cohort, seen, tiny_settings
from PIL import Image
from sklearn.metrics import roc_auc_score

from cxraug.cores.conditions import Conditions
from cxraug.cores.diffusion.training import train_diffusion
from cxraug.cores.linear_gaussian import ConditionBatch
from cxraug.cores.registry import open_core
from cxraug.privacy.denoising import HasDenoisingLoss, losses_of
from cxraug.studies.manifest import read_manifest

LEVELS = (0.2, 0.5)


def test_the_loss_is_the_squared_residual_at_each_level(diffusion_folder: Path) -> None:
    core = open_core(diffusion_folder)
    pixels, conditions = cohort(6, seed=5)
    found = core.denoising_loss(pixels, conditions, LEVELS, 7)
    random = torch.Generator().manual_seed(7)
    x = torch.from_numpy(pixels).flatten(1).float() / 127.5 - 1
    batch = ConditionBatch.of(core.vocabulary, conditions)
    for column, level in enumerate(LEVELS):
        t = torch.full((6, 1), level)
        guess = core.denoiser((1 - t) * x + t * torch.randn(1, x.shape[1], generator=random), t, batch)
        expected = ((x - guess.clean) / guess.deviation).square().mean(1)
        np.testing.assert_allclose(found[:, column], expected.numpy(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["diffusion_folder", "toy_folder"])
def test_the_loss_of_an_image_does_not_depend_on_its_neighbours(kind: str, request: pytest.FixtureRequest) -> None:
    core = open_core(request.getfixturevalue(kind))
    assert isinstance(core, HasDenoisingLoss)
    pixels, conditions = cohort(8, seed=6)
    if kind == "toy_folder":
        conditions = Conditions.of(("Effusion",), conditions.y[:, :1], view=conditions.view)
    whole = core.denoising_loss(pixels, conditions, LEVELS, 1)
    assert whole.shape == (8, 2)
    assert np.isfinite(whole).all()
    some = np.array([5, 2])
    np.testing.assert_allclose(
        whole[some], core.denoising_loss(pixels[some], conditions.take(some), LEVELS, 1), rtol=1e-3
    )
    assert not np.allclose(whole, core.denoising_loss(pixels, conditions, LEVELS, 2))


def write(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    names = [f"{i}.png" for i in range(len(pixels))]
    frame = pd.DataFrame({"image": names, "patient_id": names, "view": "PA"})
    frame.loc[len(pixels) - 1, "view"] = "AP"
    frame.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def test_images_learnt_by_heart_lose_less_and_unknown_views_are_not_judged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(120, 40, (24, 16, 16)), 0, 255).astype(np.uint8)
    conditions = Conditions.of((), np.zeros((12, 0)), view=["PA"] * 12)
    settings = tiny_settings(steps=150, lr=1e-2, batch_size=12, channels=(24, 48), components=2)
    folder = train_diffusion(
        pixels[:12], conditions, tmp_path / "core", settings, seen=seen(), training_data={}, name="heart", seed=1
    )
    manifest = read_manifest(write(tmp_path / "real", pixels))
    losses = losses_of(open_core(folder), manifest, seed=0)
    assert losses is not None
    assert np.isnan(losses[-1])
    assert np.isfinite(losses[:-1]).all()
    assert roc_auc_score(np.arange(23) < 12, -losses[:-1]) > 0.85


def test_a_core_without_a_loss_is_not_asked(gaussian_folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path / "real", cohort(4)[0]))
    assert losses_of(open_core(gaussian_folder), manifest, seed=0) is None
