"""The realism check: no synthetic image may be a greater stranger to the real ones than real patients are."""

from __future__ import annotations

from typing import Any

import numpy as np

from cxraug.fidelity.extractors import conv_random
from cxraug.gate.check import Check, Evidence, Images, Test
from cxraug.gate.null import Null, resolved_by
from cxraug.gate.settings import GateSettings

REALISM = "realism: stranger than real images are"


class Realism(Check):
    """Mahalanobis distance to the real images in a named feature space, one-sided.

    Real patients are dealt into two halves. Mean and covariance (shrunk towards the identity: Ledoit & Wolf 2004, J
    Multivar Anal 88) of one half give the distances of the other half, which are the null, so that no real image is
    measured against itself or its patient; a synthetic image has the mean of both distances. Of the distances tried
    (nearest neighbours, whitened principal components) it saw noise, joins and the blur of the Gaussian core best.

    It sees what its features see: an image that is too average is not strange to it.
    """

    name = "realism"

    def __init__(self, settings: GateSettings, rate: float) -> None:
        self.settings, self.rate = settings, rate
        self.extractor = conv_random()
        self.note: str | None = None

    def fit(self, real: Images) -> Evidence:
        """Fit both halves and measure each with the other."""
        from sklearn.covariance import LedoitWolf

        number = np.unique(real.patients.astype(str), return_inverse=True)[1]
        half = number % 2
        needed = max(self.settings.min_calibration, resolved_by(self.settings.false_reject))
        self.tests, self.null = (), Null(np.zeros(0))
        if number.max(initial=-1) < 3 or len(real) < needed:
            self.note = f"{len(real)} real images of {needed} needed: the check abstains"
            return Evidence(np.zeros((len(real), 0)))
        features = self.extractor.features(real.pixels)
        self.centre, self.spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        features = (features - self.centre) / self.spread
        self.models = [LedoitWolf().fit(features[half != k]) for k in (0, 1)]
        distance = np.empty(len(real))
        for k, model in enumerate(self.models):
            distance[half == k] = np.sqrt(model.mahalanobis(features[half == k]))
        self.null = Null(distance, real.levels, max(needed, resolved_by(self.rate)))
        self.tests = (Test("realism", REALISM, self.rate, finest=self.null.finest),)
        return Evidence(self.null.p(distance, real.levels, member=True)[:, None])

    def score(self, batch: Images) -> Evidence:
        """p-values of synthetic images."""
        if not self.tests:
            return Evidence(np.zeros((len(batch), 0)))
        features = (self.extractor.features(batch.pixels) - self.centre) / self.spread
        distance = np.mean([np.sqrt(model.mahalanobis(features)) for model in self.models], axis=0)
        return Evidence(self.null.p(distance, batch.levels)[:, None])

    def describe(self, levels: dict[str, float]) -> dict[str, Any]:
        """The feature space with its hash, the cut-off and the null of the distance."""
        level, null = levels.get("realism"), self.null.values
        return {
            "statistic": "Mahalanobis distance to real images of other patients (shrunk covariance)",
            "features": {"name": self.extractor.name, "sha256": self.extractor.sha256, "note": self.extractor.note},
            "level": level, "cutoff": None if level is None else self.null.cutoff(level),
            "n_calibration": len(null), "small_levels": self.null.small, "note": self.note,
            "null_quantiles": {str(q): float(np.quantile(null, q)) for q in (0.5, 0.9, 0.99, 1.0)} if len(null) else {},
        }  # fmt: skip
