"""What classes and columns mean as findings."""

from __future__ import annotations

import numpy as np
import pytest

from cxraug.balance.meaning import class_meaning, column_meaning
from cxraug.balance.refusal import SamplingError
from cxraug.cores.core import prompts_from_plan


def texts_of(classes: list[object], *args: object) -> list[str]:
    meaning = class_meaning(np.array(classes, dtype=object), *args)
    return [meaning.texts[code] for code in meaning.codes]


def test_classes_of_text_are_label_text() -> None:
    meaning = class_meaning(np.array(["Mass", "No Finding", "Effusion|Mass", "Mass"]))
    assert meaning.findings == ("Effusion", "Mass")
    assert meaning.matrix().tolist() == [[0, 1], [0, 0], [1, 1], [0, 1]]


def test_names_for_classes_without_text() -> None:
    assert texts_of([0, 1, 1], ["Mass"]) == ["-Mass", "Mass", "Mass"]
    assert texts_of([0, 1], None, "Mass") == ["-Mass", "Mass"]
    assert texts_of([True, False], ["Mass"]) == ["Mass", "-Mass"]
    assert texts_of([2, 0, 1], ["No Finding", "Mass", "Edema"]) == [
        "Edema|-Mass",
        "No Finding|-Mass|-Edema",
        "Mass|-Edema",
    ]
    assert texts_of([0, 1], {0: "No Finding", 1: "Mass|?Edema"}) == ["No Finding|-Mass|-Edema", "Mass|?Edema"]
    assert texts_of([-1, 1]) == ["-class 1", "class 1"]
    assert texts_of([3, 4, 5])[0] == "class 3|-class 4|-class 5"


def test_what_y_does_not_annotate_is_left_to_the_core() -> None:
    meaning = class_meaning(np.array([0, 1]), {0: "No Finding", 1: "Mass"})
    healthy, mass = meaning.asked(["Edema", "Mass"])
    plan_rows = {"prompt_id": ["a", "b"], "labels": [healthy, mass]}
    import pandas as pd

    prompts = prompts_from_plan(pd.DataFrame(plan_rows), ["Edema", "Mass"])
    assert dict(prompts[0].labels) == {"No Finding": 1, "Mass": 0, "Edema": 0}
    assert dict(prompts[1].labels) == {"Mass": 1}


def test_columns_name_every_finding_in_each_row() -> None:
    meaning = column_meaning(np.array([[1, 0], [0, 0], [1, 1], [1, 0]]), ["Mass", "Edema"])
    assert [meaning.texts[c] for c in meaning.codes] == ["Mass|-Edema", "-Mass|-Edema", "Mass|Edema", "Mass|-Edema"]
    assert np.array_equal(meaning.matrix(), [[1, 0], [0, 0], [1, 1], [1, 0]])


def test_a_column_of_no_finding_is_no_finding_of_its_own() -> None:
    meaning = column_meaning(np.array([[1, 0], [0, 1], [0, 0]]), ["No Finding", "Mass"])
    assert meaning.findings == ("Mass",)
    assert [meaning.texts[c] for c in meaning.codes] == ["No Finding|-Mass", "Mass", "-Mass"]
    with pytest.raises(SamplingError, match="shows 'Mass' and 'No Finding'"):
        column_meaning(np.array([[1, 1]]), ["No Finding", "Mass"])


@pytest.mark.parametrize(
    ("classes", "named", "message"),
    [
        ([0, 1, 2], ["Mass"], "1 for 3 classes"),
        ([0, 1], {1: "Mass"}, "does not say what a class means; found 0"),
        ([0, 1], {0: "", 1: "Mass"}, "a class has no label text"),
        (["A||B", "C"], None, "no label text"),
        (["No Finding", "No Finding"], None, "name no finding"),
        ([0, 1], {0: "No Finding|Mass", 1: "Mass"}, "shows 'Mass' and 'No Finding'"),
    ],
)
def test_names_that_do_not_fit(classes: list[object], named: object, message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        class_meaning(np.array(classes, dtype=object), named)
