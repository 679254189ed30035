"""The real tables that torchxrayvision carries: imported whole, counted again without any code of the import."""

from __future__ import annotations

import ast
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.sources import import_measured, prepare
from cxraug.studies.iu import iu_reports
from cxraug.studies.labels import parse_labels
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.sources.runlength import draw_runs, runs

DATA = Path(find_spec("torchxrayvision").origin).parent / "data"  # type: ignore[union-attr, arg-type]
BANDS = [0, 20, 40, 60, 80, 200]
SECONDS, MEGABYTES = 10, 2048


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    kept: dict[str, tuple[Manifest, dict]] = {}

    def get(key: str) -> tuple[Manifest, dict]:
        if key not in kept:
            root = prepare(key, tmp_path_factory.mktemp(key))
            record, _, seconds, megabytes = import_measured(key, root)
            assert seconds < SECONDS
            assert megabytes < MEGABYTES
            kept[key] = read_manifest(root / "m.parquet"), record
        return kept[key]

    return get


def crossed(has: pd.Series, sex: pd.Series, age: pd.Series) -> dict[tuple, int]:
    """Images with a finding by sex and age band; what is missing is left out."""
    band = pd.cut(age, BANDS, right=False, labels=False)
    counts = has.astype(int).groupby([sex.to_numpy(), band.to_numpy()]).sum()
    return {k: int(n) for k, n in counts.items()}


def compare(manifest: Manifest, finding: str, has: pd.Series, sex: pd.Series, age: pd.Series) -> None:
    mine = pd.Series(manifest.y([finding])[:, 0] == 1)
    assert int(mine.sum()) == int(has.sum()) > 0
    frame = manifest.frame
    assert crossed(mine, frame["sex"], frame["age"]) == crossed(has, sex, age)


def test_nih_whole(imported) -> None:  # type: ignore[no-untyped-def]
    manifest, record = imported("nih")
    raw = pd.read_csv(DATA / "Data_Entry_2017_v2020.csv.gz")
    assert len(manifest) == len(raw) == 112_120
    assert manifest.frame["patient_id"].nunique() == raw["Patient ID"].nunique() == 30_805
    spelt = raw["Finding Labels"].str.replace("_", " ")
    for finding in manifest.findings:
        has = spelt.str.split("|").map(lambda terms, f=finding: f in terms)
        compare(manifest, finding, has, raw["Patient Gender"], raw["Patient Age"])
    assert len(manifest.findings) == 15
    assert not np.isnan(manifest.y()).any()
    assert manifest.frame["view"].value_counts().to_dict() == raw["View Position"].value_counts().to_dict()
    boxes = pd.read_csv(DATA / "BBox_List_2017.csv.gz", skiprows=1, header=None)
    mine = manifest.frame["boxes"].dropna().map(json.loads)
    assert record["odd"] == {"boxes": len(boxes)}
    assert len(mine) == boxes[0].nunique() == 880
    assert sum(len(b) for b in mine) == len(boxes) == 984
    area = sum(b["w"] * b["h"] for bs in mine for b in bs)
    assert area == pytest.approx((boxes[4] * boxes[5]).sum(), rel=1e-4)


@pytest.mark.slow
def test_chexpert_whole(imported) -> None:  # type: ignore[no-untyped-def]
    manifest, record = imported("chexpert")
    raw = pd.read_csv(DATA / "chexpert_train.csv.gz")
    assert len(manifest) == len(raw) == 223_414
    assert manifest.frame["patient_id"].nunique() == raw["Path"].str.split("/").str[2].nunique() == 64_540
    sex = raw["Sex"].map({"Male": "M", "Female": "F"})
    age = raw["Age"].where(raw["Age"] > 0)
    silent = raw.iloc[:, 5:].isna().all(axis=1)
    for column in raw.columns[5:]:
        finding = {"Pleural Effusion": "Effusion"}.get(column, column)
        compare(manifest, finding, raw[column] == 1, sex, age)
        if column != "No Finding":
            y = manifest.y([finding])[:, 0]
            np.testing.assert_array_equal(np.isnan(y), (raw[column] == -1) | silent)
            assert record["uncertain"].get(finding, 0) == (raw[column] == -1).sum()
    view = raw["AP/PA"].where(raw["Frontal/Lateral"] == "Frontal", "Lateral")
    torn = view.isin(["LL", "RL"])
    assert manifest.frame["view"].tolist() == view.mask(torn, "unknown").tolist()
    assert record["odd"] == {
        "views called frontal and lateral at once, now unknown": int(torn.sum()),
        "impossible ages, now missing": int((raw["Age"] == 0).sum()),
        "no labels at all": int(silent.sum()),
    }


