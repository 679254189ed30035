"""Every target and every limit of a plan, counted anew; and the words for what cannot be met."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from balance.toys import card, train_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cxraug.balance.plan import Plan, PlanSettings, make_plan
from cxraug.balance.sample_size import Question, positives_needed, power_of
from cxraug.balance.target import ANY, MOST_POSITIVES, read_weights
from cxraug.balance.verification import verify_plan
from cxraug.errors import InputError
from cxraug.evaluation.groups import AGE_BINS, group_levels
from cxraug.studies.manifest import Manifest
from cxraug.synthesis.prompts import check_plan


def verified(plan: Plan, train: Manifest, asked: PlanSettings, n: int | None = None) -> pd.DataFrame:
    return verify_plan(plan.frame, train, asked, findings=train.findings, groups=plan.groups, age_bins=AGE_BINS, n=n)


def prevalence(plan: Plan, train: Manifest, finding: str, group: str = "sex") -> pd.Series:
    """Of the real and planned studies together, by plain pandas."""
    both = pd.concat([train.frame, plan.frame.assign(split="train")], ignore_index=True)
    has = both["labels"].fillna("").str.split("|").map(lambda parts: finding in parts)
    return has.groupby(group_levels(both, group)).mean()


def test_uniform_prevalence(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    plan = make_plan(train, PlanSettings(target="uniform", prevalence=0.15), groups=["sex"])
    for finding in ("Cardiomegaly", "Effusion", "Nodule"):
        assert (prevalence(plan, train, finding) >= 0.15 * 0.98 - 2e-3).all()
    table = plan.table.set_index(["finding", "group", "level"])
    assert table.loc[("Nodule", "sex", "F"), "target"] > table.loc[("Nodule", "sex", "F"), "before"]
    assert check_plan(plan.frame)


def test_parity_makes_prevalence_the_same_in_every_level(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    before = prevalence(make_plan(train, PlanSettings(floor=1, findings=["Nodule"])), train, "Cardiomegaly")
    assert before["M"] > 2 * before["F"]
    plan = make_plan(train, PlanSettings(target="parity", findings=["Cardiomegaly"]), groups=["sex"])
    after = prevalence(plan, train, "Cardiomegaly")
    assert abs(after["M"] / after["F"] - 1) < 0.06
    assert after["F"] == pytest.approx(before["M"], rel=0.06)
    assert any("keeps the wanted shares" in r or "raises Cardiomegaly" in r for r in plan.frame["reason"])
    few = make_plan(train, PlanSettings(target="parity", findings=["Nodule"]), groups=["age"])
    assert any("no parity of Nodule over age" in note for note in few.notes)


def test_population_weights(imbalanced: Manifest, tmp_path: Path) -> None:
    train, path = train_of(imbalanced), tmp_path / "weights.csv"
    path.write_text("group,level,weight\nsex,F,51\nsex,M,49\n")
    plan = make_plan(train, PlanSettings(target="population", population=str(path)), groups=["sex"])
    both = pd.concat([train.frame["sex"], plan.frame["sex"]])
    assert (both == "F").mean() == pytest.approx(0.51, abs=0.012)
    rows = plan.table[plan.table["finding"] == ANY].set_index("level")
    assert rows.loc["F", "before"] == (train.frame["sex"] == "F").sum()
    assert rows.loc["F", "after"] == (both == "F").sum()
    # what women have is kept: added studies have the label sets of real women
    women = train.frame["sex"] == "F"
    real = train.frame.loc[women, "labels"].value_counts(normalize=True)
    new = plan.frame.loc[plan.frame["sex"] == "F", "labels"].value_counts(normalize=True)
    assert abs(real["No Finding"] - new["No Finding"]) < 0.06
    path.write_text("group,level,weight\nsex,F,1\n")
    with pytest.raises(InputError, match="no weight for a level of sex that the data have"):
        make_plan(train, PlanSettings(target="population", population=str(path)), groups=["sex"])
    path.write_text("group,level,weight\nsex,F,1\nsex,F,2\n")
    with pytest.raises(InputError, match="a level twice"):
        read_weights(path)
    path.write_text("group,level,weight\nsex,F,none\n")
    with pytest.raises(InputError, match="not a weight"):
        read_weights(path)
    path.write_text("group,level\nsex,F\n")
    with pytest.raises(InputError, match="missing column"):
        read_weights(path)


def test_power_target_is_what_the_audit_says(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    plan = make_plan(train, PlanSettings(target="power", gap=0.12), groups=["sex"])
    table = plan.table.set_index(["finding", "group", "level"])
    row, other = table.loc[("Cardiomegaly", "sex", "F")], table.loc[("Cardiomegaly", "sex", "M")]
    level, rest = (np.array([r["before"], r["studies"] - r["before"]], dtype=float) for r in (row, other))
    question = Question(gap=0.12)
    assert row["target"] == positives_needed(question, level, rest)
    enough, fewer = (np.array([row["target"] - less, level[1]]) for less in (0, 1))
    assert power_of(question, enough, rest) >= 0.8 > power_of(question, fewer, rest)
    assert any("real test studies" in note for note in plan.notes)


def test_a_cell_that_something_else_keeps_from_power_gets_no_target(imbalanced: Manifest) -> None:
    """Nearly as many positives as one likes would do: it is the other level that has too few."""
    train = train_of(imbalanced)
    gaps = np.arange(0.05, 0.3, 0.005)
    targets = [make_plan(train, PlanSettings(target="power", gap=gap), groups=["sex"]).table for gap in gaps]
    most = max(t["target"].max() / positives_needed(Question(gap=g), np.array([0, 1e12]), np.array([1e12, 1e12]))
               for g, t in zip(gaps, targets, strict=True) if t["target"].notna().any())  # fmt: skip
    assert 1 < most <= MOST_POSITIVES
    notes = make_plan(train, PlanSettings(target="power", gap=0.05), groups=["sex"]).notes
    assert any("cells have no target: more positives would not show an AUROC gap of 0.05" in note for note in notes)
    with pytest.raises(ValidationError, match="not above chance"):
        PlanSettings(target="power", gap=0.31)


CASES = {
    "floor": {"floor": 60}, "uniform": {"target": "uniform", "prevalence": 0.2}, "parity": {"target": "parity"},
}  # fmt: skip


@settings(max_examples=18, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(CASES)), seed=st.integers(0, 1000), rows=st.integers(40, 160),
    budget=st.one_of(st.none(), st.integers(1, 120)), exact=st.booleans(),
    per_real=st.one_of(st.none(), st.sampled_from([0.5, 1.0, 3.0])),
    per_prompt=st.one_of(st.none(), st.integers(1, 12)),
    views=st.one_of(st.none(), st.sampled_from([0.0, 0.05])), crossed=st.booleans(),
)  # fmt: skip
def test_every_limit_is_kept_on_random_tables(
    make_manifest, kind, seed, rows, budget, exact, per_real, per_prompt, views, crossed
) -> None:
    rng = np.random.default_rng(seed)
    sets = ["A", "A|B", "B", "C", "No Finding", "B|C", "A|?B"]
    train = make_manifest(
        [
            {"sex": rng.choice(["F", "M", ""], p=[0.3, 0.6, 0.1]) or np.nan, "age": float(rng.integers(0, 99)),
             "view": rng.choice(["PA", "AP"]), "patient_id": f"p{rng.integers(0, rows)}",
             "labels": rng.choice(sets, p=[0.2, 0.05, 0.1, 0.05, 0.5, 0.05, 0.05])}
            for _ in range(rows)
        ]
    )  # fmt: skip
    n = 30 if exact and kind == "floor" else None
    asked = PlanSettings(
        **CASES[kind], budget=budget, per_real=per_real, per_prompt=per_prompt, views_as_real=views,
        groups=["sex*age"] if crossed else ["sex", "age"],
    )  # fmt: skip
    plan = make_plan(train, asked, seed=seed, n=n)
    found = verified(plan, train, asked, n)
    assert found["holds"].all(), found.to_string()
    exact_shares = kind == "parity" or views is not None  # whole studies may be one off, and so below the bound
    for reading in plan.programme:
        if reading["name"] == "worst" and not exact_shares:
            assert reading["value"] >= reading["bound"] - 1e-6
    unmet = plan.table[(plan.table["shortfall"] > 0)]
    assert (unmet["held_back_by"] != "").all()
    assert (plan.table.loc[(plan.table["shortfall"] == 0) & (plan.table["excess"] == 0), "held_back_by"] == "").all()


def test_the_verifier_sees_what_is_broken(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    asked = PlanSettings(floor=60, per_real=3, per_prompt=20, views_as_real=0.05, budget=300, groups=["sex"])
    plan = make_plan(train, asked)
    assert verified(plan, train, asked)["holds"].all()

    def broken(frame: pd.DataFrame, changed: PlanSettings = asked) -> set[str]:
        other = Plan(frame, plan.table, [], [], plan.groups)
        found = verified(other, train, changed)
        return set(found.loc[~found["holds"], "limit"])

    frame = plan.frame
    assert broken(frame, asked.model_copy(update={"budget": len(frame) - 1})) == {"budget"}
    assert any(name.startswith("label sets seen") for name in broken(frame.assign(labels="Nodule|Pneumonia")))
    assert broken(frame, asked.model_copy(update={"per_prompt": 1})) == {"cap per prompt"}
    assert "synthetic per real" in broken(frame.assign(labels="Nodule"))
    assert "views in proportion" in broken(frame.assign(views="Lateral"))
    assert "rows with an id and a seed of their own" in broken(frame.assign(seed=1))


def test_unmet_targets_name_the_limit_that_binds(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    base = {"floor": 100, "findings": ["Nodule"]}

    def why(**limits: object) -> str:
        table = make_plan(train, PlanSettings(**base, **limits), groups=["sex"]).table.set_index(["finding", "level"])
        return str(table.loc[("Nodule", "F"), "held_back_by"])

    real = int(((train.frame["sex"] == "F") & train.frame["labels"].str.contains("Nodule")).sum())
    assert why() == ""
    assert why(per_real=2) == f"at most 2 synthetic per real: Nodule in sex F has {real} real"
    assert why(budget=30) == "the budget of 30 studies"
    assert "the cap per prompt" in why(per_prompt=3)
    plan = make_plan(train, PlanSettings(**base, budget=30, per_real=50), groups=["sex"])
    told = "2 targets are held back by limits; met would be 0 without synthetic per real, 2 without the budget"
    assert told in plan.notes


def test_settings_that_do_not_go_together() -> None:
    for wrong in (
        {"target": "parity", "floor": 3}, {"target": "population"}, {"target": "power"}, {"gap": 0.1},
        {"companions": 1, "per_real": 2}, {"companions": 1, "target": "parity"},
        {"views": ["PA"], "views_as_real": 0.1},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            PlanSettings(**wrong)


def test_no_report_is_given_twice(make_manifest) -> None:
    rows = [{"labels": "A", "sex": "F", "age": 50, "report": f"text {i // 2}"} for i in range(24)]
    rows += [{"labels": "No Finding", "sex": s, "age": 50, "report": "clear"} for s in "FM" for _ in range(30)]
    plan = make_plan(make_manifest(rows), PlanSettings(floor=60, findings=["A"], reports=True, groups=["sex"])).frame
    given = plan["report"].dropna()
    assert set(given) == {f"text {i}" for i in range(12)}  # every caption once, and never that of another label set
    assert given.is_unique
    assert make_plan(make_manifest(rows), PlanSettings(floor=60, findings=["A"])).frame["report"].isna().all()


def test_donors_take_turns_over_the_whole_plan(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    plan = make_plan(train, PlanSettings(floor=60, findings=["Nodule"]), groups=["sex"]).frame
    women = plan[plan["sex"] == "F"]
    real = train.frame[train.frame["sex"] == "F"]
    assert women["age"].value_counts().max() <= real["age"].value_counts().max()


def test_what_earlier_plans_made_counts_as_there_but_not_as_real(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    first = make_plan(train, PlanSettings(floor=60, findings=["Nodule"], budget=40), groups=["sex"])
    made = train.frame.iloc[:0].reindex(range(len(first.frame))).assign(
        image=first.frame["prompt_id"], study_id=first.frame["prompt_id"], patient_id="syn-" + first.frame["prompt_id"],
        labels=first.frame["labels"], sex=first.frame["sex"], age=first.frame["age"], view="PA", split="train",
        source="", synthetic=True,
    )  # fmt: skip
    both = pd.concat([train.frame.assign(synthetic=False), made], ignore_index=True)
    mixed = Manifest(both.astype({"synthetic": bool}), train.root, None, train.findings, train.annotated)
    asked = PlanSettings(floor=60, findings=["Nodule"], per_real=4)
    second = make_plan(mixed, asked, groups=["sex"])
    one, two = (p.table.set_index(["finding", "group", "level"]) for p in (first, second))
    assert (two["before"] == one["after"]).all()
    real = ((train.frame["sex"] == "F") & train.frame["labels"].str.contains("Nodule")).sum()
    women = two.loc[("Nodule", "sex", "F")]
    assert women["after"] <= real + 4 * real
    assert verified(second, mixed, asked)["holds"].all()
    assert any("40 synthetic studies are there already" in note for note in second.notes)


def test_a_note_says_when_a_share_is_met(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    near = "a share counts as met within 5 % of itself"
    whole = "; either whole number of studies next to that will do"
    both = make_plan(train, PlanSettings(target="parity", tolerance=0.05, findings=["Cardiomegaly"]), groups=["sex"])
    assert near + whole in both.notes
    least = make_plan(train, PlanSettings(target="uniform", prevalence=0.1, tolerance=0.05), groups=["sex"])
    assert near in least.notes
    assert not any("share counts" in note for note in make_plan(train, PlanSettings(floor=50), groups=["sex"]).notes)


def with_views(train: Manifest) -> Manifest:
    """The same studies, every third of them AP, women more often."""
    frame = train.frame.assign(view="PA")
    rare = (np.arange(len(frame)) % 3 == 0) | ((frame["sex"] == "F") & (np.arange(len(frame)) % 4 == 1)).to_numpy()
    frame.loc[rare, "view"] = "AP"
    return Manifest(frame, train.root, None, train.findings, train.annotated)


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.02, 0.05])
def test_views_in_proportion_hold_for_whole_studies(imbalanced: Manifest, tolerance: float) -> None:
    train = with_views(train_of(imbalanced))
    asked = PlanSettings(floor=60, views_as_real=tolerance)
    plan = make_plan(train, asked, groups=["sex", "age"])
    real = (train.frame["view"] == "AP").groupby(train.frame["sex"]).mean()
    planned = (plan.frame["views"] == "AP").groupby(plan.frame["sex"]).agg(["sum", "size"])
    assert (planned["size"] > 20).all()
    assert ((planned["sum"] - real * planned["size"]).abs() <= tolerance * planned["size"] + 1 + 1e-9).all()
    found = verify_plan(plan.frame, train, asked, findings=train.findings, groups=plan.groups, age_bins=AGE_BINS)
    assert found["holds"].all(), found.to_string()


def test_views_that_the_core_lacks_are_left_out_and_named(imbalanced: Manifest) -> None:
    train = with_views(train_of(imbalanced))
    known = card(views=["PA"])
    plan = make_plan(train, PlanSettings(floor=40, views_as_real=0.05), groups=["sex"], core_card=known)
    assert set(plan.frame["views"]) == {"PA"}
    assert "core toy does not know the view 'AP': left out" in plan.notes


def test_a_population_of_groups_that_are_not_balanced_is_refused(imbalanced: Manifest, tmp_path: Path) -> None:
    weights = tmp_path / "weights.csv"
    weights.write_text("group,level,weight\nrace,F,1\n")
    asked = PlanSettings(target="population", population=str(weights))
    with pytest.raises(InputError, match=r"weights.csv, column 'group'.*found 'race'.*one of sex, age"):
        make_plan(train_of(imbalanced), asked, groups=["sex", "age"])


def test_only_findings_that_no_study_shows_are_called_so(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    plan = make_plan(train, PlanSettings(floor=100_000, budget=20), groups=["sex"])
    assert plan.table.groupby("finding")["planned"].max().eq(0).any()
    assert not any("no study that can be planned shows" in note for note in plan.notes)
    lacking = make_plan(train, PlanSettings(floor=100), groups=["sex"], core_card=card(findings=["Effusion", "Nodule"]))
    assert "no study that can be planned shows Cardiomegaly: the shortfall stays" in lacking.notes


def test_label_sets_are_told_by_the_patients_they_were_seen_in(imbalanced: Manifest) -> None:
    train = train_of(imbalanced)
    asked = PlanSettings(floor=60, min_label_set=2)
    plan = make_plan(train, asked, groups=["sex"])
    rows = verify_plan(plan.frame, train, asked, findings=train.findings, groups=["sex"], age_bins=AGE_BINS)
    row = rows[rows["limit"] == "label sets seen in 2 patients"].iloc[0]
    seen = train.frame.groupby("labels")["patient_id"].nunique()
    assert row["found"] == seen[plan.frame["labels"].unique()].min()
    assert row["holds"] == (row["found"] >= row["allowed"])


def test_what_no_limit_holds_back_is_not_blamed_on_one(imbalanced: Manifest) -> None:
    """Of findings that hardly ever come together not nine in ten studies can show each."""
    train = train_of(imbalanced)
    plan = make_plan(train, PlanSettings(target="uniform", prevalence=0.9), groups=["sex"])
    assert (plan.table["shortfall"] > 0).any()
    assert not any("held back by limits" in note for note in plan.notes)
    assert plan.table.loc[plan.table["shortfall"] > 1, "held_back_by"].str.contains("the other targets").all()


@pytest.mark.parametrize("n", [7, 40, 133])
@pytest.mark.parametrize("limits", [{"views_as_real": 0.0}, {"per_real": 50}, {"target": "parity"}])
def test_an_exact_number_is_exact_where_limits_leave_room(imbalanced: Manifest, n: int, limits: dict) -> None:
    train = with_views(train_of(imbalanced))
    plan = make_plan(train, PlanSettings(**limits), groups=["sex*age"], n=n)
    assert len(plan.frame) == n
