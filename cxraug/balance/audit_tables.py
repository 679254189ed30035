"""The tables of an audit as they are written: one row per cell, made of the audit's answer."""

from __future__ import annotations

from typing import Any

import pandas as pd

PREVALENCE = (
    "finding", "group", "level", "patients", "patients_positive", "prevalence", "images", "images_positive",
    "image_prevalence", "image_ci_low", "image_ci_high", "design_effect", "ratio", "ci_low", "ci_high", "p_value",
    "p_adjusted", "flag",
)  # fmt: skip

ASSOCIATIONS = (
    "finding", "group", "level", "adjusted_for", "inseparable_from", "crude", "crude_low", "crude_high", "odds_ratio",
    "ci_low", "ci_high", "p_value", "p_adjusted",
)  # fmt: skip
SHORTCUTS = ("finding", "from", "auroc", "ci_low", "ci_high", "images", "patients_positive")
ACQUISITION = ("group", "level", "images", "ap", "share", "ci_low", "ci_high")
MEASURABLE = (
    "finding", "group", "level", "positive", "negative", "rest_positive", "rest_negative", "power", "detectable",
    "positives_needed", "positives_missing", "patients_needed", "patients_missing", "growth",
    "positives_needed_corrected", "positive_in_train",
)  # fmt: skip


def audit_tables(audit: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """File name -> table: ``prevalence.csv``, ``associations.csv``, ``shortcuts.csv``, ``acquisition.csv``, and
    ``measurable.csv``."""
    whole = [
        {"group": "all", "level": "all", "patients": f["patients_known"], "images": f["images_known"], "flag": "",
         **{k: f[k] for k in PREVALENCE if k in f}}
        for f in audit["findings"]
    ]  # fmt: skip
    return {
        "prevalence.csv": pd.DataFrame([*whole, *audit["cells"]], columns=list(PREVALENCE)),
        "associations.csv": pd.DataFrame(audit["associations"], columns=list(ASSOCIATIONS)),
        "shortcuts.csv": pd.DataFrame(audit["shortcuts"], columns=list(SHORTCUTS)),
        "acquisition.csv": pd.DataFrame(audit["acquisition"], columns=list(ACQUISITION)),
        "measurable.csv": pd.DataFrame(audit["measurable"]["cells"], columns=list(MEASURABLE)),
    }
