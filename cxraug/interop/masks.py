"""PNG masks of other tools as the masks of a manifest: one file per image, bit 1 lung, 2 heart, 4 lesion."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from cxraug.errors import InputError
from cxraug.interop.matching import match_rows
from cxraug.progress import track
from cxraug.storage import atomic
from cxraug.studies.cache import refuse_missing
from cxraug.studies.images import MASK_BITS, image_size, read_mask_values
from cxraug.studies.manifest import Manifest

BITS = "bits"  # a folder whose masks are of any parts, as a manifest has them


def annotate_masks(
    manifest: Manifest, folders: Mapping[str, Path], out: str | Path, *, suffix: str = "", over: bool = False
) -> tuple[Manifest, dict[str, int]]:  # fmt: skip
    """The manifest with the masks of ``folders``, and counts; masks are written into ``out``.

    Parameters
    ----------
    folders : part (``lung``, ``heart``, ``lesion``) -> folder of PNG files in which 0 is outside and the one other
        value inside; or ``bits`` -> folder of masks as a manifest has them. Several are put together.
    out : folder inside the data folder. suffix : what stands between an image's name and ``.png`` (``_mask``).
    over : replace masks that a row has already.

    Raises
    ------
    InputError
        An unknown part; no PNG; a name of several images or of none; a mask that is no PNG of one 8-bit channel, has
        another size than its image or other values; an ``out`` that is not in the data folder; masks that are there.
    """
    root, out = Path(os.path.realpath(manifest.root)), Path(os.path.realpath(out))
    if not out.is_relative_to(root):
        raise InputError("masks must lie in the data folder", file=out, expected=f"--out inside {manifest.root}")
    found: dict[int, list[tuple[str, Path]]] = {}
    counts = {"files": 0, "empty": 0, "not_in_manifest": 0}
    for part, folder in folders.items():
        if part != BITS and part not in MASK_BITS:
            raise InputError("unknown part of a mask", found=part, expected=f"one of {', '.join([*MASK_BITS, BITS])}")
        files = _files(folder, suffix)
        counts["files"] += len(files)
        rows = match_rows(manifest, list(files), list(files), folder)
        for row, path in zip(rows, files.values(), strict=True):
            if row is None:
                counts["not_in_manifest"] += 1
            else:
                found.setdefault(row, []).append((part, path))
    rows_found = sorted(found)
    part_manifest = manifest.take(rows_found)
    refuse_missing(part_manifest)
    masks = manifest.frame["mask"].tolist() if "mask" in manifest.frame else [None] * len(manifest)
    for row, image in track(list(zip(rows_found, part_manifest.paths(), strict=True)), "reading masks"):
        if isinstance(masks[row], str) and not over:
            raise InputError("this image has a mask already", file=found[row][0][1], found=str(masks[row]),
                             expected="--replace to take this one in its place")  # fmt: skip
        bits = _union(found[row], image_size(image))
        if not bits.any():
            counts["empty"] += 1
            continue
        target = out / _name(str(manifest.frame["image"].iloc[row]))
        _write(target, bits)
        masks[row] = str(target.relative_to(root))
    frame = manifest.frame.assign(mask=pd.Series(masks, dtype="str"))
    return replace(manifest, frame=frame), {"images": len(rows_found) - counts["empty"], **counts}


def mask_bits(values: np.ndarray, part: str, path: Path) -> np.ndarray:
    """The bits (uint8) of a mask's ``values`` (uint8): of one ``part``, or of any (:data:`BITS`)."""
    present = sorted(set(np.unique(values).tolist()) - {0})
    if part == BITS:
        if present == [255]:  # as every mask of cxraug is read: 0 and 255 are lungs
            return (values > 0).astype(np.uint8)
        if present and present[-1] > sum(MASK_BITS.values()):
            raise InputError("not a mask", file=path, found=f"the value {present[-1]}",
                             expected="0 and 1, 0 and 255, or bits: 1 lung, 2 heart, 4 lesion")  # fmt: skip
        return values.astype(np.uint8)
    if len(present) > 1:
        raise InputError(f"not a mask of one part ({part})", file=path, found=f"the values {present[:5]}",
                         expected="0 and one other value")  # fmt: skip
    return (values > 0).astype(np.uint8) * np.uint8(MASK_BITS[part])


def _union(files: list[tuple[str, Path]], size: tuple[int, int]) -> np.ndarray:
    bits = np.zeros(size, np.uint8)
    for part, path in files:
        values = read_mask_values(path)
        if values.shape != size:
            raise InputError("the mask has another size than its image", file=path,
                             found=f"{values.shape[1]} x {values.shape[0]}",
                             expected=f"{size[1]} x {size[0]}")  # fmt: skip
        bits |= mask_bits(values, part, path)
    return bits


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """Name of the image -> its mask; only files below ``folder``, also where links lead elsewhere."""
    if not folder.is_dir():
        raise InputError("no such folder", file=folder, expected="a folder of PNG masks")
    base = Path(os.path.realpath(folder))
    found = {}
    for path in sorted(folder.rglob("*.png")):
        name = path.relative_to(folder).as_posix()
        if not name.endswith(f"{suffix}.png"):
            continue
        if not Path(os.path.realpath(path)).is_relative_to(base):
            raise InputError("a link leads out of the folder of masks", file=path)
        found[name.removesuffix(f"{suffix}.png") + ".png"] = path
    if not found:
        raise InputError("no mask here", file=folder, expected=f"files named <image>{suffix}.png")
    return found


def _name(image: str) -> str:
    """A mask's path for an image's: the same of a PNG, of others with ``.png`` behind it, so that none is shared."""
    return image if PurePosixPath(image).suffix.lower() == ".png" else f"{image}.png"


def _write(path: Path, bits: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(bits).save(stream, "PNG")
    with atomic(path) as temporary:
        temporary.write_bytes(stream.getvalue())
