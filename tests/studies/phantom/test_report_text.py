"""Reports say what the labels say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.studies.phantom.findings import FINDINGS
from cxraug.studies.phantom.report import PRESENT, write_report

WORDS = {
    "Atelectasis": "atelecta", "Cardiomegaly": ("cardiomegaly", "heart is enlarged", "silhouette is", "upper limit"),
    "Consolidation": "consolidation", "Edema": "edema", "Effusion": ("effusion", "pleural fluid"), "Mass": "mass",
    "Nodule": "nodul", "Pneumothorax": "pneumothorax",
}  # fmt: skip


def says(text, finding):
    words = WORDS[finding]
    return any(w in text.lower() for w in ((words,) if isinstance(words, str) else words))


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(FINDINGS)), st.integers(0, 2**31), st.sampled_from(["M", "F", None]))
def test_every_present_finding_is_mentioned(present, seed, sex):
    labels = {f: int(f in present) for f in FINDINGS}
    text = write_report(labels, sex, 64.0, ("PA", "Lateral"), np.random.default_rng(seed))
    findings, impression = text.split("IMPRESSION:")
    for finding in present:
        assert says(findings, finding)
        assert finding.lower() in impression.lower()
    if present:
        assert "lungs are clear" not in text.lower()
        assert "normal chest" not in text.lower()
        assert "no acute cardiopulmonary" not in text.lower()
    assert "{" not in text
    assert "  " not in text


def test_texts_vary_and_repeat():
    labels = {"Effusion": 1, "Edema": 0, "Nodule": 0}
    texts = {write_report(labels, "F", 50, ("PA",), np.random.default_rng(s)) for s in range(60)}
    assert len(texts) > 45
    same = [write_report(labels, "F", 50, ("PA",), np.random.default_rng(5)) for _ in range(2)]
    assert same[0] == same[1]


def test_unknown_findings_get_generic_sentences():
    labels = {"Viral Pneumonia": 1, "Hernia": -1, "Fibrosis": 0}
    text = write_report(labels, None, None, ("unknown",), np.random.default_rng(0)).lower()
    assert "viral pneumonia" in text
    assert "hernia" in text.split("impression:")[1]


def test_details_are_used():
    for seed in range(10):
        text = write_report(
            {"Effusion": 1}, "M", 70, ("AP",), np.random.default_rng(seed),
            details={"Effusion": {"side": "left", "severity": 0.95}},
        )  # fmt: skip
        assert "left" in text.lower()
        assert "right" not in text.lower()
        assert "mild" not in text.lower().replace("mild osteopenia", "")


def test_no_labels_and_no_finding():
    rng = np.random.default_rng(0)
    assert "IMPRESSION: " in write_report({}, "M", 30, (), rng)
    assert "IMPRESSION: " in write_report({"No Finding": 1}, "M", float("nan"), ("PA",), rng)


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_phantom_finding_has_templates(finding):
    assert len(PRESENT[finding]) >= 3
