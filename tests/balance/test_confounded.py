"""What findings go with: view and source by images, against scikit-learn and a bootstrap; sex by patients."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from cxraug.balance.audit import audit_manifest
from cxraug.balance.confounded import of_image


def trapped(seed: int = 0, patients: int = 1500, odds: float = 0.8) -> pd.DataFrame:
    """Patients with one image to thirty; each is AP, and shows Mass, by its own chance, Mass less often in AP."""
    rng = np.random.default_rng(seed)
    images = np.minimum(1 + rng.geometric(0.3, patients) * rng.integers(0, 4, patients), 30)
    patient = np.repeat(np.arange(patients), images)
    n = len(patient)
    age = rng.integers(20, 90, patients)[patient].astype(float)
    view = np.where(rng.random(n) < 0.4, "AP", "PA")
    logit = -2.5 + np.log(odds) * (view == "AP") + 0.01 * (age - 55) + rng.normal(0, 0.5, patients)[patient]
    mass = rng.random(n) < 1 / (1 + np.exp(-logit))
    return pd.DataFrame(
        {
            "patient_id": patient.astype(str), "image": np.arange(n).astype(str), "age": age, "view": view,
            "sex": rng.choice(["F", "M"], patients)[patient],
            "labels": np.where(mass, "Mass", "No Finding"), "source": "",
        }
    )  # fmt: skip


def row_of(audit: dict, variable: str, finding: str = "Mass") -> dict:
    return next(c for c in audit["confounded"] if (c["finding"], c["variable"]) == (finding, variable))


def test_many_images_do_not_tie_a_finding_to_a_view(make_manifest) -> None:
    frame = trapped()
    mass = frame["labels"] == "Mass"
    ever = {v: set(frame["patient_id"][frame["view"] == v]) for v in ("AP", "PA")}
    sick = set(frame["patient_id"][mass])
    odds = [len(who & sick) / len(who - sick) for who in (ever["AP"], ever["PA"] - ever["AP"])]
    assert odds[0] / odds[1] > 2  # what patients who ever had an AP image say
    audit = audit_manifest(make_manifest(frame.to_dict("records")), groups=("sex",))
    row = row_of(audit, "view")
    assert (row["unit"], row["adjusted_for"]) == ("images", "age, sex")
    assert {row["level"]: row["odds_ratio"]}.get("AP", 1 / row["odds_ratio"]) < 1
    assert not [n for n in audit["named"] if n["kind"] == "confounded" and n["group"] == "view"]
    assert row["n"] == (frame["view"] == row["level"]).sum()
    assert row["positive"] == (mass & (frame["view"] == row["level"])).sum()
    assert row_of(audit, "sex")["unit"] == "patients"


def test_odds_are_those_of_sklearn_and_errors_those_of_a_bootstrap_of_patients(make_manifest) -> None:
    frame = trapped(seed=4, patients=500, odds=2.5)
    row = row_of(audit_manifest(make_manifest(frame.to_dict("records")), groups=()), "view")
    assert row["level"] == "AP"
    age = (frame["age"].to_numpy() - 55) / 15
    x = np.column_stack([frame["view"] == "AP", frame["sex"] == "F", age, age**2, age**3]).astype(float)
    y = (frame["labels"] == "Mass").to_numpy()

    def log_odds(rows: np.ndarray) -> float:
        return float(LogisticRegression(C=np.inf, max_iter=2000).fit(x[rows], y[rows]).coef_[0, 0])

    assert np.log(row["odds_ratio"]) == pytest.approx(log_odds(np.arange(len(y))), abs=0.02)
    own = [
        np.flatnonzero(rows)
        for rows in (frame["patient_id"].to_numpy()[None] == np.unique(frame["patient_id"])[:, None])
    ]
    rng = np.random.default_rng(0)
    drawn = [log_odds(np.concatenate([own[i] for i in rng.integers(0, len(own), len(own))])) for _ in range(120)]
    error = np.log(row["ci_high"] / row["ci_low"]) / 2 / 1.96
    assert error == pytest.approx(np.std(drawn, ddof=1), rel=0.2)


@pytest.mark.slow
def test_intervals_of_the_view_cover(make_manifest) -> None:
    truth, held = 0.8 ** (1 / np.sqrt(1 + 0.346 * 0.25)), 0
    for seed in range(100):
        audit = audit_manifest(make_manifest(trapped(seed, 400).to_dict("records")), groups=())
        row = next(r for r in audit["associations"] if (r["finding"], r["level"]) == ("Mass", "AP"))
        held += row["ci_low"] <= truth <= row["ci_high"]
    assert held >= 89


def test_a_finding_of_one_source_is_crude_and_says_so(make_manifest) -> None:
    rows = [{"labels": "COVID", "source": "a", "age": 50.0}] * 80 + [{"labels": "No Finding", "source": "b"}] * 90
    audit = audit_manifest(make_manifest(rows), groups=())
    row = row_of(audit, "source", "COVID")
    assert (row["adjusted_for"], row["level"]) == ("", "a")
    assert row["ci_low"] > 100
    named = next(n for n in audit["named"] if n["kind"] == "confounded" and n["finding"] == "COVID")
    assert "crude: too few patients" in named["sentence"]


def test_what_cannot_be_told_apart_is_said(make_manifest) -> None:
    rng = np.random.default_rng(1)
    rows = []
    for i in range(800):
        at = bool(rng.random() < 0.5)
        sick = rng.random() < (0.6 if at else 0.1)
        rows.append({"source": "ab"[at], "view": "AP" if at else "PA", "sex": "FM"[i % 2],
                     "labels": "Edema" if sick else "No Finding"})  # fmt: skip
    audit = audit_manifest(make_manifest(rows), groups=("sex",))
    for variable, other in (("view", "source"), ("source", "view")):
        row = row_of(audit, variable, "Edema")
        assert (row["adjusted_for"], row["inseparable_from"]) == ("sex", other)
        assert row["ci_low"] < 13.5 < row["ci_high"]
        named = next(n for n in audit["named"] if (n["kind"], n["group"]) == ("confounded", variable))
        assert f"not to be told apart from {other}" in named["sentence"]


def test_a_view_that_is_asked_for_as_a_group_is_not_rarer_by_counts_of_patients(make_manifest) -> None:
    frame = trapped(odds=1.0)
    audit = audit_manifest(make_manifest(frame.to_dict("records")), groups=("view",))
    cell = next(c for c in audit["cells"] if (c["finding"], c["level"]) == ("Mass", "PA"))
    assert cell["of_image"]
    assert not [n for n in audit["named"] if n["kind"] == "under-represented cell" and n["finding"] == "Mass"]


def test_columns_of_images_and_of_patients() -> None:
    patient = np.repeat(np.arange(100), 3)
    assert of_image("view", np.zeros(300, int), patient)
    assert not of_image("sex", np.arange(300) % 2, patient)
    assert not of_image("insurance", patient % 4, patient)
    assert of_image("detector", np.arange(300) % 2, patient)
    assert not of_image("hospital", np.zeros(0, int), np.zeros(0, int))
