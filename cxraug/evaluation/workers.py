"""A map over forked processes, for work on arrays that are already in memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from threadpoolctl import threadpool_limits

MOST = 4  # each holds results of its own
_task: Callable[[Any], Any] | None = None


def available() -> int:
    """How many processes may be forked safely: 1 (none) but on Linux, and 1 once torch has threads of its own."""
    if sys.platform != "linux" or "torch" in sys.modules or multiprocessing.current_process().daemon:
        return 1
    return min(len(os.sched_getaffinity(0)), MOST)


def forked_map(function: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    """``map(function, items)`` in order, by ``workers`` forked processes that see this one's memory.

    Results (and errors) come back pickled; what ``function`` changes elsewhere is lost. With one worker: plain ``map``.
    """
    global _task
    if workers < 2 or len(items) < 2:
        yield from map(function, items)
        return
    _task = function
    try:
        with multiprocessing.get_context("fork").Pool(min(workers, len(items)), _start) as pool:
            yield from pool.imap(_call, items)
    finally:
        _task = None


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    threadpool_limits(1)


def _call(item: Any) -> Any:
    assert _task is not None
    return _task(item)
