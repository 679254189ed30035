"""Any other table: which column holds what, as a mapping that can be kept and replayed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxraug.errors import InputError, first_problem
from cxraug.storage import atomic, parse_yaml
from cxraug.studies import columns
from cxraug.studies.labels import NO_FINDING, PRESENT, format_labels, named_findings, parse_labels
from cxraug.studies.sources.ages import read_ages
from cxraug.studies.sources.contract import Extract, ImportSettings, Source
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.vocabulary import (
    NOTHING,
    OTHER,
    Labelled,
    edited,
    label_columns,
    label_terms,
    mapping_table,
    targets,
)
from cxraug.studies.table import Table, read_table

FIELDS = {
    "image": "path or name of the image file",
    "patient_id": "number of the patient",
    "study_id": "number of the examination",
    "view": "view or projection",
    "sex": "sex",
    "age": "age in years, or as 058Y",
    "race": "race or ethnicity",
    "labels": "findings, several in one cell",
    "report": "report",
    "split": "train, val or test",
}
FILES = {"mask": "path of the mask", "boxes": "boxes as JSON"}  # for --map alone: few tables have them
_LIKELY = {
    "image": ("image", "image_path", "path", "filename", "file", "file_name", "dicom_id", "image_id", "sopinstanceuid"),
    "patient_id": ("patient_id", "patientid", "patient", "subject_id", "pid", "mrn"),
    "study_id": ("study_id", "studyid", "study", "accession", "accession_number", "accessionnumber"),
    "view": ("view", "view_position", "viewposition", "projection"),
    "sex": ("sex", "gender", "patient_sex", "patient_gender", "patientsex"),
    "age": ("age", "patient_age", "age_years", "patientage"),
    "race": ("race", "ethnicity"),
    "labels": ("labels", "label", "findings", "finding", "finding_labels", "diagnosis", "diagnoses"),
    "report": ("report", "text", "report_text", "radiology_report"),
    "split": ("split", "set", "fold", "partition", "subset"),
}
_WORDS = {
    "sexes": ("sex", ("m", "f", "male", "female", "unknown", "")),
    "views": ("view", (*columns.VIEW_OF, "")),
    "splits": ("split", tuple(columns.SPLIT_OF)),
}


class ColumnMap(BaseModel):
    """Which column holds what.

    Attributes
    ----------
    image, patient_id : names of columns; the others may be left out.
    separator : between the findings of one cell of ``labels``.
    label_columns : columns of 1, 0, -1 and blank, each with its finding, in place of ``labels``.
    findings : words of ``labels``, each with its finding, ``(other)`` or ``(nothing)``; a word that is not listed is
        its own finding.
    sexes, views, splits : values of these columns in words of the manifest, where they are others.
    mask, boxes : path of the mask; boxes as a manifest has them.
    keep : further columns to take over, as groups for instance.
    source, licence : for every row.
    """

    model_config = ConfigDict(extra="forbid")
    image: str
    patient_id: str
    study_id: str | None = None
    view: str | None = None
    sex: str | None = None
    age: str | None = None
    race: str | None = None
    labels: str | None = None
    report: str | None = None
    split: str | None = None
    mask: str | None = None
    boxes: str | None = None
    separator: str = Field("|", min_length=1)
    label_columns: dict[str, str] = {}
    findings: dict[str, str] = {}
    sexes: dict[str, str] = {}
    views: dict[str, str] = {}
    splits: dict[str, str] = {}
    keep: list[str] = []
    source: str = ""
    licence: str = ""


class MapSettings(ImportSettings):
    """``columns``: which column holds what."""

    columns: ColumnMap


class CsvSettings(MapSettings):
    """``table``: the file."""

    table: Path


def parse_map(items: Sequence[str]) -> dict[str, Any]:
    """``FILE.yaml`` and ``key=column`` (``label_columns.COLUMN=FINDING``, ``sexes.1=M``) as one mapping."""
    result: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            result.update(_from_file(Path(item)))
            continue
        name, dot, entry = key.strip().partition(".")
        if dot:
            inner = result.setdefault(name, {})
            if not isinstance(inner, dict):
                raise InputError("--map", found=item, expected=f"{name}=COLUMN")
            inner[entry] = value.strip()
        elif not value.strip() and name not in ("separator", "source", "licence"):
            raise InputError("--map: no column is named", found=item, expected=f"{name}=COLUMN")
        elif name == "keep":
            result[name] = [part.strip() for part in value.split(",") if part.strip()]
        else:
            result[name] = value if name == "separator" else value.strip()
    return result


def _from_file(path: Path) -> dict[str, Any]:
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("--map is neither KEY=COLUMN nor a file that is there", found=str(path)) from None
    except (ValueError, OSError) as error:
        raise InputError(f"not readable as YAML ({error})", file=path) from None
    if not isinstance(value, dict):
        raise InputError("not a mapping of columns", file=path, expected="lines such as 'image: FileName'")
    return {key: _words_as_text(part, path, key) if isinstance(part, dict) else part for key, part in value.items()}


def _words_as_text(part: dict[Any, Any], path: Path, key: str) -> dict[str, Any]:
    """YAML reads a bare 1 as a number, which is that word, and a bare ``no`` as false, which may be one of six."""
    for word in part:
        if type(word) not in (str, int):
            raise InputError("a word that YAML takes for something else", file=path, column=key, found=word,
                             expected="the word in quotes")  # fmt: skip
    return {str(word): value for word, value in part.items()}


def column_map(values: Mapping[str, Any]) -> ColumnMap:
    """The checked mapping; raises :class:`InputError` with the first key that is wrong."""
    try:
        return ColumnMap.model_validate(dict(values))
    except ValidationError as error:
        key, message = first_problem(error)
        raise InputError(f"--map, {key}: {message}", expected="keys: " + ", ".join(ColumnMap.model_fields)) from None


def write_map(columns_: ColumnMap, path: Path) -> None:
    """Keep a mapping as YAML that ``--map`` reads."""
    kept = columns_.model_dump(exclude_defaults=True)
    with atomic(path) as temporary:
        temporary.write_text(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True), encoding="utf-8")


def guess_map(table: Table) -> dict[str, Any]:
    """A first guess by the names of the columns: for every field the column of a usual name, if there is one."""
    have = {_plain(str(c)): str(c) for c in table.frame.columns}
    guess: dict[str, Any] = {}
    for field, likely in _LIKELY.items():
        hit = next((have[_plain(name)] for name in likely if _plain(name) in have), None)
        near = difflib.get_close_matches(_plain(likely[0]), list(have), 1, 0.85)
        if hit or near:
            guess[field] = hit or have[near[0]]
    if "labels" not in guess:
        found = columns.find_label_columns(table.with_frame(table.frame.drop(columns=list(guess.values()))))
        guess["label_columns"] = {name: name for name in found}
    return guess


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def read(folder: Folder, settings: CsvSettings) -> Extract:
    """One row per image of any table."""
    table = read_table(settings.table, unnamed=True)
    if not len(table.frame):
        raise InputError("a header and no rows", file=settings.table, expected="one row per image")
    return mapped_rows(table, folder.root, settings)


def mapped_rows(table: Table, root: Path, settings: MapSettings) -> Extract:
    """The rows of a table by its map, each value checked; messages name the table's own columns."""
    asked = settings.columns
    wanted = {field: name for field in (*FIELDS, *FILES) if (name := getattr(asked, field)) is not None}
    _refuse_unknown(table, [*wanted.values(), *asked.label_columns, *asked.keep])
    _refuse_taken(asked)
    _refuse_words(asked)
    _refuse_findings(asked)
    text = {field: table.text(name) for field, name in wanted.items()}
    for field, values in (("sex", asked.sexes), ("view", asked.views), ("split", asked.splits)):
        if field in text and values:
            text[field] = text[field].map(lambda v, known=values: known.get(v, v) or None, na_action="ignore")
    plain = replace(table, frame=pd.DataFrame({field: text[field].astype("str") for field in wanted}), called=wanted)
    frame = pd.DataFrame({name: columns.required_text(plain, name) for name in ("image", "patient_id")})
    frame["image"] = columns.image_paths(plain, "image", root, root_named=True)
    empty = pd.Series(np.nan, index=frame.index, dtype="str")
    frame["study_id"] = (columns.name(plain, "study_id") if "study_id" in text else empty).fillna(frame["image"])
    frame["view"] = _said(columns.view, plain, "views", "PA") if "view" in text else "unknown"
    frame["sex"] = _said(columns.sex, plain, "sexes", "M") if "sex" in text else empty
    frame["age"], counts = read_ages(plain, "age", "age") if "age" in text else (np.nan, {})
    labelled = _labels(table, plain, settings)
    frame["labels"] = labelled.labels
    for field in ("race", "report"):
        if field in text:
            frame[field] = text[field]
    if "mask" in text:
        frame["mask"] = columns.image_paths(plain, "mask", root, root_named=True)
        lost = frame["mask"].notna() & ~frame["mask"].map(lambda name: (root / str(name)).is_file())
        if lost.any() and not settings.table_only:
            frame["mask"] = frame["mask"].where(~lost)
            counts["masks that are not there, left out"] = int(lost.sum())
    if "boxes" in text:
        frame["boxes"] = columns.boxes(plain)
    for name in asked.keep:
        frame[name] = table.text(name)
    split = None
    if "split" in text and settings.split != "patients" and text["split"].notna().any():
        split = _said(lambda t: columns.split(t, frame["patient_id"], None, (0.7, 0.1, 0.2)), plain, "splits", "train")
    parts = 99 if frame["image"].str.contains("/").any() else 1  # bare names may lie in any folder
    notes = [] if asked.labels or asked.label_columns else [_no_labels(table, wanted)]
    notes += _idle(table, asked, wanted)
    return Extract(plain.with_frame(frame), labelled.vocabulary, labelled.annotated, split, "column that --map split "
                   "names", parts, {**counts, **labelled.counts}, notes, files=[table.file])  # fmt: skip


