"""The reports check: the report that came with an image must not contradict what was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from cxraug.evaluation.report_labels import report_labels
from cxraug.gate.check import Check, Evidence, Images, Test
from cxraug.gate.null import Null, resolved_by
from cxraug.gate.settings import GateSettings
from cxraug.studies.labels import ABSENT, PRESENT

DENIED, STATED = "denied", "stated"


class Reports(Check):
    """Two contradictions per finding: the report denies a claimed one, or states one that was not asked for.

    Real reports contradict their labels too (labels were made by hand or machine, reports speak of the past). The rarer
    a contradiction is among real reports, the stronger it is: its p-value is the share of real reports with a
    contradiction at least as rare, so that all tests together reject real reports at the rate of one. What is uncertain
    in the report, or not mentioned, contradicts nothing.

    Without enough real reports nothing can be calibrated: then every contradiction rejects, outside the budget, and is
    counted under a reason of its own.
    """

    name = "reports"

    def __init__(self, findings: tuple[str, ...], settings: GateSettings, rate: float) -> None:
        self.findings, self.settings, self.rate = findings, settings, rate
        self.note: str | None = None

    def fit(self, real: Images) -> Evidence:
        """Count contradictions in real reports."""
        found, read = self._contradictions(real)
        self.n, self.counts = int(read.sum()), found[read].sum(axis=0)
        needed = max(self.settings.min_calibration, resolved_by(self.settings.false_reject))
        self.calibrated = self.n >= needed
        if not self.calibrated:
            short = f"{self.n} real reports of {needed} needed"
            self.note = f"{short}: not calibrated, every contradiction rejects and is counted apart"
        asked = np.concatenate([(real.y[read] == 1).sum(axis=0), (real.y[read] == 0).sum(axis=0)])
        self.rarity = -np.log((self.counts + 0.5) / (asked + 1.0))
        mark, rate, finest = ("", self.rate, 1 / (self.n + 1)) if self.calibrated else (" (not calibrated)", 0.0, 0.0)
        self.tests = tuple(
            Test(f"report: {finding} {kind}", f"reports{mark}: {finding} {WORDS[kind]}", rate, self.calibrated, finest)
            for kind in (DENIED, STATED)
            for finding in self.findings
        )
        strength = np.where(found, self.rarity, -np.inf)
        strongest = np.where(read, strength.max(axis=1, initial=-np.inf), np.nan)
        self.null = Null(strongest, real.levels, max(needed, resolved_by(self.rate)))
        return Evidence(self._p_values(found, read, real.levels, member=True))

    def score(self, batch: Images) -> Evidence:
        """p-values of generated reports; NaN where there is none."""
        found, read = self._contradictions(batch)
        return Evidence(self._p_values(found, read, batch.levels, member=False))

    def describe(self, levels: dict[str, float]) -> dict[str, Any]:
        """How often real reports contradict their labels, per finding."""
        shown = np.split(self.counts, 2)
        return {
            "statistic": "contradictions between labels and report, by rule (cxraug/evaluation/report_labels.py)",
            "n_calibration": self.n, "calibrated": self.calibrated, "note": self.note,
            "small_levels": self.null.small if self.calibrated else {},
            "findings": {
                finding: {
                    "real_denied": int(shown[0][f]), "real_stated": int(shown[1][f]),
                    "denied_level": levels.get(f"report: {finding} {DENIED}"),
                    "stated_level": levels.get(f"report: {finding} {STATED}"),
                }
                for f, finding in enumerate(self.findings)
            },
        }  # fmt: skip

    def _contradictions(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """Whether each contradiction (n, 2 F) is there, first denials, then statements; and who has a report (n,)."""
        said, read = np.full(images.y.shape, np.nan), np.zeros(len(images), bool)
        for i, report in enumerate([] if images.reports is None else images.reports):
            if report:
                labels = report_labels(report, self.findings)
                said[i] = [labels.get(finding, np.nan) for finding in self.findings]
                read[i] = True
        denied, stated = (images.y == 1) & (said == ABSENT), (images.y == 0) & (said == PRESENT)
        return np.concatenate([denied, stated], axis=1), read

    def _p_values(self, found: np.ndarray, read: np.ndarray, levels: np.ndarray | None, *, member: bool) -> np.ndarray:
        if not self.calibrated:
            return np.where(found & ~np.bool_(member), 0.0, np.where(read[:, None], 1.0, np.nan))
        strength = np.where(found, self.rarity, -np.inf)
        p = np.stack([self.null.p(x, levels, member=member) for x in strength.T], axis=1)
        return np.where(read[:, None], p, np.nan)


WORDS = {DENIED: "denied by the report", STATED: "stated by the report but not asked for"}
