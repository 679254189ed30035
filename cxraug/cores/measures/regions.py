"""Boxes and masks on a coarse grid, and whether what a reader finds lies where it was asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxraug.cores.measures import table
from cxraug.cores.measures.paired import paired_mean
from cxraug.cores.measures.reader import PARTS, Reading
from cxraug.errors import InputError
from cxraug.studies.images import MASK_BITS, image_size, read_mask_values
from cxraug.studies.manifest import Manifest

MARGIN = 1  # cells of the grid by which a box is widened before evidence is looked for in it
WEAK_BOX, WEAK_DICE = 0.6, 0.5


@dataclass(frozen=True)
class Box:
    """A box in fractions of the encoded image's side; ``x, y`` is the upper left corner."""

    label: str
    x: float
    y: float
    w: float
    h: float


def boxes_of(manifest: Manifest) -> list[list[Box] | None]:
    """The boxes of every row in the encoded (centrally cropped) image; None where the row says nothing about boxes."""
    if "boxes" not in manifest.frame:
        return [None] * len(manifest)
    result: list[list[Box] | None] = []
    for text, path in zip(manifest.frame["boxes"], manifest.paths(), strict=True):
        if not isinstance(text, str) or not text:
            result.append(None)
            continue
        found = json.loads(text)
        result.append(_scaled(found, *image_size(path)) if found else [])
    return result


def coverage(boxes: Sequence[Box], grid: int) -> np.ndarray:
    """The share of each cell (G, G) that the boxes cover, their union taken cell by cell as the largest share."""
    covered = np.zeros((grid, grid))
    edges = np.arange(grid) / grid
    for box in boxes:
        down, right = (
            np.clip((np.minimum(edges + 1 / grid, low + size) - np.maximum(edges, low)) * grid, 0, 1)
            for low, size in ((box.y, box.h), (box.x, box.w))
        )
        covered = np.maximum(covered, np.outer(down, right))
    return covered


def mask_parts(path: Path, grid: int) -> np.ndarray:
    """The share of each cell (3, G, G) that lung, heart and lesion cover, read from a mask file; NaN for unknown parts.

    Values only {0, 1} or {0, 255} are a lung mask; otherwise bits 1 lung, 2 heart, 4 lesion. Anything else is refused.
    """
    values = read_mask_values(path)
    there = set(np.unique(values).tolist())
    side = min(values.shape)
    top, left = ((length - side) // 2 for length in values.shape)
    values = values[top : top + side, left : left + side]
    if there <= {0, 1} or there <= {0, 255}:
        return np.stack([_shares(values > 0, grid), *[np.full((grid, grid), np.nan)] * 2])
    if there <= set(range(8)):
        return np.stack([_shares((values & bit) > 0, grid) for bit in MASK_BITS.values()])
    raise InputError("not a mask", file=path, found=max(there), expected="values 0 and 1, 0 and 255, or 0 to 7")


def inside_box(heat: np.ndarray, boxes: Sequence[Box], margin: int = MARGIN) -> float:
    """1 if the warmest cell of ``heat`` (G, G) lies in a box widened by ``margin`` cells, else 0."""
    grid = heat.shape[0]
    wide = [Box(b.label, b.x - margin / grid, b.y - margin / grid, b.w + 2 * margin / grid, b.h + 2 * margin / grid)
            for b in boxes]  # fmt: skip
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return float(coverage(wide, grid)[y, x] >= 0.5)


def box_adherence(
    real: Reading, generated: Reading, boxes: Sequence[Sequence[Box] | None], findings: Sequence[str],
    patients: np.ndarray, *, prompts: str, of: str, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Per finding and over all: the share of images whose warmest cell lies in the box that was asked for.

    ``findings`` name the first channels of the maps. The real value is of the real images with these boxes; chance
    of the generated ones with the box of another image that has the finding.
    """
    rng = np.random.default_rng([seed, 7])
    how = f"share of images whose warmest cell of the reader's map lies in the asked box widened by {MARGIN} cell; "
    how += "chance: the box of another image with the finding"
    rows, parts, owners = [], [], []
    for channel, finding in enumerate(findings):
        own = [[b for b in (boxes[i] or []) if b.label == finding] for i in range(len(boxes))]
        having = np.array([i for i, b in enumerate(own) if b], int)
        if len(having) < 2:
            rows.append(table.row("box adherence", finding + of, prompts, n=len(having), method=how))
            continue
        other = having[(np.arange(len(having)) + rng.integers(1, len(having), len(having))) % len(having)]
        hits = np.array(
            [
                [inside_box(real.maps[i, channel], own[i]) for i in having],
                [inside_box(generated.maps[i, channel], own[i]) for i in having],
                [inside_box(generated.maps[i, channel], own[j]) for i, j in zip(having, other, strict=True)],
            ]
        )
        parts.append(hits)
        owners.append(patients[having])
        rows.append(_share("box adherence", finding + of, prompts, hits, patients[having], how, WEAK_BOX))
    if parts:
        every, who = np.concatenate(parts, axis=1), np.concatenate(owners)
        rows.append(_share("box adherence", "all boxes" + of, prompts, every, who, how, WEAK_BOX))
    return rows


def mask_adherence(
    real: Reading, generated: Reading, masks: np.ndarray, patients: np.ndarray, *, prompts: str, of: str
) -> list[dict[str, Any]]:
    """Dice of each part of the asked mask (n, 3, G, G; NaN unknown) with what the reader segments, image by image.

    Chance is that of the generated image with the next image's mask.
    """
    how = "mean Dice on the reader's grid of the asked mask and what the reader segments; chance: another image's mask"
    rows = []
    for part, name in enumerate(PARTS):
        wanted = masks[:, part]
        there = np.array([np.isfinite(m).all() and (m >= 0.5).any() for m in wanted], bool)
        at = np.flatnonzero(there)
        if len(at) < 2:
            rows.append(table.row("mask adherence", name + of, prompts, n=len(at), method=how))
            continue
        channel = part - len(PARTS)
        other = np.roll(at, 1)
        values = np.array(
            [
                [dice(real.maps[i, channel] >= 0.5, wanted[i] >= 0.5) for i in at],
                [dice(generated.maps[i, channel] >= 0.5, wanted[i] >= 0.5) for i in at],
                [dice(generated.maps[i, channel] >= 0.5, wanted[j] >= 0.5) for i, j in zip(at, other, strict=True)],
            ]
        )
        rows.append(_share("mask adherence", name + of, prompts, values, patients[at], how, WEAK_DICE))
    return rows


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """``2 |a and b| / (|a| + |b|)`` of two boolean masks; 1 where both are empty."""
    size = int(a.sum() + b.sum())
    return 2 * float((a & b).sum()) / size if size else 1.0


def _share(
    measure: str, of: str, prompts: str, values: np.ndarray, patients: np.ndarray, how: str, weak: float
) -> dict[str, Any]:
    n = values.shape[1]
    return table.row(measure, of, prompts, paired_mean(values, patients), n=n, method=how, weak_below=weak)


def _scaled(found: Sequence[dict[str, Any]], height: int, width: int) -> list[Box]:
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return [
        Box(str(b["label"]), (b["x"] - left) / side, (b["y"] - top) / side, b["w"] / side, b["h"] / side) for b in found
    ]


def _shares(mask: np.ndarray, grid: int) -> np.ndarray:
    picture = Image.fromarray(mask.astype(np.float32))
    return np.clip(np.asarray(picture.resize((grid, grid), Image.Resampling.BOX)), 0, 1)
