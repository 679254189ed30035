"""A manifest as torchvision's ``ImageFolder``: one folder per split, in it one folder per class.

An image there has one class, so a table of several findings does not fit as it is. The rule: with a finding named, the
class is whether it is present; without, the class is the one finding that a row has, or ``No Finding``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.interop.placement import place
from cxraug.interop.rows import exported_frame
from cxraug.interop.settings import ExportSettings
from cxraug.progress import track
from cxraug.storage import write_json
from cxraug.studies.labels import DEVICES, NO_FINDING
from cxraug.studies.manifest import Manifest

CLASSES = "classes.json"


def write_class_folders(manifest: Manifest, out: Path, settings: ExportSettings) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write ``<split>/<class>/<row>`` under ``out``; returns the exported rows with their paths, and counts.

    ``classes.json`` has the class of each folder. Every class has a folder in every split that is there, so that
    torchvision numbers classes alike in all of them. Masks stay where they are, and are left out of the rows.
    """
    classes, why = row_classes(manifest, finding=settings.finding, leave_out_several=settings.leave_out_several)
    kept = np.array([name is not None for name in classes], bool)
    if not kept.any():
        raise InputError(
            "no row has a class", file=manifest.file, column="labels", expected="a row with a known finding"
        )
    folders = folder_names([name for name in classes if name is not None])
    made = manifest.take(kept)
    splits = made.frame["split"]
    for split in pd.unique(splits):
        for folder in folders.values():
            (out / str(split) / folder).mkdir(parents=True, exist_ok=True)
    work = list(zip(np.flatnonzero(kept).tolist(), made.paths(), splits, strict=True))
    images = [
        str(
            place(path, out / split / folders[str(classes[row])] / f"{row:08d}", copy=settings.copy_images).relative_to(
                out
            )
        )
        for row, path, split in track(work, "exporting images")
    ]
    write_json(out / CLASSES, {folder: name for name, folder in folders.items()})
    frame = exported_frame(made, images, []).drop(columns="mask", errors="ignore")
    counts = {name: int(sum(c == name for c in classes)) for name in folders}
    return frame, {"classes": counts, "left_out": {reason: n for reason, n in why.items() if n}}


def row_classes(
    manifest: Manifest, *, finding: str | None = None, leave_out_several: bool = False
) -> tuple[list[str | None], dict[str, int]]:
    """The class of each row, None where it has none, and how many have none for which reason.

    With ``finding``: ``<finding>`` or ``no <finding>``. Without: the one finding that is present (devices do not
    count), or ``No Finding``.

    Raises
    ------
    InputError : an unknown finding; rows with several findings, unless they are to be left out.
    """
    if finding is not None:
        if finding not in manifest.findings:
            raise InputError("unknown finding", file=manifest.file, column="labels", found=finding,
                             expected=f"one of {', '.join(manifest.findings)}")  # fmt: skip
        y = manifest.y([finding])[:, 0]
        found = [None if np.isnan(v) else finding if v == 1 else f"no {finding}" for v in y]
        return found, {f"not known whether {finding} is present": int(np.isnan(y).sum())}
    names = [name for name in manifest.findings if name != NO_FINDING and name not in DEVICES]
    y = manifest.y(names)
    present = y == 1
    several = present.sum(axis=1) > 1
    if several.any() and not leave_out_several:
        row = int(np.flatnonzero(several)[0])
        raise InputError(
            f"{int(several.sum())} rows have several findings, and a class folder takes an image once",
            file=manifest.file, column="labels",
            found=f"{manifest.frame['labels'].iloc[row]} of {manifest.frame['image'].iloc[row]}",
            expected="--finding NAME for present against absent, --leave-out-several, or another format",
        )  # fmt: skip
    healthy = (y == 0).all(axis=1) & bool(names)
    if NO_FINDING in manifest.findings:
        healthy |= manifest.y([NO_FINDING])[:, 0] == 1
    classes: list[str | None] = []
    for row in range(len(manifest)):
        one = names[int(present[row].argmax())] if present[row].any() and not several[row] else None
        classes.append(one or (NO_FINDING if healthy[row] and not several[row] else None))
    unknown = sum(name is None for name in classes) - int(several.sum())
    return classes, {"several findings": int(several.sum()), "no finding present, and not known to be absent": unknown}


def folder_names(classes: list[str]) -> dict[str, str]:
    """A folder name for every class, sorted: letters, digits, space, ``.``, ``_`` and ``-`` as they are, others ``_``.

    No name begins with a dot, is empty or leads elsewhere; classes that would share one get a number.
    """
    found: dict[str, str] = {}
    for name in sorted(set(classes)):
        base = re.sub(r"[^\w .-]", "_", name, flags=re.ASCII).strip(" .")[:80] or "_"
        folder, number = base, 2
        while folder.lower() in {taken.lower() for taken in found.values()}:
            folder, number = f"{base}_{number}", number + 1
        found[name] = folder
    return found
