"""The limits of a plan as rows of its programme, each with the words that name it where it binds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxraug.balance.kinds import Kinds
from cxraug.balance.settings import PlanSettings
from cxraug.balance.target import ALL, ANY

VIEWS = "views"  # the pseudo-group that kinds are cut by where views are held in proportion
FAMILIES = {"budget": "the budget", "per real": "synthetic per real", "views": "views in proportion",
            "per prompt": "the cap per prompt"}  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """At most ``most`` of ``sum(weight * counts)``; ``weight`` (S, K) by kind, ``family`` a key of FAMILIES.

    ``slack``: by how much whole studies may be beyond it, where it is about a share.
    """

    family: str
    words: str
    weight: np.ndarray
    most: float
    slack: float = 0.0


def list_limits(
    kinds: Kinds,
    cells: pd.DataFrame,
    levels: Mapping[str, pd.Series],
    settings: PlanSettings,
    views: pd.Series,
) -> list[Limit]:
    """All limits but the budget and the cap per prompt.

    Parameters
    ----------
    cells : of :func:`cxraug.balance.target.count_cells`, with ``real`` (positives that are real) beside ``before``,
        which also counts what earlier plans made; and the rows of :data:`cxraug.balance.target.ANY`.
    levels : of every real study, with :data:`VIEWS` where views are held. views : of every real study.
    """
    found = []
    if settings.per_real is not None:
        for row in cells.to_dict("records"):
            most = np.floor(settings.per_real * row["real"] + 1e-9) - (row["before"] - row["real"])
            where = "" if row["group"] == ALL else f" in {row['group']} {row['level']}"
            cell = f"{row['finding']}{where} has {row['real']:,} real"
            words = f"at most {settings.per_real:g} synthetic per real: {cell}"
            weight = cell_mask(kinds, levels, row["finding"], row["group"], row["level"]).astype(float)
            found.append(Limit("per real", words, weight, max(float(most), 0.0)))
    if settings.views_as_real is not None:
        found += _view_limits(kinds, levels, views, settings.views_as_real)
    return found


def cell_mask(kinds: Kinds, levels: Mapping[str, pd.Series], finding: str, group: str, level: str) -> np.ndarray:
    """(S, K) bool: kinds that count in the cell, whether or not they can be planned."""
    has = np.array([finding == ANY or finding in s for s in kinds.sets], dtype=bool)
    at = np.ones(len(kinds.combos), dtype=bool)
    if group != ALL:
        at = (levels[group].iloc[kinds.combos] == level).to_numpy()
    return np.outer(has, at)


def _view_limits(kinds: Kinds, levels: Mapping[str, pd.Series], views: pd.Series, tolerance: float) -> list[Limit]:
    """Two rows per level and view: its share is at most, and at least, the real one; one study of slack to round."""
    everywhere = {ALL: pd.Series(ALL, index=views.index), **{g: s for g, s in levels.items() if g != VIEWS}}
    of_kind = levels[VIEWS].iloc[kinds.combos].to_numpy()
    held, ones = [], np.ones(len(kinds.sets))
    for group, level_of in everywhere.items():
        for level in dict.fromkeys(level_of.iloc[kinds.combos]):
            here = (level_of == level).to_numpy() & (kinds.combo_of >= 0)
            at = (level_of.iloc[kinds.combos] == level).to_numpy()
            for view in dict.fromkeys(of_kind[at]):
                share = float((views[here] == view).mean())
                of_view = at & (of_kind == view)
                where = "" if group == ALL else f" in {group} {level}"
                words = f"views in proportion: {view} is {share:.0%} of real studies{where}"
                for sign in (1.0, -1.0):
                    row = sign * of_view - (sign * share + tolerance) * at
                    held.append(Limit("views", words, np.outer(ones, row), 0.0, slack=1.0))
    return held
