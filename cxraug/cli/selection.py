"""How options name columns, rows and bands: lists of names, ``column=value`` and age bins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cxraug.errors import InputError


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
