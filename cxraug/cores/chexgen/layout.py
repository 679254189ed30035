"""The layout of ChexGen's checkpoints, and where each of their tensors goes in diffusers' PixArt transformer.

The network is a diffusion transformer as in PixArt-alpha (Chen et al., arXiv 2310.00426) with its own names. The
control variant holds it as ``base_model.`` next to copies of its first blocks, ``controlnet.``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isqrt, prod
from pathlib import Path
from typing import Any

from torch import Tensor

from cxraug.cores.checkpoint.layout import check_layout
from cxraug.errors import InputError

CHANNELS = 4  # of the latent
TIME_WIDTH = 256  # of the sinusoidal embedding of the timestep
HEAD_WIDTH = 72  # of the published model: 1152 in 16 heads
MLP_RATIO = 4
POSITION_SCALE = 2.0  # by which the coordinates of the positions are divided
BASE, CONTROL = "base_model.", "controlnet."

BLOCK = {  # key of a block -> keys that share its first dimension evenly, in this order
    "shift_scale_gate_table": ("scale_shift_table",),
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
}
AROUND = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "final_layer.shift_scale_table": "scale_shift_table",
    "final_layer.linear": "proj_out",
}
EMBEDDINGS = {"pos_embed": "pos_embed", "y_embedder.y_embedding": "null_caption"}  # no keys of diffusers' module
PARTS = ("transformer", "control", "embeddings")


@dataclass(frozen=True)
class Sizes:
    """What makes one network of this kind differ from another.

    ``side`` of the latent, cut into patches of ``patch`` x ``patch``; ``text`` is the width of the ``tokens`` caption
    features; ``control`` is the number of copied blocks, 0 in the plain variant. The number of heads is not among
    them: it leaves no trace in the weights.
    """

    hidden: int
    depth: int
    patch: int
    side: int
    text: int
    tokens: int
    control: int = 0

    @property
    def positions(self) -> int:
        """Number of patches of a latent."""
        return (self.side // self.patch) ** 2


def read_sizes(found: Mapping[str, Tensor], file: Path) -> Sizes:
    """Infer the sizes from the tensors of a checkpoint, and refuse one that is not exactly of the layout they make.

    Raises :class:`InputError` as :func:`check_layout` does.
    """
    network = guess_sizes({name: tuple(tensor.shape) for name, tensor in found.items()})
    check_layout(found, expected_shapes(network), file=file)
    if network.control >= network.depth:
        raise InputError("more copied blocks than blocks that they could lead into", file=file, found=network.control,
                         expected=f"at most {network.depth - 1}")  # fmt: skip
    return network


def guess_sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """The sizes that most of ``shapes`` agree on: a key that is missing or wrong leads to no other network.

    What only a missing key could tell is taken from the published model.
    """
    controlled = 2 * sum(name.startswith(BASE) for name in shapes) > len(shapes)
    prefix = BASE if controlled else ""
    biases = [shape[0] for name, shape in shapes.items() if name.endswith("attn.proj.bias") and len(shape) == 1]
    hidden = Counter(biases).most_common(1)[0][0] if biases else 1152

    def size(name: str, otherwise: int) -> int:
        return prod(shapes.get(prefix + name, (otherwise,)))

    patch = max(1, isqrt(size("final_layer.linear.bias", 8 * CHANNELS) // (2 * CHANNELS)))
    projection, null = (shapes.get(f"{prefix}y_embedder.{n}", ()) for n in ("y_proj.fc1.weight", "y_embedding"))
    text = max(1, prod(projection) // hidden if len(projection) == 2 else null[-1] if null else 4096)
    return Sizes(
        hidden=hidden,
        depth=_count(shapes, re.compile(rf"{re.escape(prefix)}blocks\.(\d+)\.")),
        patch=patch,
        side=patch * isqrt(size("pos_embed", 1024 * hidden) // hidden),
        text=text,
        tokens=size("y_embedder.y_embedding", 120 * text) // text,
        control=_count(shapes, re.compile(r"controlnet\.(\d+)\.")) if controlled else 0,
    )


def _count(names: Iterable[str], block: re.Pattern[str]) -> int:
    """Number of blocks of which most keys are there."""
    held = Counter(int(match[1]) for name in names if (match := block.match(name)))
    whole = 2 * len(BLOCK) - 1  # weight and bias each, but for the table
    return sum(2 * n > whole for n in held.values())


def expected_shapes(network: Sizes) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a checkpoint of these sizes, in its own order."""
    d, mlp, patch = network.hidden, MLP_RATIO * network.hidden, network.patch
    out = 2 * CHANNELS * patch * patch  # noise and its variance
    block = {
        "shift_scale_gate_table": (6, d), **_linear("attn.qkv", 3 * d, d), **_linear("attn.proj", d, d),
        **_linear("cross_attn.q_linear", d, d), **_linear("cross_attn.kv_linear", 2 * d, d),
        **_linear("cross_attn.proj", d, d), **_linear("mlp.fc1", mlp, d), **_linear("mlp.fc2", d, mlp),
    }  # fmt: skip
    base: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, network.positions, d),
        "x_embedder.proj.weight": (d, CHANNELS, patch, patch), "x_embedder.proj.bias": (d,),
        **_linear("t_embedder.mlp.0", d, TIME_WIDTH), **_linear("t_embedder.mlp.2", d, d),
        "y_embedder.y_embedding": (network.tokens, network.text),
        **_linear("y_embedder.y_proj.fc1", d, network.text), **_linear("y_embedder.y_proj.fc2", d, d),
        **{f"blocks.{i}.{name}": shape for i in range(network.depth) for name, shape in block.items()},
        "final_layer.shift_scale_table": (2, d), **_linear("final_layer.linear", out, d),
        **_linear("t_block.1", 6 * d, d),
    }  # fmt: skip
    if not network.control:
        return base
    shapes = {BASE + name: shape for name, shape in base.items()}
    for i in range(network.control):
        shapes |= {f"{CONTROL}{i}.copied_block.{name}": shape for name, shape in block.items()}
        shapes |= _linear(f"{CONTROL}{i}.before_proj", d, d) if i == 0 else {}
        shapes |= _linear(f"{CONTROL}{i}.after_proj", d, d)
    return shapes


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def targets(key: str) -> tuple[str, tuple[str, ...]]:
    """Part (one of :data:`PARTS`) and keys there that share the tensor of a checkpoint's ``key``.

    Several keys have equal shares of its first dimension, in their order.

    Raises
    ------
    KeyError
        For a key that is not of the layout.
    """
    name = key.removeprefix(BASE)
    if name in EMBEDDINGS:
        return "embeddings", (EMBEDDINGS[name],)
    if name.startswith(CONTROL):
        number, _, rest = name.removeprefix(CONTROL).partition(".")
        if rest.startswith("copied_block."):
            return "control", _in_block(f"blocks.{number}.", rest.removeprefix("copied_block."))
        stem, _, end = rest.rpartition(".")
        around = {"before_proj": "before", "after_proj": f"after.{number}"}
        return "control", (f"{around[stem]}.{end}",)
    if name.startswith("blocks."):
        _, number, rest = name.split(".", 2)
        return "transformer", _in_block(f"transformer_blocks.{number}.", rest)
    if name in AROUND:
        return "transformer", (AROUND[name],)
    stem, _, end = name.rpartition(".")
    return "transformer", (f"{AROUND[stem]}.{end}",)


