"""Tiny random pipelines of the four layouts, built from configurations; their decoders draw in grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)  # fmt: skip
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)  # fmt: skip

KINDS = ("sd1", "sd2", "pixart", "sana")
LENGTH = 77


def tokenizer(end: str, length: int = LENGTH) -> PreTrainedTokenizerFast:
    """Letters, so that every caption has tokens of its own."""
    words = ["<pad>", end, "<unk>", *map(chr, range(33, 127))]
    table = {word: i for i, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token=end, bos_token=end, unk_token="<unk>",
        model_max_length=length,
    )  # fmt: skip


def grey(vae: Any) -> Any:
    """All three channels of the last layer alike, with some contrast."""
    last = vae.decoder.conv_out
    with torch.no_grad():
        last.weight.copy_(last.weight[:1].expand_as(last.weight) * 4)
        last.bias.zero_()
    return vae


def autoencoder() -> AutoencoderKL:
    return grey(AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 16), norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
        sample_size=32,
    ))  # fmt: skip


def stable(kind: str) -> StableDiffusionPipeline:
    """SD 1.x predicts noise with one head width, 2.x the velocity, with linear projections."""
    second = kind == "sd2"
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32, attention_head_dim=(2, 4) if second else 8, norm_num_groups=8,
        use_linear_projection=second,
    )  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=100, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=LENGTH, bos_token_id=1, eos_token_id=1, pad_token_id=0,
        hidden_act="gelu" if second else "quick_gelu",
    ))  # fmt: skip
    common: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = (
        DDIMScheduler(**common, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False)
        if second else PNDMScheduler(**common, skip_prk_steps=True)
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=text, tokenizer=tokenizer("<end>"), unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def pixart() -> PixArtAlphaPipeline:
    transformer = PixArtTransformer2DModel(
        sample_size=16, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=32,
        cross_attention_dim=16, in_channels=4, out_channels=8, norm_type="ada_norm_single",
        norm_elementwise_affine=False, attention_bias=True, use_additional_conditions=False,
    )  # fmt: skip
    text = T5EncoderModel(T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4))
    return PixArtAlphaPipeline(
        vae=autoencoder(), text_encoder=text, tokenizer=tokenizer("</s>", 120), transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip


def sana() -> SanaPipeline:
    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
        sample_size=16,
    )  # fmt: skip
    vae = grey(AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
    ))  # fmt: skip
    text = Gemma2Model(Gemma2Config(
        vocab_size=100, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=600,
    ))  # fmt: skip
    return SanaPipeline(
        transformer=transformer, vae=vae, text_encoder=text, tokenizer=tokenizer("<eos>", 300),
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, algorithm_type="dpmsolver++",
        ),
    )  # fmt: skip


def save_tiny(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write the random pipeline ``kind`` of :data:`KINDS` into ``folder``."""
    torch.manual_seed(seed)
    made = {"pixart": pixart, "sana": sana}.get(kind, lambda: stable(kind))()
    with torch.no_grad():  # fresh transformers begin at zero gates, and a fresh network hardly hears its caption
        for network in (made.components.get("unet"), made.components.get("transformer")):
            for parameter in [] if network is None else network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    made.save_pretrained(folder)
    return folder
