"""The integer programme behind a plan: whole studies of each kind that meet the targets, fairly if not all can be met.

One set of constraints, read three times: the largest relative shortfall is made as small as possible, then the sum of
the relative shortfalls, then the cost. Each reading is a linear programme whose optimum no plan of whole studies can
beat; :class:`Reading` keeps it beside what the whole studies reach.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import sparse

from cxraug.errors import WorkError

EXACT_BELOW = 60  # up to so many kinds the integer optimum is searched; above, the relaxed one is rounded
NODES = 2_000
PIVOTS = 5_000
ROUNDING_NODES = 300  # of the search among the whole numbers next to a relaxed optimum
SLACK = 1e-6
CLOSE = 1e-3  # of a study, by which a sum over many fractions may be off
LOOSE = 1e-9  # of an optimum that the next reading keeps
# how far a kind is used, in multiples of its familiarity, and what a study costs beyond that
STEPS = ((0.0, 1.0), (0.125, 1.1), (0.25, 1.25), (0.5, 1.5), *((2.0**i, 2.0 ** (i + 1)) for i in range(9)))
COARSE = ((0.0, 1.0), (0.25, 1.5), (1.0, 2.0), *((4.0**i, 4.0**i) for i in range(1, 5)))  # where there are many kinds
MANY = 2_000


@dataclass(frozen=True)
class Programme:
    """What whole numbers x (C,) of studies per kind are asked to do.

    Attributes
    ----------
    gain, need : (J, C), (J,); target j wants ``gain[j] @ x >= need[j]`` and tolerates a shortfall, in studies.
    scale : (J,) positive; what a shortfall is divided by.
    beyond : (J,) the part of a shortfall that no plan could avoid; it is set aside before shortfalls are compared.
    margin : (J,) studies by which fractions of studies meet a target where they can, for whole studies to use up.
    slack : (J,) studies that whole studies may miss a target by: an exact share lies between two whole numbers.
    rows, most : (I, C), (I,); hard limits ``rows @ x <= most``; x = 0 keeps them.
    room : (I,) what whole studies may be beyond a limit about a share, which fractions keep exactly.
    upper : (C,) the most studies of a kind, inf for no limit.
    familiarity : (C,) positive; real studies of the kind, smoothed. A study costs 1, more with
        every one of its kind, and beyond its familiarity twice as much with every doubling.
    least : so many studies in all, if the limits allow.
    """

    gain: np.ndarray
    need: np.ndarray
    scale: np.ndarray
    familiarity: np.ndarray
    beyond: np.ndarray
    margin: np.ndarray
    slack: np.ndarray
    rows: np.ndarray
    most: np.ndarray
    room: np.ndarray
    upper: np.ndarray
    least: float = 0.0

    @classmethod
    def of(
        cls,
        gain: np.ndarray,
        need: Sequence[float] | np.ndarray,
        scale: Sequence[float] | np.ndarray,
        familiarity: Sequence[float] | np.ndarray,
        *,
        budget: float | None = None,
        **more: Any,
    ) -> Programme:
        """With what is not given left open; ``budget`` becomes the last of the limits."""
        gain = np.atleast_2d(np.asarray(gain, dtype=float))
        count, kinds = gain.shape
        rows, most = more.pop("rows", np.zeros((0, kinds))), more.pop("most", np.zeros(0))
        room = more.pop("room", np.zeros(len(most)))
        if budget is not None:
            rows, most, room = np.vstack([rows, np.ones(kinds)]), np.append(most, float(budget)), np.append(room, 0.0)
        for name in ("beyond", "margin", "slack"):
            more[name] = np.asarray(more.get(name, np.zeros(count)), dtype=float)
        more.setdefault("upper", np.full(kinds, np.inf))
        need, scale, known = (np.asarray(a, dtype=float) for a in (need, scale, familiarity))
        return cls(gain, need, scale, known, rows=rows, most=most, room=room, **more)

    def shortfall(self, counts: np.ndarray) -> np.ndarray:
        """(J,) studies that whole ``counts`` miss of each target, beyond its slack."""
        return np.maximum(self.need - self.slack - self.gain @ counts, 0.0)

    def worst(self, counts: np.ndarray) -> float:
        """The largest relative shortfall, what no plan could avoid set aside."""
        relative = (self.shortfall(counts) - self.beyond) / self.scale
        return float(max(relative.max(initial=0.0), 0.0))

    def total(self, counts: np.ndarray) -> float:
        """The sum of the relative shortfalls."""
        return float((self.shortfall(counts) / self.scale).sum())

    def cost(self, counts: np.ndarray) -> float:
        """The price of ``counts``, see :class:`Programme`."""
        start, widths, prices = self.price_list()
        return float((np.clip(np.asarray(counts, float)[:, None] - start, 0, widths) * prices).sum())

    def price_list(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts and widths (C, S) of the price steps of every kind, and their prices (S,); the last has no end."""
        steps = np.array(COARSE if len(self.familiarity) > MANY else STEPS)
        start = np.rint(np.outer(self.familiarity, steps[:, 0]))  # whole, or optima would lie between whole studies
        ends = np.column_stack([start[:, 1:], np.full(len(start), np.inf)])
        return start, ends - start, steps[:, 1]


