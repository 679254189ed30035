"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
LOG_SECONDS = 20.0


def track(items: Iterable[T], what: str, *, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Iterate ``items`` and report progress on standard error as ``what done/total``.

    ``done`` counts what an earlier sitting finished, so that a resumed bar starts where it stopped.
    """
    if total is None:
        total = done + len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(what, total=total, completed=done)
            for item in items:
                yield item
                progress.advance(task)
        return
    started = last = time.monotonic()
    for count, item in enumerate(items, done + 1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_SECONDS:
            last = now
            print(f"{what} {count}/{total or '?'} ({now - started:.0f} s)", file=sys.stderr, flush=True)
