"""Where each tensor of an XGeM checkpoint goes: its part, file and name in the layout of diffusers and transformers.

Source of the names on the right: diffusers (UNet2DConditionModel, AutoencoderKL) and transformers (BertModel,
GPT2LMHeadModel, CLIPModel); what those do not have - connectors, text UNet, latents of reports - is named like them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from cxraug.cores.xgem.layout import TIED, is_buffer, is_unused, upsampler, walk
from cxraug.cores.xgem.recognition import UNETS
from cxraug.cores.xgem.sizes import SLOTS, UNetSizes, XGeMSizes

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # how they call a file of weights
CONNECTORS, LATENT = "connectors", "latent"
PARTS = ("unet_frontal", "unet_lateral", "unet_text", "vae", "report_encoder", "report_decoder", "clip")

_RESIDUAL = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_AUTOENCODER = (
    (r"mid\.block_([12])\.", lambda m: f"mid_block.resnets.{int(m[1]) - 1}."),
    (r"mid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
    (r"mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"mid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
    (r"down\.(\d+)\.block\.", r"down_blocks.\1.resnets."),
    (r"down\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"norm_out\.", "conv_norm_out."),
    (r"nin_shortcut\.", "conv_shortcut."),
)


@dataclass(frozen=True)
class Target:
    """A tensor's place: folder of the part, stem of the file, name in it. ``flat``: trailing axes of 1 are left out."""

    part: str
    stem: str
    name: str
    flat: bool = False

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor in the shape that the target has; a view, never a copy."""
        return tensor.flatten(1) if self.flat else tensor


class Targets:
    """Targets of the keys of a checkpoint of these ``sizes``."""

    def __init__(self, sizes: XGeMSizes) -> None:
        self.sizes = sizes
        self._unets = {slot: dict(_unet_modules(sizes.unets[slot])) for slot in SLOTS}

    def target(self, key: str) -> Target | None:
        """Where ``key`` goes; None for a key that is dropped. Raises ``KeyError`` for one of another layout."""
        if is_buffer(key) or is_unused(key) or key == TIED[0]:
            return None
        if key.startswith(UNETS):
            slot, _, name = key.removeprefix(f"{UNETS}unet_").partition(".")
            return self._unet(slot, name)
        if key.startswith("autokl."):
            return self._autoencoder(key.removeprefix("autokl."))
        if key.startswith("optimus.encoder."):
            name = key.removeprefix("optimus.encoder.")
            return Target("report_encoder", LATENT if name == "linear.weight" else TRANSFORMERS, name)
        if key.startswith("optimus.decoder."):
            name = key.removeprefix("optimus.decoder.")
            latent = name.removeprefix("transformer.")
            if latent in ("linear.weight", "linear_emb.weight"):
                return Target("report_decoder", LATENT, latent)
            return Target("report_decoder", TRANSFORMERS, name)
        if key.startswith("clip.model."):
            return Target("clip", TRANSFORMERS, key.removeprefix("clip.model."))
        raise KeyError(key)

    def _unet(self, slot: str, name: str) -> Target:
        modules = self._unets[slot]
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            module = modules.get(".".join(parts[:end]))
            if module is not None:
                break
        else:
            raise KeyError(name)
        leaf, _, kind = ".".join(parts[end:]).rpartition(".")
        tail = [_RESIDUAL.get(leaf, leaf)] if leaf else []
        stem, module = (CONNECTORS, module[1:]) if module.startswith("+") else (
            TRANSFORMERS if self.sizes.unets[slot].rows else DIFFUSERS, module)  # fmt: skip
        return Target(f"unet_{slot}", stem, ".".join([module, *tail, kind]))

    def _autoencoder(self, name: str) -> Target:
        flat = re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", name) is not None
        top = len(self.sizes.autoencoder.widths) - 1
        name = re.sub(r"up\.(\d+)\.block\.", lambda m: f"up_blocks.{top - int(m[1])}.resnets.", name)
        name = re.sub(r"up\.(\d+)\.upsample\.", lambda m: f"up_blocks.{top - int(m[1])}.upsamplers.0.", name)
        for pattern, new in _AUTOENCODER:
            name = re.sub(pattern, new, name)  # type: ignore[arg-type]
        return Target("vae", DIFFUSERS, name, flat)


def _unet_modules(sizes: UNetSizes) -> Iterator[tuple[str, str]]:
    """Module of the original -> module of the target; one of the connectors begins with ``+``."""
    text, top = bool(sizes.rows), len(sizes.levels) - 1
    residual = "0" if text else "0.0"
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "input_blocks.0.0", "conv_in"
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"
    within = -1  # which residual block of its level
    for kind, block, _, _, level in walk(sizes):
        if kind == "change":
            within = -1
            yield (f"input_blocks.{block}.0", f"down_blocks.{level - 1}.change") if text else (
                f"input_blocks.{block}.0.op", f"down_blocks.{level - 1}.downsamplers.0.conv")  # fmt: skip
            continue
        if kind == "middle_block":
            yield f"middle_block.{residual}", "mid_block.resnets.0"
            yield "middle_block.1", "mid_block.attentions.0"
            yield f"middle_block.2{residual[1:]}", "mid_block.resnets.1"
            within = -1
            continue
        within += 1
        down = kind == "input_blocks"
        start = f"down_blocks.{level}." if down else f"up_blocks.{top - level}."
        yield f"{kind}.{block}.{residual}", f"{start}resnets.{within}"
        if sizes.levels[level].attention:
            yield f"{kind}.{block}.1", f"{start}attentions.{within}"
        if sizes.levels[level].connectors:
            yield f"{kind[:-1]}_connecters_in.{block}.0", f"+{start}{within}".replace("_blocks", "")
        if not down and within == sizes.levels[level].blocks:
            within = -1
            if place := upsampler(sizes, block):
                yield (f"{kind}.{block}.{place}", f"{start}change") if text else (
                    f"{kind}.{block}.{place}.conv", f"{start}upsamplers.0.conv")  # fmt: skip
    steps = len(sizes.environment)
    yield "connecters_out.0.0", "+environment.conv_in"
    for i in range(steps):
        yield f"connecters_out.{2 * i + 1}.{residual}", f"+environment.resnets.{i}"
        if i:
            name = f"connecters_out.{2 * i}.0"
            yield (name, f"+environment.changes.{i - 1}") if text else (
                f"{name}.op", f"+environment.changes.{i - 1}.conv")  # fmt: skip
    yield f"connecters_out.{2 * steps}.0", "+environment.norm_out"
    yield f"connecters_out.{2 * steps}.2", "+environment.conv_out"
