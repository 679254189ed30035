"""The audit of the full tables that torchxrayvision ships: counts against pandas. benchmarks/sources.py times it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxraug.balance.audit import audit_manifest, write_audit
from cxraug.studies.manifest import Manifest, read_manifest

FOUND = importlib.util.find_spec("torchxrayvision")
DATA = Path(FOUND.origin).parent / "data" if FOUND and FOUND.origin else Path("torchxrayvision is not here")
PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"

pytestmark = pytest.mark.skipif(not (DATA / PADCHEST).exists(), reason="needs the tables of torchxrayvision")


def audited(manifest: Manifest, folder: Path) -> dict:
    """The audit, written too."""
    audit = audit_manifest(manifest, groups=("sex", "age"))
    write_audit(audit, folder)
    return audit


def saved(frame: pd.DataFrame, folder: Path) -> Manifest:
    frame.to_parquet(folder / "manifest.parquet")
    return read_manifest(folder / "manifest.parquet")


def test_nih(tmp_path: Path) -> None:
    raw = pd.read_csv(DATA / "Data_Entry_2017_v2020.csv.gz", dtype=str)
    age = raw["Patient Age"].astype(float)
    frame = pd.DataFrame(
        {
            "image": raw["Image Index"], "patient_id": raw["Patient ID"], "sex": raw["Patient Gender"],
            "age": age.where(age <= 110), "view": raw["View Position"], "labels": raw["Finding Labels"],
            "source": "nih",
        }
    )  # fmt: skip
    manifest = saved(frame, tmp_path)
    audit = audited(manifest, tmp_path / "audit")
    assert (audit["images"], audit["patients"]) == (112_120, raw["Patient ID"].nunique())
    train = manifest.frame[manifest.frame["split"] == "train"]
    for finding in ("Hernia", "Edema", "Infiltration"):
        shows = train["labels"].str.split("|").map(lambda names, f=finding: f in names)
        counted = next(f for f in audit["findings"] if f["finding"] == finding)
        assert counted["images_positive"] == shows.sum()
        assert counted["patients_positive"] == train["patient_id"][shows].nunique()
        assert counted["image_prevalence"] == pytest.approx(shows.mean())
        cell = next(c for c in audit["cells"] if (c["finding"], c["group"], c["level"]) == (finding, "age", "60-79"))
        band = train["age"].between(60, 79.999)
        assert (cell["images"], cell["images_positive"]) == (band.sum(), (band & shows).sum())
        assert cell["image_ci_low"] < cell["image_prevalence"] < cell["image_ci_high"]
        assert cell["design_effect"] > 1
    air = next(c for c in audit["confounded"] if (c["finding"], c["variable"]) == ("Pneumothorax", "view"))
    shows = train["labels"].str.contains("Pneumothorax")
    assert (air["unit"], air["level"], air["positive"]) == ("images", "PA", (shows & (train["view"] == "PA")).sum())
    assert air["ci_low"] > 1  # among images it is rarer in AP, though patients with an AP image have it twice as often
    edema = next(s for s in audit["shortcuts"] if s["finding"] == "Edema")
    assert edema["ci_low"] > 0.65  # known: Edema is read on portable AP images
    test = manifest.frame[(manifest.frame["split"] == "test") & manifest.frame["labels"].str.contains("Hernia")]
    women = next(c for c in audit["measurable"]["cells"] if (c["finding"], c["level"]) == ("Hernia", "F"))
    assert women["positive"] == test["patient_id"][test["sex"] == "F"].nunique()
    assert women["power"] < 0.8


@pytest.mark.slow
def test_chexpert(tmp_path: Path) -> None:
    raw = pd.read_csv(DATA / "chexpert_train.csv.gz", dtype=str)
    parts, names = raw["Path"].str.split("/"), list(raw.columns[5:])
    values = raw[names].astype(float)
    sign = {1.0: "", 0.0: "-", -1.0: "?"}
    labels = ["|".join(sign[v] + n for n, v in zip(names, row, strict=True) if v == v) for row in values.to_numpy()]
    side, angle = raw["Frontal/Lateral"], raw["AP/PA"]
    frame = pd.DataFrame(
        {
            "image": raw["Path"], "patient_id": parts.str[2], "study_id": parts.str[2] + "_" + parts.str[3],
            "sex": raw["Sex"].map({"Male": "M", "Female": "F"}), "age": raw["Age"].astype(float),
            "view": np.where(side == "Lateral", "Lateral", angle.where(angle.isin(["AP", "PA"]), "unknown")),
            "labels": pd.Series(labels).replace("", np.nan), "source": "chexpert",
        }
    )  # fmt: skip
    manifest = saved(frame, tmp_path)
    audit = audited(manifest, tmp_path / "audit")
    assert (audit["images"], audit["patients"]) == (223_414, 64_540)
    train = (manifest.frame["split"] == "train").to_numpy()
    edema = next(f for f in audit["findings"] if f["finding"] == "Edema")
    assert edema["images_positive"] == (values["Edema"].to_numpy()[train] == 1).sum()


@pytest.mark.slow
def test_padchest(tmp_path: Path) -> None:
    raw = pd.read_csv(DATA / PADCHEST, dtype=str).dropna(subset=["ImageID", "PatientID"]).drop_duplicates("ImageID")
    lists = [sorted({n.strip() for n in ast.literal_eval(t)} - {"", "normal", "exclude", "unchanged"})
             if isinstance(t, str) and "nan" not in t else None for t in raw["Labels"]]  # fmt: skip
    counts = pd.Series([n for names in lists if names for n in names]).value_counts()
    kept = set(counts.index[counts >= 100])
    labels = [None if t is None else "|".join(n for n in t if n in kept) or "No Finding" for t in lists]
    age = raw["StudyDate_DICOM"].str[:4].astype(float) - raw["PatientBirth"].astype(float)
    view = raw["Projection"].map({"PA": "PA", "L": "Lateral", "AP": "AP", "AP_horizontal": "AP Supine"})
    frame = pd.DataFrame(
        {
            "image": raw["ImageID"], "patient_id": raw["PatientID"], "study_id": raw["StudyID"],
            "sex": raw["PatientSex_DICOM"].where(raw["PatientSex_DICOM"].isin(["M", "F"])),
            "age": age.where(age.between(0, 110)), "view": view.fillna("unknown"), "labels": labels,
            "source": "padchest",
        }
    )  # fmt: skip
    manifest = saved(frame, tmp_path)
    audit = audited(manifest, tmp_path / "audit")
    assert audit["images"] == len(raw)
    train = manifest.frame[manifest.frame["split"] == "train"]
    shows = train["labels"].fillna("").str.split("|").map(lambda names: "cardiomegaly" in names)
    heart = next(f for f in audit["findings"] if f["finding"] == "cardiomegaly")
    assert (heart["images_positive"], heart["patients_positive"]) == (shows.sum(), train["patient_id"][shows].nunique())
