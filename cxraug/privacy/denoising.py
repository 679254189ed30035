"""What a core loses when it denoises an image: lower for images it has learnt by heart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from cxraug.cores.conditions import Conditions
from cxraug.cores.core import GenerativeCore
from cxraug.progress import track
from cxraug.seeds import derive_seed
from cxraug.studies.cache import CHUNK
from cxraug.studies.images import encode, read_pixels
from cxraug.studies.manifest import Manifest

LEVELS = (0.15, 0.3, 0.45, 0.6)  # shares of noise: enough to hide details, not enough to hide the patient
DRAWS = 2
BATCH = 32


@runtime_checkable
class HasDenoisingLoss(Protocol):
    """A core that can say how well it denoises an image. Cores that cannot simply lack the method."""

    def denoising_loss(
        self, pixels: np.ndarray, conditions: Conditions, levels: Sequence[float], seed: int
    ) -> np.ndarray:
        """(n, levels) squared error, each level in units of its own spread, of uint8 pixels (n, R, R) under noise that
        follows from ``seed`` and is the same for all images."""
        ...


def losses_of(core: GenerativeCore, manifest: Manifest, *, seed: int) -> np.ndarray | None:
    """Mean denoising loss (n,) of every image, conditioned on what the core knows of its labels, sex, age and view.

    NaN for images in a view that the core does not know; None for a core without a loss (Carlini et al. 2023,
    arXiv 2301.13188, section 5.1: the loss at middle noise levels tells members best).
    """
    if not isinstance(core, HasDenoisingLoss):
        return None
    card, frame = core.card, manifest.frame
    able = np.flatnonzero(frame["view"].isin(card.views).to_numpy(bool))
    found = np.full(len(manifest), np.nan)
    starts = range(0, len(able), CHUNK)
    for start in track(starts, "asking the core's loss"):
        rows = able[start : start + CHUNK]
        part = manifest.take(rows)
        pixels = np.stack([encode(read_pixels(path), card.image_encoding) for path in part.paths()])
        names = [f for f in card.findings if f in part.findings]
        conditions = Conditions.of(
            names, part.y(names), sex=part.frame["sex"].tolist(), age=part.frame["age"].to_numpy(float),
            view=part.frame["view"].tolist(),
        )  # fmt: skip
        for i in range(0, len(rows), BATCH):
            some = slice(i, i + BATCH)
            losses = [
                core.denoising_loss(pixels[some], conditions.take(np.arange(len(rows))[some]), LEVELS,
                                    derive_seed(seed, "denoising", draw))
                for draw in range(DRAWS)
            ]  # fmt: skip
            found[rows[some]] = np.mean(losses, axis=0).mean(axis=1)
    return found
