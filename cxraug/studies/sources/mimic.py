"""MIMIC-CXR(-JPG): 377,110 X-rays of 65,379 patients of Boston, reports, CheXpert or NegBio labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.studies.columns import MAX_AGE
from cxraug.studies.sources.chexpert import LABELS
from cxraug.studies.sources.contract import Extract, ImportSettings, Source
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.official import mapped, numbers, read_official, required_values
from cxraug.studies.sources.race import RACES, group_races
from cxraug.studies.sources.sections import read_reports
from cxraug.studies.sources.vocabulary import edited, label_columns
from cxraug.studies.table import Table

IDS = {"image": ("dicom_id",), "patient": ("subject_id",), "study": ("study_id",)}
COLUMNS = {**IDS, "view": ("ViewPosition",), "date": ("StudyDate",)}
OBSERVATIONS = {f"label {i}": (name,) for i, name in enumerate(LABELS)}
SPLIT = {"image": ("dicom_id",), "split": ("split",)}
PATIENTS = {"patient": ("subject_id",), "sex": ("gender",), "age": ("anchor_age",), "year": ("anchor_year",)}
ADMISSIONS = {"patient": ("subject_id",), "race": ("race", "ethnicity")}
SPLITS = {"train": "train", "validate": "val", "validation": "val", "test": "test"}
SEXES = {"m": "M", "f": "F"}
VIEWS = {"pa": "PA", "ap": "AP", "lateral": "Lateral", "ll": "Lateral", "rl": "Lateral", "xtable lateral": "Lateral"}
LABELLERS = ("chexpert", "negbio")
TOPPED = 89  # above this age MIMIC-IV publishes 91


class MimicSettings(ImportSettings):
    """Settings of MIMIC-CXR.

    Attributes
    ----------
    mimic_iv : the folder with MIMIC-IV's ``patients.csv.gz`` and ``admissions.csv.gz`` (or ``hosp/``): sex, age, race.
    reports : the folder with ``p10/p10000032/s50414267.txt``, or ``mimic_cxr_sectioned.csv``; by default looked for
        below the root.
    """

    mimic_iv: Path | None = None
    reports: Path | None = None


def read(folder: Folder, settings: MimicSettings) -> Extract:
    """Metadata, labels, the official split, and what MIMIC-IV and the reports add."""
    path = folder.need("mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.*-metadata.csv", what="the table of images")
    table = read_official(path, COLUMNS)
    given = {name: required_values(table, name, COLUMNS[name][0]) for name in IDS}
    for name in ("patient", "study"):
        table.refuse(~given[name].str.fullmatch(r"\d{8}", na=False), COLUMNS[name][0], "not a number of MIMIC-CXR",
                     expected="8 digits", found=given[name])  # fmt: skip
    patient, study = given["patient"], given["study"]
    view = table.frame["view"].str.lower().map(VIEWS).astype("str")
    where = "files/p" + patient.str.slice(0, 2) + "/p" + patient + "/s" + study + "/" + given["image"]
    labels, extract = _labels(folder, settings, study)
    extract.table = Table(pd.DataFrame({
        "image": where + ".jpg",
        "patient_id": "mimic-" + patient,
        "study_id": study,
        "view": view.fillna("unknown"),
        "sex": pd.Series(np.nan, index=study.index, dtype="str"),
        "age": np.nan,
        "labels": labels,
    }), path, table.rows, called={"image": "dicom_id"})  # fmt: skip
    if (odd := view.isna() & table.frame["view"].notna()).any():
        extract.counts["views that are neither PA, AP nor lateral, now unknown"] = int(odd.sum())
    extract.split, extract.split_missing = _official_split(folder, table)
    if settings.mimic_iv is not None:
        _add_people(extract, settings.mimic_iv, patient, table)
    else:
        extract.notes.append("no sex, age or race: they come from MIMIC-IV (--mimic-iv FOLDER)")
    report = read_reports(folder, settings.reports, patient, study)
    if report is None:
        extract.notes.append("no reports: they come with MIMIC-CXR (--reports FOLDER or mimic_cxr_sectioned.csv)")
    else:
        extract.frame["report"] = report
        extract.counts["images without a report of findings or impression"] = int(report.isna().sum())
    extract.files = folder.read
    return extract


def _labels(folder: Folder, settings: MimicSettings, study: pd.Series) -> tuple[pd.Series, Extract]:
    """Labels by study, brought to the images; counts are of images."""
    names = [f"mimic-cxr-2.*-{labeller}.csv" for labeller in LABELLERS]
    path = folder.need(*names, what="the table of labels")
    labelled_table = read_official(path, {"study": ("study_id",), **OBSERVATIONS})
    ids = required_values(labelled_table, "study", "study_id")
    labelled_table.refuse(ids.duplicated(), "study_id", "the same study twice", expected="each once", found=ids)
    observed = {name: OBSERVATIONS[name][0] for name in OBSERVATIONS}
    at = pd.Index(ids).get_indexer(pd.Index(study))
    spread = Table(
        labelled_table.frame.iloc[at[at >= 0]].reset_index(drop=True), path, labelled_table.rows[at[at >= 0]]
    )
    found = label_columns(spread, edited(LABELS, settings.mapping), observed)
    labels = pd.Series(np.nan, index=study.index, dtype="str")
    labels[at >= 0] = found.labels.to_numpy()
    counts = dict(found.counts)
    if (at < 0).any():
        counts["images of studies without a row of labels"] = int((at < 0).sum())
    notes = [f"labels by {path.name}"]
    empty = Table(pd.DataFrame(), path, np.array([]))
    return labels, Extract(empty, found.vocabulary, found.annotated, counts=counts, notes=notes)


def _official_split(folder: Folder, table: Table) -> tuple[pd.Series | None, str]:
    path = folder.find("mimic-cxr-2.*-split.csv")
    if path is None:
        return None, "mimic-cxr-2.0.0-split.csv.gz"
    listed = read_official(path, SPLIT)
    image = required_values(listed, "image", "dicom_id")
    listed.refuse(image.duplicated(), "dicom_id", "the same image twice", expected="each once", found=image)
    part = mapped(listed, "split", "split", SPLITS).set_axis(image)
    split = table.frame["image"].map(part).astype("str")
    table.refuse(split.isna(), "dicom_id", f"an image that {path.name} does not have", found=table.frame["image"],
                 expected="every image in one part, or --split patients")  # fmt: skip
    return split, ""


def _add_people(extract: Extract, folder: Path, patient: pd.Series, table: Table) -> None:
    """Sex, age at the study and race from MIMIC-IV.

    Age is ``anchor_age`` plus the years from ``anchor_year`` to the study: dates of one patient are shifted together.
    Patients above 89 are published as 91 and stay so. Race: see :mod:`cxraug.studies.sources.race`.
    """
    iv = Folder(folder)
    path = iv.need("patients.csv", what="MIMIC-IV's table of patients", under=("", "hosp", "core"))
    people = read_official(path, PATIENTS)
    ids = required_values(people, "patient", "subject_id")
    people.refuse(ids.duplicated(), "subject_id", "the same patient twice", expected="each once", found=ids)
    frame = extract.frame
    frame["sex"] = patient.map(mapped(people, "sex", "gender", SEXES).set_axis(ids)).astype("str")
    date = table.frame["date"]
    year = pd.to_numeric(date.str.slice(0, 4), errors="coerce").astype("float64")
    table.refuse(date.notna() & year.isna(), "StudyDate", "not a date", expected="YYYYMMDD", found=date)
    anchor = numbers(people, "age", "anchor_age").set_axis(ids)
    age = patient.map(anchor) + year - patient.map(numbers(people, "year", "anchor_year").set_axis(ids))
    odd = age.notna() & ~age.between(0, MAX_AGE)
    frame["age"] = age.where(~odd)
    known = patient.isin(set(ids))
    topped = int((patient.map(anchor) > TOPPED).sum())
    counts = {"images of patients who are not in MIMIC-IV": int((~known).sum()),
              "impossible ages, now missing": int(odd.sum()),
              f"ages from patients above {TOPPED}, published as 91": topped}  # fmt: skip
    extract.counts |= {what: n for what, n in counts.items() if n}
    if not known.any():
        raise InputError("none of the patients is in it", file=path, column="subject_id", found=ids.iloc[0],
                         expected=f"patients such as {patient.iloc[0]}")  # fmt: skip
    extract.files += iv.read
    admissions = iv.find("admissions.csv", under=("", "hosp", "core"))
    if admissions is None:
        extract.notes.append("no race: admissions.csv.gz of MIMIC-IV is not there")
        return
    stays = read_official(admissions, ADMISSIONS)
    race = group_races(stays.frame["race"], required_values(stays, "patient", "subject_id"))
    frame["race"] = patient.map(race).astype("str")
    extract.notes.append("race: the one recorded most often over all admissions, grouped to " + ", ".join(RACES))


SOURCE = Source(
    key="mimic",
    name="mimic-cxr",
    title="MIMIC-CXR-JPG (Johnson et al. 2019)",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    card="mimic-cxr.md",
    layout={
        "mimic-cxr-2.0.0-metadata.csv.gz": "images, views, dates",
        "mimic-cxr-2.0.0-chexpert.csv.gz (or -negbio)": "labels of each study",
        "mimic-cxr-2.0.0-split.csv.gz": "official split",
        "files/p10/p*/s*/*.jpg": "images",
        "files/p10/p*/s*.txt or mimic_cxr_sectioned.csv": "reports",
        "patients.csv.gz, admissions.csv.gz (--mimic-iv)": "sex, age, race",
    },
    labels=LABELS,
    closed=True,
    read=read,
    settings=MimicSettings,
)
