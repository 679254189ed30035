"""Labels that may be wrong: what a small classifier says of each image of patients that it did not see.

Nothing in a data set tells wrong labels from hard images, unless something is known to be wrong. So a second fit is
made with wrong labels planted among the others: the share of them that is listed is the share of wrong labels that the
list can be expected to hold, finding by finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from cxraug.balance.association import share_interval
from cxraug.evaluation.auroc import auroc
from cxraug.evaluation.measured import Patients
from cxraug.evaluation.uncertainty import interval
from cxraug.seeds import derive_seed

FOLDS = 5
FALSE_ALARMS = 0.02  # share of the labels of one kind (present, absent) of a finding that is listed at most
PLANTED = 0.03  # share of the positive labels that are turned, and as many negative ones
MIN_PATIENTS = 30  # with the finding, and without it
MIN_AUROC = 0.75  # lower limit below which a finding is not judged
RIDGES = (0.01, 0.1, 1.0, 10.0)  # times the mean variance of the features
EXTRACTOR = "histograms of gradients (8 x 8 places, 8 directions) and 16 x 16 grey values, no weights"
FIRST = 20  # of a list: what a person reads of it
SUPPOSED = 0.01  # share of wrong labels that the statement about the list supposes


@dataclass(frozen=True)
class LabelNoise:
    """Labels to look at again.

    ``candidates``: image, patient, split, finding, given (0 or 1), probability of the finding, likelihood ratio (how
    much likelier the image is under the other label); first is what has the least probability of the label it has.
    ``findings``: per finding what is known about its list. ``images``: how many were judged. ``first``: of the second
    fit, the labels that head the list (20, or as many as there are), and ``first_turned``, how many of them were turned
    on purpose.
    """

    candidates: pd.DataFrame
    findings: list[dict[str, Any]]
    images: int
    first: int = 0
    first_turned: int = 0

    def describe(self) -> dict[str, Any]:
        """JSON-ready, without the list."""
        low, high = share_interval(self.first_turned, self.first)
        return {"images": self.images, "candidates": len(self.candidates), "findings": self.findings,
                "extractor": EXTRACTOR, "false_alarms": FALSE_ALARMS, "supposed": SUPPOSED, "planted": PLANTED,
                "first": self.first, "first_turned": self.first_turned,
                "first_low": low, "first_high": high}  # fmt: skip


def find_label_noise(
    features: np.ndarray, y: np.ndarray, frame: pd.DataFrame, findings: Sequence[str], seed: int = 0
) -> LabelNoise:
    """Rank labels by how little the image supports them.

    Parameters
    ----------
    features : float32 (n, d) of the images. y : (n, F) 1, 0 or NaN. frame : (n) rows with ``image, patient_id, split``.

    Notes
    -----
    Out-of-fold probabilities (five folds of whole patients; ridge regression of the standardised features, then
    logistic calibration) in place of the network of confident learning (Northcutt, Jiang & Chuang 2021, JAIR 70,
    1373-1411). As there, a label is suspicious where the other class has at least the mean probability that it has
    among its own images; of those, the at most 2 % of each kind of label that speak most against it are listed. So
    the list never holds more than 2 % of the right labels of a kind. A finding whose AUROC is not surely above 0.75
    is not judged. ``found`` is measured: a second fit, with 3 % of the positive labels and as many negative ones
    turned.
    """
    patient = pd.factorize(frame["patient_id"])[0].astype(np.int64)
    fold = (np.random.default_rng(derive_seed(seed, "folds")).permutation(patient.max() + 1) % FOLDS)[patient]
    enough = [f for f in range(y.shape[1]) if _patients(y[:, f], patient) >= MIN_PATIENTS]
    known: list[dict[str, Any]] = [
        {"finding": findings[f], "judged": False, "why": f"under {MIN_PATIENTS} patients with or without it"}
        for f in range(y.shape[1]) if f not in enough
    ]  # fmt: skip
    if not enough:
        return LabelNoise(_table(frame, [], findings), known, len(y))
    wrong = plant_wrong(y[:, enough], derive_seed(seed, "wrong"))
    both = np.concatenate([y[:, enough], np.where(wrong, 1 - y[:, enough], y[:, enough])], axis=1)
    scores = out_of_fold(_standardised(features), both, fold)
    half = len(enough)
    found, second = [], []
    for k, f in enumerate(enough):
        value, low, high = _auroc(scores[:, k], y[:, f], patient)
        facts: dict[str, Any] = {"finding": findings[f], "auroc": value, "ci_low": low, "ci_high": high}
        if low < MIN_AUROC:
            why = f"the lower limit of its AUROC is {low:.2f}, under {MIN_AUROC:g}"
            known.append({**facts, "judged": False, "why": why})
            continue
        listed, p, ratio = suspicious(scores[:, k], y[:, f], fold)
        at = wrong[:, k]
        again, second_p, _ = suspicious(scores[:, half + k], both[:, half + k], fold, right=~at)
        second += [(_given(second_p[i], both[i, half + k]), bool(at[i])) for i in np.flatnonzero(again)]
        facts |= {"judged": True, "why": ""}
        for given, name in ((1, "present"), (0, "absent")):
            turned = at & (both[:, half + k] == given)
            recall = float(again[turned].mean()) if turned.any() else None
            kind = listed & (y[:, f] == given)
            labels = int((y[:, f] == given).sum())
            facts |= {f"listed_{name}": int(kind.sum()), f"labels_{name}": labels, f"found_{name}": recall,
                      f"right_{name}": _right(recall, int(kind.sum()), labels)}  # fmt: skip
        known.append(facts)
        found += [(int(i), f, int(y[i, f]), float(p[i]), float(ratio[i])) for i in np.flatnonzero(listed)]
    order = {name: i for i, name in enumerate(findings)}
    known.sort(key=lambda row: order[row["finding"]])
    first = [turned for _, turned in sorted(second, key=lambda item: item[0])[:FIRST]]
    return LabelNoise(_table(frame, found, findings), known, len(y), len(first), sum(first))


def plant_wrong(y: np.ndarray, seed: int) -> np.ndarray:
    """(n, F) bool: 3 % of the positive labels of each finding and as many negative ones, at least five of both."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(y.shape, bool)
    for f in range(y.shape[1]):
        positive, negative = (np.flatnonzero(y[:, f] == value) for value in (1, 0))
        number = min(max(5, round(PLANTED * len(positive))), len(positive) // 6, len(negative) // 6)
        wrong[rng.choice(positive, number, replace=False), f] = True
        wrong[rng.choice(negative, number, replace=False), f] = True
    return wrong


def suspicious(
    score: np.ndarray, y: np.ndarray, fold: np.ndarray, right: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which labels (n,) speak against their image; probability of the finding (n,), and likelihood ratio (n,).

    The ratio is that of the image under the other label to that under its own. ``right`` (n,): labels not known to be
    wrong, of which at most 2 % are listed; default all.
    """
    right = np.ones(len(y), bool) if right is None else right
    p = calibrated(score, y, fold)
    known = ~np.isnan(y)
    share = float((y[known] == 1).mean())
    odds = np.log(np.clip(p, 1e-9, 1 - 1e-9)) - np.log1p(-np.clip(p, 1e-9, 1 - 1e-9)) - special.logit(share)
    against = np.where(y == 1, -odds, odds)
    listed = np.zeros(len(y), bool)
    for given in (0, 1):
        mine, others = y == given, y == 1 - given
        typical = (p if given == 0 else 1 - p)[others].mean()  # of the other class, among its own
        doubtful = np.flatnonzero(mine & ((p if given == 0 else 1 - p) >= typical) & (against > 0))
        order = doubtful[np.argsort(-against[doubtful], kind="stable")]
        listed[order[np.cumsum(right[order]) <= int(FALSE_ALARMS * (mine & right).sum())]] = True
    return listed, p, np.exp(against)


def calibrated(score: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Probabilities (n,) of scores: logistic regression (Platt 1999) fitted on the other folds."""
    out = np.full(len(score), np.nan)
    for k in range(FOLDS):
        rest = (fold != k) & ~np.isnan(y)
        slope, offset = _platt(score[rest], y[rest])
        out[fold == k] = special.expit(slope * score[fold == k] + offset)
    return out


def out_of_fold(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Scores (n, F) by ridge regression of y, 1, 0 or NaN (n, F), on x (n, d), fitted on the other folds.

    Unknown labels count as the finding's mean. Of four strengths the one with the least squared error out of fold is
    taken for each finding.
    """
    known = ~np.isnan(y)
    mean = np.nanmean(y, axis=0)
    target = np.where(known, y - mean, 0.0).astype(np.float32)
    grams = [x[fold == k].T @ x[fold == k] for k in range(FOLDS)]
    rights = [x[fold == k].T @ target[fold == k] for k in range(FOLDS)]
    gram, right = sum(grams), sum(rights)
    scores = np.zeros((len(RIDGES), *y.shape), np.float32)
    for k in range(FOLDS):
        values, axes = np.linalg.eigh(gram - grams[k])
        turned = axes.T @ (right - rights[k])
        seen = x[fold == k] @ axes
        for r, ridge in enumerate(RIDGES):
            shrink = 1 / (np.maximum(values, 0) + ridge * np.trace(gram) / len(gram) / 10)
            scores[r, fold == k] = seen @ (turned * shrink[:, None])
    error = np.array([(np.square(s - target) * known).sum(axis=0) for s in scores])
    best = error.argmin(axis=0)
    return np.take_along_axis(scores, best[None, None, :], axis=0)[0]


def _standardised(features: np.ndarray) -> np.ndarray:
    """float32 (n, d) of mean 0 and standard deviation 1."""
    return ((features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)).astype(np.float32)


def _platt(score: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the logit, by Newton's method; the slope is held back a little."""
    spread = max(float(score.std()), 1e-9)
    x = np.column_stack([(score - score.mean()) / spread, np.ones(len(score))])
    beta = np.array([0.0, special.logit((y.sum() + 0.5) / (len(y) + 1))])
    for _ in range(30):
        p = special.expit(np.clip(x @ beta, -30, 30))
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + np.diag([0.01, 1e-6]), x.T @ (y - p) - [0.01 * beta[0], 0])
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return float(beta[0] / spread), float(beta[1] - beta[0] * score.mean() / spread)


def _auroc(score: np.ndarray, y: np.ndarray, patient: np.ndarray) -> tuple[float, float, float]:
    rows = np.flatnonzero(~np.isnan(y))
    rows = rows[np.argsort(patient[rows], kind="stable")]
    sums = Patients(np.flatnonzero(np.diff(patient[rows], prepend=-1)), len(rows))
    measured = auroc(score[rows][None], [np.argsort(score[rows], kind="stable")], y[rows], sums)
    low, high = interval(measured.value, measured.variance, measured.df, "logit", 0.05)
    return float(measured.value[0]), float(low[0]), float(high[0])


def _patients(y: np.ndarray, patient: np.ndarray) -> int:
    return min(len(np.unique(patient[y == value])) for value in (0, 1))


def _given(probability: float, label: float) -> float:
    """The probability of the label that is given: what labels are ranked by (self-confidence in confident learning).

    On X-rays with turned labels, the first 20 by it held more of them than the first 20 by likelihood ratio, which
    does not ask how frequent a finding is.
    """
    return float(probability if label == 1 else 1 - probability)


def _right(recall: float | None, listed: int, labels: int) -> float | None:
    """Share of the list that would be wrong labels, if 1 % of these labels were wrong at random; at most 1.

    Nothing is said about fewer than ten.
    """
    if recall is None or listed < 10:
        return None
    return min(1.0, recall * SUPPOSED * labels / listed)


def _table(
    frame: pd.DataFrame, found: Sequence[tuple[int, int, int, float, float]], findings: Sequence[str]
) -> pd.DataFrame:
    found = sorted(found, key=lambda item: _given(item[3], item[2]))
    rows = np.array([i for i, *_ in found], dtype=int)
    table = frame.iloc[rows][["image", "patient_id", "split"]].reset_index(drop=True)
    table["finding"] = [findings[f] for _, f, *_ in found]
    table["given"] = [given for _, _, given, *_ in found]
    table["probability"] = [round(p, 4) for *_, p, _ in found]
    table["likelihood_ratio"] = [round(ratio, 2) for *_, ratio in found]
    return table
