"""A manifest as WebDataset: tar files whose members share a key per row (github.com/webdataset/webdataset).

The bytes of a shard follow from the rows, the images and the settings alone: no time, owner or order of work is in it.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from cxraug.errors import InputError
from cxraug.interop.placement import JPEG, PNG, content
from cxraug.interop.rows import Y, exported_frame, finding_columns, frame_of, records, refuse_columns
from cxraug.interop.settings import ExportSettings
from cxraug.progress import track
from cxraug.storage import atomic, file_sha256, read_json, write_json
from cxraug.studies.manifest import Manifest

INDEX = "shards.json"
KEY = 8  # digits
MAX_MEMBER = 1 << 30  # bytes of one member of a shard that is read
_SUFFIXES = {PNG, JPEG}


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


def read_shards(folder: str | Path, out: str | Path) -> Path:
    """Unpack shards that cxraug wrote into a manifest: ``out/manifest.parquet``, ``out/images``; returns its path.

    Members other than those that an export writes are refused, whatever they are called: nothing leaves ``out``.
    """
    folder, out = Path(folder), Path(out)
    if not (folder / INDEX).is_file():
        raise InputError("not an export of shards", file=folder, expected=f"a folder with {INDEX}")
    index = read_json(folder / INDEX)
    rows: dict[str, dict[str, Any]] = {}
    for shard in track(_shard_names(index, folder / INDEX), "reading shards"):
        try:
            with tarfile.open(folder / shard, "r:") as archive:
                for key, suffix, data in _read(archive, folder / shard):
                    _take(rows.setdefault(key, {}), key, suffix, data, out)
        except (tarfile.TarError, OSError) as error:
            raise InputError(f"not a readable shard ({error})", file=folder / shard) from None
    order = sorted(rows)
    bad = next((key for key in order if {"image", "patient_id"} - rows[key].keys()), None)
    if bad is not None:
        raise InputError("a row without an image or its json", file=folder, found=bad)
    frame = frame_of(rows[key] for key in order)
    path = out / "manifest.parquet"
    known = index.get("annotated")
    findings = tuple(map(str, index.get("findings") or ()))
    try:
        Manifest(frame, out, None, findings, known if isinstance(known, dict) else {}).save(path)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"rows that make no table ({error})", file=folder) from None
    return path


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


def _shard_names(index: Any, path: Path) -> list[str]:
    try:
        names = [str(entry["shard"]) for entry in index["shards"]]
    except (TypeError, KeyError):
        raise InputError("not an index of shards", file=path) from None
    for name in names:
        if PurePosixPath(name).name != name or not name.endswith(".tar"):
            raise InputError("path leads out of the folder", file=path, found=name, expected="the name of a tar file")
    return names


def _read(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, str, bytes]]:
    for member in archive:
        key, dot, suffix = member.name.partition(".")
        known = (
            key.isascii()
            and key.isdigit()
            and len(key) <= 2 * KEY
            and dot + suffix in {*_SUFFIXES, ".mask.png", ".json"}
        )
        if not member.isreg() or not known or member.size > MAX_MEMBER:
            raise InputError("not a member that an export writes", file=path, found=member.name,
                             expected="<digits>.png, .jpg, .mask.png or .json")  # fmt: skip
        stream = archive.extractfile(member)
        yield key, dot + suffix, b"" if stream is None else stream.read()


def _take(row: dict[str, Any], key: str, suffix: str, data: bytes, out: Path) -> None:
    """One member into the row of its key: columns, or a file in ``out``."""
    if suffix == ".json":
        try:
            facts = json.loads(data)
        except (ValueError, RecursionError):
            raise InputError("not valid JSON", found=f"{key}.json") from None
        if not isinstance(facts, dict):
            raise InputError("not a row", found=f"{key}.json", expected="a JSON object")
        row.update({name: value for name, value in facts.items() if name not in ("y", "image", "mask")})
        return
    name = f"images/{key}{suffix}" if suffix in _SUFFIXES else f"masks/{key}.png"
    with atomic(out / name) as temporary:
        temporary.write_bytes(data)
    row["image" if suffix in _SUFFIXES else "mask"] = name
