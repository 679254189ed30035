"""Sampling: classifier-free guidance around the denoiser, and a few solver steps of diffusers' DPM-Solver++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from cxraug.cores.linear_gaussian import ConditionBatch
from cxraug.cores.settings import DiffusionSettings

Model = Callable[[Tensor, Tensor], Tensor]  # (noisy (B, D), t) -> clean (B, D)


def guided(denoise: Callable[[Tensor, Tensor, ConditionBatch], Tensor], batch: ConditionBatch, scale: float,
           until: float = 1.0) -> Model:  # fmt: skip
    """Classifier-free guidance (Ho & Salimans 2022): null + scale (conditional - null) where t <= ``until``.

    ``scale`` 1 is the conditional model and 0 the unconditional one, each at the cost of one evaluation. Both halves
    run as one batch of double size.
    """
    null = batch.null()
    both = batch.cat(null)

    def model(noisy: Tensor, t: Tensor) -> Tensor:
        if scale == 0:
            return denoise(noisy, t, null)
        if scale == 1 or float(t[0]) > until:
            return denoise(noisy, t, batch)
        conditional, unconditional = denoise(noisy.repeat(2, 1), t.repeat(2, 1), both).chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return model


def solver(settings: Any) -> DPMSolverMultistepScheduler:
    """The scheduler for the noise x_t = (1 - t) x + t e, whose model predicts x."""
    return DPMSolverMultistepScheduler(
        prediction_type="sample",
        use_flow_sigmas=True,
        flow_shift=settings.flow_shift,
        algorithm_type=settings.solver,
        solver_order=2,
        final_sigmas_type="zero",
    )


@torch.no_grad()
def sample(model: Model, settings: DiffusionSettings, size: int, streams: list[torch.Generator],
           device: str = "cpu") -> Tensor:  # fmt: skip
    """Draw one image per stream, (B, ``size``) in [-1, 1] (not clipped). All noise of a row comes from its stream."""
    scheduler = solver(settings)
    scheduler.set_timesteps(settings.sampler_steps, device=device)
    scheduler.set_begin_index(0)

    def noise() -> Tensor:
        return torch.stack([torch.randn(size, generator=s) for s in streams]).to(device)

    x = noise()
    stochastic = settings.solver.startswith("sde")
    for step, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        t = torch.full((len(streams), 1), float(sigma), device=device)
        fresh = noise() if stochastic else None
        x = scheduler.step(model(x, t), step, x, variance_noise=fresh, return_dict=False)[0]
    return x
