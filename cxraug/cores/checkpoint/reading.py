"""Reading a checkpoint without running code that it may hold, and without copying it into memory."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cxraug.errors import InputError

_TYPE = re.compile(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a torch file or a safetensors file holds; tensors are mapped from the file, not read.

    Returns
    -------
    dict
        Of a safetensors file name -> tensor; of a torch file what was saved: tensors, dicts, lists and plain values.

    Raises
    ------
    InputError
        If there is no such file, if it is neither format, if it is cut short, or if it holds anything but tensors and
        plain values: then the type is named. Nothing of it is run (``weights_only=True``).
    """
    if not path.is_file():
        raise InputError("no such checkpoint", file=path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(str(path), framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"not a safetensors file ({error})", file=path) from None
    zipped = zipfile.is_zipfile(path)  # torch files from before 1.6 are not, and cannot be mapped
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        named, said = _TYPE.search(str(error)), str(error).partition("WeightsUnpickler error:")[2].split("\n")
        raise InputError(
            "the checkpoint holds something that is neither a tensor nor a plain value, and is not opened", file=path,
            found=named.group(1) if named else next((line.strip() for line in said if line.strip()), "a pickle"),
            expected="tensors in dicts and lists",
        ) from None  # fmt: skip
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, OSError) as error:
        raise InputError(f"not a torch checkpoint ({(str(error) or type(error).__name__).splitlines()[0]})",
                         file=path) from None  # fmt: skip
    if not isinstance(found, dict):
        raise InputError("not a checkpoint", file=path, found=type(found).__name__, expected="a dict of tensors")
    return found


def state_dict(found: Mapping[str, Any], path: Path, entry: str | None = None) -> dict[str, Tensor]:
    """The tensors of ``found``, or of its ``entry``; a common ``module.`` (of data-parallel training) is taken off.

    Anything that is no tensor under a text is an :class:`InputError` that names it.
    """
    part: Any = found
    if entry is not None:
        if entry not in found:
            raise InputError(f"the checkpoint has no {entry!r}", file=path, found=", ".join(map(str, list(found)[:5])))
        part = found[entry]
    if not isinstance(part, Mapping):
        raise InputError(f"{entry or 'the checkpoint'} is no dict", file=path, found=type(part).__name__)
    for name, value in part.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            expected = "a tensor under a text"
            raise InputError(f"key {name!r}", file=path, found=type(value).__name__, expected=expected)
    names = list(part)
    prefix = "module." if names and all(name.startswith("module.") for name in names) else ""
    return {name.removeprefix(prefix): part[name] for name in names}
