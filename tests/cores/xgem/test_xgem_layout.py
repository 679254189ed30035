"""The layout of XGeM: every key of the published model has a place, and one that differs is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cores.changed_keys import change_key
from diffusers import AutoencoderKL, UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from tinyxgem import RECORDED, RECORDED_SIZES, TINY, tiny_meta, tiny_sizes
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, GPT2Config, GPT2LMHeadModel

from cxraug.cores.xgem.connectors import Connectors
from cxraug.cores.xgem.conversion import check_tensors, dropped, plan_files, redundant
from cxraug.cores.xgem.files import configs, sizes_from
from cxraug.cores.xgem.layout import expected_layout, is_buffer, is_unused
from cxraug.cores.xgem.mapping import Targets
from cxraug.cores.xgem.recognition import read_sizes
from cxraug.cores.xgem.sizes import XGeMSizes
from cxraug.cores.xgem.unets import TextNetwork
from cxraug.errors import InputError

FILE = Path("x.pt")
META = tiny_meta()
WEIGHTS = [name for name in META if not is_buffer(name)]
CHANGES = ["missing", "extra", "renamed", "transposed", "integer", "dtype"]
recorded = pytest.mark.skipif(not RECORDED.is_dir(), reason="needs the recorded layouts in ../shared/data/cores")


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    keys = json.loads((RECORDED / "xgem_keys.json").read_text())
    return {name: torch.empty(shape, device="meta") for name, shape in keys.items()}


def networks(sizes: XGeMSizes) -> dict[tuple[str, str], torch.nn.Module]:
    """(part, stem) -> the network that opens it, without storage."""
    written, heads = configs(sizes), sizes.published.unet_heads
    found: dict[tuple[str, str], torch.nn.Module] = {}
    with torch.device("meta"):
        for slot in ("frontal", "lateral"):
            part = f"unet_{slot}"
            found[part, "diffusion_pytorch_model"] = UNet2DConditionModel.from_config(written[part])
            found[part, "connectors"] = Connectors(sizes.unets[slot], heads)
        found["unet_text", "model"] = TextNetwork(sizes.unets["text"], heads)
        found["unet_text", "connectors"] = Connectors(sizes.unets["text"], heads)
        found["vae", "diffusion_pytorch_model"] = AutoencoderKL.from_config(written["vae"])
        found["report_encoder", "model"] = BertModel(BertConfig(**written["report_encoder"]))
        found["report_decoder", "model"] = GPT2LMHeadModel(GPT2Config(**written["report_decoder"]))
        found["clip", "model"] = CLIPModel(CLIPConfig(**written["clip"]))
    return found


def check_mapping(tensors: dict[str, torch.Tensor], sizes: XGeMSizes) -> int:
    """Nothing is left over on either side; the number of keys that have a place."""
    files = plan_files(tensors, Targets(sizes))
    placed = sum(len(entries) for stems in files.values() for entries in stems.values())
    for (part, stem), network in networks(sizes).items():
        wanted = {name: tuple(t.shape) for name, t in network.state_dict().items() if name != "lm_head.weight"}
        found = {target.name: tuple(target.place(tensors[key]).shape) for key, target in files[part].pop(stem)}
        assert found == wanted, (part, stem)
    left = {part: {stem: len(entries) for stem, entries in stems.items()} for part, stems in files.items() if stems}
    assert left == {"report_encoder": {"latent": 1}, "report_decoder": {"latent": 2}}
    return placed


def test_the_sizes_are_read_off_the_shapes() -> None:
    assert read_sizes(META, FILE, TINY) == tiny_sizes()
    assert sizes_from(json.loads(json.dumps(tiny_sizes(), default=lambda part: part.__dict__))) == tiny_sizes()


def test_every_key_of_a_tiny_layout_has_a_place() -> None:
    check_mapping(META, tiny_sizes())


@recorded
def test_every_key_of_the_published_layout_has_a_place(published: dict[str, torch.Tensor]) -> None:
    sizes = read_sizes(published, FILE)
    assert sizes.resolution == 256
    assert {name: tuple(t.shape) for name, t in published.items()} == expected_layout(sizes)
    placed = check_mapping(published, sizes)
    facts = json.loads((RECORDED / "xgem_facts.json").read_text())["checkpoint"]
    unused = sum(part.get("video_only_keys", 0) for part in facts["parts"].values())
    assert placed + unused + len(facts["buffers"]) + len(facts["tied"]) == facts["keys"] == len(published) == 5931


@recorded
def test_what_is_dropped_is_what_the_facts_say(published: dict[str, torch.Tensor]) -> None:
    facts = json.loads((RECORDED / "xgem_facts.json").read_text())["checkpoint"]
    names = {"unet_frontal": "model.diffusion_model.unet_frontal.", "vae": "autokl.", "clip": "clip.",
             "unet_lateral": "model.diffusion_model.unet_lateral."}  # fmt: skip
    found = dropped(published)
    for name, prefix in names.items():
        assert found[name] == facts["parts"][prefix]["video_only_params"], name
        keys = sum(key.startswith(prefix) and is_unused(key) for key in published)
        assert keys == facts["parts"][prefix]["video_only_keys"], name
    assert {key for key in published if is_buffer(key)} == set(facts["buffers"])
    assert found.keys() == names.keys()
    found = redundant(published)
    assert found["tied copy"] == facts["parameters_counting_tied_weight_twice"] - facts["parameters_unique"]
    assert (
        found["buffers"] == facts["state_dict_elements_with_buffers"] - facts["parameters_counting_tied_weight_twice"]
    )


@recorded
def test_the_recorded_tiny_layout() -> None:
    stored = torch.load(RECORDED / "xgem_tiny.pt", mmap=True, weights_only=True, map_location="cpu")
    sizes = check_tensors(stored, FILE, RECORDED_SIZES)
    assert len(stored) == 1594
    check_mapping(stored, sizes)


@given(st.sampled_from(WEIGHTS), st.sampled_from(CHANGES))
def test_one_change_is_refused_by_name(name: str, change: str) -> None:
    found = dict(META)
    named = change_key(found, name, change)
    if named is None:
        return
    with pytest.raises(InputError) as error:
        check_tensors(found, FILE, TINY)
    said = str(error.value)
    assert f"key {named}" in said
    assert said.startswith("x.pt: ")


def test_no_xgem_at_all() -> None:
    with pytest.raises(InputError, match=r"x\.pt: key .* is missing; expected the tensors of XGeM"):
        check_tensors({"weight": torch.zeros(2)}, FILE, TINY)
