"""An image of a manifest brought into an export: linked or copied as it is, DICOM as the PNG of its pixels."""

from __future__ import annotations

import errno
import io
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from cxraug.errors import InputError, WorkError
from cxraug.storage import atomic
from cxraug.studies.images import KINDS, ImageError, read_pixels

PNG, JPEG = ".png", ".jpg"
_HEAD = 132  # bytes: DICOM's mark stands behind its preamble


def kind_of(path: Path) -> str | None:
    """``.png`` or ``.jpg`` by the file's first bytes, whatever its name says; None for anything else (DICOM)."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise ImageError(f"cannot be opened ({error.strerror})", file=path, expected=KINDS) from None
    if head.startswith(b"\x89PNG"):
        return PNG
    return JPEG if head.startswith(b"\xff\xd8\xff") else None


def content(path: Path) -> tuple[bytes, str]:
    """The bytes that an export has of an image, and their suffix.

    PNG and JPEG are what they are. DICOM becomes a PNG (8 or 16 bit) of what :func:`read_pixels` reads: other programs
    do not read it, and its header names patients.
    """
    kind = kind_of(path)
    if kind is not None:
        return path.read_bytes(), kind
    return _png(read_pixels(path)), PNG


def place(source: Path, target: Path, *, copy: bool) -> Path:
    """Bring ``source`` to ``target`` (a path without suffix) and return where it is; what is there already stays.

    Hard-linked where the file system can, so that an export of a large set costs no space: then both names are one
    file. ``copy`` makes a file of its own. Links are followed before.
    """
    real = Path(os.path.realpath(source))
    kind = kind_of(real)
    target = target.with_name(target.name + (kind or PNG))
    if _is_there(real, target, kind):
        return target
    try:
        with atomic(target) as temporary:
            if kind is None:
                temporary.write_bytes(_png(read_pixels(real)))
            elif copy or not _linked(real, temporary):
                shutil.copy2(real, temporary)
    except FileNotFoundError:
        raise InputError("the image went away while it was exported", file=source) from None
    return target


def _is_there(source: Path, target: Path, kind: str | None) -> bool:
    """Whether an earlier call has put this very file there; a PNG made of a DICOM file is as new as the file."""
    try:
        here, there = source.stat(), target.stat()
    except OSError:
        return False
    if kind is None:
        return there.st_mtime_ns >= here.st_mtime_ns
    return os.path.samestat(here, there) or (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkError(f"{target}: disk full; what was finished stays, run again to go on") from None
        return False  # another file system, one without links, or too many of this file
    return True


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
