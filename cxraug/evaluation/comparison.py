"""Paired comparison of two arms over the runs that both have, and Holm's correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from cxraug.evaluation.measured import Array
from cxraug.evaluation.metrics import METRICS
from cxraug.evaluation.uncertainty import Estimate


def shared_runs(runs: pd.DataFrame, baseline: str, arm: str) -> tuple[Array, Array]:
    """Positions of the runs of ``baseline`` and of ``arm`` that share draw and seed, in the same order."""
    position = runs.assign(_at=np.arange(len(runs)))[["arm", "draw", "seed", "_at"]]
    left = position[position["arm"] == baseline]
    right = position[position["arm"] == arm]
    both = left.merge(right, on=["draw", "seed"], suffixes=("_baseline", "_arm"))
    return both["_at_baseline"].to_numpy(), both["_at_arm"].to_numpy()


def holm(p_values: Array) -> Array:
    """Holm's step-down adjusted p values (Holm 1979); NaN are not part of the family."""
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    order = np.argsort(np.where(np.isnan(p_values), np.inf, p_values), kind="stable")
    order = order[: int((~np.isnan(p_values)).sum())]
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, float(p_values[index]) * (len(order) - rank)))
        adjusted[index] = running
    return adjusted


def non_inferiority(estimate: Estimate, metric: str, margin: float, alpha: float) -> dict[str, Any]:
    """One-sided t test of "the arm is worse than the baseline by the margin or more".

    Parameters
    ----------
    estimate : of arm minus baseline. margin : > 0, in units of the metric. alpha : two-sided level of the printed
        interval; the test is at ``alpha / 2``, so that it agrees with that interval's end (ICH E9, 3.3.2).

    Returns
    -------
    ``margin, bound`` (the interval's end on the bad side: a lower bound of the difference where higher is better, an
    upper one otherwise)``, p_value, shown`` (p <= alpha / 2). "Not shown" is no evidence of inferiority.
    """
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    room = sign * estimate.value + margin
    error = float(np.sqrt(estimate.variance))
    p_value = float(special.stdtr(estimate.df, -room / error)) if error > 0 else float(room <= 0)
    bound = estimate.value - sign * estimate.margin(alpha)
    return {"margin": margin, "bound": bound, "p_value": p_value, "shown": p_value <= alpha / 2}
