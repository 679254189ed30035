"""A budget of 100,000 over 14 findings x sex x age band on NIH's full real table, with every limit."""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest

from cxraug.balance.plan import PlanSettings, make_plan
from cxraug.balance.verification import verify_plan
from cxraug.evaluation.groups import AGE_BINS
from cxraug.studies.manifest import Manifest

TABLE = "data/Data_Entry_2017_v2020.csv.gz"


@pytest.fixture(scope="module")
def nih() -> Manifest:
    """All rows as training rows."""
    torchxrayvision = pytest.importorskip("torchxrayvision", reason="its wheel holds the table")
    path = Path(str(files(torchxrayvision).joinpath(TABLE)))
    if not path.is_file():
        pytest.skip("this torchxrayvision ships no table")
    raw = pd.read_csv(path)
    frame = pd.DataFrame({
        "image": raw["Image Index"], "patient_id": raw["Patient ID"].astype("str"), "study_id": raw["Image Index"],
        "view": raw["View Position"], "sex": raw["Patient Gender"], "age": raw["Patient Age"].astype(float),
        "labels": raw["Finding Labels"], "source": "nih", "split": "train",
    })  # fmt: skip
    names = tuple(sorted({part for text in frame["labels"].unique() for part in text.split("|")}))
    frame = frame.astype({name: "str" for name in frame.columns if name != "age"})
    return Manifest(frame, Path(), None, names, {"nih": names})


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{}, {"per_real": 20, "per_prompt": 500, "views_as_real": 0.05}])
def test_nih(nih: Manifest, limits: dict) -> None:
    findings = [f for f in nih.findings if f != "No Finding"]
    asked = PlanSettings(floor=3000, budget=100_000, findings=findings, groups=["sex*age"], **limits)
    began = time.process_time()
    plan = make_plan(nih, asked)
    assert time.process_time() - began < 10
    assert len(nih) == 112_120
    assert plan.table["target"].notna().sum() == 14 * 10
    found = verify_plan(plan.frame, nih, asked, findings=nih.findings, groups=plan.groups, age_bins=AGE_BINS)
    assert found["holds"].all(), found.to_string()
    one = 1 / 3000  # a study of a target
    for reading in plan.programme:
        assert reading["value"] <= reading["bound"] * 1.01 + one
    short = plan.table[plan.table["shortfall"] > 0]
    assert (short["held_back_by"] != "").all()
