"""What each column of a manifest may hold: one function per column, from text to clean values or a refusal."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.studies.labels import ABSENT, PRESENT, UNCERTAIN, contradicts, format_labels, parse_labels
from cxraug.studies.splits import SPLITS, split_by_patient
from cxraug.studies.table import Table

MAX_AGE = 120

_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
_SEX_UNKNOWN = ("u", "o", "x", "unk", "unknown", "other", "not reported")
_VIEWS = {
    "PA": ("pa", "postero-anterior", "posteroanterior", "posterior-anterior"),
    "AP": ("ap", "antero-posterior", "anteroposterior", "anterior-posterior", "ap erect"),
    "AP Supine": ("ap supine", "supine", "ap horizontal"),
    "Lateral": ("lateral", "l", "ll", "rl", "lat", "left lateral", "right lateral"),
    "unknown": ("unknown", "unk", "u", "other", "frontal", "oblique", "decubitus"),
}
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
VIEW_OF = {alias: view for view, aliases in _VIEWS.items() for alias in aliases}
SPLIT_OF = {alias: split for split, aliases in _SPLITS.items() for alias in aliases}
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_FAR = 1e6  # pixels; also keeps out infinity and NaN
_LABEL_VALUES = {"1": PRESENT, "0": ABSENT, "-1": UNCERTAIN}
_MANY = 24  # a label column has at most its four values, each in a few spellings (1, 1.0, blank, NA)
# Columns with a meaning of their own are no findings, whatever they hold.
_NO_FINDINGS = {
    "image", "patient_id", "study_id", "view", "sex", "age", "race", "labels", "report", "mask", "boxes", "split",
    "source", "license", "synthetic", "prompt_id", "core", "core_sha256", "seed", "gate", "gate_reasons", "arm", "draw",
}  # fmt: skip
# A path to look at closely: absolute, empty, "." or ".." parts, backslashes, a drive, a URL, control characters.
_ODD_PATH = r"(?:^|/)\.{0,2}(?:/|$)|\\|^[A-Za-z][A-Za-z0-9+.\-]*:|[\x00-\x1f]"


def required_text(table: Table, column: str) -> pd.Series:
    """A column without missing values, as text."""
    values = table.text(column)
    table.refuse(values.isna(), column, "blank", expected=f"a value of {table.called.get(column, column)} in every row")
    table.refuse_formulas(values, column)
    return values


def name(table: Table, column: str) -> pd.Series:
    """A column of names or ids, as text; missing where blank."""
    values = table.text(column)
    table.refuse_formulas(values, column)
    return values


def image_paths(table: Table, column: str, root: Path, *, root_named: bool) -> pd.Series:
    """Paths relative to ``root``, with ``/``, without ``.`` and ``..``; missing where blank.

    A path that leads out of ``root`` is refused, by its text alone (links are followed when the image is read). With a
    named root a path may be absolute or lead out of the manifest's folder, as long as it ends inside the root.
    """
    values = table.text(column)
    odd = values.str.contains(_ODD_PATH, regex=True, na=False)
    if not odd.any():
        return values
    folder = os.path.abspath(table.file.parent)
    inside = {v: path_inside(v, os.path.abspath(root), folder, root_named=root_named) for v in pd.unique(values[odd])}
    cleaned = values[odd].map(inside)
    outside = pd.Series(False, index=values.index)
    outside[cleaned.index[cleaned.isna()]] = True
    hint = "" if root_named else ", or the folder that holds it named by data.root (recipe) or --root (command)"
    table.refuse(
        outside, column, "path leads out of the data folder", expected=f"a path inside {root}{hint}", found=values
    )
    return values.where(~odd, cleaned.reindex(values.index))


def path_inside(value: str, root: str, folder: str, *, root_named: bool) -> str | None:
    """``value`` relative to the absolute path ``root``, or None where it leads out of it or is no path of a file.

    With a named root a path may also be absolute or start from ``folder``, as long as it ends inside the root.
    """
    path = value.replace("\\", "/")
    if re.search(r"[\x00-\x1f]|^[A-Za-z][A-Za-z0-9+.\-]*:", path):
        return None
    starts = [root, folder] if root_named else [root]
    if path.startswith("/") and not root_named:
        return None
    for start in starts:
        full = posixpath.normpath(posixpath.join(start, path))
        if full.startswith(root.rstrip("/") + "/"):
            return posixpath.relpath(full, root)
    return None


def refuse_repeated(table: Table, images: pd.Series) -> None:
    """Refuse a path that stands in two rows (:class:`InputError` names both)."""
    repeated = images.duplicated().to_numpy()
    if repeated.any():
        second = int(repeated.argmax())
        first = int((images == images.iloc[second]).to_numpy().argmax())
        table.refuse(
            repeated,
            "image",
            "the same image path twice",
            expected=f"each image once; it is also in {_place(table, first, second)}",
            found=images,
        )


def sex(table: Table) -> pd.Series:
    """``M``, ``F`` or missing (blank, U, O, unknown)."""
    values = table.text("sex")
    lower = values.str.lower()
    clean = lower.map(_SEXES).astype("str")
    bad = values.notna() & clean.isna() & ~lower.isin(_SEX_UNKNOWN)
    table.refuse(bad, "sex", "unknown sex", expected="M, F, male, female, or blank where it is not known")
    return clean.where(clean.notna())


def age(table: Table) -> pd.Series:
    """Age in years, float64, NaN where missing."""
    values = table.text("age")
    years = pd.to_numeric(values, errors="coerce").astype("float64")
    expected = f"years as a number from 0 to {MAX_AGE}, or blank"
    bad = values.notna() & years.isna()
    dicom = values[bad].str.fullmatch(r"\d{3}[DWMYdwmy]", na=False)
    if len(dicom) and dicom.iloc[0]:
        expected += " (a DICOM age string such as 060Y is written 60)"
    table.refuse(bad, "age", "age is not a number", expected=expected)
    table.refuse(values.notna() & ~years.between(0, MAX_AGE), "age", "impossible age", expected=expected)
    return years


def view(table: Table) -> pd.Series:
    """``PA``, ``AP``, ``AP Supine``, ``Lateral`` or ``unknown`` (also where missing)."""
    values = table.text("view")
    key = values.str.lower().str.replace(r"[_\s]+", " ", regex=True)
    clean = key.map(VIEW_OF).astype("str")
    bad = values.notna() & clean.isna()
    table.refuse(bad, "view", "unknown view", expected=f"one of {', '.join(_VIEWS)} (or L, LL, blank)")
    return clean.fillna("unknown")


def strange_values(values: pd.Series, column: str) -> list[str]:
    """Values that ``sex``, ``view`` or ``split`` would refuse, in the order in which they occur."""
    lower = values.str.lower()
    key = lower.str.replace(r"[_\s]+", " ", regex=True) if column == "view" else lower
    known = {"sex": [*_SEXES, *_SEX_UNKNOWN], "view": VIEW_OF, "split": SPLIT_OF}[column]
    return [str(v) for v in values[values.notna() & ~key.isin(list(known))].unique()]


def synthetic(table: Table) -> pd.Series:
    """Whether a row is synthetic; blank is False."""
    values: pd.Series = table.text("synthetic").str.lower()
    clean = values.map(BOOLEANS)
    table.refuse(values.notna() & clean.isna(), "synthetic", "neither true nor false", expected="True, False or blank")
    return pd.Series(clean.eq(True).to_numpy(bool), index=values.index)


def split(table: Table, patients: pd.Series, is_synthetic: pd.Series | None, fractions: Sequence[float]) -> pd.Series:
    """``train``, ``val`` or ``test`` per row; where the file does not say so, it follows from the patient.

    A synthetic row outside train and a patient in two splits are refused.
    """
    given = table.text("split") if "split" in table.frame else None
    if given is not None and given.notna().any():
        clean = given.str.lower().map(SPLIT_OF).astype("str")
        table.refuse(clean.isna(), "split", "unknown split", expected=f"one of {', '.join(SPLITS)} in every row")
    else:
        clean = split_by_patient(patients, fractions)
        if is_synthetic is not None:
            clean = clean.where(~is_synthetic, "train")
    if is_synthetic is not None:
        table.refuse(
            is_synthetic & (clean != "train"), "split", "a synthetic row outside train", expected="train", found=clean
        )
    refuse_torn_patients(table, patients, clean)
    return clean


def refuse_torn_patients(table: Table, patients: pd.Series, splits: pd.Series) -> None:
    """Refuse a patient whose rows stand in two splits (:class:`InputError` names patient, splits and both rows)."""
    codes, _ = pd.factorize(patients)
    first_row = np.full(codes.max(initial=-1) + 1, len(codes))
    np.minimum.at(first_row, codes, np.arange(len(codes)))
    split_codes, _ = pd.factorize(splits)
    torn = split_codes != split_codes[first_row[codes]]
    if not torn.any():
        return
    row = int(torn.argmax())
    first = int(first_row[codes[row]])
    n = len(np.unique(codes[torn]))
    raise InputError(
        f"patient {patients.iloc[row]!r} in two splits: {splits.iloc[first]} in {_place(table, first, row)}"
        + (f" (and {n - 1} more patients)" if n > 1 else ""),
        file=table.file_of(row),
        row=int(table.rows[row]),
        column=table.called.get("split", "split"),
        found=splits.iloc[row],
        expected="all images of a patient in one split",
    )


def _place(table: Table, row: int, other: int) -> str:
    """The row in words, with its file where that is not the file of the ``other`` row."""
    file = table.file_of(row)
    return f"row {table.rows[row]}" + ("" if file == table.file_of(other) else f" of {file}")


def boxes(table: Table) -> pd.Series:
    """Boxes as JSON text, checked; missing where blank."""
    values = table.text("boxes")
    codes, texts = pd.factorize(values)
    problems = [_box_problem(str(text)) for text in texts]
    if any(problems):
        bad = np.array([*(p is not None for p in problems), False])[codes]
        problem = next(p for p in (problems[c] if c >= 0 else None for c in codes) if p)
        table.refuse(
            bad, "boxes", problem, expected="a JSON list of {label,x,y,w,h} in pixels of the image", found=values
        )
    return values


def _box_problem(text: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "boxes are not JSON"
    if not isinstance(value, list):
        return "boxes are not a list"
    for box in value:
        if not isinstance(box, dict) or not isinstance(box.get("label"), str):
            return "a box without a label"
        sides = [box.get(side) for side in "xywh"]
        numbers = [s for s in sides if isinstance(s, (int, float)) and not isinstance(s, bool) and abs(s) < _FAR]
        if len(numbers) < len(sides):
            return "a box without the numbers x, y, w, h"
        if numbers[2] < 0 or numbers[3] < 0:
            return "a box of negative size"
    return None


def labels(table: Table) -> pd.Series:
    """Label text, checked against the grammar; missing where blank."""
    values = table.text("labels")
    codes, texts = pd.factorize(values)
    problems = [_label_problem(str(text)) for text in texts]
    if any(problems):
        bad = np.array([*(p is not None for p in problems), False])[codes]
        problem = next(p for p in (problems[c] if c >= 0 else None for c in codes) if p)
        expected = "A|-B|?C (A present, B absent, C uncertain), or blank where nothing is known"
        table.refuse(bad, "labels", problem, expected=expected, found=values)
    return values


def _label_problem(text: str) -> str | None:
    try:
        parsed = parse_labels(text)
    except ValueError as error:
        return str(error)
    other = contradicts(parsed)
    return None if other is None else f"'No Finding' together with {other!r}"


def find_label_columns(table: Table) -> list[str]:
    """The columns that hold only 1, 0, -1 and blank (and not blanks alone), and have no other meaning in a manifest."""
    found = []
    for name in map(str, table.frame.columns):
        distinct = table.frame[[name]].drop_duplicates()
        if name.lower() in _NO_FINDINGS or name.startswith("_") or len(distinct) > _MANY:
            continue
        values = _label_text(Table(distinct, table.file, table.rows), name).dropna()
        if len(values) and values.isin(list(_LABEL_VALUES)).all():
            found.append(name)
    return found


def refuse_unread_labels(table: Table) -> None:
    """Refuse a table without ``labels`` whose columns look like findings: their labels would be lost silently."""
    found = find_label_columns(table)
    if found:
        named = ", ".join(found)
        raise InputError(
            f"no column 'labels', but columns that look like findings: {named}",
            file=table.file,
            row=1,
            expected="--label-columns with their names, auto (all of these) or none "
            "(in a recipe data.label_columns with their names, or [])",
        )


def _label_text(table: Table, column: str) -> pd.Series:
    """A label column as text in which whole numbers have no ``.0``."""
    return table.text(column).str.replace(r"\.0+$", "", regex=True)


def labels_from_columns(table: Table, columns: Mapping[str, str]) -> pd.Series:
    """Label text from one 1/0/-1/blank column per finding (CheXpert, MIMIC); missing where all of them are blank."""
    findings = list(columns.values())
    for column, finding in columns.items():
        try:
            format_labels({finding: PRESENT})
        except ValueError as error:
            raise InputError(str(error), file=table.file, column=column, found=finding) from None
        if findings.count(finding) > 1:
            raise InputError("two label columns name the same finding", file=table.file, column=column, found=finding)
        if column not in table.frame:
            raise InputError(
                "no such label column",
                file=table.file,
                column=column,
                expected="one of " + ", ".join(map(str, table.frame.columns)),
            )
    blank = 2
    coded = np.full((len(table.frame), len(columns)), blank, np.int8)
    for at, column in enumerate(columns):
        text = _label_text(table, column)
        values = text.map(_LABEL_VALUES)
        table.refuse(text.notna() & values.isna(), column, "not a label", expected="1, 0, -1 (uncertain) or blank")
        coded[:, at] = values.fillna(blank)
    if not len(coded):
        return pd.Series(np.nan, index=table.frame.index, dtype="str")
    patterns, inverse = np.unique(coded, axis=0, return_inverse=True)
    texts: list[str | None] = []
    for number, pattern in enumerate(patterns):
        named = {f: int(v) for f, v in zip(findings, pattern, strict=True) if v != blank}
        other = contradicts(named)
        if other is not None:
            culprit = next(c for c, f in columns.items() if f == other)
            table.refuse(
                inverse.ravel() == number,
                culprit,
                "'No Finding' together with a present finding",
                expected="one or the other",
            )
        texts.append(format_labels(named) or None)
    return pd.Series(np.array(texts, object)[inverse.ravel()], index=table.frame.index, dtype="str")
