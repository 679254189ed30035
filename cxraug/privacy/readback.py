"""Reading a swapped set back: nothing of the originals may be in any byte that is given out.

Everything is judged from the files as they lie on the disk, by code that knows the originals and takes no word of the
code that wrote them.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pa_parquet
from PIL import Image

from cxraug.errors import WorkError
from cxraug.privacy.texts import identifiers
from cxraug.progress import track
from cxraug.studies.images import pixel_sha256

TILE = 16  # pixels: side of the smallest piece of an original that is looked for
SHADES = 24  # a tile with fewer grey values is a flat background, which any two X-rays share
TEXT_SUFFIXES = (".json", ".jsonl", ".csv", ".html", ".txt", ".md")
CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"PLTE"}  # of a PNG; all others are metadata
LONG = 24  # characters: such a text is somebody's own
SHORT = 4  # characters: shorter strings are no names of anything
MOST_TILES = 32  # per side of an original: more are thinned out evenly

# Shorter numbers than of eight digits are looked for in reports and names, not among numbers.
_SHORT_NUMBER = re.compile(r"[-+]?\d{1,7}(\.\d*)?")
# Columns whose every value names a person, a place, a day or a thing of one patient.
_NAMING = re.compile(
    r"(^|_)(id|ids|uid|mrn|accession|name|names|path|file|date|time|birth|dob|birthdate|physician|doctor|operator|"
    r"institution|hospital|address|phone|email|zip|image|mask)(_|$)",
    re.IGNORECASE,
)
_DATA_URI = re.compile(rb"data:image/png;base64,([A-Za-z0-9+/=]+)")
_WORD = re.compile(r"[^\W_]+")
_TILE_BASE = 0x9E3779B97F4A7C15


class Forbidden:
    """Strings of the original data, found in any text whatever their number.

    A string counts where it stands alone, not inside a longer word or number. Those of fewer than four characters are
    left out.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        self.strings = sorted({s.strip().lower() for s in strings if len(s.strip()) >= SHORT and _WORD.search(s)})
        parts = [_WORD.findall(s) for s in self.strings]
        common = Counter(word for words in parts for word in set(words))
        self._by_word: dict[str, list[tuple[str, int]]] = {}
        for string, words in zip(self.strings, parts, strict=True):
            rarest = min(words, key=lambda word: (common[word], -len(word)))
            self._by_word.setdefault(rarest, []).append((string, _start_of(string, rarest)))

    def find(self, text: str, *, numbers: bool = True) -> str | None:
        """The first forbidden string in ``text``, or None. Case does not matter.

        ``numbers`` False passes over short numbers: where counts and values stand, they are no names.
        """
        lower = text.lower()
        for match in _WORD.finditer(lower):
            for string, offset in self._by_word.get(match.group(), ()):
                start = match.start() - offset
                stop = start + len(string)
                here = start >= 0 and lower[start:stop] == string and _alone(lower, start, stop)
                if here and (numbers or not _SHORT_NUMBER.fullmatch(string)):
                    return string
        return None

    def find_value(self, text: str) -> str | None:
        """As :meth:`find`, for a cell: one that is a short number by itself is a number, not a name."""
        return None if _SHORT_NUMBER.fullmatch(text.strip()) else self.find(text)


@dataclass(frozen=True)
class Originals:
    """What must not be found.

    ``forbidden`` strings; ``sha`` digests of native pixels; ``tiles`` sorted uint64 hashes of 16 x 16 pieces of the
    original images, at their own size and at the stand-ins'; ``n`` images.
    """

    forbidden: Forbidden
    sha: frozenset[str]
    tiles: np.ndarray
    n: int


@dataclass
class Found:
    """What a read-back read, and what is wrong; nothing wrong: the set may be given out."""

    images: int = 0
    texts: int = 0
    strings: int = 0
    tiles: int = 0
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """What was looked at, for the report."""
        return {"images_read": self.images, "text_files_read": self.texts, "original_strings_looked_for": self.strings,
                "original_tiles_looked_for": self.tiles, "problems": len(self.problems)}  # fmt: skip


