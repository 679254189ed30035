"""The forms of X, and the way from values to bytes and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.balance.image_rows import as_squares, checked_range, from_bytes, image_rows, to_bytes, value_range
from cxraug.balance.refusal import SamplingError


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([3, 200], np.uint8), (0, 255)),
        (np.array([0.0, 0.9]), (0, 1)),
        (np.array([-0.9, 0.8]), (-1, 1)),
        (np.array([4, 250]), (0, 255)),
        (np.array([100, 60000], np.uint16), (0, 65535)),
        (np.array([-1000.0, 800.0]), (-1024, 1024)),
        (np.array([-3.1, 2.7]), (-3.1, 2.7)),  # standardised: no customary range
        (np.array([0.0, 3.0]), (0, 3)),
        (np.array([7.0, 7.0]), (7, 8)),
    ],
)
def test_which_values_are_black_and_white(values: np.ndarray, expected: tuple[float, float]) -> None:
    assert value_range(values) == pytest.approx(expected)


@settings(deadline=None)
@given(st.sampled_from([(0.0, 255.0), (0.0, 1.0), (-1024.0, 1024.0), (-2.5, 3.5)]), st.sampled_from(["f4", "f8"]))
def test_bytes_come_back_through_values(limits: tuple[float, float], kind: str) -> None:
    pixels = np.arange(256, dtype=np.uint8)
    values = from_bytes(pixels, limits, np.dtype(kind))
    assert values.dtype == kind
    assert values[0] == pytest.approx(limits[0])
    assert values[-1] == pytest.approx(limits[1])
    assert np.array_equal(to_bytes(values, limits), pixels)


def test_values_outside_the_range_are_clipped_and_integers_rounded() -> None:
    assert to_bytes(np.array([-5.0, 0.5, 9.0]), (0.0, 1.0)).tolist() == [0, 128, 255]
    assert from_bytes(np.array([0, 1, 255], np.uint8), (0.0, 4095.0), np.dtype("int16")).tolist() == [0, 16, 4095]


def test_rows_of_any_length_become_squares_and_keep_their_values() -> None:
    flat = np.arange(2 * 20, dtype=np.uint8).reshape(2, 20)
    squares = as_squares(flat)
    assert squares.shape == (2, 5, 5)
    assert np.array_equal(squares.reshape(2, -1)[:, :20], flat)
    assert as_squares(flat[:, :1]).shape == (2, 2, 2)
    assert as_squares(flat[:, :16]).shape == (2, 4, 4)


def test_forms_of_x() -> None:
    paths = ["a.png", "b.png"]
    for X in (paths, np.array(paths), pd.Series(paths), pd.DataFrame({"image": paths}), [Path(p) for p in paths]):
        rows = image_rows(X)
        assert rows.paths
        assert [str(p) for p in rows.flat] == paths
    stack = image_rows(np.zeros((3, 4, 4), np.float32))
    assert (stack.paths, stack.side(), stack.flat.shape) == (False, 4, (3, 16))
    assert image_rows(np.zeros((3, 25))).side() == 5
    assert image_rows(np.zeros((3, 24))).side() is None
    assert image_rows(np.zeros((3, 4, 5))).side() is None
    assert image_rows([[1, 2], [3, 4]]).array.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((3, 0)), "0 feature"),
        (np.zeros(4), "bad X"),
        (np.zeros((2, 2, 2, 3)), "bad X"),
        (np.array([[True], [False]]), "bad X"),
        (np.array([[np.nan], [1.0]]), "NaN"),
        (pd.Series(["a.png", None]), "a path is missing"),
        (np.array([["a", "b"]]), "one path per row"),
        ([[{}], [{}]], "neither numbers nor paths"),
    ],
)
def test_forms_that_are_refused(X: object, message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        image_rows(X)


@pytest.mark.parametrize("bad", [(1, 0), (0,), "ab", (0, float("inf")), (0, 1, 2)])
def test_a_range_is_two_rising_numbers(bad: object) -> None:
    with pytest.raises(SamplingError, match="bad value_range"):
        checked_range(bad)
