"""Race in few levels."""

from __future__ import annotations

import pandas as pd
import pytest

from cxraug.studies.sources.race import RACES, group_race, group_races


@pytest.mark.parametrize(
    ("text", "level"),
    [("WHITE - RUSSIAN", "White"), ("BLACK/AFRICAN AMERICAN", "Black"), ("HISPANIC/LATINO - PUERTO RICAN", "Hispanic"),
     ("ASIAN - SOUTH EAST ASIAN", "Asian"), ("AMERICAN INDIAN/ALASKA NATIVE", "Native American"),
     ("NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER", "Pacific Islander"), ("MULTIPLE RACE/ETHNICITY", "Other"),
     ("PATIENT DECLINED TO ANSWER", None), ("UNABLE TO OBTAIN", None), ("UNKNOWN", None), ("OTHER", "Other"),
     ("White, non-Hispanic", "White"), ("White, Hispanic", "Hispanic"), ("Black or African American", "Black"),
     ("Native Hawaiian or Other Pacific Islander", "Pacific Islander"), ("SOUTH AMERICAN", "Hispanic")],
)  # fmt: skip
def test_words_of_hospitals(text: str, level: str | None) -> None:
    assert group_race(text) == level
    assert level is None or level in RACES


def test_the_level_recorded_most_often_and_nothing_where_two_tie() -> None:
    texts = pd.Series(["WHITE", "WHITE - RUSSIAN", "ASIAN", "ASIAN", "WHITE", "UNKNOWN", None], dtype="str")
    found = group_races(texts, pd.Series(["a", "a", "a", "b", "b", "c", "d"], dtype="str"))
    assert found.to_dict() == {"a": "White"}
