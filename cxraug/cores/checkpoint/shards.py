"""Weights written as safetensors in shards, under the names that diffusers and transformers open by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cxraug.errors import InputError
from cxraug.storage import atomic, read_json, write_json

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
LIMIT = 1 << 29  # bytes of a shard: what is in memory at once


def write_shards(folder: Path, tensors: Iterable[tuple[str, Tensor]], *, stem: str, limit: int = LIMIT) -> list[Path]:
    """Write ``tensors`` as ``STEM.safetensors``, or as numbered shards with ``STEM.safetensors.index.json``.

    They are taken one by one, so a generator that maps its tensors from a file needs no more memory than a shard. A
    tensor larger than ``limit`` is a shard of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: list[list[str]] = []
    part: dict[str, Tensor] = {}
    size = total = 0

    def flush() -> None:
        nonlocal part, size
        if part:
            _save(folder / f"{stem}-part{len(names):05d}.safetensors", part)
            names.append(list(part))
        part, size = {}, 0

    for name, tensor in tensors:
        bytes_ = tensor.numel() * tensor.element_size()
        if part and size + bytes_ > limit:
            flush()
        part[name] = tensor.contiguous()
        size, total = size + bytes_, total + bytes_
    flush()
    parts = [folder / f"{stem}-part{i:05d}.safetensors" for i in range(len(names))]
    if len(parts) == 1:
        return [parts[0].replace(folder / f"{stem}.safetensors")]
    paths = [p.replace(folder / f"{stem}-{i + 1:05d}-of-{len(parts):05d}.safetensors") for i, p in enumerate(parts)]
    weight_map = {name: path.name for path, held in zip(paths, names, strict=True) for name in held}
    write_json(folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    return paths


def read_headers(path: Path) -> dict[str, Tensor]:
    """Name -> tensor without storage, of a safetensors file or of the shards that an index names.

    Raises :class:`InputError` for a file that is none, and for an index whose shards do not hold what it says.
    """
    if path.name.endswith(".index.json"):
        try:
            weight_map: dict[str, str] = read_json(path)["weight_map"]
            files = {name: path.parent / name for name in weight_map.values() if Path(name).name == name}
            outside = next((name for name in weight_map.values() if name not in files), None)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise InputError("not an index of shards", file=path) from None
        if outside is not None:
            raise InputError("a shard outside the folder of its index", file=path, found=outside)
        held = {shard: read_headers(file) for shard, file in sorted(files.items())}
        for name, shard in weight_map.items():
            if name not in held[shard]:
                raise InputError(f"key {name} is missing", file=files[shard], expected=f"there, says {path.name}")
        return {name: tensor for part in held.values() for name, tensor in part.items()}
    if not path.is_file():
        raise InputError("no such weights", file=path)
    found = {}
    try:
        with safe_open(str(path), framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118
                part = stored.get_slice(name)
                found[name] = torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"not a safetensors file ({error})", file=path) from None
    return found


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    with atomic(path) as temporary:
        save_file({k: t if t.device.type == "cpu" else t.cpu() for k, t in tensors.items()}, str(temporary),
                  metadata={"format": "pt"})  # fmt: skip
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read
