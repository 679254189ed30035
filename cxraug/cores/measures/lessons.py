"""What the probes learn from: real rows of another split, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxraug.cores.core import LATERAL
from cxraug.cores.measures.reader import CELL, PARTS, Lessons
from cxraug.cores.measures.regions import boxes_of, coverage, mask_parts
from cxraug.cores.measures.rows import female
from cxraug.errors import InputError
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import Manifest

MOST = 10_000  # images; more make the reader little better and its training long
LESSON_SPLIT = "train"


def lesson_rows(manifest: Manifest, views: Sequence[str], seed: int) -> Manifest:
    """At most :data:`MOST` real training rows in ``views``, whole patients, drawn at random.

    Raises :class:`InputError` where there are none.
    """
    frame = manifest.frame
    keep = (frame["split"] == LESSON_SPLIT) & frame["view"].isin(list(views))
    if "synthetic" in frame:
        keep &= ~frame["synthetic"].fillna(False).astype(bool)
    if not keep.any():
        raise InputError(
            "no rows to train the probes on", file=manifest.file, column="split",
            expected=f"real rows of the split {LESSON_SPLIT} in the views {', '.join(views)}",
        )  # fmt: skip
    own = manifest.take(keep.to_numpy(bool))
    code = np.unique(own.frame["patient_id"].to_numpy(str), return_inverse=True)[1]
    rank = np.random.default_rng([seed, 3]).permutation(code.max() + 1)[code]
    order = np.argsort(rank, kind="stable")
    return own.take(np.sort(order[:MOST]))


def lessons_of(rows: Manifest, findings: Sequence[str], folder: Path, encoding: Encoding) -> tuple[Lessons, list[str]]:
    """The rows as lessons, and the findings whose boxes became the first channels of the maps.

    A finding has a channel if any row has a box of it; rows without boxes (masks) teach none.
    """
    rows, cache = build_cache(rows, folder, encoding)
    grid, n = encoding.size // CELL, len(rows)
    boxes = boxes_of(rows)
    boxed = sorted({b.label for own in boxes for b in own or []} & set(findings))
    masked = "mask" in rows.frame and bool(rows.frame["mask"].notna().any())
    channels = len(boxed) + (len(PARTS) if masked else 0)
    maps = np.zeros((n, channels, grid, grid), np.uint8)
    mapped = np.zeros((n, channels), bool)
    for i, own in enumerate(boxes):
        if own is None:
            continue
        mapped[i, : len(boxed)] = True
        for channel, finding in enumerate(boxed):
            mine = [b for b in own if b.label == finding]
            if mine:
                maps[i, channel] = np.rint(255 * coverage(mine, grid))
    if masked:
        there = rows.frame["mask"].notna().to_numpy(bool)
        paths = rows.take(there).paths("mask")
        for i, path in zip(np.flatnonzero(there).tolist(), paths, strict=True):
            parts = mask_parts(path, grid)
            known = np.isfinite(parts).all(axis=(1, 2))
            maps[i, len(boxed) :] = np.rint(255 * np.nan_to_num(parts))
            mapped[i, len(boxed) :] = known
    lessons = Lessons(
        cache.pixels, rows.y(list(findings)), female(rows.frame), rows.frame["age"].to_numpy(float), maps, mapped
    )
    return lessons, boxed


def view_pairs(rows: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the first frontal and the first lateral row of each study that has both, (k,) each."""
    frame = rows.frame
    key = (frame["patient_id"].astype("str") + "\0" + frame["study_id"].astype("str")).to_numpy()
    lateral = (frame["view"] == LATERAL).to_numpy(bool)
    at = [dict[str, int](), dict[str, int]()]
    for i, (name, side) in enumerate(zip(key, lateral, strict=True)):
        at[int(side)].setdefault(name, i)
    both = [name for name in at[0] if name in at[1]]
    return np.array([at[0][name] for name in both], int), np.array([at[1][name] for name in both], int)