@pytest.mark.slow
def test_padchest_whole(imported) -> None:  # type: ignore[no-untyped-def]
    manifest, record = imported("padchest")
    raw = pd.read_csv(DATA / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", low_memory=False)
    assert len(manifest) == len(raw) == 160_861
    assert manifest.frame["patient_id"].nunique() == raw["PatientID"].nunique() == 67_625
    sex = raw["PatientSex_DICOM"].where(raw["PatientSex_DICOM"].isin(["M", "F"]))
    age = raw["StudyDate_DICOM"] // 10_000 - raw["PatientBirth"]
    distinct = {t: {x.strip() for x in ast.literal_eval(t)} - {""} for t in raw["Labels"].dropna().unique()}
    terms = raw["Labels"].map(lambda t: distinct.get(t, set()))
    said = {
        "Cardiomegaly": {"cardiomegaly"},
        "COPD": {"COPD signs"},
        "Pneumonia": {"pneumonia", "atypical pneumonia"},
        "Pneumothorax": {"pneumothorax", "hydropneumothorax"},
        "Effusion": {"pleural effusion", "loculated pleural effusion", "loculated fissural effusion", "empyema",
                     "hydropneumothorax"},
        "Nodule": {"nodule", "multiple nodules"},
        "Hernia": {"hiatal hernia"},
        "Edema": {"pulmonary edema"},
        "Scoliosis": {"scoliosis"},
    }  # fmt: skip
    for finding, words in said.items():
        compare(manifest, finding, terms.map(lambda t, w=words: bool(t & w)), sex, age)
    neutral = {"unchanged", "exclude", "suboptimal study"}
    devices = {"pacemaker", "NSG tube", "endotracheal tube", "tracheostomy tube"}
    healthy = terms.map(lambda t: "normal" in t and t <= {"normal", *neutral})
    with_device = terms.map(lambda t: "normal" in t and bool(t & devices) and t <= {"normal", *neutral, *devices})
    y = manifest.y(["No Finding"])[:, 0]
    assert (y[healthy.to_numpy()] == 1).all()
    assert 0 <= (y == 1).sum() - healthy.sum() < 60  # the others have a device of another kind
    assert (y[with_device.to_numpy()] == 1).all()
    unknown = terms.map(lambda t: t <= neutral).to_numpy()
    np.testing.assert_array_equal(np.isnan(manifest.y(["Cardiomegaly"])[:, 0]), unknown)
    views = {"PA": "PA", "L": "Lateral", "AP": "AP", "AP_horizontal": "AP Supine"}
    assert manifest.frame["view"].tolist() == raw["Projection"].map(views).fillna("unknown").tolist()
    blank = raw["Report"].str.strip().isin(["", "nan"]) | raw["Report"].isna()
    np.testing.assert_array_equal(manifest.frame["report"].isna(), blank)
    assert record["odd"]["no labels at all"] == raw["Labels"].isna().sum()


@pytest.mark.slow
def test_vindr_whole(imported) -> None:  # type: ignore[no-untyped-def]
    manifest, record = imported("vindr")
    raw = pd.read_csv(DATA / "vinbigdata-train.csv.gz")
    assert len(manifest) == raw["image_id"].nunique() == 15_000
    votes = raw.drop_duplicates(["image_id", "rad_id", "class_name"]).groupby(["class_name", "image_id"]).size()
    for name, finding in {"Cardiomegaly": "Cardiomegaly", "Nodule/Mass": "Nodule or Mass", "ILD": "Interstitial Lung "
                          "Disease", "Pleural effusion": "Effusion", "No finding": "No Finding"}.items():  # fmt: skip
        assert record["findings"][finding] == (votes[name] >= 2).sum()
        assert record["uncertain"].get(finding, 0) == (votes[name] == 1).sum()
    assert record["odd"]["boxes of single readers"] == raw["x_min"].notna().sum()
    cardiac = raw[raw["class_name"] == "Cardiomegaly"].groupby("image_id")["rad_id"].nunique()
    boxed = manifest.frame["boxes"].str.contains('"Cardiomegaly"', na=False)
    assert boxed.sum() <= (cardiac >= 2).sum()
    assert boxed.sum() > 0.95 * (cardiac >= 2).sum()


@pytest.mark.slow
def test_rsna_siim_and_openi_whole(imported) -> None:  # type: ignore[no-untyped-def]
    manifest, record = imported("rsna")
    raw = pd.read_csv(DATA / "kaggle_stage_2_train_labels.csv.zip")
    heads = pd.read_csv(DATA / "kaggle_stage_2_train_images_dicom_headers.csv.gz").set_index("PatientID")
    heads = heads.loc[manifest.frame["study_id"]]
    target = raw.groupby("patientId")["Target"].max().loc[manifest.frame["study_id"]]
    compare(manifest, "Pneumonia", (target == 1).reset_index(drop=True), heads["PatientSex"].reset_index(drop=True),
            heads["PatientAge"].where(heads["PatientAge"] <= 120).reset_index(drop=True))  # fmt: skip
    assert record["odd"] == {"boxes": int(raw["Target"].sum()), "impossible ages, now missing": 5}

    manifest, record = imported("siim")
    raw = pd.read_csv(DATA / "siim-pneumothorax-train-rle.csv.gz")
    raw.columns = [c.strip() for c in raw.columns]
    masks = raw[raw["EncodedPixels"].str.strip() != "-1"]
    assert record["findings"] == {"Pneumothorax": masks["ImageId"].nunique()}
    assert record["odd"]["masks"] == len(masks)
    boxes = manifest.frame.set_index("study_id")["boxes"]
    for name, text in masks.drop_duplicates("ImageId", keep=False).iloc[::200].itertuples(index=False):
        rows, columns = np.nonzero(draw_runs(runs(text)))
        box = json.loads(boxes[name])[0]
        assert (box["x"], box["y"]) == (columns.min(), rows.min())
        assert (box["w"], box["h"]) == (np.ptp(columns) + 1, np.ptp(rows) + 1)

    manifest, record = imported("openi")
    reports = iu_reports().set_index("study_id")
    studies = manifest.frame.drop_duplicates("study_id").set_index("study_id")
    both = studies.index.intersection(reports.index)
    assert (studies.loc[both, "report"] == reports.loc[both, "report"]).all()
    for finding in ("Cardiomegaly", "Effusion", "Pneumothorax", "No Finding", "Hernia"):
        theirs = reports.loc[both, "labels"].map(lambda t, f=finding: parse_labels(t).get(f) == 1)
        y = manifest.y([finding])[manifest.frame["study_id"].duplicated().to_numpy() == 0, 0]
        mine = pd.Series(y == 1, index=studies.index).loc[both]
        assert (mine == theirs).all()
