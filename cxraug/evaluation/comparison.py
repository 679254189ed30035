"""Paired comparison of two arms over the runs that both have, and Holm's correction."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxraug.evaluation.measured import Array


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
