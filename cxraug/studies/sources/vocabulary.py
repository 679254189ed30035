"""One vocabulary of findings for all sources, and the step from a source's labels to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.studies.labels import (
    ABSENT,
    DEVICES,
    NO_FINDING,
    PRESENT,
    UNCERTAIN,
    contradicts,
    format_labels,
    parse_labels,
)
from cxraug.studies.sources.contract import Policy
from cxraug.studies.table import Table, read_table

OTHER = "(other)"  # a finding outside the vocabulary: not "No Finding", and nothing else is known of it
NOTHING = "(nothing)"  # says nothing about findings ("unchanged")

# Finding -> what it stands for. A word that an archive uses for two things at once keeps its own entry.
FINDINGS: dict[str, str] = {
    "Aortic Enlargement": "enlarged aorta (VinDr)",
    "Atelectasis": "collapse of lung, of any extent",
    "Bronchiectasis": "widened bronchi (PadChest)",
    "COPD": "signs of chronic obstructive pulmonary disease",
    "Calcification": "calcification (VinDr)",
    "Cardiomegaly": "enlarged heart",
    "Consolidation": "airless lung",
    "Edema": "pulmonary oedema",
    "Effusion": "pleural effusion",
    "Emphysema": "pulmonary emphysema",
    "Enlarged Cardiomediastinum": "widened mediastinum or heart (CheXpert)",
    "Enlarged Pulmonary Artery": "enlarged pulmonary artery",
    "Fibrosis": "pulmonary fibrosis",
    "Fracture": "fracture of any bone",
    "Granuloma": "granuloma, calcified or not",
    "Hernia": "hiatal or diaphragmatic hernia",
    "Infiltration": "infiltrate, of any pattern",
    "Interstitial Lung Disease": "interstitial lung disease (VinDr)",
    "Lung Cavity": "cavity in the lung",
    "Lung Cyst": "cyst in the lung",
    "Lung Lesion": "mass, nodule or other focal lesion (CheXpert)",
    "Lung Opacity": "any opacity in the lung (CheXpert, VinDr)",
    "Lung Tumour": "suspected tumour (VinDr)",
    "Mass": "mass above 3 cm",
    "Mediastinal Shift": "shifted mediastinum",
    "Nodule": "nodule up to 3 cm",
    "Nodule or Mass": "nodule or mass, not told apart (VinDr)",
    "Pleural Other": "other pleural disease (CheXpert)",
    "Pleural Thickening": "thickened pleura",
    "Pneumonia": "pneumonia, as read or as suspected",
    "Pneumothorax": "pneumothorax",
    "Scoliosis": "scoliosis (PadChest)",
    "Support Devices": "tubes, lines, pacemakers and the like",
    "Tuberculosis": "tuberculosis",
    NO_FINDING: "nothing abnormal, as the source says",
}


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels in the grammar (n,), the mapping with its counts, what is annotated, and what was odd."""

    labels: pd.Series
    vocabulary: pd.DataFrame
    annotated: tuple[str, ...]
    counts: dict[str, int]


def targets(finding: str) -> list[str]:
    """The findings of one entry: ``A|B`` is both; what is outside the vocabulary or says nothing is none."""
    return [] if finding in (OTHER, NOTHING) else finding.split("|")


