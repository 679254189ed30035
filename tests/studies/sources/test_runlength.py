"""Run-length masks against the challenge's own encoder, written again here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.studies.sources.runlength import SIDE, draw_runs, run_box, runs


def encode(mask: np.ndarray) -> str:
    """Gap and length of every run down the columns, each gap from the end of the run before."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int), [0]])
    change = np.flatnonzero(np.diff(flat))
    text, last = [], 0
    for start, end in zip(change[0::2], change[1::2], strict=True):
        text += [str(start - last), str(end - start)]
        last = end
    return " ".join(text)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_drawn_runs_are_the_mask_and_its_box(x: int, y: int, w: int, h: int, seed: int) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    part = mask[y : y + h, x : x + w]
    part[...] = np.random.default_rng(seed).random(part.shape) < 0.5
    mask[min(y, SIDE - 1), min(x, SIDE - 1)] = True
    found = runs(encode(mask))
    np.testing.assert_array_equal(draw_runs(found), mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    expected = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    assert run_box(found) == expected


def test_a_run_over_the_edge_of_a_column_touches_first_and_last_row() -> None:
    assert run_box(runs("1020 10")) == (0, 0, 2, 1024)


@pytest.mark.parametrize("text", ["1 2 3", "", "a b", "5 0", "-3 4", "1048570 7", "1e3 4", "99999999999999999999 1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        runs(text)
