"""Why a target is not met: the limits that bind, in words, and what would change without each of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from cxraug.balance.allocation import Allocation, Demand
from cxraug.balance.limits import FAMILIES
from cxraug.balance.programme import Programme, relaxed_shortfall

TOLERANCE = 1e-9
MISSED = 0.5  # studies: a smaller shortfall of a share is rounding
ROUNDING = "whole studies: a part of one is missing"


def held_back_by(made: Allocation, demands: Sequence[Demand]) -> dict[int, str]:
    """For every row of the table of cells whose target is not met, the limits that bind it.

    A limit binds a target where giving it one more unit would lower the shortfalls (its price in the linear programme)
    and a kind that serves the target counts in it.
    """
    p, solution = made.programme, made.solution
    if p is None:
        return {}
    missing = p.shortfall(solution.counts)
    used_up = p.rows @ solution.counts > p.most - 1
    found: dict[int, str] = {}
    for j in np.flatnonzero(missing > MISSED).tolist():
        serving = p.gain[j] > 0
        count = ((p.rows > 0) & serving).any(axis=1)
        own = [int(i) for i in np.flatnonzero(count & used_up) if _is_own(p, j, int(i))]
        bound = own or [int(i) for i in np.flatnonzero(count & (solution.prices > TOLERANCE))]
        bound.sort(key=lambda i: (p.most[i], i) if own else (-solution.prices[i], i))
        words = list(dict.fromkeys(made.words[i] for i in bound))[: 1 if own else 2]
        capped = serving & np.isfinite(p.upper)
        if capped.any() and (solution.counts >= p.upper - TOLERANCE)[serving].all():
            kinds = int(serving.sum())
            words.insert(0, "the cap per prompt: " + ("the one kind of prompt that serves it is used up" if kinds == 1
                            else f"all {kinds} kinds of prompt that serve it are used up"))  # fmt: skip
        elif capped.any() and (solution.upper_prices[serving] > TOLERANCE).any():
            words.append("the cap per prompt")
        found.setdefault(demands[j].cell, "; ".join(words) or "the other targets: raising it would push them off")
    return found


def without_each_limit(made: Allocation, demands: Sequence[Demand], short: Collection[int]) -> list[str]:
    """A sentence: how many of the unmet targets would be met without each family of limits.

    ``short`` : the rows of the table of cells that limits keep under their target.
    """
    p = made.programme
    of_cell = {cell: np.array([d.cell == cell for d in demands], dtype=bool) for cell in short}
    if p is None or not any(asked.any() for asked in of_cell.values()):
        return []
    told, most = [], 0
    families = list(dict.fromkeys(made.families)) + (["per prompt"] if np.isfinite(p.upper).any() else [])
    if not families:
        return []
    for family in families:
        missing = relaxed_shortfall(_without(p, made.families, family))
        met = sum(bool(asked.any() and (missing[asked] <= MISSED).all()) for asked in of_cell.values())
        told.append(f"{met} without {FAMILIES[family]}")
        most = max(most, met)
    together = ", together they hold back the rest" if len(families) > 1 and most < len(of_cell) else ""
    return [f"{len(of_cell)} targets are held back by limits; met would be {', '.join(told)}{together}"]


def _is_own(p: Programme, target: int, limit: int) -> bool:
    """The limit counts nothing but what serves the target, which is out of reach."""
    serves = p.gain[target] > 0
    return bool(((p.rows[limit] > 0) == serves).all() and p.beyond[target] > 0)


def _without(p: Programme, families: Sequence[str], family: str) -> Programme:
    if family == "per prompt":
        free = replace(p, upper=np.full(len(p.upper), np.inf))
    else:
        keep = np.array([f != family for f in families], dtype=bool)
        free = replace(p, rows=p.rows[keep], most=p.most[keep], room=p.room[keep])
    return replace(free, beyond=np.zeros(len(p.need)) if family != "budget" else p.beyond)
