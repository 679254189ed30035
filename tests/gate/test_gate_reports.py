"""The reports check: contradictions by rule, calibrated on real reports where there are any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cxraug.gate.check import Images
from cxraug.gate.gate import Gate
from cxraug.gate.reports import Reports
from cxraug.gate.settings import GateSettings

FINDINGS = ("Effusion", "Pneumothorax")
SAYS = {
    1: {"Effusion": "There is a left pleural effusion.", "Pneumothorax": "There is a small apical pneumothorax."},
    0: {"Effusion": "No pleural effusion.", "Pneumothorax": "No pneumothorax."},
}


def studies(y: list[tuple[float, float]], reports: list[str | None]) -> Images:
    n = len(y)
    who = np.array([f"p{i}" for i in range(n)], object)
    return Images(np.zeros((n, 4, 4), np.uint8), np.array(y, np.float32), who, reports=np.array(reports, object))


def honest(n: int, wrong: int = 0) -> Images:
    """n studies with reports of their labels; the first ``wrong`` reports deny an effusion that is labelled."""
    y = [(1.0 if i < wrong else float(i % 2), float(i % 3 == 0)) for i in range(n)]
    told = [
        " ".join(SAYS[0 if i < wrong and f == "Effusion" else int(v)][f] for f, v in zip(FINDINGS, row, strict=True))
        for i, row in enumerate(y)
    ]
    return studies(y, told)


BATCH = studies(
    [(1, 0), (1, 0), (1, 0), (0, 0), (0, 1), (1, np.nan)],
    [
        "No pleural effusion.",
        "There is a left pleural effusion. There is a small apical pneumothorax.",
        "Possible effusion.",
        "The heart is of normal size.",
        None,
        "There is a left pleural effusion. No pneumothorax.",
    ],
)


def test_denied_and_stated_findings_are_rejected_with_their_reason() -> None:
    check = Reports(FINDINGS, GateSettings(), 0.03)
    gate = Gate([check], 0.05).fit(honest(300))
    assert gate.judge(BATCH) == [
        ["reports: Effusion denied by the report"],
        ["reports: Pneumothorax stated by the report but not asked for"],
        [], [], [], [],
    ]  # fmt: skip
    assert gate.real["rejected"] == 0
    assert gate.real["checks"]["reports"]["asked"] == 300


def test_a_contradiction_as_common_in_real_reports_as_the_level_is_no_reason() -> None:
    """6 % of the real reports deny a labelled effusion: a gate of 5 % cannot reject for it, but for a rarer one."""
    check = Reports(FINDINGS, GateSettings(), 0.05)
    gate = Gate([check], 0.05).fit(honest(300, wrong=18))
    reasons = gate.judge(BATCH)
    assert reasons[0] == []
    assert reasons[1] == ["reports: Pneumothorax stated by the report but not asked for"]
    assert check.describe({})["findings"]["Effusion"]["real_denied"] == 18
    rare = Gate([Reports(FINDINGS, GateSettings(), 0.05)], 0.05).fit(honest(300, wrong=6))
    assert rare.judge(BATCH)[0] == ["reports: Effusion denied by the report"]
    assert rare.real["rejected"] == 6


@pytest.mark.parametrize("real", [honest(10), replace(honest(300), reports=None)])
def test_without_real_reports_contradictions_reject_outside_the_budget_and_are_told_apart(real: Images) -> None:
    check = Reports(FINDINGS, GateSettings(), 0.03)
    gate = Gate([check], 0.05).fit(real)
    reasons = gate.judge(BATCH)
    assert reasons[0] == ["reports (not calibrated): Effusion denied by the report"]
    assert reasons[2] == reasons[3] == []
    assert gate.real["rejected"] == 0
    told = check.describe({})
    assert told["calibrated"] is False
    assert "not calibrated, every contradiction rejects and is counted apart" in told["note"]
    assert gate.scores(BATCH)[:2].tolist() == [0, 0]
