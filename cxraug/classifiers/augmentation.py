"""Classical augmentation of grey images as batched tensor operations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from cxraug.errors import InputError


@dataclass(frozen=True)
class Strength:
    """Half-widths of the uniform ranges that an augmentation draws from, per image.

    ``shift`` is a share of the side, ``rotate`` and ``shear`` are in degrees, ``scale``, ``contrast`` and ``gamma`` are
    natural logarithms of a factor, ``brightness`` and ``noise`` (largest standard deviation) are on the scale [0, 1],
    ``cutout`` is the largest side of a blanked square as a share of the image's side.
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0


# No horizontal flip: the side on which the heart lies is anatomy.
STRENGTHS = {
    "none": Strength(),
    "base": Strength(shift=0.05, rotate=7, scale=0.08, brightness=0.08, contrast=0.15),
    "strong": Strength(
        shift=0.1, rotate=15, scale=0.18, shear=5, brightness=0.12, contrast=0.3, gamma=0.35, noise=0.04, cutout=0.3
    ),
}  # fmt: skip


def augment(images: torch.Tensor, name: str, seed: int) -> torch.Tensor:
    """Augment ``images`` (n, 1, S, S), float in [0, 1], each by its own draw.

    All numbers are drawn on the CPU from ``seed``, so that they do not depend on the device.

    Raises
    ------
    InputError : an unknown ``name``.
    """
    if name not in STRENGTHS:
        raise InputError("no such augmentation", found=name, expected=", ".join(STRENGTHS))
    strength = STRENGTHS[name]
    if name == "none":
        return images
    draw = torch.Generator().manual_seed(seed)
    images = _move(images, strength, draw)
    images = _retouch(images, strength, draw)
    if strength.noise:
        deviation = strength.noise * torch.rand(len(images), 1, 1, 1, generator=draw)
        images = images + (deviation * torch.randn(images.shape, generator=draw)).to(images.device)
    if strength.cutout:
        images = _cut_out(images, strength.cutout, draw)
    return images.clamp(0, 1)


def _uniform(n: int, half_width: float, draw: torch.Generator) -> torch.Tensor:
    return half_width * (2 * torch.rand(n, generator=draw) - 1)


def _move(images: torch.Tensor, strength: Strength, draw: torch.Generator) -> torch.Tensor:
    """Shift, rotate, scale and shear; what comes in from outside repeats the border."""
    n = len(images)
    angle = _uniform(n, math.radians(strength.rotate), draw)
    shear = torch.tan(_uniform(n, math.radians(strength.shear), draw))
    scale = torch.exp(_uniform(n, strength.scale, draw))
    # The normalised grid runs from -1 to 1: a share of the side is twice as much there.
    x, y = _uniform(n, 2 * strength.shift, draw), _uniform(n, 2 * strength.shift, draw)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([cos, cos * shear - sin, x, sin, sin * shear + cos, y], 1).view(n, 2, 3)
    grid = functional.affine_grid(rows.to(images), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _retouch(images: torch.Tensor, strength: Strength, draw: torch.Generator) -> torch.Tensor:
    """Gamma, contrast about the image's mean, brightness."""
    n, shape = len(images), (len(images), 1, 1, 1)
    gamma = torch.exp(_uniform(n, strength.gamma, draw)).view(shape).to(images)
    contrast = torch.exp(_uniform(n, strength.contrast, draw)).view(shape).to(images)
    brightness = _uniform(n, strength.brightness, draw).view(shape).to(images)
    if strength.gamma:
        images = images.clamp(0, 1) ** gamma
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * contrast + mean + brightness


def _cut_out(images: torch.Tensor, largest: float, draw: torch.Generator) -> torch.Tensor:
    """Blank one square per image with the image's mean (DeVries and Taylor 2017, arXiv 1708.04552)."""
    n, _, height, width = images.shape
    half = largest / 2 * torch.rand(n, 1, 1, 1, generator=draw)
    x, y = torch.rand(n, 1, 1, 1, generator=draw), torch.rand(n, 1, 1, 1, generator=draw)
    columns = (torch.arange(width).view(1, 1, 1, -1) + 0.5) / width
    rows = (torch.arange(height).view(1, 1, -1, 1) + 0.5) / height
    inside = ((columns - x).abs() < half) & ((rows - y).abs() < half)
    return torch.where(inside.to(images.device), images.mean((1, 2, 3), keepdim=True), images)
