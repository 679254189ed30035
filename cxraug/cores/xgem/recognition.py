"""The sizes of an XGeM checkpoint, read off the shapes of its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from cxraug.cores.xgem.sizes import (
    SLOTS,
    AutoencoderSizes,
    Level,
    Published,
    TransformerSizes,
    UNetSizes,
    XGeMSizes,
)
from cxraug.errors import InputError

UNETS = "model.diffusion_model."
RESIDUAL = ("in_layers.2.bias", "emb_layers.1.bias", "out_layers.0.weight", "out_layers.0.bias", "out_layers.3.bias")
ATTENTION = ("norm.weight", "norm.bias", "proj_in.weight", "proj_in.bias", "proj_out.weight", "proj_out.bias")
WEIGHT_BIAS = ("weight", "bias")


def read_sizes(tensors: Mapping[str, Tensor], file: Path, published: Published | None = None) -> XGeMSizes:
    """The sizes that the shapes of ``tensors`` show.

    Each size is what most of the tensors say that show it, so that one broken tensor does not bend the layout by
    which it is then refused.

    Raises :class:`InputError` where a size shows nowhere: then this is no XGeM checkpoint.
    """
    part = {prefix: _Part(tensors, prefix, file) for prefix in (
        "", "autokl.", "optimus.encoder.", "optimus.decoder.transformer.", "clip.model.text_model.",
        "clip.model.vision_model.", "clip.model.",
    )}  # fmt: skip
    unets = {slot: _unet(_Part(tensors, f"{UNETS}unet_{slot}.", file), slot == "text") for slot in SLOTS}
    layer = "encoder.layer.{}."
    bert, gpt2 = part["optimus.encoder."], part["optimus.decoder.transformer."]
    vision = _transformer(part["clip.model.vision_model."], "encoder.layers.{}.", ("layer_norm1", "layer_norm2"),
                          "mlp.fc1", "post_layernorm", "embeddings.position_embedding.weight")  # fmt: skip
    patch = part["clip.model.vision_model."].vote([("embeddings.patch_embedding.weight", axis) for axis in (3, 2)])
    return XGeMSizes(
        unets=unets,
        autoencoder=_autoencoder(part["autokl."]),
        bert=_transformer(bert, layer, ("attention.output.LayerNorm", "output.LayerNorm"), "intermediate.dense",
                          "embeddings.LayerNorm", "embeddings.position_embeddings.weight",
                          "embeddings.word_embeddings.weight"),
        gpt2=_transformer(gpt2, "h.{}.", ("ln_1", "ln_2"), "mlp.c_fc", "ln_f", "wpe.weight", "wte.weight"),
        report=unets["text"].channels,
        clip_text=_transformer(part["clip.model.text_model."], "encoder.layers.{}.", ("layer_norm1", "layer_norm2"),
                               "mlp.fc1", "final_layer_norm", "embeddings.position_embedding.weight",
                               "embeddings.token_embedding.weight"),
        clip_vision=TransformerSizes(vision.width, vision.inner, vision.layers, vision.positions, patch=patch),
        shared=unets["text"].context,
        schedule=part[""].vote([("betas", 0), ("alphas_cumprod", 0), ("sqrt_alphas_cumprod", 0)]),
        published=published or Published(),
    )  # fmt: skip


class _Part:
    """The shapes under one prefix, asked for sizes."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, file: Path) -> None:
        self.prefix, self.file = prefix, file
        self.shapes = {n.removeprefix(prefix): tuple(t.shape) for n, t in tensors.items() if n.startswith(prefix)}

    def has(self, start: str, ends: Iterable[str]) -> bool:
        """Whether one of the keys is there."""
        return any(start + end in self.shapes for end in ends)

    def vote(self, witnesses: Iterable[tuple[str, int]]) -> int:
        """The size that most of the witnesses (key, axis) show, an earlier one's where they differ equally."""
        asked = list(witnesses)
        seen = Counter(self.shapes[key][axis] for key, axis in asked if len(self.shapes.get(key, ())) > axis)
        if not seen:
            raise self.missing(asked[0][0] if asked else "...")
        return seen.most_common(1)[0][0]

    def other(self, key: str, width: int) -> int:
        """The side of a matrix that is not ``width``; of a square one its first."""
        sides = self.shapes.get(key, ())
        if len(sides) < 2:
            raise self.missing(key)
        return next((side for side in sides if side != width), width)

    def count(self, start: str, ends: Sequence[str]) -> int:
        """How many numbers 0, 1, ... have one of the keys."""
        number = 0
        while self.has(start.format(number), ends):
            number += 1
        if not number:
            raise self.missing(start.format(0) + ends[0])
        return number

    def missing(self, key: str) -> InputError:
        return InputError(f"key {self.prefix}{key} is missing", file=self.file, expected="the tensors of XGeM")


