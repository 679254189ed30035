"""The pixel cache: every image of a manifest decoded once, in one encoding, with what only its native pixels tell."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pandas as pd
from filelock import FileLock

from cxraug.errors import InputError
from cxraug.progress import track
from cxraug.storage import atomic, read_json, write_json
from cxraug.studies.burned_text import writing_in_file
from cxraug.studies.images import KINDS, Encoding, ImageError, encode, pixel_sha256, read_pixels
from cxraug.studies.manifest import ROOT, Manifest

CHUNK = 512  # images that are lost at most when a build is interrupted
THREADS = 2
REJECTED = "rejected.csv"
LOCK = ".lock"
MISSING = "missing"  # identity of a file that is not there

_VERSION = 2  # raised whenever the bytes of a cache change for the same key


@dataclass(eq=False)
class PixelCache:
    """Pixels aligned with the rows of a manifest.

    Attributes
    ----------
    pixels : uint8 (n, size, size); a read-only memory map when it comes from :func:`build_cache`.
    sha : (n,) text, SHA-256 (hex) of each image's native pixels, shape and type: equal means the same picture.
    writing : (n,) uint8, what is written in each image at its native size, a code of
        :data:`cxraug.studies.burned_text.KINDS`.
    """

    pixels: np.ndarray
    sha: np.ndarray
    writing: np.ndarray

    def __len__(self) -> int:
        return len(self.sha)

    def take(self, rows: np.ndarray | Sequence[int]) -> PixelCache:
        """Some rows, by mask of shape (n,) or by position, as :meth:`Manifest.take`; copied into memory."""
        index = np.asarray(rows)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise ValueError(f"mask of shape {index.shape} for a cache of {len(self)} rows")
            index = np.flatnonzero(index)
        index = index.astype(int)
        return PixelCache(np.asarray(self.pixels[index]), self.sha[index], self.writing[index])

    def stored(self, rows: np.ndarray, file: str | Path) -> PixelCache:
        """Some rows, by mask of shape (n,), as a read-only memory map in ``file``: for more than fits into memory."""
        index = np.flatnonzero(rows)
        with atomic(file) as temporary, open(temporary, "wb") as stream:
            _write_header(stream, (len(index), *self.pixels.shape[1:]))
            for start in range(0, len(index), CHUNK):
                stream.write(self.pixels[index[start : start + CHUNK]].tobytes())
        pixels = np.load(file, mmap_mode="r" if len(index) else None, allow_pickle=False)
        return PixelCache(pixels, self.sha[index], self.writing[index])


def build_cache(
    manifest: Manifest, folder: str | Path, encoding: Encoding, *, on_bad_image: Literal["error", "skip"] = "error"
) -> tuple[Manifest, PixelCache]:
    """Decode every image of ``manifest`` once into ``folder``, or open what is there already.

    Work is saved every 512 images and goes on where it stopped; of several processes one works and the others wait. The
    cache belongs to one list of files (with sizes and times of change) and one encoding; asked for another it is built
    anew.

    Parameters
    ----------
    on_bad_image : ``error`` stops at the first image that cannot be read; ``skip`` leaves such rows out and lists them
        in ``rejected.csv`` (``image, reason``) in ``folder``.

    Returns
    -------
    The manifest without the rows left out, and its pixels.

    Raises
    ------
    ImageError
        For a bad image, a missing one and one that a link leads out of the data folder (with ``error``).
    InputError
        If nothing is left.
    """
    if on_bad_image not in ("error", "skip"):
        raise InputError("on_bad_image is unknown", found=on_bad_image, expected="error or skip")
    folder = Path(folder)
    files = _resolve(manifest)
    key = _key(manifest, files, encoding)
    if not _is_built(folder, key):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK):  # arms train in processes that open the same set at once
            if not _is_built(folder, key):
                _build(manifest, folder, encoding, files, key, stop=on_bad_image == "error")
    rejected = pd.read_csv(folder / "bad.csv", dtype={"row": int, "image": str, "reason": str})
    if len(rejected) and on_bad_image == "error":
        raise ImageError(rejected["reason"].iloc[0])
    if len(rejected) == len(manifest):
        raise InputError(
            f"none of the {len(manifest)} images can be read; the first: {rejected['reason'].iloc[0]}",
            file=manifest.file,
        )
    keep = np.ones(len(manifest), bool)
    keep[rejected["row"].to_numpy()] = False
    if on_bad_image == "skip":
        with atomic(folder / REJECTED) as temporary:
            rejected[["image", "reason"]].to_csv(temporary, index=False)
    sha = np.load(folder / "sha.npy", allow_pickle=False)
    writing = np.load(folder / "writing.npy", allow_pickle=False)
    pixels = np.load(folder / "pixels.npy", mmap_mode="r" if len(sha) else None, allow_pickle=False)
    return (manifest if keep.all() else manifest.take(keep)), PixelCache(pixels, sha, writing)


def refuse_missing(manifest: Manifest) -> None:
    """Raise :class:`ImageError` for images that are not there or lie outside the data folder; nothing is decoded."""
    files = _resolve(manifest)
    outside = next((file.problem for file in files if file.problem is not None), None)
    if outside is not None:
        raise ImageError(outside)
    missing = [file.path for file in files if file.identity == MISSING]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ImageError(f"no such image{more}", file=missing[0], expected=KINDS)


@dataclass(frozen=True)
class _File:
    """One image on disk: the path to read, what identifies its content, or why it must not be read."""

    path: Path
    identity: str
    problem: str | None = None


def _resolve(manifest: Manifest) -> list[_File]:
    """Follow links, once per folder and once per linked file, and say which images lie outside the data folder."""
    names = manifest.frame["image"].tolist()
    roots = manifest.frame[ROOT].tolist() if ROOT in manifest.frame else [str(manifest.root)] * len(names)
    real: dict[str, str] = {}
    files = []
    for root, name in zip(roots, names, strict=True):
        base = real.setdefault(root, os.path.realpath(root))
        parent, leaf = os.path.split(os.path.join(root, name))
        if parent not in real:
            real[parent] = os.path.realpath(parent)
        full = os.path.join(real[parent], leaf)
        shown = Path(root, name)
        try:
            status = os.lstat(full)
            if stat.S_ISLNK(status.st_mode):
                full = os.path.realpath(full)
                status = os.stat(full)
            identity = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            identity = MISSING  # read_pixels says so, in its turn
        problem = None
        if not full.startswith(base.rstrip(os.sep) + os.sep):
            # where the link keeps the path below it, the folder to name is known
            there = f" ({full.removesuffix(os.sep + name)})" if full.endswith(os.sep + name) else ""
            problem = str(
                ImageError(
                    "a link leads out of the data folder",
                    file=shown,
                    found=full,
                    expected=f"a file in {base}, or the folder that holds the images{there} named by data.root "
                    "(recipe) or --root (command)",
                )
            )
        files.append(_File(shown, identity, problem))
    return files


def _key(manifest: Manifest, files: Sequence[_File], encoding: Encoding) -> str:
    state = hashlib.sha256(f"{_VERSION} {asdict(encoding)}".encode())
    for name, file in zip(manifest.frame["image"], files, strict=True):
        state.update(f"\0{name}\0{file.path}\0{file.identity}\0{file.problem or ''}".encode())
    return state.hexdigest()


def _is_built(folder: Path, key: str) -> bool:
    mark = folder / "cache.json"
    return mark.exists() and read_json(mark).get("key") == key


def _build(
    manifest: Manifest, folder: Path, encoding: Encoding, files: Sequence[_File], key: str, *, stop: bool
) -> None:
    parts = folder / "parts"
    (folder / "cache.json").unlink(missing_ok=True)
    begun = parts / "key.json"
    if not begun.exists() or read_json(begun).get("key") != key:
        shutil.rmtree(parts, ignore_errors=True)
        write_json(begun, {"key": key})
    starts = range(0, len(files), CHUNK)
    missing = [s for s in starts if not (parts / f"{s:08d}.npz").exists()]
    done = len(files) - sum(min(CHUNK, len(files) - s) for s in missing)
    if missing:
        for start, results in _decode_chunks(files, missing, encoding, done, stop):
            bad = [r for r in results if isinstance(r, str)]
            good = [r for r in results if not isinstance(r, str)]
            size = encoding.size
            with atomic(parts / f"{start:08d}.npz") as temporary:
                np.savez(
                    temporary,
                    pixels=np.stack([p for p, _, _ in good]) if good else np.empty((0, size, size), np.uint8),
                    sha=np.array([s for _, s, _ in good], dtype="U64"),
                    writing=np.array([w for _, _, w in good], np.uint8),
                    bad=np.array([start + i for i, r in enumerate(results) if isinstance(r, str)], int),
                    reason=np.array(bad, dtype=str) if bad else np.array([], dtype="U1"),
                )
    _assemble(manifest, folder, parts, starts, encoding)
    write_json(folder / "cache.json", {"key": key, "encoding": asdict(encoding), "n": len(files)})
    shutil.rmtree(parts, ignore_errors=True)


Result = tuple[np.ndarray, str, int] | str


def _decode_chunks(
    files: Sequence[_File], starts: Sequence[int], encoding: Encoding, done: int, stop: bool
) -> Iterator[tuple[int, list[Result]]]:
    """Decode whole chunks with a few threads (Pillow works outside the interpreter's lock)."""

    def decode(file: _File) -> Result:
        try:
            if file.problem is not None:
                raise ImageError(file.problem)
            pixels = read_pixels(file.path)
        except ImageError as error:
            if stop:
                raise
            return str(error)
        return encode(pixels, encoding), pixel_sha256(pixels), writing_in_file(file.path, pixels)

    def stream(pool: ThreadPoolExecutor) -> Iterator[tuple[int, Result]]:
        for start in starts:
            for result in pool.map(decode, files[start : start + CHUNK]):
                yield start, result

    chunk: list[Result] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start, result in track(stream(pool), "decoding images", total=len(files), done=done):
            chunk.append(result)
            if len(chunk) == len(files[start : start + CHUNK]):
                yield start, chunk
                chunk = []


def _assemble(manifest: Manifest, folder: Path, parts: Path, starts: Sequence[int], encoding: Encoding) -> None:
    """Join the chunks into one memory-mapped array of the good rows."""
    loaded = [parts / f"{start:08d}.npz" for start in starts]
    shas, written, bad, reasons = [], [], [], []
    for path in loaded:
        with np.load(path, allow_pickle=False) as part:
            shas.append(part["sha"])
            written.append(part["writing"])
            bad += part["bad"].tolist()
            reasons += part["reason"].tolist()
    sha = np.concatenate(shas) if shas else np.array([], "U64")
    # not a memory map: there a full disk kills the process without a word
    with atomic(folder / "pixels.npy") as temporary, open(temporary, "wb") as stream:
        _write_header(stream, (len(sha), encoding.size, encoding.size))
        for path in loaded:
            with np.load(path, allow_pickle=False) as part:
                stream.write(part["pixels"].tobytes())
    with atomic(folder / "sha.npy") as temporary:
        np.save(temporary, sha)
    with atomic(folder / "writing.npy") as temporary:
        np.save(temporary, np.concatenate(written) if written else np.array([], np.uint8))
    names = manifest.frame["image"].iloc[bad].tolist()
    with atomic(folder / "bad.csv") as temporary:
        pd.DataFrame({"row": bad, "image": names, "reason": reasons}).to_csv(temporary, index=False)


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
