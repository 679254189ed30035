"""Grey levels: how bright images are and how much contrast they have."""

from __future__ import annotations

import numpy as np

LEVELS = 256


def histograms(pixels: np.ndarray) -> np.ndarray:
    """Share of the pixels of each image (n, S, S), uint8, at every grey level: (n, 256), rows sum to 1."""
    counts = np.stack([np.bincount(image.ravel(), minlength=LEVELS) for image in pixels])
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def grey_scores(reference: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Distances between two sets of histograms, all in grey levels (0 to 255).

    ``wasserstein`` is the 1-Wasserstein distance of the pooled grey levels, the sum of the absolute differences of
    their distribution functions (Vallender 1974, Theory Probab. Appl. 18, 784): a shift of all pixels by d gives d.
    ``grey_mean`` and ``grey_sd`` are the differences, ``other`` minus ``reference``, of the images' mean grey level and
    of their standard deviation within an image, averaged over images: 0 is equal.
    """
    pooled = [np.cumsum(side.mean(axis=0)) for side in (reference, other)]
    moments = [_moments(side) for side in (reference, other)]
    return {
        "wasserstein": float(np.abs(pooled[1] - pooled[0]).sum()),
        "grey_mean": moments[1][0] - moments[0][0],
        "grey_sd": moments[1][1] - moments[0][1],
    }


def _moments(shares: np.ndarray) -> tuple[float, float]:
    """The images' mean and standard deviation, averaged over images."""
    level = np.arange(LEVELS)
    mean = shares @ level
    return float(mean.mean()), float(np.sqrt(np.maximum(shares @ level**2 - mean**2, 0)).mean())
