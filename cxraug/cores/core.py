"""The contract of every generative core: prompts in, studies out, refusals by name."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from cxraug.errors import InputError
from cxraug.studies.labels import parse_labels
from cxraug.studies.seen import Seen

LATERAL = "Lateral"
VIEWS = ("PA", "AP", "AP Supine", "Lateral", "unknown")
PLAN_COLUMNS = (
    "prompt_id", "labels", "sex", "age", "race", "views", "source", "report", "mask", "boxes",
    "reference_image", "conditions", "seed", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """Everything a study is conditioned on. Empty strings, ``None`` and NaN mean "not asked for".

    ``labels`` maps a finding to 1 (present) or 0 (absent); a finding that is not named is left to the core.
    ``age`` is in years. ``conditions`` holds whatever else a core takes.
    """

    prompt_id: str
    labels: Mapping[str, int] = field(default_factory=dict)
    sex: str | None = None
    age: float | None = None
    race: str | None = None
    views: tuple[str, ...] = ("PA",)
    source: str | None = None
    report: str | None = None
    mask: str | None = None
    boxes: str | None = None
    reference_image: str | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def asks_for(self) -> set[str]:
        """Names of the conditions that this prompt sets (``findings`` and ``views`` are always conditions)."""
        asked = {"views"} | ({"findings"} if self.labels else set())
        asked |= {n for n in ("sex", "age", "race", "source", "report", "mask", "boxes", "reference_image")
                  if getattr(self, n) is not None}  # fmt: skip
        return asked | set(self.conditions)


@dataclass
class Study:
    """One generated study: ``images`` maps a view to uint8 pixels (H, W), 0 black to 255 white; ``report`` is text."""

    images: dict[str, np.ndarray]
    report: str | None = None


class Card(BaseModel):
    """What a core is, as written beside its weights (``card.json``)."""

    model_config = ConfigDict(extra="forbid")
    name: str
    version: str
    kind: str  # which class loads it: "gaussian", "diffusion", ...
    sha256: str  # of the weights file
    resolution: int
    views: list[str]
    findings: list[str]
    conditions: list[str]  # names as in Prompt.asks_for
    licence: str
    training_data: dict[str, Any]  # a description; {"phantom": {...settings}} where the data can be made again
    seen: dict[str, Any]  # Seen.to_json()
    sources: list[str] = []
    settings: dict[str, Any] = {}  # of training and sampling

    @property
    def hashes(self) -> Seen:
        """The keyed hashes of what the core was trained on."""
        return Seen.from_json(self.seen)


class GenerativeCore(ABC):
    """A generative model behind one contract.

    Subclasses set ``card``, ``batch_size`` (the shape in which everything is computed, so that bytes do not depend
    on how work is cut) and implement :meth:`_generate`.
    """

    card: Card
    batch_size: int = 16
    sampler: Mapping[str, Any] = {}  # what provenance records: scheduler, steps, guidance, ...

    def refuse(self, prompt: Prompt) -> None:
        """Raise :class:`InputError` that names a condition, finding or view of ``prompt`` this core cannot honour."""
        unknown = sorted(prompt.asks_for() - set(self.card.conditions))
        if unknown:
            raise InputError(
                f"prompt {prompt.prompt_id}: core {self.card.name} does not know the condition {unknown[0]!r}",
                expected=f"only {', '.join(self.card.conditions)}",
            )
        for what, asked, known in (
            ("finding", [f for f in prompt.labels if f != "No Finding"], self.card.findings),
            ("view", prompt.views, self.card.views),
            ("source", [prompt.source] if prompt.source is not None else [], self.card.sources),
        ):
            for name in asked:
                if name not in known:
                    raise InputError(
                        f"prompt {prompt.prompt_id}: core {self.card.name} does not know the {what} {name!r}",
                        expected=f"one of {', '.join(known) or 'none'}",
                    )
        if not prompt.views:
            raise InputError(f"prompt {prompt.prompt_id}: no view asked for", expected="at least one view")

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Study]:
        """Generate one study per prompt; the same prompt and seed give the same bytes on one kind of machine.

        Raises :class:`InputError` for a prompt the core cannot honour, before anything is computed.
        """
        if len(prompts) != len(seeds):
            raise InputError("prompts and seeds differ in length", found=len(seeds), expected=str(len(prompts)))
        for prompt in prompts:
            self.refuse(prompt)
        studies: list[Study] = []
        for start in range(0, len(prompts), self.batch_size):
            stop = start + self.batch_size
            part, part_seeds = list(prompts[start:stop]), list(seeds[start:stop])
            n = len(part)
            part += [part[-1]] * (self.batch_size - n)
            part_seeds += [part_seeds[-1]] * (self.batch_size - n)
            studies += self._generate(part, part_seeds)[:n]
        return studies

    def configure(self, **sampler: Any) -> None:
        """Change sampler settings (``steps``, ``guidance``, ...); None keeps one. Cores without any take only None."""
        changed = [key for key, value in sampler.items() if value is not None]
        if changed:
            raise InputError(f"core {self.card.name} has no sampler setting {changed[0]!r}")

    @abstractmethod
    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        """Generate exactly ``batch_size`` studies; prompts were checked."""


def prompts_from_plan(plan: pd.DataFrame, findings: Sequence[str] = ()) -> list[Prompt]:
    """Read a plan's rows (columns of the contract, missing optional ones allowed) as prompts.

    ``findings`` are those the core knows: in a row that has labels, those it does not name are asked to be absent, as
    the grammar of labels reads them everywhere (left open, a core would draw some of them under a label that denies
    them). Uncertain ones (``?X``) are left to the core.
    """

    def text(row: Mapping[Any, Any], name: str) -> str | None:
        value = row.get(name)
        return None if value is None or value != value or value == "" else str(value)

    prompts = []
    for row in plan.to_dict("records"):
        age = row.get("age")
        named = parse_labels(text(row, "labels") or "")
        absent = {f: 0 for f in findings if f not in named} if named else {}
        prompts.append(
            Prompt(
                prompt_id=str(row["prompt_id"]),
                labels={k: v for k, v in named.items() if v in (0, 1)} | absent,
                sex=text(row, "sex"),
                age=None if age is None or age != age else float(age),
                race=text(row, "race"),
                views=tuple((text(row, "views") or "PA").split("|")),
                source=text(row, "source"),
                report=text(row, "report"),
                mask=text(row, "mask"),
                boxes=text(row, "boxes"),
                reference_image=text(row, "reference_image"),
                conditions=json.loads(text(row, "conditions") or "{}"),
            )
        )
    return prompts
