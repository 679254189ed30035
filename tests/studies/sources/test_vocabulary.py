"""From a source's labels to the grammar, and what the matrix of labels makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.errors import InputError
from cxraug.studies.labels import NO_FINDING, label_matrix, parse_labels
from cxraug.studies.sources.vocabulary import NOTHING, OTHER, apply_policy, edited, label_columns, label_terms
from cxraug.studies.table import Table

LABELS = {"m": "Mass", "e": "Effusion", "h": "Effusion|Pneumothorax", "ok": NO_FINDING, "tube": "Support Devices",
          "same": NOTHING, "odd": OTHER}  # fmt: skip
ANNOTATED = ("Effusion", "Mass", "No Finding", "Pneumothorax", "Support Devices")


def labelled(texts: list[str | None], closed: bool = False):  # type: ignore[no-untyped-def]
    frame = pd.DataFrame({"l": pd.Series(texts, dtype="str")})
    table = Table(frame, Path("t.csv"), np.arange(len(frame)) + 2)
    return label_terms(table, "l", "Labels", LABELS, closed=closed, split=lambda t: t.split("+"))


def test_what_each_row_says_of_each_finding() -> None:
    texts = ["m+e", "h", "ok", "ok+same", "ok+odd", "odd", "odd+tube", "same", "tube", "ok+m", None, "new"]
    found = labelled(texts)
    y = label_matrix(found.labels, None, ["Effusion", "Mass", "Pneumothorax", "No Finding"], {"": found.annotated})
    nan = np.nan
    healthy, other, unknown = [0, 0, 0, 1], [0, 0, 0, 0], [nan] * 4
    np.testing.assert_array_equal(y, [[1, 1, 0, 0], [1, 0, 1, 0], healthy, healthy, other, other, other, unknown,
                                      [0, 0, 0, nan], [0, 1, 0, 0], unknown, other])  # fmt: skip
    assert found.annotated == ANNOTATED
    assert found.counts == {"'No Finding' beside a finding, dropped": 2, "labels that say nothing of findings": 1,
                            "no labels at all": 1}  # fmt: skip
    table = found.vocabulary.set_index("label")
    assert table.loc["new", "finding"] == OTHER
    assert table.loc["ok", "images"] == 4


def test_an_unknown_label_of_a_closed_source_is_refused_by_row() -> None:
    with pytest.raises(InputError, match=r"t\.csv, row 3, column 'Labels': unknown label 'new'.*found 'm\+new'"):
        labelled(["m", "m+new"], closed=True)


code = st.sampled_from(["1.0", "0.0", "-1.0", None])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(code, code, code), min_size=1, max_size=30))
def test_columns_of_codes_are_the_same_row_by_row(rows: list[tuple]) -> None:
    names = ["No Finding", "Pleural Effusion", "Mass"]
    frame = pd.DataFrame(rows, columns=["a", "b", "c"], dtype="str")
    table = Table(frame, Path("t.csv"), np.arange(len(frame)) + 2)
    mapping = {"No Finding": NO_FINDING, "Pleural Effusion": "Effusion", "Mass": "Mass"}
    found = label_columns(table, mapping, dict(zip("abc", names, strict=True)))
    for row, text in zip(rows, found.labels, strict=True):
        wanted = {mapping[n]: int(float(v)) for n, v in zip(names, row, strict=True) if v is not None}
        if wanted.get(NO_FINDING) == 1 and 1 in (wanted.get("Effusion"), wanted.get("Mass")):
            del wanted[NO_FINDING]
        assert (parse_labels(text) if isinstance(text, str) else {}) == wanted


def test_two_columns_of_one_finding_are_joined_and_other_values_refused() -> None:
    frame = pd.DataFrame({"a": ["1", "0", "-1", None], "b": ["0", "0", "0", "2"]}, dtype="str")
    table = Table(frame.iloc[:3], Path("t.csv"), np.arange(3) + 2)
    found = label_columns(table, {"A": "Mass", "B": "Mass"}, {"a": "A", "b": "B"})
    assert found.labels.tolist() == ["Mass", "-Mass", "?Mass"]
    with pytest.raises(InputError, match=r"row 5, column 'B': not a label; found '2'"):
        label_columns(Table(frame, Path("t.csv"), np.arange(4) + 2), {"A": "Mass", "B": "Mass"}, {"a": "A", "b": "B"})


def test_policies_on_uncertain_labels() -> None:
    labels = pd.Series(["?A", "A|?B", "No Finding|?A", "-A", None], dtype="str")
    for policy, wanted in {
        "keep": ["?A", "A|?B", "No Finding|?A", "-A", None],
        "ignore": [None, "A|?B", "No Finding|?A", "-A", None],
        "zeros": ["-A", "A|-B", "No Finding|-A", "-A", None],
        "ones": ["A", "A|B", "A", "-A", None],
    }.items():
        found, uncertain, dropped = apply_policy(labels, policy)  # type: ignore[arg-type]
        assert [None if pd.isna(t) else t for t in found] == wanted
        assert uncertain == {"A": 2, "B": 1}
        assert dropped == (policy == "ones")


def test_an_edited_mapping_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("label,finding,images\nm,Nodule,3\nodd,(nothing),1\n")
    assert edited(LABELS, path) == {**LABELS, "m": "Nodule", "odd": NOTHING}
    path.write_text("label,to\nm,Nodule\n")
    with pytest.raises(InputError, match="row 1, column 'finding': missing column"):
        edited(LABELS, path)
    path.write_text("label,finding\nm,Nodule\nm,Mass\n")
    with pytest.raises(InputError, match="row 3, column 'label': the same label twice"):
        edited(LABELS, path)
