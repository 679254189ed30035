"""Which row of a manifest a file name of somebody's annotations means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cxraug.errors import InputError
from cxraug.studies.columns import path_inside
from cxraug.studies.manifest import Manifest


class Names:
    """Rows of a manifest by the path of their image, by its end, by its last part and by that without the suffix."""

    def __init__(self, manifest: Manifest) -> None:
        self.rows: dict[str, int] = {}
        self.ends: dict[str, list[int]] = {}
        self.stems: dict[str, list[int]] = {}
        self.paths = [str(name) for name in manifest.frame["image"]]
        for row, name in enumerate(self.paths):
            path = PurePosixPath(name)
            self.rows[name] = row
            self.ends.setdefault(path.name, []).append(row)
            self.stems.setdefault(path.stem, []).append(row)

    def find(self, name: str, *, file: Path, where: str) -> int | None:
        """The row that ``name`` means, or None.

        The same path first, then the same last part, then that without its suffix (annotations of a DICOM file name a
        PNG). Of several such rows the one whose path has the same folders at its end is meant.

        Raises
        ------
        InputError : a name that leads out of the data folder; one that several rows share.
        """
        inside = path_inside(name, "/data", "/data", root_named=False)
        if inside is None:
            raise InputError(f"{where}: the name leads out of the data folder", file=file, found=name,
                             expected="a path inside it")  # fmt: skip
        if inside in self.rows:
            return self.rows[inside]
        path = PurePosixPath(inside)
        for rows in (self.ends.get(path.name, []), self.stems.get(path.stem, [])):
            if len(rows) > 1:
                wanted = path.with_suffix("").parts
                rows = [row for row in rows if self._parts(row)[-len(wanted) :] == wanted] or rows
            if len(rows) > 1:
                raise InputError(f"{where}: several images have this name", file=file, found=name,
                                 expected=f"one path; {self.paths[rows[0]]} and {self.paths[rows[1]]} fit")  # fmt: skip
            if rows:
                return rows[0]
        return None

    def _parts(self, row: int) -> tuple[str, ...]:
        return PurePosixPath(self.paths[row]).with_suffix("").parts


def match_rows(manifest: Manifest, names: Sequence[str], wheres: Sequence[str], file: Path) -> list[int | None]:
    """The row of each name (n,), None for one that is not in the manifest.

    Raises
    ------
    InputError : see :meth:`Names.find`; two names that mean one image; no name that means any.
    """
    known = Names(manifest)
    rows = [known.find(name, file=file, where=where) for name, where in zip(names, wheres, strict=True)]
    taken: dict[int, str] = {}
    for row, name in zip(rows, names, strict=True):
        if row is None:
            continue
        if row in taken:
            raise InputError("two names mean the same image", file=file, found=f"{taken[row]}, {name}",
                             expected=f"{known.paths[row]} once")  # fmt: skip
        taken[row] = name
    if not taken:
        raise InputError("none of the names is an image of the manifest", file=file, found=names[0] if names else None,
                         expected=f"names such as {known.paths[0]}")  # fmt: skip
    return rows
