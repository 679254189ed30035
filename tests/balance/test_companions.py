"""Companions: as many studies without the wanted findings, in the same groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxraug.balance.plan import make_plan
from cxraug.balance.settings import PlanSettings
from cxraug.cores.conditions import Conditions
from cxraug.cores.core import Card, prompts_from_plan
from cxraug.studies.labels import label_matrix
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.seen import Seen


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


def card(findings: list[str]) -> Card:
    return Card(
        name="c", version="1", kind="gaussian", sha256="0" * 64, resolution=32, views=["PA", "unknown"],
        findings=findings, conditions=["findings", "views", "sex"], licence="CC0-1.0", training_data={},
        seen=Seen.of(["a"], ["b"]).to_json(),
    )  # fmt: skip


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


def test_with_one_finding_companions_are_studies_without_it(train: Manifest) -> None:
    settings = PlanSettings(findings=["Mass"], groups=["sex"], floor=60, companions=1)
    plan = make_plan(train, settings, findings=["Mass"])
    assert set(plan.frame["labels"]) == {"Mass", "-Mass"}
    for sex in ("F", "M"):
        counts = plan.frame.loc[plan.frame["sex"] == sex, "labels"].value_counts()
        assert abs(counts["Mass"] - counts["-Mass"]) <= 1
    assert not any("no companions" in note for note in plan.notes)
    assert (plan.table["after"] - plan.table["before"] == plan.table["planned"]).all()
    whole = plan.table.set_index("group").loc["all"]
    assert whole["planned"] == has_mass(plan.frame).sum()


def test_every_finding_is_named_as_absent_where_no_finding_is_none_of_them(train: Manifest) -> None:
    settings = PlanSettings(findings=["Mass"], groups=["sex"], floor=60, companions=1)
    labels = set(make_plan(train, settings, findings=["Effusion", "Mass"]).frame["labels"])
    assert labels == {"Mass", "Effusion|Mass", "Effusion", "-Effusion|-Mass"}
    labels = set(make_plan(train, settings).frame["labels"])  # No Finding is one of them: it says the same
    assert labels == {"Mass", "Effusion|Mass", "Effusion", "No Finding"}


def test_a_core_that_does_not_know_a_finding_is_not_asked_for_its_absence(train: Manifest) -> None:
    core = card(["Mass"])
    settings = PlanSettings(findings=["Mass"], groups=["sex"], floor=60, companions=1)
    assert "-Mass" in set(make_plan(train, settings, findings=["Mass"], core_card=core).frame["labels"])
    plan = make_plan(train, settings, findings=["Effusion", "Mass"], core_card=core)
    assert set(plan.frame["labels"]) == {"Mass"}
    assert any("does not know" in note for note in plan.notes)


@pytest.mark.parametrize("labels", ["?Mass", "-Effusion", None])
def test_a_study_whose_labels_are_not_all_known_is_no_companion(train: Manifest, labels: str | None) -> None:
    frame = train.frame.copy()
    frame.loc[frame["labels"].isin(["No Finding", "Effusion"]), "labels"] = labels
    other = replace(train, frame=frame, annotated={"": ("Mass",) if labels != "-Effusion" else ("Effusion",)})
    settings = PlanSettings(findings=["Mass"], groups=[], floor=60, companions=1)
    assert set(make_plan(other, settings, findings=["Mass"]).frame["labels"]) == {"Mass"}


def test_the_absence_asked_for_reaches_the_core_and_the_training(train: Manifest) -> None:
    plan = pd.DataFrame({"prompt_id": ["p0"], "labels": ["-Mass"], "views": ["PA"], "seed": [1]})
    prompt = prompts_from_plan(plan, ["Effusion", "Mass"])[0]
    assert Conditions.from_prompts([prompt], ["PA"], ["Effusion", "Mass"]).y.tolist() == [[0, 0]]
    y = label_matrix(plan["labels"], None, ["Mass"], {"": train.annotated[""]})
    assert y.tolist() == [[0]]
