"""Every measure of fidelity of one set, beside what real images score against real images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t

from cxraug.fidelity import look
from cxraug.fidelity.frechet import frechet_distance
from cxraug.fidelity.kernel import block_distances
from cxraug.fidelity.neighbours import SHARES, Distances, neighbourhood_scores

MEASURES = ("frechet", "kid", "precision", "recall", "density", "coverage")
DIVERSITY = "ms_ssim"
EVERY_MEASURE = (*MEASURES, *look.MEASURES, DIVERSITY)  # of features, of pixels, of pairs of images
SIGNED = ("kid", "grey_mean", "grey_sd")  # the others are never below 0
MIN_IMAGES = 30  # of each of the three samples
BLOCKS = 10
LEVEL = 0.95


@dataclass(frozen=True)
class Score:
    """One measure: synthetic against reference, real against the same reference (the floor), and their difference.

    The ``low`` and ``high`` are 95 % intervals. ``floor_sd`` is the floor's standard deviation over repeated halves of
    the real data, and ``floor_low`` to ``floor_high`` holds 95 % of what another half would give: NaN for one half.
    """

    measure: str
    score: float
    low: float
    high: float
    floor: float
    difference: float
    difference_low: float
    difference_high: float
    floor_sd: float = math.nan
    floor_low: float = math.nan
    floor_high: float = math.nan


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

    whole, deleted = _with_blocks_left_out(values, n)
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


def score_look(reference: look.Look, floor: look.Look, synthetic: look.Look) -> list[Score]:
    """Measure spectra and histograms as :func:`score_features` does features, in the order of ``look.MEASURES``."""
    if not len(reference) == len(floor) == len(synthetic) >= MIN_IMAGES:
        raise ValueError(f"three samples of one size, at least {MIN_IMAGES}: {len(reference)}, {len(synthetic)}")

    def values(rows: np.ndarray) -> np.ndarray:
        found = [side.take(rows).against(reference.take(rows)) for side in (synthetic, floor)]
        return np.array([[part[name] for part in found] for name in look.MEASURES])

    whole, deleted = _with_blocks_left_out(values, len(reference))
    return [
        _score(name, whole[i], [_jackknife(x) for x in (deleted[:, i, 0], deleted[:, i, 0] - deleted[:, i, 1])])
        for i, name in enumerate(look.MEASURES)
    ]


def score_pairs(synthetic: np.ndarray, real: np.ndarray) -> Score:
    """Mean similarity (MS-SSIM) of pairs of synthetic images (p,) beside that of as many pairs of real ones.

    Pairs are independent, so the intervals are those of means (Welch's for the difference) and the floor's spread that
    of a mean of p pairs.
    """
    p, means = len(real), np.array([synthetic.mean(), real.mean()])
    errors = [float(np.std(x, ddof=1) / np.sqrt(p)) for x in (synthetic, real)]
    df = sum(e**2 for e in errors) ** 2 / max(sum(e**4 for e in errors) / (p - 1), 1e-300)
    reach = [float(t.ppf((1 + LEVEL) / 2, d)) for d in (p - 1, max(df, 1.0))]
    apart, error = float(means[0] - means[1]), math.hypot(*errors)
    held = reach[0] * errors[1] * math.sqrt(2)
    return Score(
        DIVERSITY, float(means[0]), float(means[0] - reach[0] * errors[0]), float(means[0] + reach[0] * errors[0]),
        float(means[1]), apart, apart - reach[1] * error, apart + reach[1] * error, errors[1],
        float(means[1]) - held, float(means[1]) + held,
    )  # fmt: skip


def over_halves(first: Sequence[Score], others: Sequence[dict[str, tuple[float, float]]]) -> list[Score]:
    """Scores of the first half of the real data, with score and floor averaged over it and the ``others``.

    ``others`` hold (score, floor) by measure, each of another random division of the same real patients. Intervals keep
    the width of one half's: the halves share patients, so that averaging over them narrows them by less than it seems.
    The spread of the floor is what chance alone gives at this n: that of a random division, as in a permutation test.
    """
    result = []
    for score in first:
        pairs = np.array([(score.score, score.floor), *(other[score.measure] for other in others)])
        value, floor = (float(v) for v in pairs.mean(axis=0))
        shift, apart = value - score.score, value - floor
        moved = apart - score.difference
        found = replace(
            score, score=value, low=_within(score.measure, score.low + shift),
            high=_within(score.measure, score.high + shift), floor=floor, difference=apart,
            difference_low=score.difference_low + moved, difference_high=score.difference_high + moved,
        )  # fmt: skip
        if len(pairs) > 1:
            sd = float(pairs[:, 1].std(ddof=1))
            held = float(t.ppf((1 + LEVEL) / 2, len(pairs) - 1)) * sd * math.sqrt(1 + 1 / len(pairs))
            low, high = (_within(score.measure, floor + side * held) for side in (-1, 1))
            found = replace(found, floor_sd=sd, floor_low=low, floor_high=high)
        result.append(found)
    return result


def plain_values(
    reference: np.ndarray, floor: np.ndarray, synthetic: np.ndarray, looks: Sequence[look.Look]
) -> dict[str, tuple[float, float]]:
    """(score, floor) of every measure of features and pixels, without intervals; ``looks`` in the order of features."""
    reference, floor, synthetic = (np.asarray(x, float) for x in (reference, floor, synthetic))
    found = [
        {
            "frechet": frechet_distance(reference, other),
            "kid": float(block_distances(reference, other, BLOCKS).mean()),
            **neighbourhood_scores(Distances.of(reference, other)),
            **seen.against(looks[0]),
        }
        for other, seen in ((synthetic, looks[2]), (floor, looks[1]))
    ]
    return {name: (found[0][name], found[1][name]) for name in found[0]}


def _with_blocks_left_out(values: Callable[[np.ndarray], np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
    """``values`` of all positions, and stacked of all but each of ten blocks."""
    parts = np.array_split(np.arange(n), BLOCKS)
    return values(np.arange(n)), np.stack([values(np.setdiff1d(np.arange(n), part)) for part in parts])


def _within(name: str, value: float) -> float:
    """``value`` cut to what the measure can be."""
    value = value if name in SIGNED else max(value, 0.0)
    return min(value, 1.0) if name in SHARES else value


def _score(name: str, value: np.ndarray, errors: list[float]) -> Score:
    reach = float(t.ppf((1 + LEVEL) / 2, BLOCKS - 1))
    difference = float(value[0] - value[1])
    low, high = (_within(name, float(value[0] + side * reach * errors[0])) for side in (-1, 1))
    return Score(
        name, float(value[0]), low, high, float(value[1]),
        difference, difference - reach * errors[1], difference + reach * errors[1],
    )  # fmt: skip


def _jackknife(deleted: np.ndarray) -> float:
    """Standard error from the values (B,) without one block each."""
    return float(np.sqrt((len(deleted) - 1) * np.var(deleted)))


def _proportion_error(share: float, n: int) -> float:
    added = (share * n + 2) / (n + 4)
    return float(np.sqrt(added * (1 - added) / (n + 4)))
