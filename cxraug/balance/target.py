"""Targets: how many studies of a finding are wanted in every level of a group."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cxraug.balance.census import NO_FINDING, Census
from cxraug.errors import InputError
from cxraug.evaluation.groups import MISSING, level_order

ALL = "all"
COLUMNS = ("finding", "group", "level", "studies", "before", "target")


def count_cells(census: Census, levels: Mapping[str, pd.Series], age_bins: Sequence[float]) -> pd.DataFrame:
    """Count studies per finding and group level; the whole set is group ``all``, missing levels are left out.

    Parameters
    ----------
    census : the training studies.
    levels : per group the level of every study (see :func:`cxraug.evaluation.groups.group_levels`).

    Returns
    -------
    Frame with ``finding, group, level, studies`` (whose label is known) and ``before`` (positives).
    """
    known, positive = ~np.isnan(census.y), census.y == 1
    everything = {ALL: pd.Series(ALL, index=census.frame.index, dtype="str"), **levels}
    rows = []
    for group, of_study in everything.items():
        for level in level_order(of_study, age_bins):
            if MISSING in level.split("*"):
                continue
            here = (of_study == level).to_numpy()
            counts = zip(census.findings, known[here].sum(0), positive[here].sum(0), strict=True)
            rows += [(f, group, level, int(n), int(k)) for f, n, k in counts]
    return pd.DataFrame(rows, columns=list(COLUMNS[:5]))


def set_targets(cells: pd.DataFrame, *, floor: int | None, findings: Sequence[str] | None) -> pd.DataFrame:
    """Add the column ``target`` (NaN where nothing is wanted) to ``cells``.

    The floor of a group is ``floor`` or, by default, the median count over its cells (finding x level, without No
    Finding). Every cell of the wanted findings gets its group's floor; without any group the whole set is the level.
    ``findings`` None wants those with a cell under the floor; then No Finding also gets a target, the median of its own
    counts over the levels, so that an under-represented group is not filled with sick patients only.

    Raises
    ------
    InputError : a wanted finding that does not occur.
    """
    known = list(dict.fromkeys(cells["finding"]))
    for name in findings or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise InputError(
                "plan.findings (--findings) names a finding that does not occur in train",
                found=name,
                expected="one of " + ", ".join(known) + (f" (did you mean {near[0]!r}?)" if near else ""),
            )
    cells = cells.assign(target=np.nan)
    groups = [g for g in dict.fromkeys(cells["group"]) if g != ALL] or [ALL]
    for group in groups:
        here = cells["group"] == group
        disease = here & (cells["finding"] != NO_FINDING)
        healthy = here & (cells["finding"] == NO_FINDING)
        if findings is not None:
            base = cells.loc[disease if disease.any() else here, "before"]
            wanted = here & cells["finding"].isin(list(findings))
            cells.loc[wanted, "target"] = floor if floor is not None else _median(base)
            continue
        if disease.any():
            level_floor = floor if floor is not None else _median(cells.loc[disease, "before"])
            under = cells.loc[disease & (cells["before"] < level_floor), "finding"]
            cells.loc[disease & cells["finding"].isin(under), "target"] = level_floor
        if healthy.any() and len(groups) and group != ALL:
            cells.loc[healthy, "target"] = _median(cells.loc[healthy, "before"])
    return cells


def _median(counts: pd.Series) -> int:
    return max(1, int(np.floor(counts.median())))
