"""What a user may say about a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxraug.errors import InputError

TargetKind = Literal["floor", "uniform", "parity", "population", "power"]
TARGETS = "floor=NUMBER, median, uniform[=PREVALENCE], parity, population=FILE or power=AUROC_GAP"


class PlanSettings(BaseModel):
    """What is wanted, and within which limits.

    ``target``: what is wanted per finding and group level.

    - ``floor``: so many positive studies (``floor``; default the median count over the cells of a group).
    - ``uniform``: a prevalence of at least ``prevalence`` (default: the median over the findings).
    - ``parity``: P(finding | level) the same in all levels of a group, that of the level where it is highest.
    - ``population``: the shares of levels in the table ``population`` (columns ``group, level, weight``).
    - ``power``: as many positives as measuring an AUROC ``gap`` between a level and the rest takes at 80 % power,
      around an AUROC of ``auroc``.

    ``findings``: those to raise; default those that are short. ``groups``: default the audit's. ``tolerance``: how far
    from a wanted prevalence or share is close enough, relative; where both sides count, either whole number of studies
    next to that will do too.

    Limits: ``budget``: the most studies to generate; default as many as the targets need. ``min_label_set``: label sets
    seen in fewer training patients are not planned. ``per_real``: the most synthetic positives per real one, in every
    cell. ``per_prompt``: the most studies of one label set in one combination of group levels. ``views_as_real``: how
    far the share of any view may be from the real one, in every level. ``companions``: studies without the wanted
    findings per study with one, in the same groups, so that looking synthetic does not come to mean having the
    finding; they count in the budget. ``views``: of every planned study; default as in the data. ``reports``: prompts
    carry the report of a real study of the same label set, each report once.
    """

    model_config = ConfigDict(extra="forbid")
    target: TargetKind = "floor"
    budget: int | None = Field(None, ge=1)
    findings: list[str] | None = None
    floor: int | None = Field(None, ge=1)
    prevalence: float | None = Field(None, gt=0, lt=1)
    population: str | None = None
    gap: float | None = Field(None, gt=0, lt=0.5)
    auroc: float = Field(0.8, gt=0.5, lt=1)
    tolerance: float = Field(0.02, ge=0, lt=1)
    groups: list[str] | None = None
    min_label_set: int = Field(3, ge=1)
    per_real: float | None = Field(None, gt=0)
    per_prompt: int | None = Field(None, ge=1)
    views_as_real: float | None = Field(None, ge=0, lt=1)
    companions: float = Field(0.0, ge=0, le=10)
    views: Annotated[list[str], Field(min_length=1)] | None = None
    reports: bool = False

    @model_validator(mode="after")
    def _go_together(self) -> PlanSettings:
        for key, kind in (
            ("floor", "floor"),
            ("prevalence", "uniform"),
            ("population", "population"),
            ("gap", "power"),
        ):
            if getattr(self, key) is not None and self.target != kind:
                raise ValueError(f"plan.{key} goes with target: {kind}; the target is {self.target}")
        for key in ("population", "gap"):
            if self.target == {"population": "population", "gap": "power"}[key] and getattr(self, key) is None:
                raise ValueError(f"target: {self.target} needs plan.{key}")
        if self.gap is not None and self.gap >= self.auroc - 0.5:
            raise ValueError(f"plan.gap: {self.gap:g} below an AUROC of {self.auroc:g} is not above chance")
        limits = [key for key in ("per_real", "per_prompt", "views_as_real") if getattr(self, key) is not None]
        if self.companions and (limits or self.target not in ("floor", "power")):
            raise ValueError(
                f"plan.companions go with target: floor or power and no limit but the budget; remove companions or "
                f"{limits[0] if limits else f'target: {self.target}'}"
            )
        from cxraug.cores.core import VIEWS

        for view in self.views or []:
            if view not in VIEWS:
                raise ValueError(f"plan.views: unknown view {view!r}; expected some of {', '.join(VIEWS)}")
        if self.views is not None and self.views_as_real is not None:
            raise ValueError("plan.views fixes the views of every study; remove it or plan.views_as_real")
        return self


def parse_target(text: str) -> dict[str, Any]:
    """The settings that ``--target`` stands for: ``floor=200`` gives ``{"target": "floor", "floor": 200}``.

    Raises
    ------
    InputError : anything but the forms in :data:`TARGETS`.
    """
    name, equals, value = (part.strip() for part in text.strip().partition("="))
    wrong = InputError("--target is not known", found=text, expected=TARGETS)
    if name == "median" and not equals:
        return {"target": "floor"}
    if name not in get_args(TargetKind) or bool(equals) != bool(value):
        raise wrong
    if name == "floor":
        if not value.isdigit() or int(value) < 1:
            raise wrong
        return {"target": "floor", "floor": int(value)}
    if name in ("uniform", "parity") and not equals:
        return {"target": name}
    if name == "population" and value:
        return {"target": name, "population": str(Path(value).resolve())}
    most = {"uniform": 1.0, "power": 0.5}.get(name)
    try:
        number = float(value)
    except ValueError:
        raise wrong from None
    if most is None or not 0 < number < most:
        raise wrong
    return {"target": name, "prevalence" if name == "uniform" else "gap": number}
