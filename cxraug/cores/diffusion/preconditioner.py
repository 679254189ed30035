"""The Gaussian (Wiener) preconditioner: what a linear model already knows is not left to the network.

Noise: x_t = (1 - t) x + t e, t in (0, 1) (rectified flow, Liu et al. 2023). With the Gaussian model's exact posterior
mean w(x_t, t, c) and standard deviation s(t), the denoiser is

    D(x_t, t, c) = w + s(t) F(inputs, t, c)

so the network F starts from the best linear denoiser and learns a residual of unit size (the idea of Karras et al.
2022, section 5, with the scalar c_skip replaced by the Wiener filter).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cxraug.cores.linear_gaussian import ConditionBatch, GaussianModel


class Preconditioner(nn.Module):
    """Turns noisy images into network inputs and network outputs into denoised images of ``size`` x ``size``.

    Images are rearranged to ``grid`` x ``grid`` with ``channels`` = (size / grid)^2 channels (pixel unshuffle).
    """

    def __init__(self, model: GaussianModel, size: int, grid: int) -> None:
        super().__init__()
        if size % grid:
            raise ValueError(f"image size {size} is not a multiple of the grid {grid}")
        self.model, self.size, self.factor = model, size, size // grid
        self.scale = model.pixel_variance**0.5 + 0.25  # the order of magnitude of an image in [-1, 1], means included

    @property
    def channels(self) -> int:
        """Channels of one rearranged image."""
        return self.factor**2

    def inputs(self, noisy: Tensor, t: Tensor, batch: ConditionBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Network inputs (B, 2 channels, grid, grid), the Wiener estimate (B, D) and its deviation s (B, 1).

        The two inputs are the Wiener estimate, and what it leaves unexplained of ``noisy`` (B, D) in units of its
        standard deviation: together they determine ``noisy``, and both are of unit size at every t.
        """
        estimate, variance = self.model.wiener(noisy, t, batch)
        deviation = variance.sqrt()
        a = 1 - t
        left = (t**2 - a**2 * variance).clamp(min=1e-10)  # in a direction of variance s it is t^4 / (a^2 s + t^2)
        unexplained = (noisy - a * estimate) / left.sqrt()
        maps = torch.cat([self.to_grid(estimate / self.scale), self.to_grid(unexplained)], 1)
        return maps, estimate, deviation

    def to_grid(self, flat: Tensor) -> Tensor:
        """(B, D) -> (B, channels, grid, grid)."""
        return nn.functional.pixel_unshuffle(flat.reshape(-1, 1, self.size, self.size), self.factor)

    def to_flat(self, maps: Tensor) -> Tensor:
        """(B, channels, grid, grid) -> (B, D)."""
        return nn.functional.pixel_shuffle(maps, self.factor).flatten(1)
