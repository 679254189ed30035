"""Every recorded output of the original XGeM, from the converted parts.

Forward passes within 1e-5, states between their blocks within 1e-5 of their largest value (they reach 20), trajectories
within 5e-5 of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tinyxgem import RECORDED, RECORDED_SIZES
from torch import Tensor

from cxraug.cores.xgem.conversion import convert_xgem
from cxraug.cores.xgem.embedding import embed_images, embed_text
from cxraug.cores.xgem.files import (
    TEXT_SCALE,
    VISION_SCALE,
    open_autoencoder,
    open_bert,
    open_clip,
    open_gpt2,
    open_unet,
    sizes_from,
)
from cxraug.cores.xgem.reports import encode_report, latent_cache, next_logits, write_tokens
from cxraug.cores.xgem.sampler import denoise, mix, sample
from cxraug.cores.xgem.unets import JointUNet

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason="needs the recorded outputs in ../shared/data/cores")
CALLS = {  # name of the call: what it draws, what it is given
    "frontal_from_text": (("frontal",), ("text",)),
    "lateral_from_text": (("lateral",), ("text",)),
    "text_from_frontal": (("text",), ("frontal",)),
    "lateral_and_frontal_from_text": (("lateral", "frontal"), ("text",)),
    "frontal_and_text_from_lateral": (("frontal", "text"), ("lateral",)),
    "all_three_from_text": (("frontal", "lateral", "text"), ("text",)),
    "frontal_from_text_and_lateral_weighted_3_1": (("frontal",), ("text", "lateral")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded")
    convert_xgem(RECORDED / "xgem_tiny.pt", path, published=RECORDED_SIZES)
    return path


@pytest.fixture(scope="module")
def unets(folder: Path) -> dict[str, JointUNet]:
    from cxraug.cores.registry import read_card

    sizes = sizes_from(read_card(folder).settings["sizes"])
    return {slot: open_unet(folder, slot, sizes) for slot in ("frontal", "lateral", "text")}


@pytest.fixture(scope="module")
def answers() -> dict[str, Tensor]:
    return load_file(RECORDED / "xgem_tiny_io.safetensors")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def check(name: str, found: Tensor, expected: Tensor, relative: float | None = None) -> None:
    assert found.shape == expected.shape
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    print(f"{name}: {difference:.1e}, largest value {largest:.3g}")
    assert difference <= (1e-5 if relative is None else relative * largest), name


@pytest.mark.parametrize("call", CALLS)
def test_denoisers(call: str, unets: dict[str, JointUNet], answers: dict[str, Tensor]) -> None:
    outputs, given = CALLS[call]
    weights = [3.0, 1.0] if "weighted_3_1" in call else [1.0] * len(given)
    context = mix([answers[f"ctx_{name}"] for name in given], weights)
    found = denoise(unets, {slot: answers[f"x_{slot}"] for slot in outputs}, answers["t"], context)
    for slot in outputs:
        check(f"{call}.out.{slot}", found[slot], answers[f"{call}.out.{slot}"])


@pytest.mark.parametrize("slot", ["frontal", "lateral"])
def test_the_usual_skip_is_another_network(slot: str, unets: dict[str, JointUNet], answers: dict[str, Tensor]) -> None:
    """diffusers' own forward is the original's class called directly, which its pipeline never does."""
    usual = unets[slot].network(answers[f"x_{slot}"], answers["t"], answers["ctx_text"]).sample
    check(f"standalone_forward.{slot}", usual, answers[f"standalone_forward.{slot}"])
    wrong = {"frontal": 0.9428408, "lateral": 0.7072060}  # as recorded
    difference = float((usual - answers[f"{slot}_from_text.out.{slot}"]).abs().max())
    assert difference == pytest.approx(wrong[slot], abs=1e-5)


def test_what_weights_and_connectors_change(unets: dict[str, JointUNet], answers: dict[str, Tensor]) -> None:
    x, t = answers["x_frontal"], answers["t"]
    even = mix([answers["ctx_text"], answers["ctx_lateral"]], [1.0, 1.0])
    name = "frontal_from_text_and_lateral_weighted_3_1.out.frontal"
    difference = float((unets["frontal"](x, t, even, joint=False) - answers[name]).abs().max())
    assert difference == pytest.approx(0.1010963, abs=1e-5)  # as recorded, like the next
    alone = unets["frontal"](x, t, answers["ctx_lateral"], joint=False)
    difference = float((alone - answers["frontal_and_text_from_lateral.out.frontal"]).abs().max())
    assert difference == pytest.approx(1.5603015, abs=1e-5)


def test_environments_and_time(unets: dict[str, JointUNet], answers: dict[str, Tensor]) -> None:
    for slot, alone in (("frontal", "frontal_from_text"), ("text", "text_from_frontal")):
        network, connectors = unets[slot].network, unets[slot].connectors
        embedding = network.time_embedding(network.time_proj(answers["t"]))
        check("time_embed", embedding, answers[f"{alone}.inter.time_embed"])
        name = f"frontal_and_text_from_lateral.h_con.{slot}"
        check(name, connectors.environment(answers[f"x_{slot}"], embedding), answers[name])


@pytest.mark.parametrize("slot", ["frontal", "text"])
def test_states_between_the_blocks(slot: str, unets: dict[str, JointUNet], answers: dict[str, Tensor]) -> None:
    call, given = ("frontal_from_text", "text") if slot == "frontal" else ("text_from_frontal", "frontal")
    seen: dict[str, Tensor] = {}
    network = unets[slot].network
    places = {
        "input_blocks.0": network.conv_in, "input_blocks.1": network.down_blocks[0].attentions[0],
        "input_blocks.2": network.down_blocks[0].downsamplers[0] if slot == "frontal" else
        network.down_blocks[0].change, "input_blocks.3": network.down_blocks[1].resnets[0],
        "middle_block": network.mid_block, "output_blocks.0": network.up_blocks[0].resnets[0],
        "output_blocks.1": network.up_blocks[0].upsamplers[0] if slot == "frontal" else network.up_blocks[0].change,
        "output_blocks.2": network.up_blocks[1].attentions[0], "output_blocks.3": network.up_blocks[1].attentions[1],
    }  # fmt: skip

    def keep(name: str):  # type: ignore[no-untyped-def]
        return lambda module, inputs, output: seen.update({name: getattr(output, "sample", output)})

    hooks = [module.register_forward_hook(keep(name)) for name, module in places.items()]
    unets[slot](answers[f"x_{slot}"], answers["t"], answers[f"ctx_{given}"], joint=False)
    for hook in hooks:
        hook.remove()
    for name in places:
        check(f"{call}.inter.{name}", seen[name], answers[f"{call}.inter.{name}"], relative=1e-5)


@pytest.mark.parametrize(
    ("name", "eta", "slots", "given", "empty"),
    [("ddim_eta0_frontal_from_text", 0, ["frontal"], "ctx_text", "ctx_uncond_text"),
     ("ddim_eta1_frontal_from_text", 1, ["frontal"], "ctx_text", "ctx_uncond_text"),
     ("ddim_eta1_frontal_and_text_from_lateral", 1, ["frontal", "text"], "ctx_lateral", "ctx_uncond_image")],
)  # fmt: skip
def test_trajectories(name: str, eta: int, slots: list[str], given: str, empty: str, unets: dict[str, JointUNet],
                      answers: dict[str, Tensor]) -> None:  # fmt: skip
    steps: Counter[str] = Counter()

    def noise(slot: str) -> Tensor:
        steps[slot] += 1
        return answers[f"ddim.noise_{slot}"][steps[slot] - 1]

    found = sample(
        {slot: unets[slot] for slot in slots}, {slot: answers[f"ddim.z_{slot}"] for slot in slots},
        answers[given][:1], answers[empty], steps=int(answers["ddim.steps"]), guidance=float(answers["ddim.scale"]),
        eta=eta, noise=noise,
    )  # fmt: skip
    for slot in slots:
        check(f"{name}.{slot}", found[slot], answers[f"{name}.{slot}"], relative=5e-5)


def test_autoencoder(folder: Path, answers: dict[str, Tensor]) -> None:
    network = open_autoencoder(folder)
    for kind in ("gray", "rgb"):
        posterior = network.encode(answers[f"autokl.image_{kind}"].expand(-1, 3, -1, -1)).latent_dist
        check(f"autokl.mean_{kind}", posterior.mean, answers[f"autokl.mean_{kind}"])
        check(f"autokl.logvar_{kind}", posterior.logvar, answers[f"autokl.logvar_{kind}"])
    z = answers["autokl.z"]
    check("autokl.decoded", network.decode(z).sample, answers["autokl.decoded"])
    check("autokl.decoded_from_scaled", network.decode(z / VISION_SCALE).sample, answers["autokl.decoded_from_scaled"])


def test_reports(folder: Path, answers: dict[str, Tensor]) -> None:
    bert, linear = open_bert(folder)
    ids = answers["optimus.bert_ids"]
    inner = bert(input_ids=ids, attention_mask=(ids > 0).long())
    check("optimus.bert_sequence", inner.last_hidden_state, answers["optimus.bert_sequence"])
    check("optimus.bert_pooled", inner.pooler_output, answers["optimus.bert_pooled"])
    mean, logvar = encode_report(bert, linear, ids)
    check("optimus.mu", mean, answers["optimus.mu"])
    check("optimus.logvar", logvar, answers["optimus.logvar"])
    check("optimus.encoded_scaled", mean * TEXT_SCALE, answers["optimus.encoded_scaled"])

    gpt2, matrices = open_gpt2(folder)
    z = answers["optimus.gpt2_z"]
    logits = next_logits(gpt2, matrices, z, answers["optimus.gpt2_ids"], latent_cache(gpt2, matrices["linear"], z))
    check("optimus.gpt2_logits", logits, answers["optimus.gpt2_logits"])
    assert gpt2.config.bos_token_id == int(answers["optimus.gpt2_bos_id"])
    greedy = write_tokens(gpt2, matrices, z[:1], longest=8, choose=lambda scores: scores.argmax(-1))
    assert greedy.tolist() == answers["optimus.gpt2_greedy_ids"].tolist()


def test_clip(folder: Path, answers: dict[str, Tensor]) -> None:
    clip = open_clip(folder)
    check("clip.text_embeds", embed_text(clip, answers["clip.input_ids"]), answers["clip.text_embeds"])
    check("clip.image_embeds", embed_images(clip, answers["clip.pixel_values"]), answers["clip.image_embeds"])
