"""Are two X-rays of one patient? A siamese network (Packhaeuser et al. 2022), and a plain comparison of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cxraug.cores.measures.fitting import Fit, fit
from cxraug.errors import InputError
from cxraug.seeds import derive_seed

WIDTH = 128  # entries of an embedding
CLASSES, SINGLES = 32, 16  # patients of a step with two images each, and patients with one, who are impostors only
TEMPERATURE = 0.1
LEAST_PATIENTS = 20  # with several images, to learn from
PIXEL_SIDE = 32  # at which pixels are compared
FINE = 3  # reach in pixels of the blur that is taken off before they are
SHIFTS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))  # in pixels of PIXEL_SIDE


@dataclass(frozen=True)
class Lessons:
    """Images to learn from.

    ``pixels`` uint8 (n, S, S). ``identity`` (n,) int, equal where two images are of one patient in one projection.
    ``group`` (n,) int, which the patients of a step share: sex and source would be easy to tell apart, and matched
    impostors share them.
    """

    pixels: np.ndarray
    identity: np.ndarray
    group: np.ndarray


class Embedder(nn.Module):
    """Images (n, 1, S, S) in [0, 1] to unit vectors (n, 128); their dot product says how alike two patients are.

    Each image is standardised first, and seen a second time less its blur, so that exposure tells nothing. Strided
    convolutions with batch normalisation keep the place of things: the last grid is flattened, not averaged.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip((2, *channels), channels, strict=False):
            layers += [nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
            if a > 2:  # at full width most of the time would go into the first stage
                layers += [nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2))
        self.head = nn.Linear(channels[-1] * 16, WIDTH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors of a batch."""
        flat = images.flatten(1)
        x = (images - flat.mean(1)[:, None, None, None]) / (flat.std(1)[:, None, None, None] + 1e-3)
        blurred = functional.avg_pool2d(x, 9, 1, 4, count_include_pad=False)
        return functional.normalize(self.head(self.layers(torch.cat([x, 2 * (x - blurred)], 1))), dim=1)


def teachable(lessons: Lessons) -> int:
    """How many identities have at least two images."""
    return int((np.bincount(lessons.identity) >= 2).sum()) if len(lessons.identity) else 0


def train_embedder(lessons: Lessons, *, steps: int, seed: int, device: str = "cpu") -> Embedder:
    """Train for ``steps`` by the supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, equation 2).

    A step shows two images of each of 32 patients and one of each of 16 others, all of one group; each is shifted,
    scaled, turned a little and changed in contrast, never mirrored.

    Raises
    ------
    InputError : fewer than 20 patients with several images; nothing is learnt from those.
    """
    if teachable(lessons) < LEAST_PATIENTS:
        raise InputError(
            "too few patients with several images to train a patient-verification network",
            found=teachable(lessons), expected=f"at least {LEAST_PATIENTS} in each training fold",
        )  # fmt: skip
    deck = _Deck(lessons)

    def loss(model: nn.Module, step: int, rng: np.random.Generator) -> torch.Tensor:
        rows = deck.draw(rng)
        images = torch.from_numpy(np.array(lessons.pixels[rows])).to(device)[:, None].float() / 255
        who = torch.from_numpy(lessons.identity[rows]).to(device)
        return contrastive_loss(model(augment(images, rng)), who)

    torch.manual_seed(derive_seed(seed, "verification"))
    model = Embedder().to(device)
    how = Fit(steps=steps, lr=2e-3, weight_decay=0.05)
    fit(model, loss, how, seed=derive_seed(seed, "verification order"), what="training the patient verification")
    return model


def contrastive_loss(vectors: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """Supervised contrastive loss of unit vectors (n, d): each image has to find the others of its patient."""
    n = len(vectors)
    own = torch.eye(n, dtype=torch.bool, device=vectors.device)
    products = (vectors @ vectors.T / TEMPERATURE).masked_fill(own, -1e9)
    same = (identity[:, None] == identity[None]) & ~own
    chance = products - torch.logsumexp(products, 1, keepdim=True)
    anchors = same.any(1)
    return -((chance * same).sum(1)[anchors] / same.sum(1)[anchors]).mean()


def augment(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Images (n, 1, S, S) in [0, 1], each shifted (6 %), scaled (8 %), turned (5 degrees) and changed in contrast.

    What stays is the patient's; a mirrored chest would be another patient, so nothing is mirrored.
    """
    n = len(images)
    draw = rng.uniform(-1, 1, (6, n)).astype(np.float32)
    angle, scale = np.deg2rad(5) * draw[0], np.exp(0.08 * draw[1])
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * np.cos(angle)
    theta[:, 0, 1], theta[:, 1, 0] = -scale * np.sin(angle), scale * np.sin(angle)
    theta[:, :, 2] = 0.12 * draw[2:4].T  # of half a side
    grid = functional.affine_grid(torch.from_numpy(theta).to(images.device), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gamma = torch.from_numpy(np.exp(0.25 * draw[4])).to(images.device)[:, None, None, None]
    noise = torch.from_numpy(rng.normal(0, 0.02, moved.shape).astype(np.float32)).to(images.device)
    return moved.clamp(0, 1) ** gamma + noise * torch.from_numpy(np.abs(draw[5])).to(images.device)[:, None, None, None]


def embed(model: nn.Module, pixels: np.ndarray, *, batch: int = 256, device: str = "cpu") -> np.ndarray:
    """Embeddings float32 (n, 128) of uint8 pixels (n, S, S)."""
    model, parts = model.eval().to(device), [np.zeros((0, WIDTH), np.float32)]
    with torch.inference_mode():
        for i in range(0, len(pixels), batch):
            x = torch.from_numpy(np.array(pixels[i : i + batch])).to(device)[:, None].float() / 255
            parts.append(model(x).cpu().numpy())
    return np.concatenate(parts)


def pixel_vectors(pixels: np.ndarray, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Images uint8 (n, S, S) as unit vectors (n, 784) of the middle 28 x 28 of 32 x 32 pixels, less their blur.

    ``shift`` (down, right) takes the middle from elsewhere, by at most 2 pixels. The dot product of two is the
    correlation of fine structure; over all of :data:`SHIFTS` the largest is taken.
    """
    parts = [np.zeros((0, (PIXEL_SIDE - 4) ** 2), np.float32)]
    for i in range(0, len(pixels), 1024):
        x = torch.from_numpy(np.array(pixels[i : i + 1024]))[:, None].float()
        x = functional.interpolate(x, (PIXEL_SIDE, PIXEL_SIDE), mode="area")
        x = x - functional.avg_pool2d(x, 2 * FINE + 1, 1, FINE, count_include_pad=False)
        y, z = 2 + shift[0], 2 + shift[1]
        flat = x[:, 0, y : y + PIXEL_SIDE - 4, z : z + PIXEL_SIDE - 4].flatten(1)
        parts.append(functional.normalize(flat - flat.mean(1, keepdim=True), dim=1).numpy())
    return np.concatenate(parts)


class _Deck:
    """Draws the rows of a step: pairs of images of patients of one group, and single images of others."""

    def __init__(self, lessons: Lessons) -> None:
        order = np.argsort(lessons.identity, kind="stable")
        _, starts = np.unique(lessons.identity[order], return_index=True)
        self.rows = np.split(order, starts[1:])
        several = np.array([len(rows) >= 2 for rows in self.rows])
        group = np.array([lessons.group[rows[0]] for rows in self.rows])
        self.pairs, self.singles, sizes = [], [], []
        for value in np.unique(group[several]):
            mine = group == value
            self.pairs.append(np.flatnonzero(mine & several))
            self.singles.append(np.flatnonzero(mine & ~several))
            sizes.append(len(self.pairs[-1]))
        few = [i for i, size in enumerate(sizes) if size < 4]  # too few impostors among themselves: one group of all
        if few:
            for part in (self.pairs, self.singles):
                joined = np.concatenate([part[i] for i in few])
                part[:] = [rows for i, rows in enumerate(part) if i not in few] + [joined]
        self.chance = np.array([len(p) for p in self.pairs], float) / sum(len(p) for p in self.pairs)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        group = rng.choice(len(self.pairs), p=self.chance)
        known, single = self.pairs[group], self.singles[group]
        chosen = rng.permutation(known)[:CLASSES]
        parts = [rng.choice(self.rows[i], 2, replace=False) for i in chosen]
        others = rng.permutation(single)[:SINGLES]
        return np.concatenate([*parts, *(rng.choice(self.rows[i], 1) for i in others)])