def annotated_by(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Every finding that a mapping leads to, sorted."""
    return tuple(sorted({f for finding in labels.values() for f in targets(finding)}))


def edited(labels: Mapping[str, str], path: Path | None) -> dict[str, str]:
    """The mapping ``labels`` with the entries of an edited table ``label, finding``.

    Raises :class:`InputError` for an entry that is no finding in the grammar (the vocabulary may grow).
    """
    result = dict(labels)
    if path is None:
        return result
    table = read_table(path)
    for column in ("label", "finding"):
        if column not in table.frame:
            raise InputError("missing column", file=path, row=1, column=column,
                             found=", ".join(map(str, table.frame.columns)), expected="label, finding")  # fmt: skip
    label, finding = table.text("label"), table.text("finding")
    for column, values in (("label", label), ("finding", finding)):
        table.refuse(values.isna(), column, "blank", expected="a label and what it becomes", found=values)
    table.refuse(label.duplicated(), "label", "the same label twice", expected="each label once", found=label)
    for row, text in enumerate(finding):
        try:
            format_labels(dict.fromkeys(targets(text), PRESENT))
        except ValueError as error:
            raise InputError(str(error), file=path, row=int(table.rows[row]), column="finding", found=text,
                             expected=f"findings (A|B), {OTHER} or {NOTHING}") from None  # fmt: skip
    return {**result, **dict(zip(label, finding, strict=True))}


def label_terms(
    table: Table,
    column: str,
    called: str,
    labels: Mapping[str, str],
    *,
    closed: bool,
    split: Callable[[str], Sequence[str]],
) -> Labelled:
    """Labels of a source that lists terms per image.

    Parameters
    ----------
    table, column, called : the terms of each image as one text, missing where nothing is known, and its official name.
    labels : term -> finding(s), :data:`OTHER` or :data:`NOTHING`.
    closed : whether an unknown term is refused (else it is :data:`OTHER`).
    split : one text to its terms.

    Notes
    -----
    Present findings are named, so that annotated ones that are not named are absent. "No Finding" beside any other
    finding is dropped and counted. Where there is only something outside the vocabulary, every annotated finding is
    named as absent, "No Finding" among them. Where nothing is said the label is missing.
    """
    codes, texts = pd.factorize(table.frame[column])
    images = np.bincount(codes[codes >= 0], minlength=len(texts))
    annotated = annotated_by(labels)
    seen: dict[str, int] = {}
    made: list[str | None] = []
    clash = np.zeros(len(texts) + 1, bool)
    silent = np.zeros(len(texts) + 1, bool)
    for at, text in enumerate(texts):
        terms = list(dict.fromkeys(split(str(text))))
        for term in terms:
            if term not in labels and closed:
                table.refuse(codes == at, called, f"unknown label {term!r}", expected="one of " + ", ".join(labels)
                             + "; or a --mapping that names it", found=table.frame[column])  # fmt: skip
            seen[term] = seen.get(term, 0) + int(images[at])
        value, clash[at] = _settle([labels.get(term, OTHER) for term in terms], annotated)
        silent[at] = value is None
        made.append(value)
    result = pd.Series(np.array([*made, None], object)[codes], index=table.frame.index, dtype="str")
    unlisted = {term: OTHER for term in seen if term not in labels}
    vocabulary = mapping_table({**labels, **unlisted}, seen)
    counts = {"'No Finding' beside a finding, dropped": int(clash[codes].sum()),
              "labels that say nothing of findings": int(silent[codes].sum()),
              "no labels at all": int((codes < 0).sum())}  # fmt: skip
    return Labelled(result, vocabulary, annotated, {k: n for k, n in counts.items() if n})


def _settle(found: Sequence[str], annotated: Sequence[str]) -> tuple[str | None, bool]:
    """The label text of one image from what its terms became, and whether "No Finding" stood beside a finding."""
    present = list(dict.fromkeys(f for finding in found for f in targets(finding)))
    disease = [f for f in present if f != NO_FINDING and f not in DEVICES]
    other = OTHER in found
    clash = NO_FINDING in present and bool(disease or other)
    if clash:
        present.remove(NO_FINDING)
    if other and not disease:
        return format_labels({f: int(f in present) for f in annotated}) or None, clash
    return format_labels(dict.fromkeys(present, PRESENT)) or None, clash


def label_columns(table: Table, labels: Mapping[str, str], columns: Mapping[str, str]) -> Labelled:
    """Labels of a source with one column of 1, 0, -1 and blank per finding (CheXpert, MIMIC-CXR).

    ``columns`` gives the official name of each column of ``table``. A blank is "not mentioned", and read as absent
    where the row names anything, as the archives' own baselines do.
    """
    names = [name for name in columns if name in table.frame and labels.get(columns[name], OTHER) != OTHER]
    findings = annotated_by({name: labels[columns[name]] for name in names})
    coded = np.full((len(table.frame), len(findings)), 9, np.int8)
    seen = {}
    for name in names:
        text = table.frame[name].str.replace(r"\.0+$", "", regex=True)
        values = text.map({"1": PRESENT, "0": ABSENT, "-1": UNCERTAIN})
        table.refuse(text.notna() & values.isna(), columns[name], "not a label",
                     expected="1, 0, -1 (uncertain) or blank", found=table.frame[name])  # fmt: skip
        seen[columns[name]] = int((values == PRESENT).sum())
        value = values.fillna(9).to_numpy(np.int8)
        for finding in targets(labels[columns[name]]):
            at = findings.index(finding)
            coded[:, at] = _either(coded[:, at], value)
    inverse, first = _patterns(coded)
    patterns = coded[first]
    texts: list[str | None] = []
    clash = np.zeros(len(patterns), bool)
    for at, pattern in enumerate(patterns):
        named = {f: int(v) for f, v in zip(findings, pattern, strict=True) if v != 9}
        if contradicts(named):
            clash[at] = True
            del named[NO_FINDING]
        texts.append(format_labels(named) or None)
    result = pd.Series(np.array(texts, object)[inverse], index=table.frame.index, dtype="str")
    counts = {"'No Finding' beside a finding, dropped": int(clash[inverse].sum()),
              "no labels at all": int(result.isna().sum())}  # fmt: skip
    vocabulary = mapping_table({c: labels.get(c, OTHER) for c in columns.values()}, seen)
    return Labelled(result, vocabulary, findings, {k: n for k, n in counts.items() if n})


def _patterns(coded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each row's pattern (n,), and the first row of every pattern; (n, F) of int8."""
    numbers = np.zeros(len(coded), np.int64)
    for column in coded.T:  # the patterns so far are numbered anew each time, so nothing overflows
        numbers = pd.factorize(numbers * 12 + (column + 1))[0].astype(np.int64)
    _, first = np.unique(numbers, return_index=True)
    return numbers, first


def _either(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two codes of one finding: present if either is, then uncertain, then absent, else blank."""
    both = [(a == code) | (b == code) for code in (PRESENT, UNCERTAIN, ABSENT)]
    return np.select(both, [PRESENT, UNCERTAIN, ABSENT], 9).astype(np.int8)


def mapping_table(labels: Mapping[str, str], seen: Mapping[str, int]) -> pd.DataFrame:
    """``label, finding, images``, the most frequent labels first."""
    rows = [(label, finding, int(seen.get(label, 0))) for label, finding in labels.items()]
    table = pd.DataFrame(rows, columns=["label", "finding", "images"])
    return table.sort_values(["images", "label"], ascending=[False, True], ignore_index=True)


def apply_policy(labels: pd.Series, policy: Policy) -> tuple[pd.Series, dict[str, int], int]:
    """Uncertain labels by a policy (:class:`cxraug.studies.sources.contract.ImportSettings`).

    Returns the labels, the number of uncertain images of each finding, and how often "No Finding" had to be dropped
    because an uncertain finding became present.
    """
    codes, texts = pd.factorize(labels)
    images = np.bincount(codes[codes >= 0], minlength=len(texts))
    value = {"zeros": ABSENT, "ones": PRESENT}.get(policy, UNCERTAIN)
    uncertain: dict[str, int] = {}
    dropped = 0
    made: list[str | None] = []
    for at, text in enumerate(texts):
        if "?" not in text:
            made.append(text)
            continue
        named = parse_labels(str(text))
        doubtful = [f for f, v in named.items() if v == UNCERTAIN]
        for finding in doubtful:
            uncertain[finding] = uncertain.get(finding, 0) + int(images[at])
            named[finding] = value
        if policy == "ignore" and doubtful and len(doubtful) == len(named):
            named = {}
        if contradicts(named):
            del named[NO_FINDING]
            dropped += int(images[at])
        made.append(format_labels(named) or None)
    result = pd.Series(np.array([*made, None], object)[codes], index=labels.index, dtype="str")
    return result, dict(sorted(uncertain.items())), dropped
