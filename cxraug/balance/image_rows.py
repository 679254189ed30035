"""The forms in which a sampler is given images: paths, stacks (n, H, W) and rows of pixels (n, H*W)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from scipy.sparse import issparse

from cxraug.balance.refusal import SamplingError
from cxraug.studies.images import Encoding, encode, read_pixels

RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-1024.0, 1024.0), (0.0, 65535.0))  # black, white
FILLED = 0.5  # the share of a customary range that values must span: standardised values do not lie "in -1024..1024"


@dataclass(frozen=True)
class ImageRows:
    """X as an array: ``paths`` (n,) or (n, 1) of text or paths, or numbers (n, H, W) or (n, D)."""

    array: np.ndarray
    paths: bool

    def __len__(self) -> int:
        return len(self.array)

    @property
    def flat(self) -> np.ndarray:
        """(n,) paths or (n, D) numbers."""
        return self.array.reshape(-1) if self.paths else self.array.reshape(len(self.array), -1)

    def side(self) -> int | None:
        """Side of the images in pixels, None where they are not square."""
        if self.array.ndim == 3:
            return self.array.shape[1] if self.array.shape[1] == self.array.shape[2] else None
        side = isqrt(self.array.shape[1])
        return side if side**2 == self.array.shape[1] else None

    def appended(self, rows: np.ndarray) -> np.ndarray:
        """The array with further ``rows`` (m,) or (m, D) behind it; its own rows keep their values."""
        shape = (len(rows), *self.array.shape[1:])
        rows = rows.reshape(shape)
        if self.array.dtype == object or not self.paths:
            rows = rows.astype(self.array.dtype)
        return np.concatenate([self.array, rows])


def image_rows(X: Any) -> ImageRows:
    """Read ``X``: an array, list, Series or DataFrame of paths (one column) or of pixel values.

    Raises :class:`SamplingError` for sparse matrices, missing or infinite values, other types and other shapes.
    """
    if issparse(X):
        raise SamplingError("sparse images are not supported", expected="a dense array")
    try:
        array = X.to_numpy() if hasattr(X, "to_numpy") else np.asarray(X)
    except ValueError:  # of numpy, about an inhomogeneous shape
        expected = "one shape; or paths, whose images are brought to image_size"
        raise SamplingError("X holds images of different shapes", expected=expected) from None
    if not array.size:  # in the words of scikit-learn
        what = "0 sample(s)" if not len(array) else f"0 feature(s) (shape={array.shape})"
        raise SamplingError(f"found array with {what} while a minimum of 1 is required.")
    if array.dtype.kind in "US" or (array.dtype == object and isinstance(array.flat[0], (str, os.PathLike))):
        if array.ndim != 1 and not (array.ndim == 2 and array.shape[1] == 1):
            raise SamplingError("one path per row is needed", found=f"shape {array.shape}")
        for row, entry in enumerate(array.flat):
            if not isinstance(entry, (str, os.PathLike)):
                raise SamplingError(f"row {row} of X: a path is missing", found=repr(entry),
                                    expected="the path of an image in every row")  # fmt: skip
        return ImageRows(array, paths=True)
    if array.dtype == object:
        try:
            array = array.astype(float)
        except (TypeError, ValueError):
            raise SamplingError("X holds neither numbers nor paths", found=type(array.flat[0]).__name__) from None
    if array.dtype.kind == "c":
        raise SamplingError("Complex data not supported", expected="real numbers")
    if array.dtype.kind not in "uif" or array.ndim not in (2, 3):
        expected = "paths (n,), or real numbers of shape (n, H, W) or (n, H*W)"
        raise SamplingError("bad X", found=f"{array.dtype} {array.shape}", expected=expected)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SamplingError("X contains NaN or infinity", expected="finite pixel values")
    return ImageRows(array, paths=False)


def check_files(rows: ImageRows) -> None:
    """Raise :class:`SamplingError` for the first path (row counted from 0) that is no file, before time is spent."""
    for row, path in enumerate(rows.flat.tolist()):
        if not os.path.isfile(path):
            raise SamplingError(f"row {row} of X: no such image", found=os.fspath(path), expected="an image file")


def read_images(paths: Sequence[Any], size: int) -> np.ndarray:
    """(n, size, size) uint8 of image files, cropped to the central square (:class:`Encoding`)."""
    encoding = Encoding(size=size)
    return np.stack([encode(read_pixels(path), encoding) for path in paths])


def value_range(values: np.ndarray) -> tuple[float, float]:
    """Which values are black and white: 0 and 255 for uint8.

    Elsewhere the narrowest range of ``RANGES`` that holds all ``values`` and that they span by at least half, and where
    there is none their minimum and maximum.
    """
    if values.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(values.min()), float(values.max())
    for black, white in RANGES:
        if black <= low and high <= white and high - low >= FILLED * (white - black):
            return black, white
    return (low, high) if high > low else (low, low + 1.0)


def checked_range(given: Any) -> tuple[float, float]:
    """``given`` as (black, white); raises :class:`SamplingError` where it is no pair of rising numbers."""
    try:
        black, white = (float(value) for value in given)
    except (TypeError, ValueError):
        black, white = 0.0, 0.0
    if not (np.isfinite([black, white]).all() and black < white):
        raise SamplingError("bad value_range", found=given, expected="(black, white), two rising numbers")
    return black, white


def to_bytes(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Numbers as uint8: ``limits`` become 0 and 255, what lies outside is clipped."""
    if values.dtype == np.uint8 and limits == (0.0, 255.0):
        return values
    black, white = limits
    scaled = (values.astype(np.float64) - black) * (255.0 / (white - black))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def from_bytes(pixels: np.ndarray, limits: tuple[float, float], dtype: np.dtype) -> np.ndarray:
    """The inverse of :func:`to_bytes` in ``dtype``: one of 256 values between ``limits``."""
    if dtype == np.uint8 and limits == (0.0, 255.0):
        return pixels
    black, white = limits
    table = black + np.arange(256) * ((white - black) / 255.0)
    return (np.rint(table) if dtype.kind in "ui" else table).astype(dtype)[pixels]


def as_squares(flat: np.ndarray) -> np.ndarray:
    """Rows (n, D) as squares (n, S, S), zeros behind them where D is no square."""
    side = max(2, isqrt(flat.shape[1] - 1) + 1)
    padded = np.zeros((len(flat), side * side), flat.dtype)
    padded[:, : flat.shape[1]] = flat
    return padded.reshape(-1, side, side)
