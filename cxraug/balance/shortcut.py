"""How far view and source alone tell a finding: what a classifier could read instead of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxraug.balance.adjustment import FindingSums, Sums
from cxraug.evaluation.auroc import area_and_slope
from cxraug.evaluation.measured import variance_df
from cxraug.evaluation.uncertainty import interval

FOLDS = 5
PRIOR = 5.0  # images with the overall share that are added to every pattern
MIN_PATIENTS = 10  # positive, and negative, below which nothing is said
FRONTAL = {"PA": "PA", "AP": "AP", "AP Supine": "AP"}  # view -> projection


@dataclass(frozen=True)
class Shortcut:
    """AUROC of a finding told from a variable alone, with its 95 % interval; images and positive patients behind it."""

    auroc: float
    low: float
    high: float
    images: int
    patients_positive: int


def projection(view: pd.Series) -> np.ndarray:
    """(n,) "AP" or "PA" of frontal views, "" of all others; a supine view is AP."""
    return view.map(FRONTAL).fillna("").to_numpy(dtype=object)


def shortcut(sums: FindingSums, fold: np.ndarray) -> Shortcut | None:
    """How well the pattern of an image (its view, its source, or both) tells a finding.

    Parameters
    ----------
    sums : images known and positive per patient and pattern. fold : (U,) of :func:`deal`.

    Returns
    -------
    None with fewer than 10 patients with the finding, or without it, or where there is a single pattern.

    Notes
    -----
    Patterns are ordered by the share of positives among the patients of the four other folds. Images are compared
    within their fold only (pooled over folds, ties within a pattern would be broken by chance and pull the AUROC down);
    folds count by their pairs. The variance is that of Obuchowski 1997 with patients as clusters, as in an evaluation.
    It leaves out that the order is learnt: intervals cover 93 % where there is a shortcut, 82 % where there is none.
    """
    seen, hits, patterns = sums.seen, sums.hits, sums.sums.patterns
    counts = sums.positive, sums.negative
    if min(counts) < MIN_PATIENTS or np.count_nonzero(sums.images) < 2:
        return None
    absent, cell = seen - hits, fold * patterns + sums.sums.pattern
    weights = [np.bincount(cell, part, FOLDS * patterns).reshape(FOLDS, patterns) for part in (absent, hits)]
    images, found = weights[0] + weights[1], weights[1]
    images, found = images.sum(axis=0) - images, found.sum(axis=0) - found  # of the other folds
    share = found.sum(axis=1, keepdims=True) / np.maximum(images.sum(axis=1, keepdims=True), 1)
    score = np.round((found + PRIOR * share) / (images + PRIOR), 12)
    pairs = weights[0].sum(axis=1) * weights[1].sum(axis=1)
    area, slopes = 0.0, np.zeros((2, FOLDS, patterns))
    positive = np.repeat([False, True], patterns)
    for k in np.flatnonzero(pairs):
        weight, scores = np.concatenate([part[k] for part in weights]), np.tile(score[k], 2)
        order = np.argsort(scores, kind="stable")
        order = order[weight[order] > 0]
        value, slope = area_and_slope(scores[order], positive[order], weight[order])
        area += pairs[k] / pairs.sum() * value
        slopes[positive[order].astype(int), k, order % patterns] = pairs[k] / pairs.sum() * slope
    factors = [np.sqrt(n / max(n - 1, 1)) for n in counts]
    flat = slopes.reshape(2, -1)[:, cell]
    psi = sums.per_patient(hits * flat[1] * factors[0] + absent * flat[0] * factors[1])
    df = variance_df(psi[None], np.array([min(counts)]))[0]
    low, high = interval(np.array([area]), np.array([psi @ psi]), np.array([df]), "logit", 0.05)
    return Shortcut(float(area), float(low[0]), float(high[0]), int(seen.sum()), counts[0])


def deal(sums: Sums, seed: int = 0) -> np.ndarray:
    """(U,) fold of each patient's sums: patients whole, at random."""
    patients = int(sums.owner.max(initial=-1)) + 1
    return (np.random.default_rng(seed).permutation(patients) % FOLDS)[sums.owner]
