"""The copy check: no synthetic image may be nearer to a training image than real patients are to each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cxraug.gate.check import Check, Evidence, Images, Test, conformal_high, highest_accepted
from cxraug.privacy.nearest import BLOCK, nearest, unit

SIDE = 32  # pixels: small enough for exhaustive search, large enough that two patients differ
NULL_ROWS = 2000  # real images whose nearest other patient calibrates the cut-off
SAME = 0.99  # real images of two patient ids nearer than this are one image filed twice (real pairs stay below 0.93)
COPY, TWIN = "duplicates: copy of a training image", "duplicates: copy of another synthetic image"


class Duplicates(Check):
    """Exact nearest neighbour by correlation of standardised small images.

    The null is the correlation of a real training image with its nearest training image of another patient. The same
    picture under two patient ids (equal native pixels, or a correlation of at least 0.99) is a fault of the data and
    left out of it. ``rate`` is the stated false-alarm rate; with n calibration images it cannot be finer than
    1 / (n + 1), which is used then.

    It sees copies that were re-compressed, blurred, noised, or changed in brightness or contrast. It does not see
    copies that were shifted by more than about 2 % of the width, rotated or mirrored.
    """

    name = "duplicates"

    def __init__(self, rate: float, seed: int = 0) -> None:
        self.rate, self.seed = rate, seed
        self.kept = np.zeros((0, SIDE * SIDE), np.float32)
        self.average: np.ndarray | None = None

    def fit(self, real: Images) -> Evidence:
        """Standardise the training images and measure the null on (a sample of) them."""
        train = standardise(real.pixels)
        self.average = train.mean(axis=0)
        self.train = unit(train - self.average)
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(real))[:NULL_ROWS])
        distinct = real.patients if real.sha is None else _join_equal(real.patients, real.sha)
        self.null, _ = nearest(self.train[rows], self.train, groups=(distinct[rows], distinct))
        self.same = int((self.null >= SAME).sum())
        self.null[self.null >= SAME] = np.nan
        rate = max(self.rate, 1 / (np.isfinite(self.null).sum() + 1))
        self.tests = (Test(COPY, COPY, rate, scales=False), Test(TWIN, TWIN, rate, scales=False))
        self.cutoff = highest_accepted(self.null, rate)
        p = np.full((len(real), 2), np.nan)
        p[rows, 0] = conformal_high(self.null, self.null, member=True)
        return Evidence(p)

    def score(self, batch: Images) -> Evidence:
        """Correlations with the nearest training image, and with the nearest earlier synthetic image."""
        small = self._features(batch)
        copy, _ = nearest(small, self.train)
        self.correlations = copy
        return Evidence(np.stack([self._p(copy), self._p(self._twins(small, batch.patients))], axis=1))

    def remember(self, accepted: Images) -> None:
        """Later synthetic images may not copy these."""
        self.kept = np.concatenate([self.kept, self._features(accepted)])

    def describe(self, levels: dict[str, float]) -> dict[str, Any]:
        """Cut-off and null of the correlation."""
        null = self.null[np.isfinite(self.null)]
        quantiles = {str(q): float(np.quantile(null, q)) for q in (0.5, 0.9, 0.99, 1.0)} if len(null) else {}
        return {
            "statistic": f"correlation with the nearest image, {SIDE} x {SIDE} pixels, average X-ray removed",
            "rate": levels[COPY],
            "cutoff": self.cutoff,
            "n_calibration": len(null),
            "n_same_image_of_two_patients": self.same,
            "null_quantiles": quantiles,
            "note": None if self.cutoff is not None else "no other patient to compare with: the check abstains",
        }

    def _features(self, images: Images) -> np.ndarray:
        return unit(standardise(images.pixels) - self.average)

    def _p(self, correlation: np.ndarray) -> np.ndarray:
        return np.full(len(correlation), np.nan) if self.cutoff is None else conformal_high(self.null, correlation)

    def _twins(self, small: np.ndarray, patients: np.ndarray) -> np.ndarray:
        """Correlation with the nearest earlier image of another study that is not itself a twin."""
        best = nearest(small, self.kept)[0] if len(self.kept) else np.full(len(small), np.nan)
        limit = np.inf if self.cutoff is None else self.cutoff
        is_twin = best > limit
        for start in range(0, len(small), BLOCK):
            block = small[start : start + BLOCK] @ small[: start + BLOCK].T
            for i, row in enumerate(block, start):
                others = ~is_twin[:i] & (patients[:i] != patients[i])
                if others.any():
                    best[i] = np.fmax(best[i], row[:i][others].max())
                    is_twin[i] = best[i] > limit
        return best


def standardise(pixels: np.ndarray) -> np.ndarray:
    """Small images as unit vectors, so that a dot product is a correlation.

    Each image (uint8, (n, S, S)) is averaged down to 32 x 32, then centred and scaled to unit length: brightness and
    contrast drop out. The caller removes the training average, which all X-rays share, and scales again: then real
    patients correlate by 0.7 to 0.9 at most and re-compressed copies by 0.99. A constant image becomes the zero vector.
    Returns float32 (n, 1024).
    """
    small = np.empty((len(pixels), SIDE * SIDE), np.float32)
    for start in range(0, len(pixels), BLOCK):
        part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BLOCK])).float()[:, None]
        small[start : start + BLOCK] = torch.nn.functional.adaptive_avg_pool2d(part, SIDE).flatten(1).numpy()
    return unit(small - small.mean(axis=1, keepdims=True))


def _join_equal(patients: np.ndarray, sha: np.ndarray) -> np.ndarray:
    """Group labels in which patients that share identical pixels are one group (integers)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    patient = np.unique(patients.astype(str), return_inverse=True)[1]
    pixels = np.unique(sha.astype(str), return_inverse=True)[1] + patient.max() + 1
    n = int(pixels.max()) + 1
    graph = coo_matrix((np.ones(len(patient)), (patient, pixels)), shape=(n, n))
    return connected_components(graph, directed=False)[1][patient]
