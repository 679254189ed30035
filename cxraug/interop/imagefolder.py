"""A manifest as a Hugging Face ``imagefolder``: one folder per split with its images and their ``metadata.parquet``.

Parquet, not CSV or JSON lines, because ``datasets`` guesses the types of those from the first rows of each split, and a
column that is blank in one split is then refused (huggingface.co/docs/datasets/image_dataset).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from cxraug.errors import InputError
from cxraug.interop.placement import place
from cxraug.interop.rows import Y, exported_frame, finding_columns, refuse_columns
from cxraug.interop.settings import ExportSettings
from cxraug.progress import track
from cxraug.storage import atomic
from cxraug.studies.columns import path_inside
from cxraug.studies.manifest import Manifest

FOLDERS = {"train": "train", "val": "validation", "test": "test"}
METADATA = "metadata.parquet"
FILE, MASK, OBJECTS = "file_name", "mask_file_name", "objects"
PER_FOLDER = 1000  # the hub takes at most 10,000 files in a folder
_OBJECTS = pa.struct([("bbox", pa.list_(pa.list_(pa.float64()))), ("category", pa.list_(pa.string()))])


def write_image_folder(manifest: Manifest, out: Path, settings: ExportSettings) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write ``train/, validation/, test/`` under ``out``; returns the rows with their new paths, and counts.

    Images are ``<split>/images/<thousand>/<row>``, masks the same under ``masks``. ``metadata.parquet`` of a split has
    ``file_name`` (``mask_file_name``), the columns of the manifest, ``y_<finding>`` (1, 0, null) and, where there are
    boxes, ``objects`` in the hub's form (``bbox`` x, y, w, h in pixels; ``category``).
    """
    files = [str(name) for name in manifest.frame if str(name).endswith(("file_name", "file_names"))]
    refuse_columns(manifest, (OBJECTS, *files), "a Hugging Face image folder")
    frame = manifest.frame
    paths = manifest.paths()
    images, masks = [], _masks(manifest, out, settings)
    for row, (path, split) in enumerate(track(list(zip(paths, frame["split"], strict=True)), "exporting images")):
        images.append(place(path, out / _name(row, split, "images"), copy=settings.copy_images))
    made = exported_frame(
        manifest,
        [str(path.relative_to(out)) for path in images],
        [None if m is None else str(m.relative_to(out)) for m in masks],
    )
    whole = pd.concat([made, finding_columns(manifest)], axis=1)
    for split, folder in FOLDERS.items():
        rows = whole[whole["split"] == split]
        if len(rows):
            with atomic(out / folder / METADATA) as temporary:
                pa_parquet.write_table(_metadata(rows, folder), temporary)
    return made, {"splits": {FOLDERS[str(k)]: int(v) for k, v in frame["split"].value_counts().items()}}


def read_image_folder(folder: str | Path) -> pd.DataFrame:
    """The rows of an image folder that cxraug wrote, in the order of its manifest; ``image`` is relative to ``folder``.

    Raises :class:`InputError` for a folder without ``metadata.parquet`` and for a file name that leads out of it.
    """
    folder = Path(folder)
    parts = []
    for split in FOLDERS.values():
        path = folder / split / METADATA
        if not path.is_file():
            continue
        frame = _table(path)
        if FILE not in frame:
            raise InputError("missing column", file=path, column=FILE)
        for column, name in ((FILE, "image"), (MASK, "mask")):
            if column in frame:
                frame[name] = _inside(frame[column], path, split)
        parts.append(frame.drop(columns=[FILE, MASK, OBJECTS], errors="ignore"))
    if not parts:
        raise InputError("not an image folder", file=folder, expected=f"a folder with train/{METADATA}")
    whole = pd.concat(parts, ignore_index=True)
    whole = whole.drop(columns=[name for name in whole if str(name).startswith(Y)])
    return whole.sort_values("image", key=lambda names: names.str.extract(r"([^/]*)$")[0], ignore_index=True)


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"not a readable Parquet file ({error})", file=path) from None


def _inside(names: pd.Series, path: Path, split: str) -> pd.Series:
    found: list[str | None] = []
    for row, name in enumerate(names, 1):
        inside = (
            path_inside(name, str(path.parent.absolute()), "/", root_named=False) if isinstance(name, str) else None
        )
        if isinstance(name, str) and inside is None:
            raise InputError("path leads out of the folder", file=path, row=row, column=str(names.name), found=name)
        found.append(None if inside is None else f"{split}/{inside}")
    return pd.Series(found, dtype="str")


def _masks(manifest: Manifest, out: Path, settings: ExportSettings) -> list[Path | None]:
    """Where the masks of the rows are put; None where a row has none."""
    if "mask" not in manifest.frame:
        return [None] * len(manifest)
    there = manifest.frame["mask"].notna().to_numpy(bool)
    paths = iter(manifest.take(there).paths("mask"))
    return [
        place(next(paths), out / _name(row, split, "masks"), copy=settings.copy_images) if has else None
        for row, (has, split) in enumerate(zip(there, manifest.frame["split"], strict=True))
    ]


def _name(row: int, split: str, what: str) -> str:
    return f"{FOLDERS[split]}/{what}/{row // PER_FOLDER:04d}/{row:08d}"


def _metadata(rows: pd.DataFrame, folder: str) -> pa.Table:
    """The table of one split; the same columns and types in every split."""
    columns: dict[str, pa.Array] = {FILE: _strings([name.removeprefix(f"{folder}/") for name in rows["image"]])}
    if "mask" in rows:
        columns[MASK] = _strings([m.removeprefix(f"{folder}/") if isinstance(m, str) else None for m in rows["mask"]])
    for name in rows.columns.drop(["image", "mask"], errors="ignore"):
        values = rows[name]
        if pd.api.types.is_numeric_dtype(values):
            columns[str(name)] = pa.Array.from_pandas(values)
        else:
            columns[str(name)] = _strings([str(v) if pd.notna(v) else None for v in values])
    if "boxes" in rows:
        columns[OBJECTS] = pa.array([_objects(text) for text in rows["boxes"]], _OBJECTS)
    return pa.table(columns)


def _strings(values: list[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def _objects(text: object) -> dict[str, Any] | None:
    if not isinstance(text, str):
        return None
    boxes = json.loads(text)
    return {"bbox": [[float(box[side]) for side in "xywh"] for box in boxes], "category": [b["label"] for b in boxes]}
