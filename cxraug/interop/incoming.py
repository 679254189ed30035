"""Data sets in the layouts of other programs as sources of ``cxraug import``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxraug.errors import InputError
from cxraug.interop.metadata import FILE, LABEL
from cxraug.interop.rows import Y
from cxraug.progress import track
from cxraug.studies import columns
from cxraug.studies.images import image_size
from cxraug.studies.sources.columnmap import FIELDS, FILES, ColumnMap, MapSettings, mapped_rows
from cxraug.studies.sources.contract import Extract, Source
from cxraug.studies.sources.folder import Folder
from cxraug.studies.table import Table

NOT_TAKEN = 12  # names of columns that a note lists
_CHECKED = {"image", FILE, "patient_id", "study_id", "view", "sex", "age", "labels", "split", "mask", "boxes"}


def folder_map(table: Table, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Which column holds what in an image folder: columns of a manifest's names are these, ``asked`` comes first.

    Raises
    ------
    InputError
        No column holds the patient: without it images of one person would stand in two splits.
    """
    have = [str(name) for name in table.frame.columns]
    known = {field: field for field in (*FIELDS, *FILES) if field in have} | {"image": FILE}
    if table.file.is_dir():
        known["labels"] = LABEL
    if asked.get("label_columns"):
        known.pop("labels", None)
    values = {**known, **asked}
    if "patient_id" not in values:
        raise InputError("which column holds the patient?", file=table.file, found=", ".join(have),
                         expected="a column patient_id, --map patient_id=COLUMN, or --map patient_id=file_name where "
                         "no patient has two images")  # fmt: skip
    return values


def incoming(key: str, title: str, table: Table, notes: Sequence[str], columns_: ColumnMap) -> Source:
    """The source of one table: rows that cxraug exported come back whole, others by their map."""

    def read(folder: Folder, settings: MapSettings) -> Extract:
        return table_rows(table, notes, folder, settings)

    return Source(key=key, name=columns_.source, title=title, licence=columns_.licence, card="",
                  layout={"FOLDER": "images with their metadata"}, labels={}, closed=False, read=read,
                  settings=MapSettings)  # fmt: skip


def table_rows(table: Table, notes: Sequence[str], folder: Folder, settings: MapSettings) -> Extract:
    """The rows of a table whose paths start from ``folder``; what cxraug exported keeps every column and its source."""
    if table.metadata and settings.mapping is not None:
        raise InputError("--mapping is for the words of other data sets; this one was exported by cxraug",
                         file=settings.mapping, expected="an import without it")  # fmt: skip
    extract = mapped_rows(table, folder.root, settings)
    frame = extract.frame
    if "boxes" in frame and settings.columns.findings:
        frame["boxes"] = frame["boxes"].map(lambda text: _renamed(text, settings.columns.findings), na_action="ignore")
    extract.notes = [*notes, *extract.notes]
    if table.metadata:
        _take_all(table, extract)
    elif rest := _not_taken(table, settings.columns):
        more = f" and {len(rest) - NOT_TAKEN} more" if len(rest) > NOT_TAKEN else ""
        extract.notes.append(f"columns left behind (--map keep=NAME,NAME): {', '.join(rest[:NOT_TAKEN])}{more}")

    def finish(kept: pd.DataFrame, root: Path | None) -> tuple[dict[str, int], list[str]]:
        if root is not None:
            _check_files(kept, root)
        return {}, []

    extract.finish = finish
    return extract


def _take_all(table: Table, extract: Extract) -> None:
    """Every further column as it was exported, and what each source annotates."""
    frame = extract.frame
    for name in map(str, table.frame.columns):
        if name not in _CHECKED and not name.startswith(Y):
            frame[name] = table.frame[name]
    if "synthetic" in table.frame:
        frame["synthetic"] = columns.synthetic(table)
    frame["source"] = (frame["source"] if "source" in frame else pd.Series("", index=frame.index)).fillna("")
    stored = table.metadata.get("annotated")
    sources = set(frame["source"])
    stored = stored if isinstance(stored, dict) else {}
    extract.by_source = {
        s: tuple(map(str, stored[s])) if isinstance(stored.get(s), list) else extract.annotated for s in sources
    }
    if isinstance(findings := table.metadata.get("findings"), list):
        extract.annotated = tuple(map(str, findings))


def _not_taken(table: Table, asked: ColumnMap) -> list[str]:
    used = {getattr(asked, field) for field in (*FIELDS, *FILES)} | {*asked.label_columns, *asked.keep}
    return [str(name) for name in table.frame.columns if name not in used]


def _renamed(text: str, findings: Mapping[str, str]) -> str:
    boxes = json.loads(text)
    return json.dumps([{**box, "label": findings.get(box["label"], box["label"])} for box in boxes])


def _check_files(frame: pd.DataFrame, root: Path) -> None:
    """Refuse what is no image, or a link out of the data folder."""
    inside = os.path.realpath(root).rstrip(os.sep) + os.sep
    names = [*frame["image"], *(frame["mask"].dropna() if "mask" in frame else ())]
    for name in track(names, "checking images"):
        path = root / name
        if not (real := os.path.realpath(path)).startswith(inside):
            raise InputError("a link leads out of the data folder", file=path, found=real, expected="a file in it")
        image_size(path)
