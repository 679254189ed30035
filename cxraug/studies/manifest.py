"""The manifest: one row per image, read with every check, and everything that is asked of it later."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from cxraug.errors import InputError
from cxraug.storage import atomic
from cxraug.studies import columns
from cxraug.studies.labels import label_matrix, named_findings
from cxraug.studies.selection import select_rows
from cxraug.studies.table import CSV_SUFFIXES, METADATA_KEY, PARQUET_SUFFIXES, Table, read_table

REQUIRED = ("image", "patient_id")
LabelColumns = Mapping[str, str] | Sequence[str] | Literal["auto"]
ROOT = "_root"  # hidden column: the data folder of each row, where rows come from several


@dataclass(frozen=True, eq=False)
class Manifest:
    """A checked manifest.

    Attributes
    ----------
    frame : one row per image, RangeIndex. Always has ``image`` (path relative to ``root``), ``patient_id``,
        ``study_id`` (the image where the file has none), ``view`` ("unknown" when missing), ``sex`` ("M", "F", NaN),
        ``age`` (years, float64), ``labels`` (text in the label grammar, NaN), ``source`` ("" when absent), ``split``
        ("train", "val", "test"). ``synthetic`` is boolean where there is one. Other columns are as in the file (text,
        if it is a CSV).
    root : the data folder that image and mask paths start from.
    file : where it was read from.
    findings : names of the findings in play, sorted; ``No Finding`` is among them if it occurs.
    annotated : for each source the findings that it annotates.
    label_columns : the columns that the labels were read from, each with its finding; empty where it was ``labels``.
    """

    frame: pd.DataFrame
    root: Path
    file: Path | None
    findings: tuple[str, ...]
    annotated: dict[str, tuple[str, ...]]
    label_columns: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    def y(self, findings: Sequence[str] | None = None) -> np.ndarray:
        """Labels as float32 of shape (n, F): 1 present, 0 absent, NaN unknown (see :func:`label_matrix`)."""
        wanted = self.findings if findings is None else findings
        return label_matrix(self.frame["labels"], self.frame["source"], wanted, self.annotated)

    def take(self, rows: np.ndarray | pd.Series | Sequence[int]) -> Manifest:
        """Some rows, by mask of shape (n,) or by position; findings and what is annotated stay."""
        index = np.asarray(rows)
        if index.dtype == bool and index.shape != (len(self),):
            raise ValueError(f"mask of shape {index.shape} for a manifest of {len(self)} rows")
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(int)
        return replace(self, frame=self.frame.iloc[index].reset_index(drop=True))

    def paths(self, column: str = "image") -> list[Path]:
        """Where each row's file lies (``column`` may also be ``mask``; every row must have one).

        Links of masks are followed here, and one that leads out of the data folder is refused; those of images are
        followed where their pixels are read (:func:`cxraug.studies.cache.build_cache`).
        """
        roots = self.frame[ROOT] if ROOT in self.frame else [str(self.root)] * len(self)
        paths = [Path(root, path) for root, path in zip(roots, self.frame[column], strict=True)]
        if column == "image":
            return paths
        inside = {root: os.path.realpath(root).rstrip(os.sep) + os.sep for root in set(roots)}
        for root, path in zip(roots, paths, strict=True):
            real = os.path.realpath(path)
            if not real.startswith(inside[root]):
                raise InputError("a link leads out of the data folder", file=path, found=real, expected="a file in it")
        return paths

    def digest(self) -> str:
        """SHA-256 (hex) of rows, findings and what is annotated; where the data folder lies does not matter."""
        state = hashlib.sha256(json.dumps([self.findings, self.annotated], sort_keys=True).encode())
        for name in sorted(set(self.frame.columns) - {ROOT}):
            column = self.frame[name]
            if not pd.api.types.is_numeric_dtype(column):  # text by value: the same from CSV and from Parquet
                column = column.astype("str").astype(object)
            state.update(str(name).encode() + b"\0")
            state.update(pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes())
        return state.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write ``.csv`` or ``.parquet`` atomically; Parquet also keeps findings and what is annotated.

        Paths stay relative to ``root``: read it from another folder with ``read_manifest(path, root=...)``.
        """
        path = Path(path)
        frame = self.frame
        if ROOT in frame:
            moved = [os.path.relpath(p, self.root) for p in self.paths()]
            frame = frame.assign(image=moved).drop(columns=ROOT)
        if path.name.lower().endswith(CSV_SUFFIXES):
            with atomic(path) as temporary:
                frame.to_csv(temporary, index=False)
        elif path.name.lower().endswith(PARQUET_SUFFIXES):
            table = pa.Table.from_pandas(frame, preserve_index=False)
            kept = json.dumps({"findings": self.findings, "annotated": self.annotated}, sort_keys=True).encode()
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA_KEY: kept})
            with atomic(path) as temporary:
                pa_parquet.write_table(table, temporary)
        else:
            raise InputError("unknown kind of table", file=path, found=path.suffix, expected=".csv or .parquet")


