"""The agreement check: independent classifiers have to see what was asked for, and must not see what was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cxraug.cores.measures.paired import paired_auroc
from cxraug.evaluation.uncertainty import interval
from cxraug.gate.check import Check, Evidence, Images, Test
from cxraug.gate.likelihood import Ratio, log_likelihood_ratio
from cxraug.gate.null import Null, resolved_by
from cxraug.gate.reader import Reader
from cxraug.gate.settings import GateSettings

MIN_SIDE = 2  # of both classes, before an AUROC is asked for


class Agreement(Check):
    """Is one of the labels wrong? Two tests per finding on one scale.

    The evidence of an image against a label is the logarithm of how much likelier its score is among real images that
    have the other label (:mod:`cxraug.gate.likelihood`). All tests share one p-value scale: the share of held-out real
    images whose *strongest* evidence against any of their labels is at least as strong (max-T: Westfall & Young 1993).
    So the union of all tests rejects at the rate of one, and clear findings, whose evidence is strong when they are
    wrong and weak when they are right, do not pay for findings that can hardly be seen.

    - A classifier whose AUROC is not above chance (lower 95 % bound, patient-clustered, at most 0.5) abstains: a gate
      that cannot see cannot judge.
    - Nothing is rejected while its label is likelier than the other one, however much of the budget is left.
    - No test rejects more than ``false_reject`` of the real images with its own label (their evidence is its own null),
      so that a rare finding is not rejected wholesale in a set that asks for little else.
    - A finding with too few real positives uses the positives of all findings pooled for that, and rejects only what is
      also stronger than every real positive of its own.
    """

    name = "agreement"

    def __init__(self, findings: tuple[str, ...], settings: GateSettings, rate: float, reader: Reader) -> None:
        self.findings, self.settings, self.rate, self.reader = findings, settings, rate, reader
        self.notes: dict[str, str] = {}
        self.tests = ()

    def fit(self, real: Images) -> Evidence:
        """Cross-fit (or load) the classifiers and calibrate every finding on out-of-fold scores."""
        self.reader.fit(real)
        score = self._scores(self.reader.real)
        self.auroc = [_auroc(score[:, f], real.y[:, f], real.patients) for f in range(len(self.findings))]
        sighted = [f for f, (_, low, _) in enumerate(self.auroc) if low is not None and low > 0.5]
        for f, finding in enumerate(self.findings):
            if f not in sighted:
                low = self.auroc[f][1]
                why = "too few calibration images" if low is None else f"AUROC lower bound {low:.2f}, not above 0.5"
                self.notes[finding] = f"abstains: {why}"
        half = np.unique(real.patients.astype(str), return_inverse=True)[1] % 2
        self.models = {f: log_likelihood_ratio(score[:, f], real.y[:, f]) for f in sighted}
        evidence = self._evidence(score, real.y)
        for k in (0, 1):  # what calibrates the evidence of a real image must not hold its patient
            rest = half != k
            fitted = {f: _fitted(score[rest, f], real.y[rest, f]) or self.models[f] for f in sighted}
            evidence[half == k] = self._evidence(score[half == k], real.y[half == k], fitted)
        self._choose_tests(evidence, real)
        strength = self._strength(evidence, real, member=True)
        used = np.isfinite(evidence).any(axis=1)
        strongest = np.nan_to_num(strength, nan=-np.inf).max(axis=1, initial=-np.inf)
        needed = max(self.settings.min_calibration, resolved_by(self.rate))
        self.strongest = Null(np.where(used, strongest, np.nan), real.levels, needed)
        self.tests = tuple(replace(test, finest=self.strongest.finest) for test in self.tests)
        return Evidence(self._p_values(strength, real.levels, member=True))

    def score(self, batch: Images) -> Evidence:
        """p-values of synthetic images: claims tested against real positives, absences against real negatives."""
        evidence = self._evidence(self._scores(self.reader.score(batch)), batch.y)
        return Evidence(self._p_values(self._strength(evidence, batch, member=False), batch.levels, member=False))

    def describe(self, levels: dict[str, float]) -> dict[str, Any]:
        """Per finding: AUROC with interval, calibration counts, cut-offs on the evidence, and why a test abstains."""
        by_finding = {}
        for f, finding in enumerate(self.findings):
            value, low, high = self.auroc[f]
            by_finding[finding] = {"auroc": value, "auroc_low": low, "auroc_high": high, "pooled": f in self.pooled,
                                   "note": self.notes.get(finding)}  # fmt: skip
            for side, word in ((1, "present"), (0, "absent")):
                level = levels.get(_name(finding, side))
                by_finding[finding] |= {
                    f"n_{'positives' if side else 'negatives'}": self.counts[f, side], f"{word}_level": level,
                    f"{word}_cutoff": None if level is None else self._cutoff(f, side, level),
                }  # fmt: skip
        return {
            "statistic": "log-likelihood ratio that the label is wrong, against the largest one of each held-out real "
            "image (max-T)",
            "model": self.reader.describe(), "n_calibration": len(self.strongest), "findings": by_finding,
            "small_levels": self.strongest.small,
        }  # fmt: skip

    def _scores(self, scores: np.ndarray) -> np.ndarray:
        columns = self.reader.columns(self.findings)
        return np.stack([np.full(len(scores), np.nan) if at is None else scores[:, at] for at in columns], axis=1)

    def _evidence(self, score: np.ndarray, y: np.ndarray, models: Mapping[int, Ratio] | None = None) -> np.ndarray:
        """Evidence (n, F) that a known label is wrong; NaN where unknown or not judged."""
        evidence = np.full(y.shape, np.nan)
        for f, present in (models or self.models).items():
            ratio = present(score[:, f])
            evidence[:, f] = np.where(y[:, f] == 1, -ratio, np.where(y[:, f] == 0, ratio, np.nan))
        return evidence

    def _choose_tests(self, evidence: np.ndarray, real: Images) -> None:
        """Decide which findings are tested, and which use the pooled positives."""
        cap, fewest = self.settings.false_reject, self.settings.min_calibration
        needed = max(fewest, resolved_by(cap))
        self.pooled: set[int] = set()
        self.counts: dict[tuple[int, int], int] = {}
        self.own: dict[tuple[int, int], Null] = {}
        for f in range(len(self.findings)):
            for side in (1, 0):
                rows = (real.y[:, f] == side) & ~np.isnan(self._known(evidence, f))
                self.counts[f, side] = int(rows.sum())
                levels = None if real.levels is None else real.levels[rows]
                self.own[f, side] = Null(evidence[rows, f], levels, needed)
        of_positives = np.where(real.y == 1, evidence, np.nan).ravel()
        levels = None if real.levels is None else np.repeat(real.levels, len(self.findings))
        self.pool = Null(of_positives, levels, needed)
        self.columns: list[tuple[int, int]] = []
        tests = []
        for f in self.models:
            for side in (1, 0):
                if self._can_test(f, side, needed):
                    reason = f"agreement: {self.findings[f]} {'not seen' if side else 'seen but not asked for'}"
                    tests.append(Test(_name(self.findings[f], side), reason, self.rate))
                    self.columns.append((f, side))
        self.tests = tuple(tests)

    def _known(self, evidence: np.ndarray, f: int) -> np.ndarray:
        """Scores that calibrate a finding, also of one that abstains."""
        return evidence[:, f] if f in self.models else self._scores(self.reader.real)[:, f]

    def _can_test(self, f: int, side: int, needed: int) -> bool:
        """Whether enough real images have the label; a claimed finding may fall back to the pooled positives."""
        n, finding, kind = self.counts[f, side], self.findings[f], "positives" if side else "negatives"
        if n >= needed:
            return True
        short = f"{n} real {kind} of {needed} needed"
        if side and len(self.pool) >= needed:
            self.pooled.add(f)
            self.notes[finding] = f"{short}: pooled cut-off of {len(self.pool)} positives of all findings"
            return True
        said = self.notes.get(finding)
        self.notes[finding] = (said + "; " if said else "") + f"{short}: the test for {kind} abstains"
        return False

    def _strength(self, evidence: np.ndarray, images: Images, *, member: bool) -> np.ndarray:
        """Evidence (n, T) of each test; NaN: not asked, -inf: too common among real images, or for the label."""
        strength = np.full((len(images), len(self.columns)), np.nan)
        for column, (f, side) in enumerate(self.columns):
            rows = (images.y[:, f] == side) & ~np.isnan(evidence[:, f])
            x, levels = evidence[rows, f], None if images.levels is None else images.levels[rows]
            own = self.own[f, side]
            if side and f in self.pooled:
                p = self.pool.p(x, levels, member=member)
                p[x <= own.values.max(initial=-np.inf)] = 1.0
            else:
                p = own.p(x, levels, member=member)
            strength[rows, column] = np.where((p <= self.settings.false_reject) & (x > 0), x, -np.inf)
        return strength

    def _p_values(self, strength: np.ndarray, levels: np.ndarray | None, *, member: bool) -> np.ndarray:
        columns = [self.strongest.p(x, levels, member=member) for x in strength.T]
        return np.stack(columns, axis=1) if columns else np.zeros((len(strength), 0))

    def _cutoff(self, f: int, side: int, level: float) -> float | None:
        pooled = bool(side) and f in self.pooled
        own = self.own[f, side]
        parts = [self.strongest.cutoff(level), (self.pool if pooled else own).cutoff(self.settings.false_reject)]
        if pooled and len(own):
            parts.append(float(own.values.max()))
        return None if None in parts else max(0.0, *(part for part in parts if part is not None))


def _fitted(score: np.ndarray, y: np.ndarray) -> Ratio | None:
    """The log-likelihood ratio of a finding; None with too few images of one class to say anything."""
    known = np.isfinite(score)
    enough = min((y[known] == 1).sum(), (y[known] == 0).sum()) >= MIN_SIDE
    return log_likelihood_ratio(score, y) if enough else None


def _name(finding: str, side: int) -> str:
    return f"{finding} {'present' if side else 'absent'}"


def _auroc(score: np.ndarray, y: np.ndarray, patients: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """AUROC with its 95 % interval (clustered by patient, logit scale); Nones without both classes."""
    y = np.where(np.isnan(score), np.nan, y)
    if min((y == 1).sum(), (y == 0).sum()) < MIN_SIDE:
        return None, None, None
    area = paired_auroc(score[None], y, patients)
    assert area is not None
    low, high = interval(area.value, area.variance, area.df, "logit", 0.05)
    return float(area.value[0]), float(low[0]), float(high[0])
