"""RSNA Pneumonia Detection Challenge 2018: 26,684 labelled X-rays of the NIH archive, boxes of radiologists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.storage import read_json
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.sources.ages import read_ages
from cxraug.studies.sources.boxes import boxes_json, refuse_flat, without_repeated
from cxraug.studies.sources.contract import Extract, ImportSettings, Source
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.headers import fill_from_headers
from cxraug.studies.sources.official import groups, mapped, numbers, read_official, required_values
from cxraug.studies.sources.vocabulary import OTHER, edited, label_terms
from cxraug.studies.table import Table

COLUMNS = {"image": ("patientId",), "x": ("x",), "y": ("y",), "w": ("width",), "h": ("height",), "target": ("Target",)}
CLASSES = {"image": ("patientId",), "class": ("class",)}
HEADERS = {"image": ("PatientID",), "sex": ("PatientSex",), "age": ("PatientAge",), "view": ("ViewPosition",)}
PNEUMONIA = "Lung Opacity"
LABELS = {
    PNEUMONIA: "Pneumonia",
    "No Lung Opacity / Not Normal": OTHER,
    "Normal": NO_FINDING,
}
SEXES = {"m": "M", "f": "F"}
VIEWS = {"pa": "PA", "ap": "AP"}


def read(folder: Folder, settings: ImportSettings) -> Extract:
    """Boxes and targets, the detailed classes, and what headers or the challenge's mapping to NIH add."""
    path = folder.need("stage_2_train_labels.csv", "*stage_2_train_labels.csv", what="targets and boxes")
    table = read_official(path, COLUMNS)
    image = required_values(table, "image", "patientId")
    target = mapped(table, "target", "Target", {"0": "0", "1": "1"})
    table.refuse(target.isna(), "Target", "blank", expected="0 or 1", found=target)
    counts: dict[str, int] = {}
    boxes = without_repeated(_boxes(table, image, target), counts)
    names = image.drop_duplicates()
    mixed = image.isin(set(image[target == "1"])) & (target == "0")
    table.refuse(mixed, "Target", "an image with targets 0 and 1", expected="one of them", found=image)
    labels = edited(LABELS, settings.mapping)
    classes = _classes(folder, names, target[names.index], table)
    notes = []
    if classes is None:  # 0 says no more than that there is no such opacity
        labels = {PNEUMONIA: labels[PNEUMONIA]}
        classes = target[names.index].map({"1": PNEUMONIA}).astype("str")
        notes.append("stage_2_detailed_class_info.csv is not there: 'Normal' and 'not normal' cannot be told apart, so "
                     "'No Finding' is not annotated")  # fmt: skip
    settled = Table(pd.DataFrame({"class": classes}), path, table.rows[names.index])
    labelled = label_terms(settled, "class", "class", labels, closed=True, split=lambda text: [text])
    absent = "|".join(f"-{f}" for f in labelled.annotated)
    frame = pd.DataFrame({
        "image": "stage_2_train_images/" + names + ".dcm",
        "patient_id": "rsna-" + names,
        "study_id": names,
        "view": "unknown",
        "sex": pd.Series(np.nan, index=names.index, dtype="str"),
        "age": np.nan,
        "labels": labelled.labels.fillna(absent),
        "source_labels": classes,
        "boxes": names.map(boxes_json(boxes)).astype("str"),
    })  # fmt: skip
    counts["boxes"] = len(boxes)
    frame = frame.reset_index(drop=True)
    counts |= _add_headers(folder, frame)
    notes += _add_patients(folder, frame)
    return Extract(Table(frame, path, table.rows[names.index]), labelled.vocabulary, labelled.annotated, None,
                   "a list of a split", counts=counts, notes=notes, files=folder.read,
                   finish=fill_from_headers)  # fmt: skip


def _boxes(table: Table, image: pd.Series, target: pd.Series) -> pd.DataFrame:
    sides = pd.DataFrame({side: numbers(table, side, COLUMNS[side][0]) for side in "xywh"})
    none = sides.isna()
    table.refuse(none.any(axis=1) & ~none.all(axis=1), "x", "half a box", expected="four numbers or none",
                 found=table.frame["x"])  # fmt: skip
    table.refuse(none["x"] == (target == "1"), "Target", "a box without target 1, or 1 without a box",
                 expected="1 with a box, 0 without", found=target)  # fmt: skip
    boxes = sides.assign(image=image, label="Pneumonia")
    refuse_flat(table, boxes, "width")
    return boxes[~none["x"]]


