"""The shared space: encoders of frontal views, lateral views and reports, aligned contrastively.

Each encoder maps to a unit vector; the symmetric InfoNCE loss of every pair of modalities that a study has pulls its
own together and others apart (Radford et al. 2021, figure 3; over more than two modalities, Girdhar et al. 2023).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cxraug.cores.multiprompt.network import FRONTAL, LATERAL_SLOT, REPORT
from cxraug.cores.multiprompt.spectrum import as_float
from cxraug.cores.multiprompt.studyset import StudySet
from cxraug.cores.steps import train_small

SIDE = 64  # what the image encoders see
BATCH, RATE = 64, 1e-3


class ImageEncoder(nn.Module):
    """Strided convolutions and a mean over the picture: (B, C, S, S) -> (B, width)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        sizes = (32, 64, 128, 192)
        layers: list[nn.Module] = []
        for before, after in zip((channels, *sizes), sizes, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(192, 192, 3, padding=1), nn.SiLU())
        self.head = nn.Linear(2 * 192, width)

    def forward(self, maps: Tensor) -> Tensor:
        """Unit vectors."""
        if maps.shape[-1] > SIDE:
            maps = functional.avg_pool2d(maps, maps.shape[-1] // SIDE)
        features = self.body(maps)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return functional.normalize(self.head(pooled), dim=1)


class Alignment(nn.Module):
    """Encoders by slot. ``report`` is the shape of the report latent, (0, 0) without reports."""

    def __init__(self, channels: int, width: int, slots: tuple[int, ...], report: tuple[int, int]) -> None:
        super().__init__()
        self.images = nn.ModuleDict({str(s): ImageEncoder(channels, width) for s in slots})
        tokens, wide = report
        self.text = nn.Sequential(
            nn.LayerNorm(tokens * wide), nn.Linear(tokens * wide, 384), nn.SiLU(), nn.Dropout(0.1),
            nn.Linear(384, width),
        ) if tokens else None  # fmt: skip
        self.width = width
        self.temperature = nn.Parameter(torch.tensor(math.log(10.0)))

    def embed(self, slot: int, content: Tensor) -> Tensor:
        """(B, width) unit vectors of maps (B, C, S, S) of a view slot, or of report latents (B, tokens, d)."""
        if slot == REPORT:
            if self.text is None:
                raise ValueError("this core has no reports")
            return functional.normalize(self.text(content.flatten(1)), dim=1)
        return self.images[str(slot)](content)

    def loss(self, vectors: dict[int, Tensor]) -> Tensor:
        """Mean symmetric InfoNCE over all pairs of modalities; ``vectors`` slot -> (B, width), rows being studies."""
        scale = self.temperature.clamp(max=math.log(100.0)).exp()
        names = sorted(vectors)
        own = torch.arange(len(vectors[names[0]]))
        losses = []
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                scores = scale * vectors[a] @ vectors[b].T
                losses.append(functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own))
        return torch.stack(losses).mean() / 2


def modalities(studies: StudySet) -> tuple[int, ...]:
    """The slots that at least two studies have."""
    slots = [s for s in (FRONTAL, LATERAL_SLOT) if (studies.views[:, s] >= 0).sum() > 1]
    return (*slots, *([REPORT] if studies.latents is not None else []))


def train_alignment(
    studies: StudySet, folder: Path, *, width: int, steps: int, key: str, seed: int = 0
) -> Alignment | None:
    """Train the encoders on studies that have at least two modalities, resumable; None where no study has two.

    ``key`` names the training: a checkpoint of another one is refused.
    """
    slots = modalities(studies)
    have = {s: studies.views[:, s] >= 0 for s in slots if s != REPORT}
    if REPORT in slots:
        have[REPORT] = np.array([bool(r) for r in studies.reports])
    sets = [(a, b) for i, a in enumerate(slots) for b in slots[i + 1 :] if (have[a] & have[b]).sum() >= 2]
    if not sets or not width:
        return None
    used = tuple(sorted({s for pair in sets for s in pair}))
    full = np.flatnonzero(np.logical_and.reduce([have[s] for s in used]))
    groups = [(used, full)] if len(full) >= 2 else [(p, np.flatnonzero(have[p[0]] & have[p[1]])) for p in sets]
    shape = (studies.latents.shape[1], studies.latents.shape[2]) if studies.latents is not None else (0, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Alignment(studies.maps.shape[1], width, tuple(s for s in used if s != REPORT), shape)

        def loss(step: int) -> Tensor:
            names, rows = groups[step % len(groups)]
            chosen = rows[torch.randperm(len(rows))[:BATCH].numpy()]
            return model.loss({s: model.embed(s, content(studies, s, chosen, augment=True)) for s in names})

        path = Path(folder) / "alignment.pt"
        train_small(model, loss, path, steps=steps, rate=RATE, key=key, seed=seed, what="alignment")
    return model.eval()


@torch.no_grad()
def embed_studies(model: Alignment, studies: StudySet) -> Tensor:
    """(studies, 3, width) embeddings; NaN where a study lacks the modality."""
    found = torch.full((len(studies), 3, model.width), float("nan"))
    for s in (FRONTAL, LATERAL_SLOT):
        rows = studies.with_slots([s])
        if str(s) in model.images:
            for start in range(0, len(rows), 256):
                part = rows[start : start + 256]
                found[part, s] = model.embed(s, content(studies, s, part))
    if model.text is not None and studies.latents is not None:
        rows = np.flatnonzero([bool(r) for r in studies.reports])
        found[rows, REPORT] = model.embed(REPORT, studies.latents[torch.from_numpy(rows)])
    return found


def content(studies: StudySet, slot: int, rows: np.ndarray, *, augment: bool = False) -> Tensor:
    """Maps (B, C, S, S) of a view slot, or report latents (B, tokens, d), of the studies ``rows``."""
    if slot == REPORT:
        assert studies.latents is not None
        latents = studies.latents[torch.from_numpy(rows)]
        return latents + 0.2 * torch.randn(latents.shape) if augment else latents
    maps = as_float(studies.maps[studies.views[rows, slot]])
    if augment:  # a few pixels of shift and some contrast, so that small sets are not learned by heart
        shift = torch.randint(-4, 5, (2,)).tolist()
        maps = torch.roll(maps, shift, (2, 3)) * (0.8 + 0.4 * torch.rand(len(maps), 1, 1, 1))
    return maps
