"""The errors a user can cause or meet; the command line maps each to one line and an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class CxraugError(Exception):
    """Base of every error with a message made for the user. ``exit_code`` is what the process returns."""

    exit_code = 1


class InputError(CxraugError):
    """Bad input or usage (exit code 2): one line that names where, what was found and what was expected.

    Parameters
    ----------
    problem : what is wrong, in a few words.
    file, row, column : where. ``row`` is counted as a spreadsheet shows it: the header is row 1.
    found, expected : the offending value and what would have been right.
    """

    exit_code = 2

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        row: int | None = None,
        column: str | None = None,
        found: object = None,
        expected: object = None,
    ) -> None:
        where = [str(file)] if file is not None else []
        if row is not None:
            where.append(f"row {row}")
        if column is not None:
            where.append(f"column {column!r}")
        line = (", ".join(where) + ": " if where else "") + problem
        if found is not None:
            line += f"; found {_short(found)}"
        if expected is not None:
            line += f"; expected {expected}"
        super().__init__(_harmless(" ".join(line.split())))
        self.file, self.row, self.column, self.found, self.expected = file, row, column, found, expected


class WorkError(CxraugError):
    """A failure while working (exit code 1): disk full, out of memory. What was made stays and resumes."""


class HiddenDataError(InputError):
    """A core, gate or initial weight has seen rows that it must not know (rule 2 of the evidence rules)."""


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The path of the key (empty for the whole) and the message of the first problem that pydantic found."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")


def _harmless(line: str, limit: int = 1000) -> str:
    """``line`` without characters that act on a terminal, and without the middle of what is endless."""
    if len(line) > limit:
        line = line[: limit // 2] + "…" + line[-limit // 2 :]
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)


def _short(value: object, limit: int = 120) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = repr(text) if isinstance(value, str) else text
    return text if len(text) <= limit else text[: limit - 1] + "…"