def _classes(folder: Folder, names: pd.Series, target: pd.Series, table: Table) -> pd.Series | None:
    """The class of each image, None without the table of classes."""
    path = folder.find("stage_2_detailed_class_info.csv", "*detailed_class_info.csv")
    if path is None:
        return None
    info = read_official(path, CLASSES)
    image = required_values(info, "image", "patientId")
    kind = required_values(info, "class", "class")
    info.refuse(~kind.isin(list(LABELS)), "class", "unknown label", expected="one of " + ", ".join(LABELS), found=kind)
    pairs = pd.DataFrame({"image": image, "class": kind}).drop_duplicates()
    info.refuse(image.isin(set(pairs.loc[pairs["image"].duplicated(), "image"])), "class", "an image with two classes",
                expected="one", found=kind)  # fmt: skip
    found = names.map(pairs.set_index("image")["class"]).astype("str")
    part = Table(pd.DataFrame({"image": names}), table.file, table.rows[names.index])
    part.refuse(found.isna(), "patientId", f"an image that {path.name} does not have", expected="each in both",
                found=names)  # fmt: skip
    part.refuse((found == PNEUMONIA) != (target == "1"), "Target", "target and class disagree",
                expected="1 for Lung Opacity only", found=target)  # fmt: skip
    return found


def _add_headers(folder: Folder, frame: pd.DataFrame) -> dict[str, int]:
    """Sex, age and view from a table of the DICOM headers, where there is one."""
    path = folder.find("*dicom_headers.csv")
    if path is None:
        return {}
    table = read_official(path, HEADERS)
    ids = required_values(table, "image", "PatientID")
    table.refuse(ids.duplicated(), "PatientID", "the same image twice", expected="each once", found=ids)
    age, counts = read_ages(table, "age", "PatientAge")
    frame["sex"] = frame["study_id"].map(mapped(table, "sex", "PatientSex", SEXES).set_axis(ids)).astype("str")
    frame["age"] = frame["study_id"].map(age.set_axis(ids)).astype("float64")
    view = mapped(table, "view", "ViewPosition", VIEWS).set_axis(ids)
    frame["view"] = frame["study_id"].map(view).astype("str").fillna("unknown")
    return counts


def _add_patients(folder: Folder, frame: pd.DataFrame) -> list[str]:
    """Patients from the challenge's mapping to the NIH archive; without it every image is a patient of its own."""
    path = folder.find("pneumonia-challenge-dataset-mappings*.json")
    if path is None:
        return ["no patients are named: every image counts as a patient of its own, so images of one patient "
                "may stand in two splits; pneumonia-challenge-dataset-mappings_2018.json tells them"]  # fmt: skip
    entries = pd.DataFrame(_entries(path))
    ids = entries["subset_img_id"].astype("str")
    patient = groups(entries["orig_img_id"].astype("str"), r"^(?P<patient>\d{8})_\d+")["patient"].set_axis(ids)
    known = frame["study_id"].map(patient[~patient.index.duplicated()]).astype("str")
    frame["patient_id"] = ("nih-" + known).fillna(frame["patient_id"])
    return [f"patients are those of the NIH archive ({path.name}); {int(known.isna().sum())} images are not in it"]


def _entries(path: Path) -> list[dict[str, str]]:
    entries = read_json(path)
    keys = {"subset_img_id", "orig_img_id"}
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) and keys <= set(e) for e in entries):
        raise InputError(
            "not the challenge's mapping", file=path, expected="a list of {subset_img_id, orig_img_id, ...}"
        )
    return entries


SOURCE = Source(
    key="rsna",
    name="rsna_pneumonia",
    title="RSNA Pneumonia Detection Challenge 2018 (Shih et al. 2019)",
    licence="RSNA terms of use, with attribution; images of the NIH Clinical Center",
    card="rsna.md",
    layout={
        "stage_2_train_labels.csv": "targets and boxes",
        "stage_2_detailed_class_info.csv": "normal, not normal, opacity",
        "pneumonia-challenge-dataset-mappings_2018.json": "patients, by way of the NIH archive",
        "stage_2_train_images/*.dcm": "images; sex, age and view are in their headers",
        "*dicom_headers.csv": "the same headers as a table, where you have one",
    },
    labels=LABELS,
    closed=True,
    read=read,
)
