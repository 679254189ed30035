"""The denoiser: a diffusers U-Net behind the Gaussian preconditioner, conditioned on any subset of a vocabulary."""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.diffusion.preconditioner import Preconditioner
from cxraug.cores.linear_gaussian import ConditionBatch, GaussianModel
from cxraug.cores.settings import DiffusionSettings
from cxraug.cores.steps import compute_dtype

TIME_SCALE = 1000.0  # diffusers' sinusoidal embedding expects steps of this order


class Prediction(NamedTuple):
    """``clean`` (B, D) estimates the image; ``residual`` (B, D) is the raw network output; ``estimate`` and
    ``deviation`` are the Wiener estimate (B, D) and its standard deviation (B, 1)."""

    clean: Tensor
    residual: Tensor
    estimate: Tensor
    deviation: Tensor


class Denoiser(nn.Module):
    """D(x_t, t, c) of :mod:`cxraug.cores.diffusion.preconditioner`."""

    def __init__(self, model: GaussianModel, vocabulary: Vocabulary, size: int, settings: DiffusionSettings) -> None:
        super().__init__()
        self.precondition = Preconditioner(model, size, settings.grid)
        self.dtype = compute_dtype(settings.precision)
        levels, width = len(settings.channels), settings.channels[0] * 4
        self.unet = UNet2DModel(
            sample_size=settings.grid,
            in_channels=2 * self.precondition.channels,
            out_channels=self.precondition.channels,
            block_out_channels=settings.channels,
            layers_per_block=settings.layers,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            norm_num_groups=8,
            attention_head_dim=32 if settings.channels[-1] % 32 == 0 else 8,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )
        nn.init.zeros_(self.unet.conv_out.weight)  # untrained, the denoiser is the Wiener filter
        nn.init.zeros_(self.unet.conv_out.bias)
        entries = 2 * len(vocabulary)
        self.embed = nn.Sequential(nn.Linear(entries, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, noisy: Tensor, t: Tensor, batch: ConditionBatch) -> Prediction:
        """Denoise ``noisy`` (B, D) at times ``t`` (B, 1)."""
        maps, estimate, deviation = self.precondition.inputs(noisy, t, batch)
        context = self.embed(torch.cat([batch.values * batch.known, batch.known], 1))
        with torch.autocast(noisy.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            output = self.unet(maps, t[:, 0] * TIME_SCALE, context, return_dict=False)[0]
        residual = self.precondition.to_flat(output.float())
        return Prediction(estimate + deviation * residual, residual, estimate, deviation)

    def network(self) -> list[nn.Parameter]:
        """The trained parameters (the Gaussian model is fixed)."""
        return [*self.unet.parameters(), *self.embed.parameters()]
