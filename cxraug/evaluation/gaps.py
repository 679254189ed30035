"""Gaps between groups: simultaneous intervals and p values that agree, from one studentised max-T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from cxraug.evaluation.measured import Array
from cxraug.evaluation.uncertainty import Estimate, bounds

DRAWS = 4000


@dataclass(frozen=True)
class Gaps:
    """G gaps ``left - right`` of one metric, arrays (G,).

    ``difference`` has the total variance (draws, seeds and patients in both levels included); ``left`` and ``right``
    are the two sides with their own variances, which say how skewed the gap's distribution is.
    """

    value: Array
    variance: Array
    df: Array
    left: tuple[Array, Array, Array]  # value, variance, patients
    right: tuple[Array, Array, Array]
    scale: str

    @classmethod
    def of(cls, differences: list[Estimate], left: list[Estimate], right: list[Estimate], scale: str) -> Gaps:
        """From estimates of the gaps and of their sides."""

        def side(estimates: list[Estimate]) -> tuple[Array, Array, Array]:
            values = [(estimate.value, estimate.variance, estimate.df + 1) for estimate in estimates]
            value, variance, patients = np.array(values, dtype=float).reshape(-1, 3).T
            return value, variance, patients

        value, variance, patients = side(differences)
        return cls(value, variance, patients - 1, side(left), side(right), scale)

    def limits(self, quantile: Array) -> tuple[Array, Array]:
        """Limits of the gaps at ``quantile`` standard errors.

        Method of variance estimates recovery (Newcombe 1998, Stat Med 17, 873-890, method 10; Zou & Donner 2008): the
        distances of the sides' own limits (Wilson or logit), squared and added. The sides' variances are scaled to add
        up to the gap's.
        """
        scale = self.variance / np.maximum(self.left[1] + self.right[1], 1e-300)
        distances = []
        for value, variance, patients in (self.left, self.right):
            low, high = bounds(value, variance * scale, patients / np.maximum(scale, 1e-300), self.scale, quantile)
            distances.append((value - low, high - value))
        (left_down, left_up), (right_down, right_up) = distances
        return self.value - np.hypot(left_down, right_up), self.value + np.hypot(left_up, right_down)

    def p_values(self) -> Array:
        """Two-sided p values that agree with :meth:`limits`: the quantile at which the interval reaches 0, by t."""
        low, high = np.zeros_like(self.value), np.full_like(self.value, 64.0)
        for _ in range(45):
            middle = (low + high) / 2
            lower, upper = self.limits(middle)
            excluded = np.where(self.value > 0, lower > 0, upper < 0)
            low, high = np.where(excluded, middle, low), np.where(excluded, high, middle)
        return np.where(self.value == 0, 1.0, 2 * special.stdtr(self.df, -low))

    def interval(self, alpha: Array | float) -> tuple[Array, Array]:
        """Two-sided ``1 - alpha`` intervals, each with its own t quantile."""
        return self.limits(special.stdtrit(self.df, 1 - alpha / 2))


@dataclass(frozen=True)
class Simultaneous:
    """``p_adjusted`` (G,), and ``alpha``: the marginal level at which the G intervals hold together.

    Both come from the same draws: ``p_adjusted <= level`` exactly where the marginal p is at most ``alpha``.
    """

    p_adjusted: Array
    alpha: float


def max_t(influence: Sequence[Array], p_values: Array, level: float, seed: int, draws: int = DRAWS) -> Simultaneous:
    """Adjust a family of G studentised statistics for multiplicity, with their correlation.

    Parameters
    ----------
    influence : G times (P,), patient influence values of the estimates. p_values : (G,) marginal two-sided p values.
    level : wanted family-wise error, 0 to 1. draws : multiplier replicates.

    Notes
    -----
    Multiplier bootstrap (Chernozhukov, Chetverikov & Kato 2013) of ``max_g |sum_i xi_i psi_ig| / se_g`` with standard
    normal multipliers xi per patient; given the data its distribution is normal with the correlation of the influence
    values, from which it is drawn directly. Each statistic enters through its own t distribution (``z = Phi^-1(1 -
    p/2)``), so that few patients, draws or seeds widen their own gap only. Mirror images (M against rest, F against
    rest) are perfectly correlated and so count once; patients in two levels enter through the correlation. Bonferroni
    bounds p from above where the replicates run out.
    """
    correlation = correlation_of(influence)
    free = _distinct(correlation)
    z = -special.ndtri(np.clip(p_values, 1e-300, 1) / 2)
    if free == 1:
        return Simultaneous(np.asarray(p_values, dtype=float).copy(), level)
    largest = np.sort(np.abs(correlated_normals(correlation, seed, draws)).max(axis=1))[::-1]
    beyond = np.searchsorted(-largest, -z, side="right")
    p_adjusted = np.minimum((1 + beyond) / (draws + 1), np.minimum(p_values * free, 1))
    allowed = int(np.floor(level * (draws + 1))) - 1
    critical = largest[max(allowed, 0)]
    alpha = max(2 * special.ndtr(-critical), level / free)
    return Simultaneous(np.maximum(p_adjusted, p_values), float(min(alpha, level)))


def correlation_of(influence: Sequence[Array]) -> Array:
    """Correlation (G, G) of estimates with patient ``influence`` values, G times (P,); single precision is enough."""
    values = np.asarray(influence, dtype=np.float32)
    covariance = (values @ values.T).astype(float)
    scale = np.sqrt(covariance.diagonal())
    scale = np.where(scale > 0, scale, 1)
    correlation = covariance / scale[:, None] / scale
    np.fill_diagonal(correlation, 1.0)
    return correlation


def correlated_normals(correlation: Array, seed: int, draws: int) -> Array:
    """Normal draws (draws, G) with unit variance and ``correlation`` (G, G).

    Through its symmetric root, the one root that rounding does not turn: where G tests are copies of each other any
    other depends on the last digits, and with it which draws are made.
    """
    values, vectors = np.linalg.eigh(correlation)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return np.random.default_rng(seed).standard_normal((draws, len(root))) @ root


def _distinct(correlation: Array) -> int:
    """How many tests are left when mirror images and copies (|r| = 1) count once."""
    twin = np.abs(correlation) > 1 - 1e-5
    return int((np.argmax(twin, axis=1) == np.arange(len(twin))).sum())
