"""Many trainings at once: a pool of one-thread processes that never outlives its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

from cxraug.errors import WorkError
from cxraug.progress import track

T = TypeVar("T")
WATCH_SECONDS = 0.5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class RemoteTraceback(Exception):
    """The traceback of a worker as text, shown as the cause of the error that is raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def train_many(jobs: Sequence[Callable[[], T]], workers: int, *, what: str = "training", done: int = 0) -> list[T]:
    """Run ``jobs`` in ``workers`` processes of one thread each and return their results in the order of ``jobs``.

    Parameters
    ----------
    jobs : picklable calls without arguments, e.g. ``functools.partial(train_one, folder, seed)`` of a function at the
        top of a module. Give paths rather than arrays: each job is sent to a process.
    workers : number of processes; with 1 the jobs run here, one after another, also with one thread. Results do not
        depend on it.
    what : name on the progress bar. done : jobs that an earlier sitting finished, counted on the bar.

    Raises
    ------
    The first failure of a job; jobs that wait are dropped and those that run are killed. WorkError if a process dies
    (most often out of memory).
    """
    if not jobs:
        return []
    results: dict[int, T] = {}
    source = _here(jobs) if workers <= 1 or len(jobs) == 1 else _in_processes(jobs, min(workers, len(jobs)))
    with contextlib.closing(source):
        for index, result in track(source, what, total=done + len(jobs), done=done):
            results[index] = result
    return [results[i] for i in range(len(jobs))]


def _here(jobs: Sequence[Callable[[], Any]]) -> Generator[tuple[int, Any], None, None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for index, job in enumerate(jobs):
            yield index, job()
    finally:
        torch.set_num_threads(before)


def _in_processes(jobs: Sequence[Callable[[], Any]], workers: int) -> Generator[tuple[int, Any], None, None]:
    payloads = [pickle.dumps(job) for job in jobs]
    pool: dict[Connection, BaseProcess] = {}
    busy: dict[Connection, int] = {}
    waiting = list(range(len(jobs)))[::-1]
    try:
        for _ in range(workers):
            connection, process = _start()
            pool[connection] = process
            busy[connection] = _send(connection, waiting, payloads)
        while busy:
            for ready in wait(list(busy)):
                connection = cast(Connection, ready)
                index, result = _receive(connection, pool[connection], busy.pop(connection))
                if waiting:
                    busy[connection] = _send(connection, waiting, payloads)
                yield index, result
    finally:
        _stop(pool)


def _start() -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
        process.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    theirs.close()
    return ours, process


def _send(connection: Connection, waiting: list[int], payloads: list[bytes]) -> int:
    index = waiting.pop()
    with contextlib.suppress(BrokenPipeError):  # a process that died is reported where its answer is missed
        connection.send_bytes(payloads[index])
    return index


def _receive(connection: Connection, process: BaseProcess, index: int) -> tuple[int, Any]:
    try:
        result, error, text = pickle.loads(connection.recv_bytes())
    except (EOFError, ConnectionResetError):
        process.join(5)
        why = " (killed, perhaps out of memory)" if process.exitcode == -signal.SIGKILL else ""
        raise WorkError(
            f"job {index}: its process ended with code {process.exitcode}{why}; run again to go on"
        ) from None
    if error is not None:
        raise error from RemoteTraceback(text)
    return index, result


def _stop(pool: dict[Connection, BaseProcess]) -> None:
    for process in pool.values():
        process.terminate()
    for connection, process in pool.items():
        process.join(2)
        if process.is_alive():
            process.kill()
            process.join()
        connection.close()


def _work(connection: Connection, parent: int) -> None:
    """The life of a worker: answer jobs until the parent closes the line or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides and terminates
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    while True:
        try:
            job = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(_answer(job))


def _answer(job: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps((job(), None, ""))
    except Exception as error:
        text = traceback.format_exc()
        try:
            answer = pickle.dumps((None, error, text))
            pickle.loads(answer)
        except Exception:
            return pickle.dumps((None, WorkError(f"{type(error).__name__}: {error}"), text))
        return answer


def _watch(parent: int) -> None:
    """Leave at once when the parent is gone: killed -9, it could not tell."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)
