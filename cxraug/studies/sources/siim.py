"""SIIM-ACR Pneumothorax Segmentation 2019: 12,047 labelled X-rays of the NIH archive with masks of pneumothorax."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.progress import track
from cxraug.storage import atomic
from cxraug.studies.sources.boxes import boxes_json
from cxraug.studies.sources.contract import Extract, ImportSettings, Source
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.headers import fill_from_headers
from cxraug.studies.sources.official import read_official, required_values
from cxraug.studies.sources.runlength import draw_runs, run_box, runs
from cxraug.studies.sources.vocabulary import edited, label_terms
from cxraug.studies.table import Table

COLUMNS = {"image": ("ImageId",), "runs": ("EncodedPixels",)}
LABELS = {"pneumothorax": "Pneumothorax"}
NONE = "-1"
LESION = 4  # the bit of a lesion in cxraug's masks


class SiimSettings(ImportSettings):
    """``masks``: a folder below the root named ``masks`` for PNG masks (value 4, a lesion); None: boxes only."""

    masks: Path | None = None


def read(folder: Folder, settings: SiimSettings) -> Extract:
    """One row per mask; several masks of an image are several boxes and one mask file, their union."""
    path = folder.need("train-rle.csv", "stage_2_train.csv", "*train-rle.csv", what="run-length masks")
    table = read_official(path, COLUMNS)
    image = required_values(table, "image", "ImageId")
    text = required_values(table, "runs", "EncodedPixels")
    positive = text != NONE
    table.refuse(image.isin(set(image[positive])) & ~positive, "EncodedPixels", "an image with a mask and with none",
                 expected="masks, or one row of -1", found=image)  # fmt: skip
    found = {at: _runs(table, int(at), text) for at in np.flatnonzero(positive)}
    sides = pd.DataFrame([run_box(r) for r in found.values()], columns=list("xywh"), dtype="float64")
    boxes = sides.assign(image=image[positive].to_numpy(), label="Pneumothorax")
    names = image.drop_duplicates()
    rows = table.rows[names.index]
    told = pd.DataFrame({"image": names, "label": np.where(positive[names.index], "pneumothorax", "")})
    labels = edited(LABELS, settings.mapping)
    labelled = label_terms(Table(told, path, rows), "label", "EncodedPixels", labels, closed=True,
                           split=lambda t: [t] if t else [])  # fmt: skip
    absent = "|".join(f"-{f}" for f in labelled.annotated)
    frame = pd.DataFrame({
        "image": "dicom-images-train/" + names + ".dcm",
        "patient_id": "siim-" + names,
        "study_id": names,
        "view": "unknown",
        "sex": pd.Series(np.nan, index=names.index, dtype="str"),
        "age": np.nan,
        "labels": labelled.labels.fillna(absent),
        "boxes": names.map(boxes_json(boxes)).astype("str"),
    }).reset_index(drop=True)  # fmt: skip
    counts = {"masks": len(found), "images with several masks": int((boxes["image"].value_counts() > 1).sum())}
    by_image = {name: [found[at] for at in group.index] for name, group in text[positive].groupby(image[positive])}

    def finish(kept: pd.DataFrame, root: Path | None) -> tuple[dict[str, int], list[str]]:
        more, notes = fill_from_headers(kept, root)
        if settings.masks is not None and root is not None:
            more["mask files"] = _write_masks(kept, root, settings.masks, by_image)
        return more, notes

    notes = ["a box is the smallest around one run-length mask; --masks FOLDER also writes the masks",
             "no patient numbers are published in the table: every image is a patient of its own"]  # fmt: skip
    return Extract(Table(frame, path, rows), labelled.vocabulary, labelled.annotated, None, "a list of a split",
                   counts=counts, notes=notes, files=folder.read, finish=finish)  # fmt: skip


def _runs(table: Table, at: int, text: pd.Series) -> np.ndarray:
    try:
        return runs(text.iloc[at])
    except ValueError as error:
        raise InputError(f"not a run-length mask: {error}", file=table.file, row=int(table.rows[at]),
                         column="EncodedPixels", found=text.iloc[at],
                         expected="gap length gap length ... within 1024 x 1024, or -1") from None  # fmt: skip


def _write_masks(frame: pd.DataFrame, root: Path, folder: Path, found: dict[str, list[np.ndarray]]) -> int:
    """Write the union of each image's masks as an 8-bit PNG, and name it in ``mask`` (relative to ``root``)."""
    from PIL import Image

    inside = os.path.relpath(os.path.abspath(folder), os.path.abspath(root)).replace(os.sep, "/")
    if inside.startswith("..") or folder.name != "masks":
        raise InputError("masks lie in the data root, in a folder of the name 'masks'", file=folder, found=folder,
                         expected=root / "masks")  # fmt: skip
    names = frame.loc[frame["study_id"].isin(set(found)), "study_id"]
    for name in track(names.tolist(), "masks"):
        mask = np.any([draw_runs(r) for r in found[name]], axis=0)
        with atomic(folder / f"{name}.png") as temporary:
            Image.fromarray(mask.astype(np.uint8) * LESION).save(temporary, format="PNG")
    frame["mask"] = (inside + "/" + names + ".png").reindex(frame.index)
    return len(names)


SOURCE = Source(
    key="siim",
    name="siim_pneumothorax",
    title="SIIM-ACR Pneumothorax Segmentation 2019",
    licence="rules of the Kaggle competition; images of the NIH Clinical Center",
    card="siim.md",
    layout={
        "train-rle.csv": "run-length masks",
        "dicom-images-train/*/*/*.dcm": "images; sex, age and view are in their headers",
    },
    labels=LABELS,
    closed=True,
    read=read,
    settings=SiimSettings,
)
