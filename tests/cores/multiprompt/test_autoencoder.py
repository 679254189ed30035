"""The autoencoder of views: it reconstructs and resumes exactly, and a core with one trains, opens and generates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toystudies import toy_settings, toy_studies, train_toy

from cxraug.cores.core import Prompt
from cxraug.cores.multiprompt import autoencoder as module
from cxraug.cores.multiprompt.autoencoder import ViewAutoencoder, cached_latents, reconstruction_loss, train_autoencoder
from cxraug.cores.multiprompt.core import MultipromptCore
from cxraug.cores.multiprompt.settings import MultipromptSettings
from cxraug.cores.multiprompt.settings_autoencoder import AutoencoderSettings
from cxraug.cores.multiprompt.spectrum import as_float
from cxraug.cores.multiprompt.studyset import StudySet
from cxraug.cores.registry import open_core, read_card
from cxraug.errors import InputError

TINY = AutoencoderSettings(
    channels=(16, 16), layers=1, steps=80, batch_size=8, lr=5e-3, warmup=5, threads=1, precision="float32",
    checkpoint_every=50,
)  # fmt: skip


def large(n: int = 40) -> StudySet:
    """Toy studies of 32 x 32 pixels."""
    studies = toy_studies(n)
    return replace(studies, maps=studies.maps.repeat(2, 2).repeat(2, 3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ViewAutoencoder, np.ndarray, Path]:
    maps, folder = large().maps, tmp_path_factory.mktemp("latent") / "core"
    return train_autoencoder(maps, folder / "autoencoder", TINY, seed=3), maps, folder


def test_it_reconstructs_images_it_has_not_seen(trained: tuple) -> None:
    model, maps, _ = trained
    views = as_float(replace(large(20), maps=toy_studies(20, seed=9).maps.repeat(2, 2).repeat(2, 3)).maps)
    mean = as_float(maps).mean(0, keepdim=True)
    error = (model.decode(model.encode(views)) - views).square().mean()
    assert error < (mean - views).square().mean() / 4, "four times better than the mean image"
    latents = model.encode(as_float(maps))
    assert latents.shape == (80, 4, 16, 16)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-2)


def test_edges_count() -> None:
    view = torch.zeros(1, 1, 8, 8)
    flat, edge = view + 0.5, view.clone()
    edge[..., 4:] = 1.0
    assert reconstruction_loss(flat, view, 3.0) == 0.5, "no edge, no gradient"
    assert reconstruction_loss(edge, view, 0.0) == 0.5
    # one of 7, 3 and 1 differences between columns is 1, none between rows
    assert torch.isclose(reconstruction_loss(edge, view, 3.0), torch.tensor(0.5 + 1 / 7 + 1 / 3 + 1))


def test_latents_are_made_once_and_those_of_other_images_anew(trained: tuple, tmp_path: Path) -> None:
    model, maps, _ = trained
    first = cached_latents(model, maps, tmp_path)
    assert np.abs(first - model.encode(as_float(maps)).numpy()).max() < 0.01
    file = next(tmp_path.iterdir())
    made = file.stat().st_mtime_ns
    again = cached_latents(model, maps, tmp_path)
    assert isinstance(again, np.memmap)
    assert file.stat().st_mtime_ns == made
    cached_latents(model, maps[::-1].copy(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_interrupted_and_resumed_is_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = large(10).maps
    short = TINY.model_copy(update={"channels": (8, 16), "steps": 7, "checkpoint_every": 3})
    whole = train_autoencoder(maps, tmp_path / "whole", short, seed=1)

    def stopping(items, what, *, total=None, done=0):
        for count, item in enumerate(items, done):
            if count == 5:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(module, "track", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_autoencoder(maps, tmp_path / "cut", short, seed=1)
    torch.manual_seed(5)
    train_autoencoder(maps, tmp_path / "cut", short, seed=1)
    files = [tmp_path / name / "autoencoder.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()
    read = train_autoencoder(maps, tmp_path / "cut", short, seed=1)
    assert all(torch.equal(a, whole.state_dict()[k]) for k, a in read.state_dict().items())
    with pytest.raises(InputError, match="another autoencoder"):
        train_autoencoder(maps, tmp_path / "cut", short, seed=2)


@pytest.fixture(scope="module")
def core_folder(trained: tuple) -> Path:
    """A core behind the autoencoder that an earlier stage has left in its folder."""
    settings = toy_settings(steps=6, autoencoder=True, sheet_every=3)
    return train_toy(large(), trained[2], settings, autoencoder=TINY, report=None)


def test_a_core_of_latents(core_folder: Path, tmp_path: Path) -> None:
    """Its Gaussian alone, hardly trained, already draws what the findings say - through the decoder."""
    card, core = read_card(core_folder), open_core(core_folder)
    assert isinstance(core, MultipromptCore)
    assert (card.resolution, card.settings["side"], card.settings["channels"]) == (32, 16, 4)
    assert not list((core_folder / "autoencoder").glob("latents-*")), "what can be made again goes"
    assert (core_folder / "sheets" / "step-000003.png").is_file()
    core.configure(guidance=1.0)

    def lower(present: int) -> float:
        asked = [Prompt(f"p{i}", {"Effusion": present}, views=("PA", "Lateral")) for i in range(8)]
        drawn = core.generate(asked, list(range(8)))
        assert drawn[0].images["PA"].shape == (32, 32)
        return float(np.mean([s.images["PA"][16:].mean() - s.images["PA"][12:16].mean() for s in drawn]))

    assert lower(1) - lower(0) > 20

    given = tmp_path / "f.png"
    image = large(20).maps[0, 0]
    Image.fromarray(image).save(given)
    seen: list[torch.Tensor] = []
    real = core.denoiser.forward

    def watching(noisy, times, asked):
        seen.append(noisy[0])
        return real(noisy, times, asked)

    core.denoiser.forward = watching  # type: ignore[method-assign]
    core.generate([Prompt("p", views=("Lateral",), reference_image=str(given))], [1])
    expected = core.autoencoder.encode(as_float(image[None, None]))[0]
    assert torch.allclose(seen[0][0], expected, atol=1e-4), "a given view passes the encoder"


def test_fine_tuning_keeps_the_autoencoder(core_folder: Path, tmp_path: Path) -> None:
    settings = toy_settings(steps=2, autoencoder=True)
    tuned = train_toy(large(20), tmp_path / "tuned", settings, init=core_folder, report=None)
    first, second = (open_core(f).autoencoder.state_dict() for f in (core_folder, tuned))  # type: ignore[attr-defined]
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    assert MultipromptSettings(size="small").autoencoder
    assert AutoencoderSettings().factor == 8
    with pytest.raises(ValueError, match="jitter"):
        MultipromptSettings(size="small", jitter=0.5)
    wide = AutoencoderSettings()
    with pytest.raises(InputError, match="grid"):
        train_toy(toy_studies(20), tmp_path, toy_settings(autoencoder=True), autoencoder=wide, report=None)
