"""The Indiana University chest X-ray reports (Demner-Fushman et al., JAMIA 2016) that torchxrayvision carries.

3,955 reports of as many patients, CC BY-NC-ND 4.0, anonymised (what was removed reads XXXX), annotated by hand with
MeSH terms. They are read from the installed package and never copied into this one.
"""

from __future__ import annotations

import tarfile
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from cxraug.errors import InputError
from cxraug.seeds import derive_seed
from cxraug.studies.labels import NO_FINDING, format_labels

# Heading of a MeSH term (what stands before its first slash) to finding
MESH = {
    "Pulmonary Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Pulmonary Edema": "Edema",
    "Pleural Effusion": "Effusion",
    "Hydropneumothorax": "Effusion|Pneumothorax",
    "Hemopneumothorax": "Effusion|Pneumothorax",
    "Hemothorax": "Effusion",
    "Emphysema": "Emphysema",
    "Pulmonary Emphysema": "Emphysema",
    "Bullous Emphysema": "Emphysema",
    "Pulmonary Fibrosis": "Fibrosis",
    "Fractures, Bone": "Fracture",
    "Hernia, Hiatal": "Hernia",
    "Hernia, Diaphragmatic": "Hernia",
    "Infiltrate": "Infiltration",
    "Mass": "Mass",
    "Nodule": "Nodule",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "normal": NO_FINDING,
}
ANNOTATED = tuple(dict.fromkeys(f for findings in MESH.values() for f in findings.split("|")))


def iu_reports(archive: Path | None = None) -> pd.DataFrame:
    """One row per study that has findings or an impression.

    Columns: ``study_id`` (CXR1, ...), ``patient_id`` (the same: one study each), ``report`` ("FINDINGS: ... IMPRESSION:
    ..."), ``mesh`` (annotated terms, joined by "; "), ``labels`` (in the label grammar, every
    finding of :data:`ANNOTATED` present or absent; blank where the study was not annotated) and ``split`` (by hash of
    the patient: train 80 %, val 10 %, test 10 %).

    Raises
    ------
    InputError
        torchxrayvision is not installed, or carries no reports.
    """
    archive = archive or _installed()
    rows = []
    try:
        with tarfile.open(archive, "r:gz") as files:
            for member in files:
                stream = files.extractfile(member) if member.name.endswith(".xml") else None
                if stream is not None:
                    rows.append(_study(ElementTree.parse(stream).getroot()))
    except (OSError, tarfile.TarError, ElementTree.ParseError) as error:
        raise InputError(f"cannot read the IU reports ({error})", file=archive,
                         expected="NLMCXR_reports.tgz as torchxrayvision carries it") from None  # fmt: skip
    table = pd.DataFrame(rows)
    table = table[table["report"] != ""]
    return table.sort_values("study_id", key=lambda ids: ids.str[3:].astype(int)).reset_index(drop=True)


def _installed() -> Path:
    spec = find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        raise InputError("the IU reports come with torchxrayvision", expected="pip install torchxrayvision")
    path = Path(spec.origin).parent / "data" / "NLMCXR_reports.tgz"
    if not path.is_file():
        raise InputError(
            "this torchxrayvision carries no IU reports", file=path, expected="torchxrayvision 1.3 or newer"
        )
    return path


def _study(root: ElementTree.Element) -> dict[str, str]:
    identifier = root.find("uId")
    name = identifier.attrib["id"] if identifier is not None else ""
    texts = {node.attrib.get("Label"): " ".join((node.text or "").split()) for node in root.iter("AbstractText")}
    mesh = [(node.text or "").strip() for node in root.iterfind("./MeSH/major")]
    headings = [term.split("/")[0].strip() for term in mesh]
    named = {f for h in headings for f in MESH.get(h, "").split("|")}
    annotated = bool(headings) and "No Indexing" not in headings
    part = derive_seed("iu split", name) % 10
    return {
        "study_id": name,
        "patient_id": name,
        "report": " ".join(f"{key}: {texts[key]}" for key in ("FINDINGS", "IMPRESSION") if texts.get(key)),
        "mesh": "; ".join(mesh),
        "labels": format_labels({f: int(f in named) for f in ANNOTATED}) if annotated else "",
        "split": {8: "val", 9: "test"}.get(part, "train"),
    }