def original_strings(frame: pd.DataFrame, *, root: Path, file: Path | None, public: Iterable[str]) -> Forbidden:
    """Every string of a manifest's rows that names something, less the words that a swapped set has by design.

    Parameters
    ----------
    frame : all rows of the manifest, those that are not swapped included.
    root, file : where the data lie. public : attribute values, findings, views and names that are published.

    Notes
    -----
    Ids, paths (whole, file name, stem), dates and names by the column's name; of other columns what has a digit and is
    no number, and long text. Words of reports are judged as phrases (:mod:`cxraug.privacy.texts`).
    """
    skip = {"sex", "age", "race", "labels", "view", "source", "split", "report", "boxes", "synthetic", "seed", "gate",
            "gate_reasons", "core", "core_sha256", "_root"}  # fmt: skip
    strings: set[str] = {str(root)} | ({str(file)} if file is not None else set())
    for name in frame.columns:
        if name in skip:
            continue
        naming = _NAMING.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(name))) is not None
        for value in pd.unique(frame[name].dropna()):
            text = str(value)
            if not naming and (_is_number(text) or (len(text) < LONG and not any(c.isdigit() for c in text))):
                continue
            strings.add(text)
            if "/" in text or Path(text).suffix:
                strings.update((Path(text).name, Path(text).stem))
            if "^" in text or "," in text:  # names as DICOM or a directory writes them
                parts = [part for part in re.split(r"[\s,^]+", text) if part]
                strings.update((" ".join(parts), " ".join(parts[::-1])))
    known = {word.strip().lower() for word in public}
    pieces = {part for word in known for part in _WORD.findall(word)}
    return Forbidden(
        s for s in strings if s.strip().lower() not in known and not set(_WORD.findall(s.lower())) <= pieces
    )


def read_back(folder: Path, originals: Originals, *, images: Sequence[str] | None = None) -> Found:
    """Read every file below ``folder`` and look for anything of the originals.

    Parameters
    ----------
    images : paths (relative) of the images that belong to the set; any other picture is a problem. None: any.
    """
    found = Found(strings=len(originals.forbidden.strings), tiles=len(originals.tiles))
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    wanted = None if images is None else set(images)
    for path in track(files, "reading back"):
        name = path.relative_to(folder).as_posix()
        for problem in _problems(path, name, originals, wanted, found):
            found.problems.append(problem)
    if wanted is not None:
        there = {path.relative_to(folder).as_posix() for path in files}
        found.problems += [f"{name}: missing" for name in sorted(wanted - there)[:1]]
    return found


def refuse_leak(found: Found) -> None:
    """Raise :class:`WorkError` if anything was found: the set is not given out."""
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise WorkError(f"the read-back found something of the originals, so nothing was given out: "
                        f"{found.problems[0]}{more}")  # fmt: skip


