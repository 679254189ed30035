"""How a core is named: KIND:PATH+OPTION:VALUE, for example ``diffusers:roentgen-v2+lora:mine.safetensors``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cxraug.errors import InputError

OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "diffusers": ("lora", "config", "prompt", "impressions", "findings", "view", "scheduler", "negative"),
    "chexgen": ("t5", "vae", "prompt", "impressions", "findings", "view"),
    "xgem": ("tokenizers", "prompt", "impressions", "findings"),
})  # fmt: skip


@dataclass(frozen=True)
class CoreSpec:
    """A core of another program: its ``kind``, the ``path`` of its weights, and options by name."""

    kind: str
    path: str
    options: Mapping[str, str]


PATHS = ("lora", "config", "impressions", "t5", "vae", "tokenizers")


def resolve_spec(name: str, base: Path) -> str:
    """The same name with the paths in it made absolute, starting from the folder ``base``."""
    spec = parse_spec(name)
    assert spec is not None
    options = {k: str((base / v).resolve()) if k in PATHS else v for k, v in spec.options.items()}
    path = str((base / spec.path).resolve())
    return f"{spec.kind}:{path}" + "".join(f"+{option}:{value}" for option, value in options.items())


def parse_spec(name: str) -> CoreSpec | None:
    """Read KIND:PATH+OPTION:VALUE...; None for a name of another form (a shipped core, a folder).

    A ``+`` that is not followed by the name of an option and a colon belongs to the path or value before it.
    """
    kind, colon, rest = name.partition(":")
    if not colon or kind not in OPTIONS:
        return None
    pieces = re.split(r"\+([a-z0-9]+):", rest)
    path, options = pieces[0], dict(zip(pieces[1::2], pieces[2::2], strict=True))
    if len(options) < len(pieces) // 2:
        raise InputError(f"core {name}: an option is given twice", found=", ".join(pieces[1::2]))
    if not path:
        raise InputError(f"core {name}: no path", expected=f"{kind}:PATH")
    for option, value in options.items():
        if option not in OPTIONS[kind] or not value:
            raise InputError(f"core {name}: not an option of {kind}", found=f"+{option}:{value}",
                             expected=", ".join(f"+{known}:..." for known in OPTIONS[kind]))  # fmt: skip
    at_home = {k: str(Path(v).expanduser()) if k in PATHS else v for k, v in options.items()}
    return CoreSpec(kind, str(Path(path).expanduser()), MappingProxyType(at_home))
