"""What of a core is on this machine: parameters by part, and what is missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from cxraug.cores.checkpoint.reading import read_checkpoint
from cxraug.cores.checkpoint.shards import read_headers
from cxraug.cores.peft import need_peft
from cxraug.cores.registry import find_core, read_card
from cxraug.cores.spec import CoreSpec, parse_spec
from cxraug.errors import CxraugError


def parameters(name: str | Path) -> dict[str, int]:
    """Part -> number of values in its weights files; a core in one file has the part "all"."""
    spec = parse_spec(str(name))
    path = find_core(name) if spec is None else Path(spec.path)
    found: dict[str, int] = {}
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".safetensors", ".bin"))
    for file in files:
        part = "all" if file == path or file.parent == path else str(file.parent.relative_to(path))
        tensors = read_headers(file) if file.suffix == ".safetensors" else read_checkpoint(file)
        count = sum(t.numel() for t in _tensors(tensors))
        found[part] = found.get(part, 0) + count
    return found


def missing(name: str | Path) -> list[str]:
    """What keeps the core from being opened here, in the words of the errors. No weights are loaded for it."""
    found = []
    for check in (lambda: read_card(name), *_parts(parse_spec(str(name)))):
        try:
            check()
        except CxraugError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _parts(spec: CoreSpec | None) -> list[Callable[[], object]]:
    """Checks of what a core of another program needs beside its weights."""
    if spec is None:
        return []
    if spec.kind == "chexgen":
        from cxraug.cores.chexgen.opening import NEEDED, find_part

        return [partial(find_part, spec, option) for option in NEEDED]
    if spec.kind == "xgem":
        from cxraug.cores.xgem.opening import find_tokenizers

        return [find_tokenizers(spec).check]
    return [need_peft] if "lora" in spec.options else []


def _tensors(held: object) -> list[Tensor]:
    if isinstance(held, Tensor):
        return [held]
    return [t for part in held.values() for t in _tensors(part)] if isinstance(held, dict) else []
