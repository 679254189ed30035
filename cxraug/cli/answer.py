"""The answer of a command for machines: one JSON object on standard output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer


def print_json(answer: Mapping[str, Any]) -> None:
    """Print ``answer`` as one JSON object; paths become text, NaN and infinity null."""
    from cxraug.storage import plain

    typer.echo(json.dumps(plain(answer), indent=1, allow_nan=False))
