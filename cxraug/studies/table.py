"""Reading a table as it is on disk, every cell still text, with the row numbers a spreadsheet shows."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from cxraug.errors import InputError

CSV_SUFFIXES = (".csv", ".csv.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")
METADATA_KEY = b"cxraug"
# What people's tools write for a missing value. "None" is not among them: it may be a label.
MISSING = frozenset({"", "na", "n/a", "<na>", "nan", "null"})

_HEAD = 1 << 16
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, eq=False)
class Table:
    """A table with the row number of each of its rows (the header is row 1)."""

    frame: pd.DataFrame
    file: Path
    rows: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)

    def refuse(
        self,
        bad: pd.Series | np.ndarray,
        column: str,
        problem: str,
        *,
        expected: object,
        found: pd.Series | None = None,
    ) -> None:
        """Raise :class:`InputError` for the first row in which ``bad`` is true; do nothing if there is none."""
        mask = np.asarray(bad, bool)
        if not mask.any():
            return
        first = int(mask.argmax())
        more = int(mask.sum()) - 1
        value = (self.frame[column] if found is None else found).iloc[first]
        raise InputError(
            problem + (f" (and in {more} more rows)" if more else ""),
            file=self.file,
            row=int(self.rows[first]),
            column=column,
            found="nothing" if _is_missing(value) else value,
            expected=expected,
        )

    def text(self, column: str) -> pd.Series:
        """A column as stripped text, missing where blank. Numbers that are whole lose their ``.0``, zeros stay."""
        values = self.frame[column]
        if pd.api.types.is_float_dtype(values):
            whole = values.notna() & np.isfinite(values) & (values % 1 == 0)
            as_text = values.astype(object).where(values.notna(), None)
            as_text = as_text.where(~whole, values.where(whole, 0).astype("int64").astype(object))
            values = as_text
        if not isinstance(values.dtype, pd.StringDtype):
            values = pd.Series([None if _is_missing(v) else str(v) for v in values], index=values.index, dtype="str")
        values = values.str.strip()
        return values.where(~values.str.lower().isin(MISSING))


def read_table(path: str | Path) -> Table:
    """Read a CSV (UTF-8, commas, ``.csv`` or ``.csv.gz``) or Parquet file.

    CSV cells stay text, so that ``00123`` remains itself. Wholly blank lines are passed over but counted.

    Raises
    ------
    InputError
        If the file is missing, a folder, of another kind than its name says, not UTF-8, separated by something else
        than commas, has a row with too few or too many fields, or two columns of one name.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("this is a folder", file=path, expected="a table (.csv, .csv.gz or .parquet)")
    if not path.exists():
        raise InputError("no such file", file=path, expected="a table (.csv, .csv.gz or .parquet)")
    if not path.is_file():
        raise InputError("not a regular file", file=path, expected="a table (.csv, .csv.gz or .parquet)")
    name = path.name.lower()
    if name.endswith(PARQUET_SUFFIXES):
        return _read_parquet(path)
    if name.endswith(CSV_SUFFIXES):
        return _read_csv(path)
    raise InputError("unknown kind of table", file=path, found=path.suffix, expected=".csv, .csv.gz or .parquet")


def _read_parquet(path: Path) -> Table:
    try:
        table = pa_parquet.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"not a readable Parquet file ({error})", file=path) from None
    names = [str(n) for n in table.column_names]
    _check_names(names, path)
    metadata: dict[str, Any] = {}
    stored = (table.schema.metadata or {}).get(METADATA_KEY)
    if stored is not None:
        try:
            metadata = json.loads(stored)
        except ValueError as error:
            raise InputError(f"its cxraug metadata is not JSON ({error})", file=path) from None
    frame = table.to_pandas().reset_index(drop=True)
    return Table(frame, path, np.arange(len(frame)) + 2, metadata)


