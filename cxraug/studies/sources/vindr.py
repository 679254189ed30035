"""VinDr-CXR: 18,000 frontal X-rays of two hospitals of Hanoi, those for training read by three radiologists each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from cxraug.errors import InputError
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.sources.boxes import boxes_json, refuse_flat
from cxraug.studies.sources.consensus import agreed_boxes, agreed_labels
from cxraug.studies.sources.contract import TRAINVAL, Extract, ImportSettings, Source
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.headers import fill_from_headers
from cxraug.studies.sources.official import numbers, read_official, required_values
from cxraug.studies.sources.vocabulary import OTHER, Labelled, annotated_by, edited, targets
from cxraug.studies.sources.votes import vote_texts
from cxraug.studies.table import Table, read_table

BOXES = {"image": ("image_id",), "label": ("class_name",), "x": ("x_min",), "y": ("y_min",), "right": ("x_max",),
         "bottom": ("y_max",)}  # fmt: skip
READER = {"reader": ("rad_id",)}
LABELS = {
    "Aortic enlargement": "Aortic Enlargement",
    "Atelectasis": "Atelectasis",
    "COPD": "COPD",
    "Calcification": "Calcification",
    "Cardiomegaly": "Cardiomegaly",
    "Clavicle fracture": "Fracture",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Emphysema": "Emphysema",
    "Enlarged PA": "Enlarged Pulmonary Artery",
    "ILD": "Interstitial Lung Disease",
    "Infiltration": "Infiltration",
    "Lung Opacity": "Lung Opacity",
    "Lung cavity": "Lung Cavity",
    "Lung cyst": "Lung Cyst",
    "Lung tumor": "Lung Tumour",
    "Mediastinal shift": "Mediastinal Shift",
    "Nodule/Mass": "Nodule or Mass",
    "Pleural effusion": "Effusion",
    "Pleural thickening": "Pleural Thickening",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Pulmonary fibrosis": "Fibrosis",
    "Rib fracture": "Fracture",
    "Tuberculosis": "Tuberculosis",
    "Other lesion": OTHER,
    "Other disease": OTHER,
    "Other diseases": OTHER,
    "No finding": NO_FINDING,
}
KAGGLE = {"Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration",
          "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax",
          "Pulmonary fibrosis", "No finding"}  # fmt: skip
TRAIN = ("annotations_train.csv", "train.csv", "vinbigdata-train.csv")
PLACES = ("", "annotations")


class VindrSettings(ImportSettings):
    """``least``: how many of an image's readers make a finding or a box; ``overlap``: intersection over union at which
    two readers' boxes are one."""

    least: int = Field(2, ge=1)
    overlap: float = Field(0.4, gt=0, le=1)


@dataclass(frozen=True, eq=False)
class _Part:
    """One of the two tables: its images, what each reader says, the boxes (``image, label, reader, x, y, w, h``)."""

    table: Table
    images: pd.Series
    votes: pd.DataFrame
    boxes: pd.DataFrame
    split: str


def read(folder: Folder, settings: VindrSettings) -> Extract:
    """Boxes of the readers and, where they are there, the global labels and the test set."""
    path = folder.need(*TRAIN, what="one row per box and radiologist", under=PLACES)
    labels = edited(LABELS, settings.mapping)
    whole = folder.find("image_labels_train.csv", under=PLACES)
    parts = [_read_part(path, whole, labels, TRAINVAL)]
    if (test := folder.find("annotations_test.csv", under=PLACES)) is not None:
        parts.append(_read_part(test, folder.find("image_labels_test.csv", under=PLACES), labels, "test"))
    given = _given_labels(labels, parts)
    labelled = [_label(part, given, settings) for part in parts]
    frame = pd.concat([_frame(*both, settings) for both in zip(parts, labelled, strict=True)], ignore_index=True)
    rows = np.concatenate([part.table.rows[part.images.index] for part in parts])
    files = np.repeat([str(part.table.file) for part in parts], [len(part.images) for part in parts])
    counts = {what: sum(x.counts.get(what, 0) for x in labelled) for x in labelled for what in x.counts}
    counts["boxes of single readers"] = sum(len(part.boxes) for part in parts)
    vocabulary = pd.concat([x.vocabulary for x in labelled]).groupby(["label", "finding"], as_index=False).sum()
    notes = [f"a finding or box counts where {settings.least} of an image's readers mark it; a finding that fewer mark "
             "is uncertain", "no patient numbers are published: every image is a patient of its own"]  # fmt: skip
    split = frame.pop("part")
    table = Table(frame, path, rows, files=files, called={"image": "image_id"})
    return Extract(
        table, vocabulary.sort_values(["images", "label"], ascending=[False, True]),
        annotated_by(given), None if test is None else split, "annotations_test.csv", counts=counts, notes=notes,
        files=folder.read, finish=fill_from_headers,
    )  # fmt: skip


