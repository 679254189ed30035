"""NIH ChestX-ray14: 112,120 frontal X-rays of 30,805 patients, 14 findings mined from reports."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.sources.ages import read_ages
from cxraug.studies.sources.boxes import boxes_json, refuse_flat, without_repeated
from cxraug.studies.sources.contract import TRAINVAL, Extract, ImportSettings, Source
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.official import mapped, numbers, read_list, read_official, required_values
from cxraug.studies.sources.vocabulary import edited, label_terms
from cxraug.studies.table import Table

COLUMNS = {
    "image": ("Image Index",),
    "findings": ("Finding Labels",),
    "patient": ("Patient ID",),
    "age": ("Patient Age",),
    "sex": ("Patient Gender", "Patient Sex"),
    "view": ("View Position",),
}
BOX_COLUMNS = {
    "image": ("Image Index",),
    "label": ("Finding Label",),
    "x": ("Bbox [x", "Bbox [x,y,w,h]", "x"),
    "y": ("y",),
    "w": ("w",),
    "h": ("h]", "h"),
}
LABELS = {
    **{f: f for f in ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis",
                      "Hernia", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax")},
    "Pleural_Thickening": "Pleural Thickening",
    "No Finding": NO_FINDING,
}  # fmt: skip
BOX_LABELS = {**LABELS, "Infiltrate": "Infiltration"}
SEXES = {"m": "M", "f": "F", "male": "M", "female": "F"}
VIEWS = {"pa": "PA", "ap": "AP"}
LISTS = {"train_val_list.txt": TRAINVAL, "test_list.txt": "test"}
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017*.csv")


def read(folder: Folder, settings: ImportSettings) -> Extract:
    """The table, the two lists of the official split and the boxes."""
    path = folder.need(*TABLES, what="the table of labels")
    table = read_official(path, COLUMNS)
    frame = table.frame
    name = required_values(table, "image", "Image Index")
    age, counts = read_ages(table, "age", "Patient Age")
    labelled = label_terms(table, "findings", "Finding Labels", edited(LABELS, settings.mapping), closed=True,
                           split=_terms)  # fmt: skip
    frame = pd.DataFrame({
        "image": "images/" + name,
        "patient_id": nih_patient(table, required_values(table, "patient", "Patient ID")),
        "study_id": name.str.rpartition(".")[0],
        "view": mapped(table, "view", "View Position", VIEWS).fillna("unknown"),
        "sex": mapped(table, "sex", "Patient Gender", SEXES),
        "age": age,
        "labels": labelled.labels,
        "source_labels": frame["findings"],
    })  # fmt: skip
    counts |= labelled.counts
    frame["boxes"] = name.map(_boxes(folder, counts, set(name))).astype("str")
    split, missing = _official_split(folder, table, name)
    whole = Table(frame, path, table.rows, called={"image": "Image Index"})
    return Extract(whole, labelled.vocabulary, labelled.annotated, split, missing,
                   counts=counts, files=folder.read)  # fmt: skip


def nih_patient(table: Table, ids: pd.Series) -> pd.Series:
    """``nih-00000001`` from the number of a patient; other archives that took images from here use it too."""
    digits = ids.str.fullmatch(r"\d{1,8}", na=False)
    table.refuse(~digits, "Patient ID", "not a number of a patient", expected="up to 8 digits", found=ids)
    return "nih-" + ids.str.zfill(8)


def _terms(text: str) -> list[str]:
    return [term.strip() for term in text.split("|")]


def _boxes(folder: Folder, counts: dict[str, int], known: set[str]) -> pd.Series:
    """The radiologists' boxes by image (984 of 880 images, in the 1024 pixels of the published PNGs)."""
    path = folder.find("BBox_List_2017.csv", "BBox_List_2017*.csv")
    if path is None:
        return pd.Series(dtype="str")
    table = read_official(path, BOX_COLUMNS)
    required_values(table, "image", "Image Index")
    boxes = pd.DataFrame({side: numbers(table, side, BOX_COLUMNS[side][0]) for side in "xywh"})
    for side in "xywh":
        table.refuse(boxes[side].isna(), BOX_COLUMNS[side][0], "blank", expected="a number", found=boxes[side])
    boxes["image"] = table.frame["image"]
    label = table.frame["label"].map(BOX_LABELS)
    table.refuse(label.isna(), "Finding Label", "unknown label", expected="one of " + ", ".join(BOX_LABELS),
                 found=table.frame["label"])  # fmt: skip
    boxes["label"] = label
    refuse_flat(table, boxes, "Bbox [x,y,w,h]")
    boxes = without_repeated(boxes, counts)
    counts["boxes"] = len(boxes)
    lost = ~boxes["image"].isin(known)
    if lost.any():
        counts["boxes of images that are not in the table, left out"] = int(lost.sum())
    return boxes_json(boxes[~lost])


def _official_split(folder: Folder, table: Table, name: pd.Series) -> tuple[pd.Series | None, str]:
    found = {file: folder.find(file) for file in LISTS}
    missing = [file for file, path in found.items() if path is None]
    if missing:
        if len(missing) < len(LISTS):
            raise InputError("half of the official split is missing", file=folder.root / missing[0],
                             found=next(f for f in LISTS if f not in missing),
                             expected="both lists, or --split patients")  # fmt: skip
        return None, " and ".join(LISTS)
    split: pd.Series = pd.Series(np.nan, index=name.index, dtype="str")
    for file, part in LISTS.items():
        path = found[file]
        assert path is not None
        listed = name.isin(read_list(path))
        both = listed & split.notna()
        table.refuse(both, "Image Index", "an image in both official lists", expected="each in one", found=name)
        split[listed] = part
    table.refuse(split.isna(), "Image Index", "an image in neither official list", found=name,
                 expected="each in train_val_list.txt or test_list.txt, or --split patients")  # fmt: skip
    return split, ""


SOURCE = Source(
    key="nih",
    name="nih_cxr14",
    title="NIH ChestX-ray14 (Wang et al. 2017)",
    licence="unrestricted use; link, cite and name the NIH Clinical Center",
    card="nih.md",
    layout={
        "Data_Entry_2017_v2020.csv": "labels, age, sex, view",
        "train_val_list.txt, test_list.txt": "official split",
        "BBox_List_2017.csv": "boxes of 880 images",
        "images_0xx/images/*.png": "images",
    },
    labels=LABELS,
    closed=True,
    read=read,
)
