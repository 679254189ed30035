"""A linear-Gaussian model of images in their cosine spectrum: the Wiener filter behind the denoiser.

With C the orthonormal DCT-II of every channel, the coefficients of the lowest ``band`` x ``band`` frequencies follow a
:class:`~cxraug.cores.linear_gaussian.LinearGaussian` (mean linear in the conditions, principal components, white rest).
All higher ones are independent with a variance of their own: natural images are close to that, because their power
falls with frequency and phases carry no linear structure. Since C is orthonormal, white noise stays white and the
posterior of the whole is the posterior of the parts. Against principal components of pixels it costs a hundredth of
the room and knows how much to trust each frequency.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from cxraug.cores.linear_gaussian import SMALLEST_VARIANCE, LinearGaussian, fit_part

CHUNK = 512  # images transformed at once while fitting


def cosine_matrix(size: int) -> Tensor:
    """(size, size) orthonormal DCT-II: row k holds frequency k (Ahmed, Natarajan & Rao 1974)."""
    k, i = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)[None]
    matrix = torch.cos(math.pi * (i + 0.5) * k / size) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


class SpectralGaussian(nn.Module):
    """The model of maps with ``channels`` x ``side`` x ``side`` entries, for conditions of ``entries`` numbers.

    Buffers beside those of ``low``: ``rest`` (channels, side, side), variances of the coefficients outside the band
    (zero inside), and ``rest_mean``, their means.
    """

    rest: Tensor
    rest_mean: Tensor
    cosines: Tensor

    def __init__(self, channels: int, side: int, band: int, entries: int, components: int) -> None:
        super().__init__()
        if band > side:
            raise ValueError(f"band {band} exceeds the side {side}")
        self.channels, self.side, self.band = channels, side, band
        self.low = LinearGaussian(channels * band * band, entries, components)
        self.register_buffer("rest", torch.zeros(channels, side, side))
        self.register_buffer("rest_mean", torch.zeros(channels, side, side))
        self.register_buffer("cosines", cosine_matrix(side), persistent=False)

    def wiener(self, noisy: Tensor, t: Tensor, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of x given (1 - t) x + t noise: mean (B, C, S, S) and variance averaged over entries (B, 1).

        ``noisy`` (B, C, S, S), ``t`` (B, 1) in (0, 1); ``values`` and ``known`` (B, entries) as a vocabulary encodes.
        """
        spectrum = self._forward(noisy)
        b = self.band
        low = spectrum[..., :b, :b].flatten(1)
        inside, variance = self.low.wiener(low, t, self.low.class_mean(values, known))
        wide = t[:, :, None, None]
        total = (1 - wide) ** 2 * self.rest + wide**2
        estimate = self.rest_mean + (1 - wide) * self.rest / total * (spectrum - (1 - wide) * self.rest_mean)
        estimate[..., :b, :b] = inside.view(-1, self.channels, b, b)
        outside = (self.rest * wide**2 / total).sum((1, 2, 3))[:, None]
        inner = self.channels * b * b
        return self._backward(estimate), (variance * inner + outside) / (self.channels * self.side**2)

    def sample(self, values: Tensor, known: Tensor, scores: Tensor, white: Tensor) -> Tensor:
        """(B, C, S, S) draws from standard normal ``scores`` (B, K) and ``white`` (B, C, S, S)."""
        spectrum = self.rest_mean + white * self.rest.sqrt()
        b = self.band
        low = self.low.sample(values, known, scores, white[..., :b, :b].flatten(1))
        spectrum[..., :b, :b] = low.view(-1, self.channels, b, b)
        return self._backward(spectrum)

    @property
    def scale(self) -> float:
        """Standard deviation of an entry around its class mean, averaged over entries."""
        inner = self.low.pixel_variance * self.channels * self.band**2
        return float((inner + self.rest.sum()) / (self.channels * self.side**2)) ** 0.5

    def _forward(self, maps: Tensor) -> Tensor:
        return self.cosines @ maps @ self.cosines.T

    def _backward(self, spectrum: Tensor) -> Tensor:
        return self.cosines.T @ spectrum @ self.cosines


@torch.no_grad()
def fit_spectral(
    maps: np.ndarray | Tensor, values: Tensor, known: Tensor, *, band: int, components: int, seed: int = 0
) -> SpectralGaussian:
    """Fit the model to ``maps`` (n, C, S, S): uint8 pixels (read as [-1, 1]) or floats, with encoded conditions."""
    n, channels, side, _ = maps.shape
    band = min(band, side)
    inner = channels * band * band
    model = SpectralGaussian(channels, side, band, values.shape[1], max(1, min(components, n - 1, inner - 1)))
    low = torch.empty(n, inner)
    total, squares = torch.zeros(channels, side, side), torch.zeros(channels, side, side)
    for start in range(0, n, CHUNK):
        spectrum = model._forward(as_float(maps[start : start + CHUNK]))
        low[start : start + CHUNK] = spectrum[..., :band, :band].flatten(1)
        total += spectrum.sum(0)
        squares += spectrum.square().sum(0)
    model.low = fit_part(low, values, known, components, seed)
    model.rest_mean = (total / n).half().float()
    model.rest = ((squares / n) - (total / n) ** 2).clamp(min=SMALLEST_VARIANCE)
    for table in (model.rest, model.rest_mean):
        table[:, :band, :band] = 0
    model.rest = model.rest.half().float().clamp(min=SMALLEST_VARIANCE)
    model.rest[:, :band, :band] = 0
    return model


def as_float(maps: np.ndarray | Tensor) -> Tensor:
    """uint8 pixels as float32 in [-1, 1]; floats as they are."""
    tensor = torch.from_numpy(np.ascontiguousarray(maps)) if isinstance(maps, np.ndarray) else maps
    return tensor.float() / 127.5 - 1 if tensor.dtype == torch.uint8 else tensor.float()
