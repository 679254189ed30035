"""What a plan costs: images, and hours of the core that is asked, timed on this machine."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from cxraug.cores.core import NO_VIEWS, GenerativeCore, prompts_from_plan
from cxraug.machine import machine


@dataclass(frozen=True)
class Cost:
    """``studies`` and ``images`` to generate; ``seconds_per_study``, ``hours`` and where they were timed, if they were.

    Hours are those of one process, without the gate and without what a gate rejects and asks for again.
    """

    studies: int
    images: int
    core: str = ""
    seconds_per_study: float | None = None
    timed_studies: int = 0
    hours: float | None = None
    machine: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """For ``plan.json``."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """In words."""
        text = f"{self.studies:,} studies, {self.images:,} images"
        if self.hours is None or self.machine is None:
            return text
        pace = f"{self.seconds_per_study:.3g} s per study"
        long = f"{self.hours:.1f} hours" if self.hours >= 1 else f"{60 * self.hours:.1f} minutes"
        where = self.machine.get("gpu") or f"{self.machine['processor']}, {self.machine['cores']} cores"
        return f"{text}; {self.core} takes {long} ({pace}, over {self.timed_studies} studies on {where})"


def plan_cost(plan: pd.DataFrame, core: GenerativeCore | None = None, *, batches: int = 1) -> Cost:
    """Count what ``plan`` asks for and, with a ``core``, time its first ``batches`` after one that warms up.

    Raises
    ------
    InputError : a prompt that the core cannot honour.
    """
    views = plan["views"].fillna("PA").astype("str")
    images = int(sum(0 if v == NO_VIEWS else v.count("|") + 1 for v in views))
    if core is None or plan.empty:
        return Cost(len(plan), images)
    part = plan.head(core.batch_size * (batches + 1))
    prompts, seeds = prompts_from_plan(part, core.card.findings), part["seed"].tolist()
    first, size = min(core.batch_size, len(part)), core.batch_size
    core.generate(prompts[:first], seeds[:first])
    timed = slice(first, None) if len(part) > first else slice(0, first)
    began = time.perf_counter()
    core.generate(prompts[timed], seeds[timed])
    done = -(-len(prompts[timed]) // size) * size  # a batch that is not full takes as long
    pace = (time.perf_counter() - began) / done
    hours = pace * -(-len(plan) // size) * size / 3600
    return Cost(len(plan), images, core.card.name, pace, done, hours, machine())
