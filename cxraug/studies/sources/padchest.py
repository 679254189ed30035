"""PadChest: 160,861 X-rays of 67,625 patients of Alicante, reports in Spanish, 193 labels."""

from __future__ import annotations

import re

import pandas as pd

from cxraug.studies.columns import MAX_AGE
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.sources.contract import Extract, ImportSettings, Source
from cxraug.studies.sources.folder import Folder
from cxraug.studies.sources.official import mapped, numbers, read_official, required_values
from cxraug.studies.sources.vocabulary import NOTHING, edited, label_terms
from cxraug.studies.table import Table

COLUMNS = {
    "image": ("ImageID",),
    "study": ("StudyID",),
    "patient": ("PatientID",),
    "labels": ("Labels",),
    "date": ("StudyDate_DICOM",),
    "birth": ("PatientBirth",),
    "sex": ("PatientSex_DICOM",),
    "projection": ("Projection",),
    "report": ("Report",),
    "method": ("MethodLabel",),
}
OPTIONAL = {
    "folder": ("ImageDir",),
    "manufacturer": ("Manufacturer_DICOM",),
}
TABLES = ("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "PADCHEST_chest_x_ray_images_labels*.csv")
VIEWS = {"pa": "PA", "ap": "AP", "ap_horizontal": "AP Supine", "l": "Lateral",
         "costal": "unknown", "exclude": "unknown", "unk": "unknown"}  # fmt: skip
SEXES = {"m": "M", "f": "F", "o": None}

_FINDINGS = {
    "Atelectasis": "atelectasis, laminar atelectasis, lobar atelectasis, segmental atelectasis, round atelectasis, "
    "total atelectasis, atelectasis basal",
    "Bronchiectasis": "bronchiectasis",
    "COPD": "COPD signs",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation, air bronchogram",
    "Edema": "pulmonary edema",
    "Effusion": "pleural effusion, loculated pleural effusion, loculated fissural effusion, empyema",
    "Effusion|Pneumothorax": "hydropneumothorax",
    "Emphysema": "emphysema, bullas",
    "Enlarged Cardiomediastinum": "mediastinal enlargement, superior mediastinal enlargement",
    "Enlarged Pulmonary Artery": "pulmonary artery enlargement",
    "Fibrosis": "pulmonary fibrosis",
    "Fracture": "rib fracture, callus rib fracture, clavicle fracture, humeral fracture, vertebral fracture, fracture",
    "Granuloma": "granuloma, calcified granuloma",
    "Hernia": "hiatal hernia",
    "Infiltration": "infiltrates, interstitial pattern, ground glass pattern, reticular interstitial pattern, "
    "reticulonodular interstitial pattern, miliary opacities, alveolar pattern",
    "Lung Cavity": "cavitation",
    "Mass": "mass, pulmonary mass",
    "Mediastinal Shift": "mediastinal shift",
    "Nodule": "nodule, multiple nodules",
    "Pleural Thickening": "pleural thickening, apical pleural thickening, calcified pleural thickening, "
    "fissure thickening, minor fissure thickening, major fissure thickening, pleural plaques, "
    "calcified pleural plaques",
    "Pneumonia": "pneumonia, atypical pneumonia",
    "Pneumothorax": "pneumothorax",
    "Scoliosis": "scoliosis",
    "Support Devices": "NSG tube, endotracheal tube, tracheostomy tube, chest drain tube, gastrostomy tube, "
    "nephrostomy tube, ventriculoperitoneal drain tube, catheter, central venous catheter, "
    "central venous catheter via jugular vein, central venous catheter via subclavian vein, "
    "central venous catheter via umbilical vein, reservoir central venous catheter, pacemaker, dual chamber device, "
    "single chamber device, dai, electrical device, double J stent",
    "Tuberculosis": "tuberculosis",
    NO_FINDING: "normal",
    NOTHING: "unchanged, exclude, suboptimal study",
}
LABELS = {term.strip(): finding for finding, terms in _FINDINGS.items() for term in terms.split(",")}
_LIST = r"\[.*\]"


def read(folder: Folder, settings: ImportSettings) -> Extract:
    """The one table. Age is the year of the study minus the year of birth, so it may be one too many."""
    path = folder.need(*TABLES, what="the table of labels and reports")
    table = read_official(path, COLUMNS, OPTIONAL)
    given = table.frame
    name = required_values(table, "image", "ImageID")
    listed = given["labels"].str.fullmatch(_LIST, na=True)
    table.refuse(
        ~listed, "Labels", "not a list of labels", expected="['label', 'label'] or blank", found=given["labels"]
    )
    labelled = label_terms(table, "labels", "Labels", edited(LABELS, settings.mapping), closed=False, split=_terms)
    age, counts = _ages(table)
    inside = given["folder"].str.replace(r"\.0$", "", regex=True)
    frame = pd.DataFrame({
        "image": (inside + "/" + name).fillna(name),
        "patient_id": "padchest-" + required_values(table, "patient", "PatientID"),
        "study_id": required_values(table, "study", "StudyID"),
        "view": mapped(table, "projection", "Projection", VIEWS).fillna("unknown"),
        "sex": mapped(table, "sex", "PatientSex_DICOM", SEXES),
        "age": age,
        "labels": labelled.labels,
        "source_labels": given["labels"],
        "report": given["report"],
        "report_language": given["report"].where(given["report"].isna(), "es"),
        "label_method": given["method"],
        "manufacturer": given["manufacturer"],
    })  # fmt: skip
    counts |= labelled.counts
    notes = ["reports are Spanish and stemmed, as published", "no official split: patients are dealt by their hash"]
    whole = Table(frame, path, table.rows, called={"image": "ImageID"})
    return Extract(whole, labelled.vocabulary, labelled.annotated, None, "a list of a split",
                   counts=counts, notes=notes, files=folder.read)  # fmt: skip


def _terms(text: str) -> list[str]:
    """``['a', ' b']`` as its terms; the archive has spaces before some of them and empty ones."""
    return [term for t in re.findall(r"'([^']*)'|\"([^\"]*)\"", text) if (term := (t[0] or t[1]).strip())]


def _ages(table: Table) -> tuple[pd.Series, dict[str, int]]:
    date = table.frame["date"]
    year = pd.to_numeric(date.str.slice(0, 4), errors="coerce").astype("float64")
    table.refuse(date.notna() & year.isna(), "StudyDate_DICOM", "not a date", expected="YYYYMMDD", found=date)
    years = year - numbers(table, "birth", "PatientBirth")
    odd = years.notna() & ~years.between(0, MAX_AGE)
    counts = {"impossible ages, now missing": int(odd.sum())} if odd.any() else {}
    return years.where(~odd), counts


SOURCE = Source(
    key="padchest",
    name="padchest",
    title="PadChest (Bustos et al. 2020)",
    licence="PadChest Dataset Research Use Agreement (BIMCV)",
    card="padchest.md",
    layout={
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": "labels, reports, age, sex, view",
        "0/*.png ... 54/*.png": "images (in one folder or several)",
    },
    labels=LABELS,
    closed=False,
    read=read,
)