def _said(check: Callable[[Table], pd.Series], table: Table, key: str, word: str) -> pd.Series:
    """A checked column; where a value is refused the message says how ``--map`` tells what it means."""
    try:
        return check(table)
    except InputError as error:
        if not str(error.found).strip() or error.found == "nothing" or "unknown" not in str(error):
            raise
        raise InputError(f"{error}, or --map {key}.{error.found}={word}") from None


def _idle(table: Table, asked: ColumnMap, wanted: Mapping[str, str]) -> list[str]:
    """Notes on words of the map that no row has: a word that was spelt otherwise would be lost silently."""
    notes = []
    for key, (field, _) in _WORDS.items():
        if words := getattr(asked, key):
            there = set(table.text(wanted[field]).dropna())
            notes += [f"--map {key}.{word}: no row has this value" for word in words if word not in there]
    if asked.labels is not None and asked.findings:
        there = {word for cell in table.text(wanted["labels"]).dropna().unique() for word in _words(cell, asked)}
        notes += [f"--map findings.{word}: no row has this word" for word in asked.findings if word not in there]
    return notes


def _no_labels(table: Table, wanted: Mapping[str, str]) -> str:
    """What to say of a map without labels."""
    rest = table.frame.drop(columns=list(wanted.values()), errors="ignore")
    found = columns.find_label_columns(table.with_frame(rest))
    likely = f"; these columns look like findings: {', '.join(found)}" if found else ""
    return f"no labels: --map labels=COLUMN, or --map label_columns.COLUMN=FINDING{likely}"


