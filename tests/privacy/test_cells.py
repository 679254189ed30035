"""Cells of kept attributes: every published combination has k patients, and no more is lost than that needs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.errors import InputError
from cxraug.privacy.cells import (
    PUBLISHED,
    age_bands,
    band_age,
    cell_patients,
    coarsen,
    losses,
    smallest_cell,
)
from cxraug.studies.labels import parse_labels


def studies(*rows: dict) -> pd.DataFrame:
    plain = {"labels": "A|-B", "sex": "F", "race": "", "source": "here", "age": 35.0, "views": "PA"}
    return pd.DataFrame([{"patient": f"p{i}", **plain, **row} for i, row in enumerate(rows)])


LABELS = ("A|-B|-C", "-A|B|-C", "A|B|-C", "A|B|C", "-A|-B|-C", "?A|-B|-C")
row = st.fixed_dictionaries(
    {
        "patient": st.sampled_from([f"p{i}" for i in range(12)]),
        "labels": st.sampled_from(LABELS),
        "sex": st.sampled_from(["M", "F", ""]),
        "race": st.sampled_from(["White", "Black", ""]),
        "source": st.sampled_from(["here", "there"]),
        "age": st.one_of(st.just(float("nan")), st.floats(0, 120)),
        "views": st.sampled_from(["PA", "PA|Lateral", "AP"]),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(row, min_size=1, max_size=40), st.integers(1, 6))
def test_every_published_combination_has_k_patients_counted_by_hand(rows: list[dict], k: int) -> None:
    frame = pd.DataFrame(rows)
    found = coarsen(frame, k)
    behind: dict[tuple, set] = {}
    for index, seen in found.published.iterrows():
        behind.setdefault(tuple(seen), set()).add(frame.loc[index, "patient"])
    assert all(len(patients) >= k for patients in behind.values())
    assert smallest_cell(found.published, frame["patient"][found.kept]) == min(map(len, behind.values()), default=0)
    for index, seen in found.published.iterrows():  # what is published is the study's own, coarser or blank
        study = frame.loc[index]
        assert seen["sex"] in ("", study["sex"])
        assert seen["race"] in ("", study["race"])
        assert set(seen["views"].split("|")) <= set(study["views"].split("|"))
        was, now = parse_labels(study["labels"]), parse_labels(seen["labels"])
        changed = {f for f in was if was[f] != now[f]}
        assert all(was[f] == 1 and now[f] == 0 for f in changed)
        assert 1 not in was.values() or 1 in now.values()  # the sick stay sick


@settings(max_examples=50, deadline=None)
@given(st.lists(row, min_size=2, max_size=30), st.integers(2, 4), st.randoms())
def test_the_order_of_the_studies_says_nothing(rows: list[dict], k: int, random) -> None:
    frame = pd.DataFrame(rows)
    shuffled = frame.iloc[random.sample(range(len(frame)), len(frame))]
    a, b = coarsen(frame, k), coarsen(shuffled, k)
    pd.testing.assert_frame_equal(a.published, b.published.sort_index())


def test_patients_count_and_not_studies() -> None:
    same = studies(*[{"patient": "one"}] * 9)
    assert not coarsen(same, 2).kept.any()
    assert coarsen(same, 1).kept.all()


def test_steps_are_taken_in_the_stated_order_and_no_further_than_needed() -> None:
    rows = [{"age": 31.0}] * 3 + [{"age": 35.0, "race": "Black"}] + [{"age": 52.0}, {"age": 44.0}, {"age": 41.0}]
    found = coarsen(studies(*rows), 3)
    assert found.published["age_band"].tolist() == ["30-39"] * 4 + ["40-59"] * 3
    assert found.published["race"].tolist() == [""] * 7
    assert found.step.tolist() == ["nothing"] * 3 + ["race"] + ["wide age"] * 3


def test_the_rarest_finding_goes_before_a_study_is_left_out_and_never_the_last_one() -> None:
    rows = [{"labels": "A|-B"}] * 4 + [{"labels": "A|B", "age": 34.0}, {"labels": "-A|B"}]
    frame = studies(*rows)
    found = coarsen(frame, 3)
    assert found.kept.tolist() == [True] * 5 + [False]
    assert found.published["labels"].tolist() == ["A|-B"] * 5
    assert found.dropped.tolist() == [""] * 4 + ["B"]
    assert found.published["age_band"].iloc[4] == "30-39"  # beside the finding nothing else is lost
    cost = losses(frame, found, 3)
    assert cost["left_out"] == "<3"
    assert cost["findings_made_absent"] == {"B": "<3"}
    assert cost["steps"]["nothing"] == 5


def test_ages_are_top_coded_and_printed_as_the_middle_of_their_band() -> None:
    ages = pd.Series([0, 9.9, 10, 34, 89, 90, 97, 120, np.nan])
    assert age_bands(ages, 10).tolist() == ["0-9", "0-9", "10-19", "30-39", "80-89", "90+", "90+", "90+", ""]
    assert age_bands(ages, 20).tolist() == ["0-19", "0-19", "0-19", "20-39", "80+", "80+", "80+", "80+", ""]
    assert [band_age(b) for b in ("0-9", "30-39", "20-39", "90+", "80+")] == [5, 35, 30, 90, 85]
    assert np.isnan(band_age(""))


def test_cell_patients_counts_over_all_columns_with_missing_as_a_value() -> None:
    frame = pd.DataFrame({"sex": ["F", "F", "F", None, None], "age": [5, 5, 15, 5, 5]})
    assert cell_patients(frame, ["a", "b", "c", "d", "d"]).tolist() == [2, 2, 1, 1, 1]
    assert smallest_cell(frame.iloc[:0], []) == 0
    assert set(PUBLISHED) == {"labels", "sex", "race", "age_band", "source", "views"}


def test_k_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="bad k"):
        coarsen(studies({}), 0)
