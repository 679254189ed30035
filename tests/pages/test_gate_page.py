"""The gate's page: what it says comes from gate.json, and it shows synthetic images only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from offline import Parsed
from sample_run import FINDINGS, write_set

from cxraug.errors import InputError
from cxraug.pages.gate import PAGE, gate_page, write_gate_page


def row(level: str, rejected: int, n: int, p: float | None, flag: str = "") -> dict[str, Any]:
    return {"group": "sex", "level": level, "n": n, "n_patients": n, "rejected": rejected, "rate": rejected / n,
            "ci_low": 0.1, "ci_high": 0.3, "rest_rate": 0.02, "p_value": p, "p_adjusted": p, "flag": flag}  # fmt: skip


def count(n: int, first: int, final: int) -> dict[str, Any]:
    return {"n": n, "accepted_first": first, "first_low": 0.5, "first_high": 0.9, "accepted": final, "rate": final / n}


@pytest.fixture
def summary() -> dict[str, Any]:
    part = {"asked": 200, "rejected": 6, "alone": 5, "rate": 0.03, "ci_low": 0.014, "ci_high": 0.064}
    nothing = {"asked": 0, "rejected": 0, "alone": 0, "rate": None, "ci_low": None, "ci_high": None}
    finding = FINDINGS[0]
    judged = {"auroc": 0.981, "auroc_low": 0.97, "auroc_high": 0.99, "note": None}
    tests = {
        f"{finding} present": {"check": "agreement", "level": 0.02, "finest": 0.005, "asked": 40, "rejected": 2},
        f"{finding} absent": {"check": "agreement", "level": 0.02, "finest": 0.005, "asked": 160, "rejected": 4},
    }
    return {
        "total": 12, "accepted": 9, "redrawn": 2, "settings": {"false_reject": 0.05, "per_group": None},
        "real": {"n": 200, "rejected": 8, "rate": 0.04, "ci_low": 0.02, "ci_high": 0.08, "budget": 0.05,
                 "checks": {"agreement": part, "demographics": nothing}, "tests": tests},
        "checks": {
            "agreement": {"statistic": "a ratio", "model": [{"model": "resnet10t", "folds": 2, "outputs": FINDINGS}],
                          "findings": {finding: judged}},
            "demographics": {"model": [], "attributes": {"age": {"correlation": 0.62, "correlation_low": 0.5,
                                                                 "correlation_high": 0.7, "note": None},
                                                         "sex": {"note": "abstains: AUROC lower bound 0.44"}}},
        },
        "reasons": {"agreement: <b>Edema</b> not seen": 3},
        "studies": {"all": count(12, 8, 9), "findings": {finding: count(6, 3, 4)}, "groups": {}},
        "draws": [{"draw": 0, "images": 12, "rejected": 4, "reasons": {"agreement: <b>Edema</b> not seen": 4},
                   "checks": {"agreement": 4}},
                  {"draw": 1, "images": 4, "rejected": 3, "reasons": {}, "checks": {}}],
        "fairness": {"real": [row("F", 20, 100, 5e-8), row("M", 2, 100, 5e-8)],
                     "synthetic": [row("F", 2, 8, None, "few"), row("M", 1, 4, None, "few")],
                     "calibrated_within": None},
        "closest": [], "notes": ["sex F is rejected more: 20.0% of 100 held-out real images"],
    }  # fmt: skip


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    rows = write_set(tmp_path, FINDINGS, core="phantom-nano", n=12)
    rows["gate"] = "accept"
    rows["gate_reasons"] = None
    rows.loc[[1, 4, 7], "gate"] = "reject"
    rows.loc[1, "gate_reasons"] = "agreement: Edema not seen"
    rows.loc[4, "gate_reasons"] = "realism: stranger than real images are|agreement: Edema not seen"
    rows.loc[7, "gate_reasons"] = "duplicates: copy of a training image"
    return rows


def test_the_page_tells_the_rates_and_who_is_rejected_more(tmp_path: Path, frame, summary) -> None:
    path = write_gate_page(tmp_path, frame, summary)
    assert path == tmp_path / PAGE
    text = path.read_text()
    page = Parsed(text)
    assert "9 of 12 synthetic images accepted, 2 prompts drawn again" in text
    assert "3.0\N{NO-BREAK SPACE}% [1.4\N{NO-BREAK SPACE}%, 6.4\N{NO-BREAK SPACE}%]" in text
    assert "4.0\N{NO-BREAK SPACE}% [2.0\N{NO-BREAK SPACE}%, 8.0\N{NO-BREAK SPACE}%]" in text
    assert "abstains" in text
    assert "0.981 [0.970, 0.990]" in text
    assert "2 of 40" in text
    assert "Sex F is rejected more: 20.0% of 100 held-out real images." in text
    assert "&lt; 0.001" in text
    assert "correlation 0.62 [0.50, 0.70]" in text
    assert "<b>Edema" not in text
    assert "Rejected per level" in page.text


def test_copies_are_not_shown_and_other_rejected_images_are(tmp_path: Path, frame, summary) -> None:
    text = gate_page(tmp_path, frame, summary)
    assert text.count("<img ") == 9 + 2
    assert "realism: stranger than real images are; agreement: Edema not seen" in text
    assert "1 images rejected as copies are not shown" in text


def test_a_row_that_is_not_synthetic_is_refused(tmp_path: Path, frame, summary) -> None:
    frame.loc[2, "patient_id"] = "patient-2"
    with pytest.raises(InputError, match="no real image"):
        write_gate_page(tmp_path, frame, summary)
    assert not (tmp_path / PAGE).exists()
