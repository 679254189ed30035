"""The audit: what a data set holds, what it lacks and what it confuses, in numbers and in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxraug.balance.association import cramers_v, fisher_p, holm, odds_ratio, prevalence_ratio
from cxraug.balance.census import pair_codes, take_census, unknown_labels
from cxraug.balance.naming import RULES, headlines, name_all
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
KNOWN_COLUMNS = ("view", "sex", "age", "race", "labels", "report", "mask", "boxes", "source")
ALWAYS_NAMED = ("view", "labels")  # columns whose absence is named even if they are no group


def audit_manifest(
    manifest: Manifest,
    *,
    groups: Sequence[str] = ("sex", "age"),
    age_bins: Sequence[float] = AGE_BINS,
    pixel_sha: np.ndarray | None = None,
    writing: np.ndarray | None = None,
) -> dict[str, Any]:
    """Audit a manifest.

    Everything about findings and groups is counted in the training rows (all rows if there are none); a patient counts
    once per group level and is positive if any image there is. A blank label is unknown, never negative.

    Parameters
    ----------
    groups : columns, or intersections such as ``sex*age``; one that is not in the data is reported as missing.
    age_bins : lower bounds of the age bands in years.
    pixel_sha : (n,) a digest of every row's native pixels; None: duplicates are not looked for.
    writing : (n,) what is written in every row's image (:mod:`cxraug.studies.burned_text`); None: not looked for.

    Returns
    -------
    JSON-ready dictionary: ``images, studies, patients, splits, findings, groups, cells, label_sets, cooccurrence,
    missing, patients_in_two_splits, duplicates, burned_text, confounded, single_source, rules`` and ``named``, the
    sentences, the most pressing first.
    """
    frame = manifest.frame
    train = (frame["split"] == "train").to_numpy()
    rows = train if train.any() else np.ones(len(frame), dtype=bool)
    part = manifest.take(rows)
    present = [g for g in groups if all(p.strip() in frame.columns for p in g.split("*"))]
    levels = {g: group_levels(part.frame, g, age_bins).reset_index(drop=True) for g in present}
    counts = {g: _Counts.of(part, levels[g], age_bins) for g in present}
    audit: dict[str, Any] = {
        "images": len(frame),
        "studies": _distinct(frame, "study"),
        "patients": _distinct(frame, "patient"),
        "settings": {"groups": list(groups), "age_bins": list(age_bins)},
        "naming_rows": "train" if train.any() else "all rows",
        "splits": _splits(frame),
        "findings": _findings(manifest, "train" if train.any() else "all"),
        "groups": _groups(counts, part),
        "cells": _cells(counts, manifest.findings),
        "missing": _missing(manifest, groups),
        "patients_in_two_splits": _two_splits(frame),
        "duplicates": _duplicates(frame, pixel_sha),
        "burned_text": _burned_text(frame, writing),
        "confounded": _confounded(part, counts),
        "single_source": _single_source(part),
        "rules": RULES,
        **_label_sets(part),
    }
    audit["named"] = name_all(audit)
    return plain(audit)


def write_audit(audit: dict[str, Any], folder: str | Path, *, written: pd.DataFrame | None = None) -> None:
    """Write ``audit.json`` and ``audit.html`` into ``folder``, and ``burned_text.csv`` where writing was looked for.

    ``written`` : the rows of :func:`written_rows`.
    """
    from cxraug.pages.audit import audit_page

    folder = Path(folder)
    write_json(folder / "audit.json", audit)
    with atomic(folder / "audit.html") as temporary:
        temporary.write_text(audit_page(audit), encoding="utf-8")
    if written is not None:
        with atomic(folder / WRITTEN) as temporary:
            written.to_csv(temporary, index=False)


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
    """Patients, known and positive, per level of one variable: arrays (L,), (L, F), (L, F)."""

    def __init__(self, names: list[str], patients: np.ndarray, known: np.ndarray, positive: np.ndarray) -> None:
        self.names, self.patients, self.known, self.positive = names, patients, known, positive
        self.real = np.array([MISSING not in name.split("*") for name in names], dtype=bool)

    @classmethod
    def of(cls, manifest: Manifest, level: pd.Series, age_bins: Sequence[float]) -> _Counts:
        names = level_order(level, age_bins)
        code = pair_codes(manifest.frame["patient_id"].reset_index(drop=True), level)
        size = int(code.max()) + 1 if len(code) else 0
        level_code = pd.Categorical(level, categories=names).codes
        level_of = np.zeros(size, dtype=np.int64)
        level_of[code] = level_code
        y = manifest.y()
        known, positive = (np.zeros((size, y.shape[1]), dtype=bool) for _ in range(2))
        for f, column in enumerate(y.T):
            known[code[~np.isnan(column)], f] = True
            positive[code[column == 1], f] = True
        shape = (len(names), y.shape[1])
        sums = [np.zeros(shape, dtype=np.int64) for _ in range(2)]
        for total, flags in zip(sums, (known, positive), strict=True):
            np.add.at(total, level_of, flags)
        return cls(names, np.bincount(level_of, minlength=len(names)), *sums)

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


def _findings(manifest: Manifest, naming: str) -> list[dict[str, Any]]:
    y, unknown = manifest.y(), unknown_labels(manifest, manifest.findings)
    patient, _ = pd.factorize(manifest.frame["patient_id"])
    split = manifest.frame["split"].to_numpy(dtype=object)
    masks = {"all": np.ones(len(split), bool), **{s: split == s for s in SPLITS if (split == s).any()}}
    out = []
    for f, finding in enumerate(manifest.findings):
        by_split = {}
        for name, mask in masks.items():
            known, positive = mask & ~np.isnan(y[:, f]), mask & (y[:, f] == 1)
            patients_known, patients_positive = len(np.unique(patient[known])), len(np.unique(patient[positive]))
            by_split[name] = {
                "images_known": int(known.sum()),
                "images_positive": int(positive.sum()),
                "images_uncertain": int((mask & unknown[:, f]).sum()),
                "patients_known": patients_known,
                "patients_positive": patients_positive,
                "prevalence": patients_positive / patients_known if patients_known else None,
            }
        out.append({"finding": finding, **by_split[naming], "by_split": by_split})
    return out


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


def _cells(counts: Mapping[str, _Counts], findings: Sequence[str]) -> list[dict[str, Any]]:
    out = []
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


def _confounded(part: Manifest, counts: Mapping[str, _Counts]) -> list[dict[str, Any]]:
    """Association of every finding with source, view and the groups: the level that stands out most, and Cramer's V."""
    columns = {c: part.frame[c].astype("str").reset_index(drop=True) for c in ("source", "view")}
    columns["source"] = columns["source"].where(columns["source"] != "", MISSING)
    columns["view"] = columns["view"].where(columns["view"] != "unknown", MISSING)
    variables = {c: _Counts.of(part, level, AGE_BINS) for c, level in columns.items()}
    variables |= {g: c for g, c in counts.items() if g not in variables and "*" not in g}
    out: list[dict[str, Any]] = []
    for variable, c in variables.items():
        for f, finding in enumerate(part.findings):
            at = [i for i in range(len(c.names)) if c.real[i] and c.known[i, f] > 0]
            if len(at) < 2 or c.positive[at, f].sum() in (0, c.known[at, f].sum()):
                continue
            looks = [fisher_p(*c.rest(i, f)) for i in at]
            best = at[int(np.argmin(looks))]
            a, n, b, m = c.rest(best, f)
            odds = odds_ratio(a, n, b, m)
            out.append(
                {
                    "finding": finding,
                    "variable": variable,
                    "level": c.names[best],
                    "patients": n,
                    "patients_positive": a,
                    "prevalence": a / n,
                    "rest_prevalence": b / m,
                    "odds_ratio": odds.value,
                    "ci_low": odds.low,
                    "ci_high": odds.high,
                    "cramers_v": cramers_v(c.positive[at, f], c.known[at, f]),
                    # Bonferroni within the variable: the level was picked because it stands out
                    "p_value": min(1.0, min(looks) * (1 if len(at) == 2 else len(at))),
                }
            )
    for row, p in zip(out, holm([row["p_value"] for row in out]), strict=True):
        row["p_adjusted"] = float(p)
    return [plain(row) for row in out]


def _single_source(part: Manifest) -> dict[str, list[str]]:
    """Findings that only one of several sources annotates, by source."""
    sources = part.frame["source"].to_numpy(dtype=object)
    names = [s for s in pd.unique(sources) if s]
    if len(names) < 2:
        return {}
    known = ~np.isnan(part.y())
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


def _label_sets(part: Manifest) -> dict[str, Any]:
    """The label sets of the training studies and how often two findings occur in one study."""
    census = take_census(part)
    sets = pd.Series(["|".join(s) if s else "" for s in census.label_sets()], dtype="str")
    counts = sets[sets != ""].value_counts()
    positive = (census.y == 1).astype(np.int64)
    return {
        "label_sets": {
            "distinct": len(counts),
            "studies": int(counts.sum()),
            "seen_once": int((counts == 1).sum()),
            "most_frequent": [{"labels": str(s), "studies": int(n)} for s, n in counts.head(LABEL_SETS).items()],
        },
        "cooccurrence": {"findings": list(census.findings), "studies": (positive.T @ positive).tolist()},
    }
