"""Several processes, precision, checkpointing and the weighting of noise levels: what they change and what not."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import pytest
import torch
from toystudies import toy_settings, toy_studies

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.multiprompt.denoiser import MultipromptDenoiser
from cxraug.cores.multiprompt.network import FRONTAL, LATERAL_SLOT, REPORT
from cxraug.cores.multiprompt.settings import MultipromptSettings
from cxraug.cores.multiprompt.studyset import StudySet
from cxraug.cores.multiprompt.training import StepDraw, level_weight, slot_losses, start, train_denoiser, wanted
from cxraug.cores.recipe import read_core_recipe, train_core
from cxraug.errors import InputError

ROOT = Path(__file__).parents[3]


def prepared(settings: MultipromptSettings) -> tuple[MultipromptDenoiser, StudySet]:
    studies = toy_studies(40)
    vocabulary = Vocabulary.of(studies.conditions)
    latents = torch.randn(40, 2, 8, generator=torch.Generator().manual_seed(0))
    studies = replace(studies.encode(vocabulary), latents=latents)
    return start(studies, vocabulary, settings, 0), studies


def train(folder: Path, settings: MultipromptSettings) -> MultipromptDenoiser:
    denoiser, studies = prepared(settings)
    train_denoiser(denoiser, studies, folder, settings, key="k", seed=5)
    return denoiser


SETTINGS = toy_settings(steps=4, ema=0.0, lone_view=0.5, checkpoint_every=1000)


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Each process sees its half of the rows, and of the noise; losses are divided by what all of them want."""
    alone = train(tmp_path / "one", SETTINGS.model_copy(update={"batch_size": 8}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "from cores.multiprompt.test_processes import *; import sys\n"
        "found = train(Path(sys.argv[1]), SETTINGS.model_copy(update={'batch_size': 4}))\n"
        "torch.save(found.state_dict(), f'{sys.argv[1]}/{os.environ[\"RANK\"]}.pt')\n"
    )
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
              "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path]),
              "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    (tmp_path / "two").mkdir()
    running = [
        Popen([sys.executable, "-c", code, str(tmp_path / "two")], env={**common, "RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(2)
    ]
    assert [process.wait(timeout=600) for process in running] == [0, 0]
    first, second = (torch.load(tmp_path / "two" / f"{r}.pt") for r in range(2))
    begin = prepared(SETTINGS)[0].state_dict()
    moved = 0.0
    for name, tensor in alone.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        if tensor.is_floating_point():
            assert torch.allclose(first[name], tensor, atol=2e-4), name
            moved = max(moved, float((tensor - begin[name]).abs().max()))
    assert moved > 2e-3, "the agreement is of weights that have moved"


def losses(settings: MultipromptSettings, denoiser: MultipromptDenoiser, studies: StudySet) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    clean, times, asked = StepDraw(studies, settings)(random)
    noise = {s: torch.randn(x.shape, generator=random) for s, x in clean.items()}
    counts = {s: wanted(s, times, asked).sum().clamp(min=1) for s in clean}
    return sum(slot_losses(denoiser, clean, times, asked, settings, noise, counts).values())  # type: ignore[return-value]


def gradients(settings: MultipromptSettings) -> tuple[float, dict[str, torch.Tensor]]:
    denoiser, studies = prepared(settings)
    torch.manual_seed(1)
    with torch.no_grad():  # zero last layers pass no gradients on
        for parameter in denoiser.network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    loss = losses(settings, denoiser.train(), studies)
    loss.backward()
    return float(loss.detach()), {n: p.grad for n, p in denoiser.named_parameters() if p.grad is not None}


def test_checkpointing_changes_no_gradient() -> None:
    (plain, kept), (again, computed) = (gradients(toy_settings(checkpointing=c)) for c in (False, True))
    assert plain == again
    assert kept.keys() == computed.keys()
    assert all(torch.allclose(kept[n], computed[n], atol=1e-6) for n in kept)
    assert sum(g.abs().sum() > 0 for g in kept.values()) > 20


def test_half_precision_computes_the_same_but_coarser(monkeypatch: pytest.MonkeyPatch) -> None:
    import cxraug.cores.multiprompt.denoiser as module

    full, exact = gradients(toy_settings())
    monkeypatch.setattr(module, "compute_dtype", lambda precision: torch.bfloat16)  # on any machine
    half, coarse = gradients(toy_settings(precision="bfloat16"))
    assert full != half
    assert abs(full - half) < 0.02 * full
    assert all(g.dtype == torch.float32 for g in coarse.values()), "weights stay in full precision"
    flat = [torch.cat([g.flatten() for g in part.values()]) for part in (exact, coarse)]
    assert torch.cosine_similarity(flat[0], flat[1], dim=0) > 0.98


def test_weights_of_noise_levels() -> None:
    t, s = torch.tensor([[0.1], [0.5], [0.8]]), torch.tensor([[0.05], [0.2], [0.3]])
    assert torch.equal(level_weight(t, s, toy_settings()), torch.ones(3, 1))
    assert torch.allclose(level_weight(t, s, toy_settings(loss="flow")), (s / t) ** 2)
    assert torch.equal(level_weight(t, s, toy_settings(velocity_weight=1)), (s / t) ** 2)
    expected = torch.tensor([[5.0], [1.0], [0.0625]]) * s**2  # SNR 81 is cut at 5, 1, and 1/16
    assert torch.allclose(level_weight(t, s, toy_settings(loss="min_snr")), expected)
    with pytest.raises(ValueError, match="velocity_weight"):
        toy_settings(loss="min_snr", velocity_weight=0.5)


def test_the_present_loss_is_as_it_was() -> None:
    """The residual's squared error in units of the deviation, averaged over the wanted: written out once more."""
    settings = toy_settings(velocity_weight=0.3)
    denoiser, studies = prepared(settings)
    random = torch.Generator().manual_seed(3)
    clean, times, asked = StepDraw(studies, settings)(random)
    noise = {s: torch.randn(x.shape, generator=random) for s, x in clean.items()}
    counts = {s: wanted(s, times, asked).sum().clamp(min=1) for s in clean}
    found = slot_losses(denoiser, clean, times, asked, settings, noise, counts)
    noisy = {s: (1 - times[s].view(-1, *[1] * (x.ndim - 1))) * x + times[s].view(-1, *[1] * (x.ndim - 1)) * noise[s]
             for s, x in clean.items()}  # fmt: skip
    with torch.no_grad():
        answer = denoiser(noisy, times, asked)
    for s in (FRONTAL, LATERAL_SLOT, REPORT):
        if s not in clean:
            continue
        total, n = 0.0, 0
        for row in range(len(times[s])):
            if times[s][row] > 0 and (s != REPORT or asked.report_known[row] > 0):
                deviation = answer.deviation[s][row].clamp(min=1e-5)
                squared = ((answer.clean[s][row] - clean[s][row]) / deviation).square().mean()
                total, n = total + float(squared * (deviation / times[s][row]) ** 0.6), n + 1
        assert found[s].item() == pytest.approx(total / max(n, 1), rel=1e-4)


def test_several_processes_begin_behind_the_alignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "core.yaml").write_text("{name: t, data: {phantom: {n: 4}}, core: {kind: multiprompt}}")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--stage alignment"):
        train_core(read_core_recipe(tmp_path / "core.yaml"), tmp_path / "out")
