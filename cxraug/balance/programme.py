"""The integer programme behind a plan: studies of each kind that meet the demands, fairly if not all can be met."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from cxraug.errors import WorkError

EXACT_BELOW = 400  # up to so many kinds the optimum is proven; above, within GAP of it
GAP = 1e-3
STYLE_GAP = 0.02  # of the last stage, which only chooses among equally good plans
NODES = 20_000
SLACK = 1e-6
STEPS = (1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # widths, in multiples of a kind's familiarity, of the rising cost


def cover(
    serves: np.ndarray,
    demand: Sequence[int] | np.ndarray,
    target: Sequence[int] | np.ndarray,
    familiarity: Sequence[float] | np.ndarray,
    budget: int | None = None,
) -> np.ndarray:
    """Choose whole numbers of studies per kind.

    In this order: the largest relative shortfall (what stays missing of a demand, divided by its target) is as small as
    possible; the sum of relative shortfalls is; the cost is, where a study costs 1 and one more with every doubling of
    its kind beyond its familiarity, so that kinds are used about as often as they really occur.

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
    target, kinds = np.asarray(target, dtype=float), serves.shape[1]
    if kinds == 0 or not (demand > 0).any():
        return np.zeros(kinds, dtype=np.int64)
    known = np.asarray(familiarity, dtype=float)
    if budget is None:
        return _most_familiar(serves, demand, target, None, np.zeros(len(demand)), 0.0, known)
    first = _least_worst(serves, demand, target, budget)
    worst = _relative(demand - serves @ first, target).max()
    most_missing = np.minimum(np.floor(worst * target + SLACK), demand)
    best = _least_sum(serves, demand, target, budget, most_missing) if worst > 0 else first
    total = _relative(demand - serves @ best, target).sum()
    return _most_familiar(serves, demand, target, budget, most_missing, total, known)


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


def _least_worst(serves: np.ndarray, demand: np.ndarray, target: np.ndarray, budget: int) -> np.ndarray:
    """Minimise t with serves @ x + target * t >= demand."""
    kinds = serves.shape[1]
    rows = np.block([[serves, target[:, None]], [np.ones((1, kinds)), np.zeros((1, 1))]])
    low, high = np.append(demand, -np.inf), np.append(np.full(len(demand), np.inf), budget)
    cost = np.append(np.zeros(kinds), 1.0)
    return _solve(cost, rows, low, high, kinds, np.append(np.full(kinds, np.inf), 1.0), _gap(kinds))


def _least_sum(
    serves: np.ndarray, demand: np.ndarray, target: np.ndarray, budget: int, most_missing: np.ndarray
) -> np.ndarray:
    """Minimise sum(m / target) with serves @ x + m >= demand and m <= most_missing."""
    count, kinds = serves.shape
    rows = np.block([[serves, np.eye(count)], [np.ones((1, kinds)), np.zeros((1, count))]])
    low, high = np.append(demand, -np.inf), np.append(np.full(count, np.inf), budget)
    cost = np.append(np.zeros(kinds), 1 / target)
    return _solve(cost, rows, low, high, kinds, np.append(np.full(kinds, np.inf), most_missing), _gap(kinds))


def _most_familiar(
    serves: np.ndarray,
    demand: np.ndarray,
    target: np.ndarray,
    budget: int | None,
    most_missing: np.ndarray,
    total: float,
    familiarity: np.ndarray,
) -> np.ndarray:
    """Minimise a cost that rises with x / familiarity, at the shortfalls that the first two stages reached."""
    from scipy import sparse

    count, kinds = serves.shape
    steps = len(STEPS) + 1
    widths = np.outer(familiarity, np.array([*STEPS, np.inf]))
    one, zeros = sparse.identity(kinds), np.zeros(kinds * steps)
    link = sparse.hstack([one, sparse.csr_matrix((kinds, count)), -sparse.kron(one, np.ones(steps))])
    meet = sparse.hstack([serves, sparse.identity(count), sparse.csr_matrix((count, kinds * steps))])
    on_shortfall = np.concatenate([np.zeros(kinds), 1 / target, zeros])
    on_studies = np.concatenate([np.ones(kinds), np.zeros(count), zeros])
    caps = np.stack([on_shortfall, on_studies])
    rows = sparse.vstack([link, meet, caps]).tocsr()
    low = np.concatenate([np.zeros(kinds), demand, [-np.inf, -np.inf]])
    most = np.inf if budget is None else float(budget)
    high = np.concatenate([np.zeros(kinds), np.full(count, np.inf), [total + SLACK, most]])
    cost = np.concatenate([np.zeros(kinds + count), np.tile(1.0 + np.arange(steps), kinds)])
    upper = np.concatenate([np.full(kinds, np.inf), most_missing, widths.ravel()])
    return _solve(cost, rows, low, high, kinds, upper, STYLE_GAP)


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


def _gap(kinds: int) -> float:
    return 0.0 if kinds <= EXACT_BELOW else GAP


def _solve(
    cost: np.ndarray, rows: Any, low: np.ndarray, high: np.ndarray, integers: int, upper: np.ndarray, gap: float
) -> np.ndarray:
    from scipy.optimize import Bounds, LinearConstraint, milp

    whole = np.zeros(len(cost))
    whole[:integers] = 1
    with _silent_stdout():
        result = milp(
            cost,
            integrality=whole,
            bounds=Bounds(np.zeros(len(cost)), upper),
            constraints=LinearConstraint(rows, low, high),
            options={"mip_rel_gap": gap, "node_limit": NODES},  # unlike a time limit, nodes give the same plan twice
        )
    if result.x is None:
        raise WorkError(f"the plan's integer programme found no solution ({result.message})")
    return np.rint(result.x[:integers]).astype(np.int64)