def _transformer(part: _Part, layer: str, norms: tuple[str, str], inner: str, last: str, positions: str,
                 vocabulary: str | None = None) -> TransformerSizes:  # fmt: skip
    ends = [f"{norm}.{end}" for norm in norms for end in WEIGHT_BIAS]
    layers = part.count(layer, ends)
    width = part.vote([(f"{last}.weight", 0), (f"{last}.bias", 0), *((layer.format(0) + end, 0) for end in ends)])
    numbers = range(layers)
    return TransformerSizes(
        width=width,
        inner=part.vote((f"{layer.format(i)}{inner}.{end}", axis) for i in numbers
                        for end, axis in (("bias", 0), ("weight", 0), ("weight", 1), ("bias", 0))),
        layers=layers,
        positions=part.other(positions, width),
        vocabulary=0 if vocabulary is None else part.other(vocabulary, width),
    )  # fmt: skip


def _autoencoder(part: _Part) -> AutoencoderSizes:
    ends = ("conv1.bias", "norm2.weight", "norm2.bias", "conv2.bias")
    levels = part.count("encoder.down.{}.block.0.", ends)
    blocks = [part.count(f"encoder.down.{i}.block.{{}}.", ends) for i in range(levels)]
    return AutoencoderSizes(
        widths=tuple(part.vote((f"encoder.down.{i}.block.0.{end}", 0) for end in ends) for i in range(levels)),
        blocks=blocks[0],
        latent=part.vote([("post_quant_conv.bias", 0), ("post_quant_conv.weight", 0), ("decoder.conv_in.weight", 1)]),
        channels=part.vote([("decoder.conv_out.bias", 0), ("decoder.conv_out.weight", 0),
                            ("encoder.conv_in.weight", 1)]),
    )  # fmt: skip


def _unet(part: _Part, text: bool) -> UNetSizes:
    inner, change = (".0.", "") if text else (".0.0.", "op.")
    width = part.vote([("out.0.weight", 0), ("out.0.bias", 0)])
    rows = 0
    if text:
        rows = part.vote([("input_blocks.0.0.bias", 0), ("input_blocks.0.0.weight", 0), ("out.2.weight", 1)]) // width
    levels: list[list[int]] = [[]]
    block = 1
    while True:
        if part.has(f"input_blocks.{block}{inner}", RESIDUAL):
            levels[-1].append(block)
        elif part.has(f"input_blocks.{block}.0.{change}", WEIGHT_BIAS):
            levels.append([])
        else:
            break
        block += 1

    def wide(blocks: Iterable[str]) -> int:
        return part.vote((f"{name}{inner}{end}", 0) for name in blocks for end in RESIDUAL) // (rows or 1)

    steps = 1  # of the environment encoder: residual block, change of level, residual block, ...
    while part.has(f"connecters_out.{steps}{inner}", RESIDUAL):
        steps += 2
    last = f"connecters_out.{steps - 1}.2."
    return UNetSizes(
        channels=part.vote([("out.2.bias", 0), ("out.2.weight", 0), ("input_blocks.0.0.weight", 1)]),
        width=width,
        levels=tuple(
            Level(
                width=wide(f"input_blocks.{i}" for i in blocks),
                blocks=len(blocks),
                attention=any(part.has(f"input_blocks.{i}.1.", ATTENTION) for i in blocks),
                connectors=any(part.has(f"input_block_connecters_in.{i}.0.", ATTENTION) for i in blocks),
            )
            for blocks in levels
        ),
        context=part.vote((key, 1) for key in part.shapes if "connecters" not in key
                          and key.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))),
        environment=tuple(wide([f"connecters_out.{i}"]) for i in range(1, steps, 2)),
        environment_width=part.vote([(last + "bias", 0), (last + "weight", 0)]),
        rows=rows,
        temporal=0 if text else _temporal(part),
    )  # fmt: skip


def _temporal(part: _Part) -> int:
    """Width of a block, over an eighth of the width of its temporal attention, which has 8 heads."""
    found: Counter[int] = Counter()
    for key, shape in part.shapes.items():
        norm = part.shapes.get(key.replace("to_q.weight", "norm.g"), ())
        if key.endswith("temporal_attn.to_q.weight") and norm and shape:
            found[norm[0] * 8 // shape[0]] += 1
    if not found:
        raise part.missing("input_blocks.1.0.1.temporal_attn.to_q.weight")
    return found.most_common(1)[0][0]
