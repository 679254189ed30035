"""Sampling of several slots at once: guidance of attributes and of text set apart, in a few solver steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cxraug.cores.diffusion.sampling import solver
from cxraug.cores.multiprompt.denoiser import Asked, MultipromptDenoiser
from cxraug.cores.multiprompt.network import REPORT
from cxraug.cores.multiprompt.settings import MultipromptSettings

HIGHEST = 0.999  # noise level of the first step
Slots = dict[int, Tensor]
Model = Callable[[Slots, float], Slots]  # noisy slots that are wanted, t -> clean


def guided(
    denoiser: MultipromptDenoiser,
    asked: Asked,
    given: Slots,
    settings: MultipromptSettings,
    *,
    attributes: bool,
    report_given: Tensor | None = None,
    text: bool = False,
) -> Model:
    """The denoiser with guidance (Ho & Salimans 2022), composed of two parts (Liu et al. 2022, eq. 11).

        D = D(nothing) + g_a (D(attributes) - D(nothing)) + g_t (D(attributes, text) - D(attributes))

    where g_a is ``guidance`` for views and ``report_guidance`` for the report, and g_t ``text_guidance``. Only the
    parts that are asked for are computed, and only between ``guidance_from`` and ``guidance_until`` (Kynkaanniemi et
    al. 2024); outside, and with all scales 1, it is the conditional model at one evaluation.

    Parameters
    ----------
    given : slots at noise level 0; they stay in every part.
    attributes, text : whether the rows of this batch ask for any (attributes, masks, boxes) and (report, reference).
    """
    no_text = asked.without(text=True, report_given=report_given) if text else asked
    nothing = no_text.without(attributes=True) if attributes else no_text
    cases = {id(case): case for case in (nothing, no_text, asked)}  # what is not asked for makes no case of its own

    def weights(slot: int) -> dict[int, float]:
        """What each case counts in the combination for ``slot``."""
        scale = settings.report_guidance if slot == REPORT else settings.guidance
        scale, text_scale = scale if attributes else 1.0, settings.text_guidance if text else 1.0
        found = dict.fromkeys(cases, 0.0)
        for case, weight in ((nothing, 1 - scale), (no_text, scale - text_scale), (asked, text_scale)):
            found[id(case)] += weight
        return found

    def evaluate(noisy: Slots, t: float, condition: Asked, copies: int) -> Slots:
        first = next(iter({**noisy, **given}.values()))
        times, state = {}, {}
        for s, x in {**noisy, **given}.items():
            level = t if s in noisy else 0.0
            state[s] = x.repeat(copies, *[1] * (x.ndim - 1))
            times[s] = torch.full((copies * len(first), 1), level, device=x.device)
        clean = denoiser(state, times, condition).clean
        return {s: clean[s] for s in noisy}

    def model(noisy: Slots, t: float) -> Slots:
        scales = {s: weights(s) for s in noisy}
        used = [i for i in cases if any(scale[i] for scale in scales.values())]
        if not settings.guidance_from <= t <= settings.guidance_until:
            return evaluate(noisy, t, asked, 1)
        if len(used) == 1:
            return evaluate(noisy, t, cases[used[0]], 1)
        everything = cases[used[0]]
        for i in used[1:]:
            everything = everything.cat(cases[i])
        found: Slots = {}
        for s, x in evaluate(noisy, t, everything, len(used)).items():
            pieces = [scales[s][i] * piece for i, piece in zip(used, x.chunk(len(used)), strict=True)]
            found[s] = torch.stack(pieces).sum(0)
        return found

    return model


def noise_levels(steps: int, shift: float = 1.0) -> Tensor:
    """(steps,) falling levels t in (0, 1): s = sin^2(pi / 2 (1 - i / steps)), then shift s / (1 + (shift - 1) s).

    Both ends are dense. The size of bodies and the exposure are decided while nearly all is noise, for their variance
    is hundreds of times that of a pixel; texture is decided at the end. Even steps jump over both.
    """
    even = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    s = torch.sin(math.pi / 2 * even).square()
    return (shift * s / (1 + (shift - 1) * s)).clamp(max=HIGHEST).float()


@torch.no_grad()
def sample(
    model: Model, settings: MultipromptSettings, shapes: dict[int, tuple[int, ...]],
    streams: dict[int, list[torch.Generator]], device: str = "cpu", start: Slots | None = None,
) -> Slots:  # fmt: skip
    """Draw the slots in ``shapes`` (each without its batch) together; noise of a row and slot comes from its stream.

    ``start`` : clean slots to draw variations of. They are noised to the level ``settings.strength``, and the levels
    below it are gone through (Meng et al. 2022); without it sampling starts from noise alone.
    """
    levels = noise_levels(settings.sampler_steps, settings.flow_shift)
    if start is not None:
        levels = torch.cat([torch.tensor([settings.strength]), levels[levels < settings.strength - 1e-6]])
    scheduler = solver(settings)
    scheduler.set_timesteps(len(levels), device=device)
    scheduler.sigmas = torch.cat([levels, torch.zeros(1)])
    scheduler.set_begin_index(0)
    sizes = [int(torch.tensor(shape).prod()) for shape in shapes.values()]

    def noise() -> Tensor:
        flat = [
            torch.stack([torch.randn(n, generator=g) for g in streams[s]]) for s, n in zip(shapes, sizes, strict=True)
        ]
        return torch.cat(flat, 1).to(device)

    def split(x: Tensor) -> Slots:
        pieces = x.split(sizes, 1)
        return {s: p.reshape(len(x), *shape) for (s, shape), p in zip(shapes.items(), pieces, strict=True)}

    x = noise()
    if start is not None:
        x = (1 - settings.strength) * torch.cat([start[s].flatten(1) for s in shapes], 1) + settings.strength * x
    stochastic = settings.solver.startswith("sde")
    for step, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        clean = model(split(x), float(sigma))
        flat = torch.cat([clean[s].flatten(1) for s in shapes], 1)
        x = scheduler.step(flat, step, x, variance_noise=noise() if stochastic else None, return_dict=False)[0]
    return split(x)
