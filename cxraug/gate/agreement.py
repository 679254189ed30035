"""The agreement check: an independent classifier has to see what was asked for, and must not see what was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cxraug.evaluation.auroc import auroc
from cxraug.evaluation.measured import Patients
from cxraug.evaluation.uncertainty import interval
from cxraug.gate.check import (
    Check,
    Evidence,
    Images,
    Test,
    conformal_high,
    conformal_low,
    highest_accepted,
    lowest_accepted,
)
from cxraug.gate.crossfit import fit_folds, folds_seen, load_folds
from cxraug.gate.settings import GateSettings
from cxraug.studies.seen import Seen

MIN_SIDE = 2  # of both classes, before an AUROC is asked for


class Agreement(Check):
    """Two tests per finding on one statistic.

    The statistic t of an image and a finding is the share of held-out real images *without* the finding that score
    lower, in the fold whose classifier gave the score (mean over folds for synthetic images). A claimed finding needs a
    t that is not unusually low among real positives; an absent one a t that is not unusually high among real negatives.

    - A classifier whose AUROC is not above chance (lower 95 % bound, patient-clustered, at most 0.5) abstains: a gate
      that cannot see cannot judge.
    - A finding with too few real positives uses the positives of all findings pooled, and rejects only what also lies
      below every real positive of its own.
    - ``rate`` is shared by a union bound: half to claimed findings, half to absent ones, each divided by how many
      such tests a real image meets; the gate raises both where the true union leaves room.
    """

    name = "agreement"

    def __init__(self, findings: tuple[str, ...], settings: GateSettings, rate: float, seed: int, folder: Path) -> None:
        self.findings, self.settings, self.rate, self.seed, self.folder = findings, settings, rate, seed, folder
        self.notes: dict[str, str] = {}

    def fit(self, real: Images) -> Evidence:
        """Cross-fit (or load) the classifiers and calibrate every finding on out-of-fold scores."""
        if self.settings.weights is not None:
            self.folds = load_folds(Path(self.settings.weights), real, self.findings)
        else:
            self.folds = fit_folds(real, self.findings, self.settings, self.seed, self.folder)
        t = self._real_statistic(real)
        positive, negative = (real.y == 1) & np.isfinite(t), (real.y == 0) & np.isfinite(t)
        self.positives = [t[positive[:, f], f] for f in range(len(self.findings))]
        self.absents = [t[negative[:, f], f] for f in range(len(self.findings))]
        self.auroc = [_auroc(t[:, f], real.y[:, f], real.patients) for f in range(len(self.findings))]
        self._choose_tests(positive, negative)
        return Evidence(self._p_values(t, real.y, member=True))

    def score(self, batch: Images) -> Evidence:
        """p-values of synthetic images: claims tested against real positives, absences against real negatives."""
        scores = [scorer(batch.pixels) for scorer in self.folds.scorers]
        weights = np.array([mask.sum() for mask in self.folds.held_out], float)
        parts = [_share_below(n, s) for n, s in zip(self.negatives, scores, strict=True)]
        t = np.zeros((len(batch), len(self.findings)))
        total = np.zeros(len(self.findings))
        for part, weight in zip(parts, weights, strict=True):
            usable = np.isfinite(part).all(axis=0)  # a fold without negatives of a finding says nothing about it
            t += np.where(usable, part, 0) * weight
            total += usable * weight
        t = np.divide(t, total, out=np.full_like(t, np.nan), where=total > 0)
        return Evidence(self._p_values(t, batch.y, member=False))

    def describe(self, levels: dict[str, float]) -> dict[str, Any]:
        """Per finding: AUROC with interval, calibration counts, cut-offs on t, and why a test abstains."""
        by_finding = {}
        for f, finding in enumerate(self.findings):
            value, low, high = self.auroc[f]
            present, absent = levels.get(_name(finding, 1)), levels.get(_name(finding, 0))
            null, pooled = self.positives[f], f in self.pooled
            cut = None if present is None else lowest_accepted(self.pool if pooled else null, present)
            if cut is not None and pooled and len(null):
                cut = min(cut, float(null.min()))
            by_finding[finding] = {
                "auroc": value, "auroc_low": low, "auroc_high": high,
                "n_positives": len(null), "n_negatives": len(self.absents[f]),
                "present_level": present, "present_cutoff": cut, "pooled": pooled,
                "absent_level": absent,
                "absent_cutoff": None if absent is None else highest_accepted(self.absents[f], absent),
                "note": self.notes.get(finding),
            }  # fmt: skip
        return {
            "statistic": "share of held-out real images without the finding that score lower",
            "model": self.settings.model if self.settings.weights is None else self.settings.weights,
            "folds": len(self.folds.scorers), "findings": by_finding,
        }  # fmt: skip

    def _real_statistic(self, real: Images) -> np.ndarray:
        """t (n, F) of real rows from the model that has not seen them; NaN for rows that do not calibrate."""
        t = np.full((len(real), len(self.findings)), np.nan)
        self.negatives = []  # for each model and finding the sorted scores of held-out real images without it
        for scorer, rows in zip(self.folds.scorers, self.folds.held_out, strict=True):
            scores = scorer(real.pixels[rows]) if rows.any() else np.zeros((0, len(self.findings)))
            y = real.y[rows]
            self.negatives.append([np.sort(scores[y[:, f] == 0, f]) for f in range(len(self.findings))])
            t[rows] = _share_below(self.negatives[-1], scores)
        return t

    def _choose_tests(self, positive: np.ndarray, negative: np.ndarray) -> None:
        """Decide which findings are tested, at which rates, and which use the pooled positives."""
        sighted = [f for f, (_, low, _) in enumerate(self.auroc) if low is not None and low > 0.5]
        for f, finding in enumerate(self.findings):
            if f not in sighted:
                low = self.auroc[f][1]
                why = "too few calibration images" if low is None else f"AUROC lower bound {low:.2f}, not above 0.5"
                self.notes[finding] = f"abstains: {why}"
        used = positive.any(axis=1) | negative.any(axis=1)
        rates = []
        for mask in (positive, negative):
            per_image = mask[used][:, sighted].sum(axis=1).mean() if sighted and used.any() else 0.0
            rates.append(min(self.rate, self.rate / 2 / max(per_image, 1e-9)))
        self.pool = np.concatenate([self.positives[f] for f in sighted]) if sighted else np.zeros(0)
        self.pooled: set[int] = set()
        self.columns: list[tuple[int, int]] = []
        tests = []
        for f in sighted:
            for side, rate, null in ((1, rates[0], self.positives[f]), (0, rates[1], self.absents[f])):
                if self._can_test(f, side, rate, null):
                    reason = f"agreement: {self.findings[f]} {'not seen' if side else 'seen but not asked for'}"
                    tests.append(Test(_name(self.findings[f], side), reason, rate))
                    self.columns.append((f, side))
        self.tests = tuple(tests)

    def _can_test(self, f: int, side: int, rate: float, null: np.ndarray) -> bool:
        """Whether ``null`` resolves ``rate``; a claimed finding may fall back to the pooled positives."""
        needed = max(self.settings.min_calibration, int(np.ceil(1 / rate - 1e-9)) - 1)
        if len(null) >= needed:
            return True
        finding, kind = self.findings[f], "positives" if side else "negatives"
        short = f"{len(null)} real {kind} of {needed} needed"
        if side and len(self.pool) >= needed:
            self.pooled.add(f)
            self.notes[finding] = f"{short}: pooled cut-off of {len(self.pool)} positives of all findings"
            return True
        said = self.notes.get(finding)
        self.notes[finding] = (said + "; " if said else "") + f"{short}: the test for {kind} abstains"
        return False

    def _p_values(self, t: np.ndarray, y: np.ndarray, *, member: bool) -> np.ndarray:
        p = np.full((len(t), len(self.columns)), np.nan)
        for column, (f, side) in enumerate(self.columns):
            rows = (y[:, f] == side) & np.isfinite(t[:, f])
            x = t[rows, f]
            if side == 0:
                p[rows, column] = conformal_high(self.absents[f], x, member=member)
            elif f not in self.pooled:
                p[rows, column] = conformal_low(self.positives[f], x, member=member)
            else:
                own = self.positives[f].min() if len(self.positives[f]) else np.inf
                pooled = conformal_low(self.pool, x, member=member)
                p[rows, column] = np.where(x < own, pooled, 1.0)
        return p


def gate_seen(folder: str | Path) -> Seen:
    """Keyed hashes of what the gate classifiers in ``folder`` were trained on (see ``refuse_hidden``)."""
    return folds_seen(Path(folder))


def _name(finding: str, side: int) -> str:
    return f"{finding} {'present' if side else 'absent'}"


def _share_below(negatives: list[np.ndarray], scores: np.ndarray) -> np.ndarray:
    """Share of each finding's sorted ``negatives`` below each score (n, F); ties count one half, NaN without any."""
    t = np.full(scores.shape, np.nan)
    for f, null in enumerate(negatives):
        if len(null):
            below = np.searchsorted(null, scores[:, f], side="left") + np.searchsorted(null, scores[:, f], side="right")
            t[:, f] = below / 2 / len(null)
    return t


def _auroc(t: np.ndarray, y: np.ndarray, patients: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """AUROC of t with a patient-clustered 95 % interval; None where a class is (nearly) missing."""
    known = np.isfinite(t) & ~np.isnan(y)
    groups = np.unique(patients.astype(str), return_inverse=True)[1]
    order = np.flatnonzero(known)[np.argsort(groups[known], kind="stable")]
    score, label, group = t[order], y[order], groups[order]
    if min((label == 1).sum(), (label == 0).sum()) < MIN_SIDE:
        return None, None, None
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    area = auroc(score[None], [np.argsort(score)], label, Patients(starts, len(label)))
    low, high = interval(area.value, area.variance, area.df, "logit", 0.05)
    return float(area.value[0]), float(low[0]), float(high[0])
