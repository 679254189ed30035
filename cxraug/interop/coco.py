"""Boxes in COCO's JSON (cocodataset.org/#format-data): a manifest's out, and those of a file in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.interop.placement import place
from cxraug.interop.rows import exported_frame, records
from cxraug.interop.settings import ExportSettings
from cxraug.progress import track
from cxraug.storage import read_json, write_json
from cxraug.studies.images import image_size
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.manifest import Manifest

ANNOTATIONS = "annotations"
SIDES = "xywh"


@dataclass(frozen=True)
class BoxedImage:
    """The boxes of one image of a file.

    ``name`` of its file as the annotations have it; ``size`` (height, width) they were drawn at, None where not said;
    ``boxes`` as a manifest has them, ``[]`` where somebody looked and saw none; ``where`` for messages.
    """

    name: str
    size: tuple[int, int] | None
    boxes: list[dict[str, Any]]
    where: str


def write_coco(manifest: Manifest, out: Path, settings: ExportSettings) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write ``<split>/<row>`` and ``annotations/instances_<split>.json`` under ``out``; returns the rows and counts.

    Rows without ``boxes`` are left out: nobody said where their findings are, and an image without annotations means
    in COCO that there are none, as ``[]`` does in a manifest. Categories are the same in all splits: the findings of
    the manifest and the labels of its boxes, sorted, from 1. Each image has its row's columns under ``cxraug``. Masks
    are left out.

    Raises
    ------
    InputError : no row has boxes.
    """
    frame = manifest.frame
    if "boxes" not in frame or frame["boxes"].isna().all():
        raise InputError("no row has boxes", file=manifest.file, column="boxes", expected="a manifest with boxes")
    there = frame["boxes"].notna().to_numpy(bool)
    kept = manifest.take(there)
    boxes = [json.loads(text) for text in kept.frame["boxes"]]
    labels = {str(box["label"]) for row in boxes for box in row}
    names = sorted(labels | (set(manifest.findings) - {NO_FINDING}))
    category = {name: number for number, name in enumerate(names, 1)}
    work = list(zip(kept.paths(), kept.frame["split"], strict=True))
    images = [
        place(path, out / split / f"{row:08d}", copy=settings.copy_images)
        for row, (path, split) in enumerate(track(work, "exporting images"))
    ]
    made = exported_frame(kept, [str(path.relative_to(out)) for path in images], []).drop(
        columns="mask", errors="ignore"
    )
    about = records(made.drop(columns=["image", "boxes"]))
    first = np.cumsum([1, *map(len, boxes)]).tolist()
    for split in pd.unique(made["split"]):
        rows = [row for row, of in enumerate(made["split"]) if of == split]
        write_json(out / ANNOTATIONS / f"instances_{split}.json", {
            "info": {"description": "boxes in pixels, x and y from the upper left corner"},
            "categories": [{"id": n, "name": name, "supercategory": "finding"} for name, n in category.items()],
            "images": [_image(row, images[row], about[row]) for row in rows],
            "annotations": [a for row in rows for a in _annotations(row, boxes[row], first[row], category)],
        })  # fmt: skip
    left_out = {"rows without boxes": int((~there).sum())} if not there.all() else {}
    return made, {"boxes": sum(map(len, boxes)), "left_out": left_out}


def read_coco(path: str | Path) -> list[BoxedImage]:
    """The boxes of a COCO file, image by image, in its order.

    Raises
    ------
    InputError
        Not such a file; an id that is missing, repeated or names nothing; a box that is not four finite numbers of a
        positive size. Names of files are judged where they are matched.
    """
    path = Path(path)
    value = read_json(path)
    parts = {
        name: value.get(name) if isinstance(value, Mapping) else None
        for name in ("images", "annotations", "categories")
    }
    for name, part in parts.items():
        if not isinstance(part, list) or not all(isinstance(entry, dict) for entry in part):
            raise InputError(f"no list of {name}", file=path, expected="COCO: images, annotations, categories")
    categories = _by_id(parts["categories"], "categories", path)
    images = _by_id(parts["images"], "images", path)
    boxes: dict[Any, list[dict[str, Any]]] = {key: [] for key in images}
    for number, entry in enumerate(parts["annotations"] or []):
        where = f"annotations[{number}]"
        for key, known in (("image_id", images), ("category_id", categories)):
            if not _is_id(entry.get(key)) or entry[key] not in known:
                raise InputError(f"{where}: {key} names nothing in this file", file=path, found=entry.get(key))
        boxes[entry["image_id"]].append(
            {"label": _text(categories[entry["category_id"]], "name", "categories", path),
             **dict(zip(SIDES, checked_box(entry.get("bbox"), where, path), strict=True))}
        )  # fmt: skip
    return [
        BoxedImage(_text(image, "file_name", "images", path), _size(image, path), boxes[key], f"image {key}")
        for key, image in images.items()
    ]


def checked_box(value: Any, where: str, path: Path) -> list[float]:
    """Four finite numbers, the last two positive; whole ones as int."""
    good = isinstance(value, list) and len(value) == 4
    good = good and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    good = good and all(abs(v) < 1e6 and not math.isnan(v) for v in value)
    if not good or value[2] <= 0 or value[3] <= 0:
        raise InputError(f"{where}: not a box", file=path, found=str(value)[:120],
                         expected="x, y, width, height in pixels, width and height above 0")  # fmt: skip
    return [int(v) if float(v).is_integer() else float(v) for v in value]


def _by_id(entries: list[dict[str, Any]] | None, what: str, path: Path) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(entries or []):
        key = entry.get("id")
        if not _is_id(key):
            raise InputError(f"{what}[{number}]: no id", file=path, found=key, expected="a whole number or a text")
        if key in found:
            raise InputError(f"{what}[{number}]: the id occurs twice", file=path, found=key)
        found[key] = entry
    return found


def _is_id(value: object) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _text(entry: Mapping[str, Any], key: str, what: str, path: Path) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{what} {entry.get('id')}: no {key}", file=path, found=value, expected="a text")
    return value.strip()


def _size(image: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    size = image.get("height"), image.get("width")
    if size == (None, None):
        return None
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size):
        raise InputError(f"image {image.get('id')}: bad size", file=path, found=str(size), expected="height and width")
    return size  # type: ignore[return-value]


def _image(row: int, path: Path, about: dict[str, Any]) -> dict[str, Any]:
    height, width = image_size(path)
    return {"id": row + 1, "file_name": path.name, "height": height, "width": width, "cxraug": about}


def _annotations(
    row: int, boxes: list[dict[str, Any]], first: int, category: Mapping[str, int]
) -> list[dict[str, Any]]:  # fmt: skip
    return [
        {"id": first + number, "image_id": row + 1, "category_id": category[str(box["label"])], "iscrowd": 0,
         "bbox": [box[side] for side in SIDES], "area": box["w"] * box["h"]}
        for number, box in enumerate(boxes)
    ]  # fmt: skip
