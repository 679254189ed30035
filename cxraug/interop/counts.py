"""Studies of a set counted by finding, sex and age band."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxraug.evaluation.groups import AGE_BINS, MISSING, group_levels, level_order
from cxraug.studies.labels import ABSENT, PRESENT, UNCERTAIN, parse_labels
from cxraug.studies.manifest import Manifest

VALUES = {PRESENT: "present", ABSENT: "absent", UNCERTAIN: "uncertain"}
UNNAMED = "not named"


def one_row_per_study(manifest: Manifest) -> pd.DataFrame:
    """The first row of every study: labels, sex and age are the study's, whatever the view."""
    return manifest.frame.drop_duplicates("study_id").reset_index(drop=True)


def finding_counts(studies: pd.DataFrame) -> pd.DataFrame:
    """Studies per finding: rows are findings by name; columns ``present, absent, uncertain, not named`` sum to all.

    What the label text says, and nothing that is read into it.
    """
    parsed = [parse_labels(text) if isinstance(text, str) else {} for text in studies["labels"]]
    names = sorted({name for labels in parsed for name in labels})
    said = {name: [VALUES.get(labels.get(name, 2), UNNAMED) for labels in parsed] for name in names}
    rows = [[values.count(column) for column in (*VALUES.values(), UNNAMED)] for values in said.values()]
    return pd.DataFrame(rows, index=names, columns=[*VALUES.values(), UNNAMED], dtype=int)


def present_by_level(studies: pd.DataFrame, group: str) -> pd.DataFrame:
    """Studies in which each finding is present, by level of ``group`` (``sex``, or ``age`` in bands).

    Rows are findings, and last ``all studies``; columns are the levels in order.
    """
    if group not in studies or studies[group].isna().all():
        levels = pd.Series(MISSING, index=studies.index, dtype="str")
    else:
        levels = group_levels(studies, group, AGE_BINS)
    order = level_order(levels)
    parsed = [parse_labels(text) if isinstance(text, str) else {} for text in studies["labels"]]
    names = sorted({name for labels in parsed for name in labels})
    rows = {}
    for name in names:
        present = np.array([labels.get(name) == PRESENT for labels in parsed], bool)
        rows[name] = [int((present & (levels == level).to_numpy()).sum()) for level in order]
    rows["all studies"] = [int((levels == level).sum()) for level in order]
    return pd.DataFrame.from_dict(rows, orient="index", columns=order).astype(int)
