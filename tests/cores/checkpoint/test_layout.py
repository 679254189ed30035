"""A checkpoint that is not exactly of its format is refused by the name of the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cores.changed_keys import change_key
from hypothesis import given
from hypothesis import strategies as st

from cxraug.cores.checkpoint.layout import check_layout
from cxraug.errors import InputError

SHAPES = {"in.weight": (4, 3), "in.bias": (4,), "blocks.0.attn.weight": (4, 4, 1), "out.weight": (2, 4), "step": ()}
FILE = Path("x.pth")


CHANGES = ["missing", "extra", "renamed", "transposed", "shape", "dtype", "double", "integer"]


def tensors() -> dict[str, torch.Tensor]:
    found = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    found["step"] = torch.zeros((), dtype=torch.int64)
    return found


def test_the_layout_itself_is_accepted_in_any_order_and_float_type() -> None:
    check_layout(tensors(), SHAPES, file=FILE, free=["step"])
    for kind in (torch.float16, torch.bfloat16):
        halves = {k: v.to(kind) if v.is_floating_point() else v for k, v in reversed(tensors().items())}
        check_layout(halves, SHAPES, file=FILE, free=["step"])


@given(st.sampled_from([n for n in SHAPES if n != "step"]), st.sampled_from(CHANGES))
def test_one_change_is_refused_by_name(name: str, change: str) -> None:
    found = tensors()
    named = change_key(found, name, change)
    if named is None:
        return
    with pytest.raises(InputError) as error:
        check_layout(found, SHAPES, file=FILE, free=["step"])
    said = str(error.value)
    assert f"key {named}" in said
    assert said.startswith("x.pth: ")
    if change == "renamed":
        assert f"an unknown key {name}s" in said
    if change == "transposed":
        assert "(transposed)" in said


def test_a_weight_of_another_type_than_the_others() -> None:
    found = tensors()
    found["in.bias"] = found["in.bias"].half()
    with pytest.raises(InputError, match=r"key in\.bias.*found 'torch\.float16'.*torch\.float32, as the others"):
        check_layout(found, SHAPES, file=FILE, free=["step"])
    check_layout(found, SHAPES, file=FILE, free=["step"], loose=["in.bias"])
    found["in.bias"] = found["in.bias"].to(torch.int64)
    with pytest.raises(InputError, match=r"key in\.bias.*torch\.int64"):
        check_layout(found, SHAPES, file=FILE, free=["step"], loose=["in.bias"])
