"""Contact sheets of synthetic images, by finding and group; a real image is refused.

What is shown was generated and is marked so in its manifest. Images that the gate found too close to a real patient are
never shown: such an image is as good as the real one.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from cxraug.errors import InputError
from cxraug.studies.images import read_pixels

SIDE = 128  # pixels of the longer edge
PER_CELL = 4
MAX_BYTES = 2_500_000  # of one sheet's PNG data, before base64
PATIENT_PREFIX = "syn-"
COPY_WORDS = ("duplicate", "copy", "copies", "near", "memor")  # in reasons: what is shown must be nobody's image


def refuse_real(rows: pd.DataFrame, file: Path) -> None:
    """Raise :class:`InputError` unless every row is marked as synthetic: ``synthetic=True`` and a ``syn-`` patient."""
    marked = rows["synthetic"].map(_is_true) if "synthetic" in rows else pd.Series(False, index=rows.index)
    named = (
        rows["patient_id"].astype("str").str.startswith(PATIENT_PREFIX)
        if "patient_id" in rows
        else pd.Series(True, index=rows.index)
    )
    bad = rows.index[~(marked & named)]
    if len(bad):
        position = rows.index.get_loc(bad[0])
        raise InputError(
            "a row that is not marked as synthetic; reports show no real image",
            file=file,
            row=int(position) + 2 if isinstance(position, int) else None,
            column="synthetic" if not marked.loc[bad[0]] else "patient_id",
            expected=f"synthetic=True and a patient_id that starts with {PATIENT_PREFIX}",
        )


def is_copy(rows: pd.DataFrame) -> pd.Series:
    """Which rejected rows must not be shown: rejected as a copy of any image, or for no stated reason."""
    reasons = rows["gate_reasons"].fillna("").astype("str").str.lower()
    copy = reasons.map(lambda text: not text or any(word in text for word in COPY_WORDS)).astype(bool)
    if "prompt_id" in rows:  # the other view of a copied study is as close to the patient
        copy = copy | rows["prompt_id"].isin(rows["prompt_id"][copy])
    return copy


def read_synthetic(folder: Path, name: str) -> np.ndarray:
    """Read the synthetic image ``name`` of the generated set ``folder`` as uint8 greys (H, W), longer edge <= 128.

    Raises :class:`InputError` for a path that leads out of the set (a real image could lie there) or a broken file.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError("an image outside its generated set", file=folder / "manifest.parquet", found=name)
    pixels = read_pixels(path)
    if pixels.dtype != np.uint8:
        raise InputError("not an image of 8 bits", file=path)
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)


def data_uri(pixels: np.ndarray) -> str:
    """``pixels`` (H, W) uint8 as a greyscale PNG data URI."""
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise ValueError(f"expected uint8 (H, W), found {pixels.dtype} {pixels.shape}")
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def sheet(folder: Path, rows: pd.DataFrame, *, budget: int = MAX_BYTES, extra: str = "") -> Markup:
    """The images of ``rows`` side by side, each captioned with its prompt (findings, sex, age).

    Parameters
    ----------
    folder : the generated set; image paths are relative to it.
    rows : rows of its manifest; every one must be synthetic (:class:`InputError` otherwise).
    budget : bytes of image data to embed (base64); what goes beyond is left out and said.
    extra : a column whose text is added to each caption, e.g. the reasons of the gate.
    """
    refuse_real(rows, folder / "manifest.parquet")
    items, left = [], budget
    for row in rows.to_dict("records"):
        uri = data_uri(read_synthetic(folder, str(row["image"])))
        left -= len(uri)
        if left < 0:
            break
        lines = [_findings(row), _person(row), _text(row.get(extra)) if extra else ""]
        caption = Markup("<br>").join(line for line in lines if line)
        items.append(
            Markup('<li><img src="{}" alt="Synthetic chest X-ray: {}" loading="lazy">{}</li>').format(
                uri, prompt_text(row), caption
            )
        )
    rest = len(rows) - len(items)
    told = Markup("<p><small>{} more are left out to keep this file small.</small></p>\n").format(rest) if rest else ""
    return Markup('<ul class="sheet">{}</ul>\n{}').format(Markup("").join(items), told)


def choose(
    rows: pd.DataFrame, findings: Sequence[str], groups: Sequence[str], *, per_cell: int = PER_CELL
) -> list[tuple[str, list[tuple[str, pd.DataFrame]]]]:
    """The first ``per_cell`` rows of every finding and group level, in the order generated (not the prettiest).

    Returns (finding, [(level text, rows), ...]) for those that have any; an image appears once, under the first finding
    that it has in ``findings``, so that a sheet does not show the same image twice.
    """
    present = rows["labels"].map(_present)
    used: set[object] = set()
    result = []
    for finding in findings:
        mine = rows[present.map(lambda names, f=finding: f in names)]
        level = _levels(mine, groups)
        parts = []
        for name in sorted(level.unique()):
            part = mine[(level == name) & ~mine.index.isin(used)].head(per_cell)
            if len(part):
                used.update(part.index)
                parts.append((name, part))
        if parts:
            result.append((finding, parts))
    return result


def prompt_text(row: Mapping[Any, Any]) -> str:
    """The prompt behind an image in words, e.g. ``Effusion, Edema · F, 64 years``."""
    return " · ".join(p for p in (_findings(row), _person(row)) if p)


def _findings(row: Mapping[Any, Any]) -> str:
    return ", ".join(_present(row.get("labels"))) or _text(row.get("labels")) or "no label"


def _person(row: Mapping[Any, Any]) -> str:
    age = row.get("age")
    years = f"{age:.0f} years" if isinstance(age, (int, float)) and age == age else ""
    return ", ".join(p for p in (_text(row.get("sex")), years) if p)


def _present(labels: object) -> list[str]:
    """Names of the findings that a label string says are present; lenient, for captions only."""
    return [p.strip() for p in _text(labels).split("|") if p.strip() and not p.strip().startswith(("-", "?"))]


def _levels(rows: pd.DataFrame, groups: Sequence[str]) -> pd.Series:
    known = [g for g in groups if g in rows and g != "age"]
    if not known or rows.empty:
        return pd.Series("all", index=rows.index)
    return rows[known].map(lambda v: _text(v) or "missing").agg(" · ".join, axis=1).astype("str")


def _text(value: object) -> str:
    return "" if value is None or value != value or value is pd.NA else str(value)


def _is_true(value: object) -> bool:
    return (isinstance(value, (bool, np.bool_)) and bool(value)) or str(value) == "True"
