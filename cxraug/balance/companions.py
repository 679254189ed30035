"""Planned studies without the wanted findings, so that looking synthetic does not come to mean having a finding.

A plan for positives alone makes nearly every synthetic image positive: a classifier can then score a finding by the
look of the generator. Companions of the same groups, with the label sets that real studies there have, break that link.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxraug.balance.allocation import Demand
from cxraug.balance.kinds import Kinds
from cxraug.balance.programme import apportion


def wanted_share(studies: int, companions: float) -> int:
    """How many of ``studies`` are left for the wanted findings when each brings ``companions`` studies along."""
    return max(1, int(studies / (1 + companions)))


def add_companions(
    kinds: Kinds,
    demands: Sequence[Demand],
    counts: np.ndarray,
    companions: float,
    *,
    limit: int | None = None,
    exact: bool = False,
) -> np.ndarray:
    """Counts (S, K) with companions added.

    Parameters
    ----------
    counts : (S, K) planned studies per kind. demands : the cells that they serve; without any nothing is added.
    companions : studies to add per planned one, in the same combination of group levels.
    limit : the most studies in all. exact : reach ``limit`` exactly, with more companions than asked if need be.

    Companions take the kinds that serve no demand, in the proportions in which real studies have them.
    """
    if not demands or companions <= 0 or not counts.any():
        return counts
    wanted = np.any([d.mask for d in demands], axis=0).any(axis=1)  # label sets that serve some demand
    plain = np.where(kinds.allowed & ~wanted[:, None], kinds.familiarity(), 0.0)
    per_combo = np.where(plain.any(axis=0), counts.sum(axis=0), 0)
    number, room = round(companions * counts.sum()), np.inf if limit is None else limit - int(counts.sum())
    number = int(room) if exact else int(min(number, room))
    if number <= 0 or not per_combo.any():
        return counts
    added = np.zeros_like(counts)
    for combo, n in enumerate(apportion(per_combo, number)):
        if n:
            added[:, combo] = apportion(plain[:, combo], int(n))
    return counts + added
