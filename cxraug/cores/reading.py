"""What the small networks that read images have in common."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def strided(a: int, b: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution from ``a`` to ``b`` channels, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)
    )


def known_mean(loss: Callable[[Tensor, Tensor], Tensor], said: Tensor, told: Tensor) -> Tensor:
    """``loss`` of ``said`` for ``told`` over the entries that are known (finite in ``told``); 0 where none is."""
    known = torch.isfinite(told)
    return loss(said[known], told[known]) if bool(known.any()) else said.sum() * 0
