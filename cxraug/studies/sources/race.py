"""Race as American hospitals record it, grouped to few levels by a stated rule."""

from __future__ import annotations

import pandas as pd

RACES = ("Asian", "Black", "Hispanic", "Native American", "Pacific Islander", "White", "Other")

# The first rule that fits decides. Hispanic is looked for first, as MIMIC-IV records it in the same column.
_RULES = (
    (r"unknown|unable|declined|refused|not obtained|not asked|^$", None),
    (r"hispanic|latino|south american", "Hispanic"),
    (r"american indian|alaska|native american", "Native American"),
    (r"pacific|hawaiian", "Pacific Islander"),
    (r"asian", "Asian"),
    (r"black|african", "Black"),
    (r"white|caucasian|portuguese", "White"),
)


def group_race(text: str) -> str | None:
    """One of :data:`RACES`, or None where it is not known ("UNKNOWN", "PATIENT DECLINED TO ANSWER").

    ``HISPANIC OR LATINO`` wins over a race beside it; "non-Hispanic" does not count as Hispanic. What fits no rule is
    Other.
    """
    lower = text.lower().replace("non-hispanic", "").replace("non hispanic", "").replace("not hispanic", "")
    series = pd.Series([lower.strip(" ,-/")])
    for pattern, race in _RULES:
        if series.str.contains(pattern, regex=True).iloc[0]:
            return race
    return "Other"


def group_races(texts: pd.Series, patients: pd.Series) -> pd.Series:
    """Race by patient: the level recorded most often; missing where unknown or where two are equally frequent."""
    levels = texts.map({t: group_race(str(t)) for t in texts.dropna().unique()})
    known = pd.DataFrame({"patient": patients, "race": levels}).dropna()
    counts = known.groupby(["patient", "race"]).size().rename("n").reset_index()
    most = counts[counts["n"] == counts.groupby("patient")["n"].transform("max")]
    single = most[~most["patient"].duplicated(keep=False)]
    return single.set_index("patient")["race"].astype("str")