@dataclass(frozen=True)
class Reading:
    """One reading of the programme: the optimum over fractions of studies, and what the whole studies reach.

    Fractions keep to exact shares exactly, whole studies up to a slack of one, which may take their value below: by
    little, unless there are few studies.
    """

    name: str
    bound: float
    value: float


@dataclass(frozen=True)
class Solution:
    """Whole studies per kind.

    Attributes
    ----------
    counts : (C,) int64. readings : worst, total and cost.
    prices : (I,) by how much shortfalls would fall per unit of each limit (0: it does not bind).
    upper_prices : (C,) the same of the limits of single kinds.
    """

    counts: np.ndarray
    readings: tuple[Reading, ...] = ()
    prices: np.ndarray = field(default_factory=lambda: np.zeros(0))
    upper_prices: np.ndarray = field(default_factory=lambda: np.zeros(0))


def solve(programme: Programme) -> Solution:
    """The whole numbers that read best; limits are kept exactly.

    Raises
    ------
    WorkError : the solver ended without a solution.
    """
    p = programme
    kinds = p.gain.shape[1]
    if kinds == 0 or (not (p.need > SLACK).any() and p.least <= 0):
        nothing = np.zeros(kinds, dtype=np.int64)
        return Solution(nothing, (), np.zeros(len(p.most)), np.zeros(kinds))
    worst, prices, upper_prices = _least_worst(p)
    second = _linear(*_total_rows(p, worst))
    total, (more, more_upper) = max(float(second.fun), 0.0), _worth(second, len(p.need), kinds)
    prices, upper_prices = prices + more, upper_prices + more_upper
    relaxed, bound = _least_cost(p, worst, total, _within_reach(p, worst, total))
    counts = _search(p) if kinds <= EXACT_BELOW else None
    if counts is None:
        counts = _round(p, _with_margin(p, relaxed) if total <= SLACK else relaxed, worst)
    found = (("worst", worst, p.worst(counts)), ("total", total, p.total(counts)), ("cost", bound, p.cost(counts)))
    return Solution(counts, tuple(Reading(*each) for each in found), prices, upper_prices)


def relaxed_shortfall(programme: Programme) -> np.ndarray:
    """(J,) what stays missing of each target if studies could be divided: for comparing limits with each other."""
    p = programme
    worst, _, _ = _least_worst(p)
    found = _linear(*_total_rows(p, worst))
    return np.asarray(found.x[p.gain.shape[1] :])


def apportion(weights: Sequence[float] | np.ndarray, total: int) -> np.ndarray:
    """Divide ``total`` in proportion to ``weights`` into whole numbers (largest remainder, ties to the first)."""
    share = np.asarray(weights, dtype=float)
    exact = share * (total / share.sum())
    whole = np.floor(exact + 1e-9).astype(np.int64)
    rest = total - int(whole.sum())
    whole[np.argsort(-(exact - whole), kind="stable")[:rest]] += 1
    return whole


# -- the three readings, over fractions of studies --------------------------------------------------------------------


