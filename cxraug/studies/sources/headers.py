"""Sex, age and view from the headers of DICOM files, for archives whose tables lack them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.progress import track
from cxraug.studies.sources.ages import read_ages
from cxraug.studies.table import Table

_SEXES = {"m": "M", "f": "F"}
_VIEWS = {"pa": "PA", "ap": "AP", "ll": "Lateral", "rl": "Lateral", "lateral": "Lateral"}
ELEMENTS = ("PatientSex", "PatientAge", "ViewPosition")


def fill_from_headers(frame: pd.DataFrame, root: Path | None) -> tuple[dict[str, int], list[str]]:
    """Fill ``sex``, ``age`` and ``view`` of rows that lack them from the files ``image`` below ``root``.

    Only files that end in ``.dcm`` or ``.dicom`` are opened, and of these three elements are read; no other element
    is looked at, and a file that cannot be read leaves its row as it is. Without ``root`` no file is opened. Returns
    counts and notes.
    """
    lacking = frame["sex"].isna() & frame["age"].isna()
    if root is None:
        return {}, (["sex, age and view stand in the DICOM files, and no file was opened"] if lacking.any() else [])
    rows = np.flatnonzero(lacking & frame["image"].str.lower().str.endswith((".dcm", ".dicom")))
    if not len(rows):
        return {}, (["sex and age stand in the DICOM files, and none is there"] if lacking.all() else [])
    found = pd.DataFrame([_read(root / frame["image"].iloc[i]) for i in track(rows, "headers")], columns=list(ELEMENTS))
    text = found.astype("str").apply(lambda c: c.str.strip()).replace("", np.nan)
    known = text["PatientAge"].str.fullmatch(r"(?i)\d{1,3}[DWMY]?", na=False)
    years, counts = read_ages(Table(text.where(known), Path(), np.arange(len(text))), "PatientAge", "PatientAge")
    index = frame.index[rows]
    frame.loc[index, "sex"] = text["PatientSex"].str.lower().map(_SEXES).astype("str").to_numpy()
    frame.loc[index, "age"] = years.to_numpy()
    view = text["ViewPosition"].str.lower().map(_VIEWS).astype("str").set_axis(index)
    unknown = frame.loc[index, "view"] == "unknown"
    frame.loc[index[unknown], "view"] = view[unknown].fillna("unknown")
    if unread := int(found.isna().all(axis=1).sum()):
        counts["DICOM headers without sex, age and view"] = unread
    return counts, [f"sex, age and view of {len(rows):,} images are from their DICOM headers"]


def _read(path: Path) -> list[str | None]:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(ELEMENTS))
        return [str(value) if (value := data.get(name)) is not None else None for name in ELEMENTS]
    except (OSError, InvalidDicomError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError):
        return [None] * len(ELEMENTS)
