"""A folder in the layout of an archive: its tables by their official names, its images by the names in the tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cxraug.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".bmp")
NO_IMAGES = "masks"  # folders of this name hold masks, under the names of their images


@dataclass
class Folder:
    """The root that a user names, and which of its files were read."""

    root: Path
    read: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise InputError("the root is not a folder", file=self.root, expected="the folder of the archive's files")

    def find(self, *names: str, under: Sequence[str] = ("",)) -> Path | None:
        """The first file that is there, of ``names`` (patterns), each plain or as ``.gz``, in the folders ``under``."""
        for name in names:
            for place in under:
                for pattern in (name, name + ".gz"):
                    found = sorted(p for p in (self.root / place).glob(pattern) if p.is_file())
                    if found:
                        if found[0] not in self.read:
                            self.read.append(found[0])
                        return found[0]
        return None

    def need(self, *names: str, what: str, under: Sequence[str] = ("",)) -> Path:
        """Like :meth:`find`, but raises :class:`InputError` where none is there."""
        path = self.find(*names, under=under)
        if path is not None:
            return path
        packed = [p for p in (self.root / u / f"{n}.zip" for n in names for u in under) if p.is_file()]
        raise InputError(
            "no such file",
            file=self.root / names[0],
            found=f"{packed[0].name}, which has to be unpacked first" if packed else None,
            expected=what + (f" (or {' or '.join(names[1:])})" if names[1:] else ""),
        )

    def images(self) -> list[str]:
        """Every image file below the root, relative to it, sorted; links to folders and ``masks`` are not followed."""
        found = []
        for folder, folders, files in os.walk(self.root):
            folders[:] = [f for f in folders if f != NO_IMAGES and not f.startswith(".")]
            inside = os.path.relpath(folder, self.root)
            prefix = "" if inside == "." else inside.replace(os.sep, "/") + "/"
            found += [prefix + f for f in files if f.lower().endswith(IMAGE_SUFFIXES)]
        return sorted(found)


def locate(
    official: pd.Series,
    there: Sequence[str],
    parts: int,
    bare: Callable[[pd.Series], pd.Series] | None = None,
) -> tuple[pd.Series, int]:
    """Where the files that a table names really lie.

    Parameters
    ----------
    official : (n,) where the official layout has each image.
    there : the files that are there, sorted, relative to the same root.
    parts : how many parts of a path, from its end and without the suffix, name an image.
    bare : such names to what is the same in all releases.

    Returns
    -------
    (n,) paths, missing where there is no such file, and for how many images several files would do. Of these the one
    at the official place is taken, else the first by name.
    """
    if not len(there):
        return pd.Series([None] * len(official), index=official.index, dtype="str"), 0
    rest = ~official.isin(set(there))
    if not rest.any():
        return official, 0
    files = pd.Series(list(there), dtype="str")
    keys = _key(files, parts, bare)
    again = keys.duplicated().to_numpy()
    wanted = _key(official[rest], parts, bare)
    elsewhere = wanted.map(files[~again].set_axis(keys[~again])).astype("str")
    found = official.where(~rest).astype("str")
    found[rest] = elsewhere
    return found, int(wanted.isin(set(keys[again])).sum())


def _key(paths: pd.Series, parts: int, bare: Callable[[pd.Series], pd.Series] | None = None) -> pd.Series:
    """The last ``parts`` of each path, without suffix."""
    stems = paths.str.replace(r"(?i)\.(?:png|jpe?g|dcm|dicom|tiff?|bmp)$", "", regex=True)
    names = stems.str.rpartition("/")[2] if parts == 1 else stems.str.split("/").str[-parts:].str.join("/")
    return names if bare is None else bare(names)
