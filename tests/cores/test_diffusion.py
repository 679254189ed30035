"""The diffusion core: exact resume, guidance identities, fine-tuning, and that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import KEY, cohort, seen, tiny_settings

from cxraug.cores.conditions import Conditions
from cxraug.cores.core import Prompt
from cxraug.cores.diffusion import training
from cxraug.cores.diffusion.core import load_denoiser
from cxraug.cores.diffusion.sampling import guided
from cxraug.cores.diffusion.training import diffusion_loss, train_diffusion
from cxraug.cores.linear_gaussian import ConditionBatch
from cxraug.cores.pixel_core import vocabulary_of
from cxraug.cores.registry import open_core, read_card
from cxraug.cores.steps import schedule
from cxraug.errors import InputError
from cxraug.storage import file_sha256
from cxraug.studies.seen import Seen


def train(folder: Path, *, settings=None, init=None, data=None, hashes=None, seed: int = 3) -> Path:
    pixels, conditions = data or cohort()
    return train_diffusion(
        pixels, conditions, folder, settings or tiny_settings(), init=init, seen=hashes or seen(), training_data={},
        name="tiny", seed=seed,
    )  # fmt: skip


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 5])
def test_interrupted_and_resumed_is_bit_identical(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole")

    def stopping(items, what, *, total=None, done=0):
        for count, item in enumerate(items, done):
            if count == after:
                raise Stop
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(training, "track", stopping)
        with pytest.raises(Stop):
            train(tmp_path / "cut")
    assert not (tmp_path / "cut" / "card.json").exists()
    torch.manual_seed(after)  # whatever else used the global generator in between
    resumed = train(tmp_path / "cut")
    assert file_sha256(whole / "model.safetensors") == file_sha256(resumed / "model.safetensors")
    assert not (resumed / "checkpoint.pt").exists()


def test_finished_folder_is_left_alone_and_another_training_refused(tmp_path: Path) -> None:
    folder = train(tmp_path)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    train(tmp_path)
    train(tmp_path, settings=tiny_settings(guidance=3.0, checkpoint_every=5))  # no part of the weights
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    for other in ({"settings": tiny_settings(lr=0.5)}, {"data": cohort(seed=1)}, {"seed": 4}):
        with pytest.raises(InputError, match="another core"):
            train(tmp_path, **other)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_core", lambda *a, **k: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            train(tmp_path)
    with pytest.raises(InputError, match="another training"):
        train(tmp_path, data=cohort(seed=1))


def batch_of(folder: Path, conditions: Conditions) -> ConditionBatch:
    return ConditionBatch.of(vocabulary_of(read_card(folder)), conditions)


def test_guidance_identities(diffusion_folder: Path) -> None:
    """Scale 1 is the conditional model, 0 the unconditional one, and the prediction is linear in the scale."""
    denoiser = load_denoiser(diffusion_folder, read_card(diffusion_folder)).eval()
    _, conditions = cohort(6)
    batch = batch_of(diffusion_folder, conditions)
    x, t = torch.randn(6, 256, generator=torch.Generator().manual_seed(0)), torch.full((6, 1), 0.6)

    def denoise(z: torch.Tensor, s: torch.Tensor, b: ConditionBatch) -> torch.Tensor:
        return denoiser(z, s, b).clean

    with torch.no_grad():
        conditional, null = denoise(x, t, batch), denoise(x, t, batch.null())
        assert torch.equal(guided(denoise, batch, 1.0)(x, t), conditional)
        assert torch.equal(guided(denoise, batch, 0.0)(x, t), null)
        assert torch.allclose(guided(denoise, batch, 2.5)(x, t), null + 2.5 * (conditional - null), atol=1e-4)
        assert torch.equal(guided(denoise, batch, 2.5, until=0.5)(x, t), conditional)
    assert (conditional - null).abs().max() > 1e-3
    assert batch.null().known.abs().sum() == 0


def test_untrained_it_is_the_wiener_filter() -> None:
    pixels, conditions = cohort()
    vocabulary, denoiser = training._start(pixels, conditions, tiny_settings(), None, 0)
    batch = ConditionBatch.of(vocabulary, conditions.take(np.arange(4)))
    prediction = denoiser(torch.randn(4, 256), torch.full((4, 1), 0.5), batch)
    assert torch.equal(prediction.clean, prediction.estimate)


def test_network_inputs_determine_the_noisy_image_and_have_unit_size() -> None:
    pixels, conditions = cohort()
    vocabulary, denoiser = training._start(pixels, conditions, tiny_settings(), None, 0)
    batch = ConditionBatch.of(vocabulary, conditions)
    clean = torch.from_numpy(pixels).flatten(1).float() / 127.5 - 1
    for value in (0.05, 0.5, 0.95):
        t = torch.full((len(clean), 1), value)
        noisy = (1 - t) * clean + t * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        maps, estimate, deviation = denoiser.precondition.inputs(noisy, t, batch)
        unexplained = denoiser.precondition.to_flat(maps[:, 4:])
        again = (1 - t) * estimate + unexplained * (t**2 - (1 - t) ** 2 * deviation**2).sqrt()
        assert torch.allclose(again, noisy, atol=1e-4)
        assert 0.7 < float(unexplained.std()) < 1.3
        assert 0.5 < float(((clean - estimate) / deviation).std()) < 1.5  # what is left to learn


def test_it_learns_what_no_gaussian_knows(tmp_path: Path) -> None:
    """Images of one sharp edge are far from Gaussian: the trained residual has to beat the Wiener filter clearly."""
    edge = np.random.default_rng(0).integers(2, 14, 300)
    pixels = np.where(np.arange(16)[None, None, :] < edge[:, None, None], 60, 190) * np.ones((1, 16, 1))
    data = pixels.astype(np.uint8), Conditions.of((), np.zeros((300, 0)))
    settings = tiny_settings(steps=60, lr=5e-3, ema=0.8, batch_size=16, channels=(16,), components=2)
    folder = train(tmp_path, settings=settings, data=data)
    denoiser = load_denoiser(folder, read_card(folder)).eval()
    clean = torch.from_numpy(data[0][:64]).flatten(1).float() / 127.5 - 1
    t = torch.full((64, 1), 0.3)
    noisy = (1 - t) * clean + t * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = denoiser(noisy, t, batch_of(folder, data[1].take(np.arange(64))))
    assert (found.clean - clean).square().mean() < 0.6 * (found.estimate - clean).square().mean()


def test_loss_of_a_step_follows_from_its_seed(diffusion_folder: Path) -> None:
    denoiser = load_denoiser(diffusion_folder, read_card(diffusion_folder))
    pixels, conditions = cohort(8)
    batch, images = batch_of(diffusion_folder, conditions), torch.from_numpy(pixels).flatten(1).float() / 127.5 - 1
    losses = [
        float(diffusion_loss(denoiser, images, batch, tiny_settings(), torch.Generator().manual_seed(s)).detach())
        for s in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_fine_tuning_with_added_findings_keeps_the_old_core(diffusion_folder: Path, tmp_path: Path) -> None:
    """With a learning rate of nothing the core gives for old prompts the same bytes, and knows the new finding."""
    pixels, conditions = cohort()
    y = np.concatenate([conditions.y, (np.arange(len(pixels)) % 3 == 0)[:, None]], 1)
    more = Conditions.of((*conditions.findings, "Mass"), y, sex=list(conditions.sex), age=conditions.age,
                         view=list(conditions.view), source=list(conditions.source))  # fmt: skip
    still = tiny_settings(lr=1e-30, weight_decay=0, steps=2)
    hashes = Seen.of(["p2"], ["i2"], key=KEY)
    folder = train(tmp_path, settings=still, init=diffusion_folder, data=(pixels, more), hashes=hashes)
    old, new = open_core(diffusion_folder), open_core(folder)
    assert new.card.findings == ["Effusion", "Nodule", "Mass"]
    asked = [Prompt(f"p{i}", {"Effusion": i % 2}, "F", 50.0, views=("PA",)) for i in range(4)]
    for a, b in zip(old.generate(asked, [1, 2, 3, 4]), new.generate(asked, [1, 2, 3, 4]), strict=True):
        assert np.abs(a.images["PA"].astype(int) - b.images["PA"]).max() <= 1
    assert new.generate([Prompt("q", {"Mass": 1}, views=("PA",))], [1])
    assert new.card.hashes.count_patients(["p1", "p2", "p3"]) == 2  # what both trainings have seen


def test_fine_tuning_refuses_what_cannot_be(diffusion_folder: Path, gaussian_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot fine-tune"):
        train(tmp_path, init=gaussian_folder)
    with pytest.raises(InputError, match="cannot fine-tune"):
        train(tmp_path, init=diffusion_folder, data=cohort(size=32))
    with pytest.raises(InputError, match="channels"):
        train(tmp_path, init=diffusion_folder, settings=tiny_settings(channels=(8, 8)))
    with pytest.raises(InputError, match="another key"):
        train(tmp_path, init=diffusion_folder, hashes=Seen.of(["p"], ["i"], key="cd" * 16))
    frontal = train(tmp_path / "frontal", data=cohort(views=("PA",)))
    with pytest.raises(InputError, match="projection"):
        train(tmp_path / "both", init=frontal)


def test_image_size_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="grid"):
        train(tmp_path, data=cohort(size=20))


def test_sampler_settings(diffusion_folder: Path) -> None:
    core = open_core(diffusion_folder, overrides={"guidance": 3.0})
    assert core.sampler["guidance"] == 3.0
    core.configure(steps=5, guidance=None)
    assert (core.sampler["steps"], core.sampler["guidance"]) == (5, 3.0)
    for bad in ({"colour": 1}, {"steps": 0}, {"guidance": -1.0}):
        with pytest.raises(InputError, match="sampler"):
            core.configure(**bad)


def test_gaussian_core_has_nothing_to_configure(gaussian_folder: Path) -> None:
    core = open_core(gaussian_folder)
    core.configure(steps=None, guidance=None)
    with pytest.raises(InputError, match="steps"):
        core.configure(steps=3)


def test_rare_findings_are_drawn_more_often() -> None:
    y = np.zeros((100, 2), np.float32)
    y[:50, 0], y[:4, 1] = 1, 1
    chances = training.chances(Conditions.of(("A", "B"), y), 0.5)
    assert chances[99] == 1
    assert chances[10] == pytest.approx(0.5**-0.5)
    assert chances[0] == pytest.approx(0.04**-0.5)
    assert np.all(training.chances(Conditions.of(("A", "B"), y), 0.0) == 1)


def test_schedule() -> None:
    assert schedule(0, 100, 4) == 0.25
    assert schedule(4, 100, 4) == pytest.approx(1)
    assert schedule(99, 100, 0) == pytest.approx(0.1, abs=0.001)
