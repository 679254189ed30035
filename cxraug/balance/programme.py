"""The integer programme behind a plan: studies of each kind that meet the demands, fairly if not all can be met."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from cxraug.errors import WorkError

EXACT_BELOW = 400  # up to so many kinds the fair optimum is proven; above, within GAP of it
GAP = 1e-3
STYLE_GAP = 0.02  # of the stage that only chooses among equally fair plans
NODES, STYLE_NODES = 20_000, 500
SLACK = 1e-6
STEPS = (1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)  # in multiples of a kind's familiarity
QUARTERS = (0.25, 0.25, 0.25, 0.25)


def cover(
    serves: np.ndarray,
    demand: Sequence[int] | np.ndarray,
    target: Sequence[int] | np.ndarray,
    familiarity: Sequence[float] | np.ndarray,
    budget: int | None = None,
) -> np.ndarray:
    """Choose whole numbers of studies per kind.

    The full plan meets every demand at the lowest cost, where a study costs 1 and twice as much with every doubling of
    its kind beyond its familiarity: kinds are used about as often as they really occur, and a rare label set that would
    serve many demands at once is no bargain. A budget below it takes a part of the full plan: first the largest
    relative shortfall (what stays missing of a demand, divided by its target) is as small as possible, then their sum,
    then kinds keep the proportions of the full plan.

    Parameters
    ----------
    serves : (J, C) 0/1; whether a study of kind c counts for demand j. Every demand is served by some kind.
    demand : (J,) studies missing. target : (J,) studies wanted in total, at least the demand.
    familiarity : (C,) positive; real studies of the kind, smoothed.
    budget : the largest number of studies, or None for as many as the demands need.

    Returns
    -------
    (C,) int64; the sum never exceeds ``budget``.
    """
    serves, demand = np.asarray(serves, dtype=float), np.asarray(demand, dtype=float)
    if serves.shape[1] == 0 or not (demand > 0).any():
        return np.zeros(serves.shape[1], dtype=np.int64)
    full = meet_all(serves, demand, np.asarray(familiarity, dtype=float))
    if budget is None or full.sum() <= budget:
        return full
    used = full > 0
    part = np.zeros_like(full)
    part[used] = share_out(serves[:, used], demand, np.asarray(target, dtype=float), full[used], budget)
    return part


def meet_all(serves: np.ndarray, demand: np.ndarray, familiarity: np.ndarray) -> np.ndarray:
    """The full plan: (C,) whole numbers that meet every demand, cheap and familiar (see :func:`cover`).

    The relaxed programme is solved and rounded down; what is then still missing is a small programme of its own.
    """
    steps = len(STEPS) + 1
    widths = np.outer(familiarity, np.array([*STEPS, np.inf]))
    prices = 2.0 ** np.arange(steps)
    relaxed = _solve(
        np.tile(prices, serves.shape[1]), np.repeat(serves, steps, axis=1), demand, np.inf, 0, widths.ravel(), 0.0
    )
    exact = relaxed.reshape(widths.shape).sum(axis=1)
    whole = np.floor(exact + SLACK).astype(np.int64)
    missing = demand - serves @ whole
    if (missing > 0).any():
        near = np.flatnonzero(exact > SLACK)
        marginal = prices[(whole[near, None] >= np.cumsum(widths[near, :-1], axis=1)).sum(axis=1)]
        part = serves[:, near]
        whole[near] += _whole(_solve(marginal, part, missing, np.inf, len(near), np.inf, _gap(len(near))))
    return whole


def share_out(serves: np.ndarray, demand: np.ndarray, target: np.ndarray, full: np.ndarray, budget: int) -> np.ndarray:
    """The fairest part of ``full`` (C,) with at most ``budget`` studies (see :func:`cover`)."""
    count, kinds = serves.shape
    gap, in_budget = _gap(kinds), np.append(np.ones(kinds), np.zeros(count))
    # the largest relative shortfall t: serves @ x + target * t >= demand
    rows = np.block([[serves, target[:, None]], [np.ones((1, kinds)), np.zeros((1, 1))]])
    low, high = np.append(demand, 0), np.append(np.full(count, np.inf), budget)
    first = _solve(np.append(np.zeros(kinds), 1.0), rows, low, high, kinds, np.append(full, 1.0), gap)
    worst = _relative(demand - serves @ _whole(first[:kinds]), target).max()
    # the sum of m / target, what is missing m bounded by the first stage: serves @ x + m >= demand
    most_missing = np.minimum(np.floor(worst * target + SLACK), demand)
    rows = np.vstack([np.hstack([serves, np.eye(count)]), in_budget])
    upper = np.append(full, most_missing)
    second = _solve(np.append(np.zeros(kinds), 1 / target), rows, low, high, kinds, upper, gap)
    best = _whole(second[:kinds])
    return _in_proportion(rows, low, high, upper, target, best)


def _in_proportion(
    rows: np.ndarray, low: np.ndarray, high: np.ndarray, upper: np.ndarray, target: np.ndarray, best: np.ndarray
) -> np.ndarray:
    """Among the parts that are as fair as ``best``, one near the proportions of the full plan.

    Every next quarter of a kind costs more; where the search ends without a solution ``best`` stays.
    """
    kinds, count = len(best), len(target)
    full, quarters = upper[:kinds], len(QUARTERS)
    fair = np.append(np.zeros(kinds), 1 / target)
    total = _relative(low[:count] - rows[:count, :kinds] @ best, target).sum()
    pad = np.zeros((len(rows) + 1, kinds * quarters))
    link = np.hstack([np.eye(kinds), np.zeros((kinds, count)), -np.kron(np.eye(kinds), np.ones(quarters))])
    whole = np.vstack([np.hstack([np.vstack([rows, fair]), pad]), link])
    low = np.concatenate([low, [0.0], np.zeros(kinds)])
    high = np.concatenate([high, [total + SLACK], np.zeros(kinds)])
    cost = np.append(np.zeros(kinds + count), np.tile(1.0 + np.arange(quarters), kinds))
    widths = np.outer(full, QUARTERS).ravel()
    try:
        found = _solve(cost, whole, low, high, kinds, np.append(upper, widths), STYLE_GAP, nodes=STYLE_NODES)
    except WorkError:
        return best
    return _whole(found[:kinds])


def apportion(weights: Sequence[float] | np.ndarray, total: int) -> np.ndarray:
    """Divide ``total`` in proportion to ``weights`` into whole numbers (largest remainder, ties to the first)."""
    share = np.asarray(weights, dtype=float)
    exact = share * (total / share.sum())
    whole = np.floor(exact + 1e-9).astype(np.int64)
    rest = total - int(whole.sum())
    whole[np.argsort(-(exact - whole), kind="stable")[:rest]] += 1
    return whole


def _relative(missing: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.maximum(missing, 0.0) / target


def _whole(x: np.ndarray) -> np.ndarray:
    return np.rint(x).astype(np.int64)


def _gap(kinds: int) -> float:
    return 0.0 if kinds <= EXACT_BELOW else GAP


def _solve(
    cost: np.ndarray,
    rows: np.ndarray,
    low: np.ndarray | float,
    high: np.ndarray | float,
    integers: int,
    upper: np.ndarray | float,
    gap: float,
    *,
    nodes: int = NODES,
) -> np.ndarray:
    """Minimise ``cost @ x`` with low <= rows @ x <= high and 0 <= x <= upper; the first ``integers`` are whole."""
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    whole = np.zeros(len(cost))
    whole[:integers] = 1
    with _silent_stdout():
        result = milp(
            cost,
            integrality=whole,
            bounds=Bounds(np.zeros(len(cost)), np.broadcast_to(upper, len(cost))),
            constraints=LinearConstraint(sparse.csr_matrix(rows), low, high),
            options={"mip_rel_gap": gap, "node_limit": nodes},  # unlike a time limit, nodes give the same plan twice
        )
    if result.x is None:
        raise WorkError(f"the plan's integer programme found no solution ({result.message})")
    return result.x


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
