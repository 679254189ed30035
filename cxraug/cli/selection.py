"""How options name columns, rows and bands: lists of names, ``column=value``, label columns and age bins."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from cxraug.errors import InputError

if TYPE_CHECKING:
    from cxraug.studies.manifest import LabelColumns

AUTO: Literal["auto"] = "auto"
LABEL_COLUMNS_HELP = "1/0/-1/blank columns, one per finding: A,B=FINDING,... or auto (all such columns) or none."


def names(text: str | None) -> list[str] | None:
    """Names separated by commas; None where nothing was given."""
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_where(items: Sequence[str]) -> dict[str, list[str]] | None:
    """``column=value[,value...]`` options as a selection of rows; None for none."""
    where: dict[str, list[str]] = {}
    for item in items:
        column, equals, values = item.partition("=")
        if not equals or not column.strip() or not names(values):
            raise InputError("--where takes column=value[,value...]", found=item)
        where.setdefault(column.strip(), []).extend(names(values) or [])
    return where or None


def parse_label_columns(text: str | None) -> LabelColumns | None:
    """``--label-columns``: names (``COLUMN`` or ``COLUMN=FINDING``), ``auto``, or ``none`` (there are no labels)."""
    if text is None or text.strip() == AUTO:
        return None if text is None else AUTO
    if text.strip() == "none":
        return []
    columns: dict[str, str] = {}
    for item in names(text) or []:
        column, equals, finding = (part.strip() for part in item.partition("="))
        if not column or column in columns or (equals and not finding):
            raise InputError("--label-columns", found=item, expected=LABEL_COLUMNS_HELP)
        columns[column] = finding or column
    if not columns:
        raise InputError("--label-columns is empty", expected=LABEL_COLUMNS_HELP)
    return columns


def say_label_columns(label_columns: Mapping[str, str]) -> None:
    """Say on standard error which columns the labels were read from, if not from ``labels``."""
    if label_columns:
        pairs = (c if c == finding else f"{c}={finding}" for c, finding in label_columns.items())
        print("labels from the columns: " + ", ".join(pairs), file=sys.stderr, flush=True)


def parse_age_bins(text: str) -> tuple[int, ...]:
    """Lower bounds of age bands: at least one whole number, rising."""
    expected = "rising whole years such as 0,20,40,60,80"
    try:
        bins = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError("--age-bins is not a list of ages", found=text, expected=expected) from None
    if bins[0] < 0 or any(a >= b for a, b in pairwise(bins)):
        raise InputError("--age-bins must rise", found=text, expected=expected)
    return bins


def choice(value: str, option: str, known: Sequence[str]) -> str:
    """``value`` if it is one of ``known``."""
    if value not in known:
        raise InputError(f"{option} is not known", found=value, expected="one of " + ", ".join(known))
    return value
