"""LoRA fine-tuning of a pipeline on labelled X-rays: adapters of its attention, everything else as it was.

Hu et al. 2022 (arXiv 2106.09685). The loss is the one that the pipeline was trained with: squared error of noise,
velocity or clean image at uniform times (Ho et al. 2020; Salimans & Ho 2022), or of the flow at logit-normal times
(Esser et al. 2024, arXiv 2403.03206).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from cxraug.cores.captions import Captions
from cxraug.cores.conditions import Conditions
from cxraug.cores.core import Prompt
from cxraug.cores.peft import need_peft
from cxraug.cores.pipelines.lora import NAME, denoiser_of
from cxraug.cores.steps import train_small
from cxraug.errors import InputError
from cxraug.seeds import derive_seed
from cxraug.storage import atomic

TRAINABLE = ("UNet2DConditionModel", "PixArtTransformer2DModel", "SanaTransformer2DModel")
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
CHECKPOINT = "checkpoint.pt"


class LoraSettings(BaseModel):
    """``rank`` of the adapters; ``dropout``: share of captions left empty, which guidance needs. After training,
    ``check_samples`` images are drawn and compared with the training images (0: not)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rank: int = Field(16, ge=1)
    steps: int = Field(2000, ge=1)
    batch_size: int = Field(4, ge=1)
    lr: float = Field(1e-4, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    check_samples: int = Field(64, ge=0)


def refuse_untrainable(pipeline: Any) -> None:
    """Refuse a pipeline whose network must be told more than time and text (SDXL, PixArt of 1024 pixels, SD 3)."""
    _, network = denoiser_of(pipeline)
    kind, more = type(network).__name__, getattr(network, "use_additional_conditions", False)
    if kind not in TRAINABLE or more or network.config.get("addition_embed_type"):
        found = f"{kind}, with more conditions" if kind in TRAINABLE else kind
        raise InputError(f"{type(pipeline).__name__} cannot be fine-tuned here", found=found,
                         expected="SD 1.x or 2.x, PixArt up to 512 pixels, or Sana")  # fmt: skip


def train_lora(
    pipeline: Any, captions: Captions, prompts: Sequence[Prompt], views: Sequence[str], pixels: np.ndarray,
    folder: Path, settings: LoraSettings, *, key: str, seed: int = 0, weights: str = "model.safetensors",
) -> Path:  # fmt: skip
    """Train adapters on images uint8 (n, R, R) of ``prompts``, resumable, and write them as diffusers reads them.

    ``key`` names the training: a checkpoint of another one is refused. Returns the file of weights.
    """
    need_peft()
    refuse_untrainable(pipeline)
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import get_peft_model_state_dict

    name, network = denoiser_of(pipeline)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=settings.rank, lora_alpha=settings.rank, init_lora_weights="gaussian",
                            target_modules=list(LAYERS))  # fmt: skip
        inject_adapter_in_model(config, network, NAME)
        trained = nn.ParameterList([p for p in network.parameters() if p.requires_grad])
        network.train()
        table = _noise_table(pipeline)

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(pixels), (settings.batch_size,)).tolist()
            empty = (torch.rand(len(rows)) < settings.dropout).tolist()
            texts = ["" if none else captions(prompts[i], views[i], derive_seed(seed, step, i))
                     for i, none in zip(rows, empty, strict=True)]  # fmt: skip
            return _loss(pipeline, network, table, pixels[rows], texts)

        train_small(trained, loss, Path(folder) / CHECKPOINT, steps=settings.steps, rate=settings.lr, key=key,
                    seed=seed, what="LoRA")  # fmt: skip
    network.eval()
    state = {f"{name}.{k}": v.detach().contiguous().cpu()
             for k, v in get_peft_model_state_dict(network, adapter_name=NAME).items()}  # fmt: skip
    path = Path(folder) / weights
    with atomic(path) as temporary:
        save_file(state, str(temporary), metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read
    return path


def prompts_of(conditions: Conditions, reports: Sequence[str]) -> tuple[list[Prompt], list[str]]:
    """What is known of each image as a prompt, and its view; a report that is there is the impression."""
    prompts = []
    for i in range(len(conditions)):
        labels = {f: int(v) for f, v in zip(conditions.findings, conditions.y[i], strict=True) if np.isfinite(v)}
        age = float(conditions.age[i])
        prompts.append(Prompt(str(i), labels, sex=conditions.sex[i] or None, age=age if np.isfinite(age) else None,
                              race=conditions.race[i] or None, report=reports[i] or None))  # fmt: skip
    return prompts, [str(view) for view in conditions.view]


def _noise_table(pipeline: Any) -> Any:
    """The scheduler that adds noise as in training; None where the network predicts flows."""
    from diffusers import DDPMScheduler

    config = pipeline.scheduler.config
    flows = config.get("prediction_type") == "flow_prediction" or type(pipeline.scheduler).__name__.startswith("Flow")
    return None if flows else DDPMScheduler.from_config(config)


def _loss(pipeline: Any, network: Any, table: Any, pixels: np.ndarray, texts: list[str]) -> Tensor:
    device = network.device
    with torch.no_grad():
        images = torch.from_numpy(pixels).to(device)[:, None].float().expand(-1, 3, -1, -1) / 127.5 - 1
        encoded = pipeline.vae.encode(images)
        clean = encoded.latent_dist.sample() if hasattr(encoded, "latent_dist") else encoded.latent
        clean = clean * pipeline.vae.config.scaling_factor
        text = encode_texts(pipeline, texts)
    noise = torch.randn_like(clean)
    if table is None:
        t = torch.sigmoid(torch.randn(len(clean), device=device))
        shift = pipeline.scheduler.config.get("flow_shift") or 1.0
        t = shift * t / (1 + (shift - 1) * t)
        mixed = t.view(-1, 1, 1, 1)
        noisy, times, target = (1 - mixed) * clean + mixed * noise, t * 1000, noise - clean
    else:
        times = torch.randint(table.config.num_train_timesteps, (len(clean),), device=device)
        noisy = table.add_noise(clean, noise, times)
        kind = table.config.prediction_type
        velocity = table.get_velocity(clean, noise, times)
        target = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[kind]
    return functional.mse_loss(predict(network, noisy, times, text), target)


def encode_texts(pipeline: Any, texts: list[str]) -> dict[str, Tensor]:
    """What the denoiser is told of ``texts``: ``encoder_hidden_states`` and, for transformers, their mask."""
    if hasattr(pipeline, "unet"):
        return {"encoder_hidden_states": pipeline.encode_prompt(texts, pipeline.device, 1, False)[0]}
    how = {"do_classifier_free_guidance": False, "device": pipeline.device, "clean_caption": False}
    embedded, mask, *_ = pipeline.encode_prompt(texts, **how)
    return {"encoder_hidden_states": embedded, "encoder_attention_mask": mask}


def predict(network: Any, noisy: Tensor, times: Tensor, text: dict[str, Tensor]) -> Tensor:
    """What ``network`` predicts; the variance that some predict beside it is left out."""
    more: dict[str, Any] = dict(text)
    if type(network).__name__ == "PixArtTransformer2DModel":
        more["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    found = network(noisy, timestep=times, **more).sample
    return found[:, : noisy.shape[1]]
