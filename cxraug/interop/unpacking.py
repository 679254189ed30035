"""WebDataset shards that cxraug exported, unpacked into a data folder of images and a manifest."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cxraug.errors import InputError, WorkError
from cxraug.interop.incoming import incoming
from cxraug.interop.placement import JPEG, PNG
from cxraug.interop.rows import frame_of
from cxraug.interop.shards import INDEX, KEY
from cxraug.progress import track
from cxraug.storage import atomic, digest, file_sha256, read_json, write_json
from cxraug.studies.sources.assembly import Imported, check_out, import_source
from cxraug.studies.sources.columnmap import FIELDS, FILES, MapSettings, column_map
from cxraug.studies.sources.folder import Folder
from cxraug.studies.table import Table, without_controls

MARK = "unpacked.json"  # in the folder of the images: which shards they are from
MAX_IMAGE = 1 << 28  # bytes of one image; a detector of 8192 x 8192 pixels fills half of it
MAX_FACTS = 1 << 24  # bytes of the columns of one row
_SUFFIXES = {PNG: b"\x89PNG\r\n\x1a\n", JPEG: b"\xff\xd8\xff"}
_MASK, _FACTS = ".mask.png", ".json"


def import_shards(
    folder: str | Path, out: str | Path, *, uncertain: str = "keep", split: str = "auto", fresh: bool = False
) -> Imported:
    """Shards that cxraug wrote as a manifest ``out``, its images and masks in ``<out>-images`` beside it.

    All shards are checked before anything is written. An import that was interrupted goes on.

    Raises
    ------
    InputError
        A folder without ``shards.json``, a shard that is missing or whose SHA-256 is another one, a member that no
        export writes (a path, a link, a giant, a file that is no image), a row without its image or its columns, an
        ``out`` or a folder of images that is there already.
    """
    folder, out = Path(folder), Path(out)
    check_out(out, fresh)
    table = read_shards(folder)
    root = out.with_name(out.name.rsplit(".", 1)[0] + "-images")
    asked = column_map({name: name for name in (*FIELDS, *FILES) if name in table.frame})
    source = incoming("webdataset", "WebDataset shards", table, [], asked)
    settings = MapSettings.model_validate({"columns": asked, "uncertain": uncertain, "split": split})
    source.read(Folder(folder), settings)  # every row is checked before anything is written
    _claim(root, digest(table.metadata["shards"]), fresh)
    _unpack(folder, table, root)
    try:
        return import_source(source, root, out, settings, fresh=fresh)
    except InputError:  # an image that cannot be opened: the shards still hold what is thrown away here
        shutil.rmtree(root)
        raise


def read_shards(folder: Path) -> Table:
    """The rows of all shards, in the order of the manifest; ``image`` and ``mask`` are where they will be unpacked.

    Nothing is written. A row's file is the member that holds its columns.
    """
    if not (folder / INDEX).is_file():
        raise InputError("not an export of shards", file=folder, expected=f"a folder with {INDEX}, as cxraug writes it")
    index = read_json(folder / INDEX)
    rows: dict[str, dict[str, Any]] = {}
    owner: dict[str, str] = {}
    for shard, sha256 in track(_listed(index, folder / INDEX), "checking shards"):
        path = folder / shard
        if not path.is_file():
            raise InputError(
                "a shard that the index lists is not there", file=path, expected="all shards of the export"
            )
        if sha256 is not None and file_sha256(path) != sha256:
            raise InputError("a shard that is not the one of the index: cut short or changed", file=path,
                             expected=f"SHA-256 {sha256}")  # fmt: skip
        for key, suffix, data in _members(path):
            if owner.setdefault(key, shard) != shard:
                raise InputError("a row in two shards", file=path, found=key, expected=f"only in {owner[key]}")
            _take(rows.setdefault(key, {}), key, suffix, data, path)
    order = sorted(rows)
    for key in order:
        if not {"image", "split"} <= rows[key].keys():
            raise InputError("a row without its image or its columns", file=folder / owner[key], found=key,
                             expected=f"{key}.png or .jpg, and {key}.json")  # fmt: skip
    if not order:
        raise InputError("no rows", file=folder, expected="at least one image")
    stored = {name: index.get(name) for name in ("findings", "annotated", "shards")}
    files = np.array([f"{folder / owner[key]}/{key}{_FACTS}" for key in order])
    frame = frame_of(rows[key] for key in order)
    if "patient_id" not in frame:
        frame["patient_id"] = None
    return without_controls(Table(frame, folder / INDEX, np.ones(len(order), int), stored, files))


def _listed(index: Any, path: Path) -> list[tuple[str, str | None]]:
    """Name and SHA-256 of every shard."""
    try:
        shards = [(str(entry["shard"]), entry.get("sha256")) for entry in index["shards"]]
    except (TypeError, KeyError, AttributeError):
        raise InputError(
            "not an index of shards", file=path, expected='{"shards": [{"shard": "train-000000.tar"}]}'
        ) from None
    for name, _ in shards:
        if PurePosixPath(name).name != name or not name.endswith(".tar"):
            raise InputError("path leads out of the folder", file=path, found=name, expected="the name of a tar file")
    return shards


def _members(path: Path, *, images: bool = False) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix and content of every member; of images only the first bytes, unless they are asked for."""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                key, dot, suffix = member.name.partition(".")
                suffix = dot + suffix
                known = (
                    key.isascii() and key.isdigit() and len(key) <= 2 * KEY and suffix in (*_SUFFIXES, _MASK, _FACTS)
                )
                if not member.isreg() or not known:
                    raise InputError("not a member that an export writes", file=path, found=member.name,
                                     expected="<digits>.png, .jpg, .mask.png or .json")  # fmt: skip
                most = MAX_FACTS if suffix == _FACTS else MAX_IMAGE
                if member.size > most:
                    raise InputError(f"{member.name}: too large", file=path, found=f"{member.size} bytes",
                                     expected=f"at most {most}")  # fmt: skip
                stream = archive.extractfile(member)
                assert stream is not None
                yield key, suffix, stream.read() if images or suffix == _FACTS else stream.read(8)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"not a readable shard ({error})", file=path) from None


