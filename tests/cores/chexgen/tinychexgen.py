"""Tiny random checkpoints in ChexGen's own layout, with a text encoder and an autoencoder beside them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from cxraug.cores.chexgen.layout import POSITION_SCALE, Sizes, expected_shapes

PLAIN = Sizes(hidden=72, depth=3, patch=2, side=8, text=32, tokens=80)  # one head, as wide as a published one
CONTROL = Sizes(hidden=72, depth=3, patch=2, side=8, text=32, tokens=80, control=2)


def original(network: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the original keys; positions by the formula, with a little drift."""
    random = torch.Generator().manual_seed(seed)
    grid = network.side // network.patch
    formula = get_2d_sincos_pos_embed(
        network.hidden, grid, base_size=grid, interpolation_scale=POSITION_SCALE, output_type="pt"
    )
    weights = {}
    for name, shape in expected_shapes(network).items():
        fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 100
        weights[name] = torch.randn(shape, generator=random) * fan_in**-0.5
        if name.endswith("pos_embed"):
            weights[name] = formula[None].float() + 1e-4 * torch.randn(shape, generator=random)
        elif name.endswith("y_proj.fc2.weight"):
            weights[name] *= 8  # so that a word more or less can be seen
        elif name.endswith(("y_embedding", "table")):
            weights[name] = 0.3 * torch.randn(shape, generator=random)
    return weights


def save_checkpoint(path: Path, network: Sizes, seed: int = 0) -> Path:
    """A checkpoint with averaged weights, the others, and how far training was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    averaged = {f"module.{name}": tensor for name, tensor in original(network, seed).items()}
    torch.save({"state_dict": {"module.x": torch.zeros(1)}, "state_dict_ema": averaged, "epoch": 3}, path)
    return path


def save_parts(folder: Path) -> None:
    """``t5`` that reads letters, and ``vae`` whose three channels are alike."""
    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<unk>", "▁", *map(chr, range(33, 127))]
    tokenizer = T5Tokenizer(vocab=[(word, -1.0 * (i > 2)) for i, word in enumerate(words)], extra_ids=0)
    tokenizer.save_pretrained(folder / "t5")
    T5EncoderModel(
        T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    ).save_pretrained(folder / "t5")  # fmt: skip
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(4, 4, 4, 4), norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1,
    )  # fmt: skip
    last = vae.decoder.conv_out
    with torch.no_grad():
        last.weight.copy_(last.weight[:1].expand_as(last.weight) * 4)
        last.bias.zero_()
    vae.save_pretrained(folder / "vae")


def meta_like(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors without storage of these shapes, to try a mapping on."""
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
