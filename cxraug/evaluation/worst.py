"""The worst level of every grouping, read off the cells."""

from __future__ import annotations

from typing import Any

import pandas as pd

from cxraug.evaluation.groups import MISSING
from cxraug.evaluation.metrics import METRICS


def worst_levels(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Per arm, finding, grouping and metric the shown level with the worst value over all runs.

    Parameters
    ----------
    cells : the contract's columns.

    Returns
    -------
    dicts ``arm, finding, group, metric, level, value, ci_low, ci_high, flag, levels`` (how many were shown, at least
    2). The worst of several is picked by its noise too: its value is biased towards the bad side and its interval is
    that of a level chosen in advance. A calibration slope is worst farthest from 1.
    """
    known = ~cells["level"].str.split("*").map(lambda parts: MISSING in parts).astype(bool)
    rows = cells[
        (cells["seed"] == "all") & (cells["draw"] == "all") & (cells["group"] != "all") & cells["metric"].isin(METRICS)
        & (cells["flag"] != "suppressed") & known
    ]  # fmt: skip
    found = []
    for key, part in rows.groupby(["arm", "finding", "group", "metric"], sort=False):
        if len(part) < 2:
            continue
        metric = str(key[3])
        goodness = part["value"] if METRICS[metric].higher_is_better else -part["value"]
        if metric == "calibration_slope":
            goodness = -(part["value"] - 1).abs()
        row = part.iloc[int(goodness.to_numpy().argmin())]
        where = dict(zip(("arm", "finding", "group", "metric"), map(str, key), strict=True))
        numbers = {name: float(row[name]) for name in ("value", "ci_low", "ci_high")}
        found.append({**where, "level": str(row["level"]), **numbers, "flag": str(row["flag"]), "levels": len(part)})
    return found
