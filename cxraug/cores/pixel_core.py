"""What the cores of this package share: from prompts and seeds to noise, pixels and reports."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cxraug import __version__
from cxraug.cores.conditions import Conditions, Vocabulary
from cxraug.cores.core import Card, GenerativeCore, Prompt, Study, draw_by_view
from cxraug.cores.linear_gaussian import ConditionBatch
from cxraug.cores.registry import CARD, WEIGHTS, read_card
from cxraug.errors import InputError
from cxraug.storage import atomic, file_sha256, write_json
from cxraug.studies.images import Encoding
from cxraug.studies.phantom.report import write_report
from cxraug.studies.seen import Seen

LICENCE = "as the training data"


class PixelCore(GenerativeCore):
    """A core that draws every view by itself from a condition vector and a seed.

    Each (seed, view) has its own random stream, so an image does not depend on which other views, prompts or units
    were asked for. Subclasses implement :meth:`_draw`.
    """

    def __init__(self, card: Card, *, device: str = "cpu") -> None:
        self.card = card
        self.device = device
        self.vocabulary = vocabulary_of(card)

    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        def draw(views: list[str]) -> np.ndarray:
            conditions = Conditions.from_prompts(prompts, views, self.card.findings)
            batch = ConditionBatch.of(self.vocabulary, conditions)
            streams = [stream(seed, view) for seed, view in zip(seeds, views, strict=True)]
            return to_uint8(self._draw(batch.to(self.device), streams)).reshape(-1, *[self.card.resolution] * 2)

        return [
            Study(images, self._report(prompt, seed))
            for images, prompt, seed in zip(draw_by_view(prompts, draw), prompts, seeds, strict=True)
        ]

    def _report(self, prompt: Prompt, seed: int) -> str:
        rng = np.random.default_rng([seed, 1])
        return write_report(dict(prompt.labels), prompt.sex, prompt.age, tuple(prompt.views), rng)

    @abstractmethod
    def _draw(self, batch: ConditionBatch, streams: list[torch.Generator]) -> Tensor:
        """Draw one image per row, (B, D) in [-1, 1]; ``streams`` are CPU generators, one per row."""


def stream(seed: int, view: str) -> torch.Generator:
    """The random stream of one view of one study."""
    key = hashlib.sha256(f"{seed}/{view}".encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)


def to_uint8(images: Tensor) -> np.ndarray:
    """Round images in [-1, 1] to 0..255, values outside clipped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def vocabulary_of(card: Card) -> Vocabulary:
    """The vocabulary written in a card."""
    return Vocabulary(tuple(card.findings), tuple(card.views), tuple(card.sources), tuple(card.races))


def save_core(
    folder: Path,
    tensors: dict[str, Tensor],
    *,
    kind: str,
    name: str,
    resolution: int,
    vocabulary: Vocabulary,
    conditions: Sequence[str],
    seen: Seen,
    training_data: dict[str, Any],
    settings: dict[str, Any],
    licence: str = LICENCE,
    encoding: Encoding | None = None,
) -> Card:
    """Write ``model.safetensors`` (floats of two or more dimensions as half precision) and then ``card.json``."""
    folder = Path(folder)
    stored = {k: (v.half() if v.is_floating_point() and v.ndim >= 2 else v).contiguous() for k, v in tensors.items()}
    with atomic(folder / WEIGHTS) as temporary:
        save_file(stored, str(temporary))
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read
    card = Card(
        name=name,
        version=__version__,
        kind=kind,
        sha256=file_sha256(folder / WEIGHTS),
        resolution=resolution,
        views=list(vocabulary.views),
        findings=list(vocabulary.findings),
        conditions=list(conditions),
        licence=licence,
        training_data=training_data,
        seen=seen.to_json(),
        sources=list(vocabulary.sources),
        races=list(vocabulary.races),
        encoding={} if encoding is None else asdict(encoding),
        settings=settings,
    )
    write_json(folder / CARD, card.model_dump(mode="json"))
    return card


def all_seen(seen: Seen, init: Path | None) -> Seen:
    """``seen`` and what the core in ``init`` has seen: a fine-tuned core has seen both."""
    if init is None:
        return seen
    earlier = read_card(init).hashes
    if earlier.key != seen.key:
        raise InputError("what was seen is hashed under another key than the first core's", file=init)
    return Seen(seen.key, seen.patients | earlier.patients, seen.images | earlier.images)


def load_weights(folder: Path, card: Card) -> dict[str, Tensor]:
    """Read a core's weights as float32 after checking that they are those of the card."""
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise InputError("the core has no weights", file=path)
    if file_sha256(path) != card.sha256:
        raise InputError("weights are not those of card.json", file=path, expected=f"sha256 {card.sha256}")
    try:
        return {k: v.float() if v.is_floating_point() else v for k, v in load_file(str(path)).items()}
    except SafetensorError as error:
        raise InputError(f"not a safetensors file ({error})", file=path) from None
