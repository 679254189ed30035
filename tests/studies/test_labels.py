import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.studies.labels import contradicts, format_labels, label_matrix, named_findings, parse_labels

NAN = np.nan
NAMES = st.sampled_from(["A", "B", "Pleural Thickening", "E.Coli", "COVID-19", "No Finding"])


def matrix(texts, findings, annotated, sources=None):
    column = pd.Series(texts, dtype="str")
    return label_matrix(column, None if sources is None else pd.Series(sources, dtype="str"), findings, annotated)


def test_grammar():
    assert parse_labels("A|-B|?C") == {"A": 1, "B": 0, "C": -1}
    assert parse_labels(" Pleural Thickening | - COVID-19 ") == {"Pleural Thickening": 1, "COVID-19": 0}
    assert parse_labels("") == parse_labels("  ") == {}


@pytest.mark.parametrize("text", ["A||B", "|A", "A|", "-", "?", "A|-", "A|A", "A|-A", "--A", "-?A"])
def test_grammar_refuses(text):
    with pytest.raises(ValueError, match=r"empty|twice|two signs"):
        parse_labels(text)


@pytest.mark.parametrize("labels", [{"": 1}, {"A|B": 1}, {"-A": 1}, {"?A": 0}, {" A": 1}, {"A": 2}])
def test_what_cannot_be_written(labels):
    with pytest.raises(ValueError, match=r"cannot be written|not 1, 0 or -1"):
        format_labels(labels)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(NAMES, st.sampled_from([1, 0, -1])))
def test_what_is_written_is_read(labels):
    assert parse_labels(format_labels(labels)) == labels


def test_unnamed_is_absent_only_where_annotated():
    y = matrix(["A", "A"], ["A", "B"], {"x": ["A", "B"], "y": ["A"]}, sources=["x", "y"])
    np.testing.assert_array_equal(y, [[1, 0], [1, NAN]])
    assert y.dtype == np.float32


def test_nothing_known_and_uncertain():
    y = matrix([None, "", "?A", "-A"], ["A", "B"], {"": ["A", "B"]})
    np.testing.assert_array_equal(y, [[NAN, NAN], [NAN, NAN], [NAN, 0], [0, 0]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No Finding", [0, 0, 1]),
        ("A", [1, 0, 0]),
        ("-A|-B", [0, 0, 1]),  # every annotated finding explicitly absent
        ("-A", [0, 0, NAN]),  # not every one explicitly
        ("?A", [NAN, 0, NAN]),
        ("-No Finding", [NAN, NAN, 0]),  # something is there, nobody says what
        ("-No Finding|A", [1, 0, 0]),
        ("No Finding|?B", [0, NAN, 1]),
        (None, [NAN, NAN, NAN]),
    ],
)
def test_no_finding(text, expected):
    y = matrix([text], ["A", "B", "No Finding"], {"": ["A", "B", "No Finding"]})
    np.testing.assert_array_equal(y[0], np.float32(expected))


def test_a_device_is_not_a_disease():
    assert contradicts({"No Finding": 1, "Support Devices": 1}) is None
    assert contradicts({"No Finding": 1, "A": 1}) == "A"
    y = matrix(["No Finding|Support Devices"], ["A", "No Finding"], {"": ["A", "No Finding", "Support Devices"]})
    np.testing.assert_array_equal(y, [[0, 1]])


def test_a_source_without_an_entry_annotates_nothing():
    np.testing.assert_array_equal(matrix(["A"], ["A", "B"], {}), [[1, NAN]])


def test_named_findings_has_every_sign():
    assert named_findings(pd.Series(["A|-B", None, "?C"], dtype="str")) == {"A", "B", "C"}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(NAMES, st.sampled_from([1, 0, -1]), max_size=4), min_size=1, max_size=8))
def test_named_values_survive_and_no_finding_excludes_findings(rows):
    rows = [r for r in rows if contradicts(r) is None] or [{}]
    findings = ["A", "B", "COVID-19", "E.Coli", "No Finding", "Pleural Thickening"]
    y = matrix([format_labels(r) for r in rows], findings, {"": findings})
    for row, labels in zip(y, rows, strict=True):
        values = dict(zip(findings, row, strict=True))
        for name, value in labels.items():
            if name != "No Finding" and value != -1:
                assert values[name] == value
        if values["No Finding"] == 1:
            assert not any(v == 1 for f, v in values.items() if f != "No Finding")
