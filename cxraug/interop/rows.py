"""Rows of a manifest as records that other formats can hold, and records as rows again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.storage import plain
from cxraug.studies.manifest import ROOT, Manifest

ORIGINAL = "original_image"  # the path that an exported image had in its manifest
Y = "y_"  # in front of a finding: 1 present, 0 absent, blank unknown


def exported_frame(manifest: Manifest, images: Sequence[str], masks: Sequence[str | None]) -> pd.DataFrame:
    """The manifest's rows with the paths (n,) that images and masks have in an export.

    The path before stands in ``original_image``, where it does not already (of an export of an export).
    """
    frame = manifest.frame.drop(columns=ROOT, errors="ignore")
    if ORIGINAL not in frame:
        frame = frame.assign(**{ORIGINAL: frame["image"]})
    frame = frame.assign(image=pd.Series(images, dtype="str"))
    if "mask" in frame:
        frame = frame.assign(mask=pd.Series(masks, dtype="str"))
    return frame


def finding_columns(manifest: Manifest) -> pd.DataFrame:
    """``y_<finding>`` as float64: 1 present, 0 absent, NaN uncertain or unknown, as labels are read everywhere."""
    y = manifest.y().astype(float)
    return pd.DataFrame(y, columns=[f"{Y}{finding}" for finding in manifest.findings])


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One JSON-ready dictionary per row, without what is missing; ``boxes`` as a list."""
    columns = {str(name): frame[name].tolist() for name in frame.columns}
    found = []
    for values in zip(*columns.values(), strict=True):
        row = {name: _plain(value) for name, value in zip(columns, values, strict=True) if not _missing(value)}
        if isinstance(row.get("boxes"), str):
            row["boxes"] = json.loads(row["boxes"])
        found.append(row)
    return found


def frame_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows from records: the inverse of :func:`records` as far as :func:`read_manifest` looks at them."""
    made = []
    for row in rows:
        kept = {str(name): value for name, value in row.items() if not str(name).startswith(Y)}
        if isinstance(kept.get("boxes"), list):
            kept["boxes"] = json.dumps(kept["boxes"])
        made.append(kept)
    return pd.DataFrame(made)


def refuse_columns(manifest: Manifest, taken: Iterable[str], why: str) -> None:
    """Raise :class:`InputError` for a column whose name means something else in the format."""
    names = [str(name) for name in manifest.frame.columns]
    reserved = set(taken)
    for name in names:
        if name in reserved or name.startswith(Y):
            raise InputError(f"this name of a column means something else in {why}", file=manifest.file, column=name,
                             expected="another name")  # fmt: skip


def _missing(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and bool(np.isnan(value)))


def _plain(value: Any) -> Any:
    value = plain(value)
    return value if isinstance(value, (str, int, float, bool)) else str(value)
