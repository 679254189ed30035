"""What a prompt gives besides attributes: reference images, masks and boxes, checked and on the core's grid."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cxraug.errors import InputError
from cxraug.storage import file_sha256
from cxraug.studies.images import MASK_BITS, Encoding, ImageError, encode, read_mask_values, read_pixels

if TYPE_CHECKING:
    from cxraug.cores.core import Prompt

FILES: tuple[Literal["mask", "reference_image"], ...] = ("mask", "reference_image")
Fit = Literal["crop", "pad", "stretch"]  # see Encoding
Box = tuple[str, float, float, float, float]  # label, x, y, w, h

_FAR = 1e6  # pixels; also keeps out infinity and NaN
_BOX_KEYS = {"label", "x", "y", "w", "h", "view"}
_A_BOX = 'a JSON list of {"label", "x", "y", "w", "h"} in pixels of the core\'s output, if need be with "view"'


@dataclass(frozen=True)
class Given:
    """What a prompt gives, on the grid of a core of resolution R.

    Attributes
    ----------
    images : view -> uint8 (R, R), 0 black to 255 white, encoded like training images.
    masks : view -> part ("lung", "heart", "lesion") -> bool (R, R); parts without a pixel are left out.
    boxes : view -> (label, x, y, w, h) of each box, in fractions of the side; an empty list says "no boxes".
    sha256 : file, as the prompt names it -> SHA-256 (hex) of its bytes, for provenance.
    """

    images: dict[str, np.ndarray]
    masks: dict[str, dict[str, np.ndarray]]
    boxes: dict[str, list[Box]]
    sha256: dict[str, str]


def read_given(prompt: Prompt, *, resolution: int, findings: Sequence[str], encoding: Encoding | None = None) -> Given:
    """Read the files and boxes of ``prompt`` for a core of ``resolution`` pixels that knows ``findings``.

    Images are brought to that size as ``encoding`` (a card's ``image_encoding``) says, by default cropped; masks are
    made square in the same way.

    Raises
    ------
    InputError
        A file that is missing, no image, broken or too large; a mask that is no 8-bit PNG of one channel, has other
        values than those of a mask, or is empty; boxes as in :func:`given_boxes`.
    """
    references, masks = given_files(prompt, "reference_image"), given_files(prompt, "mask")
    encoding = encoding or Encoding(size=resolution)
    return Given(
        images={view: encode(read_pixels(path), encoding) for view, path in references.items()},
        masks={view: read_mask(path, resolution, encoding.fit) for view, path in masks.items()},
        boxes=given_boxes(prompt, resolution=resolution, findings=findings),
        sha256={path: given_sha256(path) for path in [*references.values(), *masks.values()]},
    )


def given_files(prompt: Prompt, what: Literal["mask", "reference_image"]) -> dict[str, str]:
    """View -> path of the files that ``prompt`` names as ``what``: a bare path, or a JSON object view -> path.

    A bare path belongs to the first frontal view asked for (PA where none is), a bare reference image always to PA.
    Raises :class:`InputError` for an object that is no such map; views are checked by ``GenerativeCore.refuse``.
    """
    text = getattr(prompt, what)
    if text is None:
        return {}
    if not text.lstrip().startswith("{"):
        return {"PA" if what == "reference_image" else prompt.frontal_view: text}
    files = _json(prompt, what, text, "a path, or a JSON object view -> path")
    if not files or not all(isinstance(path, str) and path.strip() for path in files.values()):
        expected = "a path, or a JSON object view -> path"
        raise InputError(f"prompt {prompt.prompt_id}: {what} names no file", found=text, expected=expected)
    return files


def given_sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a given file's bytes; hashed again only when its size or time of change differ."""
    status = os.stat(path)
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, changed: int) -> str:
    return file_sha256(path)


def write_files(files: Mapping[str, str]) -> str:
    """The text of a prompt's ``mask`` or ``reference_image`` for ``files`` (view -> path)."""
    return json.dumps(dict(files))


