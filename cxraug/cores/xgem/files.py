"""The converted folder: a folder per part with its configuration, opened as networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import BertModel, CLIPModel, GPT2LMHeadModel

from cxraug.cores.xgem.connectors import Connectors
from cxraug.cores.xgem.mapping import CONNECTORS, LATENT, TRANSFORMERS
from cxraug.cores.xgem.sizes import (
    SLOTS,
    AutoencoderSizes,
    Level,
    Published,
    TransformerSizes,
    UNetSizes,
    XGeMSizes,
)
from cxraug.cores.xgem.unets import JointUNet, TextNetwork
from cxraug.errors import InputError
from cxraug.storage import read_json

VISION_SCALE, TEXT_SCALE = 0.18215, 4.3108  # of the latents


def configs(sizes: XGeMSizes) -> dict[str, dict[str, Any]]:
    """Part -> what its ``config.json`` says, in the words of diffusers and transformers."""
    return {
        **{f"unet_{slot}": _unet(sizes.unets[slot], sizes.published) for slot in SLOTS},
        "vae": _autoencoder(sizes),
        "report_encoder": _bert(sizes.bert, sizes.published.bert_heads),
        "report_decoder": _gpt2(sizes.gpt2, sizes.published.gpt2_heads),
        "clip": _clip(sizes),
    }


def _unet(sizes: UNetSizes, published: Published) -> dict[str, Any]:
    if sizes.rows:
        return {"_class_name": "TextNetwork", "heads": published.unet_heads, **asdict(sizes)}
    blocks = {level.blocks for level in sizes.levels}
    down = ["CrossAttnDownBlock2D" if level.attention else "DownBlock2D" for level in sizes.levels]
    up = ["CrossAttnUpBlock2D" if level.attention else "UpBlock2D" for level in reversed(sizes.levels)]
    if len(blocks) > 1 or sizes.width != sizes.levels[0].width:
        found = f"blocks per level {sorted(blocks)}, width {sizes.width}"
        expected = "as many blocks in each level, and the first as wide as its input"
        raise InputError("a UNet that diffusers has not", found=found, expected=expected)
    return {
        "_class_name": "UNet2DConditionModel", "sample_size": published.latent_side, "in_channels": sizes.channels,
        "out_channels": sizes.channels, "block_out_channels": [level.width for level in sizes.levels],
        "down_block_types": down, "up_block_types": up, "layers_per_block": blocks.pop(),
        "cross_attention_dim": sizes.context, "attention_head_dim": published.unet_heads, "flip_sin_to_cos": True,
        "freq_shift": 0, "norm_num_groups": 32, "norm_eps": 1e-5, "act_fn": "silu", "downsample_padding": 1,
    }  # fmt: skip


def _autoencoder(sizes: XGeMSizes) -> dict[str, Any]:
    kl = sizes.autoencoder
    return {
        "_class_name": "AutoencoderKL", "in_channels": kl.channels, "out_channels": kl.channels,
        "latent_channels": kl.latent, "block_out_channels": list(kl.widths), "layers_per_block": kl.blocks,
        "down_block_types": ["DownEncoderBlock2D"] * len(kl.widths), "norm_num_groups": 32, "act_fn": "silu",
        "up_block_types": ["UpDecoderBlock2D"] * len(kl.widths), "sample_size": sizes.resolution,
        "scaling_factor": VISION_SCALE,
    }  # fmt: skip


def _bert(sizes: TransformerSizes, heads: int) -> dict[str, Any]:
    return {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": sizes.width, "hidden_act": "gelu",
        "intermediate_size": sizes.inner, "num_hidden_layers": sizes.layers, "num_attention_heads": heads,
        "max_position_embeddings": sizes.positions, "vocab_size": sizes.vocabulary, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "pad_token_id": 0,
    }  # fmt: skip


def _gpt2(sizes: TransformerSizes, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": sizes.width, "n_inner": sizes.inner,
        "n_layer": sizes.layers, "n_head": heads, "n_positions": sizes.positions, "vocab_size": sizes.vocabulary,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
        "pad_token_id": sizes.vocabulary - 3, "bos_token_id": sizes.vocabulary - 2,
        "eos_token_id": sizes.vocabulary - 1,
    }  # fmt: skip


def _clip(sizes: XGeMSizes) -> dict[str, Any]:
    text, vision, heads = sizes.clip_text, sizes.clip_vision, sizes.published

    def half(kind: str, part: TransformerSizes, heads: int) -> dict[str, Any]:
        return {"model_type": kind, "hidden_size": part.width, "intermediate_size": part.inner,
                "num_hidden_layers": part.layers, "num_attention_heads": heads, "hidden_act": "quick_gelu",
                "projection_dim": sizes.shared}  # fmt: skip

    side = vision.patch * round((vision.positions - 1) ** 0.5)
    return {
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": sizes.shared,
        "text_config": {
            **half("clip_text_model", text, heads.clip_text_heads), "vocab_size": text.vocabulary,
            "max_position_embeddings": text.positions,
            "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,  # 2: the token with the highest id is the last
        },
        "vision_config": {**half("clip_vision_model", vision, heads.clip_vision_heads), "image_size": side,
                          "patch_size": vision.patch},
    }  # fmt: skip


def sizes_from(written: Mapping[str, Any]) -> XGeMSizes:
    """The sizes from their ``dataclasses.asdict``, as a card holds them."""

    def unet(values: Mapping[str, Any]) -> UNetSizes:
        return UNetSizes(**{**values, "levels": tuple(Level(**level) for level in values["levels"]),
                            "environment": tuple(values["environment"])})  # fmt: skip

    halves = {name: TransformerSizes(**written[name]) for name in ("bert", "gpt2", "clip_text", "clip_vision")}
    kl = written["autoencoder"]
    return XGeMSizes(
        **{**written, **halves, "unets": {slot: unet(values) for slot, values in written["unets"].items()},
           "autoencoder": AutoencoderSizes(**{**kl, "widths": tuple(kl["widths"])}),
           "published": Published(**written["published"])},
    )  # fmt: skip


def open_unet(folder: Path, slot: str, sizes: XGeMSizes, dtype: torch.dtype = torch.float32) -> JointUNet:
    """The denoiser of ``frontal``, ``lateral`` or ``text``."""
    part, unet, heads = folder / f"unet_{slot}", sizes.unets[slot], sizes.published.unet_heads
    with torch.device("meta"):
        connectors = Connectors(unet, heads)
        network: Any = TextNetwork(unet, heads) if unet.rows else None
    _fill(connectors, part, CONNECTORS, dtype)
    if network is None:
        network = _pretrained(UNet2DConditionModel, part, torch_dtype=dtype)
    else:
        _fill(network, part, TRANSFORMERS, dtype)
    return JointUNet(network, connectors).eval().requires_grad_(False)


def open_autoencoder(folder: Path, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """The image autoencoder."""
    return _pretrained(AutoencoderKL, folder / "vae", torch_dtype=dtype)  # type: ignore[no-any-return]


def open_clip(folder: Path, dtype: torch.dtype = torch.float32) -> CLIPModel:
    """CLIP without its temporal layers."""
    return _pretrained(CLIPModel, folder / "clip", dtype=dtype)  # type: ignore[no-any-return]


def open_bert(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[BertModel, Tensor]:
    """BERT, and the matrix (2 x width of the latent, width) from its pooled output to mean and log-variance."""
    part = folder / "report_encoder"
    return _pretrained(BertModel, part, dtype=dtype), read_weights(part, LATENT)["linear.weight"].to(dtype)


def open_gpt2(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[GPT2LMHeadModel, dict[str, Tensor]]:
    """GPT-2, and the matrices from a latent to keys and values (``linear``) and token embeddings (``linear_emb``)."""
    part = folder / "report_decoder"
    latent = {name.removesuffix(".weight"): t.to(dtype) for name, t in read_weights(part, LATENT).items()}
    return _pretrained(GPT2LMHeadModel, part, dtype=dtype), latent


def read_weights(part: Path, stem: str) -> dict[str, Tensor]:
    """Name -> tensor of ``STEM.safetensors`` or of its shards."""
    index = part / f"{stem}.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else [f"{stem}.safetensors"]
    found: dict[str, Tensor] = {}
    for name in names:
        try:
            with safe_open(str(part / name), framework="pt") as tensors:
                found.update({key: tensors.get_tensor(key) for key in tensors.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"not a safetensors file ({error})", file=part / name) from None
    return found


def _fill(module: nn.Module, part: Path, stem: str, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in read_weights(part, stem).items()}
    try:
        module.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise InputError(f"weights are not those of their network ({str(error).splitlines()[-1].strip()})",
                         file=part / f"{stem}.safetensors") from None  # fmt: skip


def _pretrained(kind: Any, part: Path, **how: Any) -> Any:
    try:
        model, info = kind.from_pretrained(part, output_loading_info=True, local_files_only=True, **how)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise InputError(f"{kind.__name__} does not open ({str(error).splitlines()[0]})", file=part) from None
    for wrong in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(wrong):
            raise InputError(f"{kind.__name__}: {wrong.replace('_', ' ')}", file=part, found=sorted(info[wrong])[0])
    return model.eval().requires_grad_(False)
