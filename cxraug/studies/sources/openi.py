"""Indiana University (OpenI): 3,955 studies with reports annotated by MeSH terms, 7,470 X-rays."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.studies.iu import MESH
from cxraug.studies.sources.contract import Extract, ImportSettings, Source
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.official import mapped, read_official, required_values
from cxraug.studies.sources.vocabulary import NOTHING, OTHER, edited, label_terms
from cxraug.studies.table import Table

VIEW_TABLES = {
    "nlmcxr_dicom_metadata.csv": {"image": ("imageid",), "view": ("View Position",)},
    "indiana_projections.csv": {"image": ("filename",), "view": ("projection",)},
}
VIEWS = {"pa": "PA", "ap": "AP", "lateral": "Lateral", "ll": "Lateral", "rl": "Lateral", "large lateral": "Lateral",
         "frontal": "unknown"}  # fmt: skip
LABELS = {**MESH, "Tube, Inserted": "Support Devices", "Catheters, Indwelling": "Support Devices",
          "Implanted Medical Device": "Support Devices", "Medical Device": "Support Devices",
          "Granuloma": "Granuloma", "Calcified Granuloma": "Granuloma", "Scoliosis": "Scoliosis",
          "Technical Quality of Image Unsatisfactory": NOTHING, "No Indexing": NOTHING}  # fmt: skip
FOLDERS = ("", "ecgen-radiology", "reports", "NLMCXR_reports/ecgen-radiology", "NLMCXR_reports")
MAX_BYTES = 1 << 22


def read(folder: Folder, settings: ImportSettings) -> Extract:
    """One row per image that a study's XML names."""
    place = next((folder.root / f for f in FOLDERS if next((folder.root / f).glob("*.xml"), None)), None)
    if place is None:
        raise InputError("no report", file=folder.root, found="no *.xml",
                         expected="the reports of NLMCXR_reports.tgz, unpacked: ecgen-radiology/*.xml")  # fmt: skip
    paths = sorted(place.glob("*.xml"), key=lambda p: (len(p.stem), p.stem))
    rows = [row for path in paths for row in _study(path)]
    listed = pd.DataFrame(rows, columns=["image", "study", "report", "mesh", "file"])
    if listed.empty:
        raise InputError("no study names an image", file=place, expected="parentImage in the XML")
    if (listed["mesh"] == "").all():
        raise InputError("no study has MeSH terms", file=place, found=f"{len(paths)} reports",
                         expected="<MeSH><major>, as the archive has it")  # fmt: skip
    terms = listed["mesh"].where(listed["mesh"] != "", np.nan).astype("str")
    table = Table(pd.DataFrame({"mesh": terms}), place, np.arange(len(listed)) + 1)
    labels = edited({**LABELS, "": OTHER}, settings.mapping)
    labels.pop("")
    labelled = label_terms(table, "mesh", "MeSH", labels, closed=False, split=_terms)
    report = listed["report"].where(listed["report"] != "", np.nan).astype("str")
    frame = pd.DataFrame({
        "image": "images/" + listed["image"] + ".png",
        "patient_id": "openi-" + listed["study"],
        "study_id": listed["study"],
        "view": _views(folder, listed["image"]),
        "sex": pd.Series(np.nan, index=listed.index, dtype="str"),
        "age": np.nan,
        "labels": labelled.labels,
        "source_labels": terms,
        "report": report,
    })  # fmt: skip
    counts = {**labelled.counts, "studies": len(paths),
              "studies without an image": len(paths) - listed["study"].nunique(),
              "images without a report of findings or impression": int(report.isna().sum())}  # fmt: skip
    notes = ["sex and age are not in the reports as data; what was removed from the texts reads XXXX",
             "one study per patient: nobody is in two splits"]  # fmt: skip
    if (frame["view"] == "unknown").all():
        notes.append("views: no " + " or ".join(VIEW_TABLES) + " in the root")
    return Extract(Table(frame, place, table.rows), labelled.vocabulary, labelled.annotated, None, "a list of a split",
                   bare=_bare, counts=counts, notes=notes, files=[place, *folder.read])  # fmt: skip


def _study(path: Path) -> list[tuple[str, str, str, str, str]]:
    """``image, study, report, mesh, file`` of each image of one report."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError("too large for a report", file=path, expected=f"at most {MAX_BYTES} bytes")
        text = path.read_bytes()
        if b"<!ENTITY" in text:
            raise InputError("entities in the XML", file=path, expected="a report of the archive")
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"not well-formed XML ({error})", file=path, row=error.position[0],
                         expected="a report of the archive") from None  # fmt: skip
    uid = root.find("uId")
    if uid is None or not uid.get("id"):
        raise InputError("no uId", file=path, expected='<uId id="CXR1"/>, as the archive has it')
    texts = {node.get("Label"): " ".join((node.text or "").split()) for node in root.iter("AbstractText")}
    report = " ".join(f"{key}: {texts[key]}" for key in ("FINDINGS", "IMPRESSION") if texts.get(key))
    mesh = "; ".join((node.text or "").strip() for node in root.iterfind("./MeSH/major"))
    return [(image.get("id", ""), uid.get("id", ""), report, mesh, path.name) for image in root.iter("parentImage")]


def _terms(text: str) -> list[str]:
    """Headings of MeSH terms: what stands before the first slash."""
    return [heading for term in text.split(";") if (heading := term.split("/")[0].strip())]


def _views(folder: Folder, image: pd.Series) -> pd.Series:
    """Views from a table of DICOM headers or of projections, where the root has one."""
    for file, columns in VIEW_TABLES.items():
        path = folder.find(file)
        if path is None:
            continue
        table = read_official(path, columns)
        name = required_values(table, "image", columns["image"][0])
        view = mapped(table, "view", columns["view"][0], VIEWS).set_axis(_bare(name))
        found = _bare(image).map(view[~view.index.duplicated()]).astype("str")
        return found.fillna("unknown")
    return pd.Series("unknown", index=image.index, dtype="str")


def _bare(names: pd.Series) -> pd.Series:
    """``1_IM-0001-3001`` of ``CXR1_1_IM-0001-3001``, ``CXR1_IM-0001-3001`` and ``1_IM-0001-3001.dcm.png`` alike."""
    stem = names.str.replace(r"\.dcm\.png$|\.png$|\.dcm$", "", regex=True)
    return stem.str.replace(r"^CXR(?:\d+_)?(\d+_IM)", r"\1", regex=True)


SOURCE = Source(
    key="openi",
    name="openi",
    title="Indiana University chest X-ray collection, OpenI (Demner-Fushman et al. 2016)",
    licence="CC BY-NC-ND 4.0",
    card="openi.md",
    layout={
        "ecgen-radiology/*.xml": "reports with MeSH terms, and which images belong to them",
        "nlmcxr_dicom_metadata.csv or indiana_projections.csv": "views, where you have one",
        "*.png or *.dcm": "images",
    },
    labels=LABELS,
    closed=False,
    read=read,
)
