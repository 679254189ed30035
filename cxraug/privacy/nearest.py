"""The nearest training image of each synthetic one: exact search in blocks, and a second look at the closest pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from cxraug.progress import track

BLOCK = 2048  # rows of one block of the matrix of products
SIDE = 64  # pixels at which pairs are aligned
SHIFT = 6  # of 64 pixels, in each direction
SHIFTS = tuple((y, x) for y in (0, -3, 3) for x in (0, -3, 3))  # of 64 pixels, at which an image is looked up
SCALES = tuple(round(0.92 + 0.02 * i, 2) for i in range(9))  # of the training image
COARSE = 3.0  # pixels: wider structure than this, which all chest X-rays share, is removed before pairs are compared
COLUMNS = (
    "image", "nearest_image", "nearest_patient_id", "distance",
    "correlation", "mirrored", "scale", "shift_x", "shift_y",
)  # fmt: skip


def nearest(
    a: np.ndarray,
    b: np.ndarray,
    *,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
    euclidean: bool = False,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """The row of ``b`` that is nearest to each row of ``a``, and how near it is.

    Parameters
    ----------
    a, b : float32 (n, d) and (m, d); memory maps are read block by block.
    groups : the group of each row of a and b; rows of the same group are not compared.
    euclidean : False gives the largest dot product (a correlation, for unit vectors), True the smallest distance.
    device : ``cpu``, or where torch multiplies the blocks.

    Returns
    -------
    Values (n,) and rows (n,). Where nothing is left to compare with they are NaN and -1; the first of equals is named.

    Notes
    -----
    Every pair is compared. Memory beyond a and b is one block of 2048 x 8192 products and two of features, whatever n
    and m are. Distances are searched in single precision about the mean of ``b`` (two training images whose distances
    agree to about 1e-3 of the spread may be exchanged) and then taken from the pair's difference.
    """
    best, where = np.full(len(a), -np.inf, np.float32), np.full(len(a), -1)
    centre = _mean(b) if euclidean and len(b) else None
    for j in range(0, len(b), 4 * BLOCK):
        columns = slice(j, j + 4 * BLOCK)
        right = np.asarray(b[columns]) if centre is None else b[columns] - centre
        for i in range(0, len(a), BLOCK):
            rows = slice(i, i + BLOCK)
            left = np.asarray(a[rows]) if centre is None else a[rows] - centre
            block = _products(left, right, device)
            if euclidean:
                block -= 0.5 * (right * right).sum(axis=1)
            if groups is not None:
                block[groups[0][rows, None] == groups[1][None, columns]] = -np.inf
            top = block.argmax(axis=1)
            value = block[np.arange(len(top)), top]
            better = value > best[rows]
            best[rows] = np.where(better, value, best[rows])
            where[rows] = np.where(better, top + j, where[rows])
    found = np.isfinite(best)
    if euclidean:
        for i in range(0, len(a), BLOCK):
            rows = slice(i, i + BLOCK)
            apart = np.asarray(a[rows], float) - np.asarray(b[np.maximum(where[rows], 0)], float) if len(b) else 0.0
            best[rows] = np.sqrt(np.square(apart).sum(axis=1)) if len(b) else np.nan
    return np.where(found, best, np.nan), where


def unit(rows: np.ndarray) -> np.ndarray:
    """Scale each row to length 1; a row of (nearly) zeros becomes zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6)


Features = Callable[[np.ndarray], np.ndarray]


def nearest_training(
    synthetic: np.ndarray,
    train: np.ndarray,
    features: Features,
    *,
    images: Sequence[str],
    train_images: Sequence[str],
    train_patients: Sequence[str],
    closest: int = 100,
    shifts: Sequence[tuple[int, int]] = SHIFTS,
    device: str = "cpu",
) -> pd.DataFrame:
    """The nearest training image of every synthetic one: :func:`look_up`, as a table (:func:`pairs`)."""
    distance, where = look_up(synthetic, train, features, shifts=shifts, device=device)
    return pairs(
        synthetic, train, distance, where, images=images, train_images=train_images, train_patients=train_patients,
        closest=closest,
    )  # fmt: skip


