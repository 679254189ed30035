"""The audit's look at the images: faulty pictures, pictures filed twice, labels that may be wrong."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxraug.progress import track
from cxraug.storage import atomic, digest, read_json, write_json

if TYPE_CHECKING:
    from cxraug.studies.cache import PixelCache
    from cxraug.studies.manifest import Manifest

LIMIT = 20_000  # images that are looked at unless told otherwise
PART = 2048  # images whose structure is lost at most when interrupted
SIDE = 64  # pixels of the cache that this is made for


@dataclass(frozen=True)
class ImageAudit:
    """What was found: tables of faulty pictures, near copies and doubtful labels, and ``summary``, JSON-ready."""

    faults: pd.DataFrame
    near_copies: pd.DataFrame
    labels: pd.DataFrame
    summary: dict[str, Any]

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by the names of their files."""
        return {"faulty_images.csv": self.faults, "near_copies.csv": self.near_copies,
                "doubtful_labels.csv": self.labels}  # fmt: skip


def look_at_images(
    manifest: Manifest, cache: PixelCache, folder: str | Path, *, limit: int | None = LIMIT, seed: int = 0
) -> ImageAudit:
    """Look at the decoded images of a manifest.

    Parameters
    ----------
    cache : 64 x 64 pixels of the manifest's rows. folder : where the structure of images is kept; what is there of the
        same images is taken.
    limit : images at most; more are left out by whole patients at random, and said on standard error. None: all.

    Raises
    ------
    ValueError : lengths that differ, or pixels of another size.
    """
    from cxraug.balance.label_noise import find_label_noise
    from cxraug.balance.near_copies import COLUMNS, find_near_copies
    from cxraug.balance.picture_faults import find_faults, listed, small

    if len(cache) != len(manifest) or cache.pixels.shape[1] != SIDE:
        raise ValueError(f"{len(cache)} images of {cache.pixels.shape[1:]} for {len(manifest)} rows of {SIDE} pixels")
    rows = chosen_rows(manifest.frame["patient_id"], limit, seed)
    if len(rows) < len(manifest):
        print(f"  note: {len(rows):,} of {len(manifest):,} images are looked at (--image-limit)", file=sys.stderr)
    part, pixels = manifest.take(rows), np.asarray(cache.pixels[rows])
    frame = part.frame
    found = structure_of(pixels, cache.sha[rows], Path(folder))
    patients, views = (frame[column].to_numpy(dtype=object) for column in ("patient_id", "view"))
    faults = find_faults(pixels, patients, views, seed, found)
    empty = np.isin(faults.fault, ["blank", "partly blank"])
    copies = find_near_copies(pixels, found, frame, seed, skip=empty)
    noise = find_label_noise(np.concatenate([found, small(pixels)], axis=1), part.y(), frame, part.findings, seed)
    pairs = copies.pairs if copies is not None else pd.DataFrame(columns=list(COLUMNS))
    return ImageAudit(
        listed(faults, frame), pairs, noise.candidates,
        {
            "images": len(rows), "of": len(manifest), "seed": seed, "faults": faults.describe(),
            "near_copies": copies.describe() if copies is not None else None, "label_noise": noise.describe(),
        },
    )  # fmt: skip


def chosen_rows(patients: pd.Series, limit: int | None, seed: int) -> np.ndarray:
    """Rows of whole patients at random, at most ``limit`` of them but at least one patient's."""
    if limit is None or len(patients) <= limit:
        return np.arange(len(patients))
    of, names = pd.factorize(patients)
    order = np.random.default_rng(seed).permutation(len(names))
    ends = np.cumsum(np.bincount(of)[order])
    kept = np.zeros(len(names), bool)
    kept[order[: max(int(np.searchsorted(ends, limit, side="right")), 1)]] = True
    return np.flatnonzero(kept[of])


def structure_of(pixels: np.ndarray, sha: np.ndarray, folder: Path) -> np.ndarray:
    """:func:`cxraug.privacy.structure.cells_of` images (n, 64, 64), from ``folder`` where they are there already."""
    from cxraug.privacy.structure import cells_of

    key = digest([sha.tolist(), list(pixels.shape)])
    home = folder / "structure"
    if not (home / "key.json").exists() or read_json(home / "key.json").get("key") != key:
        for old in home.glob("*.npy"):
            old.unlink()
        write_json(home / "key.json", {"key": key})
    starts = range(0, len(pixels), PART)
    parts = []
    for start in track(list(starts), "looking at structure"):
        file = home / f"{start:08d}.npy"
        if not file.exists():
            with atomic(file) as temporary:
                np.save(temporary, cells_of(pixels[start : start + PART]).astype(np.float32))
        parts.append(np.load(file, allow_pickle=False))
    return np.concatenate(parts)
