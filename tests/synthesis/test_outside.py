"""The outside arm puts the core's own training cohort into the plan's cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxraug.cores.core import PLAN_COLUMNS, Card
from cxraug.errors import InputError
from cxraug.evaluation.groups import group_levels
from cxraug.studies.images import Encoding
from cxraug.studies.phantom.cohort import PhantomSettings, sample_cohort
from cxraug.studies.seen import Seen
from cxraug.synthesis.generate import load_set
from cxraug.synthesis.outside import outside_cohort, outside_set

COHORT = PhantomSettings(n=120, seed=77, size=32, prevalence={"Effusion": 0.4, "Mass": 0.3})


def card(training_data: dict) -> Card:
    return Card(
        name="c", version="1", kind="gaussian", sha256="0" * 64, resolution=32, views=["PA"], findings=["Effusion"],
        conditions=["findings", "views"], licence="CC0-1.0", training_data=training_data,
        seen=Seen.of(["a"], ["b"]).to_json(),
    )  # fmt: skip


def cells(frame: pd.DataFrame) -> np.ndarray:
    labels = frame["labels"].map(lambda text: "+".join(sorted(p for p in text.split("|") if p[0] not in "-?")))
    return (labels + "|" + group_levels(frame, "sex") + "|" + group_levels(frame, "age")).to_numpy(dtype=object)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "card.json").write_text(card({"phantom": COHORT.model_dump(mode="json")}).model_dump_json())
    return tmp_path


def plan_for(studies: pd.DataFrame) -> pd.DataFrame:
    plan = pd.DataFrame({"prompt_id": [f"p{i:06d}" for i in range(len(studies))], "views": "PA", "seed": 1})
    plan = plan.assign(
        labels=studies["labels"].to_numpy(), sex=studies["sex"].to_numpy(), age=studies["age"].to_numpy()
    )
    return plan.reindex(columns=list(PLAN_COLUMNS))


def test_only_a_core_that_says_how_its_cohort_is_made_has_an_outside_arm() -> None:
    assert outside_cohort(card({"hospital": "far away"})) is None
    assert outside_cohort(card({"phantom": COHORT.model_dump(mode="json")})) == COHORT


def test_every_planned_cell_is_filled_with_a_study_of_that_cell(folder: Path) -> None:
    cohort = sample_cohort(COHORT)
    plan = plan_for(cohort.drop_duplicates("labels").head(6))
    summary = outside_set(str(folder / "core"), plan, folder / "set", cells=cells, encoding=Encoding(size=32), seed=0)
    assert summary == {"accepted": len(plan), "total": len(plan), "from_label_set_only": 0}
    frame, pixels = load_set(folder / "set", Encoding(size=32))
    assert list(frame["prompt_id"]) == list(plan["prompt_id"])
    assert pixels.shape == (len(plan), 32, 32)
    assert (cells(frame) == cells(plan)).all()
    assert set(frame["patient_id"]) <= set(cohort["patient_id"])
    assert pixels.std(axis=(1, 2)).min() > 5


def test_a_label_set_that_the_cohort_does_not_have_is_refused(folder: Path) -> None:
    plan = plan_for(pd.DataFrame({"labels": ["Scurvy"], "sex": ["F"], "age": [50.0]}))
    with pytest.raises(InputError, match="Scurvy"):
        outside_set(str(folder / "core"), plan, folder / "set", cells=cells, encoding=Encoding(size=32), seed=0)


def test_views_are_those_of_each_row(tmp_path: Path) -> None:
    settings = PhantomSettings(n=160, seed=78, size=32, prevalence={"Effusion": 0.4}, views=("PA", "Lateral"))
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "card.json").write_text(card({"phantom": settings.model_dump(mode="json")}).model_dump_json())
    cohort = sample_cohort(settings)
    views = ["PA", "Lateral", "PA|Lateral", "Lateral"]
    plan = plan_for(cohort[cohort["labels"] == "Effusion"].head(4)).assign(views=views)

    def with_view(frame: pd.DataFrame) -> np.ndarray:
        return cells(frame) + "|" + frame["view"].to_numpy(dtype=object)

    summary = outside_set(str(tmp_path / "core"), plan, tmp_path / "set", cells=with_view,
                          encoding=Encoding(size=32), seed=0)  # fmt: skip
    assert summary == {"accepted": 5, "total": 5, "from_label_set_only": 0}
    frame, pixels = load_set(tmp_path / "set", Encoding(size=32))
    assert list(zip(frame["prompt_id"], frame["view"], strict=True)) == [
        (prompt, view) for prompt, text in zip(plan["prompt_id"], views, strict=True) for view in text.split("|")
    ]
    assert frame.groupby("prompt_id")["patient_id"].nunique().max() == 1
    assert len(np.unique(pixels.reshape(5, -1), axis=0)) == 5
    with pytest.raises(InputError, match="views AP"):
        outside_set(str(tmp_path / "core"), plan.assign(views="AP"), tmp_path / "other", cells=with_view,
                    encoding=Encoding(size=32), seed=0)  # fmt: skip
