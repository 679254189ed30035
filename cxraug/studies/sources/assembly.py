"""From what a source read to a manifest: duplicates, files, policy, split, and the tables beside it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.storage import atomic, write_json
from cxraug.studies import columns
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.sources.contract import TRAINVAL, Extract, ImportSettings, Source
from cxraug.studies.sources.folder import Folder, locate
from cxraug.studies.sources.vocabulary import apply_policy
from cxraug.studies.splits import split_by_patient
from cxraug.studies.table import CSV_SUFFIXES, PARQUET_SUFFIXES

FRACTIONS = (0.7, 0.1, 0.2)
FIRST = ("image", "patient_id", "study_id", "view", "sex", "age", "race", "labels", "split", "source", "license")
SHOWN = 5


@dataclass(frozen=True, eq=False)
class Imported:
    """A manifest that was made, and what is to be said of it.

    Attributes
    ----------
    manifest : as :func:`cxraug.studies.manifest.read_manifest` reads the written file.
    record : what ``NAME.import.json`` holds.
    vocabulary : what ``NAME.mapping.csv`` holds: ``label, finding, images``.
    """

    manifest: Manifest
    record: dict[str, Any]
    vocabulary: pd.DataFrame


def import_source(
    source: Source, root: str | Path, out: str | Path, settings: ImportSettings | None = None, *, fresh: bool = False
) -> Imported:
    """Read the official files below ``root`` and write a manifest.

    Beside ``out`` (``NAME.parquet`` or ``NAME.csv``) stand ``NAME.mapping.csv`` (each label of the source, what it
    became, on how many images), ``NAME.missing.csv`` (images of the table whose file is not there; they are not in the
    manifest) and ``NAME.import.json`` (settings, files, every count). Paths start from the folder of ``out`` where
    that holds the root, else from the root, which is then named with ``--root``.

    Raises
    ------
    InputError
        A missing or malformed official file (file, row, column, found, expected), no image at all, an ``out`` that is
        there already (without ``fresh``) or of an unknown kind.
    """
    started = time.perf_counter()
    out = Path(out)
    check_out(out, fresh)
    settings = settings or source.settings()
    extract = source.read(Folder(Path(root)), settings)
    frame, counts, missing = _rows(extract, Path(root), settings)
    notes = list(extract.notes)
    if extract.finish is not None:
        more, said = extract.finish(frame, None if settings.table_only else Path(root))
        counts |= more
        notes += said
    frame["labels"], uncertain, clash = apply_policy(frame["labels"], settings.uncertain)
    if clash:
        counts["'No Finding' beside an uncertain finding that became present, dropped"] = clash
    splitting = _split(frame, extract, settings)
    if extract.by_source is None:
        frame["source"], frame["license"] = source.name, source.licence
    base = _base(Path(root), out)
    if base != Path(os.path.abspath(root)):
        prefix = os.path.relpath(os.path.abspath(root), base).replace(os.sep, "/") + "/"
        for column in ("image", "mask"):
            if column in frame:
                frame[column] = prefix + frame[column].astype("str")
    by_source = {source.name: extract.annotated} if extract.by_source is None else extract.by_source
    manifest = _write(frame, extract.annotated, by_source, base, out)
    record = {
        "source": source.key, "title": source.title, "licence": source.licence,
        "card": f"data_cards/{source.card}" if source.card else None,
        "root": Path(root), "files": [p.name for p in extract.files], "settings": settings.model_dump(mode="json"),
        "images": len(frame), "patients": int(frame["patient_id"].nunique()), "split": splitting,
        "rows": {s: int(n) for s, n in frame["split"].value_counts().items()},
        "findings": _present(manifest), "uncertain": uncertain, "odd": counts, "notes": notes,
        "missing_files": len(missing), "data_root": None if base == Path(os.path.abspath(out.parent)) else base,
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    _write_beside(out, extract.vocabulary, missing, record)
    return Imported(manifest, record, extract.vocabulary)


def beside(out: Path, what: str) -> Path:
    """The file ``NAME.what`` beside the manifest ``NAME.parquet``."""
    stem = next(out.name[: -len(s)] for s in (*CSV_SUFFIXES, *PARQUET_SUFFIXES) if out.name.lower().endswith(s))
    return out.with_name(f"{stem}.{what}")


def check_out(out: Path, fresh: bool) -> None:
    """Refuse an ``out`` of an unknown kind, or one that is there already."""
    kinds = (*CSV_SUFFIXES, *PARQUET_SUFFIXES)
    if not out.name.lower().endswith(kinds) or out.name.lower().endswith(".csv.gz"):
        raise InputError("unknown kind of table", file=out, found=out.suffix, expected=".parquet or .csv")
    if out.exists() and not fresh:
        raise InputError("the file is there already", file=out, expected="another --out, or --fresh to replace it")


def _rows(extract: Extract, root: Path, settings: ImportSettings) -> tuple[pd.DataFrame, dict[str, int], pd.DataFrame]:
    """The rows to keep with the paths of their files, the counts, and the rows whose file is not there."""
    counts = dict(extract.counts)
    if extract.split is not None:
        extract.frame["split"] = extract.split
    repeated = extract.frame.duplicated().to_numpy()
    if repeated.any():
        counts["rows repeated word for word, left out"] = int(repeated.sum())
    table = extract.table.with_frame(extract.frame[~repeated], ~repeated)
    columns.refuse_repeated(table, table.frame["image"])
    frame = table.frame.copy()
    split = frame["split"] if "split" in frame and settings.split != "patients" else None
    if split is not None:
        columns.refuse_torn_patients(table, frame["patient_id"], split)
    two = frame.groupby("patient_id")["sex"].nunique()
    if (two > 1).any():
        counts["patients with two sexes, kept as they are"] = int((two > 1).sum())
    if settings.table_only:
        return frame.reset_index(drop=True), counts, frame.iloc[:0][["image", "patient_id"]]
    found, several = locate(frame["image"], Folder(root).images(), extract.parts, extract.bare)
    if found.isna().all():
        raise InputError("none of the images is there", file=root, found="no " + frame["image"].iloc[0],
                         expected="the archive's images below the root, or --table-only")  # fmt: skip
    if several:
        counts["images found at several places, the first taken"] = several
    lost = found.isna().to_numpy()
    missing = frame.loc[lost, ["image", "patient_id"]].assign(row=table.rows[lost])
    frame["image"] = found
    return frame[~lost].reset_index(drop=True), counts, missing


def _split(frame: pd.DataFrame, extract: Extract, settings: ImportSettings) -> str:
    """Fill the column ``split``; say which one it is."""
    if settings.split == "official" and extract.split is None:
        raise InputError("no official split", file=extract.table.file.parent, found="no " + extract.split_missing,
                         expected="the official files, or --split patients")  # fmt: skip
    if settings.split == "patients" or extract.split is None:
        frame["split"] = split_by_patient(frame["patient_id"], FRACTIONS)
        if "synthetic" in frame:
            frame.loc[frame["synthetic"].eq(True), "split"] = "train"
        return "by patient, " + " : ".join(f"{f:g}" for f in FRACTIONS)
    open_ = (frame["split"] == TRAINVAL).to_numpy()
    if open_.any():
        share = settings.val_share
        dealt = split_by_patient(frame["patient_id"], (1 - share, share, 0))
        frame["split"] = frame["split"].where(~open_, dealt)
        return f"official; of the patients for training and validation {share:.3g} to validation"
    return "official"


def _base(root: Path, out: Path) -> Path:
    """The folder that paths start from: that of ``out`` where it holds the root, else the root."""
    folder, inside = Path(os.path.abspath(out.parent)), Path(os.path.abspath(root))
    return folder if folder == inside or folder in inside.parents else inside


def _write(
    frame: pd.DataFrame, findings: tuple[str, ...], annotated: dict[str, tuple[str, ...]], base: Path, out: Path
) -> Manifest:
    """Write the manifest; it takes its place only once it has been read back with every check."""
    empty = [c for c in frame.columns if c not in FIRST and frame[c].isna().all()]
    order = [c for c in FIRST if c in frame] + [c for c in frame.columns if c not in FIRST and c not in empty]
    manifest = Manifest(frame[order], base, out, findings, annotated)
    with atomic(out) as temporary:
        manifest.save(temporary)
        return _named(read_manifest(temporary, root=base, annotated=annotated), out)


def _named(manifest: Manifest, file: Path) -> Manifest:
    return Manifest(manifest.frame, manifest.root, file, manifest.findings, manifest.annotated)


def _present(manifest: Manifest) -> dict[str, int]:
    """Images with each finding."""
    return dict(zip(manifest.findings, map(int, np.nansum(manifest.y() == 1, axis=0)), strict=True))


def _write_beside(out: Path, vocabulary: pd.DataFrame, missing: pd.DataFrame, record: dict[str, Any]) -> None:
    with atomic(beside(out, "mapping.csv")) as temporary:
        vocabulary.to_csv(temporary, index=False)
    if len(missing):
        with atomic(beside(out, "missing.csv")) as temporary:
            missing.to_csv(temporary, index=False)
    else:
        beside(out, "missing.csv").unlink(missing_ok=True)
    write_json(beside(out, "import.json"), record)