def _take(row: dict[str, Any], key: str, suffix: str, data: bytes, path: Path) -> None:
    """One member into the row of its key: its columns, or where its file will lie."""
    if suffix == _FACTS:
        facts = _facts(data, path, key)
        if "split" in row:
            raise InputError("a member twice", file=path, found=f"{key}{suffix}")
        facts.setdefault("split", None)
        row.update(facts)
        return
    mark = _SUFFIXES[PNG if suffix == _MASK else suffix]
    if not data.startswith(mark):
        raise InputError(f"{key}{suffix}: not an image of this kind", file=path, found=data[:8].hex(),
                         expected=mark.hex())  # fmt: skip
    what = "mask" if suffix == _MASK else "image"
    if what in row:
        raise InputError(f"two {what}s of one row", file=path, found=f"{key}{suffix}", expected="one")
    row[what] = f"masks/{key}.png" if suffix == _MASK else f"images/{key}{suffix}"


def _facts(data: bytes, path: Path, key: str) -> dict[str, Any]:
    """The columns of a row: texts, numbers and booleans; boxes a list."""
    where = Path(f"{path}/{key}{_FACTS}")
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON ({error})", file=where) from None
    if not isinstance(facts, dict):
        raise InputError("not a row", file=where, expected="a JSON object")
    kept = {name: value for name, value in facts.items() if name not in ("y", "image", "mask")}
    for name, value in kept.items():
        if isinstance(value, (list, dict)) and name != "boxes":
            raise InputError("a nested value", file=where, column=name, found=str(value)[:80],
                             expected="a text or a number")  # fmt: skip
    return kept


def _claim(root: Path, work: str, fresh: bool) -> None:
    """Make the folder of images that of these shards, or refuse."""
    mark = root / MARK
    if mark.is_file() and fresh:
        shutil.rmtree(root)
    if mark.is_file() and read_json(mark).get("work") == work:
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError("the folder for the images holds something else", file=root,
                         expected="another --out" + (", or --fresh" if mark.is_file() else ""))  # fmt: skip
    write_json(mark, {"work": work})


def _unpack(folder: Path, table: Table, root: Path) -> None:
    """Write every image and mask that is not there yet."""
    there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    shards = [entry["shard"] for entry in table.metadata["shards"]]
    for shard in track(shards, "unpacking"):
        for key, suffix, data in _members(folder / shard, images=True):
            name = f"masks/{key}.png" if suffix == _MASK else f"images/{key}{suffix}"
            if suffix == _FACTS or name in there:
                continue
            try:
                with atomic(root / name) as temporary:
                    temporary.write_bytes(data)
            except WorkError:
                raise
            except OSError as error:
                raise WorkError(f"{root / name}: cannot be written ({error.strerror})") from None
