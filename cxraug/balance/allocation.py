"""The allocation: how many studies of each kind meet the targets, and in which order they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxraug.balance.kinds import Kinds
from cxraug.balance.programme import apportion, cover
from cxraug.balance.target import ALL

GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Demand:
    """A cell that is short: ``missing`` of ``target`` studies, which the kinds in ``mask`` (S, K) serve."""

    missing: int
    target: int
    mask: np.ndarray
    words: str


def list_demands(kinds: Kinds, cells: pd.DataFrame, levels: Mapping[str, pd.Series]) -> list[Demand]:
    """The cells under their target that some kind serves; ``cells`` as of :func:`cxraug.balance.target.set_targets`."""
    demands = []
    for row in cells[(cells["target"] > cells["before"]).to_numpy()].to_dict("records"):
        finding, group, level, before, target = (row[k] for k in ("finding", "group", "level", "before", "target"))
        has = np.array([finding in s for s in kinds.sets], dtype=bool)
        at = np.ones(len(kinds.combos), dtype=bool)
        if group != ALL:
            at = (levels[group].iloc[kinds.combos] == level).to_numpy()
        mask = np.outer(has, at) & kinds.allowed
        if mask.any():
            where = "" if group == ALL else f" in {group} {level}"
            words = f"{finding}{where} ({before} of {target:.0f})"
            demands.append(Demand(int(target - before), int(target), mask, words))
    return demands


def allocate(kinds: Kinds, demands: Sequence[Demand], budget: int | None, n: int | None) -> np.ndarray:
    """(S, K) studies to plan of each kind.

    Parameters
    ----------
    budget : the most studies; None: as many as the demands need.
    n : exactly so many, in place of ``budget``: beyond the demands every kind grows in proportion. Without any demand
        the real proportions are kept.
    """
    familiarity = np.where(kinds.allowed, kinds.familiarity(), 0.0)
    if demands:
        counts = _solve(kinds, demands, familiarity, budget if n is None else n)
    else:
        counts = np.zeros(familiarity.shape, dtype=np.int64)
    if n is not None and counts.sum() < n and familiarity.sum():
        weights = counts if counts.any() else familiarity
        counts = apportion(weights.ravel(), n).reshape(counts.shape)
    return counts


def interleave(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Item i ``counts[i]`` times, in an order of which every prefix holds the items in proportion.

    The k-th copy of an item stands at (k + u) / count with an offset u of its own; offsets follow the golden ratio, so
    that neighbouring items alternate even where each occurs once. The prefix up to position t holds floor(t * count) or
    one more of every item.
    """
    counts = np.asarray(counts)
    item = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
    present = np.cumsum(counts > 0) - 1
    start = (0.5 + GOLDEN * present) % 1.0
    return item[np.argsort((rank + start[item]) / counts[item], kind="stable")]


def _solve(kinds: Kinds, demands: Sequence[Demand], familiarity: np.ndarray, budget: int | None) -> np.ndarray:
    """Solve over classes of label sets that serve the same demands, then divide each class among its sets.

    Sets of one class are interchangeable for the targets, so dividing them in proportion to real counts loses nothing.
    """
    by_set = np.concatenate([d.mask for d in demands], axis=1)
    patterns, class_of = np.unique(by_set, axis=0, return_inverse=True)
    class_of = class_of.ravel()
    members = [np.flatnonzero(class_of == c) for c in range(len(patterns)) if patterns[c].any()]
    serves = np.stack([np.stack([d.mask[m[0]] for m in members]).ravel() for d in demands])
    known = np.stack([familiarity[m].sum(axis=0) for m in members]).ravel()
    useful = serves.any(axis=0)
    solved = np.zeros(known.shape, dtype=np.int64)
    missing, target = [d.missing for d in demands], [d.target for d in demands]
    solved[useful] = cover(serves[:, useful], missing, target, known[useful], budget)
    counts = np.zeros(familiarity.shape, dtype=np.int64)
    real = np.bincount(kinds.set_of[kinds.set_of >= 0], minlength=len(kinds.sets))
    for m, row in zip(members, solved.reshape(len(members), -1), strict=True):
        if row.sum():
            dealt = interleave(apportion(real[m], int(row.sum())))
            np.add.at(counts, (m[dealt], np.repeat(np.arange(len(row)), row)), 1)
    return counts
