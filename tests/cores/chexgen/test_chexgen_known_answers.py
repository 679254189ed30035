"""Converted checkpoints compute what the original program computed, every recorded output of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers.schedulers.scheduling_ddpm as ddpm
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cxraug.cores.chexgen.conversion import convert_chexgen
from cxraug.cores.chexgen.network import ChexGenNetwork, load_network
from cxraug.cores.chexgen.sampling import denoise, guide, make_scheduler, predict, sample

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "cores"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs the original outputs in ../shared/data/cores")

FORWARD, TRAJECTORY = 1e-5, 5e-5  # absolute; relative to the largest value
HEADS = 4


@pytest.fixture(scope="module", params=["chexgen_tiny", "chexgen_tiny_module", "chexgen_control_tiny",
                                        "chexgen_control_tiny_module"])  # fmt: skip
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    name = request.param.removesuffix("_module")
    folder = tmp_path_factory.mktemp("converted")
    card = convert_chexgen(DATA / f"{request.param}.pth", folder, heads=HEADS)
    network = load_network(folder, card.settings["network"]["control"])
    io = load_file(DATA / f"{name}_io.safetensors")
    return {"network": network, "facts": json.loads((DATA / f"{name}.json").read_text()), **io}


def called(original: dict[str, Any], group: str, **changes: Any) -> Tensor:
    asked = {key: original.get(f"{group}.{key}") for key in ("x", "t", "y", "mask", "c")} | changes
    asked["y"] = asked["y"][:, 0]
    with torch.no_grad():
        return original["network"](**asked)


def close(found: Tensor, recorded: Tensor, tolerance: float, what: str, *, relative: bool = False) -> None:
    scale = float(recorded.abs().max()) if relative else 1.0
    difference = float((found - recorded).abs().max()) / scale
    print(f"{what}: {difference:.2e}")
    assert found.shape == recorded.shape
    assert difference < tolerance, what


def test_forwards(original: dict[str, Any]) -> None:
    close(called(original, "masked"), original["masked.out"], FORWARD, "masked")
    close(called(original, "masked", mask=None), original["nomask.out"], FORWARD, "nomask")
    if "frac_t.t" in original:
        close(called(original, "masked", t=original["frac_t.t"]), original["frac_t.out"], FORWARD, "frac_t")
    if "no_control.out" in original:
        close(called(original, "masked", c=None), original["no_control.out"], FORWARD, "no_control")


def test_inner_activations(original: dict[str, Any]) -> None:
    network: ChexGenNetwork = original["network"]
    parts = {"x_embedder": network.transformer.pos_embed.proj, "y_embedder": network.transformer.caption_projection,
             "t_embedder": network.transformer.adaln_single.emb, "t_block": network.transformer.adaln_single.linear,
             "final_layer": network.transformer.proj_out}  # fmt: skip
    for i, block in enumerate(network.transformer.transformer_blocks):
        parts |= {f"{prefix}blocks.{i}": block for prefix in ("", "base_model.")}
        parts |= {f"blocks.{i}.attn": block.attn1, f"blocks.{i}.cross_attn": block.attn2}
    if network.control is not None:
        parts["controlnet.0.before_proj"] = network.control.before
        parts |= {f"controlnet.{i}.after_proj": after for i, after in enumerate(network.control.after)}
    seen: dict[str, Tensor] = {}
    hooks = [part.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
             for name, part in parts.items()]  # fmt: skip
    called(original, "masked")
    for hook in hooks:
        hook.remove()
    recorded = {key.removeprefix("masked.inter."): value for key, value in original.items() if ".inter." in key}
    for name, value in recorded.items():
        if name == "forward_c":  # positions and patches of the condition image: the input of before_proj
            found = network.transformer.pos_embed.proj(original["masked.c"]).flatten(2).mT + network.formula
        else:
            found = seen[name]
        if name == "x_embedder":
            found = found.flatten(2).mT
        if name == "y_embedder":
            found = found[:, None]
        close(found, value, FORWARD, name)
    assert len(recorded) >= 8


def test_guidance(original: dict[str, Any]) -> None:
    network: ChexGenNetwork = original["network"]
    x, t, y, mask = (original[f"cfg.{key}"] for key in ("x", "t", "y", "mask"))
    with torch.no_grad():
        if "cfg.c" in original:  # with a condition image both halves are as they are
            half = x[:1].repeat(2, 1, 1, 1)
            found = network(half, t, y[:, 0], mask, original["cfg.c"])
        else:
            assert torch.equal(y[1, 0], network.null_caption)
            found = predict(network, x[:1], t[:1], y[:1, 0], mask, guidance=float(original["cfg.scale"]))
    close(found, original["cfg.out"], FORWARD, "cfg")


def test_guidance_leaves_the_fourth_channel_alone() -> None:
    out = torch.stack([torch.full((8, 1, 1), 2.0), torch.full((8, 1, 1), 1.0)])
    guided = guide(out, 4.0)
    assert guided[:, :, 0, 0].tolist() == [[5, 5, 5, 2, 2, 2, 2, 2], [5, 5, 5, 1, 1, 1, 1, 1]]


def test_timesteps(original: dict[str, Any]) -> None:
    facts = original["facts"]["sampler"]
    assert make_scheduler(100).timesteps.tolist() == facts["timesteps_100_steps"]
    scheduler = make_scheduler(int(original["sample.steps"]))
    assert scheduler.timesteps.tolist() == facts["timesteps_of_sample_final_in_this_set"]
    assert torch.allclose(scheduler.betas[-3:], torch.tensor(facts["betas_last3"]), rtol=1e-6)


def test_trajectory(original: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network: ChexGenNetwork = original["network"]
    y, mask, scale = original["cfg.y"][:1, 0], original["cfg.mask"], float(original["cfg.scale"])
    c = original["cfg.c"][:1] if "cfg.c" in original else None
    steps = int(original["sample.steps"])
    noise, z = original["sample.noise"][:, :1], original["sample.z"][:1]
    monkeypatch.setattr(ddpm, "randn_tensor", lambda *_, rest=iter(noise), **__: next(rest))

    def predicted(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t, y, mask, c) if c is not None else predict(network, x, t, y, mask, guidance=scale)[:1]

    with torch.no_grad():
        taken = list(denoise(predicted, z, steps, []))
        assert len(taken) == steps
        close(taken[0][0], original["sample.step0.latents"][:1], TRAJECTORY, "step 0", relative=True)
        close(taken[0][1], original["sample.step0.pred_xstart"][:1], TRAJECTORY, "clean", relative=True)
        close(taken[-1][0], original["sample.final"], TRAJECTORY, "final", relative=True)
        monkeypatch.setattr(ddpm, "randn_tensor", lambda *_, rest=iter(noise), **__: next(rest))
        whole = sample(network, y, mask, z, [], steps=steps, guidance=scale, c=c)
        assert torch.equal(whole, taken[-1][0])


def test_positions_are_the_stored_ones_and_those_of_the_condition_the_formula(original: dict[str, Any]) -> None:
    """What changes if they are taken for each other is far above the tolerance."""
    network: ChexGenNetwork = original["network"]
    stored, formula = network.transformer.pos_embed.pos_embed, network.formula

    def moved(table: Tensor, other: Tensor) -> float:
        kept = table.clone()
        table.copy_(other)
        found = float((called(original, "masked") - original["masked.out"]).abs().max())
        table.copy_(kept)
        return found

    if network.control is not None:
        assert moved(formula, stored) > 1000 * FORWARD
    else:
        said = original["facts"]["output_change_when_done_wrong"]
        recorded = said["pos_embed recomputed at scale 2 instead of loaded"]
        assert moved(stored, formula) == pytest.approx(recorded, abs=1e-5)
