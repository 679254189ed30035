"""The metadata of a Hugging Face image folder of any maker as one table (huggingface.co/docs/datasets/image_dataset).

A folder has ``metadata.parquet``, ``metadata.jsonl`` or ``metadata.csv``, once or per subfolder, whose ``file_name``
starts from the folder of the file. Without them the folder of an image is its class.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from cxraug.errors import InputError
from cxraug.studies.columns import SPLIT_OF, path_inside
from cxraug.studies.sources.folder import Folder
from cxraug.studies.table import MAX_ROWS, METADATA_KEY, Table, check_names, read_table, without_controls

METADATA = "metadata.parquet"
NAMES = (METADATA, "metadata.jsonl", "metadata.csv")
FILE, MASK, OBJECTS = "file_name", "mask_file_name", "objects"
LABEL = "label"  # of class folders
MAX_LINE = 1 << 24  # bytes of one line of JSON


def read_metadata(folder: Path) -> tuple[Table, list[str]]:
    """The rows of an image folder, and notes.

    ``file_name`` and ``mask`` start from ``folder``. ``boxes`` are those of ``objects`` (``bbox`` x, y, w, h;
    ``category`` or ``categories``), ``split`` follows from a folder's name where no column says it. A list of texts is
    joined with ``|``; other nested columns are left out, which a note says. The table's ``metadata`` is what an export
    of cxraug says of itself; its rows then stand in the order of the manifest that was exported.

    Raises
    ------
    InputError
        No metadata and no class folders, a file that is no such table (with its line), no ``file_name``, a name that
        leads out of the folder or stands twice, a split that a row and its folder name differently.
    """
    files = _find(folder)
    if not files:
        return _class_folders(folder), ["no metadata: the folder of an image is its class"]
    parts, notes = [], []
    for path in files:
        part, said = _part(path, folder)
        parts.append(part)
        notes += [note for note in said if note not in notes]
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    stored = [part.metadata for part in parts if part.metadata]
    table = Table(
        frame, files[0], np.concatenate([part.rows for part in parts]),
        metadata=_united(stored) if len(stored) == len(parts) else {},
        files=np.repeat([str(path) for path in files], [len(part.frame) for part in parts]),
        called={"image": FILE},
    )  # fmt: skip
    if table.metadata:
        order = frame[FILE].str.extract(r"([^/]*)$")[0].argsort(kind="stable").to_numpy()
        table = table.with_frame(frame.iloc[order].reset_index(drop=True), order)
    return table, notes


def _find(folder: Path) -> list[Path]:
    """Every metadata file below the folder; links to folders and hidden folders are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        here = [name for name in NAMES if name in files]
        if len(here) > 1:
            raise InputError("two tables of metadata in one folder", file=Path(place), found=" and ".join(here),
                             expected="one")  # fmt: skip
        found += [Path(place, name) for name in here]
    return sorted(found)


def _part(path: Path, folder: Path) -> tuple[Table, list[str]]:
    """One file of metadata, its paths brought to the folder."""
    readers = {".parquet": _parquet, ".jsonl": _json_lines, ".csv": read_table}
    table, notes = _flat(readers[path.suffix](path))
    frame = table.frame
    check_names([str(name) for name in frame.columns], path)
    if FILE not in frame:
        raise InputError("missing column", file=path, row=1, column=FILE, found=", ".join(map(str, frame.columns)),
                         expected=FILE + ", the image's path from the folder of this file")  # fmt: skip
    if not len(frame):
        raise InputError("no rows", file=path, expected="one row per image")
    table = without_controls(table)
    names = _inside(table, FILE, folder)
    table.refuse(names.isna(), FILE, "blank", expected="the path of an image", found=names)
    made = frame.assign(**{FILE: names}).drop(columns=MASK, errors="ignore")
    if MASK in frame:
        made["mask"] = _inside(table, MASK, folder)
    said = names.map(_split_of_path)
    if "split" not in frame:
        if said.notna().any():
            made["split"] = said
    else:
        own = table.text("split").str.lower().map(SPLIT_OF)
        table.refuse(own.notna() & said.notna() & (own != said), "split", "the row and its folder name two splits",
                     expected="the folder's", found=table.text("split"))  # fmt: skip
    return table.with_frame(made), notes


def _parquet(path: Path) -> Table:
    try:
        if (rows := pa_parquet.read_metadata(path).num_rows) > MAX_ROWS:
            raise InputError("too many rows", file=path, found=rows, expected=f"at most {MAX_ROWS}")
        read = pa_parquet.read_table(path)
        stored = json.loads((read.schema.metadata or {}).get(METADATA_KEY, b"{}"))
        frame = read.to_pandas()
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise InputError(f"not a readable Parquet file ({error})", file=path) from None
    return Table(frame, path, np.arange(len(frame)) + 2, stored if isinstance(stored, dict) else {})


