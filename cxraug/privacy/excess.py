"""Whether a set holds more alarms than chance allows: a test over all its images beside the cut-off for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import betabinom

REPLICATES = 9999
DEEPEST = 0.1  # of the calibration patients: deeper in the null lies no tail


@dataclass(frozen=True)
class Excess:
    """More high scores than calibration allows?

    ``p_value`` of the set. ``rank`` of the calibration patient whose score tells most, ``above`` images over it, where
    ``expected`` are by chance. ``detectable`` is the smallest share of clear copies that a set of this size and this
    calibration would have been called for at ``level``; 1 or more says that none would. ``n`` images, ``n_calibration``
    patients.
    """

    p_value: float
    rank: int
    above: int
    expected: float
    n: int
    n_calibration: int
    detectable: float
    level: float


def excess(
    null: np.ndarray, scores: np.ndarray, *, clusters: np.ndarray | None = None, level: float = 0.05, seed: int = 0
) -> Excess | None:
    """Test that ``scores`` are no higher in their upper tail than the calibration scores ``null``.

    Parameters
    ----------
    null : (k,) scores of held-out real images; NaN are left out.
    scores : (n,) of the set, high is suspicious; NaN are left out. The images count as independent draws.
    clusters : (k,) patient of each calibration image; default one each.
    level : at which :attr:`Excess.detectable` is stated. seed : of the reference distribution.

    Returns
    -------
    None where nothing was calibrated or nothing is asked.

    Notes
    -----
    A patient counts once, with the highest score, so that N calibration scores are independent; several images of a
    patient then make the test conservative, never liberal. If set and patients are alike, the number of n images above
    the r-th highest of N patients is beta-binomial, K_r ~ BB(n, r, N - r + 1), whatever the distribution of scores
    (negative hypergeometric; Wilks 1942; the counts of conformal p-values that share a calibration set, Marques F.
    2025): this integrates over the calibration set, where a binomial would take it for the truth. The statistic is the
    smallest tail probability over r = 1, 2, 3, 5, 8, ... up to a tenth of N: small r find few clear copies, large r
    many slight ones, and no single real image decides. Its distribution under the null is drawn from the order
    statistics of N + n uniform numbers. Ties count for chance.
    """
    known = np.isfinite(null)
    null = np.asarray(null, float)[known]
    scores = np.asarray(scores, float)[np.isfinite(scores)]
    if clusters is not None:
        null = _highest(null, np.asarray(clusters)[known])
    if not len(null) or not len(scores):
        return None
    ranks = _ranks(len(null))
    cuts = np.sort(null)[::-1][ranks - 1]
    above = len(scores) - np.searchsorted(np.sort(scores), cuts, side="right")
    tails = _tails(above[None], ranks, len(null), len(scores))[0]
    reference = _reference(len(null), len(scores), seed)
    lower = int(np.searchsorted(reference, tails.min() * (1 + 1e-9), side="right"))
    p = (1 + lower) / (REPLICATES + 1) if lower else min(len(ranks) * tails.min(), 1 / (REPLICATES + 1))
    best = int(tails.argmin())
    chance = len(scores) * ranks / (len(null) + 1)
    return Excess(
        float(p), int(ranks[best]), int(above[best]), float(chance[best]), len(scores), len(null),
        _detectable(len(null), len(scores), level, seed), level,
    )  # fmt: skip


def _highest(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    of = np.unique(clusters.astype(str), return_inverse=True)[1]
    top = np.full(of.max(initial=-1) + 1, -np.inf)
    np.maximum.at(top, of, values)
    return top


def _ranks(n: int) -> np.ndarray:
    """1, 2, 3, 5, 8, ... up to a tenth of n."""
    ranks = [1, 2]
    while ranks[-1] + ranks[-2] <= DEEPEST * n:
        ranks.append(ranks[-1] + ranks[-2])
    return np.array([r for r in ranks if r <= max(DEEPEST * n, 1)])


def _tails(above: np.ndarray, ranks: np.ndarray, n_null: int, n: int) -> np.ndarray:
    """P(K_r >= above) of counts (B, R)."""
    found = np.empty(above.shape)
    for j, r in enumerate(ranks.tolist()):
        counts, where = np.unique(above[:, j], return_inverse=True)
        found[:, j] = betabinom.sf(counts - 1, n, r, n_null - r + 1)[where]
    return np.clip(found, 0, 1)


@lru_cache(maxsize=32)
def _reference(n_null: int, n: int, seed: int) -> np.ndarray:
    """Sorted smallest tail probabilities of sets that are like the calibration patients."""
    rng, ranks = np.random.default_rng([seed, n_null, n]), _ranks(n_null)
    steps = np.diff(ranks, prepend=0)
    gaps = np.stack([rng.gamma(s, size=REPLICATES) for s in steps], axis=1)
    share = np.cumsum(gaps, axis=1) / (gaps.sum(axis=1) + rng.gamma(n_null + 1 - ranks[-1], size=REPLICATES))[:, None]
    above = np.zeros((REPLICATES, len(ranks)), int)
    left, before = np.full(REPLICATES, n), np.zeros(REPLICATES)
    for j in range(len(ranks)):
        more = rng.binomial(left, np.clip((share[:, j] - before) / (1 - before), 0, 1))
        left, before = left - more, share[:, j]
        above[:, j] = n - left
    return np.sort(_tails(above, ranks, n_null, n).min(axis=1))


@lru_cache(maxsize=32)
def _detectable(n_null: int, n: int, level: float, seed: int) -> float:
    """The smallest share of scores over all calibration scores that, beside as many by chance as expected, is called.

    Zero counts at every rank but the copies' own chance companions: at rank r the set shows share * n + r n / (N + 1).
    """
    cut = np.quantile(_reference(n_null, n, seed), level, method="lower")
    need = [float(betabinom.isf(cut, n, r, n_null - r + 1)) + 1 - n * r / (n_null + 1) for r in _ranks(n_null).tolist()]
    return max(min(need), 1) / n
