"""What independent networks see in an image: one reading per image, shared by all checks that ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxraug.gate.attributes import AGE, YEARS, attribute_targets
from cxraug.gate.check import Images
from cxraug.gate.crossfit import FoldModels, fit_folds, load_folds
from cxraug.gate.settings import GateSettings
from cxraug.gate.xrv import open_xrv
from cxraug.machine import Device

TOLD = 4  # every so many rows tell a network sex, age and race: they are easy, and would crowd out the findings


class Reader:
    """Scores of findings and attributes from models that have not seen the image.

    A score is a logit (of age from torchxrayvision: years), shifted and scaled so that the held-out real images of the
    fold whose network gave it have mean 0 and standard deviation 1; a synthetic image has the mean over folds, weighted
    by their held-out images. Findings and attributes that a network of torchxrayvision is given for are read by it, the
    others by networks cross-fitted on the real training images.

    Attributes
    ----------
    names : (O,) of the outputs, once fitted: findings, ``sex=F``, ``age`` (years) or ``age>=YEARS``, ``race=NAME``.
    real : (n, O) scores of the real images, NaN for rows that a network may have seen.
    """

    def __init__(
        self, findings: Sequence[str], settings: GateSettings, seed: int, folder: Path, device: Device = "auto"
    ) -> None:
        self.findings = tuple(findings) if settings.agreement else ()
        self.settings, self.seed, self.folder, self.device = settings, seed, folder, device
        self._fitted: Images | None = None
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def fit(self, real: Images) -> None:
        """Train the networks (or take them from an earlier call) and read the real images, once for all checks."""
        if self._fitted is real:
            return
        self.sources = open_xrv(self.settings, real, self.findings, self.device)
        read = {name for source in self.sources for name in source.names}
        taken = tuple(AGE if name == YEARS else name for name in read - set(self.findings)) or ("\0",)
        attributes, values = attribute_targets(real) if self.settings.demographics else ((), real.y[:, :0])
        own = [i for i, name in enumerate(attributes) if not name.startswith(taken)]
        findings = tuple(name for name in self.findings if name not in read)
        if findings or own:
            self.sources.append(self._cross_fit(real, findings, [attributes[i] for i in own], values[:, own]))
        self.names = tuple(name for source in self.sources for name in source.names)
        self._standardise(real)
        self._fitted = real

    def score(self, batch: Images) -> np.ndarray:
        """Scores (n, O) of synthetic images; NaN where no network could be standardised."""
        if self._last is None or self._last[0] is not batch.pixels:
            parts = []
            for source, norms in zip(self.sources, self.norms, strict=True):
                total, weight = np.zeros((len(batch), len(source.names))), 0
                for scorer, (centre, spread, n) in zip(source.scorers, norms, strict=True):
                    if n:
                        total += n * (scorer(batch.pixels) - centre) / spread
                        weight += n
                parts.append(total / weight if weight else np.full_like(total, np.nan))
            self._last = batch.pixels, np.concatenate([np.zeros((len(batch), 0)), *parts], axis=1)
        return self._last[1]

    def columns(self, names: Sequence[str]) -> list[int | None]:
        """Where outputs stand; None for one that no network gives."""
        at = {name: i for i, name in enumerate(self.names)}
        return [at.get(name) for name in names]

    def describe(self) -> list[dict[str, Any]]:
        """Which networks read which outputs, JSON-ready."""
        return [
            {"model": source.model, "sha256": source.sha256, "outputs": list(source.names),
             "folds": len(source.scorers)}
            for source in self.sources
        ]  # fmt: skip

    def _cross_fit(
        self, real: Images, findings: tuple[str, ...], attributes: Sequence[str], values: np.ndarray
    ) -> FoldModels:
        if self.settings.weights is not None:
            return load_folds(Path(self.settings.weights), real, findings, attributes, self.device)
        at = [self.findings.index(finding) for finding in findings]
        if at:
            values = np.where(np.arange(len(real))[:, None] % TOLD == 0, values, np.nan)
        y = np.concatenate([real.y[:, at], values], axis=1).astype(np.float32)
        return fit_folds(real, y, (*findings, *attributes), self.settings, self.seed, self.folder, self.device)

    def _standardise(self, real: Images) -> None:
        self.norms: list[list[tuple[np.ndarray, np.ndarray, int]]] = []
        parts = []
        for source in self.sources:
            scores, norms = np.full((len(real), len(source.names)), np.nan), []
            for scorer, rows in zip(source.scorers, source.held_out, strict=True):
                if not rows.any():
                    norms.append((np.zeros(len(source.names)), np.ones(len(source.names)), 0))
                    continue
                raw = scorer(real.pixels[rows])
                centre, spread = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-9)
                scores[rows] = (raw - centre) / spread
                norms.append((centre, spread, int(rows.sum())))
            parts.append(scores)
            self.norms.append(norms)
        self.real = np.concatenate([np.zeros((len(real), 0)), *parts], axis=1)
