"""Two-by-two tables: ratios with intervals, exact tests, strength of association, correction for many looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A positive ratio (1 = no difference) with its 95 % interval; NaN where nothing can be said."""

    value: float
    low: float
    high: float


NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


def prevalence_ratio(positive: int, total: int, other_positive: int, other_total: int) -> Estimate:
    """Prevalence in one group divided by that in another, with Katz's interval on the log scale (Katz 1978).

    Where a group has no positive, half a case and half a non-case are added to both groups.
    """
    if total == 0 or other_total == 0 or positive + other_positive == 0:
        return NOTHING
    add = 0.5 if positive == 0 or other_positive == 0 else 0.0
    a, n, b, m = positive + add, total + 2 * add, other_positive + add, other_total + 2 * add
    return _from_log(np.log((a / n) / (b / m)), np.sqrt(max(1 / a - 1 / n + 1 / b - 1 / m, 0.0)))


def odds_ratio(positive: int, total: int, other_positive: int, other_total: int) -> Estimate:
    """Odds in one group divided by those in another, with Woolf's interval; 0.5 is added to every count if one is 0."""
    counts = np.array([positive, total - positive, other_positive, other_total - other_positive], dtype=float)
    if total == 0 or other_total == 0 or positive + other_positive in (0, total + other_total):
        return NOTHING
    if (counts == 0).any():
        counts += 0.5
    a, b, c, d = counts
    return _from_log(np.log(a * d / (b * c)), np.sqrt((1 / counts).sum()))


def fisher_p(positive: int, total: int, other_positive: int, other_total: int) -> float:
    """Two-sided p value of Fisher's exact test; 1 where a margin is empty."""
    from scipy.special import gammaln

    cases = positive + other_positive
    if total == 0 or other_total == 0 or cases in (0, total + other_total):
        return 1.0
    x = np.arange(max(0, cases - other_total), min(cases, total) + 1)
    log_p = -(gammaln(x + 1) + gammaln(total - x + 1))
    log_p -= gammaln(cases - x + 1) + gammaln(other_total - cases + x + 1)
    p = np.exp(log_p - log_p.max())
    as_extreme = p <= p[positive - x[0]] * (1 + 1e-7)
    return float(min(1.0, p[as_extreme].sum() / p.sum()))


def cramers_v(positive: Sequence[int] | np.ndarray, total: Sequence[int] | np.ndarray) -> float:
    """Strength of association, 0 to 1, of a finding (present or absent) with a variable of several levels.

    Cramer's V, bias-corrected after Bergsma (2013); NaN with fewer than two levels or with an empty margin.
    """
    n = np.asarray(total, dtype=float)
    k = np.asarray(positive, dtype=float)[n > 0]
    n = n[n > 0]
    size, p = n.sum(), k.sum() / max(n.sum(), 1.0)
    if len(n) < 2 or p in (0.0, 1.0) or size < 2:
        return float("nan")
    phi2 = float((((k - n * p) ** 2) / (n * p * (1 - p))).sum() / size)
    levels = len(n)
    phi2 = max(0.0, phi2 - (levels - 1) / (size - 1))
    corrected_levels = levels - (levels - 1) ** 2 / (size - 1)
    corrected_two = 2 - 1 / (size - 1)
    return float(min(1.0, np.sqrt(phi2 / max(min(corrected_levels, corrected_two) - 1, 1e-12))))


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927); (0, 1) when nothing was counted."""
    if total == 0:
        return 0.0, 1.0
    p = count / total
    centre = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * np.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p values (Holm 1979) of one family."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))) if len(p) else p
    result = np.empty(len(p))
    result[order] = np.minimum(adjusted, 1.0)
    return result


def _from_log(log_value: float, error: float) -> Estimate:
    return Estimate(
        float(np.exp(log_value)), float(np.exp(log_value - Z * error)), float(np.exp(log_value + Z * error))
    )
