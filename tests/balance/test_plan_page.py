"""What stands beside a plan: its page and its cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from balance.toys import train_of

from cxraug.balance.cost import plan_cost
from cxraug.balance.plan import PlanSettings, make_plan, write_plan
from cxraug.balance.verification import verify_plan
from cxraug.cores.core import Card, GenerativeCore, Prompt, Study
from cxraug.evaluation.groups import AGE_BINS
from cxraug.studies.manifest import Manifest
from cxraug.studies.seen import Seen


class SlowCore(GenerativeCore):
    """Two images in a batch, a hundredth of a second each."""

    batch_size = 2

    def __init__(self) -> None:
        self.asked = 0
        self.card = Card(
            name="slow", version="1", kind="toy", sha256="0" * 64, resolution=8, views=["PA"],
            findings=["Cardiomegaly", "Effusion", "Nodule"], conditions=["findings", "views", "sex", "age"],
            licence="none", training_data={}, seen=Seen.of(["a"], ["b"]).to_json(),
        )  # fmt: skip

    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        import time

        time.sleep(0.02)
        self.asked += len(prompts)
        return [Study({"PA": np.zeros((8, 8), np.uint8)}) for _ in prompts]


def test_the_core_is_timed_on_a_few_batches(imbalanced: Manifest) -> None:
    core = SlowCore()
    plan = make_plan(train_of(imbalanced), PlanSettings(floor=60, budget=101), core_card=core.card).frame
    cost = plan_cost(plan, core)
    assert (cost.studies, cost.images) == (101, 101)
    assert core.asked == 4  # one batch that warms up, one that counts
    assert cost.timed_studies == 2
    assert 0.009 < cost.seconds_per_study < 0.1
    assert cost.hours is not None
    assert abs(cost.hours - cost.seconds_per_study * 102 / 3600) < 1e-12  # the last batch is padded
    assert "slow takes" in cost.sentence
    json.dumps(cost.to_json())
    uncounted = plan_cost(plan.assign(views="PA|Lateral"))
    assert (uncounted.images, uncounted.hours) == (202, None)
    assert plan_cost(plan.head(0), core).images == 0


def test_the_page_says_what_is_short_and_why(imbalanced: Manifest, tmp_path: Path) -> None:
    train = train_of(imbalanced)
    asked = PlanSettings(floor=100, findings=["Nodule"], per_real=2, groups=["sex"])
    plan = make_plan(train, asked)
    limits = verify_plan(plan.frame, train, asked, findings=train.findings, groups=plan.groups, age_bins=AGE_BINS)
    write_plan(plan, tmp_path, settings=asked, limits=limits, cost=plan_cost(plan.frame).to_json())
    page = (tmp_path / "plan.html").read_text(encoding="utf-8")
    assert "at most 2 synthetic per real: Nodule in sex F" in page
    assert "<svg" in page
    assert "synthetic per real" in page
    assert (pd.read_csv(tmp_path / "limits.csv")["holds"]).all()
    about = json.loads((tmp_path / "plan.json").read_text())
    assert about["studies"] == len(plan.frame)
    assert {r["name"] for r in about["programme"]} == {"worst", "total", "cost"}