def _json_lines(path: Path) -> Table:
    rows, numbers = [], []
    for number, line in _lines(path):
        shown = line[:80].decode("utf-8", "replace")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not valid JSON ({error})", file=path, row=number, found=shown,
                             expected="one JSON object a line, as UTF-8") from None  # fmt: skip
        if not isinstance(row, dict):
            raise InputError("not a row", file=path, row=number, found=shown, expected="one JSON object a line")
        rows.append(row)
        numbers.append(number)
    return Table(pd.DataFrame(rows), path, np.array(numbers, int))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    with open(path, "rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise InputError("a line without end", file=path, row=number, expected=f"at most {MAX_LINE} bytes")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield number, line


def _flat(table: Table) -> tuple[Table, list[str]]:
    """The table without nested values: objects as boxes, lists of texts joined, the rest left out with a note."""
    frame, notes = table.frame.copy(), []
    for name in map(str, table.frame.columns):
        values = frame[name]
        if values.dtype != object:
            continue
        kinds = values.map(type)
        if name == OBJECTS and "boxes" not in frame:
            frame["boxes"] = _boxes(table)
        elif kinds.isin([dict]).any() or any(not _texts(v) for v in values[kinds.isin([list, np.ndarray])]):
            if name != OBJECTS:
                notes.append(f"the nested column {name!r} is left out")
        elif kinds.isin([list, np.ndarray]).any():
            frame[name] = [v if isinstance(v, str) or v is None else _joined(v) for v in values]
            continue
        else:
            continue
        frame = frame.drop(columns=name)
    return table.with_frame(frame), notes


def _texts(value: Any) -> bool:
    return all(isinstance(word, str) and "|" not in word for word in value)


def _joined(value: Any) -> Any:
    return "|".join(value) if isinstance(value, (list, np.ndarray)) else value


def _boxes(table: Table) -> pd.Series:
    """Boxes as a manifest has them, missing where a row has no objects."""
    made: list[str | None] = []
    bad = np.zeros(len(table.frame), bool)
    for at, value in enumerate(table.frame[OBJECTS]):
        if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            made.append(None)
            continue
        boxes = _plain_list(value.get("bbox")) if isinstance(value, dict) else None
        names = _plain_list(value.get("category", value.get("categories"))) if isinstance(value, dict) else None
        good = boxes is not None and names is not None and len(boxes) == len(names)
        good = good and all(isinstance(b, (list, np.ndarray)) and len(b) == 4 for b in boxes or [])
        bad[at] = not good
        made.append(None if not good else json.dumps(
            [{"label": str(name), **dict(zip("xywh", map(_number, box), strict=True))}
             for name, box in zip(names or [], boxes or [], strict=True)]
        ))  # fmt: skip
    table.refuse(bad, OBJECTS, "not boxes", expected="{bbox: [[x, y, width, height], ...], category: [...]}",
                 found=table.frame[OBJECTS].astype("str"))  # fmt: skip
    return pd.Series(made, index=table.frame.index, dtype="str")


def _plain_list(value: Any) -> list[Any] | None:
    return list(value) if isinstance(value, (list, np.ndarray)) else None


def _number(value: Any) -> Any:
    """A side of a box as JSON has it: whole numbers without a fraction; what is no number stays, to be refused."""
    if not isinstance(value, (int, float, np.number)) or isinstance(value, bool):
        return str(value)
    return int(value) if float(value).is_integer() else float(value)


def _inside(table: Table, column: str, folder: Path) -> pd.Series:
    """Paths that start from the file's folder, brought to ``folder``; missing where blank."""
    here = table.file.parent
    prefix = here.relative_to(folder).as_posix()
    values = table.text(column)
    found = values.map(
        lambda name: path_inside(name, str(here.absolute()), "/", root_named=False), na_action="ignore"
    ).astype("str")  # fmt: skip
    table.refuse(values.notna() & found.isna(), column, "path leads out of the folder", found=values,
                 expected="a path inside the folder of this file")  # fmt: skip
    return found if prefix == "." else prefix + "/" + found


def _split_of_path(name: str) -> str | None:
    """The split that a folder of the path is called after."""
    return next((SPLIT_OF[part] for part in name.lower().split("/")[:-1] if part in SPLIT_OF), None)


def _united(stored: list[dict[str, Any]]) -> dict[str, Any]:
    """What the files of one export say of it: they all say the same."""
    if any(other != stored[0] for other in stored):
        return {}
    return stored[0]


def _class_folders(folder: Path) -> Table:
    """Images by class: ``<split>/<class>/<image>``, or without splits."""
    images = [name for name in Folder(folder).images() if "/" in name]
    classes = [name.split("/")[-2] for name in images]
    if not images or any(name.lower() in SPLIT_OF for name in classes):
        packed = next(folder.rglob("*.parquet"), None)
        raise InputError(
            "not an image folder", file=folder,
            found=None if packed is None else f"{packed.relative_to(folder)}: images inside Parquet are not read",
            expected="metadata.csv, metadata.jsonl or metadata.parquet with file_name, or one folder per class",
        )  # fmt: skip
    frame = pd.DataFrame({FILE: pd.Series(images, dtype="str"), LABEL: pd.Series(classes, dtype="str")})
    split = frame[FILE].map(_split_of_path)
    if split.notna().any():
        frame["split"] = split
    return Table(frame, folder, np.ones(len(frame), int), files=np.array([str(folder / name) for name in images]),
                 called={"image": FILE})  # fmt: skip
