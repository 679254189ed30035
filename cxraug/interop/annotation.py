"""Boxes of other tools into the column ``boxes`` of a manifest, each checked against the image it is on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxraug.errors import InputError
from cxraug.interop.coco import BoxedImage
from cxraug.interop.matching import match_rows
from cxraug.progress import track
from cxraug.studies.cache import refuse_missing
from cxraug.studies.images import image_size
from cxraug.studies.labels import ABSENT, NO_FINDING, PRESENT, format_labels, parse_labels
from cxraug.studies.manifest import Manifest
from cxraug.studies.table import is_formula

SLACK = 1.0  # pixels that a box may lie over the edge: tools round


def annotate_boxes(
    manifest: Manifest, images: Sequence[BoxedImage], file: str | Path, *, classes: Mapping[str, str] | None = None,
    rescale: bool = False, clip: bool = False, over: bool = False,
) -> tuple[Manifest, dict[str, int]]:  # fmt: skip
    """The manifest with the boxes of ``images``, and counts.

    An image of the file without boxes gets ``[]``: somebody looked. Rows that the file does not name keep what they
    have. Labels are not touched.

    Parameters
    ----------
    images : from :func:`read_coco` or :func:`read_voc`; ``file`` for messages.
    classes : name in the file -> finding; others keep their name.
    rescale : boxes drawn at another size than the image's are brought to it; otherwise they are refused.
    clip : boxes are cut at the edge of the image; otherwise one that leads over it is refused.
    over : replace boxes that a row has already.

    Raises
    ------
    InputError
        A name that leads out of the data folder, or is that of several images or of none; a box outside its image; a
        label that the grammar of findings cannot hold; a class that the file does not have; boxes that are there.
    """
    file, classes = Path(file), dict(classes or {})
    _refuse_classes(images, classes, file)
    rows = match_rows(manifest, [image.name for image in images], [image.where for image in images], file)
    named = [(row, image) for row, image in zip(rows, images, strict=True) if row is not None]
    part = manifest.take([row for row, _ in named])
    refuse_missing(part)
    before = manifest.frame["boxes"].tolist() if "boxes" in manifest.frame else [None] * len(manifest)
    boxes = list(before)
    for (row, image), path in track(list(zip(named, part.paths(), strict=True)), "checking boxes"):
        if isinstance(before[row], str) and not over:
            raise InputError(f"{image.where}: this image has boxes already", file=file, found=image.name,
                             expected="--replace to take these in their place")  # fmt: skip
        fitted = fit_boxes(image, image_size(path), file, rescale=rescale, clip=clip)
        boxes[row] = json.dumps([{**box, "label": classes.get(box["label"], box["label"])} for box in fitted])
    frame = manifest.frame.assign(boxes=pd.Series(boxes, dtype="str"))
    counts = {
        "images": len(named), "boxes": sum(len(image.boxes) for _, image in named),
        "images_without_boxes": sum(not image.boxes for _, image in named),
        "not_in_manifest": len(images) - len(named), "denied_by_labels": _denied(frame, [row for row, _ in named]),
    }  # fmt: skip
    return replace(manifest, frame=frame), counts


def fit_boxes(
    image: BoxedImage, size: tuple[int, int], file: Path, *, rescale: bool = False, clip: bool = False
) -> list[dict[str, Any]]:
    """The boxes of an image of ``size`` (height, width), inside it; see :func:`annotate_boxes`."""
    height, width = size
    across = down = 1.0
    if image.size is not None and image.size != size:
        if not rescale:
            raise InputError(f"{image.where}: drawn at another size than the image's", file=file,
                             found=f"{image.size[1]} x {image.size[0]}",
                             expected=f"{width} x {height}, or --rescale")  # fmt: skip
        down, across = height / image.size[0], width / image.size[1]
    fitted = []
    for number, box in enumerate(image.boxes, 1):
        x, y, w, h = box["x"] * across, box["y"] * down, box["w"] * across, box["h"] * down
        left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        over = max(-x, -y, x + w - width, y + h - height)
        if left >= right or top >= bottom or (over > SLACK and not clip):
            raise InputError(f"{image.where}, box {number}: outside the image", file=file,
                             found=f"x {box['x']:g}, y {box['y']:g}, {box['w']:g} x {box['h']:g}",
                             expected=f"inside {width} x {height}" + ("" if left >= right or top >= bottom else
                                                                      ", or --clip"))  # fmt: skip
        if clip and over > 0:
            x, y, w, h = left, top, right - left, bottom - top
        fitted.append({**box, "x": _short(x), "y": _short(y), "w": _short(w), "h": _short(h)})
    return fitted


def _short(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)


def _refuse_classes(images: Sequence[BoxedImage], classes: Mapping[str, str], file: Path) -> None:
    labels = {str(box["label"]): image.where for image in images for box in image.boxes}
    strange = [name for name in classes if name not in labels]
    if strange:
        raise InputError("--class names a label that no box has", file=file, found=strange[0],
                         expected=f"one of {', '.join(sorted(labels)[:20])}")  # fmt: skip
    for label, where in labels.items():
        finding = classes.get(label, label)
        try:
            format_labels({finding: PRESENT})
        except ValueError as error:
            raise InputError(f"{where}: {error}", file=file, expected="another name (--class OLD=NEW)") from None
        if is_formula(finding) or not finding.isprintable():
            raise InputError(f"{where}: a name that no table may hold", file=file, found=finding,
                             expected="another name (--class OLD=NEW)")  # fmt: skip


def _denied(frame: pd.DataFrame, rows: Sequence[int]) -> int:
    """How many boxes name a finding that the row's own labels say is absent."""
    count = 0
    for row in rows:
        labels, boxes = frame["labels"].iloc[row], frame["boxes"].iloc[row]
        said = parse_labels(labels) if isinstance(labels, str) else {}
        nothing = said.get(NO_FINDING) == PRESENT
        for box in json.loads(boxes):
            count += said.get(box["label"]) == ABSENT or (nothing and said.get(box["label"]) != PRESENT)
    return count
