"""The sources by their word on the command line."""

from __future__ import annotations

from importlib import import_module

from cxraug.errors import InputError
from cxraug.studies.sources.contract import Source

KEYS = ("nih", "chexpert", "mimic", "padchest", "vindr", "rsna", "siim", "openi")


def find_source(key: str) -> Source:
    """The source of this key; raises :class:`InputError` for another word."""
    if key not in KEYS:
        raise InputError("no such source", found=key, expected="one of " + ", ".join(KEYS) + ", or csv")
    source = import_module(f"cxraug.studies.sources.{key}").SOURCE
    assert isinstance(source, Source)
    return source
