"""The blocked search is the naive one, whatever the blocks, and its memory does not grow."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from cxraug.privacy import nearest as module
from cxraug.privacy.nearest import nearest


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # numpy, and what runs on an accelerator
@pytest.mark.parametrize("block", [7, 2048])
def test_the_blocked_search_is_the_naive_one(monkeypatch: pytest.MonkeyPatch, block: int, device: str) -> None:
    monkeypatch.setattr(module, "ROWS", block)
    monkeypatch.setattr(module, "COLUMNS", 3 * block)
    rng = np.random.default_rng(0)
    a = (rng.normal(size=(50, 8)) + 30).astype(np.float32)
    b = (rng.normal(size=(200, 8)) + 30).astype(np.float32)
    value, where = nearest(a, b, device=device)
    assert np.array_equal(where, (a.astype(float) @ b.T.astype(float)).argmax(axis=1))
    assert np.allclose(value, (a @ b.T).max(axis=1))
    distances = cdist(a.astype(float), b.astype(float))
    value, where = nearest(a, b, euclidean=True, device=device)
    assert np.array_equal(where, distances.argmin(axis=1))
    assert np.allclose(value, distances.min(axis=1), rtol=1e-6)
    value, where = nearest(b[:9], b, euclidean=True, device=device)
    assert where.tolist() == list(range(9))
    assert not value.any()
    groups = rng.integers(0, 9, 50), rng.integers(0, 9, 200)
    distances[groups[0][:, None] == groups[1]] = np.inf
    value, where = nearest(a, b, groups=groups, euclidean=True, device=device)
    assert np.array_equal(where, distances.argmin(axis=1))


@pytest.mark.parametrize("euclidean", [False, True])
def test_rows_of_one_group_are_not_compared(euclidean: bool) -> None:
    a = np.eye(3, dtype=np.float32)
    groups = np.array(["x", "x", "y"], dtype=object)
    value, where = nearest(a, a, groups=(groups, groups), euclidean=euclidean)
    assert where.tolist()[:2] == [2, 2]
    assert value[0] == pytest.approx(2**0.5 if euclidean else 0)
    value, where = nearest(a[:1], a[:1], groups=(groups[:1], groups[:1]), euclidean=euclidean)
    assert np.isnan(value[0])
    assert where[0] == -1
    value, where = nearest(a, a[:0], euclidean=euclidean)
    assert np.isnan(value).all()
    assert (where == -1).all()


def test_memory_does_not_grow_with_the_number_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 128)
    monkeypatch.setattr(module, "COLUMNS", 512)
    rng = np.random.default_rng(0)
    peaks = []
    for n in (2000, 8000):
        a, b = (rng.normal(size=(n, 16)).astype(np.float32) for _ in range(2))
        tracemalloc.start()
        nearest(a, b, euclidean=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 3e6  # all pairs would be 256 MB; one block is 0.3 MB
    assert peaks[1] - peaks[0] < 8000 * 64


def test_memory_maps_are_searched(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    b = rng.normal(size=(3000, 8)).astype(np.float32)
    np.save(tmp_path / "b.npy", b)
    stored = np.load(tmp_path / "b.npy", mmap_mode="r")
    for euclidean in (False, True):
        found, expected = (nearest(b[:20] + 1, x, euclidean=euclidean) for x in (stored, b))
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])
