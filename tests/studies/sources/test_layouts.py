"""What is particular to each source: values read by hand from the small folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from studies.sources.layouts import LAYOUTS, build

from cxraug.errors import InputError
from cxraug.studies.images import read_mask_values
from cxraug.studies.sources.assembly import Imported, import_source
from cxraug.studies.sources.registry import find_source


def imported(key: str, root: Path, **settings: object) -> Imported:
    source = find_source(key)
    return import_source(source, root, root / "m.parquet", source.settings(**settings), fresh=True)


def rows(done: Imported, index: str = "study_id") -> pd.DataFrame:
    return done.manifest.frame.set_index(index)


def test_nih_ages_boxes_and_patients(tmp_path: Path) -> None:
    done = imported("nih", build("nih", tmp_path))
    frame = rows(done)
    assert frame["patient_id"].tolist() == ["nih-00000001"] * 2 + [f"nih-0000000{i}" for i in (2, 3, 4)]
    np.testing.assert_array_equal(frame["age"], [57, 58, 58, np.nan, 0.5])
    assert done.record["odd"] == {"ages written as DICOM strings": 2, "impossible ages, now missing": 1, "boxes": 3}
    assert json.loads(frame.loc["00000001_000", "boxes"]) == [
        {"label": "Effusion", "x": 225.08, "y": 547.02, "w": 86.78, "h": 79.19},
        {"label": "Cardiomegaly", "x": 1, "y": 2, "w": 3, "h": 4},
    ]
    assert frame["boxes"].isna().tolist() == [False, True, True, False, True]
    assert frame.loc["00000002_000", "source_labels"] == "Pleural_Thickening"


def test_nih_reads_the_first_release_and_the_renamed_column(tmp_path: Path) -> None:
    root = build("nih", tmp_path)
    text = LAYOUTS["nih"].files["Data_Entry_2017_v2020.csv"]
    (root / "Data_Entry_2017_v2020.csv").unlink()
    first = "\n".join(line + "," for line in text.rstrip("\n").split("\n")) + "\n"  # it has a comma at every end
    (root / "Data_Entry_2017.csv").write_text(first.replace("Patient Gender", "Patient Sex"))
    assert rows(imported("nih", root))["sex"].tolist() == ["M", "M", "F", "F", "M"]


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("test_list.txt", "00000004_000.png", "00000001_000.png", "row 2.*an image in both official lists"),
        ("test_list.txt", "00000004_000.png", "00000009_000.png", "row 6.*an image in neither official list"),
        ("test_list.txt", "00000004_000.png", "", r"test_list\.txt: the file is empty"),
        ("test_list.txt", "00000004_000.png", "a.png,b.png", r"test_list\.txt, row 1: not one name a line; found 'a"),
        ("train_val_list.txt", "00000001_001.png\n", "", "row 3.*an image in neither official list"),
        ("BBox_List_2017.csv", "10.5,20,30,40", "10.5,20,30,", r"BBox_List_2017\.csv, row 4, column 'h\]': blank"),
        ("BBox_List_2017.csv", "10.5,20,30,40", "10.5,20,0,40", r"row 4, column 'Bbox \[x,y,w,h\]': a box of no size"),
        ("BBox_List_2017.csv", "Mass", "Masses", "row 4, column 'Finding Label': unknown label; found 'Masses'"),
        ("Data_Entry_2017_v2020.csv", "Cardiomegaly|", "Cardiac|", "row 2.*unknown label 'Cardiac'"),
        ("Data_Entry_2017_v2020.csv", "058Y", "old", "row 4, column 'Patient Age': age is not a number; found 'old'"),
        ("Data_Entry_2017_v2020.csv", "F,AP,2500,2048,0.168,0.168\n00000003", "W,AP,2500,2048,0.168,0.168\n00000003",
         "row 4, column 'Patient Gender': unknown value; found 'W'"),
        ("Data_Entry_2017_v2020.csv", ",3,412", ",x3,412", "row 5, column 'Patient ID': not a number of a patient"),
    ],
)  # fmt: skip
def test_nih_names_what_does_not_fit(file: str, old: str, new: str, expected: str, tmp_path: Path) -> None:
    root = build("nih", tmp_path)
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=expected):
        imported("nih", root)


def test_nih_lists_survive_marks_line_ends_and_latin(tmp_path: Path) -> None:
    root = build("nih", tmp_path)
    plain = imported("nih", root).manifest.digest()
    for file in ("test_list.txt", "train_val_list.txt"):
        text = LAYOUTS["nih"].files[file]
        (root / file).write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
        assert imported("nih", root).manifest.digest() == plain
    (root / "test_list.txt").write_bytes(b"00000004_000.png\n\xe9.png\n")
    with pytest.raises(InputError, match=r"test_list\.txt, row 2: not UTF-8 text"):
        imported("nih", root)


def test_a_patient_in_two_official_parts_is_refused(tmp_path: Path) -> None:
    root = build("nih", tmp_path)
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png\n00000003_000.png\n")
    (root / "test_list.txt").write_text("00000001_001.png\n00000004_000.png\n")
    with pytest.raises(InputError, match="row 3, column 'split': patient 'nih-00000001' in two splits"):
        imported("nih", root)
    assert imported("nih", root, split="patients").record["images"] == 5


def test_chexpert_views_states_and_race(tmp_path: Path) -> None:
    root = build("chexpert", tmp_path)
    people = root / "demo.csv"
    people.write_text("PATIENT,GENDER,AGE_AT_CXR,PRIMARY_RACE,ETHNICITY\npatient00001,Female,68,Asian,Unknown\n"
                      "patient00002,Male,87,\"White, non-Hispanic\",Non-Hispanic/Non-Latino\n")  # fmt: skip
    done = imported("chexpert", root, demographics=people)
    frame = rows(done, "image")
    assert frame["view"].tolist() == ["AP", "PA", "Lateral", "AP", "AP"]
    assert frame["sex"].fillna("-").tolist() == ["F", "M", "M", "-", "M"]
    assert frame["race"].fillna("-").tolist() == ["Asian", "White", "White", "-", "-"]
    assert frame["study_id"].iloc[1] == "patient00002/study2"
    assert done.record["odd"]["impossible ages, now missing"] == 1
    assert frame["labels"].iloc[0] == "No Finding|-Pneumothorax|Support Devices"
    with pytest.raises(InputError, match="a spreadsheet"):
        imported("chexpert", root, demographics=root / "demo.xlsx")
    (root / "valid.csv").unlink()
    assert any("--split patients" in note for note in imported("chexpert", root).record["notes"])
    (root / "train.csv").write_text(LAYOUTS["chexpert"].files["train.csv"].replace("train/patient00003", "x/p3"))
    with pytest.raises(InputError, match="row 5, column 'Path': not a path of CheXpert"):
        imported("chexpert", root)


def test_mimic_people_reports_and_views(tmp_path: Path) -> None:
    root = build("mimic", tmp_path)
    bare = imported("mimic", root)
    assert any("--mimic-iv" in note for note in bare.record["notes"])
    assert rows(bare)["sex"].isna().all()
    done = imported("mimic", root, mimic_iv=root)
    frame = done.manifest.frame
    assert frame["sex"].tolist() == ["F", "F", "M", "F"]
    np.testing.assert_array_equal(frame["age"], [52, 52, 88, 91])  # 86 in 2130, seen in 2132
    assert frame["race"].fillna("-").tolist() == ["White", "White", "Black", "-"]  # White and Asian once each
    assert frame["view"].tolist() == ["PA", "Lateral", "AP", "unknown"]
    assert frame["report"].iloc[0] == "FINDINGS: There is no focal consolidation. IMPRESSION: No acute process."
    assert frame["report"].isna().tolist() == [False, False, True, True]
    assert frame["labels"].fillna("").tolist() == ["No Finding"] * 2 + ["Consolidation|-Effusion|?Pneumonia", ""]
    odd = done.record["odd"]
    assert odd["images of studies without a row of labels"] == 1
    assert odd["ages from patients above 89, published as 91"] == 1
    assert odd["views that are neither PA, AP nor lateral, now unknown"] == 1
    assert odd["images without a report of findings or impression"] == 2
    (root / "hosp" / "patients.csv").write_text("subject_id,gender,anchor_age,anchor_year\n99999999,F,1,2000\n")
    with pytest.raises(InputError, match=r"patients\.csv, column 'subject_id': none of the patients is in it"):
        imported("mimic", root, mimic_iv=root)
    with pytest.raises(InputError, match=r"patients\.csv: no such file"):
        imported("mimic", root, mimic_iv=root / "files")


def test_mimic_takes_negbio_and_refuses_a_split_that_lacks_an_image(tmp_path: Path) -> None:
    root = build("mimic", tmp_path)
    (root / "mimic-cxr-2.0.0-chexpert.csv").rename(root / "mimic-cxr-2.1.0-negbio.csv")
    assert "labels by mimic-cxr-2.1.0-negbio.csv" in imported("mimic", root).record["notes"]
    split = root / "mimic-cxr-2.0.0-split.csv"
    split.write_text(split.read_text().replace("d4,50771383,11000898,test\n", ""))
    with pytest.raises(InputError, match="row 5, column 'dicom_id': an image that"):
        imported("mimic", root)


def test_padchest_reports_views_ages_and_labels(tmp_path: Path) -> None:
    done = imported("padchest", build("padchest", tmp_path))
    frame = done.manifest.frame.sort_values("image")
    assert frame["view"].tolist() == ["PA", "Lateral", "AP Supine", "unknown", "AP", "PA"]
    np.testing.assert_array_equal(frame["age"], [84, 86, 86, np.nan, 0, 66])
    assert frame["sex"].fillna("-").tolist() == ["F", "M", "M", "-", "F", "F"]
    assert frame["report"].iloc[1] == "derram pleural , cardiomegali ."
    assert (frame["report_language"] == "es").all()
    assert frame["label_method"].tolist() == ["Physician"] * 2 + ["RNN_model"] * 4
    np.testing.assert_array_equal(
        done.manifest.y(["No Finding"])[:, 0], [1, 0, 0, np.nan, 0, np.nan]
    )  # "normal" beside pneumonia is dropped, "unchanged" says nothing, a cervical rib is something else
    assert done.record["odd"] == {"'No Finding' beside a finding, dropped": 1, "labels that say nothing of findings": 1,
                                  "no labels at all": 1}  # fmt: skip
    path = tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    path.write_text(path.read_text().replace("['unchanged']", "unchanged"))
    with pytest.raises(InputError, match="row 5, column 'Labels': not a list of labels; found 'unchanged'"):
        imported("padchest", tmp_path)


def test_vindr_consensus_demographics_and_test_set(tmp_path: Path) -> None:
    done = imported("vindr", build("vindr", tmp_path))
    frame = rows(done)
    assert frame.loc["v1", "labels"] == "Cardiomegaly|?Effusion|Pneumonia"
    assert json.loads(frame.loc["v1", "boxes"]) == [{"label": "Cardiomegaly", "x": 105, "y": 100, "w": 100, "h": 100}]
    assert frame.loc["t1", "split"] == "test"
    assert json.loads(frame.loc["t1", "boxes"]) == [{"label": "Fracture", "x": 5, "y": 5, "w": 5, "h": 5}]
    y = done.manifest.y(["No Finding", "Mass"] if "Mass" in done.manifest.findings else ["No Finding"])
    assert dict(zip(frame.index, y[:, 0], strict=True)) == {"v1": 0, "v2": 1, "v3": 0, "t1": 0, "t2": 1}
    assert frame["sex"].isin(["F", "M"]).all()
    assert sorted(frame["age"]) == [30, 31, 32, 33, 34]
    assert frame["readers"].tolist() == [3, 3, 3, 1, 1]
    strict = imported("vindr", tmp_path, least=3)
    assert strict.record["uncertain"] == {"Cardiomegaly": 1, "Effusion": 1, "Pneumonia": 1}
    assert "No Finding" in imported("vindr", tmp_path, least=1).record["findings"]


def test_vindr_of_kaggle_annotates_what_kaggle_asked(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
                                        "v1,Cardiomegaly,3,R1,1.0,2.0,3.0,4.0\nv1,No finding,14,R2,,,,\n")  # fmt: skip
    annotated = imported("vindr", tmp_path, table_only=True).manifest.annotated["vindr-cxr"]
    assert "Nodule or Mass" in annotated
    assert "Pneumonia" not in annotated
    (tmp_path / "train.csv").write_text(
        "image_id,class_name,rad_id,x_min,y_min,x_max,y_max\nv1,Cardiomegaly,R1,1,2,,4\n"
    )
    with pytest.raises(InputError, match="row 2, column 'x_min': half a box"):
        imported("vindr", tmp_path, table_only=True)


def test_rsna_classes_patients_headers_and_boxes(tmp_path: Path) -> None:
    root = build("rsna", tmp_path)
    done = imported("rsna", root)
    frame = rows(done)
    assert frame["patient_id"].tolist() == ["nih-00000001", "nih-00000001", "rsna-r3"]
    np.testing.assert_array_equal(done.manifest.y(["Pneumonia", "No Finding"]), [[0, 0], [1, 0], [0, 1]])
    assert [b["x"] for b in json.loads(frame.loc["r2", "boxes"])] == [264, 562]
    assert frame["sex"].tolist() == ["F", "M", "F"]
    assert frame["age"].tolist() == [30, 31, 32]
    assert (frame["view"] == "PA").all()
    (root / "stage_2_detailed_class_info.csv").unlink()
    less = imported("rsna", root)
    assert less.manifest.findings == ("Pneumonia",)
    assert less.manifest.y()[:, 0].tolist() == [0, 1, 0]
    (root / "headers_dicom_headers.csv").write_text(
        "PatientID,PatientSex,PatientAge,ViewPosition\nr1,M,151,AP\nr2,F,51,PA\n"
    )
    headers = imported("rsna", root, table_only=True)
    assert rows(headers)["sex"].fillna("-").tolist() == ["M", "F", "-"]
    np.testing.assert_array_equal(rows(headers)["age"], [np.nan, 51, np.nan])
    assert rows(headers)["view"].tolist() == ["AP", "PA", "unknown"]
    assert headers.record["odd"]["impossible ages, now missing"] == 1


@pytest.mark.parametrize(("key", "file"), [("nih", "BBox_List_2017.csv"), ("rsna", "stage_2_train_labels.csv")])
def test_repeated_boxes_are_left_out_and_counted(key: str, file: str, tmp_path: Path) -> None:
    root = build(key, tmp_path)
    plain = imported(key, root)
    lines = LAYOUTS[key].files[file].rstrip("\n").split("\n")
    (root / file).write_text("\n".join([*lines, lines[2]]) + "\n")
    again = imported(key, root)
    assert again.manifest.digest() == plain.manifest.digest()
    assert again.record["odd"]["boxes repeated word for word, left out"] == 1


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("stage_2_train_labels.csv", "r3,,,,,0", "r3,,,,,1", "row 5, column 'Target': a box without target 1, or 1"),
        ("stage_2_train_labels.csv", "r3,,,,,0", "r3,,,,,2", "row 5, column 'Target': unknown value; found '2'"),
        ("stage_2_detailed_class_info.csv", "r3,Normal", "r3,Lung Opacity", "row 5.*target and class disagree"),
        ("stage_2_detailed_class_info.csv", "r3,Normal\n", "", "row 5.*an image that"),
        ("stage_2_detailed_class_info.csv", "r2,Lung Opacity\nr2,Lung Opacity", "r2,Lung Opacity\nr2,Normal",
         "row 3, column 'class': an image with two classes"),
        ("pneumonia-challenge-dataset-mappings_2018.json", "orig_img_id", "other", "not the challenge's mapping"),
    ],
)  # fmt: skip
def test_rsna_names_what_does_not_fit(file: str, old: str, new: str, expected: str, tmp_path: Path) -> None:
    root = build("rsna", tmp_path)
    (root / file).write_text((root / file).read_text().replace(old, new))
    with pytest.raises(InputError, match=expected):
        imported("rsna", root)


def test_siim_masks_become_boxes_and_files(tmp_path: Path) -> None:
    root = build("siim", tmp_path)
    done = imported("siim", root, masks=root / "masks")
    frame = rows(done)
    # 2058 = column 2, row 10: three rows; the next run starts 1021 pixels after it, one column further in the same row
    assert json.loads(frame.loc["1.2.4", "boxes"]) == [
        {"label": "Pneumothorax", "x": 2, "y": 10, "w": 2, "h": 5},
        {"label": "Pneumothorax", "x": 10, "y": 10, "w": 1, "h": 2},
    ]
    assert frame["mask"].fillna("-").tolist() == ["-", "masks/1.2.4.png", "-"]
    mask = read_mask_values(done.manifest.take([1]).paths("mask")[0])
    drawn = np.zeros((1024, 1024), np.uint8)
    drawn[10:13, 2] = drawn[10:15, 3] = drawn[10:12, 10] = 4
    np.testing.assert_array_equal(mask, drawn)
    with Image.open(root / "masks" / "1.2.4.png") as picture:
        assert picture.mode == "L"
    assert done.record["odd"] == {"masks": 2, "images with several masks": 1, "mask files": 1,
                                  "ages written as DICOM strings": 3}  # fmt: skip
    np.testing.assert_array_equal(done.manifest.y(["Pneumothorax"])[:, 0], [0, 1, 0])
    with pytest.raises(InputError, match="masks lie in the data root"):
        imported("siim", root, masks=tmp_path.parent / "masks")
    for bad, words in (("1.2.5,7 8 9", "row 5.*not pairs"), ("1.2.4,-1", "row 3.*a mask and with none|row 5")):
        text = LAYOUTS["siim"].files["train-rle.csv"].replace("1.2.5,-1", bad)
        (root / "train-rle.csv").write_text(text)
        with pytest.raises(InputError, match=words):
            imported("siim", root)


def test_openi_views_reports_and_broken_xml(tmp_path: Path) -> None:
    root = build("openi", tmp_path)
    done = imported("openi", root)
    frame = done.manifest.frame
    assert frame["view"].tolist() == ["Lateral", "unknown", "unknown", "unknown", "unknown"]
    assert (frame["report"] == "FINDINGS: Clear. IMPRESSION: Done.").all()
    assert done.record["odd"]["studies without an image"] == 1
    assert done.record["odd"]["labels that say nothing of findings"] == 1
    np.testing.assert_array_equal(
        done.manifest.y(["No Finding", "Cardiomegaly"]), [[1, 0], [1, 0], [0, 1], [0, 0], [np.nan, np.nan]]
    )
    (root / "nlmcxr_dicom_metadata.csv").write_text("imageid,View Position\nCXR3_IM-1384-1001,AP\n")
    assert imported("openi", root).manifest.frame["view"].tolist()[3] == "AP"
    for text, words in (("<a><b></a>", "row 1: not well-formed"), ("<a/>", "no uId"),
                        ('<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "entities in the XML")):  # fmt: skip
        (root / "ecgen-radiology" / "3.xml").write_text(text)
        with pytest.raises(InputError, match=rf"3\.xml.*{words}"):
            imported("openi", root)
