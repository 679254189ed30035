"""The pool: results in order, equal for any number of workers, and no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jobs
import pytest

from cxraug.classifiers.pool import train_many
from cxraug.errors import InputError, WorkError

HERE = Path(__file__).parent
SLEEPERS = """
import sys; sys.path.insert(0, {here!r})
from functools import partial
from pathlib import Path
import jobs
from cxraug.classifiers.pool import train_many
if __name__ == "__main__":
    train_many([partial(jobs.sleep, Path({folder!r}))] * 2, 2)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z" if Path("/proc").is_dir() else True


def until(what, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.1)
    return False


def test_results_come_in_the_order_of_the_jobs():
    calls = [partial(jobs.square, i) for i in range(7)]
    expected = [i * i for i in range(7)]
    assert train_many(calls, 1) == expected
    assert train_many(calls, 3) == expected
    assert train_many([], 2) == []
    assert multiprocessing.active_children() == []


def test_trained_weights_do_not_depend_on_the_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("POOL_TEST_PARENT", str(os.getpid()))
    one = train_many([partial(jobs.train_toy, tmp_path / f"one-{s}", s) for s in range(2)] + [jobs.threads], 1)
    two = train_many([partial(jobs.train_toy, tmp_path / f"two-{s}", s) for s in range(2)] + [jobs.threads], 2)
    assert one[:2] == two[:2]
    assert one[0] != one[1]
    assert (one[2], two[2]) == ((1, True), (1, False))  # one thread each, here and in a process of its own


def test_the_first_failure_is_raised_here_and_the_rest_is_killed(tmp_path):
    started = time.monotonic()
    with pytest.raises(InputError, match=r"x\.csv, row 3: bad labels") as caught:
        train_many([partial(jobs.sleep, tmp_path), jobs.refuse, partial(jobs.sleep, tmp_path)], 2)
    assert time.monotonic() - started < 60
    assert "in refuse" in str(caught.value.__cause__)
    assert multiprocessing.active_children() == []
    assert len(list(tmp_path.iterdir())) <= 1  # the third job was dropped
    with pytest.raises(WorkError, match="ended with code 7"):
        train_many([jobs.die, partial(jobs.sleep, tmp_path)], 2)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(tmp_path, how):
    script = tmp_path / "sleepers.py"
    folder = tmp_path / "pids"
    folder.mkdir()
    script.write_text(SLEEPERS.format(here=str(HERE), folder=str(folder)))
    parent = subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell hands down "ignored"
    )  # fmt: skip
    try:
        assert until(lambda: len(list(folder.iterdir())) == 2)
        pids = [int(path.name) for path in folder.iterdir()]
        assert all(alive(pid) for pid in pids)
        if how == signal.SIGINT:
            os.killpg(parent.pid, how)  # as a terminal does: to the whole group
        else:
            parent.send_signal(how)
        parent.wait(20)
        assert until(lambda: not any(alive(pid) for pid in pids), 20)
    finally:
        parent.kill()
        parent.wait()