def _least_worst(p: Programme) -> tuple[float, np.ndarray, np.ndarray]:
    """The smallest largest relative shortfall t: gain @ x + scale t + beyond >= need; and what limits are worth."""
    kinds = p.gain.shape[1]
    above = sparse.hstack([sparse.csr_matrix(-p.gain), sparse.csr_matrix(-p.scale[:, None])])
    below = sparse.hstack([sparse.csr_matrix(p.rows), sparse.csr_matrix((len(p.most), 1))])
    cost = np.append(np.zeros(kinds), 1.0)
    high = np.append(p.beyond - p.need, p.most)
    found = _linear(cost, sparse.vstack([above, below]), high, np.append(p.upper, np.inf))
    return max(float(found.fun), 0.0), *_worth(found, len(p.need), kinds)


def _total_rows(p: Programme, worst: float) -> tuple[np.ndarray, Any, np.ndarray, np.ndarray]:
    """Columns x and what is missing m: gain @ x + m >= need, m bounded by the first reading."""
    count, kinds = p.gain.shape
    above = sparse.hstack([sparse.csr_matrix(-p.gain), -sparse.eye_array(count)])
    below = sparse.hstack([sparse.csr_matrix(p.rows), sparse.csr_matrix((len(p.most), count))])
    upper = np.append(p.upper, _missing_at_most(p, worst))
    return (
        np.append(np.zeros(kinds), 1 / p.scale),
        sparse.vstack([above, below]),
        np.append(-p.need, p.most),
        upper,
    )


def _least_cost(p: Programme, worst: float, total: float, least: float) -> tuple[np.ndarray, float]:
    """The cheapest x (C,) that is as fair, and its price; columns are price steps and what is missing."""
    count = len(p.need)
    start, widths, prices = p.price_list()
    room = np.clip(p.upper[:, None] - start, 0, widths)
    kind, step = np.nonzero(room > 0)  # a column each
    gain, rows = (sparse.csc_matrix(a)[:, kind] for a in (p.gain, p.rows))
    each = len(kind)
    parts = [
        sparse.hstack([-gain, -sparse.eye_array(count)]),
        sparse.hstack([rows, sparse.csr_matrix((len(p.most), count))]),
        sparse.csr_matrix(np.append(np.zeros(each), 1 / p.scale)[None]),
        sparse.csr_matrix(np.append(-np.ones(each), np.zeros(count))[None]),
    ]
    high = np.concatenate([-p.need, p.most, [_loosened(total)], [-max(least - SLACK, 0.0)]])
    upper = np.append(room[kind, step], _missing_at_most(p, worst))
    cost = np.append(prices[step], np.zeros(count))
    found = _linear(cost, sparse.vstack(parts), high, upper)
    return np.bincount(kind, found.x[:each], len(p.familiarity)), float(found.fun)


def _within_reach(p: Programme, worst: float, total: float) -> float:
    """``least``, or as many studies as the limits allow at the same fairness."""
    if p.least <= 0:
        return 0.0
    count, kinds = p.gain.shape
    _, rows, high, upper = _total_rows(p, worst)
    fair = sparse.csr_matrix(np.append(np.zeros(kinds), 1 / p.scale)[None])
    enough = sparse.csr_matrix(np.append(np.ones(kinds), np.zeros(count))[None])
    high = np.concatenate([high, [_loosened(total)], [p.least]])
    found = _linear(np.append(-np.ones(kinds), np.zeros(count)), sparse.vstack([rows, fair, enough]), high, upper)
    return float(-found.fun)


def _missing_at_most(p: Programme, worst: float) -> np.ndarray:
    return p.scale * _loosened(worst) + p.beyond + SLACK


def _loosened(value: float) -> float:
    return value * (1 + LOOSE) + LOOSE