def read_manifest(
    path: str | Path,
    *,
    root: str | Path | None = None,
    where: Mapping[str, Any] | None = None,
    findings: Sequence[str] | None = None,
    label_columns: LabelColumns | None = None,
    annotated: Mapping[str, Sequence[str]] | None = None,
    split_fractions: Sequence[float] = (0.7, 0.1, 0.2),
) -> Manifest:
    """Read a manifest (CSV or Parquet) and check every row of it.

    Parameters
    ----------
    path : the file.
    root : data folder that image paths start from; default the manifest's folder. No path may lead out of it.
    where : rows to keep (:func:`cxraug.studies.selection.select_rows`). All rows are checked first.
    findings : the findings in play; default those that the kept rows name.
    label_columns : columns that hold 1/0/-1/blank, one per finding, in place of the column ``labels``; a mapping gives
        each column's finding, ``auto`` takes every such column of a file without ``labels``. -1 is uncertain (``?A``).
        An empty list says that there are no labels; without it a file that has such columns and no ``labels`` is
        refused.
    annotated : for a source the findings that it annotates; default, per source, the findings that occur in it.
    split_fractions : shares of patients in train, val and test where the file has no ``split``.

    Raises
    ------
    InputError
        One line with file, row (the header is row 1), column, what was found and what was expected.
    """
    table = read_table(path)
    base = table.file.parent if root is None else Path(root)
    if root is not None and not base.is_dir():
        raise InputError("the data root is not a folder", file=base)
    naming = _label_naming(table, label_columns)
    frame = _checked_frame(table, base, root is not None, naming, split_fractions)
    stored = table.metadata if isinstance(table.metadata, dict) else {}
    by_source = _annotated(frame, table.file, {**_stored_annotated(stored, frame), **(annotated or {})})
    known = sorted(named_findings(frame["labels"]).union(*by_source.values()))
    if where:
        frame = frame[select_rows(frame, where, findings=known, annotated=by_source, file=table.file)].reset_index(
            drop=True
        )
    if findings is None and isinstance(stored.get("findings"), list) and not where:
        findings = [f for f in stored["findings"] if f in known]
    if findings is None:
        chosen = named_findings(frame["labels"])
    else:
        chosen = set(findings)
        _refuse_unknown_findings(findings, known, table.file)
    return Manifest(frame, Path(os.path.abspath(base)), table.file, tuple(sorted(chosen)), by_source, naming or {})


def concat(manifests: Sequence[Manifest]) -> Manifest:
    """One manifest from several, in order. Where roots differ each row remembers its own, and ``root`` is their parent.

    Findings are united, and so is what is annotated, source by source.

    Raises
    ------
    InputError
        If two rows are the same file, or a patient is in two splits.
    """
    if not manifests:
        raise InputError("nothing to put together", expected="at least one manifest")
    roots = {str(root) for m in manifests for root in m.frame.get(ROOT, [m.root])}
    parts = [m.frame for m in manifests]
    if len(roots) > 1:
        parts = [p if ROOT in p else p.assign(**{ROOT: str(m.root)}) for m, p in zip(manifests, parts, strict=True)]
    if any("synthetic" in p for p in parts):
        parts = [p if "synthetic" in p else p.assign(synthetic=False) for p in parts]
    frame = pd.concat(parts, ignore_index=True)
    for column in ("sex", "labels"):
        frame[column] = frame[column].astype("str").where(frame[column].notna())
    united: dict[str, tuple[str, ...]] = {}
    for manifest in manifests:
        for source, names in manifest.annotated.items():
            united[source] = tuple(sorted({*united.get(source, ()), *names}))
    names = tuple(sorted({f for m in manifests for f in m.findings}))
    files = {m.file for m in manifests}
    whole = Manifest(frame, Path(os.path.commonpath(roots)), files.pop() if len(files) == 1 else None, names, united)
    table = Table(frame, whole.file or Path("the joined manifests"), np.arange(len(frame)) + 2)
    columns.refuse_repeated(table, frame["image"] if len(roots) == 1 else frame[ROOT] + "/" + frame["image"])
    columns.refuse_torn_patients(table, frame["patient_id"], frame["split"])
    return whole


