"""Closest-record ratio: do synthetic images lie nearer to training images than to held-out ones of the same number?"""

from __future__ import annotations

from typing import Any

import numpy as np

from cxraug.evaluation.measured import measured
from cxraug.evaluation.uncertainty import interval
from cxraug.privacy.nearest import nearest
from cxraug.seeds import derive_seed

DRAWS = 10  # of patients of the larger side, which is cut to the smaller one's number of images
LEAST, FEW = 10, 50
HOW = (
    "share of synthetic images whose nearest real image is a training image, training and held-out images being "
    "equally many; 0.5 is chance; clustered by the patient of the nearest real image"
)


def closest_record(
    synthetic: np.ndarray, real: np.ndarray, member: np.ndarray, patient: np.ndarray, stratum: np.ndarray | None = None,
    *, level: float = 0.025, seed: int = 0, alpha: float = 0.05, device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Compare the distances of synthetic images to their nearest training and nearest held-out images.

    Parameters
    ----------
    synthetic, real : features float32 (m, d) and (n, d). member : (n,) bool, training rows. patient : (n,) names; none
        is on both sides. stratum : (n,) names (a source); both sides have equally many images of each.
    level : of the one-sided test behind the alarm.

    Returns
    -------
    ``rows``: ``closer to train`` (null 0.5, ties one half, with interval) and ``median distance ratio`` (to training
    over to held-out images; 1 is chance, below 1 closer to training). ``n_each``: images on either side. ``alarm``.

    Notes
    -----
    Patients of the larger side are drawn until it has the smaller one's number of images, ten times; values and
    variances are means over draws. A few real images are nearest to many synthetic ones, so the units are not
    the synthetic images but the patients of their nearest real images: whether such a patient is a training patient is
    what chance would decide. The share is a ratio of sums over them, and its variance the clustered one.
    """
    member = np.asarray(member, bool)
    names, code = np.unique(np.asarray(patient), return_inverse=True)
    strata = np.zeros(len(code), int) if stratum is None else np.unique(np.asarray(stratum), return_inverse=True)[1]
    least = np.minimum(np.bincount(strata[member], minlength=strata.max(initial=0) + 1),
                       np.bincount(strata[~member], minlength=strata.max(initial=0) + 1))  # fmt: skip
    n_each = int(least.sum())
    used = least[strata] > 0
    sides = [len(np.unique(code[rows])) for rows in (member & used, ~member & used)]
    about = {"n_pairs": len(synthetic), "n_patients": sum(sides)}
    if min(sides) < LEAST or not len(synthetic):
        why = f"{sides[0]} training and {sides[1]} held-out patients; {LEAST} of each are needed"
        rows = [_row(name, None, None, None, method=why, flag="suppressed", **about)
                for name in ("closer to train", "median distance ratio")]  # fmt: skip
        return {"rows": rows, "n_each": n_each, "alarm": None}
    rng = np.random.default_rng(derive_seed(seed, "closest record"))
    shares, variances, dfs, ratios = [], [], [], []
    for _ in range(DRAWS):
        rank = rng.permutation(len(names))[code]
        train, held = (_first(side, strata, rank, least) for side in (member, ~member))
        (a, i), (b, j) = (nearest(synthetic, real[rows], euclidean=True, device=device) for rows in (train, held))
        won = (a < b) + 0.5 * (a == b)
        winner = code[np.where(a <= b, train[i], held[j])]
        n = np.bincount(winner, minlength=len(names)).astype(float)
        x = np.bincount(winner, won, len(names))
        value, count = float(won.mean()), int(np.count_nonzero(n))
        influence = (x - value * n) / len(won) * np.sqrt(count / max(count - 1, 1))
        found = measured(np.array([value]), influence[None], np.array([float(count)]))
        shares.append(value)
        variances.append(float(found.variance[0]))
        dfs.append(float(found.df[0]))
        ratios.append(_median(a) / max(_median(b), 1e-12))
    means = [np.array([np.mean(one)]) for one in (shares, variances, dfs)]
    low, high = interval(means[0], means[1], means[2], "wilson", alpha)
    strict, _ = interval(means[0], means[1], means[2], "wilson", 2 * level)
    alarm = bool(strict[0] > 0.5)
    flag = "|".join(part for part in ("few" if min(sides) < FEW else "", "alarm" if alarm else "") if part)
    each = f"{n_each} real images on either side"
    rows = [
        _row("closer to train", float(np.mean(shares)), float(low[0]), float(high[0]), method=f"{HOW}; {each}",
             flag=flag, **about),
        _row("median distance ratio", float(np.mean(ratios)), None, None,
             method=f"median distance to training over that to held-out images; {each}", flag=flag, **about),
    ]  # fmt: skip
    return {"rows": rows, "n_each": n_each, "alarm": alarm}


def _first(side: np.ndarray, strata: np.ndarray, rank: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The first ``least`` rows of a side in each stratum, patient by patient in the order of ``rank``."""
    rows = np.flatnonzero(side)
    rows = rows[np.lexsort((rank[rows], strata[rows]))]
    place = np.arange(len(rows)) - np.searchsorted(strata[rows], strata[rows])
    return np.sort(rows[place < least[strata[rows]]])


def _median(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.5))


def _row(measure: str, value: float | None, low: float | None, high: float | None, **rest: Any) -> dict[str, Any]:
    return {"measure": measure, "value": value, "ci_low": low, "ci_high": high, **rest}
