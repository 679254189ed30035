"""What makes one X-ray unlike another: edges of ribs, vessels and skin, as maps and as short vectors to search by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch.nn import functional

from cxraug.privacy.nearest import unit

SIDE = 64  # pixels at which images are compared
COARSE, NOISE = 3.0, 0.7  # of 64 pixels: wider structure is common to all chests, finer is noise and compression
ORIENTATIONS, CELLS, POOL = 8, 8, 1.25  # POOL in pixels of 32
VECTOR = 256
FITTED_ON = 5000  # images at most that whiten the vectors
CHUNK = 256


@dataclass(frozen=True)
class Look:
    """One way to look at an image: mirrored, then scaled (over 1 shows more of it), then shifted in pixels of 64."""

    mirrored: bool = False
    scale: float = 1.0
    y: int = 0
    x: int = 0


LOOKS = tuple(
    Look(mirrored, scale, y, x)
    for mirrored in (False, True)
    for scale in (1.0, 0.9, 1.1)
    for y in (0, -4, 4)
    for x in (0, -4, 4)
)


def small(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (n, S, S) averaged to float (n, 1, 64, 64)."""
    image = torch.from_numpy(np.array(pixels, np.float32))[:, None]
    if image.shape[-1] == SIDE:
        return image
    return functional.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def fine(pixels: np.ndarray) -> torch.Tensor:
    """Structure between noise and chest: a difference of Gaussians, (n, 1, 64, 64) from uint8 (n, S, S)."""
    image = small(pixels)
    return blur(image, NOISE) - blur(image, COARSE)


def orientations(pixels: np.ndarray) -> torch.Tensor:
    """How much edge there is in each of eight directions around each place, (n, 8, 32, 32) from uint8 (n, S, S).

    Histograms of oriented gradients (Dalal & Triggs 2005, CVPR) before their cells: gradient energy in
    cosine-squared windows around each signed direction, divided by the mean gradient nearby, so that brightness and
    contrast drop out.
    """
    image = functional.pad(blur(small(pixels), NOISE), (1, 1, 1, 1), mode="replicate")
    y, x = image[:, :, 2:, 1:-1] - image[:, :, :-2, 1:-1], image[:, :, 1:-1, 2:] - image[:, :, 1:-1, :-2]
    length = (x * x + y * y).sqrt()
    turns = [2 * math.pi * k / ORIENTATIONS for k in range(ORIENTATIONS)]
    along = torch.cat([(x * math.cos(turn) + y * math.sin(turn)).clamp_min(0) for turn in turns], dim=1)
    energy = functional.avg_pool2d(along.square() / length.clamp_min(1e-3), 2)
    nearby = blur(functional.avg_pool2d(length, 2), COARSE) + 0.1
    return blur(energy / nearby, POOL)


def cells(maps: torch.Tensor, look: Look = Look()) -> np.ndarray:
    """(n, 512): :func:`orientations` at 8 x 8 places, of the image as seen by ``look``."""
    turn = look.scale * torch.tensor([[-1.0 if look.mirrored else 1.0, 0.0], [0.0, 1.0]])
    shift = torch.tensor([[look.x], [look.y]]) * 2 / SIDE
    grid = functional.affine_grid(torch.cat([turn, shift], 1)[None], [1, 1, CELLS, CELLS], align_corners=False)
    seen = maps[:, [(ORIENTATIONS // 2 - k) % ORIENTATIONS for k in range(ORIENTATIONS)]] if look.mirrored else maps
    flat = seen.reshape(1, -1, *maps.shape[2:])
    found = functional.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found[0].reshape(len(maps), -1).numpy()


@dataclass(frozen=True)
class Whitening:
    """Vectors of unit length in which what training images share or vary in alike counts little.

    ``mean`` (512,), ``turn`` (512, d). Decorrelated histograms of gradients (Hariharan, Malik & Ramanan 2012, ECCV),
    with the covariance of Ledoit & Wolf (2004), cut to its 256 largest directions. It pushes the images apart that it
    was fitted on, if they are few, and others less.
    """

    mean: np.ndarray
    turn: np.ndarray

    @classmethod
    def fit(cls, found: np.ndarray, seed: int = 0) -> Whitening:
        """Of :func:`cells` (n, 512) of training images, or of a sample of 5,000."""
        found = found[np.sort(np.random.default_rng(seed).permutation(len(found))[:FITTED_ON])]
        mean = found.mean(axis=0)
        spread, axes = np.linalg.eigh(ledoit_wolf(found - mean, assume_centered=True)[0])
        kept = slice(-VECTOR, None)
        return cls(mean, (axes[:, kept] / np.sqrt(np.maximum(spread[kept], 1e-9))).astype(np.float32))

    def __call__(self, found: np.ndarray) -> np.ndarray:
        """Vectors float32 (n, d) of :func:`cells`."""
        return unit((found - self.mean) @ self.turn)


def cells_of(pixels: np.ndarray) -> np.ndarray:
    """:func:`cells` (n, 512) of images uint8 (n, S, S), which may be a memory map."""
    return np.concatenate([cells(orientations(pixels[part])) for part in chunks(np.arange(len(pixels)))])


def chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of ``rows``, few enough for their maps to fit into memory."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def blur(image: torch.Tensor, width: float) -> torch.Tensor:
    """Gaussian blur of standard deviation ``width`` pixels, (..., S, S); the border is repeated."""
    lines = _blurring(image.shape[-1], width)
    return lines @ image @ lines.T


@lru_cache
def _blurring(side: int, width: float) -> torch.Tensor:
    """(S, S) matrix that blurs a line: for small images quicker than a convolution."""
    reach = math.ceil(3 * width)
    steps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (steps / width) ** 2)
    at = (torch.arange(side)[:, None] + steps).clamp(0, side - 1)
    return torch.zeros(side, side).scatter_add_(1, at, (weights / weights.sum()).expand(side, -1))
