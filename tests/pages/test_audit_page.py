"""The audit's page: the first sight is short, every section is there, names are escaped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxraug.balance.audit import audit_manifest
from cxraug.balance.naming import summary
from cxraug.pages.audit import SENTENCES, audit_page
from cxraug.studies.manifest import Manifest

EVIL = "<i>Mass</i>"


@pytest.fixture(scope="module")
def audit() -> dict:
    rng = np.random.default_rng(0)
    n = 2000
    view = rng.choice(["AP", "PA"], n)
    chances = [(("Edema", 0.5 if v == "AP" else 0.05), (EVIL, 0.02), ("Nodule", 0.2)) for v in view]
    labels = ["|".join(f for f, p in row if rng.random() < p) or "No Finding" for row in chances]
    number = [str(i) for i in range(n)]
    frame = pd.DataFrame(
        {
            "image": number, "patient_id": [str(i // 2) for i in range(n)], "study_id": number, "view": view,
            "sex": np.repeat(rng.choice(["F", "M"], n // 2), 2),
            "age": np.repeat(rng.integers(20, 90, n // 2), 2) * 1.0,
            "labels": labels, "source": "", "split": np.repeat(rng.choice(["train", "test"], n // 2), 2),
        }
    )  # fmt: skip
    findings = ("Edema", EVIL, "No Finding", "Nodule")
    manifest = Manifest(frame, Path("."), None, findings, {"": findings})
    looked = {
        "images": 1000, "of": 2000, "seed": 0,
        "faults": {"judged": 990, "counts": {"inverted": 3}, "planted_found": {"inverted": 0.98, "mirrored": 0.2},
                   "most_false_alarms": 0.003, "mirrored_found_at_one_percent": 0.8},
        "near_copies": {"compared": 990, "pairs": 4, "across_splits": 2, "different_labels": 1, "cut": 0.91,
                        "expected_by_chance": 0.05},
        "label_noise": {"images": 1000, "candidates": 12, "extractor": "edges", "false_alarms": 0.02, "supposed": 0.01,
                        "planted": 0.03, "first": 20, "first_turned": 8, "first_low": 0.22, "first_high": 0.61,
                        "findings": [
                            {"finding": "Edema", "judged": True, "why": "", "auroc": 0.9, "ci_low": 0.88,

                             "ci_high": 0.92, "listed_present": 5, "labels_present": 300,
                             "found_present": 0.5, "right_present": None,
                             "listed_absent": 12, "labels_absent": 700, "found_absent": 0.4, "right_absent": 0.23},
                            {"finding": EVIL, "judged": False, "why": "under 30 patients with or without it"}]},
    }  # fmt: skip
    return audit_manifest(manifest, images=looked)


def test_first_sight_is_short(audit: dict) -> None:
    page = audit_page(audit)
    start, end = page.index('<ul class="named">'), page.index("</ul>", page.index('<ul class="named">'))
    assert page[start:end].count("<li>") <= SENTENCES
    for item in audit["named"]:
        assert item["brief"]
    lines = summary(audit["named"])
    assert len(lines) <= 12
    kinds = [kind for kind, _ in lines]
    assert kinds.index("near copies") < kinds.index("rare finding") < kinds.index("faulty pictures")
    assert {"shortcut", "doubtful labels", "gaps out of reach", "confounded"} <= set(kinds)
    assert summary(audit["named"], lines=2) == lines[:2]
    for width in (30, 60, 200):
        assert all(len(text) <= width for _, text in summary(audit["named"], width=width))
    named = [{"kind": "rare finding", "holds": True, "brief": f"finding {i}"} for i in range(9)]
    assert summary(named, width=40) == [("rare finding", "finding 0; finding 1; and 7 more")]


def test_every_part_is_on_the_page_and_names_are_escaped(audit: dict) -> None:
    page = audit_page(audit)
    assert EVIL not in page
    assert "&lt;i&gt;Mass" in page
    for words in ("Which gaps can be measured", "View and source alone", "Who is X-rayed AP",
                  "8 of the first 20", "a list to read, not to correct",
                  "odds ratio, all else equal", "design effect", "Faulty pictures", "Near copies", "Doubtful labels",
                  "1,000 of 2,000 images were looked at", "findings that could not be judged"):  # fmt: skip
        assert words in page, words
    for foreign in ("http://", "https://", "src=", "@import"):
        assert foreign not in page


def test_what_was_not_looked_at_is_said(audit: dict) -> None:
    page = audit_page({**audit, "images_looked_at": {}, "acquisition": [], "shortcuts": [], "associations": []})
    assert "Images were not looked at" in page
    assert "All images share one view and one source" in page
