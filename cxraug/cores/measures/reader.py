"""The reader: a small independent network that reads findings, sex, age, lesion places and organs off an image.

It is trained on real images alone and never on a core's. What it says about generated images counts only as far as it
is right on real ones, which stand beside them in every row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cxraug.cores.conditions import AGE_CENTRE, AGE_SCALE
from cxraug.cores.measures.fitting import Fit, fit
from cxraug.cores.reading import known_mean, strided
from cxraug.seeds import derive_seed
from cxraug.studies.images import MASK_BITS

CELL = 4  # pixels of one cell of the maps
PARTS = tuple(MASK_BITS)
BATCH = 48


@dataclass(frozen=True)
class Reading:
    """What the reader says of n images.

    ``findings`` (n, F) probabilities; ``female`` (n,) probability; ``age`` (n,) years; ``maps`` (n, C, G, G) in [0, 1]:
    one channel per finding that has boxes, then one per part of :data:`PARTS` (or none), G = side / 4.
    """

    findings: np.ndarray
    female: np.ndarray
    age: np.ndarray
    maps: np.ndarray

    def take(self, rows: np.ndarray) -> Reading:
        """Some of the images."""
        return Reading(self.findings[rows], self.female[rows], self.age[rows], self.maps[rows])


@dataclass(frozen=True)
class Lessons:
    """Real images to learn from: ``pixels`` uint8 (n, S, S); ``y`` (n, F), ``female`` (n,), ``age`` (n,) with NaN where
    unknown; ``maps`` uint8 (n, C, G, G), 255 inside, with ``mapped`` (n, C) where they are known."""

    pixels: np.ndarray
    y: np.ndarray
    female: np.ndarray
    age: np.ndarray
    maps: np.ndarray
    mapped: np.ndarray
    facts: dict[str, object] = field(default_factory=dict)


class Reader(nn.Module):
    """Convolutions down to side / 16, maps at side / 4, and a pooled head for findings, sex and age.

    The head also sees each map's warmest cell: a small lesion is found by its map long before pooled features show it.
    """

    def __init__(self, findings: int, maps: int) -> None:
        super().__init__()
        widths, self.findings = (16, 32, 64, 128), findings
        self.stem = strided(1, widths[0], 5, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(strided(a, b, 3, 2), strided(b, b, 3, 1)) for a, b in pairwise(widths)
        )
        self.head = nn.Linear(2 * widths[-1] + maps, findings + 2)
        self.across = nn.ModuleList(nn.Conv2d(w, 32, 1) for w in widths[1:])
        self.maps = nn.Sequential(strided(32, 32, 3, 1), nn.Conv2d(32, maps, 1)) if maps else None

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of findings and sex and scaled age (n, F + 2), logits of the maps (n, C, G, G)."""
        x, levels = self.stem((images - 0.5) / 0.25), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        maps = x.new_zeros(len(x), 0, *levels[0].shape[-2:])
        if self.maps is not None:
            up = self.across[-1](levels[-1])
            for level, across in zip(levels[-2::-1], list(self.across)[-2::-1], strict=True):
                up = torch.relu(across(level) + functional.interpolate(up, level.shape[-2:], mode="nearest"))
            maps = self.maps(up)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3)), maps.amax((2, 3))], 1)), maps


def train_reader(lessons: Lessons, *, steps: int, seed: int, device: str = "cpu") -> Reader:
    """Train a reader for a fixed number of ``steps`` (nothing is chosen, so no validation rows are spent).

    The losses (cross-entropy of findings, sex and maps; smooth absolute error of age / 25 years) are added, each the
    mean over what is known. Images are shifted by up to a cell together with their maps and changed in brightness and
    contrast; no flips, for the side is anatomy.
    """
    y = np.column_stack([lessons.y, lessons.female]).astype(np.float32)
    age = ((lessons.age - AGE_CENTRE) / AGE_SCALE).astype(np.float32)
    n = len(age)

    def loss(model: nn.Module, step: int, rng: np.random.Generator) -> torch.Tensor:
        rows = np.sort(rng.choice(n, min(BATCH, n), replace=False))
        images = torch.from_numpy(np.array(lessons.pixels[rows])).to(device)[:, None].float() / 255
        maps = torch.from_numpy(lessons.maps[rows]).to(device).float() / 255
        down, right = (int(v) for v in rng.integers(-1, 2, 2))
        images = torch.roll(images, (down * CELL, right * CELL), (2, 3))
        maps = torch.roll(maps, (down, right), (2, 3))
        change = torch.from_numpy(rng.uniform(-1, 1, (2, len(rows), 1, 1, 1)).astype(np.float32)).to(device)
        images = ((images - 0.5) * torch.exp(0.15 * change[0]) + 0.5 + 0.08 * change[1]).clamp(0, 1)
        said, drawn = model(images)
        told, years = (torch.from_numpy(part[rows]).to(device) for part in (y, age))
        known = torch.from_numpy(lessons.mapped[rows]).to(device)
        total = known_mean(functional.binary_cross_entropy_with_logits, said[:, :-1], told)
        total = total + 2 * known_mean(functional.smooth_l1_loss, said[:, -1], years)
        if drawn.shape[1] and bool(known.any()):
            each = functional.binary_cross_entropy_with_logits(drawn, maps, reduction="none").mean((2, 3))
            total = total + 2 * each[known].mean()
        return total

    torch.manual_seed(derive_seed(seed, "reader"))
    model = Reader(lessons.y.shape[1], lessons.maps.shape[1]).to(device)
    fit(model, loss, Fit(steps=steps, lr=2e-3), seed=derive_seed(seed, "reader order"), what="training the reader")
    return model


def read(model: Reader, pixels: np.ndarray, *, batch: int = 128, device: str = "cpu") -> Reading:
    """What ``model`` reads off images uint8 (n, S, S)."""
    parts = []
    model = model.eval().to(device)
    with torch.inference_mode():
        for start in range(0, len(pixels), batch):
            images = torch.from_numpy(np.array(pixels[start : start + batch])).to(device)[:, None].float() / 255
            said, maps = model(images)
            parts.append([x.float().cpu().numpy() for x in (torch.sigmoid(said[:, :-1]), said[:, -1], maps.sigmoid())])
    both, age, maps = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Reading(both[:, :-1], both[:, -1], age * AGE_SCALE + AGE_CENTRE, maps)