def _in_block(prefix: str, rest: str) -> tuple[str, ...]:
    if rest in BLOCK:
        return tuple(prefix + name for name in BLOCK[rest])
    stem, _, end = rest.rpartition(".")
    return tuple(f"{prefix}{name}.{end}" for name in BLOCK[stem])


def mapped(found: Mapping[str, Tensor], part: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of ``part`` under their new keys, as views of those of the checkpoint."""
    for key, tensor in found.items():
        where, names = targets(key)
        if where == part:
            yield from zip(names, tensor.chunk(len(names)), strict=True)


def transformer_config(network: Sizes, heads: int) -> dict[str, Any]:
    """Arguments of diffusers' ``PixArtTransformer2DModel`` that make it the plain network."""
    return {
        "num_attention_heads": heads, "attention_head_dim": network.hidden // heads, "in_channels": CHANNELS,
        "out_channels": 2 * CHANNELS, "num_layers": network.depth, "cross_attention_dim": network.hidden,
        "sample_size": network.side, "patch_size": network.patch, "caption_channels": network.text,
        "interpolation_scale": POSITION_SCALE, "use_additional_conditions": False,
    }  # fmt: skip


def number_of_heads(network: Sizes, heads: int | None, file: Path) -> int:
    """``heads``, or what their published width makes; an :class:`InputError` where neither divides the network."""
    if heads is None and network.hidden % HEAD_WIDTH == 0:
        heads = network.hidden // HEAD_WIDTH
    if heads is None or heads < 1 or network.hidden % heads:
        raise InputError("the number of attention heads leaves no trace in the weights and must be named", file=file,
                         found=heads if heads is not None else f"a width of {network.hidden}",
                         expected=f"heads, a divisor of {network.hidden}")  # fmt: skip
    return heads