def _read_part(path: Path, whole: Path | None, labels: dict[str, str], split: str) -> _Part:
    test = split == "test"  # a consensus, without readers
    table = read_official(path, {**BOXES, **({} if test else READER)}, READER if test else None)
    image = required_values(table, "image", "image_id")
    label = required_values(table, "label", "class_name")
    table.refuse(~label.isin(list(labels)), "class_name", "unknown label", expected="one of " + ", ".join(labels),
                 found=label)  # fmt: skip
    votes = pd.DataFrame({"image": image, "label": label, "reader": table.frame["reader"].fillna("consensus")})
    boxes = _boxes(table, votes)
    if whole is not None:
        votes = pd.concat([votes, _global_votes(whole, labels, set(image), test=test)], ignore_index=True)
    return _Part(table, image.drop_duplicates(), votes, boxes, split)


def _given_labels(labels: dict[str, str], parts: list[_Part]) -> dict[str, str]:
    """The labels that this release annotates: Kaggle's 15, or those of PhysioNet."""
    seen = {label for part in parts for label in part.votes["label"].unique()}
    if not seen <= KAGGLE:
        return labels
    return {label: finding for label, finding in labels.items() if label in KAGGLE}


def _label(part: _Part, labels: dict[str, str], settings: VindrSettings) -> Labelled:
    readers = part.votes.groupby("image")["reader"].nunique()
    agreed = agreed_labels(_mapped(part.votes, labels), readers, settings.least)
    return vote_texts(agreed, part.images, labels, part.votes)


def _frame(part: _Part, labelled: Labelled, settings: VindrSettings) -> pd.DataFrame:
    """One row per image of a part."""
    findings = dict(zip(labelled.vocabulary["label"], labelled.vocabulary["finding"], strict=True))
    readers = part.votes.groupby("image")["reader"].nunique()
    boxes = _mapped(part.boxes[part.boxes["label"].map(lambda label: bool(targets(findings[label])))], findings)
    agreed = agreed_boxes(boxes, readers, settings.least, settings.overlap)
    labelled.counts["boxes that readers agree on"] = len(agreed)
    names = part.images
    return pd.DataFrame({
        "image": ("test/" if part.split == "test" else "train/") + names + ".dicom",
        "patient_id": "vindr-" + names,
        "study_id": names,
        "view": "PA",
        "sex": pd.Series(np.nan, index=names.index, dtype="str"),
        "age": np.nan,
        "labels": labelled.labels,
        "boxes": names.map(boxes_json(agreed)).astype("str"),
        "readers": names.map(readers),
        "part": part.split,
    })  # fmt: skip


def _mapped(votes: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
    return votes.assign(label=votes["label"].map(labels))


def _boxes(table: Table, votes: pd.DataFrame) -> pd.DataFrame:
    """Boxes of single readers; rows without a box ("No finding", global labels) are left out."""
    edges = {name: numbers(table, name, BOXES[name][0]) for name in ("x", "y", "right", "bottom")}
    none = pd.DataFrame(edges).isna()
    table.refuse(none.any(axis=1) & ~none.all(axis=1), "x_min", "half a box", expected="four numbers or none",
                 found=table.frame["x"])  # fmt: skip
    boxes = votes.assign(x=edges["x"], y=edges["y"], w=edges["right"] - edges["x"], h=edges["bottom"] - edges["y"])
    refuse_flat(table, boxes, "x_max")
    return boxes[~none.all(axis=1)]


def _global_votes(path: Path, labels: dict[str, str], known: set[str], *, test: bool) -> pd.DataFrame:
    """The global labels (one 0/1 column each) as votes; a column of another name is refused, not lost."""
    needed: dict[str, tuple[str, ...]] = {"image": ("image_id",), **({} if test else READER)}
    given = {name: (name,) for name in labels}
    header = read_official(path, needed, {**READER, **given})
    names = {name.lower() for name in (*labels, "image_id", "rad_id")}
    odd = [str(name) for name in read_table(path, unnamed=True).frame if str(name).lower() not in names]
    if odd:
        raise InputError("unknown label", file=path, row=1, column=odd[0], found=odd[0],
                         expected="one of " + ", ".join(labels) + "; or a --mapping that names it")  # fmt: skip
    image = required_values(header, "image", "image_id")
    header.refuse(~image.isin(known), "image_id", "an image without annotations", found=image,
                  expected="the images of the other table")  # fmt: skip
    reader = header.frame["reader"].fillna("consensus")
    votes = []
    for name in (n for n in labels if header.frame[n].notna().any()):
        text = header.frame[name].str.replace(r"\.0+$", "", regex=True)
        header.refuse(text.notna() & ~text.isin(["0", "1"]), name, "not a label", expected="0 or 1", found=text)
        yes = text == "1"
        votes.append(pd.DataFrame({"image": image[yes], "label": name, "reader": reader[yes]}))
    if not any(len(v) for v in votes):
        raise InputError("no label is 1", file=path, expected="one column per label, 0 or 1")
    return pd.concat(votes, ignore_index=True)


SOURCE = Source(
    key="vindr",
    name="vindr-cxr",
    title="VinDr-CXR (Nguyen et al. 2022)",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    card="vindr.md",
    layout={
        "annotations/annotations_train.csv (Kaggle: train.csv)": "one row per box and radiologist",
        "annotations/image_labels_train.csv": "global labels of each radiologist",
        "annotations/annotations_test.csv, image_labels_test.csv": "the official test set, consensus of five",
        "train/*.dicom, test/*.dicom": "images; sex and age are in their headers",
    },
    labels=LABELS,
    closed=True,
    read=read,
    settings=VindrSettings,
)
