"""Run-length encoded masks of the SIIM-ACR challenge."""

from __future__ import annotations

import numpy as np

SIDE = 1024  # pixels; all images of the challenge have this size


def runs(text: str, pixels: int = SIDE * SIDE) -> np.ndarray:
    """Runs (n, 2) of start and end (exclusive) in the order of the pixels, from ``gap length gap length ...``.

    Each gap is counted from the end of the run before (the challenge's own decoder), not from the beginning. Pixels go
    down the columns: number p is row p % 1024 of column p // 1024.

    Raises
    ------
    ValueError
        Text that is no such list, or a run of no length or beyond the last pixel.
    """
    try:
        numbers = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError("not a list of whole numbers") from None
    if not len(numbers) or len(numbers) % 2:
        raise ValueError("not pairs of gap and length")
    gaps, lengths = numbers[0::2], numbers[1::2]
    if (numbers < 0).any() or (lengths == 0).any() or (numbers > pixels).any():
        raise ValueError("a negative number, a run of no length or one beyond the image")
    ends = np.cumsum(gaps + lengths)
    if ends[-1] > pixels:
        raise ValueError("a run beyond the last pixel")
    return np.stack([ends - lengths, ends], axis=1)


def run_box(found: np.ndarray, side: int = SIDE) -> tuple[int, int, int, int]:
    """``x, y, w, h`` of the pixels of ``runs``: the smallest box that holds them."""
    first, last = found[:, 0], found[:, 1] - 1
    left, right = first // side, last // side
    over = left != right  # a run that goes on in the next column touches the first and the last row
    top = np.where(over, 0, first % side).min()
    bottom = np.where(over, side - 1, last % side).max()
    return int(left.min()), int(top), int(right.max() - left.min() + 1), int(bottom - top + 1)


def draw_runs(found: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Mask (side, side) of bool, rows first, true where the runs are."""
    change = np.zeros(side * side + 1, np.int32)
    np.add.at(change, found[:, 0], 1)
    np.add.at(change, found[:, 1], -1)
    return (np.cumsum(change[:-1]) > 0).reshape(side, side).T
