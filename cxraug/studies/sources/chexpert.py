"""CheXpert: 224,316 X-rays of 65,240 patients, 14 observations with an uncertain state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.sources.ages import read_ages
from cxraug.studies.sources.contract import Extract, ImportSettings, Source
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.official import groups, mapped, read_official, required_values
from cxraug.studies.sources.race import RACES, group_races
from cxraug.studies.sources.vocabulary import edited, label_columns
from cxraug.studies.table import Table

LABELS = {
    "No Finding": NO_FINDING,
    "Enlarged Cardiomediastinum": "Enlarged Cardiomediastinum",
    "Cardiomegaly": "Cardiomegaly",
    "Lung Opacity": "Lung Opacity",
    "Lung Lesion": "Lung Lesion",
    "Edema": "Edema",
    "Consolidation": "Consolidation",
    "Pneumonia": "Pneumonia",
    "Atelectasis": "Atelectasis",
    "Pneumothorax": "Pneumothorax",
    "Pleural Effusion": "Effusion",
    "Pleural Other": "Pleural Other",
    "Fracture": "Fracture",
    "Support Devices": "Support Devices",
}
OBSERVATIONS = {f"label {i}": (name,) for i, name in enumerate(LABELS)}
COLUMNS = {"path": ("Path",), **OBSERVATIONS}
PEOPLE = {"sex": ("Sex",), "age": ("Age",), "side": ("Frontal/Lateral",), "view": ("AP/PA",)}
DEMOGRAPHICS = {"patient": ("PATIENT",), "race": ("PRIMARY_RACE", "race")}
FILES = {"train.csv": "train", "valid.csv": "val", "test.csv": "test"}
PLACES = ("", "CheXpert-v1.0-small", "CheXpert-v1.0")  # as the archives unpack
SEXES = {"male": "M", "female": "F", "m": "M", "f": "F", "unknown": None}
_LAYOUT = r"(?:^|/)(?P<image>(?:train|valid|val|test)/(?P<patient>patient\d+)/(?P<study>[^/]+)/[^/]+)$"


class ChexpertSettings(ImportSettings):
    """``demographics``: the table of race and ethnicity that Stanford publishes beside the images, saved as CSV."""

    demographics: Path | None = None


def read(folder: Folder, settings: ChexpertSettings) -> Extract:
    """``train.csv`` and, where they are there, ``valid.csv`` and ``test.csv``."""
    first = folder.need("train.csv", "chexpert_train.csv", what="the table of labels", under=PLACES)
    paths = [(first, "train"), *((p, part) for name, part in FILES.items() if part != "train"
                                 and (p := folder.find(name, under=PLACES)) is not None)]  # fmt: skip
    found = [_read_part(path, part, settings) for path, part in paths]
    frame = pd.concat([extract.frame for extract in found], ignore_index=True)
    whole = found[0]
    if len(found) > 1:
        for later in found[1:]:
            whole.counts = {
                k: whole.counts.get(k, 0) + later.counts.get(k, 0) for k in {**whole.counts, **later.counts}
            }
        summed = (
            pd.concat([e.vocabulary for e in found]).groupby(["label", "finding"], sort=False, as_index=False).sum()
        )
        whole.vocabulary = summed
    rows = np.concatenate([extract.table.rows for extract in found])
    files = np.repeat([str(path) for path, _ in paths], [len(extract.frame) for extract in found])
    whole.table = Table(frame, first, rows, files=files, called={"image": "Path", "patient_id": "Path"})
    whole.split = frame.pop("part")
    there = set(whole.split)
    if settings.split == "official" and "val" not in there:
        raise InputError("no official split", file=folder.root, found="no valid.csv",
                         expected="the official files, or --split patients")  # fmt: skip
    if lost := [part for part in ("val", "test") if part not in there]:
        names = " and ".join(name for name, part in FILES.items() if part in lost)
        whole.notes.append(f"without {names} no row is in {' or '.join(lost)}: --split patients deals all patients")
    if settings.demographics is not None:
        folder.read.append(settings.demographics)
        _add_race(whole, settings.demographics)
    whole.files = folder.read
    return whole


def _read_part(path: Path, part: str, settings: ChexpertSettings) -> Extract:
    whole = part != "test"  # the released test set has paths and labels alone
    table = read_official(path, {**COLUMNS, **(PEOPLE if whole else {})}, None if whole else PEOPLE)
    names = required_values(table, "path", "Path")
    parts = groups(names, _LAYOUT)
    table.refuse(parts["image"].isna(), "Path", "not a path of CheXpert", found=names,
                 expected="CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg")  # fmt: skip
    age, counts = read_ages(table, "age", "Age", least=1)  # 0 stands for unknown: the archive has adults only
    observed = {name: OBSERVATIONS[name][0] for name in OBSERVATIONS}
    labelled = label_columns(table, edited(LABELS, settings.mapping), observed)
    side = mapped(table, "side", "Frontal/Lateral", {"frontal": "unknown", "lateral": "Lateral"})
    view = mapped(table, "view", "AP/PA", {"ap": "AP", "pa": "PA", "ll": "Lateral", "rl": "Lateral"})
    torn = (side == "unknown") & (view == "Lateral")
    if torn.any():
        counts["views called frontal and lateral at once, now unknown"] = int(torn.sum())
    frame = pd.DataFrame({
        "image": parts["image"],
        "patient_id": "chexpert-" + parts["patient"],
        "study_id": parts["patient"] + "/" + parts["study"],
        "view": side.where(torn | (side == "Lateral"), view.fillna("unknown")).astype("str"),
        "sex": mapped(table, "sex", "Sex", SEXES),
        "age": age,
        "labels": labelled.labels,
        "part": part,
    })  # fmt: skip
    return Extract(Table(frame, path, table.rows), labelled.vocabulary, labelled.annotated, parts=3,
                   counts={**counts, **labelled.counts})  # fmt: skip


def _add_race(extract: Extract, path: Path) -> None:
    """Race by patient from Stanford's table of demographics; a patient without an entry stays missing."""
    if path.suffix.lower() in (".xlsx", ".xls"):
        raise InputError("a spreadsheet", file=path, expected="the same table saved as 'CSV UTF-8'")
    table = read_official(path, DEMOGRAPHICS)
    patient = "chexpert-" + required_values(table, "patient", "PATIENT")
    race = group_races(table.frame["race"], patient)
    extract.frame["race"] = extract.frame["patient_id"].map(race).astype("str")
    extract.notes.append("race: primary race as recorded, grouped to " + ", ".join(RACES))


SOURCE = Source(
    key="chexpert",
    name="chexpert",
    title="CheXpert (Irvin et al. 2019)",
    licence="Stanford University Dataset Research Use Agreement",
    card="chexpert.md",
    layout={
        "train.csv": "labels, age, sex, view",
        "valid.csv": "the official validation set",
        "test.csv": "the test set, where you have it",
        "train/patient*/study*/view*.jpg": "images",
    },
    labels=LABELS,
    closed=True,
    read=read,
    settings=ChexpertSettings,
)
