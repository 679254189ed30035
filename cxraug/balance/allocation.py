"""The allocation: how many studies of each kind meet the targets, and in which order they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from cxraug.balance.kinds import Kinds
from cxraug.balance.limits import Limit, cell_mask
from cxraug.balance.programme import Programme, Solution, apportion, solve
from cxraug.balance.target import ALL, ANY

GOLDEN = 0.6180339887498949
NEXT = 1 - 1e-6  # a share wanted from both sides is met by either whole number next to it
MARGIN, MARGIN_SHARE = 3.0, 0.01  # studies, or part of a target, by which a share is met before rounding


@dataclass(frozen=True)
class Demand:
    """A cell that is short: ``missing`` studies, which the kinds in ``mask`` (S, K) serve.

    ``target`` is what a shortfall is divided by when shortfalls are compared: the studies wanted in total.
    ``gain`` (S, K) is what a study of each kind gives; None: one in ``mask``. ``cell``: its row in the table of cells.
    ``ratio``: it is about a share, so that other studies move it as well. ``margin``: studies by which it is met before
    studies are made whole; ``slack``: by which whole studies may miss it.
    """

    missing: float
    target: float
    mask: np.ndarray
    words: str
    gain: np.ndarray | None = None
    cell: int = -1
    ratio: bool = False
    margin: float = 0.0
    slack: float = 0.0

    @property
    def effect(self) -> np.ndarray:
        """(S, K) float; see ``gain``."""
        return self.mask.astype(float) if self.gain is None else self.gain


@dataclass(frozen=True)
class Allocation:
    """Counts (S, K) of studies per kind, and the programme (over classes of label sets) that they solve."""

    counts: np.ndarray
    programme: Programme | None = None
    solution: Solution = field(default_factory=lambda: Solution(np.zeros(0, dtype=np.int64)))
    families: tuple[str, ...] = ()  # of the programme's limits, in the order of its rows
    words: tuple[str, ...] = ()


def list_demands(
    kinds: Kinds, cells: pd.DataFrame, levels: Mapping[str, pd.Series], *, tolerance: float = 0.0
) -> list[Demand]:
    """The cells under their target or off their share that some kind serves; ``cells`` as of ``want`` in target.py."""
    demands = []
    cells = cells.reset_index(drop=True)
    shares = cells["share"] if "share" in cells.columns else pd.Series(np.nan, index=cells.index)
    for at in np.flatnonzero((cells["target"] > cells["before"]).to_numpy() | shares.notna().to_numpy()):
        row = cells.iloc[at].to_dict()
        inside = cell_mask(kinds, levels, row["finding"], row["group"], row["level"])
        where = "" if row["group"] == ALL else f" in {row['group']} {row['level']}"
        if shares.isna().iloc[at]:
            mask, target = inside & kinds.allowed, int(row["target"])
            if mask.any():
                words = f"{row['finding']}{where} ({row['before']} of {target:.0f})"
                scale = float(row.get("scale", target))
                demands.append(Demand(target - row["before"], scale, mask, words, cell=int(at)))
            continue
        whole = ALL if row["finding"] == ANY else row["group"]  # what the share is a share of
        of = cell_mask(kinds, levels, ANY, whole, row["level"])
        demands += _share_demands(kinds, row, int(at), inside, of, where, tolerance)
    return demands


def _share_demands(
    kinds: Kinds, row: dict, at: int, inside: np.ndarray, of: np.ndarray, where: str, tolerance: float
) -> list[Demand]:
    """At least the wanted share; where both sides count, either whole number of studies next to it."""
    found, now = [], row["before"] / max(row["studies"], 1)
    what = f"{row['finding']}{where} ({now:.1%} of {row['share']:.1%})"
    low, high = row["share"] * (1 - tolerance), row["share"] * (1 + tolerance)
    scale = max(row["share"] * row["studies"], 1.0)
    slack = NEXT if row["both"] else 0.0
    margin = 0.0 if row["both"] else min(MARGIN, MARGIN_SHARE * scale)
    sides = [(inside & kinds.allowed, inside - low * of, low * row["studies"] - row["before"])]
    if row["both"]:
        sides.append((of & ~inside & kinds.allowed, high * of - inside, row["before"] - high * row["studies"]))
    for mask, gain, missing in sides:
        if mask.any():
            found.append(Demand(missing, scale, mask, what, gain, at, True, margin, slack))
    return found


def allocate(
    kinds: Kinds,
    demands: Sequence[Demand],
    budget: int | None,
    n: int | None,
    *,
    limits: Sequence[Limit] = (),
    per_prompt: int | None = None,
) -> Allocation:
    """(S, K) studies to plan of each kind.

    Parameters
    ----------
    budget : the most studies; None: as many as the demands need.
    n : exactly so many, in place of ``budget``: beyond the demands every kind grows in proportion, or, within
        ``limits``, at the lowest price. Without any demand the real proportions are kept.
    per_prompt : the most studies of a kind.
    """
    familiarity = np.where(kinds.allowed, kinds.familiarity(), 0.0)
    held = bool(limits) or per_prompt is not None or any(d.ratio for d in demands)
    made = Allocation(np.zeros(familiarity.shape, dtype=np.int64))
    if demands or (held and n is not None):
        most = budget if n is None else n
        made = _solve(kinds, demands, familiarity, most, limits, per_prompt, least=n or 0 if held else 0)
    if n is not None and not held and made.counts.sum() < n and familiarity.sum():
        weights = made.counts if made.counts.any() else familiarity
        made = replace(made, counts=apportion(weights.ravel(), n).reshape(made.counts.shape))
    return made


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


def deal(weights: np.ndarray, totals: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Whole numbers (M, K) whose columns sum to ``totals`` (K,), in proportion to ``weights`` (M, K).

    What rounding costs a member in one column it is given in a later one, so that rows are in proportion too.
    ``most`` (M, K) is never exceeded; together it must allow the totals.
    """
    counts = np.zeros(weights.shape, dtype=np.int64)
    owed = np.zeros(len(weights))
    for k, total in enumerate(totals):
        if not total:
            continue
        share = weights[:, k] / weights[:, k].sum() if weights[:, k].sum() else np.full(len(weights), 1 / len(weights))
        fair = share * total
        got = np.minimum(np.floor(fair + 1e-9), most[:, k])
        while (rest := int(total - got.sum())) > 0:
            claim = np.where(got < most[:, k], owed + fair - got, -np.inf)
            got[np.argsort(-claim, kind="stable")[: min(rest, int(np.isfinite(claim).sum()))]] += 1
        owed += fair - got
        counts[:, k] = got
    return counts