def given_boxes(prompt: Prompt, *, resolution: int, findings: Sequence[str]) -> dict[str, list[Box]]:
    """View -> boxes of ``prompt`` in fractions of the side; boxes without a view belong to its frontal view.

    Raises
    ------
    InputError
        Text that is not a JSON list of boxes, a finding that is not one of ``findings``, numbers that are not finite,
        a box without area or not inside the ``resolution`` x ``resolution`` image.
    """
    if prompt.boxes is None:
        return {}
    where = f"prompt {prompt.prompt_id}"
    boxes = _json(prompt, "boxes", prompt.boxes, _A_BOX)
    if not isinstance(boxes, list):
        raise InputError(f"{where}: boxes are not a list", found=prompt.boxes, expected=_A_BOX)
    given: dict[str, list[Box]] = {} if boxes else {prompt.frontal_view: []}
    for number, box in enumerate(boxes, 1):
        if not isinstance(box, dict) or set(box) | {"view"} != _BOX_KEYS:
            raise InputError(f"{where}: box {number} is not a box", found=json.dumps(box), expected=_A_BOX)
        label, view = box["label"], box.get("view", prompt.frontal_view)
        if label not in findings:
            expected = f"one of {', '.join(findings) or 'none'}"
            raise InputError(f"{where}: box {number} is of an unknown finding", found=label, expected=expected)
        if not isinstance(view, str):
            raise InputError(f"{where}: the view of box {number} is not a name", found=view)
        sides = [box[name] for name in "xywh"]
        if not all(isinstance(s, (int, float)) and not isinstance(s, bool) and abs(s) < _FAR for s in sides):
            raise InputError(f"{where}: box {number} has a side that is no number", found=sides, expected=_A_BOX)
        x, y, w, h = (float(side) for side in sides)
        if not (w > 0 and h > 0 and x >= 0 and y >= 0 and x + w <= resolution and y + h <= resolution):
            expected = f"x, y >= 0, w, h > 0, x + w and y + h <= {resolution}"
            raise InputError(f"{where}: box {number} is not inside the image", found=sides, expected=expected)
        given.setdefault(view, []).append((label, *(side / resolution for side in (x, y, w, h))))  # type: ignore[arg-type]
    return given


def read_mask(path: str | Path, resolution: int, fit: Fit = "crop") -> dict[str, np.ndarray]:
    """Read a mask file as part -> bool (resolution, resolution), made square like an image; empty parts are left out.

    A PNG of one 8-bit (or 1-bit) channel: with the values {0, 1} or {0, 255} a lung mask, otherwise bits (1 lung, 2
    heart, 4 lesion). A pixel belongs to a part that covers at least half of it; of a part too thin for that, the
    pixels that it covers most remain, so that a small lesion never vanishes.

    Raises :class:`InputError` (one line) for anything else.
    """
    values = read_mask_values(path)
    present = set(np.unique(values).tolist())
    if present <= {0, 255}:
        values = values // 255
    elif max(present) > sum(MASK_BITS.values()):
        expected = "0 and 1, 0 and 255, or bits: 1 lung, 2 heart, 4 lesion"
        raise ImageError("not a mask", file=path, found=f"the value {max(present)}", expected=expected)
    parts = {part: _to_grid((values & bit) > 0, resolution, fit) for part, bit in MASK_BITS.items()}
    parts = {part: pixels for part, pixels in parts.items() if pixels.any()}
    if not parts:
        where = "the central square of the picture" if fit == "crop" else "the picture"
        raise ImageError("the mask is empty", file=path, expected=f"pixels above 0 in {where}")
    return parts


def _to_grid(part: np.ndarray, resolution: int, fit: Fit) -> np.ndarray:
    coverage = encode(part * np.uint8(255), Encoding(size=resolution, fit=fit))
    return coverage >= max(1, min(128, int(coverage.max()) // 2))


def _json(prompt: Prompt, what: str, text: str, expected: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError("a name twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise InputError(f"prompt {prompt.prompt_id}: {what} is not JSON", found=text, expected=expected) from None
