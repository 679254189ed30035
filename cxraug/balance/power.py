"""How many positives it takes to measure an AUROC gap."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

POWER = 0.8
MOST = 10_000_000


def auroc_variance(auroc: float, positives: float, negatives: float) -> float:
    """Variance of an AUROC of that size (Hanley & McNeil 1982, eq. 1: exponential scores); inf without either class."""
    if positives < 1 or negatives < 1:
        return float("inf")
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    square = auroc**2
    return (auroc * (1 - auroc) + (positives - 1) * (q1 - square) + (negatives - 1) * (q2 - square)) / (
        positives * negatives
    )


def detectable_gap(
    auroc: float, here: tuple[float, float], rest: tuple[float, float], *, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest gap between two independent AUROCs that a two-sided test finds with ``power``.

    ``here`` and ``rest`` are (positives, negatives) of a level and of what it is compared with;
    ``(z_alpha/2 + z_power) sqrt(var + var)`` as :meth:`cxraug.evaluation.uncertainty.Estimate.detectable`.
    """
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)
    return float(quantiles * np.sqrt(auroc_variance(auroc, *here) + auroc_variance(auroc, *rest)))


def positives_needed(gap: float, auroc: float, negatives: float, rest: tuple[float, float]) -> int | None:
    """The fewest positives of a level with ``negatives`` that make ``gap`` to ``rest`` detectable; None if none do."""
    if not detectable_gap(auroc, (MOST, negatives), rest) <= gap:
        return None
    low, high = 0, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable_gap(auroc, (middle, negatives), rest) <= gap else (middle, high)
    return high
