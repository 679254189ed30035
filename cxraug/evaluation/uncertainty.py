"""From runs to one estimate: draws, seeds and patients put together, nothing counted twice; and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from cxraug.evaluation.measured import Array, Measured

POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """Mean over draws of the mean over seeds, with its total variance and degrees of freedom.

    ``influence`` (P,) is that of the mean; ``clustered`` the part of ``variance`` that patients alone explain.
    """

    value: float
    variance: float
    df: float
    clustered: float
    influence: Array
    n_draws: int
    n_seeds: int

    @property
    def p_value(self) -> float:
        """Two-sided t test of value = 0; 1 where nothing varies and the value is 0."""
        if self.variance <= 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * special.stdtr(self.df, -abs(self.value) / np.sqrt(self.variance)))

    def margin(self, alpha: float) -> float:
        """Half-width of the two-sided ``1 - alpha`` interval."""
        return float(special.stdtrit(self.df, 1 - alpha / 2) * np.sqrt(self.variance))

    def detectable(self, alpha: float) -> float:
        """The smallest true value that a two-sided test at ``alpha`` finds with 80 % power: ``(t_a + t_b) se``."""
        quantiles = special.stdtrit(self.df, 1 - alpha / 2) + special.stdtrit(self.df, POWER)
        return float(quantiles * np.sqrt(self.variance))


def combine(measured: Measured, draws: Array, *, spread: bool = True) -> Estimate:
    """Combine runs of one arm (or paired differences of two) into one estimate (rule 5 of the evidence rules).

    Parameters
    ----------
    measured : R runs. draws : (R,) the draw of each run; runs of one draw are its seeds.
    spread : False ignores the scatter between runs (the runs as given, not the procedure that made them).

    Notes
    -----
    Units u are the draws, or the seeds where there is one draw. With ``psi_u`` the mean influence of a unit:
    ``A = S_u^2 / U`` (scatter of unit means, U - 1 df), ``C = sum_i mean_u(psi_u)_i^2`` (clustered sampling variance
    of the mean), ``B = sum_u sum_i (psi_u - mean psi)_i^2 / (U (U - 1))`` (the patient noise that A holds already).
    Both A and C hold B once, so ``V = A + C - B``, floored at the larger of A and C: the variance decomposition of
    Obuchowski & Rockette 1995 with readers replaced by draws, seeds nested. df: :func:`mixed_df` of A and V - A.
    """
    if len(draws) == 1:
        value, variance, df = (float(one[0]) for one in (measured.value, measured.variance, measured.df))
        return Estimate(value, variance, df, variance, measured.influence[0], 1, 1)
    names, unit = np.unique(draws, return_inverse=True)
    n_draws = len(names)
    per_draw = np.bincount(unit)
    weights = 1.0 / (n_draws * per_draw[unit])
    value = float(weights @ measured.value)
    influence = weights @ measured.influence
    floor = float((weights @ np.sqrt(measured.floor)) ** 2)
    clustered = float(influence @ influence) + floor
    patient_df = float(measured.df.min())
    if n_draws == 1:
        unit = np.arange(len(draws))
    units = int(unit.max()) + 1
    variance, df = clustered, patient_df
    if spread and units > 1:
        sizes = np.bincount(unit)
        unit_values = np.bincount(unit, measured.value) / sizes
        unit_influence = np.zeros((units, measured.influence.shape[1]))
        np.add.at(unit_influence, unit, measured.influence / sizes[unit][:, None])
        between = float(unit_values.var(ddof=1) / units)
        shared = float(np.square(unit_influence - influence).sum() / (units * (units - 1)))
        variance = max(between + clustered - shared, between, clustered)
        rest = variance - between
        if variance > 0:
            df = float(mixed_df((between, rest), (units - 1, patient_df)))
    return Estimate(value, variance, df, clustered, influence, n_draws, int(per_draw.min()))


def mixed_df(parts: Sequence[Array | float], dfs: Sequence[Array | float]) -> Array | float:
    """Degrees of freedom of a variance that is a sum of independent ``parts`` with ``dfs`` of their own.

    Their harmonic mean weighted by the parts: to first order (t is nearly linear in 1 / df) the quantile of Cochran &
    Cox 1950, who weight the parts' own t alike. Satterthwaite (1946) squares the weights; where three seeds happen to
    lie close together, the variance and its uncertainty are then underestimated at once, and 95 % intervals cover 92 %
    (benchmarks/COVERAGE.md).
    """
    total = sum(parts)
    return total / sum(part / df for part, df in zip(parts, dfs, strict=True))


def interval(value: Array, variance: Array, df: Array, scale: str, alpha: float) -> tuple[Array, Array]:
    """Two-sided ``1 - alpha`` intervals (arrays of one shape) with t quantiles; see :func:`bounds`."""
    value, variance, df = np.broadcast_arrays(*np.atleast_1d(value, variance, df))
    return bounds(value, variance, df + 1, scale, special.stdtrit(df, 1 - alpha / 2))


def bounds(value: Array, variance: Array, patients: Array, scale: str, quantile: Array) -> tuple[Array, Array]:
    """Lower and upper limit at ``quantile`` standard errors (arrays of one shape).

    ``wilson``: Wilson's with effective n ``v (1 - v) / variance`` (n over the design effect); ``logit``: symmetric on
    the logit scale, back-transformed; ``linear``; ``root``: linear for a squared error, then the root, cut at 0. The
    stated rule at a value of 0 or 1: Wilson with n = independent ``patients``.
    """
    if scale in ("linear", "root"):
        half = quantile * np.sqrt(variance)
        return shown(value - half, scale), shown(value + half, scale)
    inside = (value > 0) & (value < 1) & (variance > 0)
    room = np.where(inside, value * (1 - value), 0.25)
    n = np.where(inside, room / np.where(inside, variance, 1), patients)
    low, high = wilson(value, n, quantile)
    if scale == "wilson":
        return low, high
    centre = special.logit(np.where(inside, value, 0.5))
    half = quantile * np.sqrt(variance) / room
    return (
        np.where(inside, special.expit(centre - half), low),
        np.where(inside, special.expit(centre + half), high),
    )


def shown(value: Array, scale: str) -> Array:
    """What is printed of ``value``: the root of a squared error that is not negative, anything else as it is."""
    return np.sqrt(np.maximum(value, 0)) if scale == "root" else value


def wilson(value: Array, n: Array, z: Array | float) -> tuple[Array, Array]:
    """Wilson's score interval (1927) of a proportion ``value`` with effective sample size ``n`` at quantile ``z``."""
    shrink = 1 + z**2 / n
    centre = (value + z**2 / (2 * n)) / shrink
    half = z * np.sqrt(np.maximum(value * (1 - value) / n + z**2 / (4 * n**2), 0)) / shrink
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
