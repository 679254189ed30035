"""Findings and impression of MIMIC-CXR's reports, from the texts or from the table of sections."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.progress import track
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.official import read_official, required_values

SECTIONS = {"study": ("study",), "findings": ("findings",), "impression": ("impression",)}
FINDINGS = ("FINDINGS", "FINDING", "FINDINGS AND IMPRESSION")
IMPRESSION = ("IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS")
_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z ()/,\-]+):", re.MULTILINE)
MAX_BYTES = 1 << 20


def sections(text: str) -> dict[str, str]:
    """The sections of a report by heading (a line that begins with capitals and a colon), white space joined.

    What stands before the first heading is the section "". A heading that comes again adds to its section.
    """
    found: dict[str, str] = {}
    headings = list(_HEADING.finditer(text))
    ends = [*(h.start() for h in headings), len(text)]
    edges = [("", 0, ends[0]), *((h.group(1).strip(), h.end(), end) for h, end in zip(headings, ends[1:], strict=True))]
    for name, start, end in edges:
        body = " ".join(text[start:end].split())
        if body:
            found[name] = f"{found[name]} {body}" if name in found else body
    return found


def report_of(text: str) -> str | None:
    """``FINDINGS: ... IMPRESSION: ...`` of a report, either alone where only it is there, None where neither is."""
    parts = sections(text)
    return _joined(next((parts[h] for h in FINDINGS if h in parts), ""),
                   next((parts[h] for h in IMPRESSION if h in parts), ""))  # fmt: skip


def _joined(findings: str, impression: str) -> str | None:
    parts = [f"{name}: {text}" for name, text in (("FINDINGS", findings), ("IMPRESSION", impression)) if text]
    return " ".join(parts) or None


def read_reports(folder: Folder, named: Path | None, patient: pd.Series, study: pd.Series) -> pd.Series | None:
    """The report of each image (n,), or None where the archive has none at hand.

    ``named`` is a table of sections (``.csv``) or a folder of texts; without it both are looked for below the root.
    """
    if named is not None and not named.exists():
        raise InputError("no such file", file=named, expected="a folder of reports, or mimic_cxr_sectioned.csv")
    table = named if named is not None and named.is_file() else None
    if table is None and named is None:
        table = folder.find("mimic_cxr_sectioned.csv", "mimic-cxr-sections/mimic_cxr_sectioned.csv")
    if table is not None:
        return _from_table(table, study)
    studies = pd.DataFrame({"patient": patient, "study": study}).drop_duplicates("study")
    relative = "p" + studies["patient"].str.slice(0, 2) + "/p" + studies["patient"] + "/s" + studies["study"] + ".txt"
    starts = (folder.root / "files", folder.root / "mimic-cxr-reports" / "files", folder.root)
    for start in starts if named is None else (named, named / "files"):
        if any((start / path).is_file() for path in relative.iloc[:100]):
            texts = [_read(start / path) for path in track(relative.tolist(), "reports")]
            by_study = pd.Series(texts, index=studies["study"].to_numpy(), dtype="str")
            return study.map(by_study).astype("str")
    if named is not None:
        raise InputError("no report of these studies", file=named, found="no " + relative.iloc[0],
                         expected="the folder that holds p10, p11, ...")  # fmt: skip
    return None


def _read(path: Path) -> str | None:
    try:
        with open(path, "rb") as stream:
            return report_of(stream.read(MAX_BYTES).decode("utf-8", errors="replace"))
    except FileNotFoundError:
        return None


def _from_table(path: Path, study: pd.Series) -> pd.Series:
    table = read_official(path, SECTIONS)
    ids = required_values(table, "study", "study").str.removeprefix("s")
    table.refuse(ids.duplicated(), "study", "the same study twice", expected="each study once", found=ids)
    clean = {name: table.frame[name].str.split().str.join(" ") for name in ("findings", "impression")}
    parts = [(name.upper() + ": " + text).fillna("") for name, text in clean.items()]
    whole = (parts[0] + " " + parts[1]).str.strip()
    report = whole.where(whole != "", np.nan).set_axis(ids)
    return study.map(report).astype("str")
