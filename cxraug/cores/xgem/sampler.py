"""DDIM over one or several modalities that are drawn together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

Denoiser = Callable[..., Tensor]


def scheduler() -> Any:
    """DDIM of diffusers with XGeM's schedule: scaled linear betas, timesteps 0, 20, ..., 980 of 50 steps.

    Song, Meng, Ermon 2021 (DDIM), eq. 12; the last step goes to the first alpha, not to 1.
    """
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=0, timestep_spacing="leading",
    )  # fmt: skip


def mix(conditions: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The context of several conditions (N, 1, D): their weighted mean, not normalised again."""
    stacked = torch.stack([c * w for c, w in zip(conditions, weights, strict=True)])
    return stacked.sum(0) / sum(weights)


def denoise(unets: Mapping[str, Denoiser], x: Mapping[str, Tensor], t: Tensor, context: Tensor) -> dict[str, Tensor]:
    """The noise in each modality's latent; with more than one they are joint."""
    return {slot: unets[slot](latent, t, context, joint=len(x) > 1) for slot, latent in x.items()}


def sample(unets: Mapping[str, Denoiser], x: Mapping[str, Tensor], given: Tensor, empty: Tensor, *, steps: int,
           guidance: float, eta: float, noise: Callable[[str], Tensor]) -> dict[str, Tensor]:  # fmt: skip
    """Latents drawn from ``x``, noise of norm 1, by ``steps`` guided steps.

    Parameters
    ----------
    x : modality -> (N, ...) where to begin.
    given, empty : (N, 1, D) contexts of the conditions, and of their empty counterparts.
    noise : called for each modality in every step where ``eta`` is above 0: fresh noise of its latent's shape.
    """
    ddim = scheduler()
    ddim.set_timesteps(steps)
    context, n = torch.cat([empty, given]), len(given)
    x = dict(x)
    for step in ddim.timesteps.tolist():
        t = torch.full((2 * n,), step, device=given.device)
        found = denoise(unets, {slot: torch.cat([latent, latent]) for slot, latent in x.items()}, t, context)
        for slot, both in found.items():
            without, with_ = both.chunk(2)
            guided = without + guidance * (with_ - without)
            fresh = noise(slot) if eta else None
            x[slot] = ddim.step(guided, step, x[slot], eta=eta, variance_noise=fresh).prev_sample
    return x