def _worth(found: Any, targets: int, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    return np.maximum(-found.ineqlin.marginals[targets:], 0), np.maximum(-found.upper.marginals[:kinds], 0)


# -- whole studies ----------------------------------------------------------------------------------------------------


def _with_margin(p: Programme, relaxed: np.ndarray) -> np.ndarray:
    """A relaxed plan (C,) that meets targets by their margins, which rounding may use up; else ``relaxed``."""
    if not p.margin.any():
        return relaxed
    wider = replace(p, need=p.need + p.margin)
    if _least_worst(wider)[0] > SLACK:
        return relaxed
    return _least_cost(wider, 0.0, 0.0, _within_reach(wider, 0.0, 0.0))[0]


def _round(p: Programme, relaxed: np.ndarray, worst: float) -> np.ndarray:
    """Whole numbers near ``relaxed`` (C,) that keep every limit; further off where there are none next to it.

    Raises :class:`WorkError` where none are found.
    """
    whole = np.floor(relaxed + SLACK)
    near = np.flatnonzero(relaxed - whole > SLACK)
    if not len(near) and (p.rows @ whole <= p.most + p.room + SLACK).all():
        return whole.astype(np.int64)
    planned = np.flatnonzero(relaxed > SLACK)
    least = min(p.least, float(np.floor(relaxed.sum() + CLOSE)))
    for kinds, below, above, nodes, enough in (
        (near, 1, 2, ROUNDING_NODES, least), (planned, 2, 4, NODES, least), (planned, 20, 40, NODES, least),
        (near, 1, 2, ROUNDING_NODES, 0.0), (planned, 20, 40, NODES, 0.0),
    ):  # fmt: skip
        found = _nearby(p, relaxed, worst, kinds, below, above, nodes, enough)
        if found is not None:
            return found
    raise WorkError(
        "no plan of whole studies was found that keeps every limit; loosen one of them, views in proportion first"
    )


def _nearby(
    p: Programme, relaxed: np.ndarray, worst: float, near: np.ndarray, below: int, above: int, nodes: int, least: float
) -> np.ndarray | None:
    """``least`` studies or more, other than ``relaxed`` (C,) in the kinds ``near`` only; None where none was found.

    A small programme chooses: the largest shortfall comes before the sum, the sum before the price.
    """
    whole = np.floor(relaxed + SLACK)
    base = whole.copy()
    base[near] = np.maximum(whole[near] - below, 0)
    room = np.minimum(whole[near] + above, np.floor(p.upper[near] + SLACK)) - base[near]
    gain, rows = p.gain[:, near], p.rows[:, near]
    need, most = p.need - p.slack - p.gain @ base, p.most + p.room - p.rows @ base
    touched, held = np.flatnonzero((gain != 0).any(axis=1)), np.flatnonzero((rows != 0).any(axis=1))
    start, _, prices = p.price_list()
    price = prices[(whole[near, None] >= start[near]).sum(axis=1) - 1]
    count = len(touched)
    scale, beyond = p.scale[touched], p.beyond[touched]
    # columns: x above base, what is missing m, and by how much the first reading is missed
    parts = [
        np.hstack([-gain[touched], -np.eye(count), np.zeros((count, 1))]),
        np.hstack([np.zeros((count, len(near))), np.eye(count), -scale[:, None]]),
        np.hstack([rows[held], np.zeros((len(held), count + 1))]),
        np.concatenate([-np.ones(len(near)), np.zeros(count + 1)])[None],
    ]
    more = min(max(least - base.sum(), 0.0), room.sum())
    high = np.concatenate([-need[touched], scale * worst + beyond, most[held] + SLACK, [-more]])
    little = 1e-3 * (1 / scale).min(initial=1.0) / len(near) / price.max()
    cost = np.concatenate([price * little, 1 / scale, [float(count)]])
    upper = np.append(room, np.full(count + 1, np.inf))
    found = _integer(cost, np.vstack(parts), high, upper, len(near), 1e-4, nodes=nodes)
    if found is None:
        return None
    base[near] += np.rint(found[: len(near)])
    return base.astype(np.int64) if (p.rows @ base <= p.most + p.room + 1e-4).all() else None


def _search(p: Programme) -> np.ndarray | None:
    """The integer optimum of all three readings, for few kinds; None where the search gave up."""
    p = replace(p, need=p.need - p.slack, slack=np.zeros_like(p.slack), most=p.most + p.room)
    kinds = p.gain.shape[1]
    above = np.hstack([-p.gain, -p.scale[:, None]])
    below = np.hstack([p.rows, np.zeros((len(p.most), 1))])
    upper = np.append(np.floor(p.upper), np.inf)
    high = np.append(p.beyond - p.need, p.most)
    first = _integer(np.append(np.zeros(kinds), 1.0), np.vstack([above, below]), high, upper, kinds, 0.0)
    if first is None:
        return None
    cost, rows, high, upper = _total_rows(p, p.worst(np.rint(first[:kinds])))
    upper[:kinds] = np.floor(upper[:kinds])
    second = _integer(cost, rows, high, upper, kinds, 0.0)
    if second is None:
        return None
    return _cheapest(p, np.rint(second[:kinds]), rows, high, upper)


def _cheapest(p: Programme, best: np.ndarray, rows: Any, high: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Among the whole plans as fair as ``best`` (C,), the cheapest; ``best`` where the search gave up."""
    count, kinds = p.gain.shape
    _, widths, prices = p.price_list()
    steps = len(prices)
    finite = np.where(np.isfinite(widths), widths, 1e9)
    fair = np.append(np.zeros(kinds), 1 / p.scale)[None]
    enough = np.append(-np.ones(kinds), np.zeros(count))[None]
    least = min(p.least, _within_reach(p, p.worst(best), p.total(best)))
    pad = sparse.csr_matrix((rows.shape[0] + 2, kinds * steps))
    link = sparse.hstack([sparse.eye_array(kinds), sparse.csr_matrix((kinds, count)),
                          -sparse.kron(sparse.eye_array(kinds), np.ones((1, steps)))])  # fmt: skip
    whole = sparse.vstack([sparse.hstack([sparse.vstack([rows, fair, enough]), pad]), link, -link])
    high = np.concatenate([high, [p.total(best) + SLACK], [-np.floor(least + SLACK)], np.zeros(2 * kinds)])
    cost = np.append(np.zeros(kinds + count), np.tile(prices, kinds))
    found = _integer(cost, whole, high, np.append(upper, finite.ravel()), kinds, 1e-4, nodes=500)
    return (best if found is None else np.rint(found[:kinds])).astype(np.int64)


# -- the solver -------------------------------------------------------------------------------------------------------


def _linear(cost: np.ndarray, rows: Any, high: np.ndarray, upper: np.ndarray) -> Any:
    """Minimise ``cost @ x`` with ``rows @ x <= high`` and 0 <= x <= upper."""
    from scipy.optimize import linprog

    bounds = np.column_stack([np.zeros(len(cost)), upper])
    with _silent_stdout():
        # the simplex method is two to three times as fast as the interior point, but where nearly every vertex is
        # degenerate it can take minutes: pivots, unlike seconds, end it at the same place twice
        matrix, pivots = sparse.csr_matrix(rows), {"maxiter": PIVOTS}
        found = linprog(cost, A_ub=matrix, b_ub=high, bounds=bounds, method="highs-ds", options=pivots)
        if found.status != 0:
            found = linprog(cost, A_ub=matrix, b_ub=high, bounds=bounds, method="highs-ipm")
    if found.x is None:
        raise WorkError(f"the plan's linear programme found no solution ({found.message})")
    return found


def _integer(
    cost: np.ndarray, rows: Any, high: np.ndarray, upper: np.ndarray, integers: int, gap: float, *, nodes: int = NODES
) -> np.ndarray | None:
    """The same with the first ``integers`` whole; None where none was found."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    whole = np.zeros(len(cost))
    whole[:integers] = 1
    with _silent_stdout():
        found = milp(
            cost,
            integrality=whole,
            bounds=Bounds(np.zeros(len(cost)), upper),
            constraints=LinearConstraint(sparse.csr_matrix(rows), -np.inf, high),
            options={"mip_rel_gap": gap, "node_limit": nodes},  # unlike a time limit, nodes give the same plan twice
        )
    return found.x


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """HiGHS writes debugging lines to the process's standard output, where they would spoil ``--json``."""
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:  # there is no standard output to protect
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        with suppress(OSError, TypeError, AttributeError):  # no C library by that name: nothing to flush
            ctypes.CDLL(None).fflush(None)
        os.dup2(saved, 1)
        os.close(saved)