def _solve(
    kinds: Kinds,
    demands: Sequence[Demand],
    familiarity: np.ndarray,
    budget: int | None,
    limits: Sequence[Limit],
    per_prompt: int | None,
    *,
    least: int,
) -> Allocation:
    """Solve over classes of label sets that serve demands and count in limits alike, then divide each class.

    Sets of one class are interchangeable for the programme, so dividing them in proportion to real counts loses
    nothing.
    """
    effects = [d.effect * kinds.allowed for d in demands]
    weights = [limit.weight for limit in limits]
    members = _classes([*effects, *weights, kinds.allowed.astype(float)])
    first = np.array([m[0] for m in members], dtype=np.int64)
    flat = len(first) * len(kinds.combos)
    gain = np.array([e[first].ravel() for e in effects]).reshape(len(demands), flat)
    rows = np.array([w[first].ravel() for w in weights]).reshape(len(limits), flat)
    known = np.stack([familiarity[m].sum(axis=0) for m in members]).ravel()
    cap = np.where(kinds.allowed, np.inf if per_prompt is None else float(per_prompt), 0.0)
    upper = np.stack([cap[m].sum(axis=0) for m in members]).ravel()
    # studies that only dilute a share or fill up a number are of use where there is a share or a number
    idle = least > 0 or any(d.ratio for d in demands)
    useful = np.flatnonzero((upper > 0) & ((gain > 0).any(axis=0) | idle))
    programme = Programme.of(
        gain[:, useful],
        [d.missing for d in demands],
        [d.target for d in demands],
        np.maximum(known[useful], 1e-3),
        rows=rows[:, useful],
        most=np.array([limit.most for limit in limits]),
        upper=upper[useful],
        least=float(least),
        budget=budget,
        margin=[d.margin for d in demands],
        slack=[d.slack for d in demands],
        room=np.array([limit.slack for limit in limits]),
    )
    programme = replace(programme, beyond=_out_of_reach(programme, budget is not None))
    solution = solve(programme)
    solved = np.zeros(flat, dtype=np.int64)
    solved[useful] = solution.counts
    counts = np.zeros(familiarity.shape, dtype=np.int64)
    for m, row in zip(members, solved.reshape(len(members), -1), strict=True):
        if row.sum():
            counts[m] = deal(familiarity[m], row, np.where(np.isfinite(cap[m]), cap[m], row.sum()))
    families = [*(limit.family for limit in limits), *(["budget"] if budget is not None else [])]
    words = [*(limit.words for limit in limits), *([f"the budget of {budget:,} studies"] if budget is not None else [])]
    return Allocation(counts, programme, solution, tuple(families), tuple(words))


def _classes(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Label sets (rows of the (S, K) ``arrays``) that are equal in all of them, in order of first appearance."""
    members: dict[bytes, list[int]] = {}
    for s in range(len(arrays[0])):
        members.setdefault(b"".join(a[s].tobytes() for a in arrays), []).append(s)
    return [np.array(m) for m in members.values()]


def _out_of_reach(p: Programme, budgeted: bool) -> np.ndarray:
    """(J,) what stays missing of each target whatever is planned for it: by the caps of its kinds, or by one limit.

    The budget is left out: how it is shared is what fairness between the targets is about.
    """
    usable = np.where(p.upper > 0, np.maximum(p.gain, 0), 0)
    reach = np.where(np.isfinite(p.upper), usable * np.where(np.isfinite(p.upper), p.upper, 0), 0).sum(axis=1)
    reach = np.where((usable[:, ~np.isfinite(p.upper)] > 0).any(axis=1), np.inf, reach)
    for row, most in zip(p.rows[:-1] if budgeted else p.rows, p.most, strict=False):
        if (row < 0).any():  # about a share: it bounds no number
            continue
        bounded = (row >= p.gain - 1e-12).all(axis=1)
        reach = np.where(bounded, np.minimum(reach, most), reach)
    return np.where(p.need > 0, np.maximum(p.need - reach, 0.0), 0.0)
