"""A manifest as WebDataset: tar files whose members share a key per row (github.com/webdataset/webdataset).

The bytes of a shard follow from the rows, the images and the settings alone: no time, owner or order of work is in it.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cxraug.interop.placement import content
from cxraug.interop.rows import Y, exported_frame, finding_columns, records, refuse_columns
from cxraug.interop.settings import ExportSettings
from cxraug.progress import track
from cxraug.storage import atomic, file_sha256, write_json
from cxraug.studies.manifest import Manifest

INDEX = "shards.json"
KEY = 8  # digits


def write_shards(manifest: Manifest, out: Path, settings: ExportSettings) -> tuple[None, dict[str, Any]]:
    """Write ``<split>-<number>.tar`` and ``shards.json`` (shard, images, SHA-256) under ``out``; returns counts.

    A row is ``<key>.png`` (or ``.jpg``), ``<key>.mask.png`` where it has one, and ``<key>.json`` with the columns of
    the manifest and ``y`` (finding: 1, 0 or null). Rows are shuffled within their split by ``settings.seed``, because
    a reader of shards shuffles little; the key is the row's number, by which their order is found again. A shard that
    is there is kept.
    """
    refuse_columns(manifest, ("__key__", "__url__", "y"), "WebDataset")
    shards = list(_cut(manifest, settings))
    there = [out / name for name, _ in shards if (out / name).is_file()]
    facts = _facts(manifest)
    todo = [(name, rows) for name, rows in shards if not (out / name).is_file()]
    for name, rows in track(todo, "writing shards", total=len(shards), done=len(there)):
        with atomic(out / name) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for member, data in _members(manifest, rows, facts):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    index = [{"shard": name, "images": len(rows), "sha256": file_sha256(out / name)} for name, rows in shards]
    write_json(out / INDEX, {"shards": index, "findings": manifest.findings, "annotated": manifest.annotated})
    return None, {"shards": len(shards)}


def _cut(manifest: Manifest, settings: ExportSettings) -> Iterator[tuple[str, np.ndarray]]:
    """Name and rows of every shard."""
    for split in ("train", "val", "test"):
        rows = np.flatnonzero((manifest.frame["split"] == split).to_numpy(bool))
        rows = np.random.default_rng([settings.seed, len(rows)]).permutation(rows)
        for number, start in enumerate(range(0, len(rows), settings.shard)):
            yield f"{split}-{number:06d}.tar", rows[start : start + settings.shard]


def _facts(manifest: Manifest) -> list[dict[str, Any]]:
    """The ``json`` of every row; paths are those before the export."""
    frame = exported_frame(manifest, [""] * len(manifest), [None] * len(manifest)).drop(
        columns=["image", "mask"], errors="ignore"
    )
    y = finding_columns(manifest)
    found = records(frame)
    for row, values in zip(found, y.to_numpy(), strict=True):
        row["y"] = {
            name.removeprefix(Y): None if np.isnan(value) else int(value)
            for name, value in zip(y.columns, values, strict=True)
        }
    return found


def _members(manifest: Manifest, rows: np.ndarray, facts: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    part = manifest.take(rows)
    masked = part.frame["mask"].notna().to_numpy(bool) if "mask" in part.frame else np.zeros(len(part), bool)
    masks = iter(part.take(masked).paths("mask") if masked.any() else [])
    for row, path, has in zip(rows.tolist(), part.paths(), masked, strict=True):
        key = f"{row:0{KEY}d}"
        data, suffix = content(path)
        yield key + suffix, data
        if has:
            yield f"{key}.mask.png", content(next(masks))[0]
        yield f"{key}.json", json.dumps(facts[row], sort_keys=True, ensure_ascii=False).encode()
