"""The diffusion core behind the contract: opened from a folder of weights and card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cxraug.cores.conditions import Conditions, Vocabulary
from cxraug.cores.core import Card
from cxraug.cores.diffusion.denoiser import Denoiser
from cxraug.cores.diffusion.sampling import guided, sample, solver
from cxraug.cores.linear_gaussian import ConditionBatch, GaussianModel
from cxraug.cores.pixel_core import PixelCore, load_weights, vocabulary_of
from cxraug.cores.sampled_core import SampledCore
from cxraug.cores.settings import SAMPLER, DiffusionSettings


class DiffusionCore(PixelCore, SampledCore):
    """Samples by a few guided solver steps. ``settings`` are those of training with sampler overrides."""

    sampler_fields = SAMPLER

    def __init__(self, card: Card, denoiser: Denoiser, settings: DiffusionSettings, *, device: str = "cpu") -> None:
        super().__init__(card, device=device)
        self.denoiser = denoiser.to(device).eval().requires_grad_(False)
        self.batch_size = settings.sample_batch
        self.dtype = str(denoiser.dtype).removeprefix("torch.")  # for provenance: it depends on the machine
        self._use(settings)

    def noise_levels(self) -> list[float]:
        """As the contract."""
        scheduler = solver(self.settings)
        scheduler.set_timesteps(self.settings.sampler_steps)
        return scheduler.sigmas[:-1].tolist()  # type: ignore[no-any-return]

    def _draw(self, batch: ConditionBatch, streams: list[torch.Generator]) -> Tensor:
        def denoise(noisy: Tensor, t: Tensor, conditions: ConditionBatch) -> Tensor:
            return self.denoiser(noisy, t, conditions).clean

        model = guided(denoise, batch, self.settings.guidance, self.settings.guidance_until)
        return sample(model, self.settings, self.card.resolution**2, streams, self.device)

    @torch.no_grad()
    def denoising_loss(
        self, pixels: np.ndarray, conditions: Conditions, levels: Sequence[float], seed: int
    ) -> np.ndarray:
        """(n, levels) squared residual in units of the Wiener filter's deviation, of uint8 pixels (n, R, R).

        All images get the same noise, which follows from ``seed``.
        """
        batch = ConditionBatch.of(self.vocabulary, conditions).to(self.device)
        images = (torch.from_numpy(pixels).flatten(1).float() / 127.5 - 1).to(self.device)
        random = torch.Generator().manual_seed(seed)
        found = []
        for level in levels:
            t = torch.full((len(images), 1), float(level), device=self.device)
            noise = torch.randn(1, images.shape[1], generator=random).to(self.device)
            guess = self.denoiser((1 - t) * images + t * noise, t, batch)
            found.append(((guess.clean - images) / guess.deviation).square().mean(1))
        return torch.stack(found, 1).cpu().numpy()


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
