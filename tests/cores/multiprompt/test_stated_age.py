"""Reports state the age that was asked for."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxraug.cores.core import Prompt
from cxraug.cores.multiprompt.stated_age import state_age
from cxraug.cores.registry import open_core
from cxraug.studies.phantom.report import write_report


@pytest.mark.parametrize(
    ("before", "after"),
    [("Woman aged 49. Clear.", "Woman aged 64. Clear."), ("29-year-old woman.", "64-year-old woman."),
     ("A 7 year old boy; 2 views.", "A 64 year old boy; 2 views."),
     ("Patient: woman, 43 years.", "Patient: woman, 64 years."), ("Nodule of 12 mm, stable for 2 years.",) * 2,
     ("PA view. 3 nodules.",) * 2],
)  # fmt: skip
def test_only_ages_are_set(before: str, after: str) -> None:
    assert state_age(before, 64.4) == after


@given(st.integers(18, 95), st.integers(0, 10**6))
def test_of_a_phantom_report_nothing_changes_but_the_age(age: int, seed: int) -> None:
    labels = {"Effusion": 1, "Mass": 0}
    report = write_report(labels, "F", float(age), ("PA",), np.random.default_rng(seed))
    assert state_age(report, age) == report, "it states this age already, or none"
    other = state_age(report, 33)
    assert re.sub(r"\d+", "#", other) == re.sub(r"\d+", "#", report)
    assert str(age) not in other or age == 33


def test_a_core_states_the_age_asked_for() -> None:
    core = open_core("phantom-nano", overrides={"sampler_steps": 3, "report_tries": 1})
    prompts = [Prompt(f"p{i}", {"Effusion": 1}, sex="F", age=64.0, views=()) for i in range(8)]
    reports = [study.report or "" for study in core.generate(prompts, list(range(8)))]
    stated = re.findall(r"\d+(?=[- ]year)|(?<=aged )\d+", " ".join(reports))
    assert set(stated) == {"64"}
