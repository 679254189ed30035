"""The condition table and its vectors: known answers, and unknown means zero."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.cores.conditions import Conditions, Vocabulary, projection
from cxraug.cores.core import Prompt
from cxraug.errors import InputError

VOCABULARY = Vocabulary(("Effusion", "Nodule"), ("Lateral", "PA"), ("a", "b"))


def encode(prompt: Prompt) -> tuple[np.ndarray, np.ndarray]:
    conditions = Conditions.from_prompts([prompt], [prompt.views[0]], VOCABULARY.findings)
    values, known = VOCABULARY.encode(conditions)
    return values[0], known[0]


def test_known_answer() -> None:
    values, known = encode(Prompt("p", {"Effusion": 1, "Nodule": 0}, "F", 75.0, source="b"))
    assert values.tolist() == [1, -1, 1, 1, 0, 0, 1, 0, 1]  # age 75: (75 - 50) / 25 = 1, and 1 - 1 = 0
    assert known.tolist() == [1] * 9


def test_what_is_not_asked_for_is_unknown() -> None:
    values, known = encode(Prompt("p", {"Nodule": 1}))
    assert known.tolist() == [0, 1, 0, 0, 0, 1, 1, 0, 0]
    assert values[known == 0].tolist() == [0] * 6


def test_no_finding_makes_every_finding_absent() -> None:
    values, known = encode(Prompt("p", {"No Finding": 1}))
    assert values[:2].tolist() == [-1, -1]
    assert known[:2].tolist() == [1, 1]


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["Effusion", "Nodule"]), st.integers(0, 1)),
    st.sampled_from([None, "M", "F"]),
    st.one_of(st.none(), st.floats(0, 120)),
    st.sampled_from([None, "a", "b"]),
)
def test_unknown_entries_are_zero_and_known_groups_whole(labels, sex, age, source) -> None:
    values, known = encode(Prompt("p", labels, sex, age, source=source))
    assert np.all(values[known == 0] == 0)
    assert np.isfinite(values).all()
    groups = VOCABULARY.groups()
    assert all(len(set(known[groups == g].tolist())) == 1 for g in range(groups.max() + 1))
    assert known[:2].sum() == len(labels)
    assert known[2] == (sex is not None)


def test_unknown_view_and_sex_are_refused() -> None:
    conditions = Conditions.of((), np.zeros((1, 0)), view=["AP"])
    with pytest.raises(InputError, match="view"):
        VOCABULARY.encode(conditions)
    with pytest.raises(InputError, match="sex"):
        Conditions.of((), np.zeros((1, 0)), sex=["X"])


def test_positions_in_a_larger_vocabulary() -> None:
    larger = VOCABULARY.union(Vocabulary(("Mass",), ("AP",), ("c",)))
    assert larger.findings == ("Effusion", "Nodule", "Mass")
    assert VOCABULARY.positions(larger).tolist() == [0, 1, 3, 4, 5, 6, 7, 9, 10]
    _, conditions = cohort(10)
    assert len(Vocabulary.of(conditions)) == 2 + 3 + 2 + 1


def test_no_finding_is_no_column_of_its_own() -> None:
    conditions = Conditions.of(("Mass", "No Finding"), np.array([[1, 0]]))
    assert conditions.findings == ("Mass",)
    assert conditions.y.shape == (1, 1)
    assert conditions.known() == ["views", "findings"]


def test_projection() -> None:
    assert projection(np.array(["PA", "Lateral", "unknown"])).tolist() == [0, 1, 0]


def test_races_stand_behind_all_else_and_change_nothing_where_there_are_none() -> None:
    with_races = Vocabulary(("Effusion", "Nodule"), ("Lateral", "PA"), ("a", "b"), ("Asian", "White"))
    prompt = Prompt("p", {"Effusion": 1}, "F", source="a", race="White")
    conditions = Conditions.from_prompts([prompt], ["PA"], with_races.findings)
    values, known = with_races.encode(conditions)
    without = Conditions.from_prompts([Prompt("p", {"Effusion": 1}, "F", source="a")], ["PA"], VOCABULARY.findings)
    assert values[0, :9].tolist() == VOCABULARY.encode(without)[0][0].tolist()
    assert values[0, 9:].tolist() == [0, 1]
    assert known[0, 9:].tolist() == [1, 1]
    assert with_races.encode(without)[1][0, 9:].tolist() == [0, 0]
    assert with_races.groups().tolist() == [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert Vocabulary((), ("PA",), (), ("White",)).groups().tolist() == [0, 1, 1, 2, 3], "no group without an entry"
    assert VOCABULARY.positions(with_races).tolist() == list(range(9))
    assert VOCABULARY.union(Vocabulary((), (), (), ("White",))).races == ("White",)
    with pytest.raises(InputError, match="unknown race"):
        VOCABULARY.encode(conditions)
    assert "race" in conditions.known()
    assert "race" not in without.known()
    assert len(without.texts()) + 1 == len(conditions.texts()), "digests of data without races are as before"
