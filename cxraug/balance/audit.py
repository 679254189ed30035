"""The audit: what a data set holds, what it lacks and what it confuses, in numbers and in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxraug.balance.association import fisher_p, holm, prevalence_ratio
from cxraug.balance.census import pair_codes, take_census, unknown_labels
from cxraug.balance.confounded import associations, of_image
from cxraug.balance.confounding import (
    Variable,
    acquisition,
    adjusted_odds,
    by_cell,
    projection_variable,
    shortcuts,
    variable_of,
)
from cxraug.balance.measurable import measurable_gaps
from cxraug.balance.naming import RULES, headlines, name_all
from cxraug.balance.sample_size import Question
from cxraug.balance.tally import Tally, patient_numbers, tally_levels
from cxraug.errors import InputError
from cxraug.evaluation.groups import AGE_BINS, MISSING, group_levels, level_order
from cxraug.storage import atomic, plain, write_json
from cxraug.studies.burned_text import KINDS, MARKER, TAGGED, of_concern

if TYPE_CHECKING:
    from cxraug.studies.manifest import Manifest

__all__ = ["audit_manifest", "headlines", "write_audit", "written_rows"]

SPLITS = ("train", "val", "test")
LABEL_SETS = 30
EXAMPLES = 20
WRITTEN = "burned_text.csv"
FEW = 50
MOST_FINDINGS = 500
KNOWN_COLUMNS = ("view", "sex", "age", "race", "labels", "report", "mask", "boxes", "source")
ALWAYS_NAMED = ("view", "labels")  # columns whose absence is named even if they are no group


def audit_manifest(
    manifest: Manifest,
    *,
    groups: Sequence[str] = ("sex", "age"),
    age_bins: Sequence[float] = AGE_BINS,
    pixel_sha: np.ndarray | None = None,
    writing: np.ndarray | None = None,
    question: Question = Question(),
    images: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Audit a manifest.

    Everything about findings and groups is counted in the training rows (all rows if there are none); a patient counts
    once per group level and is positive if any image there is. What goes with view and source is counted in images. A
    blank label is unknown, never negative.

    Parameters
    ----------
    groups : columns, or intersections such as ``sex*age``; one that is not in the data is reported as missing.
    age_bins : lower bounds of the age bands in years.
    pixel_sha : (n,) a digest of every row's native pixels; None: duplicates are not looked for.
    writing : (n,) what is written in every row's image (:mod:`cxraug.studies.burned_text`); None: not looked for.
    question : the gap of AUROC that is to be seen between groups (:mod:`cxraug.balance.sample_size`).
    images : what was found by looking at the images (:func:`cxraug.balance.image_audit.look_at_images`).

    Returns
    -------
    JSON-ready dictionary: ``images, studies, patients, splits, findings, groups, cells, label_sets, cooccurrence,
    missing, patients_in_two_splits, duplicates, burned_text, confounded, associations, shortcuts, acquisition,
    measurable, single_source, images_looked_at, rules`` and ``named``, the sentences, the most pressing first.

    Raises
    ------
    InputError : more than ``MOST_FINDINGS`` findings.
    """
    frame = manifest.frame
    train = (frame["split"] == "train").to_numpy()
    rows = train if train.any() else np.ones(len(frame), dtype=bool)
    part = manifest.take(rows)
    whole_y = manifest.y()
    y, patient = whole_y[rows], patient_numbers(part.frame)
    present = [g for g in groups if all(p.strip() in frame.columns for p in g.split("*"))]
    whole = {g: group_levels(frame, g, age_bins) for g in present}
    levels = {g: level[rows].reset_index(drop=True) for g, level in whole.items()}
    counts = {g: _Counts.of(y, patient, levels[g], age_bins) for g in present}
    variables = [variable_of(g, levels[g], counts[g].names, [p.strip() for p in g.split("*")]) for g in present]
    taken = [variable_of(c, *_column(part, c), (c,)) for c in ("source", "view") if c not in present]
    findings = manifest.findings
    if len(findings) > MOST_FINDINGS:
        raise InputError(
            "too many findings to compare with each other",
            file=manifest.file,
            column="labels",
            found=f"{len(findings):,} different ones, such as {findings[0]!r}",
            expected=f"{MOST_FINDINGS:,} at most: a vocabulary, not text; --findings A,B takes a part",
        )
    tallies = {g: c.tally for g, c in counts.items()}
    tallies |= {v.name: _tally(v, y, patient) for v in taken}
    everything = [*variables, *taken]
    odds = [row for v in everything for row in adjusted_odds(v, part.frame, y, patient, findings, tallies[v.name])]
    odds += _projection_odds(part.frame, y, patient, findings, odds)
    by_image = {v.name: of_image(v.name, v.level, patient) for v in everything if "*" not in v.name}
    audit: dict[str, Any] = {
        "images": len(frame),
        "studies": _distinct(frame, "study"),
        "patients": _distinct(frame, "patient"),
        "settings": {"groups": list(groups), "age_bins": list(age_bins), "question": vars(question)},
        "naming_rows": "train" if train.any() else "all rows",
        "splits": _splits(frame),
        "findings": _findings(manifest, whole_y, "train" if train.any() else "all"),
        "groups": _groups(counts, part),
        "cells": _cells(counts, findings, odds, by_image),
        "missing": _missing(manifest, groups),
        "patients_in_two_splits": _two_splits(frame),
        "duplicates": _duplicates(frame, pixel_sha),
        "burned_text": _burned_text(frame, writing),
        "confounded": plain(associations({v: tallies[v] for v in by_image}, by_image, findings, by_cell(odds))),
        "associations": odds,
        "shortcuts": shortcuts(part.frame, y, patient, findings),
        "acquisition": acquisition([v for v in everything if v.name != "view"], part.frame, patient),
        "measurable": measurable_gaps(manifest, whole_y, whole, question, age_bins, tallies if train.any() else None),
        "single_source": _single_source(part, y),
        "images_looked_at": dict(images or {}),
        "rules": RULES,
        **_label_sets(part, y),
    }
    audit["named"] = name_all(audit)
    return plain(audit)


