"""The Gaussian core: class means and pooled principal components in closed form. The baseline of every other core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxraug.cores.conditions import Conditions, Vocabulary
from cxraug.cores.core import Card
from cxraug.cores.linear_gaussian import ConditionBatch, GaussianModel, fit_gaussian_model
from cxraug.cores.pixel_core import LICENCE, PixelCore, load_weights, save_core, vocabulary_of
from cxraug.errors import InputError
from cxraug.studies.images import Encoding
from cxraug.studies.seen import Seen


class GaussianCore(PixelCore):
    """Draws from the linear-Gaussian model: blurred but recognisable images in milliseconds."""

    def __init__(self, card: Card, model: GaussianModel, *, device: str = "cpu") -> None:
        super().__init__(card, device=device)
        self.model = model.to(device)
        self.sampler = {"scheduler": "closed form", "components": model.components}

    @torch.no_grad()
    def _draw(self, batch: ConditionBatch, streams: list[torch.Generator]) -> Tensor:
        components, size = max(self.model.components.values()), self.card.resolution**2
        scores = torch.stack([torch.randn(components, generator=s) for s in streams]).to(self.device)
        white = torch.stack([torch.randn(size, generator=s) for s in streams]).to(self.device)
        return self.model.sample(batch, scores, white)


def fit_gaussian(
    pixels: np.ndarray,
    conditions: Conditions,
    folder: Path,
    *,
    components: int = 256,
    seen: Seen,
    training_data: dict[str, Any],
    name: str = "gaussian",
    seed: int = 0,
    licence: str = LICENCE,
    encoding: Encoding | None = None,
) -> GaussianCore:
    """Fit a Gaussian core in seconds and save it in ``folder``.

    Parameters
    ----------
    pixels : (n, S, S) uint8, the training images only.
    conditions : what is known about each of them.
    components : principal components kept per projection.
    seen, training_data, name, licence, encoding : go into the card.

    Raises
    ------
    InputError
        No or only one image, images that are not square, or as many rows as conditions.
    """
    check_training(pixels, conditions)
    vocabulary = Vocabulary.of(conditions)
    model = fit_gaussian_model(pixels, conditions, vocabulary, components=components, seed=seed)
    card = save_core(
        folder,
        dict(model.state_dict()),
        kind="gaussian",
        name=name,
        resolution=pixels.shape[1],
        vocabulary=vocabulary,
        conditions=conditions.known(),
        seen=seen,
        training_data=training_data,
        settings={"components": model.components},
        licence=licence,
        encoding=encoding,
    )
    return load_gaussian(Path(folder), card)


def load_gaussian(folder: Path, card: Card, *, device: str = "cpu") -> GaussianCore:
    """Open a saved Gaussian core."""
    model = GaussianModel.empty(card.resolution**2, len(vocabulary_of(card)), card.settings["components"])
    model.load_state_dict(load_weights(folder, card))
    return GaussianCore(card, model, device=device)


def check_training(pixels: np.ndarray, conditions: Conditions) -> None:
    """Refuse training data of the wrong shape."""
    if pixels.ndim != 3 or pixels.shape[1] != pixels.shape[2] or pixels.dtype != np.uint8:
        raise InputError("training images of the wrong shape", found=f"{pixels.shape} {pixels.dtype}",
                         expected="(n, size, size) uint8")  # fmt: skip
    if len(pixels) != len(conditions):
        raise InputError("images and conditions differ in number", found=len(pixels), expected=str(len(conditions)))
    if len(pixels) < 2:
        raise InputError("too few training images", found=len(pixels), expected="at least 2")
