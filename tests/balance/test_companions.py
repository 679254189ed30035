"""Companions: as many studies without the wanted findings, in the same groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxraug.balance.plan import make_plan
from cxraug.balance.settings import PlanSettings
from cxraug.studies.manifest import Manifest, read_manifest


@pytest.fixture
def train(tmp_path: Path) -> Manifest:
    rng = np.random.default_rng(0)
    n = 400
    frame = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(n)],
            "patient_id": [f"p{i}" for i in range(n)],
            "sex": rng.choice(["F", "M"], n, p=[0.3, 0.7]),
            "labels": rng.choice(["Mass", "Effusion", "Effusion|Mass", "No Finding"], n, p=[0.04, 0.3, 0.03, 0.63]),
            "split": "train",
        }
    )
    frame.to_csv(tmp_path / "m.csv", index=False)
    return read_manifest(tmp_path / "m.csv")


def has_mass(plan: pd.DataFrame) -> np.ndarray:
    return plan["labels"].str.split("|").map(lambda parts: "Mass" in parts).to_numpy()


def test_each_wanted_study_brings_its_companions_of_the_same_sex(train: Manifest) -> None:
    settings = PlanSettings(findings=["Mass"], groups=["sex"], floor=60)
    alone = make_plan(train, settings).frame
    assert has_mass(alone).all()
    both = make_plan(train, settings.model_copy(update={"companions": 1.0})).frame
    assert has_mass(both).sum() == len(alone) == (~has_mass(both)).sum()
    for sex in ("F", "M"):
        assert abs((has_mass(both) & (both["sex"] == sex)).sum() - (~has_mass(both) & (both["sex"] == sex)).sum()) <= 1
    real = train.frame["labels"]
    expected = (real == "No Finding").sum() / real.isin(["No Finding", "Effusion"]).sum()
    companions = both[~has_mass(both)]
    assert abs((companions["labels"] == "No Finding").mean() - expected) < 0.08
    assert set(companions["reason"]) == {"companion without the wanted findings"}


@pytest.mark.parametrize("budget", [1, 2, 3, 10, 51])
def test_companions_count_in_the_budget(train: Manifest, budget: int) -> None:
    frame = make_plan(
        train, PlanSettings(findings=["Mass"], groups=["sex"], floor=60, companions=1, budget=budget)
    ).frame
    assert 0 < len(frame) <= budget
    assert has_mass(frame).sum() >= (~has_mass(frame)).sum()


def test_where_every_label_set_is_wanted_the_whole_budget_is_used_and_it_is_said(train: Manifest) -> None:
    wanted = ["Mass", "Effusion", "No Finding"]
    settings = PlanSettings(findings=wanted, groups=["sex"], floor=300, companions=1, budget=40)
    plan = make_plan(train, settings)
    assert len(plan.frame) == 40
    assert any("no companions" in note for note in plan.notes)


@pytest.mark.parametrize("n", [7, 300])
def test_an_exact_number_stays_exact_and_prefixes_stay_mixed(train: Manifest, n: int) -> None:
    frame = make_plan(train, PlanSettings(findings=["Mass"], groups=["sex"], floor=60, companions=1), n=n).frame
    assert len(frame) == n
    half = has_mass(frame.iloc[: n // 2])
    assert abs(half.mean() - has_mass(frame).mean()) < 0.35
    assert 0.35 < has_mass(frame).mean() < 0.65
