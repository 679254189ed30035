"""Groups, projection and source with all else equal; what view and source alone tell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxraug.balance.adjustment import Sums
from cxraug.balance.audit import audit_manifest
from cxraug.balance.confounding import acquisition, adjusted_odds, projection_variable, shortcuts, variable_of
from cxraug.balance.shortcut import deal, projection, shortcut


def cohort(seed: int = 0, n: int = 3000) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"patient_id": np.arange(n) // 2, "age": rng.integers(20, 90, n).astype(float)})
    frame["sex"] = np.where(rng.random(n // 2) < 0.5, "F", "M").repeat(2)
    frame["view"] = np.where(rng.random(n) < np.where(frame["sex"] == "F", 0.6, 0.2), "AP", "PA")
    frame["source"] = rng.choice(["a", "b"], n)
    p = np.where(frame["view"] == "AP", 0.35, 0.08)
    return (
        frame,
        np.stack([rng.random(n) < p, rng.random(n) < 0.2], axis=1).astype(np.float32),
        frame["patient_id"].to_numpy(),
    )


def test_a_difference_by_view_is_no_difference_by_sex() -> None:
    frame, y, patient = cohort()
    sex = variable_of("sex", frame["sex"], ["F", "M"], ("sex",))
    rows = {(r["finding"], r["level"]): r for r in adjusted_odds(sex, frame, y, patient, ["Edema", "Mass"])}
    edema = rows["Edema", "F"]
    assert edema["adjusted_for"] == "age, view, source"
    assert edema["crude_low"] > 1.2
    assert edema["ci_low"] < 1 < edema["ci_high"]
    assert edema["odds_ratio"] * rows["Edema", "M"]["odds_ratio"] == pytest.approx(1)
    assert rows["Edema", "M"]["p_adjusted"] == edema["p_adjusted"]
    assert edema["p_adjusted"] == pytest.approx(min(1.0, edema["p_value"] * 2), rel=1e-6) or edema["p_value"] > 0.5
    ap = adjusted_odds(projection_variable(frame), frame, y, patient, ["Edema", "Mass"])
    found = {(r["finding"], r["level"]): r for r in ap}["Edema", "AP"]
    expected = (0.35 / 0.65) / (0.08 / 0.92)
    assert found["ci_low"] < expected < found["ci_high"]


def test_small_cells_say_nothing() -> None:
    frame, y, patient = cohort(n=40)
    sex = variable_of("sex", frame["sex"], ["F", "M"], ("sex",))
    assert all(r["odds_ratio"] is None for r in adjusted_odds(sex, frame, y, patient, ["Edema", "Mass"]))
    one = variable_of("sex", frame["sex"], ["F"], ("sex",))
    assert adjusted_odds(one, frame, y, patient, ["Edema", "Mass"]) == []


def test_shortcuts_are_auroc_of_the_view() -> None:
    frame, y, patient = cohort()
    rows = {(r["finding"], r["from"]): r for r in shortcuts(frame, y, patient, ["Edema", "Mass"])}
    assert set(rows) == {(f, s) for f in ("Edema", "Mass") for s in ("view", "source", "view and source")}
    edema = rows["Edema", "view"]
    assert edema["auroc"] == pytest.approx(roc_auc_score(y[:, 0], frame["view"] == "AP"), abs=0.01)
    assert edema["ci_low"] < edema["auroc"] < edema["ci_high"]
    mass = rows["Mass", "view and source"]
    assert mass["ci_low"] < 0.5 < mass["ci_high"] + 0.02


def test_no_shortcut_is_one_half_on_average() -> None:
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sums = Sums.of((rng.random((400, 1)) < 0.3).astype(np.float32), np.arange(400), rng.integers(0, 3, 400))
        found.append(shortcut(sums.finding(0), deal(sums)))
    assert np.mean([s.auroc for s in found]) == pytest.approx(0.5, abs=0.015)
    assert np.mean([s.low <= 0.5 <= s.high for s in found]) >= 0.75


def test_acquisition_and_projection() -> None:
    assert projection(pd.Series(["PA", "AP Supine", "Lateral"])).tolist() == ["PA", "AP", ""]
    frame, _, patient = cohort()
    sex = variable_of("sex", frame["sex"], ["F", "M"], ("sex",))
    rows = {r["level"]: r for r in acquisition([sex], frame, patient)}
    women = frame[frame["sex"] == "F"]
    assert rows["F"]["share"] == pytest.approx((women["view"] == "AP").mean())
    assert rows["F"]["ci_low"] < 0.6 < rows["F"]["ci_high"]
    assert acquisition([sex], frame.assign(view="PA"), patient) == []


def test_the_audit_names_a_shortcut_and_says_what_is_left(make_manifest) -> None:
    frame, y, _ = cohort()
    labels = ["|".join(n for n, v in zip(("Edema", "Mass"), row, strict=True) if v) or "No Finding" for row in y]
    audit = audit_manifest(
        make_manifest(frame.assign(labels=labels, patient_id=frame["patient_id"].astype(str)).to_dict("records")),
        groups=("sex",),
    )
    named = [n for n in audit["named"] if n["kind"] == "shortcut"]
    assert [(n["finding"], n["group"]) for n in named] == [("Edema", "view")]
    cell = next(n for n in audit["named"] if n["kind"] == "under-represented cell" and n["finding"] == "Edema")
    assert cell["level"] == "M"
    assert "no difference is left" in cell["sentence"]
