"""Writing in the pixels of an X-ray, found without weights: thin strokes with steep edges, several to a row.

Burned-in writing may be a name. What is sought is therefore writing, not what it says: "PORTABLE" counts as text. A
lead marker (R, L, two initials) is a kind of its own, because most X-rays have one and it names nobody.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from cxraug.errors import InputError

BurnedText = Literal["leave_out", "keep"]

NONE, MARKER, TEXT, TAGGED = range(4)
KINDS = ("none", "marker", "text", "tagged")  # names of the codes above; the last two are of concern

MOST = 1024  # side above which an image is reduced; writing that is meant to be read survives it
LEAST = 32  # side below which nothing can be read
WINDOW = 17  # side of the neighbourhood that a stroke stands out from, pixels
CONTRAST = 40  # grey levels above (or below) the mean of the neighbourhood
STEEP = 40  # grey levels between neighbouring pixels at the edge of a stroke
LOWEST, HIGHEST = 5, 0.09  # height of a character: pixels, share of the longer side
NOISE = 0.2  # share of steep steps above which an image is noise; X-rays with text stay below a tenth of it
PARTS = 400  # of one image that are looked at
# A row of at least so many strokes with edges at least so steep is text: 4 characters have 4 to 8 strokes. ECG leads
# and tubes lie in rows too, but their edges are softer.
TEXT_RULES = ((4, 72.0), (6, 60.0), (8, 45.0))
SIDEWAYS = 2  # strokes more for writing that runs from top to bottom, as sternal wires and clips do
MARKER_EDGE, MARKER_LOWEST = 85.0, 8


@dataclass(frozen=True)
class Row:
    """Strokes in a row: its box in pixels of the image that was searched, and what was counted.

    ``strokes`` is the median number of strokes that a line through the row crosses, ``edge`` the mean steepest step at
    their edges in grey levels.
    """

    top: int
    left: int
    bottom: int
    right: int
    strokes: float
    edge: float
    sideways: bool

    @property
    def is_text(self) -> bool:
        """Whether these are several characters."""
        high, wide = self.bottom - self.top, self.right - self.left
        if self.sideways:
            high, wide = wide, high
        strokes = self.strokes - SIDEWAYS * self.sideways
        return wide >= 1.5 * high and any(strokes >= n and self.edge >= edge for n, edge in TEXT_RULES)

    @property
    def is_marker(self) -> bool:
        """Whether this may be a letter or two of lead."""
        high, wide = self.bottom - self.top, self.right - self.left
        return not self.sideways and high >= MARKER_LOWEST and wide >= high / 4 and self.edge >= MARKER_EDGE


def writing_in(pixels: np.ndarray) -> int:
    """What is written in an image: :data:`NONE`, :data:`MARKER` or :data:`TEXT`.

    Parameters
    ----------
    pixels : (H, W), uint8 or uint16 (scaled from its minimum and maximum), at native size: at 64 pixels no writing is
        left to be found.

    Notes
    -----
    Finds print of 10 pixels and more in height, at 60 grey levels and more of contrast, where the image's longer side
    has at most 1024; ``benchmarks/burned_text.py`` measures it. Handwriting, slanted and very faint writing are missed.
    """
    rows = find_rows(_grey(pixels))
    if any(row.is_text for row in rows):
        return TEXT
    return MARKER if any(row.is_marker for row in rows) else NONE


def writing_in_file(path: Path, pixels: np.ndarray) -> int:
    """As :func:`writing_in`; :data:`TAGGED` where ``path`` is a DICOM file whose header says that there is some.

    A header that says there is none (BurnedInAnnotation NO) is not believed: many devices write it by default.
    """
    from cxraug.studies.dicom import burned_in_annotation, is_dicom

    with open(path, "rb") as stream:
        head = stream.read(132)
    if is_dicom(head) and burned_in_annotation(path) == "YES":
        return TAGGED
    return writing_in(pixels)


def of_concern(writing: np.ndarray) -> np.ndarray:
    """Which codes (n,) may be a name: text that was found, and what a header says."""
    return np.asarray(writing) >= TEXT


def clean_rows(writing: np.ndarray, policy: BurnedText) -> np.ndarray:
    """Which images (n,) a core may be trained on; says on stderr how many are left out, or kept on demand.

    Raises :class:`InputError` if none is left.
    """
    text = of_concern(writing)
    if not text.any():
        return ~text
    told = f"{int(text.sum())} of {len(text)} images have text burned into their pixels (see cxraug audit)"
    if policy == "keep":
        print(f"  note: {told}; the core is trained on them (burned_text: keep)", file=sys.stderr, flush=True)
        return np.ones(len(text), bool)
    if text.all():
        raise InputError("every training image has text burned into its pixels", expected="burned_text: keep")
    print(
        f"  note: {told}; the core is trained without them (burned_text: keep takes them)", file=sys.stderr, flush=True
    )
    return ~text


def find_rows(grey: np.ndarray) -> list[Row]:
    """Rows of strokes in ``grey`` (H, W), float32 in [0, 255], light ones on dark and dark ones on light."""
    if min(grey.shape) < LEAST:
        return []
    across, down = (np.abs(np.diff(grey, axis=axis)) for axis in (1, 0))
    steep = (across > STEEP, down > STEEP)
    if min(s.sum() for s in steep) < 2 * LOWEST or max(s.mean() for s in steep) > NOISE:
        return []
    excess = grey - ndimage.uniform_filter(grey, WINDOW, mode="nearest")
    tallest = max(HIGHEST * max(grey.shape), 2 * LOWEST)
    found = []
    for mask in (excess > CONTRAST, excess < -CONTRAST):
        labels, n = ndimage.label(mask, np.ones((3, 3), int))
        if not n:
            continue
        boxes = np.array([(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(labels)])
        found += _rows(mask, labels, boxes, across, tallest, sideways=False)
        found += _rows(mask.T, labels.T, boxes[:, [1, 0, 3, 2]], down.T, tallest, sideways=True)
    return found


def _grey(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape
    factor = max(height, width) / MOST
    values = pixels.astype(np.float32)
    if factor > 1:
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        values = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))
    if pixels.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    return (values - low) * (255.0 / max(high - low, 1.0))


def _rows(
    mask: np.ndarray, labels: np.ndarray, boxes: np.ndarray, steps: np.ndarray, tallest: float, *, sideways: bool
) -> list[Row]:
    """Chain the parts (connected strokes) whose height may be that of characters into rows, from left to right."""
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    fits = (height >= LOWEST) & (height <= tallest) & (width <= 25 * height)
    edge = np.where(fits, _edges(mask, labels, steps, len(boxes)), 0)
    steepest = np.argsort(-edge, kind="stable")[:PARTS]
    parts = steepest[edge[steepest] >= STEEP]
    chains: list[list[int]] = []
    for part in parts[np.argsort(boxes[parts, 1], kind="stable")]:
        chain = next((c for c in chains if _follows(boxes[c[-1]], boxes[part])), None)
        if chain is None:
            chains.append([int(part)])
        else:
            chain.append(int(part))
    return [_row(mask, boxes[chain], float(edge[chain].mean()), sideways) for chain in chains]


def _edges(mask: np.ndarray, labels: np.ndarray, steps: np.ndarray, n: int) -> np.ndarray:
    """(n,) for each part the mean, over the ends of its strokes along lines, of the steepest step there."""
    near = steps.copy()  # blurred edges have their steepest step beside the border of the mask
    near[:, 1:] = np.maximum(near[:, 1:], steps[:, :-1])
    near[:, :-1] = np.maximum(near[:, :-1], steps[:, 1:])
    y, x = np.nonzero(mask[:, 1:] != mask[:, :-1])
    part = np.maximum(labels[y, x], labels[y, x + 1]) - 1
    ends = np.bincount(part, minlength=n)
    return np.bincount(part, near[y, x], minlength=n) / np.maximum(ends, 1)


def _follows(before: np.ndarray, part: np.ndarray) -> bool:
    """Whether a box continues the row that ends in ``before``: of like height, on the same line, close by."""
    heights = before[2] - before[0], part[2] - part[0]
    low, high = min(heights), max(heights)
    overlap = min(before[2], part[2]) - max(before[0], part[0])
    gap = part[1] - before[3]
    return bool(overlap >= 0.6 * low and high <= 1.8 * low and -0.5 * high <= gap <= 1.3 * high)


def _row(mask: np.ndarray, boxes: np.ndarray, edge: float, sideways: bool) -> Row:
    top, left, bottom, right = (int(v) for v in (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)))
    inside = mask[top:bottom, left:right]
    strokes = inside[:, 0] + (inside[:, 1:] & ~inside[:, :-1]).sum(axis=1)
    if sideways:
        top, left, bottom, right = left, top, right, bottom
    return Row(top, left, bottom, right, float(np.median(strokes)), edge, sideways)
