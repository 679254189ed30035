"""Every key of the original layout has its place in diffusers' modules, and nothing but that layout is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cores.changed_keys import change_key
from diffusers import PixArtTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from tinychexgen import CONTROL, PLAIN, meta_like

from cxraug.cores.chexgen.layout import (
    Sizes,
    expected_shapes,
    guess_sizes,
    mapped,
    number_of_heads,
    read_sizes,
    transformer_config,
)
from cxraug.cores.chexgen.network import ControlBlocks
from cxraug.errors import InputError

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "cores"
FILE = Path("x.pth")
PUBLISHED = Sizes(hidden=1152, depth=28, patch=2, side=64, text=4096, tokens=120)
PUBLISHED_CONTROL = Sizes(hidden=1152, depth=28, patch=2, side=64, text=4096, tokens=120, control=13)
SHAPES = {network: expected_shapes(network) for network in (PLAIN, CONTROL)}


@pytest.mark.parametrize(
    ("network", "keys", "values"), [(PUBLISHED, 437, 612_527_264), (PUBLISHED_CONTROL, 660, 907_445_024)]
)
def test_all_keys_of_the_published_sizes_fill_all_keys_of_the_modules(network: Sizes, keys: int, values: int) -> None:
    found = meta_like(expected_shapes(network))
    assert len(found) == keys
    assert sum(tensor.numel() for tensor in found.values()) == values
    with torch.device("meta"):
        transformer = PixArtTransformer2DModel(**transformer_config(network, number_of_heads(network, None, FILE)))
        control = ControlBlocks(transformer.config, network.control)
    wanted = {
        "transformer": transformer.state_dict(), "control": control.state_dict() if network.control else {},
        "embeddings": meta_like({"pos_embed": tuple(transformer.pos_embed.pos_embed.shape),
                                 "null_caption": (network.tokens, network.text)}),
    }  # fmt: skip
    written = 0
    for part, tensors in wanted.items():
        placed = list(mapped(found, part))
        assert len(dict(placed)) == len(placed), "no key is filled twice"
        assert {name: tensor.shape for name, tensor in placed} == {name: t.shape for name, t in tensors.items()}
        written += sum(tensor.numel() for _, tensor in placed)
    assert written == values


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the original key lists in ../shared/data/cores")
@pytest.mark.parametrize(
    ("name", "network"), [("chexgen_keys", PUBLISHED), ("chexgen_control_keys", PUBLISHED_CONTROL)]
)
def test_original_keys_in_their_order(name: str, network: Sizes) -> None:
    shapes = {key: tuple(shape) for key, shape in json.loads((DATA / f"{name}.json").read_text()).items()}
    assert list(expected_shapes(network).items()) == list(shapes.items())
    assert guess_sizes(shapes) == network
    assert read_sizes(meta_like(shapes), FILE) == network


@pytest.mark.parametrize("network", [PLAIN, CONTROL])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_change_is_refused_by_name(network: Sizes, data: st.DataObject) -> None:
    shapes = SHAPES[network]
    found = meta_like(shapes, torch.float16)
    assert read_sizes(found, FILE) == network
    name = data.draw(st.sampled_from(sorted(shapes)))
    change = data.draw(st.sampled_from(["missing", "extra", "renamed", "transposed", "shape", "dtype", "integer"]))
    named = change_key(found, name, change)
    if named is None:
        return
    with pytest.raises(InputError) as error:
        read_sizes(found, FILE)
    said = str(error.value)
    assert said.startswith(f"x.pth: key {named}")
    assert said.count("\n") == 0
    if change == "transposed":
        assert "(transposed)" in said
    if change == "renamed":
        assert "an unknown key" in said


def test_more_copies_than_blocks_are_refused() -> None:
    network = Sizes(hidden=72, depth=2, patch=2, side=8, text=32, tokens=80, control=2)
    with pytest.raises(InputError, match="more copied blocks than blocks"):
        read_sizes(meta_like(expected_shapes(network)), FILE)


def test_heads_are_those_of_the_published_width_or_named() -> None:
    assert number_of_heads(PUBLISHED, None, FILE) == 16
    narrow = Sizes(hidden=64, depth=2, patch=2, side=8, text=32, tokens=12)
    assert number_of_heads(narrow, 4, FILE) == 4
    for heads in (None, 3, 0):
        with pytest.raises(InputError, match=r"x\.pth: the number of attention heads.*divisor of 64"):
            number_of_heads(narrow, heads, FILE)