def _refuse_taken(asked: ColumnMap) -> None:
    """Refuse to keep a column under a name that has a meaning of its own in a manifest, or twice."""
    fields = {*FIELDS, *FILES}
    for at, name in enumerate(asked.keep):
        if name in {*fields, "source", "license", "synthetic"}:
            raise InputError("--map keep: this name has a meaning of its own in a manifest", found=name,
                             expected=f"--map {name}=COLUMN" if name in fields else "another column")  # fmt: skip
        if name in asked.keep[:at]:
            raise InputError("--map keep: the same column twice", found=name, expected="each column once")


def _refuse_words(asked: ColumnMap) -> None:
    """Refuse a word that values are to become and that a manifest does not know, and words for no column."""
    for key, (field, known) in _WORDS.items():
        words = getattr(asked, key)
        if words and getattr(asked, field) is None:
            raise InputError(f"--map {key}: no column is named for it", expected=f"--map {field}=COLUMN")
        for value, word in words.items():
            if " ".join(word.lower().replace("_", " ").split()) not in known:
                raise InputError(f"--map {key}.{value}: not a {field} of a manifest", found=word,
                                 expected="one of " + ", ".join(w or "blank" for w in known))  # fmt: skip


def _refuse_findings(asked: ColumnMap) -> None:
    """Refuse a finding of the map that labels cannot hold, and labels named in two ways."""
    if asked.labels is not None and asked.label_columns:
        raise InputError("--map: labels and label_columns", found=asked.labels, expected="one of the two")
    for key in ("label_columns", "findings"):
        for word, finding in getattr(asked, key).items():
            names = targets(finding)
            if (problem := next((p for name in names if (p := _unwritable(name))), None)) is not None:
                raise InputError(f"--map {key}.{word}: {problem}", found=finding,
                                 expected=f"findings (A|B), {OTHER} or {NOTHING}")  # fmt: skip


