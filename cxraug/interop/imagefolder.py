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

from cxraug.interop.metadata import FILE, MASK, METADATA, OBJECTS
from cxraug.interop.placement import place
from cxraug.interop.rows import exported_frame, finding_columns, refuse_columns
from cxraug.interop.settings import ExportSettings
from cxraug.progress import track
from cxraug.storage import atomic
from cxraug.studies.manifest import Manifest
from cxraug.studies.table import METADATA_KEY

FOLDERS = {"train": "train", "val": "validation", "test": "test"}
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
    known = {"findings": manifest.findings, "annotated": manifest.annotated}  # for the way back
    about = {METADATA_KEY: json.dumps(known, sort_keys=True).encode()}
    for split, folder in FOLDERS.items():
        rows = whole[whole["split"] == split]
        if len(rows):
            with atomic(out / folder / METADATA) as temporary:
                pa_parquet.write_table(_metadata(rows, folder).replace_schema_metadata(about), temporary)
    return made, {"splits": {FOLDERS[str(k)]: int(v) for k, v in frame["split"].value_counts().items()}}


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
