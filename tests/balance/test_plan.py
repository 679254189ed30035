"""What a plan promises: the budget, real label sets, honest tables, balanced prefixes, and refusals by name."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from balance.toys import card, train_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cxraug.balance.census import take_census
from cxraug.balance.plan import Plan, PlanSettings, make_plan, write_plan
from cxraug.balance.settings import parse_target
from cxraug.balance.target import count_cells, set_targets
from cxraug.cores.core import PLAN_COLUMNS, Card, GenerativeCore, Study, prompts_from_plan
from cxraug.errors import InputError
from cxraug.evaluation.groups import group_levels
from cxraug.studies.manifest import Manifest
from cxraug.synthesis.prompts import check_plan, read_plan


class ToyCore(GenerativeCore):
    def __init__(self, known: Card) -> None:
        self.card = known

    def _generate(self, prompts: list, seeds: list[int]) -> list[Study]:
        raise AssertionError("a plan is made from the card; nothing is generated")


def recount(plan: Plan, manifest: Manifest) -> pd.DataFrame:
    """The table's counts again, from rows of the plan and of the manifest alone (one image per study)."""
    rows = []
    frames = {"before": manifest.frame, "planned": plan.frame}
    for finding, group, level in plan.table[["finding", "group", "level"]].itertuples(index=False):
        counted = {}
        for name, frame in frames.items():
            here = group_levels(frame, group) == level
            has = frame["labels"].fillna("").map(lambda text, f=finding: f in text.split("|"))
            counted[name] = int((here & has).sum())
        rows.append(counted)
    return pd.DataFrame(rows)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    budget=st.one_of(st.none(), st.integers(1, 400)),
    floor=st.one_of(st.none(), st.integers(5, 60)),
    seed=st.integers(0, 9),
)
def test_contract(imbalanced: Manifest, budget: int | None, floor: int | None, seed: int) -> None:
    train = train_of(imbalanced)
    plan = make_plan(train, PlanSettings(budget=budget, floor=floor), seed=seed)
    assert tuple(plan.frame.columns) == PLAN_COLUMNS
    assert budget is None or len(plan.frame) <= budget
    occurring = set(train.frame["labels"])
    assert set(plan.frame["labels"]) <= occurring
    counted = recount(plan, train)
    assert counted["before"].tolist() == plan.table["before"].tolist()
    assert counted["planned"].tolist() == plan.table["planned"].tolist()
    assert (plan.table["after"] == plan.table["before"] + plan.table["planned"]).all()
    if budget is None:
        assert (plan.table["shortfall"].fillna(0) == 0).all()
    assert plan.frame["prompt_id"].tolist() == [f"p{i:06d}" for i in range(len(plan.frame))]
    assert plan.frame["seed"].is_unique
    assert plan.frame["reason"].str.startswith("raises ").all()


def test_rare_finding_and_thin_group_are_lifted(imbalanced: Manifest) -> None:
    plan = make_plan(train_of(imbalanced), PlanSettings(floor=60, findings=["Nodule"]), groups=["sex"])
    cells = plan.table.set_index(["finding", "group", "level"])
    assert cells.loc[("Nodule", "sex", "F"), "before"] < 10
    assert cells.loc[("Nodule", "sex", "F"), "after"] == 60
    assert cells.loc[("Nodule", "sex", "M"), "after"] == 60
    assert plan.frame["labels"].str.contains("Nodule").all()


def test_default_lifts_healthy_women_too(imbalanced: Manifest) -> None:
    plan = make_plan(train_of(imbalanced), groups=["sex"])
    cells = plan.table.set_index(["finding", "group", "level"])
    assert cells.loc[("No Finding", "sex", "F"), "planned"] > 0
    assert cells.loc[("No Finding", "sex", "M"), "planned"] == 0


def test_small_budget_is_spread_fairly(imbalanced: Manifest) -> None:
    settings_ = PlanSettings(floor=100, findings=["Nodule"], budget=60)
    plan = make_plan(train_of(imbalanced), settings_, groups=["sex"])
    short = plan.table[plan.table["target"].notna()]
    relative = short["shortfall"] / short["target"]
    assert len(plan.frame) == 60
    assert relative.max() - relative.min() <= 0.02
    assert any("targets are not met" in note for note in plan.notes)


