"""Fine-tuning by adapters: an ordinary core comes out, what was frozen is untouched, and a new finding is learnt."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toystudies import SIZE, toy_settings, toy_studies, train_toy

from cxraug.cores.conditions import Conditions, Vocabulary
from cxraug.cores.core import Prompt
from cxraug.cores.multiprompt.adapters import add_adapters
from cxraug.cores.multiprompt.denoiser import Asked, MultipromptDenoiser
from cxraug.cores.multiprompt.growth import grow
from cxraug.cores.multiprompt.network import FRONTAL, REPORT
from cxraug.cores.multiprompt.spatial import Layout
from cxraug.cores.multiprompt.studyset import StudySet
from cxraug.cores.peft import need_peft
from cxraug.cores.pixel_core import load_weights
from cxraug.cores.recipe import MultipromptKind
from cxraug.cores.registry import open_core, read_card
from cxraug.errors import InputError

peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="an optional package")
NEW = Vocabulary(("Mass",), ("AP",), (), ("White",))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A core without reports, trained for some steps."""
    return train_toy(toy_studies(), tmp_path_factory.mktemp("base") / "core", toy_settings(steps=30), report=None)


def inputs(vocabulary: Vocabulary) -> tuple[dict, dict, Asked]:
    values, known = (torch.from_numpy(a) for a in vocabulary.encode(
        Conditions.of(("Effusion", "Mass"), np.ones((3, 2)), sex=["F", "M", ""], view=["PA"] * 3)
    ))  # fmt: skip
    v, k = (torch.cat([part, torch.zeros(3, 4)], 1) for part in (values, known))
    noisy = {FRONTAL: torch.randn(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))}
    asked = Asked({0: v, REPORT: v}, {0: k, REPORT: k}, {0: Layout.nothing(3, 8)}, torch.zeros(3, 1),
                  torch.zeros(3, 8), torch.zeros(3, 1))  # fmt: skip
    return noisy, {FRONTAL: torch.full((3, 1), 0.4), REPORT: torch.zeros(3, 1)}, asked


def clean(denoiser: MultipromptDenoiser, vocabulary: Vocabulary) -> torch.Tensor:
    with torch.no_grad():
        return denoiser(*inputs(vocabulary)).clean[FRONTAL]


@peft
def test_merged_is_adapted_and_an_untrained_adapter_is_nothing(base: Path) -> None:
    old = open_core(base).vocabulary  # type: ignore[attr-defined]
    wider = old.union(NEW)
    denoiser = grow(base, wider, toy_settings()).eval()
    names, before = list(denoiser.state_dict()), clean(denoiser, wider)
    adapters = add_adapters(denoiser, 4, old, wider, seed=0)
    assert torch.equal(clean(denoiser, wider), before)
    touched = {name.split(".lora_")[0] for name in denoiser.state_dict() if ".lora_" in name}
    assert any(".conv_shortcut" in name for name in touched), "1 x 1"
    assert "network.enter" in touched
    assert "network.blocks.0.qkv" in touched
    with torch.no_grad():
        for parameter in adapters.parameters[0]["params"]:
            parameter.add_(0.1 * torch.randn(parameter.shape))
    changed = clean(denoiser, wider)
    assert (changed - before).abs().max() > 0.05
    adapters.merge()
    assert list(denoiser.state_dict()) == names, "an ordinary denoiser"
    assert torch.allclose(clean(denoiser, wider), changed, atol=1e-4)


@peft
def test_only_new_rows_and_adapters_get_gradients(base: Path) -> None:
    old = open_core(base).vocabulary  # type: ignore[attr-defined]
    wider = old.union(NEW)
    denoiser = grow(base, wider, toy_settings()).train()
    add_adapters(denoiser, 4, old, wider, seed=0)
    denoiser(*inputs(wider)).clean[FRONTAL].square().sum().backward()
    table = denoiser.network.prompt.known
    assert table.grad is not None
    assert table.grad[wider.findings.index("Mass")].abs().sum() > 0
    assert table.grad[old.positions(wider)].abs().sum() == 0
    assert denoiser.network.slot.grad is None
    grown = grow(base, old, toy_settings())
    assert add_adapters(grown, 4, old, old, seed=0).parameters[1]["params"] == [], "nothing new, no rows"


def massive(n: int = 120) -> StudySet:
    """Toy studies in which a mass, a finding the first core never heard of, brightens the upper half by 60."""
    studies = toy_studies(n, seed=8)
    y = studies.conditions.y.copy()
    y[:, 1] = (np.arange(n) % 2).repeat(2)
    maps = studies.maps.astype(int)
    maps[y[:, 1] == 1, :, : SIZE // 2] += 60
    conditions = replace(studies.conditions, findings=("Effusion", "Mass"), y=y)
    return replace(studies, maps=np.clip(maps, 0, 255).astype(np.uint8), conditions=conditions,
                   boxes_known=np.zeros_like(studies.boxes_known))  # fmt: skip


@peft
def test_a_new_finding_is_learnt_and_the_rest_is_kept(base: Path, tmp_path: Path) -> None:
    settings = toy_settings(steps=150, batch_size=16, finetune_lr=2e-2, lora=8, ema=0.9, checkpoint_every=1000)
    folder = train_toy(massive(), tmp_path / "tuned", settings, init=base, report=None)
    card, core = read_card(folder), open_core(folder)
    assert card.findings == ["Effusion", "Nodule", "Mass"]
    assert card.settings["multiprompt"]["lora"] == 8

    def upper(present: int) -> float:
        asked = [Prompt(f"p{i}", {"Mass": present, "Effusion": 0}, wants_report=False) for i in range(12)]
        return float(np.mean([s.images["PA"][:8].mean() for s in core.generate(asked, list(range(12)))]))

    assert upper(1) - upper(0) > 30
    first, tuned = (load_weights(f, read_card(f)) for f in (base, folder))
    same = [k for k in first if first[k].shape == tuned[k].shape and torch.equal(first[k], tuned[k])]
    assert {"denoiser.network.slot", "denoiser.network.position", "denoiser.network.time.0.weight"} <= set(same)
    assert "denoiser.network.blocks.0.qkv.weight" not in same
    assert "denoiser.network.blocks.0.qkv.bias" in same
    was, now = first["denoiser.network.prompt.known"], tuned["denoiser.network.prompt.known"]
    assert torch.equal(now[:2], was[:2])
    assert torch.equal(now[3:], was[2:])
    assert now[2].abs().max() > 0


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"peft.*cxraug\[lora\]"):
        need_peft()
    with pytest.raises(ValueError, match="init"):
        MultipromptKind(lora=4)
    monkeypatch.undo()


def test_another_image_size_is_refused(base: Path, tmp_path: Path) -> None:
    studies = toy_studies(30)
    small = replace(studies, maps=np.ascontiguousarray(studies.maps[..., ::2, ::2]))
    with pytest.raises(InputError, match="another size"):
        train_toy(small, tmp_path, toy_settings(), init=base, report=None)
