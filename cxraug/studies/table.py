"""Reading a table as it is on disk, every cell still text, with the row numbers a spreadsheet shows."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pa_compute
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from cxraug.errors import InputError

CSV_SUFFIXES = (".csv", ".csv.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")
METADATA_KEY = b"cxraug"
# What people's tools write for a missing value. "None" is not among them: it may be a label.
MISSING = frozenset({"", "na", "n/a", "<na>", "nan", "null"})

MAX_INFLATED = 1 << 33  # bytes of a compressed CSV: ten million rows with reports
MAX_ROWS = 50_000_000  # of a Parquet file, which can promise any number in a few bytes
# What acts on a terminal; line ends, tabs and form feeds occur in reports.
CONTROLS = r"[\x00-\x08\x0e-\x1f\x7f\x{9b}]"

# What a spreadsheet would run: = or @ before anything, + or - before a call or a link to another program.
_FORMULA = re.compile(r"\s*(?:[=@]|[+\-].*[(!|])", re.DOTALL)

_HEAD = 1 << 16
_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, eq=False)
class Table:
    """A table with the row number of each of its rows (the header is row 1).

    For messages: ``files`` is the file of each row (n,) where several files make one table, ``called`` the name that a
    column has in the file where it is another one here.
    """

    frame: pd.DataFrame
    file: Path
    rows: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)
    files: np.ndarray | None = None
    called: Mapping[str, str] = field(default_factory=dict)

    def with_frame(self, frame: pd.DataFrame, kept: np.ndarray | None = None) -> Table:
        """Another frame over the same rows, or over those that the mask (n,) or positions ``kept`` name."""
        if kept is None:
            return replace(self, frame=frame)
        return replace(self, frame=frame, rows=self.rows[kept],
                       files=None if self.files is None else self.files[kept])  # fmt: skip

    def file_of(self, row: int) -> Path:
        """The file of the row at this position."""
        return self.file if self.files is None else Path(self.files[row])

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
            file=self.file_of(first),
            row=int(self.rows[first]),
            column=self.called.get(column, column),
            found="nothing" if _is_missing(value) else value,
            expected=expected,
        )

    def refuse_formulas(self, values: pd.Series, column: str) -> None:
        """Raise :class:`InputError` for the first of ``values`` that a spreadsheet would run."""
        odd = values[values.str.match("[^A-Za-z0-9]", na=False)]  # a formula begins with none of these
        formulas = {v for v in odd.unique() if is_formula(str(v))}
        if formulas:
            bad = values.isin(formulas)
            self.refuse(bad, column, "a spreadsheet would run this", expected="no =, @ or the like at the start",
                        found=values)  # fmt: skip

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


def is_formula(text: str) -> bool:
    """Whether a spreadsheet that opens a table with this cell may run it.

    Names and ids go into every table that is written, unchanged, because programs read them back. So such text is
    refused where it comes in.
    """
    return _FORMULA.match(text) is not None


def read_table(path: str | Path, *, unnamed: bool = False) -> Table:
    """Read a CSV (UTF-8, commas, ``.csv`` or ``.csv.gz``) or Parquet file.

    CSV cells stay text, so that ``00123`` remains itself. Wholly blank lines are passed over but counted. With
    ``unnamed`` columns without a name get one by their place, or go where no row fills them.

    Raises
    ------
    InputError
        If the file is missing, a folder, of another kind than its name says, not UTF-8, separated by something else
        than commas, has a row with too few or too many fields, two columns of one name, or control characters.
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
        return without_controls(_read_parquet(path))
    if name.endswith(CSV_SUFFIXES):
        return without_controls(_read_csv(path, unnamed))
    raise InputError("unknown kind of table", file=path, found=path.suffix, expected=".csv, .csv.gz or .parquet")


def _read_parquet(path: Path) -> Table:
    try:
        rows = pa_parquet.read_metadata(path).num_rows
        if rows > MAX_ROWS:
            raise InputError("too many rows", file=path, found=rows, expected=f"at most {MAX_ROWS}")
        table = pa_parquet.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"not a readable Parquet file ({error})", file=path) from None
    names = [str(n) for n in table.column_names]
    check_names(names, path)
    metadata: dict[str, Any] = {}
    stored = (table.schema.metadata or {}).get(METADATA_KEY)
    if stored is not None:
        try:
            metadata = json.loads(stored)
        except (ValueError, RecursionError):
            raise InputError("its cxraug metadata is not JSON", file=path) from None
    frame = table.to_pandas().reset_index(drop=True)
    return Table(frame, path, np.arange(len(frame)) + 2, metadata)


def without_controls(table: Table) -> Table:
    """The table, if no cell holds a control character that would act on the terminal which shows it."""
    for column in map(str, table.frame.columns):
        values = table.frame[column]
        if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
            continue
        if values.dtype == object:
            nested = values.map(type).isin([list, dict, np.ndarray])
            table.refuse(nested, column, "a nested value", expected="a text or a number", found=values.astype(str))
        text = pa.array(values.astype("str").fillna(""), pa.large_string())
        bad = pa_compute.match_substring_regex(text, CONTROLS).to_numpy(zero_copy_only=False)
        table.refuse(bad, column, "a control character", expected="text")
    return table


def _refuse_bomb(path: Path) -> None:
    """Refuse a compressed table that would fill the memory."""
    total = 0
    with _open(path) as stream:
        while block := stream.read(1 << 20):
            total += len(block)
            if total > MAX_INFLATED:
                raise InputError("the table inflates to too much", file=path, expected=f"at most {MAX_INFLATED} bytes")


def _read_csv(path: Path, unnamed: bool = False) -> Table:
    names = _read_header(path, unnamed)
    if path.name.lower().endswith(".gz"):
        try:
            _refuse_bomb(path)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"not a readable CSV ({error})", file=path) from None
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


def _read_header(path: Path, unnamed: bool = False) -> list[str]:
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
    if unnamed:
        names = _with_all_names(names, text)
    check_names(names, path)
    return names


def _with_all_names(names: Sequence[str], text: str) -> list[str]:
    """Names for the columns without one, but for those at the end that the first row does not fill (NIH's boxes)."""
    records = csv.reader(text.splitlines()[:2])
    width = [len(record) for record in records][-1]
    while len(names) > width and not names[-1]:
        names = names[:-1]
    return [name or f"unnamed {position}" for position, name in enumerate(names, 1)]


def check_names(names: Sequence[str], path: Path) -> None:
    for position, name in enumerate(names, 1):
        if not name and position > 1:  # the first may be the index that pandas' to_csv writes
            raise InputError(
                f"the {position}. column has no name", file=path, row=1, expected="a name for every column"
            )
        if re.search(r"[\x00-\x1f\x7f\x9b]", name):
            raise InputError("a control character in the name of a column", file=path, row=1, found=name)
        if name in names[: position - 1]:
            raise InputError("two columns have the same name", file=path, row=1, column=name, expected="each name once")


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb") as stream:
        yield stream  # type: ignore[misc]


def _find_undecodable(path: Path) -> int | None:
    """The number of the first record that is not UTF-8, or None."""
    csv.field_size_limit(1 << 30)  # a field of any length is read, and the row that is wrong is named
    with _open(path) as stream:
        lines = (line.decode("utf-8-sig", errors="surrogateescape") for line in stream)
        for number, record in enumerate(csv.reader(lines), 1):
            if any("\udc80" <= character <= "\udcff" for cell in record for character in cell):
                return number
    return None


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)
