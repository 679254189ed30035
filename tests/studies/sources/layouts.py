"""A small folder in the official layout of every source: invented rows, images of a few pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from dicomfile import write as write_dicom
from PIL import Image


@dataclass(frozen=True)
class Layout:
    """What the folder holds, and what an import of it must say.

    ``table`` is the first table, ``again`` whether it has one row per image, ``columns`` a required column of every
    table, ``findings`` the images with each finding, ``splits`` the official split or None.
    """

    files: dict[str, str]
    images: tuple[str, ...]
    table: str
    columns: dict[str, str]
    again: bool
    findings: dict[str, int]
    uncertain: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] | None = None
    split_file: str = ""


NIH = Layout(
    files={
        "Data_Entry_2017_v2020.csv": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
        "00000001_000.png,Cardiomegaly|Effusion,0,1,57,M,PA,2682,2749,0.143,0.143\n"
        "00000001_001.png,No Finding,1,1,58,M,PA,2894,2729,0.143,0.143\n"
        "00000002_000.png,Pleural_Thickening,0,2,058Y,F,AP,2500,2048,0.168,0.168\n"
        "00000003_000.png,Mass,0,3,412,F,AP,2500,2048,0.168,0.168\n"
        "00000004_000.png,No Finding,0,4,006M,M,AP,2500,2048,0.168,0.168\n",
        "train_val_list.txt": "00000001_000.png\n00000001_001.png\n00000002_000.png\n00000003_000.png\n",
        "test_list.txt": "00000004_000.png\n",
        "BBox_List_2017.csv": "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00000001_000.png,Effusion,225.0847,547.0192,86.7796,79.1864\n"
        "00000001_000.png,Cardiomegaly,1,2,3,4\n"
        "00000003_000.png,Mass,10.5,20,30,40\n",
    },
    images=("images_001/images/00000001_000.png", "images_001/images/00000001_001.png",
            "images_002/images/00000002_000.png", "images_002/images/00000003_000.png",
            "images_002/images/00000004_000.png"),
    table="Data_Entry_2017_v2020.csv",
    columns={"Data_Entry_2017_v2020.csv": "Finding Labels", "BBox_List_2017.csv": "Finding Label"},
    again=True,
    findings={"Cardiomegaly": 1, "Effusion": 1, "No Finding": 2, "Pleural Thickening": 1, "Mass": 1},
    splits={"trainval": 4, "test": 1},
    split_file="train_val_list.txt",
)  # fmt: skip

_OBSERVED = ("No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,"
             "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices")  # fmt: skip

CHEXPERT = Layout(
    files={
        "train.csv": f"Path,Sex,Age,Frontal/Lateral,AP/PA,{_OBSERVED}\n"
        "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0\n"
        "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,,,,,1.0,,,\n"
        "CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Male,87,Lateral,,,,-1.0,1.0,,-1.0,,,,,1.0,,,\n"
        "CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,Unknown,0,Frontal,AP,,,,,,-1.0,,,,,,,,\n",
        "valid.csv": f"Path,Sex,Age,Frontal/Lateral,AP/PA,{_OBSERVED}\n"
        "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,0.0,1.0,1.0,1.0,0.0,0.0,0.0,"
        "0.0,0.0,0.0,0.0,0.0,0.0,0.0\n",
    },
    images=("train/patient00001/study1/view1_frontal.jpg", "train/patient00002/study2/view1_frontal.jpg",
            "train/patient00002/study2/view2_lateral.jpg", "train/patient00003/study1/view1_frontal.jpg",
            "valid/patient64541/study1/view1_frontal.jpg"),
    table="train.csv",
    columns={"train.csv": "Pleural Effusion", "valid.csv": "Path"},
    again=True,
    findings={"No Finding": 1, "Support Devices": 1, "Lung Opacity": 3, "Effusion": 2, "Cardiomegaly": 1,
              "Enlarged Cardiomediastinum": 1},
    uncertain={"Cardiomegaly": 2, "Edema": 3},
    splits={"train": 4, "val": 1},
)  # fmt: skip

_MIMIC_ROWS = (
    ("d1", "10000032", "50414267", "PA", "21800506"),
    ("d2", "10000032", "50414267", "LATERAL", "21800506"),
    ("d3", "10000764", "57375967", "AP", "21321015"),
    ("d4", "11000898", "50771383", "LAO", "21880327"),
)
MIMIC = Layout(
    files={
        "mimic-cxr-2.0.0-metadata.csv": "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,"
        "Rows,Columns,StudyDate,StudyTime\n"
        + "".join(f"{d},{p},{s},CHEST,{v},3056,2544,{day},213014.531\n" for d, p, s, v, day in _MIMIC_ROWS),
        "mimic-cxr-2.0.0-chexpert.csv": "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,"
        "Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,"
        "Pneumonia,Pneumothorax,Support Devices\n"
        "10000032,50414267,,,,,,,,,1.0,,,,,\n10000764,57375967,,,1.0,,,,,,,0.0,,-1.0,,\n",
        "mimic-cxr-2.0.0-split.csv": "dicom_id,study_id,subject_id,split\n"
        "d1,50414267,10000032,train\nd2,50414267,10000032,train\nd3,57375967,10000764,validate\n"
        "d4,50771383,11000898,test\n",
        "files/p10/p10000032/s50414267.txt": "                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n"
        " FINDINGS: \n \n There is no\n focal consolidation.\n \n IMPRESSION: \n \n No acute process.\n",
        "hosp/patients.csv": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n"
        "10000032,F,52,2180,2014 - 2016,\n10000764,M,86,2130,2014 - 2016,\n11000898,F,91,2188,2014 - 2016,\n",
        "hosp/admissions.csv": "subject_id,hadm_id,race\n10000032,1,WHITE\n10000032,2,WHITE - RUSSIAN\n"
        "10000032,3,UNKNOWN\n10000764,4,BLACK/AFRICAN AMERICAN\n11000898,5,WHITE\n11000898,6,ASIAN - CHINESE\n",
    },
    images=tuple(f"files/p{p[:2]}/p{p}/s{s}/{d}.jpg" for d, p, s, _, _ in _MIMIC_ROWS),
    table="mimic-cxr-2.0.0-metadata.csv",
    columns={
        "mimic-cxr-2.0.0-metadata.csv": "dicom_id",
        "mimic-cxr-2.0.0-chexpert.csv": "Edema",
        "mimic-cxr-2.0.0-split.csv": "split",
        "hosp/patients.csv": "anchor_age",
        "hosp/admissions.csv": "race",
    },
    again=True,
    findings={"No Finding": 2, "Consolidation": 1},
    uncertain={"Pneumonia": 1},
    splits={"train": 2, "val": 1, "test": 1},
    split_file="mimic-cxr-2.0.0-split.csv",
)

PADCHEST = Layout(
    files={
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,"
        "PatientBirth,PatientSex_DICOM,Projection,MethodLabel,Manufacturer_DICOM,Report,Labels\n"
        "0,a.png,0,20140915,s1,p1,1930.0,F,PA,Physician,Philips, sin hallazg .,['normal']\n"
        '1,b.png,0,20150914,s2,p2,1929.0,M,L,Physician,Philips,"derram pleural , cardiomegali .",'
        "\"[' pleural effusion', 'cardiomegaly', '']\"\n"
        "2,c.png,1,20150914,s2,p2,1929.0,M,AP_horizontal,RNN_model,Philips,derram .,\"['normal', 'pneumonia']\"\n"
        "3,d.png,1,20160101,s3,p3,,O,COSTAL,RNN_model,Philips,sin cambi .,['unchanged']\n"
        "4,e.png,1,20160101,s4,p4,2016.0,F,AP,RNN_model,Philips,costill .,['cervical rib']\n"
        "5,f.png,1,20160101,s5,p5,1950.0,F,PA,RNN_model,Philips,.,nan\n",
    },
    images=("0/a.png", "0/b.png", "1/c.png", "1/d.png", "1/e.png", "1/f.png"),
    table="PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
    columns={"PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": "ImageID"},
    again=True,
    findings={"No Finding": 1, "Effusion": 1, "Cardiomegaly": 1, "Pneumonia": 1},
)

VINDR = Layout(
    files={
        "annotations/annotations_train.csv": "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
        "v1,R1,Cardiomegaly,100,100,200,200\nv1,R2,Cardiomegaly,110,100,210,200\nv1,R3,Pleural effusion,10,10,20,20\n"
        "v2,R1,No finding,,,,\nv2,R2,No finding,,,,\nv2,R3,No finding,,,,\n"
        "v3,R1,Other lesion,1,1,5,5\nv3,R2,Other lesion,1,1,5,5\nv3,R3,Other lesion,1,1,5,5\n",
        "annotations/image_labels_train.csv": "image_id,rad_id,Cardiomegaly,Pneumonia,No finding\n"
        + "".join(f"{v},R{r},0,{int(v == 'v1' and r < 3)},{int(v == 'v2')}\n" for v in ("v1", "v2", "v3")
                  for r in (1, 2, 3)),
        "annotations/annotations_test.csv": "image_id,class_name,x_min,y_min,x_max,y_max\n"
        "t1,Rib fracture,5,5,10,10\nt2,No finding,,,,\n",
        "annotations/image_labels_test.csv": "image_id,Rib fracture,No finding\nt1,1,0\nt2,0,1\n",
    },
    images=("train/v1.dicom", "train/v2.dicom", "train/v3.dicom", "test/t1.dicom", "test/t2.dicom"),
    table="annotations/annotations_train.csv",
    columns={
        "annotations/annotations_train.csv": "class_name",
        "annotations/image_labels_train.csv": "image_id",
        "annotations/annotations_test.csv": "x_min",
        "annotations/image_labels_test.csv": "image_id",
    },
    again=False,
    findings={"Cardiomegaly": 1, "Pneumonia": 1, "No Finding": 2, "Fracture": 1},
    uncertain={"Effusion": 1},
    splits={"trainval": 3, "test": 2},
    split_file="annotations/annotations_test.csv",
)  # fmt: skip

RSNA = Layout(
    files={
        "stage_2_train_labels.csv": "patientId,x,y,width,height,Target\n"
        "r1,,,,,0\nr2,264.0,152.0,213.0,379.0,1\nr2,562.0,152.0,256.0,453.0,1\nr3,,,,,0\n",
        "stage_2_detailed_class_info.csv": "patientId,class\nr1,No Lung Opacity / Not Normal\nr2,Lung Opacity\n"
        "r2,Lung Opacity\nr3,Normal\n",
        "pneumonia-challenge-dataset-mappings_2018.json": json.dumps(
            [{"subset_img_id": "r1", "orig_img_id": "00000001_000.png"},
             {"subset_img_id": "r2", "orig_img_id": "00000001_001.png"}]
        ),
    },
    images=("stage_2_train_images/r1.dcm", "stage_2_train_images/r2.dcm", "stage_2_train_images/r3.dcm"),
    table="stage_2_train_labels.csv",
    columns={"stage_2_train_labels.csv": "Target", "stage_2_detailed_class_info.csv": "class"},
    again=False,
    findings={"Pneumonia": 1, "No Finding": 1},
)  # fmt: skip

SIIM = Layout(
    files={
        "train-rle.csv": "ImageId, EncodedPixels\n1.2.3,-1\n1.2.4, 2058 3 1021 5\n1.2.4, 10250 2\n1.2.5,-1\n",
    },
    images=("dicom-images-train/x/y/1.2.3.dcm", "dicom-images-train/x/y/1.2.4.dcm", "dicom-images-train/x/z/1.2.5.dcm"),
    table="train-rle.csv",
    columns={"train-rle.csv": "ImageId"},
    again=False,
    findings={"Pneumothorax": 1},
)


def _iu(uid: str, mesh: tuple[str, ...], images: tuple[str, ...], findings: str = "Clear.") -> str:
    terms = "".join(f"<major>{m}</major>" for m in mesh)
    pictures = "".join(f'<parentImage id="{i}"/>' for i in images)
    return (f'<eCitation><uId id="{uid}"/><AbstractText Label="INDICATION">Pain</AbstractText>'
            f'<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">Done.'
            f"</AbstractText><MeSH>{terms}</MeSH>{pictures}</eCitation>")  # fmt: skip


OPENI = Layout(
    files={
        "ecgen-radiology/1.xml": _iu("CXR1", ("normal",), ("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001")),
        "ecgen-radiology/2.xml": _iu("CXR2", ("Cardiomegaly/mild", "Hydropneumothorax/left"), ("CXR2_IM-0652-1001",)),
        "ecgen-radiology/3.xml": _iu("CXR3", ("Spine/degenerative",), ("CXR3_IM-1384-1001",)),
        "ecgen-radiology/4.xml": _iu("CXR4", ("No Indexing",), ("CXR4_IM-2050-1001",)),
        "ecgen-radiology/5.xml": _iu("CXR5", ("normal",), ()),
        "indiana_projections.csv": "uid,filename,projection\n1,1_IM-0001-3001.dcm.png,Lateral\n"
        "1,1_IM-0001-4001.dcm.png,Frontal\n2,CXR2_IM-0652-1001.dcm.png,Frontal\n",
    },
    images=("NLMCXR_png/CXR1_1_IM-0001-3001.png", "NLMCXR_png/CXR1_1_IM-0001-4001.png",
            "NLMCXR_png/CXR2_IM-0652-1001.png", "NLMCXR_png/CXR3_IM-1384-1001.png", "NLMCXR_png/CXR4_IM-2050-1001.png"),
    table="indiana_projections.csv",
    columns={"indiana_projections.csv": "filename"},
    again=False,
    findings={"No Finding": 2, "Cardiomegaly": 1, "Effusion": 1, "Pneumothorax": 1},
)  # fmt: skip

LAYOUTS = {"nih": NIH, "chexpert": CHEXPERT, "mimic": MIMIC, "padchest": PADCHEST, "vindr": VINDR, "rsna": RSNA,
           "siim": SIIM, "openi": OPENI}  # fmt: skip


def build(key: str, root: Path, *, images: bool = True) -> Path:
    """Write the folder of a source to ``root``."""
    layout = LAYOUTS[key]
    for name, text in layout.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for number, name in enumerate(layout.images if images else ()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8), 10 * number + 5, np.uint8)
        if name.endswith((".dcm", ".dicom")):
            write_dicom(path, pixels, PatientSex="FM"[number % 2], PatientAge=f"{30 + number:03d}Y", ViewPosition="PA")
        else:
            Image.fromarray(pixels).save(path)
    return root