def findings_with_no_positive(
    manifest: Manifest, split: str = "train", findings: Sequence[str] | None = None
) -> list[str]:
    """The findings without a single positive in ``split``: nothing can be learnt about them."""
    wanted = list(manifest.findings if findings is None else findings)
    rows = (manifest.frame["split"] == split).to_numpy()
    positives = (manifest.take(rows).y(wanted) == 1).sum(axis=0)
    return [f for f, n in zip(wanted, positives, strict=True) if n == 0]


def _label_naming(table: Table, asked: LabelColumns | None) -> dict[str, str] | None:
    """Which column holds which finding; None where the labels are in ``labels``."""
    if asked == "auto":
        if "labels" in table.frame:
            raise InputError("label columns: auto is for files without the column 'labels'", file=table.file)
        found = columns.find_label_columns(table)
        if not found:
            raise InputError("no column holds only 1, 0, -1 and blank", file=table.file, expected="label columns")
        return {name: name for name in found}
    if asked is None or isinstance(asked, Mapping):
        return asked if asked is None else dict(asked)
    return {name: name for name in asked}


def _checked_frame(
    table: Table,
    base: Path,
    root_named: bool,
    label_columns: Mapping[str, str] | None,
    split_fractions: Sequence[float],
) -> pd.DataFrame:
    """The table with every known column checked and in its final form."""
    have = [str(c) for c in table.frame.columns]
    for column in REQUIRED:
        if column not in have:
            near = difflib.get_close_matches(column, [h.lower().replace(" ", "_") for h in have], 1, 0.6)
            hint = f" (rename {have[[h.lower().replace(' ', '_') for h in have].index(near[0])]!r}?)" if near else ""
            raise InputError(
                "missing column", file=table.file, row=1, column=column, found=", ".join(have), expected=column + hint
            )
    if not len(table.frame):
        raise InputError("empty manifest: a header and no rows", file=table.file, expected="one row per image")
    empty = pd.Series(np.nan, index=table.frame.index, dtype="str")
    done: dict[str, pd.Series] = {}
    for column in REQUIRED:
        done[column] = columns.required_text(table, column)
    done["image"] = columns.image_paths(table, "image", base, root_named=root_named)
    columns.refuse_repeated(table, done["image"])
    is_synthetic = columns.synthetic(table) if "synthetic" in have else None
    done["study_id"] = (columns.name(table, "study_id") if "study_id" in have else empty).fillna(done["image"])
    done["view"] = columns.view(table) if "view" in have else empty.fillna("unknown")
    done["sex"] = columns.sex(table) if "sex" in have else empty
    done["age"] = columns.age(table) if "age" in have else empty.astype("float64")
    if label_columns is not None:
        done["labels"] = columns.labels_from_columns(table, label_columns) if label_columns else empty
    elif "labels" in have:
        done["labels"] = columns.labels(table)
    else:
        columns.refuse_unread_labels(table)
        done["labels"] = empty
    done["source"] = (columns.name(table, "source") if "source" in have else empty).fillna("")
    done["split"] = columns.split(table, done["patient_id"], is_synthetic, split_fractions)
    if is_synthetic is not None:
        done["synthetic"] = is_synthetic
    if "boxes" in have:
        done["boxes"] = columns.boxes(table)
    if "mask" in have:
        done["mask"] = columns.image_paths(table, "mask", base, root_named=root_named)
    return table.frame.drop(columns=ROOT, errors="ignore").assign(**done)


def _annotated(frame: pd.DataFrame, file: Path, given: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    sources = [str(s) for s in pd.unique(frame["source"])]
    for source in given:
        if source not in sources:
            raise InputError(
                "findings_annotated: no such source",
                file=file,
                column="source",
                found=source,
                expected=f"one of {sources}",
            )
    pairs = frame[["source", "labels"]].drop_duplicates()
    result = {}
    for source in sorted(sources):
        names = given.get(source)
        occurring = named_findings(pairs.loc[pairs["source"] == source, "labels"])
        result[source] = tuple(sorted(occurring if names is None else set(names)))
    return result


def _stored_annotated(stored: Mapping[str, Any], frame: pd.DataFrame) -> dict[str, list[str]]:
    """What a saved Parquet manifest says about its sources; anything of another shape is passed over."""
    value = stored.get("annotated")
    if not isinstance(value, dict):
        return {}
    sources = set(frame["source"])
    return {s: [str(f) for f in names] for s, names in value.items() if s in sources and isinstance(names, list)}


def _refuse_unknown_findings(findings: Sequence[str], known: Sequence[str], file: Path) -> None:
    for finding in findings:
        if finding not in known:
            near = difflib.get_close_matches(finding, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(
                "unknown finding in data.findings (a command's --findings)",
                file=file,
                column="labels",
                found=finding,
                expected=f"one of {', '.join(known)}{hint}",
            )