def _read_csv(path: Path) -> Table:
    names = _read_header(path)
    blank: list[int] = []  # records that hold nothing
    wrong: list[tuple[int, int]] = []  # (record, fields) of rows that are too long or too short

    def handle(row: pa_csv.InvalidRow) -> str:
        if row.actual_columns == 1 and not row.text.strip():
            blank.append(row.number)
        else:
            wrong.append((row.number, row.actual_columns))
        return "skip"

    try:
        table = pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=1 << 25, column_names=names, skip_rows=1),
            parse_options=pa_csv.ParseOptions(
                newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=handle
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
    except pa.ArrowException as error:
        row = _find_undecodable(path)
        if row is not None:
            raise InputError("not UTF-8 text", file=path, row=row, expected="a CSV saved as UTF-8") from None
        raise InputError(f"not a readable CSV ({error})", file=path) from None
    except (OSError, EOFError) as error:
        raise InputError(f"not a readable CSV ({error})", file=path) from None
    if wrong:
        raise InputError(
            "a row with another number of fields than the header (is a text with commas unquoted?)",
            file=path,
            row=wrong[0][0],
            found=wrong[0][1],
            expected=f"{len(names)} fields",
        )
    numbers = np.arange(2, 2 + table.num_rows + len(blank))
    rows = np.setdiff1d(numbers, np.array(blank, int), assume_unique=True)
    frame = table.to_pandas().drop(columns="", errors="ignore")
    full = frame.notna().any(axis=1).to_numpy()
    return Table(frame[full].reset_index(drop=True), path, rows[full])


def _read_header(path: Path) -> list[str]:
    """The column names of a CSV; says what is wrong if it is not one."""
    try:
        with _open(path) as stream:
            head = stream.read(_HEAD)
    except (OSError, EOFError) as error:
        raise InputError(f"not a readable CSV ({error})", file=path) from None
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError("not UTF-8 text", file=path, found="UTF-16", expected="a CSV saved as UTF-8")
    if head.startswith(b"PAR1") or b"\0" in head:
        kinds = {b"PAR1": "a Parquet file", b"PK\x03\x04": "a spreadsheet or zip archive"}
        raise InputError(
            "not a CSV", file=path, found=kinds.get(head[:4], "binary data"), expected="UTF-8 text with commas"
        )
    if not head.strip():
        raise InputError("the file is empty", file=path, expected="a header and one line per row")
    try:
        text = head.decode("utf-8-sig", errors="strict" if len(head) < _HEAD else "ignore")
    except UnicodeDecodeError:
        row = _find_undecodable(path)
        raise InputError("not UTF-8 text", file=path, row=row, expected="a CSV saved as UTF-8") from None
    line = text.splitlines()[0]
    names = [name.strip() for name in next(csv.reader([line]), [])]
    for delimiter, called in _DELIMITERS.items():
        if "image" not in names and line.count(delimiter) > line.count(","):
            raise InputError(
                f"the columns are separated by {called}",
                file=path,
                row=1,
                found=line,
                expected="commas (in a spreadsheet: save as 'CSV UTF-8, comma delimited')",
            )
    _check_names(names, path)
    return names


def _check_names(names: Sequence[str], path: Path) -> None:
    for position, name in enumerate(names, 1):
        if not name and position > 1:  # the first may be the index that pandas' to_csv writes
            raise InputError(
                f"the {position}. column has no name", file=path, row=1, expected="a name for every column"
            )
        if name in names[: position - 1]:
            raise InputError("two columns have the same name", file=path, row=1, column=name, expected="each name once")


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb") as stream:
        yield stream  # type: ignore[misc]


def _find_undecodable(path: Path) -> int | None:
    """The number of the first record that is not UTF-8, or None."""
    with _open(path) as stream:
        lines = (line.decode("utf-8-sig", errors="surrogateescape") for line in stream)
        for number, record in enumerate(csv.reader(lines), 1):
            if any("\udc80" <= character <= "\udcff" for cell in record for character in cell):
                return number
    return None


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)
