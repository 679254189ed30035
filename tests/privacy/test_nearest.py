"""Nearest training images: the blocked search is the naive one, and planted copies come out on top, aligned."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist

from cxraug.fidelity.extractors import conv_random
from cxraug.privacy import nearest as module
from cxraug.privacy.nearest import COLUMNS, align, look_up, nearest, nearest_training
from cxraug.studies.phantom.cohort import PhantomSettings, render_study, sample_cohort

SIDE = 64
TRAIN, OTHERS = 60, 12


def phantoms(n: int, seed: int) -> np.ndarray:
    settings = PhantomSettings(n=n, seed=seed, size=SIDE, studies_per_patient=1)
    return np.stack([render_study(s, settings).images["PA"] for s in sample_cohort(settings).to_dict("records")])


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    return phantoms(TRAIN, 0)


@pytest.fixture(scope="module")
def others() -> np.ndarray:
    return phantoms(OTHERS, 1)


def cropped(pixels: np.ndarray) -> np.ndarray:
    """95 % of each side, from a corner of the picture, brought back to its size."""
    keep = round(0.95 * SIDE)
    return np.asarray(
        Image.fromarray(pixels[2 : 2 + keep, 1 : 1 + keep]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    )


def through_jpeg(pixels: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda x: x,
    "mirrored": lambda x: x[:, ::-1],
    "shifted": lambda x: np.roll(x, (2, -3), axis=(0, 1)),
    "cropped": cropped,
    "brighter": lambda x: np.clip(x * 0.9 + 15, 0, 255).astype(np.uint8),
    "jpeg": through_jpeg,
}


@pytest.mark.parametrize("kind", COPIES)
def test_planted_copies_are_found_and_agree(train: np.ndarray, others: np.ndarray, kind: str) -> None:
    planted = np.arange(0, TRAIN, 6)
    synthetic = np.concatenate([np.stack([COPIES[kind](train[i]) for i in planted]), others])
    table = nearest_training(
        synthetic, train, conv_random().features, images=[f"s{i}" for i in range(len(synthetic))],
        train_images=[f"t{i}" for i in range(TRAIN)], train_patients=[f"p{i}" for i in range(TRAIN)],
        closest=len(synthetic),
    )  # fmt: skip
    assert tuple(table.columns) == COLUMNS
    assert table["distance"].is_monotonic_increasing
    rows = table.set_index("image")
    copies, unrelated = (
        rows.loc[[f"s{i}" for i in range(len(planted))]],
        rows.loc[[f"s{i + 10}" for i in range(OTHERS)]],
    )
    found = copies["nearest_image"] == [f"t{i}" for i in planted]
    assert found.mean() >= (0.7 if kind in ("cropped", "shifted") else 1.0)  # by random features; 1 in 60 by chance
    assert (copies["nearest_patient_id"].str[1:] == copies["nearest_image"].str[1:]).all()
    assert copies.loc[found, "correlation"].min() > 0.9
    assert copies.loc[found, "correlation"].min() > unrelated["correlation"].max() + 0.05
    assert copies.loc[found, "mirrored"].eq(kind == "mirrored").all()


def test_either_set_may_be_the_one_that_is_turned(train: np.ndarray) -> None:
    """A mirrored and shifted copy is at distance 0 of its original, whichever set is smaller."""
    few, shift = train[:9], (3 * SIDE // 64, -3 * SIDE // 64)
    copies = np.roll(few[:, :, ::-1], shift, axis=(1, 2))
    seen: list[int] = []

    def features(pixels: np.ndarray) -> np.ndarray:
        seen.append(len(pixels))
        return pixels.reshape(len(pixels), -1).astype(np.float32)

    distance, where = look_up(copies, train, features)
    assert not distance.any()
    assert where.tolist() == list(range(9))
    assert seen == [TRAIN] + [9] * 18
    seen.clear()
    many = np.concatenate([copies, train[20:]])
    distance, where = look_up(many, few, features)
    assert not distance[:9].any()
    assert where[:9].tolist() == list(range(9))
    assert distance[9:].min() > 0
    assert seen == [len(many)] + [9] * 18


def test_the_transform_is_named(train: np.ndarray) -> None:
    same = align(train[3], train[3])
    assert (same.mirrored, same.scale, same.shift_x, same.shift_y) == (False, 1.0, 0, 0)
    assert same.correlation == pytest.approx(1)
    moved = align(np.roll(train[3], (2, -3), axis=(0, 1)), train[3])
    assert (moved.shift_x, moved.shift_y) == (3, -2)
    assert align(cropped(train[3]), train[3]).scale == pytest.approx(1.05, abs=0.02)
    assert align(np.full((SIDE, SIDE), 9, np.uint8), train[3]).correlation == 0


def test_only_the_closest_pairs_are_aligned(train: np.ndarray, others: np.ndarray) -> None:
    names = [str(i) for i in range(TRAIN)]
    table = nearest_training(
        others,
        train,
        conv_random().features,
        images=names[:OTHERS],
        train_images=names,
        train_patients=names,
        closest=3,
    )
    assert table["correlation"].notna().tolist() == [True] * 3 + [False] * (OTHERS - 3)


@pytest.mark.parametrize("block", [7, 2048])
def test_the_blocked_search_is_the_naive_one(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(0)
    a = (rng.normal(size=(50, 8)) + 30).astype(np.float32)
    b = (rng.normal(size=(200, 8)) + 30).astype(np.float32)
    value, where = nearest(a, b)
    assert np.array_equal(where, (a.astype(float) @ b.T.astype(float)).argmax(axis=1))
    assert np.allclose(value, (a @ b.T).max(axis=1))
    distances = cdist(a.astype(float), b.astype(float))
    value, where = nearest(a, b, euclidean=True)
    assert np.array_equal(where, distances.argmin(axis=1))
    assert np.allclose(value, distances.min(axis=1), rtol=1e-6)
    value, where = nearest(b[:9], b, euclidean=True)
    assert where.tolist() == list(range(9))
    assert not value.any()


@pytest.mark.parametrize("euclidean", [False, True])
def test_rows_of_one_group_are_not_compared(euclidean: bool) -> None:
    a = np.eye(3, dtype=np.float32)
    groups = np.array([0, 0, 1])
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
    monkeypatch.setattr(module, "BLOCK", 128)
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
