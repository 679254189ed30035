"""The layout of a checkpoint - its keys, shapes and types - against the one that its network must have."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cxraug.errors import InputError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
Shapes = Mapping[str, Sequence[int]]


def check_layout(
    found: Mapping[str, Tensor],
    expected: Shapes,
    *,
    file: Path,
    free: Collection[str] = (),
    loose: Collection[str] = (),
) -> None:
    """Refuse a checkpoint that is not exactly of the ``expected`` layout.

    Weights must be floats, all of one type, that of most of them: a single weight in another one was not written with
    the others. Keys in ``loose`` (kept in float32 on purpose) may be floats of another type, keys in ``free`` (buffers)
    may have any type.

    Raises
    ------
    InputError
        That names the first key which is missing, extra, of another shape (a transposed one is called so) or type. A
        missing key says which unknown one resembles it, as after a renaming.
    """
    extra = [name for name in found if name not in expected]
    for name in expected:
        if name not in found:
            near = difflib.get_close_matches(name, extra, 1, 0.6)
            raise InputError(f"key {name} is missing", file=file, expected=f"shape {tuple(expected[name])}",
                             found=f"an unknown key {near[0]}" if near else f"{len(found)} other keys")  # fmt: skip
    if extra:
        raise InputError(f"key {extra[0]} is not known", file=file, found=f"{len(extra)} unknown keys",
                         expected=f"the {len(expected)} keys of the format")  # fmt: skip
    free, loose = set(free), set(loose)
    weights = [name for name in expected if name not in free]
    usual = Counter(found[name].dtype for name in weights if found[name].dtype in FLOATS).most_common(1)
    for name in expected:
        shape, wanted = tuple(found[name].shape), tuple(expected[name])
        if shape != wanted:
            how = " (transposed)" if len(shape) > 1 and sorted(shape) == sorted(wanted) else ""
            raise InputError(f"key {name}", file=file, found=f"shape {shape}{how}", expected=f"shape {wanted}")
    for name in weights:
        if not usual or found[name].dtype not in (FLOATS if name in loose else (usual[0][0],)):
            kind = str(usual[0][0]) if usual else "a floating type"
            raise InputError(f"key {name}", file=file, found=str(found[name].dtype), expected=f"{kind}, as the others")
