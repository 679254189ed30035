"""Exact nearest neighbours beside the bare matrix product and scikit-learn, all in one run; and their memory.

    OMP_NUM_THREADS=1 python benchmarks/neighbours.py --out benchmarks/NEIGHBOURS.md

Memory is the largest resident size of a process of its own that searches memory-mapped files.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from sklearn.neighbors import NearestNeighbors

from cxraug.privacy.nearest import nearest
from cxraug.storage import atomic

M, D = 100_000, 512
PIECE = 5_000  # columns of the bare product at once: 200 MB


def main() -> None:
    """Parse, time, measure memory, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "NEIGHBOURS.md")
    parser.add_argument("--rounds", type=int, default=2, help="the fastest of so many counts")
    parser.add_argument("--rows", type=int, default=10_000, help="rows that are looked for")
    parser.add_argument("--largest", type=int, default=20_000, help="rows of the largest search for memory")
    parser.add_argument("--device", default="cpu", help="of one more row")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory_of:
        _search_files(*(Path(p) for p in asked.memory_of))
        return
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, D), dtype=np.float32) for n in (asked.rows, M))
    expected = nearest(a[:500], b, euclidean=True)[1]
    ways: dict[str, Callable[[], object]] = {
        "bare matrix product": lambda: product(a, b),
        "nearest, correlation": lambda: nearest(a, b),
        "nearest, distance": lambda: nearest(a, b, euclidean=True),
    }
    if asked.device != "cpu":
        ways[f"nearest, distance, {asked.device}"] = lambda: nearest(a, b, euclidean=True, device=asked.device)
    seconds = dict.fromkeys(ways, np.inf)
    for _ in range(asked.rounds):  # in turn, so that a slow moment does not hit one alone
        for name, way in ways.items():
            clock = time.perf_counter if name.endswith(asked.device) else time.process_time
            seconds[name] = min(seconds[name], timed(way, clock))
    peer = NearestNeighbors(algorithm="brute", n_neighbors=1).fit(b)
    found: list[np.ndarray] = []
    seconds["scikit-learn NearestNeighbors(algorithm='brute', n_neighbors=1)"] = timed(
        lambda: found.append(peer.kneighbors(a, return_distance=False)[:, 0])
    )
    if not np.array_equal(found[0][:500], expected):
        raise SystemExit("scikit-learn finds other neighbours")
    base, flops = seconds["bare matrix product"], 2 * asked.rows * M * D / 1e9
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    lines = [
        "# Nearest neighbours", "",
        f"    OMP_NUM_THREADS={threads} python benchmarks/neighbours.py --rows {asked.rows} --rounds {asked.rounds} "
        f"--largest {asked.largest}", "",
        f"{asked.rows:,} x {M:,} rows of {D} features, float32, every pair compared; the fastest of {asked.rounds} "
        f"round(s) in turn (scikit-learn: one), {threads} thread(s), seconds of processor time. The bare product is "
        f"made in pieces of {PIECE:,} columns into one buffer and nothing is done with it.", "",
        "| what | seconds | GFLOP/s | share of the bare product's speed |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    lines += [f"| {name} | {s:.1f} | {flops / s:.0f} | {base / s:.0%} |" for name, s in seconds.items()]
    lines += ["", f"## Memory: {D} features, distance, from memory-mapped files", "",
              "What the search takes at most, without the pages of the files, which the system may drop at any time.",
              "",
              "| rows x rows | files, MB | all products would take, MB | search takes, MB | seconds |",
              "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for n in (asked.largest // 8, asked.largest // 4, asked.largest // 2, asked.largest):
        lines.append(memory_row(n, 5 * n))
    n, m = 100_000, 400_000
    minutes = 2 * n * m * D / 1e9 / (flops / seconds["nearest, distance"]) / 60
    lines += ["", f"At this speed {n:,} x {m:,} takes {minutes:.0f} minutes on these threads.", ""]
    text = "\n".join(lines)
    with atomic(asked.out) as temporary:
        temporary.write_text(text)
    print(text)


def product(a: np.ndarray, b: np.ndarray) -> None:
    """All products, in pieces that fit into memory."""
    out = np.empty((len(a), PIECE), np.float32)
    for j in range(0, len(b), PIECE):
        np.matmul(a, b[j : j + PIECE].T, out=out)


def timed(way: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of processor time of one call, over all threads: other work on the machine does not count."""
    start = clock()
    way()
    return clock() - start


def memory_row(n: int, m: int) -> str:
    """A row of the table of memory, measured by a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, rows in (("a", n), ("b", m)):
            files.append(Path(folder) / f"{name}.npy")
            stored = open_memmap(files[-1], mode="w+", dtype=np.float32, shape=(rows, D))
            rng = np.random.default_rng(rows)
            for i in range(0, rows, 2500):
                stored[i : i + 2500] = rng.standard_normal((len(stored[i : i + 2500]), D), dtype=np.float32)
            stored.flush()
        command = [sys.executable, __file__, "--memory-of", *map(str, files)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    megabytes, seconds = float(said[0]), float(said[1])
    return (
        f"| {n:,} x {m:,} | {(n + m) * D * 4 / 1e6:,.0f} | {n * m * 4 / 1e6:,.0f} | {megabytes:.0f} | {seconds:.1f} |"
    )


def _search_files(first: Path, second: Path) -> None:
    """Print the largest anonymous memory of a search beyond that of the process before it, MB, and its seconds."""
    a, b = (np.load(file, mmap_mode="r") for file in (first, second))
    nearest(a[:10], b[:10], euclidean=True)
    before = _anonymous()
    most = [before]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most.append(_anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds = timed(lambda: nearest(a, b, euclidean=True))
    done.set()
    watcher.join()
    print(max(most) - before, seconds)


def _anonymous() -> float:
    """Resident memory of this process that is not pages of files, MB (Linux; elsewhere the largest resident size)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    lines = [line for line in status.read_text().splitlines() if line.startswith("RssAnon:")]
    return float(lines[0].split()[1]) / 1e3


if __name__ == "__main__":
    main()
