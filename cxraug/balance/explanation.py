"""Why a target is not met: the limits that bind, in words, and what would change without each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cxraug.balance.allocation import Allocation, Demand
from cxraug.balance.limits import FAMILIES
from cxraug.balance.programme import Programme, relaxed_shortfall

TOLERANCE = 1e-9
MISSED = 0.5  # studies: a smaller shortfall of a share is rounding


def held_back_by(made: Allocation, demands: Sequence[Demand]) -> dict[int, str]:
    """For every row of the table of cells whose target is not met, the limits that bind it.

    A limit binds a target where giving it one more unit would lower the shortfalls (its price in the linear programme)
    and a kind that serves the target counts in it.
    """
    p, solution = made.programme, made.solution
    if p is None:
        return {}
    missing = p.shortfall(solution.counts)
    found: dict[int, str] = {}
    for j in np.flatnonzero(missing > MISSED).tolist():
        serving = p.gain[j] > 0
        count = ((p.rows > 0) & serving).any(axis=1)
        own = [int(i) for i in np.flatnonzero(count) if _is_own(p, j, int(i))]
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


def without_each_limit(made: Allocation) -> list[str]:
    """Sentences: how many of the unmet targets would be met without each family of limits."""
    p = made.programme
    if p is None or p.shortfall(made.solution.counts).max(initial=0.0) <= MISSED:
        return []
    unmet = made.solution.missing > MISSED
    if not unmet.any():
        return []
    told = []
    families = list(dict.fromkeys(made.families)) + (["per prompt"] if np.isfinite(p.upper).any() else [])
    for family in families:
        freed = _without(p, made.families, family)
        met = int((unmet & (relaxed_shortfall(freed) <= MISSED)).sum())
        told.append(f"without {FAMILIES[family]}: {met} of the {int(unmet.sum())} unmet targets would be met")
    if len(families) > 1 and not any(f": {int(unmet.sum())} of" in text for text in told):
        told.append("these limits hold the rest back together")
    return told


def _is_own(p: Programme, target: int, limit: int) -> bool:
    """The limit counts nothing but what serves the target, and is used up by it."""
    serves = p.gain[target] > 0
    return bool(((p.rows[limit] > 0) == serves).all() and p.beyond[target] > 0)


def _without(p: Programme, families: Sequence[str], family: str) -> Programme:
    if family == "per prompt":
        free = replace(p, upper=np.full(len(p.upper), np.inf))
    else:
        keep = np.array([f != family for f in families], dtype=bool)
        free = replace(p, rows=p.rows[keep], most=p.most[keep])
    return replace(free, beyond=np.zeros(len(p.need)) if family != "budget" else p.beyond)
