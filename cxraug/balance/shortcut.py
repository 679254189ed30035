"""How far view and source alone tell a finding: what a classifier could read instead of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

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
    The score of an image is the log odds of the finding in its pattern among the patients of the four other folds, less
    the log odds of all of these patients (folds would differ by chance otherwise, and pooling them would pull the AUROC
    below one half). Its variance is that of Obuchowski 1997 with patients as clusters, as in an evaluation.
    """
    seen, hits, patterns = sums.seen, sums.hits, sums.sums.patterns
    counts = sums.positive, sums.negative
    if min(counts) < MIN_PATIENTS or np.count_nonzero(sums.images) < 2:
        return None
    absent = seen - hits
    cell = fold * patterns + sums.sums.pattern
    images, found = (np.bincount(cell, part, FOLDS * patterns).reshape(FOLDS, patterns) for part in (seen, hits))
    images, found = images.sum(axis=0) - images, found.sum(axis=0) - found  # of the other folds
    share = (found.sum(axis=1, keepdims=True) + 0.5) / (images.sum(axis=1, keepdims=True) + 1)
    score = (special.logit((found + PRIOR * share) / (images + PRIOR)) - special.logit(share)).ravel()
    score = np.round(score, 12)
    weight = np.concatenate([np.bincount(cell, part, len(score)) for part in (absent, hits)])
    positive = np.repeat([False, True], len(score))
    order = np.argsort(np.tile(score, 2), kind="stable")
    order = order[weight[order] > 0]
    area, slope = area_and_slope(np.tile(score, 2)[order], positive[order], weight[order])
    per_image = np.zeros(len(weight))
    per_image[order] = slope
    factors = [np.sqrt(n / max(n - 1, 1)) for n in counts]
    value = hits * per_image[len(score) :][cell] * factors[0] + absent * per_image[: len(score)][cell] * factors[1]
    psi = sums.per_patient(value)
    df = variance_df(psi[None], np.array([min(counts)]))[0]
    low, high = interval(np.array([area]), np.array([psi @ psi]), np.array([df]), "logit", 0.05)
    return Shortcut(float(area), float(low[0]), float(high[0]), int(seen.sum()), counts[0])


def deal(sums: Sums, seed: int = 0) -> np.ndarray:
    """(U,) fold of each patient's sums: patients whole, at random."""
    patients = int(sums.owner.max(initial=-1)) + 1
    return (np.random.default_rng(seed).permutation(patients) % FOLDS)[sums.owner]
