"""ChexGen behind the contract of cores: X-rays from captions, and from masks and boxes where it has control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from cxraug.cores.chexgen.condition import draw_condition
from cxraug.cores.chexgen.layout import CHANNELS
from cxraug.cores.chexgen.network import ChexGenNetwork
from cxraug.cores.chexgen.sampling import make_scheduler, sample
from cxraug.cores.chexgen.settings import SAMPLER, ChexGenSettings
from cxraug.cores.chexgen.text import TextEncoder
from cxraug.cores.core import Card, Prompt, Study, draw_by_view
from cxraug.cores.given import read_given
from cxraug.cores.grey import grey_pixels
from cxraug.cores.pixel_core import stream
from cxraug.cores.sampled_core import SampledCore

LATENT_SCALE = 0.18215

Captions = Callable[[Prompt, str, int], str]  # prompt, view, seed -> caption


class ChexGenCore(SampledCore):
    """Draws every view by itself, from a caption and a random stream of its own.

    Parameters
    ----------
    network, text, vae : the denoiser, the encoder of captions, and diffusers' ``AutoencoderKL``.
    captions : writes the caption of a prompt, view and seed.
    settings : the sampler, by default that of the card.
    made_with : digests of what else decides the bytes (text encoder, autoencoder), for provenance.
    """

    sampler_fields = SAMPLER

    def __init__(
        self,
        card: Card,
        network: ChexGenNetwork,
        text: TextEncoder,
        vae: Any,
        captions: Captions,
        settings: ChexGenSettings | None = None,
        *,
        made_with: Mapping[str, str] | None = None,
        device: str = "cpu",
    ) -> None:
        self.card, self.device, self.captions, self.text = card, device, captions, text
        self.network = network.to(device)
        self.vae = vae.to(device).eval().requires_grad_(False)
        self.dtype = str(network.transformer.dtype).removeprefix("torch.")
        self.made_with = dict(made_with or {})
        settings = settings or ChexGenSettings(**card.settings["chexgen"])
        self.batch_size = settings.sample_batch
        self._use(settings)

    def _use(self, settings: Any) -> None:
        self.settings = settings
        self.sampler = {
            "scheduler": "DDPM, learned variance", "steps": settings.sampler_steps, "guidance": settings.guidance,
            "captions": getattr(self.captions, "settings", None), **self.made_with,
        }  # fmt: skip
        if self.network.control is not None:
            self.sampler["guidance_with_control"] = 1.0

    def noise_levels(self) -> list[float]:
        """As the contract."""
        scheduler = make_scheduler(self.settings.sampler_steps)
        return (1 - scheduler.alphas_cumprod[scheduler.timesteps]).sqrt().tolist()  # type: ignore[no-any-return]

    def refuse(self, prompt: Prompt) -> None:
        """As the contract, and prompts of which no caption can be written."""
        super().refuse(prompt)
        for view in prompt.views:
            self.captions(prompt, view, 0)

    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        return [Study(images) for images in draw_by_view(prompts, lambda views: self._draw(prompts, views, seeds))]

    @torch.no_grad()
    def _draw(self, prompts: Sequence[Prompt], views: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """One image (R, R) per row. Rows with a condition image are a batch of their own, in the same shape."""
        captions = [self.captions(p, view, seed) for p, view, seed in zip(prompts, views, seeds, strict=True)]
        features = {caption: self.text(caption) for caption in dict.fromkeys(captions)}
        shown = [self._condition(prompt, view) for prompt, view in zip(prompts, views, strict=True)]
        pixels: dict[int, np.ndarray] = {}
        for controlled in (False, True):
            rows = [i for i, image in enumerate(shown) if (image is not None) == controlled]
            if not rows:
                continue
            padded = rows + [rows[-1]] * (len(prompts) - len(rows))
            conditions = [image for image in (shown[i] for i in padded) if image is not None]
            found = self._decoded(
                torch.stack([features[captions[i]][0] for i in padded]),
                torch.stack([features[captions[i]][1] for i in padded]),
                conditions, [(seeds[i], views[i]) for i in padded],
            )  # fmt: skip
            for i, image in zip(rows, found, strict=False):
                where = f"core {self.card.name}, prompt {prompts[i].prompt_id}, {views[i]}"
                drawn = image.float().permute(1, 2, 0).cpu().numpy() / 2 + 0.5
                pixels[i] = grey_pixels(drawn, where, self.settings.colour)
        return [pixels[i] for i in range(len(prompts))]

    def _decoded(self, y: Tensor, mask: Tensor, conditions: list[np.ndarray], items: list[tuple[int, str]]) -> Tensor:
        """Images (n, 3, R, R) of about [-1, 1]; ``conditions`` are one per item, or none at all."""
        streams = [stream(seed, view) for seed, view in items]
        c = None
        if conditions:  # a random draw, from streams of its own: the noise is that of the same seed without condition
            drawn = torch.from_numpy(np.stack(conditions)).permute(0, 3, 1, 2).to(self.device).float() / 127.5 - 1
            others = [stream(seed, f"{view}, condition") for seed, view in items]
            c = self.vae.encode(drawn).latent_dist.sample(others) * LATENT_SCALE
        shape = (len(items), CHANNELS, self.network.side, self.network.side)
        noise = randn_tensor(shape, generator=streams, device=torch.device(self.device))
        z = sample(self.network, y.to(self.device), mask.to(self.device), noise, streams, c=c,
                   steps=self.settings.sampler_steps, guidance=self.settings.guidance)  # fmt: skip
        return self.vae.decode(z / LATENT_SCALE).sample  # type: ignore[no-any-return]

    def _condition(self, prompt: Prompt, view: str) -> np.ndarray | None:
        """The condition image of a view, None where neither a mask nor boxes are given for it."""
        if prompt.mask is None and prompt.boxes is None:
            return None
        size = self.card.resolution
        given = read_given(prompt, resolution=size, findings=self.card.findings, encoding=self.card.image_encoding)
        if view not in given.masks and view not in given.boxes:
            return None
        return draw_condition(given.masks.get(view, {}), given.boxes.get(view, []), size)