def look_up(
    synthetic: np.ndarray, train: np.ndarray, features: Features, *, shifts: Sequence[tuple[int, int]] = SHIFTS,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Distance to the nearest training image, and its row, (n,) each, over mirroring and shifts.

    Parameters
    ----------
    synthetic, train : uint8 (n, S, S) and (m, S, S). features : from such pixels to float32 (n, d), for example the
        ``features`` of :func:`cxraug.fidelity.extractors.open_extractor`.
    shifts : (down, right) in pixels of 64, at which pairs are compared, as they are and mirrored. One search each:
        ``((0, 0),)`` is nine times faster than the default, and misses more copies that were shifted or cropped.

    Notes
    -----
    Distances are Euclidean, between features, and the smallest over all look-ups counts. Of the two sets the smaller
    one is mirrored and shifted, for features are what takes time; the default shifts come in opposite pairs. A copy is
    found as far as the features do not see how it was changed.
    """
    few = len(train) < len(synthetic)
    still, turned = (features(synthetic), train) if few else (features(train), synthetic)
    pixel = synthetic.shape[1] / SIDE
    distance, where = np.full(len(synthetic), np.inf), np.zeros(len(synthetic), int)
    looks = [(images, shift) for images in (turned, turned[:, :, ::-1]) for shift in shifts]
    for images, (y, x) in track(looks, "looking for copies"):
        moved = features(np.roll(images, (round(y * pixel), round(x * pixel)), axis=(1, 2)))
        sides = (still, moved) if few else (moved, still)
        value, at = nearest(*sides, euclidean=True, device=device)
        better = value < distance
        distance, where = np.where(better, value, distance), np.where(better, at, where)
    return distance, where


def pairs(
    synthetic: np.ndarray,
    train: np.ndarray,
    distance: np.ndarray,
    where: np.ndarray,
    *,
    images: Sequence[str],
    train_images: Sequence[str],
    train_patients: Sequence[str],
    closest: int = 100,
) -> pd.DataFrame:
    """Synthetic images with their nearest training images, closest pairs first (:data:`COLUMNS`).

    Parameters
    ----------
    distance, where : of :func:`look_up`.
    images, train_images, train_patients : names of the rows.
    closest : how many of the closest pairs are aligned (:func:`align`); the others have no ``correlation``. Of an
        alignment ``shift_x`` and ``shift_y`` are in pixels of 64.
    """
    rows = []
    for place, i in enumerate(np.argsort(distance, kind="stable")):
        row = {
            "image": images[i],
            "nearest_image": train_images[where[i]],
            "nearest_patient_id": train_patients[where[i]],
            "distance": float(distance[i]),
        }
        if place < closest:
            row |= vars(align(synthetic[i], train[where[i]]))
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True)
class Alignment:
    """How well two images agree (``correlation``, -1 to 1) once the training image is turned, scaled and shifted so."""

    correlation: float
    mirrored: bool
    scale: float
    shift_x: int
    shift_y: int


def align(synthetic: np.ndarray, train: np.ndarray) -> Alignment:
    """The best correlation of two images over mirroring, scales of 0.92 to 1.08 and shifts of 6 in 64 pixels.

    Parameters
    ----------
    synthetic, train : uint8 (S, S), S >= 64; both are averaged down to 64 x 64.

    Notes
    -----
    Structure wider than about 3 of the 64 pixels is removed first: the outline of a chest is common to all patients,
    edges of ribs, vessels and skin are not. The correlation is Pearson's, of the middle 52 x 52 pixels of the synthetic
    image with every window of the training image, so that brightness and contrast drop out.
    """
    wanted = _fine(_small(synthetic, SIDE))[SHIFT:-SHIFT, SHIFT:-SHIFT]
    wanted = wanted - wanted.mean()
    length = float(wanted.norm())
    best = Alignment(0.0, False, 1.0, 0, 0)
    if length < 1e-6:
        return best
    kernel, ones = (wanted / length)[None, None], torch.ones(1, 1, *wanted.shape, dtype=wanted.dtype)
    for mirrored in (False, True):
        turned = train[:, ::-1] if mirrored else train
        for scale in SCALES:
            image = _fine(_small(turned, round(SIDE * scale)))[None, None]
            mean = functional.conv2d(image, ones) / ones.numel()
            spread = functional.conv2d(image * image, ones) - ones.numel() * mean**2
            windows = functional.conv2d(image, kernel) / spread.clamp_min(1e-6).sqrt()
            top = int(windows.argmax())
            value = float(windows.flatten()[top])
            if value > best.correlation + 1e-9:
                y, x = divmod(top, windows.shape[-1])
                middle = (image.shape[-1] - len(wanted)) // 2
                best = Alignment(min(value, 1.0), mirrored, scale, x - middle, y - middle)
    return best


def _products(a: np.ndarray, b: np.ndarray, device: str) -> np.ndarray:
    if device == "cpu":
        return a @ b.T
    left, right = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (a, b))
    return (left @ right.T).cpu().numpy()


def _mean(b: np.ndarray) -> np.ndarray:
    """Mean row of a matrix that may be a memory map."""
    total = sum(np.asarray(b[j : j + BLOCK], float).sum(axis=0) for j in range(0, len(b), BLOCK))
    return np.asarray(total / len(b), np.float32)


def _small(pixels: np.ndarray, side: int) -> torch.Tensor:
    image = torch.from_numpy(np.array(pixels, float))[None, None]
    return functional.interpolate(image, (side, side), mode="bilinear", antialias=True, align_corners=False)[0, 0]


def _fine(image: torch.Tensor) -> torch.Tensor:
    """The image less its Gaussian blur, (S, S)."""
    reach = round(3 * COARSE)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=image.dtype) / COARSE) ** 2)
    line = (line / line.sum())[None, None]
    padded = functional.pad(image[None, None], (reach,) * 4, mode="replicate")
    wide = functional.conv2d(functional.conv2d(padded, line[:, :, None, :]), line[:, :, :, None])
    return image - wide[0, 0]
