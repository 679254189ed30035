"""A tiny random checkpoint in the original layout of XGeM, with tokenizers, and where the recorded outputs lie."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch

from cxraug.cores.xgem.layout import TIED, expected_layout, is_buffer
from cxraug.cores.xgem.sampler import scheduler
from cxraug.cores.xgem.sizes import AutoencoderSizes, Level, Published, TransformerSizes, UNetSizes, XGeMSizes

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "data" / "cores"
RECORDED_SIZES = Published(bert_heads=4, gpt2_heads=4, clip_text_heads=4, clip_vision_heads=4, latent_side=8)
TINY = Published(bert_heads=2, gpt2_heads=2, clip_text_heads=2, clip_vision_heads=2, latent_side=8)

CHARACTERS = string.ascii_lowercase + string.digits + ".,-:"
CLIP_TOKENS = [*CHARACTERS, *(f"{c}</w>" for c in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
GPT2_TOKENS = [*(f"Ġ{c}" for c in string.ascii_lowercase), *".,abcd"]


def tiny_sizes() -> XGeMSizes:
    """16 x 16 pixels, two levels each."""
    levels = (Level(64, 1, True, True), Level(64, 1, False, False))
    image = UNetSizes(4, 64, levels, context=16, environment=(64,), environment_width=32, temporal=32)
    text = UNetSizes(8, 64, levels, context=16, environment=(64,), environment_width=32, rows=2)
    return XGeMSizes(
        unets={"frontal": image, "lateral": image, "text": text},
        autoencoder=AutoencoderSizes((32, 64), 1, 4, 3),
        bert=TransformerSizes(16, 24, 1, 12, vocabulary=20),
        gpt2=TransformerSizes(16, 48, 2, 24, vocabulary=len(GPT2_TOKENS) + 3),
        report=8,
        clip_text=TransformerSizes(16, 24, 1, 40, vocabulary=len(CLIP_TOKENS)),
        clip_vision=TransformerSizes(18, 24, 1, 5, patch=4),
        shared=16,
        schedule=1000,
        published=TINY,
    )


def tiny_meta() -> dict[str, torch.Tensor]:
    """The tiny checkpoint's tensors without storage."""
    return {name: torch.empty(shape, device="meta") for name, shape in expected_layout(tiny_sizes()).items()}


def tiny_checkpoint() -> dict[str, torch.Tensor]:
    """The tiny checkpoint in half precision; its decoder draws grey."""
    source = torch.Generator().manual_seed(0)
    found: dict[str, torch.Tensor] = {}
    for name, shape in expected_layout(tiny_sizes()).items():
        if is_buffer(name):
            whole = name.endswith("position_ids")
            found[name] = torch.arange(shape[-1])[None] if whole else torch.zeros(shape)
            continue
        values = torch.randn(shape, generator=source)
        if len(shape) > 1:
            values *= 0.9 / max(1, values[0].numel()) ** 0.5
        else:
            values = values * 0.05 + float(name.endswith(("weight", ".g")))
        found[name] = values.half()
    found["alphas_cumprod"] = scheduler().alphas_cumprod.clone()
    for name in ("weight", "bias"):
        last = found[f"autokl.decoder.conv_out.{name}"]
        last[:] = last[:1] * 0.5
    found[TIED[0]] = found[TIED[1]]
    return found


def write_tokenizers(folder: Path) -> None:
    """Tokenizers of single characters."""
    (folder / "clip").mkdir(parents=True)
    tokens = {token: i for i, token in enumerate(CLIP_TOKENS)}
    (folder / "clip" / "vocab.json").write_text(json.dumps(tokens))
    (folder / "clip" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "gpt2-vocab.json").write_text(json.dumps({token: i for i, token in enumerate(GPT2_TOKENS)}))
