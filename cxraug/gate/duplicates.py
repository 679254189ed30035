"""The copy check: no synthetic image may match a training image better than real patients match each other."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from cxraug.gate.check import Check, Evidence, Images, Test, conformal_high, highest_accepted
from cxraug.privacy.excess import Excess
from cxraug.privacy.memorisation import LEAST, SAME, STATISTIC, CopyDetector
from cxraug.privacy.nearest import ROWS, nearest, unit

SIDE = 32  # pixels at which synthetic images are compared with each other
SAME_SMALL = 0.99  # correlation at that size from which two real images are one picture (real pairs stay below 0.93)
COPY, TWIN = "duplicates: copy of a training image", "duplicates: copy of another synthetic image"
LEVEL = 0.01  # of the set-level test from which the check says so


class Duplicates(Check):
    """Copies of training images by :class:`cxraug.privacy.memorisation.CopyDetector`, and copies within the set.

    The null is the match of a real training image with the training images of all other patients. The same picture
    under two patient ids (equal native pixels, or a match of at least 0.985) is a fault of the data and left out of
    it. ``rate`` is the stated false-alarm rate; with n calibration images it cannot be finer than 1 / (n + 1), which
    is used then; with fewer than 19 the check abstains, and stops the same picture only.

    Found are copies that were mirrored, cropped, shifted, re-compressed, blurred, noised or changed in brightness or
    contrast, and, less surely, turned by a few degrees (benchmarks/COPIES.md). Beside the verdict on each image stands
    a test whether the first draw as a whole holds more matches than chance allows (:mod:`cxraug.privacy.excess`).
    Copies within the set are compared as they are, neither mirrored nor shifted.
    """

    name = "duplicates"

    def __init__(self, rate: float, seed: int = 0) -> None:
        self.rate, self.seed = rate, seed
        self.kept = np.zeros((0, SIDE * SIDE), np.float32)
        self.average: np.ndarray | None = None
        self.first: np.ndarray | None = None

    def fit(self, real: Images) -> Evidence:
        """Index the training images and measure the null on (a sample of) them."""
        self.detector = CopyDetector.fit(real.pixels, real.patients, rate=self.rate, sha=real.sha, seed=self.seed)
        null, rows = self.detector.null, self.detector.rows
        self.judges = self.detector.n >= LEAST
        rate = max(self.rate, self.detector.finest) if self.judges else self.rate
        self.tests = (Test(COPY, COPY, rate, scales=False), Test(TWIN, TWIN, rate, scales=False))
        self.cutoff = highest_accepted(null, rate) if self.judges else None
        small = standardise(real.pixels)
        self.average = small.mean(axis=0)
        small = unit(small - self.average)
        patients = self.detector.patients
        apart, _ = nearest(small[rows], small, groups=(patients[rows], patients))
        self.apart = np.where(apart >= SAME_SMALL, np.nan, apart)
        self.limit = highest_accepted(self.apart, rate) if np.isfinite(self.apart).sum() >= LEAST else None
        p = np.full((len(real), 2), np.nan)
        if self.judges:
            p[rows, 0] = conformal_high(null, null, member=True)
        return Evidence(p)

    def score(self, batch: Images) -> Evidence:
        """p-values of the match with a training image, and with an earlier synthetic image."""
        self.correlations = self.detector.match(batch.pixels)["correlation"].to_numpy(float)
        if self.first is None:
            self.first = self.correlations
        copy = np.full(len(batch), np.nan)
        if self.judges:
            copy = conformal_high(self.detector.null, self.correlations)
        copy = np.where(self.correlations >= SAME, 0.0, copy)
        twin = self._twins(self._small(batch), batch.patients)
        return Evidence(np.stack([copy, twin], axis=1))

    def remember(self, accepted: Images) -> None:
        """Later synthetic images may not copy these."""
        self.kept = np.concatenate([self.kept, self._small(accepted)])

    def describe(self, levels: dict[str, float]) -> dict[str, Any]:
        """Cut-off and null of the match, and the test of the set's first draw as a whole."""
        null = self.detector.null[np.isfinite(self.detector.null)]
        quantiles = {str(q): float(np.quantile(null, q)) for q in (0.5, 0.9, 0.99, 1.0)} if len(null) else {}
        whole = None if self.first is None else self.detector.excess(self.first)
        return {
            "statistic": STATISTIC,
            "rate": levels[COPY],
            "cutoff": self.cutoff,
            "n_calibration": len(null),
            "n_same_image_of_two_patients": self.detector.filed_twice,
            "null_quantiles": quantiles,
            "set": None if whole is None else asdict(whole),
            "note": self._note(whole),
        }

    def _note(self, whole: Excess | None) -> str | None:
        if not self.judges:
            return (
                f"{self.detector.n} real images with another patient to compare with, {LEAST} are needed: the check "
                "abstains but for the same picture"
            )
        if whole is not None and whole.p_value <= LEVEL:
            return (
                f"as a whole the set matches training images too well (p = {whole.p_value:.2g}): {whole.above} of "
                f"{whole.n} images where {whole.expected:.1f} were expected; its core may have learnt them by heart"
            )
        return None

    def _small(self, images: Images) -> np.ndarray:
        return unit(standardise(images.pixels) - self.average)

    def _twins(self, small: np.ndarray, patients: np.ndarray) -> np.ndarray:
        """p-value of the nearest earlier image of another study that is not itself a twin."""
        best = nearest(small, self.kept)[0] if len(self.kept) else np.full(len(small), np.nan)
        limit = SAME_SMALL if self.limit is None else self.limit
        is_twin = best > limit
        for start in range(0, len(small), ROWS):
            block = small[start : start + ROWS] @ small[: start + ROWS].T
            for i, row in enumerate(block, start):
                others = ~is_twin[:i] & (patients[:i] != patients[i])
                if others.any():
                    best[i] = np.fmax(best[i], row[:i][others].max())
                    is_twin[i] = best[i] > limit
        if self.limit is None:
            return np.where(is_twin, 0.0, np.nan)
        return conformal_high(self.apart, best)


def standardise(pixels: np.ndarray) -> np.ndarray:
    """Small images as unit vectors, so that a dot product is a correlation.

    Each image (uint8, (n, S, S)) is averaged down to 32 x 32, then centred and scaled to unit length: brightness and
    contrast drop out. The caller removes the training average, which all X-rays share, and scales again: then real
    patients correlate by 0.7 to 0.9 at most and re-compressed copies by 0.99. A constant image becomes the zero vector.
    Returns float32 (n, 1024).
    """
    small = np.empty((len(pixels), SIDE * SIDE), np.float32)
    for start in range(0, len(pixels), ROWS):
        part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + ROWS])).float()[:, None]
        small[start : start + ROWS] = torch.nn.functional.adaptive_avg_pool2d(part, SIDE).flatten(1).numpy()
    return unit(small - small.mean(axis=1, keepdims=True))