def write_audit(
    audit: dict[str, Any],
    folder: str | Path,
    *,
    written: pd.DataFrame | None = None,
    images: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write ``audit.json``, ``audit.html`` and the tables into ``folder``.

    ``written`` : the rows of :func:`written_rows`, where writing was looked for (``burned_text.csv``). ``images`` : the
    tables of :meth:`cxraug.balance.image_audit.ImageAudit.tables`, by file name.
    """
    from cxraug.balance.audit_tables import audit_tables
    from cxraug.pages.audit import audit_page

    folder = Path(folder)
    write_json(folder / "audit.json", audit)
    with atomic(folder / "audit.html") as temporary:
        temporary.write_text(audit_page(audit), encoding="utf-8")
    tables = {**audit_tables(audit), **(images or {}), **({} if written is None else {WRITTEN: written})}
    for name, table in tables.items():
        with atomic(folder / name) as temporary:
            table.to_csv(temporary, index=False)


def written_rows(manifest: Manifest, writing: np.ndarray) -> pd.DataFrame:
    """The rows with text in the pixels, by detection or by their header: ``image, patient_id, split, source, writing``.

    Lead markers are not among them. Raises ValueError where the lengths differ.
    """
    if len(writing) != len(manifest):
        raise ValueError(f"writing has {len(writing)} entries for {len(manifest)} rows")
    rows = of_concern(writing)
    listed = manifest.frame.loc[rows, ["image", "patient_id", "split", "source"]]
    return listed.assign(writing=np.array(KINDS)[np.asarray(writing)[rows]])


class _Counts:
    """Patients, known and positive, per level of one variable: arrays (L,), (L, F), (L, F); ``tally`` has the rest."""

    def __init__(self, tally: Tally) -> None:
        self.tally, self.names = tally, tally.names
        self.patients, self.known, self.positive = tally.patients, tally.known, tally.positive
        self.real = np.array([MISSING not in name.split("*") for name in self.names], dtype=bool)

    @classmethod
    def of(cls, y: np.ndarray, patient: np.ndarray, level: pd.Series, age_bins: Sequence[float]) -> _Counts:
        names = level_order(level, age_bins)
        code = pd.Categorical(level, categories=names).codes.astype(np.int64)
        return cls(tally_levels(y, patient, code, names))

    def rest(self, level: int, finding: int) -> tuple[int, int, int, int]:
        """Positives and known patients in a level, and in all other levels together."""
        others = self.real.copy()
        others[level] = False
        return (
            int(self.positive[level, finding]),
            int(self.known[level, finding]),
            int(self.positive[others, finding].sum()),
            int(self.known[others, finding].sum()),
        )


def _distinct(frame: pd.DataFrame, what: str) -> int:
    if what == "patient":
        return int(frame["patient_id"].nunique())
    return int(pair_codes(frame["patient_id"], frame["study_id"]).max()) + 1 if len(frame) else 0


def _splits(frame: pd.DataFrame) -> list[dict[str, Any]]:
    parts = [(s, frame[(frame["split"] == s).to_numpy()]) for s in SPLITS]
    return [
        {"split": s, "images": len(p), "studies": _distinct(p, "study"), "patients": _distinct(p, "patient")}
        for s, p in parts
    ]


def _findings(manifest: Manifest, y: np.ndarray, naming: str) -> list[dict[str, Any]]:
    unknown = unknown_labels(manifest, manifest.findings, y)
    patient = patient_numbers(manifest.frame)
    split = manifest.frame["split"].to_numpy(dtype=object)
    masks = {"all": np.ones(len(split), bool), **{s: split == s for s in SPLITS if (split == s).any()}}
    by_split: dict[str, list[dict[str, Any]]] = {}
    for name, mask in masks.items():
        tally = tally_levels(y[mask], patient[mask], np.zeros(int(mask.sum()), np.int64), [name])
        uncertain = unknown[mask].sum(axis=0)
        by_split[name] = [
            {
                "images_known": int(tally.images[0, f]),
                "images_positive": int(tally.positive_images[0, f]),
                "images_uncertain": int(uncertain[f]),
                "patients_known": int(tally.known[0, f]),
                "patients_positive": int(tally.positive[0, f]),
                "prevalence": tally.positive[0, f] / tally.known[0, f] if tally.known[0, f] else None,
                **_by_image(tally, 0, f),
            }
            for f in range(len(manifest.findings))
        ]
    return [
        {"finding": finding, **by_split[naming][f], "by_split": {s: found[f] for s, found in by_split.items()}}
        for f, finding in enumerate(manifest.findings)
    ]


def _by_image(tally: Tally, level: int, finding: int) -> dict[str, Any]:
    """Prevalence among images with its patient-clustered interval."""
    return {
        "image_prevalence": tally.prevalence[level, finding],
        "image_ci_low": tally.low[level, finding],
        "image_ci_high": tally.high[level, finding],
        "design_effect": tally.design_effect[level, finding],
    }


def _groups(counts: Mapping[str, _Counts], part: Manifest) -> list[dict[str, Any]]:
    out = []
    for group, c in counts.items():
        names, sizes = list(c.names), list(c.patients)
        if group == "sex" and c.real.any():
            names, sizes = names + [s for s in "FM" if s not in names], sizes + [0 for s in "FM" if s not in names]
        real = [MISSING not in name.split("*") for name in names]
        total = int(sum(n for n, ok in zip(sizes, real, strict=True) if ok))
        margins = "*" in group
        for name, n, ok in zip(names, sizes, real, strict=True):
            expected: float | None = None
            if ok and total:
                expected = _product_of_margins(name, names, sizes, real) if margins else 1 / sum(real)
            out.append(
                {
                    "group": group,
                    "level": name,
                    "patients": int(n),
                    "patients_known": total,
                    "share": n / total if ok and total else None,
                    "expected_share": expected if sum(real) > 1 else None,
                    "expectation": "margins" if margins else "even",
                }
            )
    return out


def _product_of_margins(name: str, names: Sequence[str], sizes: Sequence[int], real: Sequence[bool]) -> float:
    """The share of an intersection's level if its parts were independent."""
    split = [(level.split("*"), n) for level, n, ok in zip(names, sizes, real, strict=True) if ok]
    total = sum(n for _, n in split)
    share = 1.0
    for position, part in enumerate(name.split("*")):
        share *= sum(n for parts, n in split if parts[position] == part) / total
    return share


def _cells(
    counts: Mapping[str, _Counts],
    findings: Sequence[str],
    odds: Sequence[dict[str, Any]],
    by_image: Mapping[str, bool],
) -> list[dict[str, Any]]:
    out, adjusted = [], by_cell(odds)
    for group, c in counts.items():
        family: list[dict[str, Any]] = []
        two = int(c.real.sum()) == 2
        for f, finding in enumerate(findings):
            for i, level in enumerate(c.names):
                a, n, b, m = c.rest(i, f)
                testable = bool(c.real[i]) and n > 0 and m > 0
                ratio = prevalence_ratio(a, n, b, m) if testable else None
                family.append(
                    {
                        "finding": finding,
                        "group": group,
                        "level": level,
                        "of_image": by_image.get(group, False),
                        "patients": n,
                        "patients_positive": a,
                        "prevalence": a / n if n else None,
                        "rest_prevalence": b / m if testable else None,
                        "ratio": ratio.value if ratio else None,
                        "ci_low": ratio.low if ratio else None,
                        "ci_high": ratio.high if ratio else None,
                        "p_value": fisher_p(a, n, b, m) if testable and a + b else None,
                        "p_adjusted": None,
                        "flag": "few" if a < FEW else "",
                        "images": int(c.tally.images[i, f]),
                        "images_positive": int(c.tally.positive_images[i, f]),
                        **_by_image(c.tally, i, f),
                        "adjusted": adjusted.get((finding, group, level)),
                    }
                )
        _adjust(family, two_levels=two)
        out += [plain(cell) for cell in family]
    return out


def _adjust(family: list[dict[str, Any]], *, two_levels: bool) -> None:
    """Holm over findings x levels of one group; with two levels F against M and M against F are one look."""
    tested = [cell for cell in family if cell["p_value"] is not None]
    looks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in tested:
        looks.setdefault((cell["finding"], "" if two_levels else cell["level"]), []).append(cell)
    for cells, p in zip(looks.values(), holm([cells[0]["p_value"] for cells in looks.values()]), strict=True):
        for cell in cells:
            cell["p_adjusted"] = float(p)


def _column(part: Manifest, column: str) -> tuple[pd.Series, list[str]]:
    """The levels of source or view, what is not known as ``missing``, and their names."""
    empty = {"source": "", "view": "unknown"}[column]
    level = part.frame[column].astype("str").reset_index(drop=True)
    level = level.where(level != empty, MISSING)
    return level, level_order(level)


def _tally(variable: Variable, y: np.ndarray, patient: np.ndarray) -> Tally:
    rows = variable.level >= 0
    return tally_levels(y[rows], patient[rows], variable.level[rows], variable.names)


def _projection_odds(
    frame: pd.DataFrame,
    y: np.ndarray,
    patient: np.ndarray,
    findings: Sequence[str],
    odds: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """AP against PA; where there are no other views, that is the odds by view, which are at hand."""
    same = [row for row in odds if row["group"] == "view"]
    if same and {row["level"] for row in same} == {"AP", "PA"}:
        return [{**row, "group": "projection"} for row in same]
    return adjusted_odds(projection_variable(frame), frame, y, patient, findings)


def _single_source(part: Manifest, y: np.ndarray) -> dict[str, list[str]]:
    """Findings that only one of several sources annotates, by source."""
    sources = part.frame["source"].to_numpy(dtype=object)
    names = [s for s in pd.unique(sources) if s]
    if len(names) < 2:
        return {}
    known = ~np.isnan(y)
    has = np.stack([known[sources == s].any(axis=0) for s in names])
    out: dict[str, list[str]] = {}
    for f, finding in enumerate(part.findings):
        if has[:, f].sum() == 1:
            out.setdefault(names[int(np.argmax(has[:, f]))], []).append(finding)
    return out


def _missing(manifest: Manifest, groups: Sequence[str]) -> list[dict[str, Any]]:
    frame = manifest.frame
    parts = list(dict.fromkeys(p.strip() for g in groups for p in g.split("*")))
    known = [c for c in KNOWN_COLUMNS if c in frame.columns]
    out = []
    for column in dict.fromkeys([*parts, *known]):
        if column in frame.columns:
            values = frame[column]
            missing = int((values.isna() | values.isin(["", "unknown"] if column == "view" else [""])).sum())
        else:
            missing = len(frame)
        named = column in parts or column in ALWAYS_NAMED
        share = missing / len(frame) if len(frame) else 0.0
        out.append({"column": column, "missing": missing, "images": len(frame), "share": share, "named": named})
    return out


def _two_splits(frame: pd.DataFrame) -> list[dict[str, Any]]:
    pairs = frame[["patient_id", "split"]].drop_duplicates()
    twice = pairs[pairs["patient_id"].duplicated(keep=False)]
    grouped = twice.groupby("patient_id", sort=True)["split"].agg(sorted)
    return [{"patient_id": str(patient), "splits": list(splits)} for patient, splits in grouped.items()]


def _duplicates(frame: pd.DataFrame, pixel_sha: np.ndarray | None) -> dict[str, Any]:
    empty = {"sets": 0, "images": 0, "across_splits": 0, "across_patients": 0, "different_labels": 0, "examples": []}
    if pixel_sha is None:
        return {"checked": False, **empty}
    if len(pixel_sha) != len(frame):
        raise ValueError(f"pixel_sha has {len(pixel_sha)} entries for {len(frame)} rows")
    table = frame[["image", "patient_id", "split", "labels"]].reset_index(drop=True)
    table = table.assign(sha=np.asarray(pixel_sha, dtype=str), labels=table["labels"].fillna(""))
    copies = table[table["sha"].duplicated(keep=False)]
    if copies.empty:
        return {"checked": True, **empty}
    kinds = copies.groupby("sha", sort=False)[["patient_id", "split", "labels"]].nunique()
    crossing = kinds.index[kinds["split"] > 1]
    return {
        "checked": True,
        "sets": len(kinds),
        "images": len(copies) - len(kinds),
        "across_splits": int(copies["sha"].isin(crossing).sum()),
        "across_patients": int((kinds["patient_id"] > 1).sum()),
        "different_labels": int((kinds["labels"] > 1).sum()),
        "examples": [list(g["image"]) for _, g in copies.groupby("sha", sort=False)][:EXAMPLES],
    }


def _burned_text(frame: pd.DataFrame, writing: np.ndarray | None) -> dict[str, Any]:
    """How many images have writing of each kind, in all and by source."""
    if writing is None:
        return {"checked": False, "images": 0, "tagged": 0, "markers": 0, "train": 0, "by_source": []}
    if len(writing) != len(frame):
        raise ValueError(f"writing has {len(writing)} entries for {len(frame)} rows")
    text, source = of_concern(writing), frame["source"].to_numpy(dtype=object)
    by_source = [
        {"source": s or MISSING, "images": int((source == s).sum()), "text": int(text[source == s].sum()),
         "marker": int((writing[source == s] == MARKER).sum())}
        for s in pd.unique(source)
    ]  # fmt: skip
    return {
        "checked": True,
        "images": int(text.sum()),
        "tagged": int((writing == TAGGED).sum()),
        "markers": int((writing == MARKER).sum()),
        "train": int(text[(frame["split"] == "train").to_numpy()].sum()),
        "by_source": by_source,
    }


def _label_sets(part: Manifest, y: np.ndarray) -> dict[str, Any]:
    """The label sets of the training studies and how often two findings occur in one study."""
    census = take_census(part, y=y)
    sets = pd.Series(["|".join(s) if s else "" for s in census.label_sets()], dtype="str")
    counts = sets[sets != ""].value_counts()
    positive = (census.y == 1).astype(np.float32 if len(census) < 1 << 24 else float)  # counts are exact below 2^24
    return {
        "label_sets": {
            "distinct": len(counts),
            "studies": int(counts.sum()),
            "seen_once": int((counts == 1).sum()),
            "most_frequent": [{"labels": str(s), "studies": int(n)} for s, n in counts.head(LABEL_SETS).items()],
        },
        "cooccurrence": {
            "findings": list(census.findings),
            "studies": (positive.T @ positive).astype(np.int64).tolist(),
        },
    }