def test_every_prefix_is_a_smaller_balanced_plan(imbalanced: Manifest) -> None:
    plan = make_plan(train_of(imbalanced), PlanSettings(floor=80))
    n = len(plan.frame)
    assert n > 300
    nodule = plan.frame["labels"].str.contains("Nodule").to_numpy()
    women = (plan.frame["sex"] == "F").to_numpy()
    old = (plan.frame["age"] >= 80).to_numpy()
    for flags in (nodule, women, old, nodule & women):
        for m in (n // 8, n // 4, n // 2):
            assert abs(flags[:m].sum() - flags.sum() * m / n) <= 4


def test_exact_count_keeps_the_proportions(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    base = make_plan(train, PlanSettings(floor=60, findings=["Nodule"]), groups=["sex"])
    double = make_plan(train, PlanSettings(floor=60, findings=["Nodule"]), groups=["sex"], n=2 * len(base.frame))
    assert len(double.frame) == 2 * len(base.frame)
    share = [(p.frame["sex"] == "F").mean() for p in (base, double)]
    assert abs(share[0] - share[1]) < 0.02
    assert len(make_plan(train, PlanSettings(floor=60), n=37).frame) == 37
    # nothing is short: the real proportions
    same = make_plan(train, PlanSettings(floor=1, findings=["Effusion"]), groups=["sex"], n=400)
    assert len(same.frame) == 400
    assert abs((same.frame["sex"] == "F").mean() - (train.frame["sex"] == "F").mean()) < 0.03
    assert any("real proportions" in note for note in same.notes)


def test_same_seed_same_plan(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    one, two, other = (make_plan(train, PlanSettings(floor=40), seed=s).frame for s in (3, 3, 4))
    pd.testing.assert_frame_equal(one, two)
    assert not one["seed"].equals(other["seed"])


def test_ages_are_real_ages_of_the_band(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    plan = make_plan(train, PlanSettings(floor=40), groups=["sex", "age"])
    real = set(zip(train.frame["sex"], train.frame["age"], strict=True))
    assert set(zip(plan.frame["sex"], plan.frame["age"], strict=True)) <= real


def test_without_sex_and_age_the_findings_alone_count(make_manifest) -> None:
    rows = (
        [{"labels": "Pneumonia|Viral"}] * 10
        + [{"labels": "Bacterial|Pneumonia"}] * 80
        + [{"labels": "No Finding"}] * 50
    )
    plan = make_plan(make_manifest(rows), PlanSettings(floor=60))
    assert plan.frame["labels"].tolist() == ["Pneumonia|Viral"] * 50
    assert plan.frame[["sex", "age", "source"]].isna().all().all()
    assert len([n for n in plan.notes if "is left out" in n]) == 2


def test_views_and_sources_come_from_studies_of_the_label_set(make_manifest) -> None:
    rows = [{"labels": "Edema", "view": "AP", "source": "a", "sex": "M", "age": 50} for _ in range(8)]
    rows += [{"labels": "Nodule", "view": "PA", "source": "b", "sex": s, "age": 30} for s in "MF" for _ in range(90)]
    plan = make_plan(make_manifest(rows), PlanSettings(floor=30, findings=["Edema"]), groups=["sex"])
    assert set(plan.frame["sex"]) == {"F", "M"}
    assert set(plan.frame["source"]) == {"a"}
    assert set(plan.frame["views"]) == {"AP"}


def test_label_sets_of_one_patient_are_left_out_unless_nothing_else_shows_the_finding(make_manifest) -> None:
    rows = [{"labels": "A"}] * 20 + [{"labels": "A|B", "patient_id": "p"}] * 9 + [{"labels": "C"}] * 2
    plan = make_plan(make_manifest(rows), PlanSettings(floor=40, min_label_set=3))
    assert set(plan.frame["labels"]) == {"A|B", "C"}  # nothing else shows B and C
    rows += [{"labels": "B"}] * 5
    plan = make_plan(make_manifest(rows), PlanSettings(floor=40, min_label_set=3))
    assert set(plan.frame["labels"]) == {"A", "B", "C"}


def test_blank_and_uncertain_labels_are_not_label_sets(make_manifest) -> None:
    rows = [{"labels": "A"}] * 5 + [{"labels": "A|?B"}] * 50 + [{}] * 50 + [{"labels": "B"}] * 30
    train = make_manifest(rows)
    census = take_census(train)
    assert census.complete.sum() == 35
    assert set(census.label_sets()) == {("A",), ("B",), None}
    plan = make_plan(train, PlanSettings(floor=60, findings=["A"]))
    assert plan.table.set_index("finding").loc["A", "before"] == 55
    assert plan.frame["labels"].tolist() == ["A"] * 5


def test_studies_of_several_images_count_once(make_manifest) -> None:
    rows = []
    for i in range(30):
        study = {"patient_id": f"p{i}", "study_id": "1", "labels": "A" if i < 4 else "B", "sex": "F", "age": 40}
        rows += [{**study, "image": f"{i}l", "view": "Lateral"}, {**study, "image": f"{i}f", "view": "PA"}]
    train = make_manifest(rows)
    plan = make_plan(train, PlanSettings(floor=10, findings=["A"]), groups=["sex"])
    assert plan.table.set_index(["finding", "group"]).loc[("A", "all"), "before"] == 4
    assert len(plan.frame) == 6
    assert set(plan.frame["views"]) == {"PA|Lateral"}
    assert set(make_plan(train, PlanSettings(floor=10, views=["PA"])).frame["views"]) == {"PA"}


def test_what_the_core_cannot_honour(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    knows_all = card()
    plan = make_plan(train, PlanSettings(floor=60), core_card=knows_all)
    core = ToyCore(knows_all)
    for prompt in prompts_from_plan(plan.frame):
        core.refuse(prompt)
    ignorant = card(findings=["Cardiomegaly", "Effusion"])
    plan = make_plan(train, PlanSettings(floor=60), core_card=ignorant)
    assert not plan.frame["labels"].str.contains("Nodule").any()
    assert any("Nodule" in note for note in plan.notes)
    with pytest.raises(InputError, match=r"does not know the finding.*Nodule"):
        make_plan(train, PlanSettings(findings=["Nodule"]), core_card=ignorant)
    with pytest.raises(InputError, match=r"does not know the view.*Lateral"):
        make_plan(train, PlanSettings(views=["PA", "Lateral"]), core_card=knows_all)
    ageless = card(conditions=["findings", "views", "sex"])
    plan = make_plan(train, PlanSettings(floor=60), core_card=ageless)
    assert plan.frame["age"].isna().all()
    assert any("group age is left out: core toy does not take age" in note for note in plan.notes)
    with pytest.raises(InputError, match="cannot balance the group 'age'"):
        make_plan(train, PlanSettings(groups=["age"]), core_card=ageless)
    with pytest.raises(InputError, match="knows none of the views"):
        make_plan(train, core_card=card(views=["Lateral"]))


def test_refusals(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    with pytest.raises(InputError, match="training rows only"):
        make_plan(imbalanced)
    with pytest.raises(InputError, match=r"does not occur in train; found 'Hernia'"):
        make_plan(train, PlanSettings(findings=["Hernia"]))
    with pytest.raises(InputError, match=r"no column hospital|cannot ask for hospital"):
        make_plan(train, PlanSettings(groups=["hospital"]))
    with pytest.raises(InputError, match="training studies"):
        make_plan(train.take(np.zeros(len(train), bool)))
    with pytest.raises(ValidationError):
        PlanSettings.model_validate({"budgets": 3})
    with pytest.raises(ValidationError):
        PlanSettings(budget=0)
    assert parse_target("floor=200") == {"target": "floor", "floor": 200}
    assert parse_target("median") == {"target": "floor"}
    assert parse_target("uniform=0.1") == {"target": "uniform", "prevalence": 0.1}
    assert parse_target("power=0.05") == {"target": "power", "gap": 0.05}
    for wrong in ("floor", "floor=0", "floor=-1", "uniform=2", "median=3", "population", "power", "parity=1", "fair"):
        with pytest.raises(InputError, match="--target"):
            parse_target(wrong)


def test_default_floor_is_the_median_cell(make_manifest) -> None:
    rows = [{"labels": "A", "sex": "M"}] * 30 + [{"labels": "A", "sex": "F"}] * 20
    rows += (
        [{"labels": "B", "sex": "M"}] * 10
        + [{"labels": "B", "sex": "F"}] * 2
        + [{"labels": "No Finding", "sex": "M"}] * 9
    )
    census = take_census(make_manifest(rows))
    levels = {"sex": group_levels(census.frame, "sex")}
    cells = set_targets(count_cells(census, levels, (0, 20)), floor=None, findings=None)
    target = cells.set_index(["finding", "group", "level"])["target"]
    assert target["B", "sex", "F"] == 15  # median of 30, 20, 10, 2
    assert np.isnan(target["A", "sex", "F"])
    assert target["No Finding", "sex", "F"] == 4  # median of its own counts, 9 and 0
    assert target[:, "all", :].isna().all()


def test_a_plan_is_written_and_read(imbalanced: Manifest, tmp_path) -> None:
    plan = make_plan(train_of(imbalanced), PlanSettings(floor=20))
    write_plan(plan, tmp_path)
    pd.testing.assert_frame_equal(read_plan(tmp_path / "plan.parquet"), plan.frame)
    assert len(check_plan(plan.frame)) == len(plan.frame)
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(plan.table)
    json.dumps(plan.notes)


def test_another_plan_is_replaced_only_when_asked(imbalanced: Manifest, tmp_path) -> None:
    plan, other = (make_plan(train_of(imbalanced), PlanSettings(floor=20, budget=n)) for n in (30, 31))
    write_plan(plan, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_plan(plan, tmp_path)
    with pytest.raises(InputError, match=r"another plan: plan\.parquet differs.*--fresh"):
        write_plan(other, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_plan(other, tmp_path, fresh=True)
    assert len(read_plan(tmp_path / "plan.parquet")) == 31
    (tmp_path / "set.json").write_text("{}")
    with pytest.raises(InputError, match="generated set"):
        write_plan(plan, tmp_path, fresh=True)
