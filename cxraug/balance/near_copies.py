"""Pictures filed twice: nearly the same image under two patients, found without equal pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import special

from cxraug.privacy.alignment import align
from cxraug.privacy.nearest import nearest
from cxraug.privacy.structure import LOOKS, Look, Whitening, cells, chunks, fine, orientations
from cxraug.progress import track

SEARCHED = tuple(look for look in LOOKS if look.x == look.y == 0)  # mirrored or not, three scales
LEAST = 100  # images below which chance has no shape that could be read
ALIGNED = 4000  # pairs at most that are aligned: a random half for the null, and those that are most alike
EXPECTED = 0.05  # pairs of different pictures that are listed, on average over data sets
FLOOR = 0.9  # correlation below which no pair is listed
COLUMNS = (
    "image",
    "image_of_copy",
    "patient_id",
    "patient_id_of_copy",
    "split",
    "split_of_copy",
    "labels",
    "labels_of_copy",
    "correlation",
    "mirrored",
)
QUANTILES = (0.3, 0.8)  # of the best matches, which give the shape of chance: a fifth may be copies


@dataclass(frozen=True)
class NearCopies:
    """``pairs``: image, nearest, patient and split of both, correlation, mirrored. ``cut`` that they exceed."""

    pairs: pd.DataFrame
    cut: float
    compared: int

    def describe(self) -> dict[str, Any]:
        """Counts for the audit."""
        pairs = self.pairs
        return {
            "compared": self.compared,
            "pairs": len(pairs),
            "across_splits": int((pairs["split"] != pairs["split_of_copy"]).sum()),
            "different_labels": int((pairs["labels"] != pairs["labels_of_copy"]).sum()),
            "cut": self.cut,
            "expected_by_chance": EXPECTED,
        }


def find_near_copies(
    pixels: np.ndarray, found: np.ndarray, frame: pd.DataFrame, seed: int = 0, skip: np.ndarray | None = None
) -> NearCopies | None:
    """Pairs of images of different patients that are nearly one picture.

    Parameters
    ----------
    pixels : uint8 (n, S, S). found : (n, 512) :func:`cxraug.privacy.structure.cells_of` them. frame : (n) rows with
        ``image, patient_id, split, labels``. skip : (n,) images that show nothing, which all look alike.

    Returns
    -------
    None with fewer than 100 images, or a single patient.

    Notes
    -----
    Each image's nearest image of another patient is searched exactly (whitened histograms of gradients, mirrored and at
    three scales) and then aligned. Chance is read off the data themselves: the Fisher-transformed correlations of best
    matches have a normal law, whose two parameters follow from their 30 and 80 % quantiles, so that up to a fifth of
    the images may be copies. The cut is where 0.05 pairs are expected by chance in the whole set.
    """
    patient = pd.factorize(frame["patient_id"])[0].astype(np.int64)
    kept = np.flatnonzero(~skip) if skip is not None else np.arange(len(pixels))
    if len(kept) < LEAST or len(np.unique(patient[kept])) < 2:
        return None
    whitening = Whitening.fit(found[kept], seed)
    vectors, mine = whitening(found[kept]), patient[kept]
    value, where, look = _search(pixels, kept, whitening, vectors, mine)
    order = np.argsort(-value, kind="stable")
    half = ALIGNED // 2
    sample = np.sort(np.random.default_rng(seed).permutation(len(kept))[:half])
    asked = np.union1d(sample, order[:half])
    asked = asked[where[asked] >= 0]
    correlation = _aligned(pixels, kept, asked, where, look)
    cut = cut_off(correlation[np.isin(asked, sample)], len(kept))
    over = correlation > cut
    return NearCopies(_pairs(frame, kept, asked[over], where, look, correlation[over]), cut, len(kept))


def cut_off(correlation: np.ndarray, images: int) -> float:
    """The correlation that 0.05 of ``images`` best matches of different pictures exceed on average.

    ``correlation`` (k,) of best matches, of which at most a fifth are copies.
    """
    z = np.arctanh(np.clip(correlation, -0.999999, 0.999999))
    low, high = np.quantile(z, QUANTILES)
    first, second = (special.ndtri(q) for q in QUANTILES)
    scale = max((high - low) / (second - first), 1e-6)
    return float(max(FLOOR, np.tanh(low + scale * (special.ndtri(1 - min(EXPECTED / images, 0.5)) - first))))


def _search(
    pixels: np.ndarray, kept: np.ndarray, whitening: Whitening, vectors: np.ndarray, patient: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How near the nearest image of another patient is (k,), its place among ``kept``, and the look that found it."""
    best = np.full(len(kept), -np.inf)
    where, by = np.full(len(kept), -1), np.zeros(len(kept), np.int64)
    for part in track(list(chunks(np.arange(len(kept)))), "looking for near copies"):
        maps = orientations(pixels[kept[part]])
        for k, look in enumerate(SEARCHED):
            value, at = nearest(whitening(cells(maps, look)), vectors, groups=(patient[part], patient))
            better = np.nan_to_num(value, nan=-np.inf) > best[part]
            best[part] = np.where(better, value, best[part])
            where[part] = np.where(better, at, where[part])
            by[part] = np.where(better, k, by[part])
    return best, where, by


def _aligned(
    pixels: np.ndarray, kept: np.ndarray, asked: np.ndarray, where: np.ndarray, look: np.ndarray
) -> np.ndarray:
    """Correlation (a,) of each pair once one is laid on the other."""
    parts = [np.zeros(0)]
    for rows in chunks(asked):
        moving, fixed = fine(pixels[kept[rows]]), fine(pixels[kept[where[rows]]])
        looks: list[Look] = [SEARCHED[i] for i in look[rows].tolist()]
        with torch.no_grad():
            parts.append(align(moving, fixed, looks, np.arange(len(rows)))[1].correlation)
    return np.concatenate(parts)


def _pairs(
    frame: pd.DataFrame, kept: np.ndarray, rows: np.ndarray, where: np.ndarray, look: np.ndarray, value: np.ndarray
) -> pd.DataFrame:
    """Each pair once, the most alike first."""
    of, copy = kept[rows], kept[where[rows]]
    columns = {}
    for name in ("image", "patient_id", "split", "labels"):
        text = frame[name].fillna("").to_numpy(dtype=object)
        columns[name], columns[f"{name}_of_copy"] = text[of], text[copy]
    mirrored = np.array([SEARCHED[i].mirrored for i in look[rows].tolist()], bool)
    table = pd.DataFrame({**columns, "correlation": np.round(value, 4), "mirrored": mirrored})
    table["pair"] = [f"{min(a, b)} {max(a, b)}" for a, b in zip(of.tolist(), copy.tolist(), strict=True)]
    table = table.sort_values("correlation", ascending=False, kind="stable").drop_duplicates("pair")
    return table.drop(columns="pair").reset_index(drop=True)
