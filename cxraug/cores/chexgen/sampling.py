"""ChexGen's sampler: ancestral DDPM on respaced timesteps, learned variances, guidance on three of four channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from cxraug.cores.chexgen.layout import CHANNELS
from cxraug.cores.chexgen.network import ChexGenNetwork

GUIDED = 3  # channels of the noise; the fourth and the variances stay those of each half


def make_scheduler(steps: int) -> Any:  # DDPMScheduler
    """1,000 linear betas from 1e-4 to 0.02, of which ``steps`` evenly spaced timesteps from 999 to 0 are taken."""
    scheduler: Any = DDPMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False,
        variance_type="learned_range", timestep_spacing="linspace",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    return scheduler


def guide(out: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of ``out`` (2n, 8, S, S), whose halves are with and without caption.

    Both halves get u + ``scale`` (c - u) in the guided channels and keep their own values in the others.
    """
    with_caption, without = out.chunk(2)
    guided = without[:, :GUIDED] + scale * (with_caption[:, :GUIDED] - without[:, :GUIDED])
    return torch.cat([guided.repeat(2, 1, 1, 1), out[:, GUIDED:]], dim=1)


def predict(
    network: ChexGenNetwork, x: Tensor, t: Tensor, y: Tensor, mask: Tensor | None, *, guidance: float
) -> Tensor:
    """(2n, 8, S, S) guided predictions for ``x`` (n, 4, S, S) with caption ``y`` (n, L, C), then without.

    The null caption is cut by the caption's mask, as in training.
    """
    null = network.null_caption.expand_as(y)
    return guide(network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null]), mask), guidance)


def denoise(
    predicted: Callable[[Tensor, Tensor], Tensor], x: Tensor, steps: int, streams: list[torch.Generator]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield latents and predicted clean latents, (n, 4, S, S) each, after each step from the noise ``x``.

    ``predicted`` maps latents and timesteps (n,) to (n, 8, S, S); ``streams`` draw the noise, one for each row.
    """
    scheduler = make_scheduler(steps)
    for step in scheduler.timesteps:
        out = predicted(x, torch.full((len(x),), int(step), device=x.device))
        x, clean = scheduler.step(out, int(step), x, generator=streams, return_dict=False)
        yield x, clean


def sample(
    network: ChexGenNetwork, y: Tensor, mask: Tensor, noise: Tensor, streams: list[torch.Generator], *,
    steps: int, guidance: float, c: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Clean latents (n, 4, S, S) from ``noise`` for captions ``y`` (n, L, C) with ``mask`` (n, L).

    With condition latents ``c`` (n, 4, S, S) there is no guidance, as in the original sampler; neither with
    ``guidance`` 1.
    """

    def predicted(x: Tensor, t: Tensor) -> Tensor:
        if c is not None or guidance == 1:
            return network(x, t, y, mask, c)  # type: ignore[no-any-return]
        return predict(network, x, t, y, mask, guidance=guidance)[: len(x)]

    x = noise
    for x, _ in denoise(predicted, noise, steps, streams):  # noqa: B007
        pass
    assert x.shape[1] == CHANNELS
    return x
