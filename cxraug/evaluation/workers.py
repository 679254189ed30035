"""A map over forked processes, for work on arrays that are already in memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from threadpoolctl import threadpool_limits

MOST = 4  # each holds results of its own
_task: Callable[[Any], Any] | None = None


def available(need: float) -> int:
    """How many processes that ``need`` so many bytes each may be forked.

    1 (none) but on Linux, once torch has threads of its own, and where less memory than for two is free.
    """
    if sys.platform != "linux" or "torch" in sys.modules or multiprocessing.current_process().daemon:
        return 1
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)), MOST, int(free / need)))


def forked_map(function: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    """``map(function, items)`` in order, by ``workers`` forked processes that see this one's memory.

    Results (and errors) come back pickled; what ``function`` changes elsewhere is lost. What processes cannot do (a
    machine without semaphores, one that kills them for memory) is done here, one item after the other.
    """
    done = 0
    if min(workers, len(items)) > 1:
        try:
            for result in _in_processes(function, items, workers):
                yield result
                done += 1
        except (OSError, BrokenProcessPool):
            pass
    yield from map(function, items[done:])


def _in_processes(function: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    global _task
    _task = function
    try:
        pool = ProcessPoolExecutor(min(workers, len(items)), multiprocessing.get_context("fork"), _start)
        try:
            yield from pool.map(_call, items)
        finally:
            pool.shutdown(cancel_futures=True)
    finally:
        _task = None


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    threadpool_limits(1)


def _call(item: Any) -> Any:
    assert _task is not None
    return _task(item)
