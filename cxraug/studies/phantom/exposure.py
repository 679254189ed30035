"""From line integrals to grey values: Beer-Lambert, scatter, quantum noise and the film curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class Exposure:
    """How a picture is taken and shown.

    ``photons`` per cm^2 at the detector in the open beam, ``scatter`` fraction of the detected signal behind the
    body, ``low, high`` the attenuations shown as black and white, ``slope`` of the film curve (1 straight, larger
    more contrast in the middle), ``sharpen`` the strength of the edge enhancement, ``blur`` of the detector (cm).
    """

    photons: float
    scatter: float
    low: float
    high: float
    slope: float
    sharpen: float
    blur: float


SCATTER_CM = 4.0  # width of the scatter kernel


def expose(attenuation: np.ndarray, pitch: float, exposure: Exposure, rng: np.random.Generator) -> np.ndarray:
    """uint8 picture (H, W) of the line integrals ``attenuation`` (H, W), white where much is absorbed.

    Primary I = exp(-P). Scatter arises in the body, so it is the blurred signal of rays that met some, and reaches
    the thick parts from the thin ones. Noise has the variance of a Poisson count, photons x pitch^2 x signal.
    """
    attenuation = gaussian_filter(attenuation, exposure.blur / pitch, truncate=3) if exposure.blur else attenuation
    primary = np.exp(-attenuation)
    scattered = _blur(primary * (1 - np.exp(-0.5 * attenuation)), SCATTER_CM / pitch)
    signal = (1 - exposure.scatter) * primary + exposure.scatter * scattered
    count = exposure.photons * pitch**2
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    signal = np.maximum(signal + noise * np.sqrt(signal / count), 0.02 * signal + 1e-7)
    film = -np.log(signal)
    if exposure.sharpen:
        film = film + exposure.sharpen * (film - gaussian_filter(film, 0.6 / pitch, truncate=2.5))
    level = np.clip((film - exposure.low) / (exposure.high - exposure.low), -0.3, 1.3)
    # a logistic curve through (0, 0.03) .. (1, 0.97), straightened for small slopes
    curve = 1 / (1 + np.exp(-exposure.slope * 4 * (level - 0.5)))
    ends = 1 / (1 + np.exp(exposure.slope * 2))
    grey = (curve - ends) / (1 - 2 * ends) * 0.90 + 0.05
    return np.clip(np.rint(grey * 255), 0, 255).astype(np.uint8)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """A wide Gaussian blur, computed on a coarse grid."""
    step = max(1, int(sigma / 2.5))
    side = -(-image.shape[0] // step) * step
    padded = np.pad(image, ((0, side - image.shape[0]), (0, side - image.shape[1])), mode="edge")
    coarse = padded.reshape(side // step, step, side // step, step).mean(axis=(1, 3))
    coarse = gaussian_filter(coarse, sigma / step, truncate=2.5, mode="nearest")
    at = np.clip((np.arange(image.shape[0]) + 0.5) / step - 0.5, 0, side // step - 1)
    low = np.minimum(at.astype(int), max(side // step - 2, 0))
    high, part = np.minimum(low + 1, side // step - 1), (at - low).astype(np.float32)
    rows = coarse[low] * (1 - part)[:, None] + coarse[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part
