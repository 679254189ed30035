"""The diffusion core behind the contract: opened from a folder of weights and card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.core import Card
from cxraug.cores.diffusion.denoiser import Denoiser
from cxraug.cores.diffusion.sampling import guided, sample
from cxraug.cores.linear_gaussian import ConditionBatch, GaussianModel
from cxraug.cores.pixel_core import PixelCore, load_weights, vocabulary_of
from cxraug.cores.settings import SAMPLER, DiffusionSettings
from cxraug.errors import InputError, first_problem


class DiffusionCore(PixelCore):
    """Samples by a few guided solver steps. ``settings`` are those of training with sampler overrides."""

    def __init__(self, card: Card, denoiser: Denoiser, settings: DiffusionSettings, *, device: str = "cpu") -> None:
        super().__init__(card, device=device)
        self.denoiser = denoiser.to(device).eval().requires_grad_(False)
        self.batch_size = settings.sample_batch
        self.dtype = str(denoiser.dtype).removeprefix("torch.")  # for provenance: it depends on the machine
        self._use(settings)

    def configure(self, *, steps: int | None = None, guidance: float | None = None, **others: Any) -> None:
        """Change sampler settings (``sampler_steps`` for short ``steps``, ``guidance``, ``solver``, ...).

        None keeps a setting. An unknown or impossible one is an :class:`InputError`.
        """
        wanted = {"sampler_steps": steps, "guidance": guidance, **others}
        wanted = {key: value for key, value in wanted.items() if value is not None}
        for key in wanted:
            if key not in SAMPLER:
                raise InputError("not a sampler setting", found=key, expected=f"one of {', '.join(sorted(SAMPLER))}")
        try:
            self._use(DiffusionSettings(**{**self.settings.model_dump(), **wanted}))
        except ValidationError as error:
            raise InputError(f"sampler setting {': '.join(first_problem(error))}") from None

    def _use(self, settings: DiffusionSettings) -> None:
        self.settings = settings
        self.sampler = {
            "scheduler": f"{settings.solver} order 2",
            "steps": settings.sampler_steps,
            "guidance": settings.guidance,
            "guidance_until": settings.guidance_until,
            "flow_shift": settings.flow_shift,
        }

    def _draw(self, batch: ConditionBatch, streams: list[torch.Generator]) -> Tensor:
        def denoise(noisy: Tensor, t: Tensor, conditions: ConditionBatch) -> Tensor:
            return self.denoiser(noisy, t, conditions).clean

        model = guided(denoise, batch, self.settings.guidance, self.settings.guidance_until)
        return sample(model, self.settings, self.card.resolution**2, streams, self.device)


def load_denoiser(folder: Path, card: Card) -> Denoiser:
    """Rebuild the denoiser of a saved core."""
    vocabulary: Vocabulary = vocabulary_of(card)
    settings = DiffusionSettings(**card.settings["diffusion"])
    model = GaussianModel.empty(card.resolution**2, len(vocabulary), card.settings["components"])
    denoiser = Denoiser(model, vocabulary, card.resolution, settings)
    denoiser.load_state_dict(load_weights(folder, card))
    denoiser.precondition.scale = float(card.settings["scale"])
    return denoiser


def load_diffusion(folder: Path, card: Card, *, device: str = "cpu") -> DiffusionCore:
    """Open a saved diffusion core."""
    settings = DiffusionSettings(**card.settings["diffusion"])
    return DiffusionCore(card, load_denoiser(folder, card), settings, device=device)
