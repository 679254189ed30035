"""Files that are either whole or absent: atomic writes, canonical JSON and digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cxraug.errors import InputError, WorkError


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on failure it is removed.

    The temporary name keeps the suffix, so that writers that look at the suffix work.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkError(f"{path}: disk full; what was finished stays, run again to go on") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as readable JSON with sorted keys, atomically. NaN becomes null."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or broken file is an :class:`InputError` that names it."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid JSON ({error})", file=path) from None
    except RecursionError:
        raise InputError("not valid JSON (nested too deeply)", file=path) from None


def parse_yaml(text: str) -> Any:
    """Plain values from YAML text: no objects, no aliases, no key twice.

    Raises :class:`ValueError`, with one line of text, for anything else.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is a number with thousands of digits
        raise ValueError(" ".join(str(error).split())[:500]) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses what settings never need: aliases (they can blow up) and a key twice (one is lost)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not allowed ({self.peek_event().start_mark})")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (str(key.value) for key, _ in node.value):
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} occurs twice ({node.start_mark})")
            seen.add(key)
        return super().construct_mapping(node, deep)


def plain(value: Any) -> Any:
    """Turn numpy scalars and arrays, paths, tuples and sets into what JSON knows; NaN and infinity into None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def digest(value: Any) -> str:
    """SHA-256 (hex) of ``value`` as canonical JSON: equal settings have equal digests."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