def _unwritable(finding: str) -> str | None:
    """Why a finding cannot stand in labels, or None."""
    try:
        format_labels({finding: PRESENT})
    except ValueError as error:
        return str(error)
    return None


def _words(cell: str, asked: ColumnMap) -> list[str]:
    return [word for part in cell.split(asked.separator) if (word := part.strip())]


def _refuse_unknown(table: Table, names: Sequence[str]) -> None:
    have = [str(c) for c in table.frame.columns]
    for name in names:
        if name not in have:
            near = difflib.get_close_matches(name, have, 1, 0.6)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError("missing column", file=table.file, row=1, column=name, found=", ".join(have),
                             expected="the columns that --map names" + hint)  # fmt: skip


def _labels(table: Table, plain: Table, settings: MapSettings) -> Labelled:
    """Labels from one column of words, from one column per finding, or none."""
    asked = settings.columns
    if asked.label_columns:
        given = table.with_frame(pd.DataFrame({c: table.text(c) for c in asked.label_columns}))
        return label_columns(given, edited(asked.label_columns, settings.mapping), {c: c for c in asked.label_columns})
    if asked.labels is None:
        none = pd.Series(np.nan, index=table.frame.index, dtype="str")
        return Labelled(none, mapping_table({}, {}), (), {})
    if asked.separator == "|" and not asked.findings and settings.mapping is None:
        text = columns.labels(plain)  # the manifest's own grammar, signs and all
        names = sorted(named_findings(text))
        seen = dict.fromkeys(names, 0)
        for value, rows in text.value_counts().items():
            for name, state in parse_labels(str(value)).items():
                seen[name] += int(rows) * (state == PRESENT)
        return Labelled(text, mapping_table({n: n for n in names}, seen), tuple(names), {})

    def words(cell: str) -> list[str]:
        return _words(cell, asked)

    terms = {w for cell in plain.frame["labels"].dropna().unique() for w in words(str(cell))}
    known = edited(asked.findings, settings.mapping)
    for term in sorted(terms - set(known)):
        if any(map(_unwritable, targets(term))):
            has = plain.frame["labels"].map(lambda cell, t=term: t in words(cell), na_action="ignore").eq(True)
            plain.refuse(has, "labels", f"the word {term!r} cannot be a finding",
                         expected=f"--map findings.{term}=FINDING, which says what it means")  # fmt: skip
    labels = {**{w: NO_FINDING if w.lower() == NO_FINDING.lower() else w for w in sorted(terms)}, **known}
    return label_terms(plain, "labels", "labels", labels, closed=True, split=words)


SOURCE = Source(
    key="csv",
    name="",
    title="a table of your own",
    licence="",
    card="",
    layout={"TABLE": "one row per image"},
    labels={},
    closed=False,
    read=read,
    settings=CsvSettings,
)


def csv_source(columns_: ColumnMap) -> Source:
    """The source for one mapping: what it is called and its licence are the mapping's."""
    return replace(SOURCE, name=columns_.source, licence=columns_.licence)
