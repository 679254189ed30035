"""Reading an official table: the columns under the names that its releases gave them, everything else refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pa_compute

from cxraug.errors import InputError
from cxraug.studies.table import Table, read_table

Names = Mapping[str, Sequence[str]]


def read_official(path: Path, required: Names, optional: Names | None = None) -> Table:
    """An official table with the columns asked for, renamed, as stripped text, missing where blank.

    Parameters
    ----------
    path : a CSV (``.csv``, ``.csv.gz``; UTF-8 with or without mark, any line ends) or Parquet file.
    required, optional : the name a column shall have, and the names it has in the releases of the archive. Upper and
        lower case do not matter.

    Raises
    ------
    InputError
        As :func:`cxraug.studies.table.read_table`; a column that is missing (row 1, what is there, what it is called
        in the releases), or a table without rows.
    """
    table = read_table(path, unnamed=True)
    have = {str(c).lower(): str(c) for c in table.frame.columns}
    columns: dict[str, str] = {}
    for name, names in {**required, **(optional or {})}.items():
        found = next((have[n.lower()] for n in names if n.lower() in have), None)
        if found is not None:
            columns[name] = found
        elif name in required:
            near = difflib.get_close_matches(names[0].lower(), list(have), 1, 0.6)
            hint = f" (rename {have[near[0]]!r}?)" if near else ""
            raise InputError("missing column", file=path, row=1, column=names[0],
                             found=", ".join(map(str, table.frame.columns)),
                             expected=" or ".join(names) + hint)  # fmt: skip
    if not len(table.frame):
        raise InputError("a header and no rows", file=path, expected="the rows of the official table")
    frame = pd.DataFrame({name: table.text(column) for name, column in columns.items()})
    for name in optional or {}:
        if name not in frame:
            frame[name] = pd.Series(np.nan, index=frame.index, dtype="str")
    return Table(frame, path, table.rows)


def official_names(columns: Names, table: Table, name: str) -> str:
    """What the column ``name`` is called to the user: its first official name."""
    return columns[name][0] if name in columns else name


def required_values(table: Table, column: str, called: str) -> pd.Series:
    """A column in which nothing may be blank or be run by a spreadsheet."""
    values = table.frame[column]
    table.refuse(values.isna(), called, "blank", expected=f"a value of {called} in every row", found=values)
    table.refuse_formulas(values, called)
    return values


def mapped(table: Table, column: str, called: str, values: Mapping[str, str | None]) -> pd.Series:
    """A column of a closed set of values, mapped; a value outside it is refused, None becomes missing."""
    text = table.frame[column]
    lower = text.str.lower()
    table.refuse(text.notna() & ~lower.isin(list(values)), called, "unknown value",
                 expected="one of " + ", ".join(values), found=text)  # fmt: skip
    clean = lower.map({k: v for k, v in values.items() if v is not None}).astype("str")
    return clean.where(clean.notna())


def numbers(table: Table, column: str, called: str) -> pd.Series:
    """A column of numbers as float64, NaN where blank."""
    text = table.frame[column]
    values = pd.to_numeric(text, errors="coerce").astype("float64")
    bad = text.notna() & ~np.isfinite(values)
    table.refuse(bad, called, "not a number", expected="a number", found=text)
    return values


def groups(values: pd.Series, pattern: str) -> pd.DataFrame:
    """The named groups of ``pattern`` (RE2 syntax), one column each, missing where it does not fit."""
    found = pa_compute.extract_regex(pa.array(values, pa.large_string()), pattern)
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    return pd.DataFrame({
        field.name: pd.Series(found.field(field.name).to_pandas(), dtype="str").set_axis(values.index)
        .where(found.is_valid().to_numpy(zero_copy_only=False))
        for field in found.type
    })  # fmt: skip


def read_list(path: Path) -> pd.Series:
    """The lines of an official list of names, without blank ones; the index is the line, from 1.

    Raises :class:`InputError` for a file that is not UTF-8 text, is empty, or has several columns.
    """
    try:
        lines = pd.Series(path.read_text(encoding="utf-8-sig").splitlines(), dtype="str").str.strip()
    except UnicodeDecodeError as error:
        row = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError("not UTF-8 text", file=path, row=row, expected="one name a line") from None
    lines.index = pd.RangeIndex(1, len(lines) + 1)
    lines = lines[lines != ""]
    if lines.empty:
        raise InputError("the file is empty", file=path, expected="one name a line")
    odd = lines.str.contains(r"[,;\t]")
    if odd.any():
        raise InputError("not one name a line", file=path, row=int(lines.index[int(odd.to_numpy().argmax())]),
                         found=lines[odd].iloc[0], expected="one name a line")  # fmt: skip
    return lines
