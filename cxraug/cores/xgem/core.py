"""XGeM behind the contract of cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxraug.cores.core import LATERAL, Card, Prompt, Study
from cxraug.cores.given import given_files, read_given
from cxraug.cores.grey import grey_pixels
from cxraug.cores.pixel_core import stream
from cxraug.cores.sampled_core import SampledCore
from cxraug.cores.xgem.conversion import TOKENIZERS
from cxraug.cores.xgem.embedding import clip_pixels, embed_images, embed_text
from cxraug.cores.xgem.files import (
    TEXT_SCALE,
    VISION_SCALE,
    open_autoencoder,
    open_clip,
    open_gpt2,
    open_unet,
    sizes_from,
)
from cxraug.cores.xgem.reports import write_tokens
from cxraug.cores.xgem.sampler import mix, sample, scheduler
from cxraug.cores.xgem.settings import SAMPLER, XGeMSettings
from cxraug.cores.xgem.tokens import Tokenizers
from cxraug.cores.xgem.unets import JointUNet
from cxraug.errors import InputError

Caption = Callable[[Prompt, str, int], str]  # prompt, view, seed -> caption
Captured = tuple[Tensor, Tensor]  # context of a condition, and of its empty counterpart


class XGeMCore(SampledCore):
    """Draws frontal and lateral views and reports of a study jointly, from text, reference images or both.

    What a prompt asks for - its views, and a report if it wants one - is drawn together. What it gives is mixed to one
    context: a caption, unless reference images are all it gives, and each reference image. Parts are opened when
    they are first needed.

    Parameters
    ----------
    card, folder : of a converted checkpoint.
    captions : writes the caption of (prompt, view, seed); a report that a prompt gives is its business too.
    tokenizers : folder of the tokenizers, by default ``tokenizers`` in ``folder``.
    """

    sampler_fields = SAMPLER

    def __init__(self, card: Card, folder: Path, *, captions: Caption, tokenizers: Path | None = None,
                 device: str = "cpu") -> None:  # fmt: skip
        self.card, self.folder, self.captions, self.device = card, Path(folder), captions, device
        self.tokenizers = Tokenizers(tokenizers or self.folder / TOKENIZERS)
        self.sizes = sizes_from(card.settings["sizes"])
        self.dtype = "float32"
        settings = XGeMSettings(**card.settings["xgem"])
        self.batch_size = settings.sample_batch
        self._unets: dict[str, JointUNet] = {}
        self._use(settings)

    def _use(self, settings: Any) -> None:
        self.settings = settings
        others = {name: getattr(settings, name) for name in SAMPLER if name != "sampler_steps"}
        self.sampler = {"scheduler": "DDIM", "steps": settings.sampler_steps, **others,
                        "captions": getattr(self.captions, "settings", None)}  # fmt: skip

    def noise_levels(self) -> list[float]:
        """As the contract."""
        ddim = scheduler()
        ddim.set_timesteps(self.settings.sampler_steps)
        return (1 - ddim.alphas_cumprod[ddim.timesteps]).sqrt().tolist()  # type: ignore[no-any-return]

    def refuse(self, prompt: Prompt) -> None:
        """As the contract, and two views of one projection, and a prompt of which no caption can be written."""
        super().refuse(prompt)
        if len({_slot(view) for view in prompt.views}) < len(prompt.views):
            raise InputError(f"prompt {prompt.prompt_id}: two views of one projection", found="|".join(prompt.views),
                             expected="at most one frontal and one lateral")  # fmt: skip
        if _reads(prompt):
            self.captions(prompt, _view(prompt), 0)

    @torch.no_grad()
    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        contexts = [self._context(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        wanted = [_wanted(prompt) for prompt in prompts]
        studies: list[Study | None] = [None] * len(prompts)
        for slots in sorted(set(wanted)):
            first = wanted.index(slots)
            # every study stays in its row of the batch, whatever the others want: its bytes do not depend on them
            rows = [i if wanted[i] == slots else first for i in range(len(prompts))]
            drawn = self._draw(slots, [contexts[i] for i in rows], [seeds[i] for i in rows])
            images = {slot: self._decode(drawn[slot]) for slot in slots if slot != "text"}
            reports = self._write(drawn["text"], [seeds[i] for i in rows]) if "text" in slots else None
            for i, prompt in enumerate(prompts):
                if wanted[i] == slots:
                    pixels = {view: self._grey(images[_slot(view)][i], prompt, view) for view in prompt.views}
                    studies[i] = Study(pixels, None if reports is None else reports[i])
        return [study for study in studies if study is not None]

    def _context(self, prompt: Prompt, seed: int) -> Captured:
        """The mixed context (1, 1, D) of what a prompt gives, and the empty one."""
        found: list[tuple[float, Captured]] = []
        if _reads(prompt):
            caption = self.captions(prompt, _view(prompt), seed)
            found.append((self.settings.text_weight, (self._embed(caption), self._no_text)))
        given = read_given(prompt, resolution=self.card.resolution, findings=self.card.findings)
        for view, image in given.images.items():
            weight = getattr(self.settings, f"{_slot(view)}_weight")
            found.append((weight, (self._see(image), self._no_image)))
        weights = [weight for weight, _ in found]
        full, empty = (mix([pair[side] for _, pair in found], weights) for side in (0, 1))
        return full, empty

    def _draw(self, slots: Sequence[str], contexts: Sequence[Captured], seeds: Sequence[int]) -> dict[str, Tensor]:
        streams = {slot: [stream(seed, slot) for seed in seeds] for slot in slots}

        def noise(slot: str) -> Tensor:
            rows = [torch.randn(self._shape(slot), generator=source) for source in streams[slot]]
            return torch.stack(rows).to(self.device)

        return sample(
            {slot: self._unet(slot) for slot in slots}, {slot: noise(slot) for slot in slots},
            torch.cat([given for given, _ in contexts]), torch.cat([empty for _, empty in contexts]),
            steps=self.settings.sampler_steps, guidance=self.settings.guidance, eta=self.settings.eta, noise=noise,
        )  # fmt: skip

    def _shape(self, slot: str) -> tuple[int, ...]:
        side = self.sizes.published.latent_side
        return (self.sizes.report,) if slot == "text" else (self.sizes.autoencoder.latent, side, side)

    def _decode(self, latent: Tensor) -> np.ndarray:
        """(N, 3, R, R), in [0, 1] where a decoder does what it should."""
        decoded: Tensor = self._autoencoder.decode(latent / VISION_SCALE).sample
        return ((decoded.float() + 1) / 2).cpu().numpy()

    def _grey(self, image: np.ndarray, prompt: Prompt, view: str) -> np.ndarray:
        where = f"core {self.card.name}, prompt {prompt.prompt_id}, {view}"
        return grey_pixels(image.transpose(1, 2, 0), where, self.settings.colour)

    def _write(self, latent: Tensor, seeds: Sequence[int]) -> list[str]:
        gpt2, matrices = self._gpt2
        streams = [stream(seed, "report") for seed in seeds]

        def choose(logits: Tensor) -> Tensor:
            chances = logits.float().softmax(-1).cpu()
            return torch.cat(
                [torch.multinomial(p, 1, generator=source) for p, source in zip(chances, streams, strict=True)]
            ).to(logits.device)

        if not torch.isfinite(latent).all():
            raise InputError(f"core {self.card.name}: the latent of a report is not finite")
        longest = self.settings.report_tokens
        ids = write_tokens(gpt2, matrices, latent / TEXT_SCALE, longest=longest, choose=choose)
        end = int(gpt2.config.eos_token_id)
        texts = [row[1 : row.index(end)] if end in row else row[1:] for row in ids.tolist()]
        return [self.tokenizers.report(text, self.sizes.gpt2.vocabulary) for text in texts]

    def _embed(self, caption: str) -> Tensor:
        ids = self.tokenizers.captions([caption], self.sizes.clip_text.positions)
        return embed_text(self._clip, ids.to(self.device))

    def _see(self, image: np.ndarray) -> Tensor:
        side = int(self._clip.config.vision_config.image_size)
        return embed_images(self._clip, clip_pixels(image, side)[None].to(self.device))

    @cached_property
    def _no_text(self) -> Tensor:
        return self._embed("")

    @cached_property
    def _no_image(self) -> Tensor:
        return self._see(np.zeros((self.card.resolution, self.card.resolution), np.uint8))

    @cached_property
    def _clip(self) -> Any:
        network: Any = open_clip(self.folder)
        return network.to(self.device)

    @cached_property
    def _autoencoder(self) -> Any:
        network: Any = open_autoencoder(self.folder)
        return network.to(self.device)

    @cached_property
    def _gpt2(self) -> tuple[Any, Mapping[str, Tensor]]:
        gpt2: Any
        gpt2, matrices = open_gpt2(self.folder)
        return gpt2.to(self.device), {name: matrix.to(self.device) for name, matrix in matrices.items()}

    def _unet(self, slot: str) -> JointUNet:
        if slot not in self._unets:
            self._unets[slot] = open_unet(self.folder, slot, self.sizes).to(self.device)
        return self._unets[slot]


def _slot(view: str) -> str:
    return "lateral" if view == LATERAL else "frontal"


def _view(prompt: Prompt) -> str:
    """The view that a caption speaks of: the first asked for, PA for a report alone."""
    return prompt.views[0] if prompt.views else "PA"


def _wanted(prompt: Prompt) -> tuple[str, ...]:
    """What is drawn, in a fixed order."""
    slots = {_slot(view) for view in prompt.views} | ({"text"} if prompt.writes_report else set())
    return tuple(slot for slot in ("frontal", "lateral", "text") if slot in slots)


def _reads(prompt: Prompt) -> bool:
    """Whether a caption is read: where anything but images is given, or nothing at all."""
    return bool(prompt.asks_for() - {"views", "reference_image"}) or not given_files(prompt, "reference_image")
