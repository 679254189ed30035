"""What the gate decided, counted: checks of a draw, first-draw intervals, notes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cxraug.gate.acceptance import Verdicts, acceptance, check_of, gate_notes, rejected_studies
from cxraug.gate.settings import GateSettings

GOOD, BAD = [], ["agreement: Mass not seen"]


def decided(n: int = 40, bad: int = 12) -> tuple[pd.DataFrame, Verdicts]:
    """n studies of one image; the first ``bad`` are rejected, and half of those accepted in a second draw."""
    frame = pd.DataFrame(
        {"prompt_id": [f"p{i}" for i in range(n)], "image": [f"{i}.png" for i in range(n)], "view": "PA",
         "labels": ["Mass" if i % 2 else "Effusion|-Mass" for i in range(n)],
         "sex": ["F" if i < n // 2 else "M" for i in range(n)],
         "age": 50.0, "gate": "accept", "gate_reasons": None}
    )  # fmt: skip
    verdicts = Verdicts()
    lines = [{"prompt_id": f"p{i}", "image": f"{i}.png", "draw": 0} for i in range(n)]
    reasons = [["agreement: Mass not seen", "reports (not calibrated): Mass denied by the report"] if i == 0
               else BAD if i < bad else GOOD for i in range(n)]  # fmt: skip
    verdicts.add(0, lines, [line["image"] for line in lines], reasons, np.linspace(0, 1, n))
    again = [{"prompt_id": f"p{i}", "image": f"{i}b.png", "draw": 1} for i in range(bad)]
    verdicts.add(1, again, [line["image"] for line in again], [GOOD if i % 2 else BAD for i in range(bad)], None)
    frame.loc[: bad - 1, "image"] = [line["image"] for line in again]
    frame.loc[: bad - 1, "gate"] = ["accept" if i % 2 else "reject" for i in range(bad)]
    return frame, verdicts


def test_counts_of_the_first_draw_and_the_end() -> None:
    frame, verdicts = decided()
    told = acceptance(frame, verdicts, ["sex"], (0, 40))
    every = told["studies"]["all"]
    assert (every["n"], every["accepted_first"], every["accepted"]) == (40, 28, 34)
    assert (every["first_low"], every["first_high"]) == pytest.approx((0.546, 0.819), abs=0.001)  # Wilson, 28 of 40
    assert told["studies"]["findings"]["Effusion"]["n"] == 20
    assert told["draws"][0]["checks"] == {"agreement": 12, "reports": 1}
    assert told["draws"][1]["rejected"] == 6


def test_the_check_of_a_reason() -> None:
    assert check_of("reports (not calibrated): Mass denied by the report") == "reports"
    assert check_of("agreement: Mass: upper lobe not seen") == "agreement"
    assert check_of("another view of the study was rejected") == ""


def test_studies_are_compared_among_equal_requests_at_the_first_draw() -> None:
    frame, verdicts = decided()
    women, men = rejected_studies(frame, verdicts, ["sex", "race"], (0, 40))
    assert (women["level"], women["rejected"], women["n"]) == ("F", 12, 20)
    assert (men["rejected"], men["rest_rate"]) == (0, 0.6)
    assert women["p_value"] < 0.001


def fitted(**tests: dict) -> dict:
    return {"real": {"n": 200, "rejected": 9, "tests": tests}, "checks": {}}


def test_notes_name_what_is_off_what_cannot_reject_and_who_is_rejected_more() -> None:
    frame, verdicts = decided()
    fairness = {"real": [], "synthetic": rejected_studies(frame, verdicts, ["sex"], (0, 40))}
    tests = {"realism": {"level": 0.004, "finest": 1 / 161}, "sex": {"level": 0.01, "finest": 1 / 161}}
    part = fitted(**tests)
    part["checks"]["realism"] = {"small_levels": {"F": 12}, "note": None}
    counted = acceptance(frame, verdicts, ["sex"], (0, 40))
    notes = gate_notes(part, GateSettings(per_group="sex"), fairness, counted, redraws=True)
    assert notes[0] == "all checks together reject 9 of 200 held-out real training images (budget 5.0%)"
    assert any(note.startswith("sex F is rejected more: 60.0%") and "equal requests" in note for note in notes)
    assert "realism: rejects nothing, 160 real images do not resolve its level of 0.40%" in notes
    assert not any(note.startswith("sex: rejects nothing") for note in notes)
    assert "realism: too few real images for a calibration of their own, judged by all: sex F (12)" in notes
    assert {"label agreement was not checked", "copies of training images were not looked for"} <= set(notes)