def tile_hashes(pixels: np.ndarray, *, every: bool = False) -> np.ndarray:
    """uint64 hashes of 16 x 16 tiles of uint8 ``pixels`` (H, W).

    ``every`` hashes the tile at every place (of a stand-in); otherwise those of a grid of 16 pixels that have at least
    24 grey values (of an original), so that an original's tile is found wherever a stand-in has it.
    """
    height, width = pixels.shape
    if height < TILE or width < TILE:
        return np.zeros(0, np.uint64)
    if every:
        powers = _powers(1)
        rows = _window_sums(pixels.astype(np.uint64) + np.uint64(1), powers, axis=1)
        return _window_sums(rows, _powers(2), axis=0).ravel()
    h, w = height // TILE, width // TILE
    grid = pixels[: h * TILE, : w * TILE].reshape(h, TILE, w, TILE).swapaxes(1, 2)
    tiles = grid[:: -(-h // MOST_TILES), :: -(-w // MOST_TILES)].reshape(-1, TILE, TILE)
    ordered = np.sort(tiles.reshape(len(tiles), -1), axis=1)
    tiles = tiles[(np.diff(ordered, axis=1) != 0).sum(axis=1) + 1 >= SHADES]
    values = tiles.astype(np.uint64) + np.uint64(1)
    return np.einsum("nrc,c,r->n", values, _powers(1), _powers(2))


def eight_bit(pixels: np.ndarray) -> np.ndarray:
    """uint8 of uint8 or uint16 pixels, scaled as :func:`cxraug.studies.images.encode` does."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = int(pixels.min()), int(pixels.max())
    return np.rint((pixels.astype(np.float32) - low) * (255.0 / max(high - low, 1))).astype(np.uint8)


def _problems(path: Path, name: str, originals: Originals, wanted: set[str] | None, found: Found) -> Iterator[str]:
    if path.is_symlink() or not path.is_file():
        yield f"{name}: no plain file"
        return
    shown = originals.forbidden.find(name)
    if shown is not None:
        yield f"{name}: its name holds {shown!r}"
    suffix = path.suffix.lower()
    if suffix == ".png":
        found.images += 1
        if wanted is not None and name not in wanted:
            yield f"{name}: a picture that is no part of the set"
        yield from _picture_problems(path.read_bytes(), name, originals)
    elif suffix == ".parquet":
        found.texts += 1
        yield from _strings_problems(_parquet_strings(path), name, originals)
    elif suffix in TEXT_SUFFIXES:
        found.texts += 1
        if suffix == ".html":
            for number, picture in enumerate(_DATA_URI.findall(path.read_bytes()), 1):
                yield from _picture_problems(base64.b64decode(picture), f"{name}, picture {number}", originals)
        yield from _strings_problems(_text_strings(path), name, originals)
    else:
        yield f"{name}: a file of a kind that a swapped set does not have"


def _picture_problems(data: bytes, name: str, originals: Originals) -> Iterator[str]:
    try:
        chunks = set(_png_chunks(data))
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        yield f"{name}: not a plain PNG ({error})"
        return
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        yield f"{name}: a picture that is not grey ({pixels.dtype} {pixels.shape})"
        return
    if chunks - CHUNKS:
        kind = sorted(chunks - CHUNKS)[0]
        yield f"{name}: metadata in the picture ({kind.decode('latin-1')})"
    if pixel_sha256(pixels) in originals.sha:
        yield f"{name}: the pixels of an original image"
    if len(originals.tiles):
        here = tile_hashes(eight_bit(pixels), every=True)
        at = np.minimum(np.searchsorted(originals.tiles, here), len(originals.tiles) - 1)
        if (originals.tiles[at] == here).any():
            yield f"{name}: a piece of {TILE} x {TILE} pixels of an original image"


def _strings_problems(strings: Iterable[tuple[str, str]], name: str, originals: Originals) -> Iterator[str]:
    try:
        for where, text in strings:
            find = originals.forbidden
            shown = find.find(text, numbers=False) if where == "text" else find.find_value(text)
            if shown is not None:
                yield f"{name}, {where}: {shown!r} of the original data"
            if where.endswith("report") and identifiers(text):
                kind, what = identifiers(text)[0]
                yield f"{name}, {where}: what looks like a {kind} ({what!r})"
    except (ValueError, OSError) as error:
        yield f"{name}: cannot be read ({error})"


def _parquet_strings(path: Path) -> Iterator[tuple[str, str]]:
    table = pa_parquet.read_table(path)
    for key, value in (table.schema.metadata or {}).items():
        yield "metadata", f"{key.decode('utf-8', 'replace')} {value.decode('utf-8', 'replace')}"
    for name in table.column_names:
        yield "a column's name", name
        for value in pd.unique(table.column(name).to_pandas().dropna()):
            if not isinstance(value, (bool, int, float, np.number, np.bool_)):
                yield name, str(value)


def _text_strings(path: Path) -> Iterator[tuple[str, str]]:
    text = _DATA_URI.sub(b" ", path.read_bytes()).decode("utf-8")  # pictures are judged as such
    if path.suffix == ".json":
        yield from _json_strings(json.loads(text), "value")
    elif path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            yield from _json_strings(json.loads(line), f"line {number}")
    elif path.suffix == ".csv":
        for number, cells in enumerate(csv.reader(io.StringIO(text)), 1):
            for cell in cells:
                yield f"line {number}", cell
    else:
        yield "text", text


def _json_strings(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield where, str(key)
            yield from _json_strings(inner, f"{where.split(', ')[0]}, {key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _json_strings(inner, where)
    elif isinstance(value, str):
        yield where, value


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Types of a PNG's chunks; ``ValueError`` for anything before, between or after them."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG")
    at = 8
    while at < len(data):
        if at + 12 > len(data):
            raise ValueError("bytes after the picture's end")
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind
        at += 12 + length
        if kind == b"IEND" and at != len(data):
            raise ValueError("bytes after the picture's end")


def _powers(which: int) -> np.ndarray:
    """16 odd weights of one direction: a polynomial modulo 2**64 with an odd base."""
    base, value, powers = (_TILE_BASE * (2 * which + 1)) | 1, 1, []
    for _ in range(TILE):
        value = value * base % 2**64
        powers.append(value)
    return np.array(powers, np.uint64)


def _window_sums(values: np.ndarray, weights: np.ndarray, *, axis: int) -> np.ndarray:
    """Weighted sums (modulo 2**64) over windows of 16 along ``axis``."""
    n = values.shape[axis] - TILE + 1
    total: np.ndarray | None = None
    for i, weight in enumerate(weights):
        part = np.take(values, np.arange(i, i + n), axis=axis) * weight
        total = part if total is None else total + part
    assert total is not None
    return total


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _start_of(string: str, word: str) -> int:
    return next(m.start() for m in _WORD.finditer(string) if m.group() == word)


def _alone(text: str, start: int, stop: int) -> bool:
    def inside(i: int, j: int) -> bool:
        return 0 <= i < len(text) and 0 <= j < len(text) and text[i].isalnum() and text[j].isalnum()

    return not inside(start - 1, start) and not inside(stop - 1, stop)
