"""Every measure of fidelity of one set of features, beside what real images score against real images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from cxraug.fidelity.frechet import frechet_distance
from cxraug.fidelity.kernel import block_distances
from cxraug.fidelity.neighbours import SHARES, Distances, neighbourhood_scores

MEASURES = ("frechet", "kid", "precision", "recall", "density", "coverage")
MIN_IMAGES = 30  # of each of the three samples
BLOCKS = 10
LEVEL = 0.95


@dataclass(frozen=True)
class Score:
    """One measure: synthetic against reference, real against the same reference (the floor), and their difference.

    The ``low`` and ``high`` are 95 % intervals.
    """

    measure: str
    score: float
    low: float
    high: float
    floor: float
    difference: float
    difference_low: float
    difference_high: float


def score_features(reference: np.ndarray, floor: np.ndarray, synthetic: np.ndarray) -> list[Score]:
    """Measure ``synthetic`` and ``floor``, each against ``reference``, in the order of :data:`MEASURES`.

    Parameters
    ----------
    reference, floor : features (n, d) of real images, one per patient, no patient in both, in random order.
    synthetic : features (n, d), one image per prompt, in random order. n >= :data:`MIN_IMAGES`.

    Notes
    -----
    All three have the same n, so what n does to a measure is in score and floor alike. Images are independent and stand
    in random order: deleting the same tenth of the positions from all three is a jackknife over independent blocks
    (Efron & Stein 1981), also of the difference, which shares the reference; intervals take t with 9 degrees of
    freedom. KID is the mean of the blocks' values, with their standard error. For the shares (precision, recall,
    coverage) the standard error is never below that of a proportion with two hits and two misses added (Agresti &
    Coull 1998), so that a share of 0 or 1 has an interval. The intervals are about the value at this n, bias included.

    Raises
    ------
    ValueError : samples of different shapes, or too small.
    """
    if not reference.shape == floor.shape == synthetic.shape or len(reference) < MIN_IMAGES:
        raise ValueError(f"three samples of one size, at least {MIN_IMAGES}: {reference.shape}, {synthetic.shape}")
    n = len(reference)
    reference, floor, synthetic = (np.asarray(x, float) for x in (reference, floor, synthetic))
    near = [Distances.of(reference, synthetic), Distances.of(reference, floor)]

    def values(rows: np.ndarray) -> np.ndarray:
        """(measure but KID, synthetic or floor)."""
        found = [
            {"frechet": frechet_distance(reference[rows], other[rows]), **neighbourhood_scores(distances.take(rows))}
            for other, distances in zip((synthetic, floor), near, strict=True)
        ]
        return np.array([[part[name] for part in found] for name in MEASURES if name != "kid"])

    whole = values(np.arange(n))
    parts = np.array_split(np.arange(n), BLOCKS)
    deleted = np.stack([values(np.setdiff1d(np.arange(n), part)) for part in parts])
    kid = np.stack([block_distances(reference, other, BLOCKS) for other in (synthetic, floor)])
    scores = []
    for name in MEASURES:
        if name == "kid":
            value = kid.mean(axis=1)
            errors = [float(np.std(x, ddof=1) / np.sqrt(BLOCKS)) for x in (kid[0], kid[0] - kid[1])]
        else:
            at = [m for m in MEASURES if m != "kid"].index(name)
            value = whole[at]
            errors = [_jackknife(x) for x in (deleted[:, at, 0], deleted[:, at, 0] - deleted[:, at, 1])]
            if name in SHARES:
                least = [_proportion_error(x, n) for x in value]
                errors = [max(errors[0], least[0]), max(errors[1], math.hypot(*least))]
        scores.append(_score(name, value, errors))
    return scores


def _score(name: str, value: np.ndarray, errors: list[float]) -> Score:
    reach = float(t.ppf((1 + LEVEL) / 2, BLOCKS - 1))
    difference = float(value[0] - value[1])
    low, high = value[0] - reach * errors[0], value[0] + reach * errors[0]
    if name != "kid":
        low = max(low, 0.0)
    if name in SHARES:
        high = min(high, 1.0)
    return Score(
        name, float(value[0]), float(low), float(high), float(value[1]),
        difference, difference - reach * errors[1], difference + reach * errors[1],
    )  # fmt: skip


def _jackknife(deleted: np.ndarray) -> float:
    """Standard error from the values (B,) without one block each."""
    return float(np.sqrt((len(deleted) - 1) * np.var(deleted)))


def _proportion_error(share: float, n: int) -> float:
    added = (share * n + 2) / (n + 4)
    return float(np.sqrt(added * (1 - added) / (n + 4)))
