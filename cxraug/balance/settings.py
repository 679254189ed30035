"""What a user may say about a plan."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from cxraug.errors import InputError


class PlanSettings(BaseModel):
    """What is wanted.

    ``budget``: the most studies to generate; default as many as the targets need. ``findings``: those to raise; default
    those under the floor. ``floor``: positive studies wanted per finding and group level; default the median count over
    the cells of a group. ``groups``: default the audit's. ``min_label_set``: label sets seen in fewer training patients
    are not planned. ``companions``: studies without the wanted findings per study with one, in the same groups, so that
    looking synthetic does not come to mean having the finding; they count in the budget. ``views``: of every planned
    study; default as in the data.
    """

    model_config = ConfigDict(extra="forbid")
    budget: int | None = Field(None, ge=1)
    findings: list[str] | None = None
    floor: int | None = Field(None, ge=1)
    groups: list[str] | None = None
    min_label_set: int = Field(3, ge=1)
    companions: float = Field(0.0, ge=0, le=10)
    views: Annotated[list[str], Field(min_length=1)] | None = None


def parse_target(text: str) -> int | None:
    """The floor of ``--target``: ``floor=200``, or ``median`` (None).

    Raises
    ------
    InputError : anything else.
    """
    name, _, value = text.strip().partition("=")
    if name == "median" and not value:
        return None
    if name == "floor" and value.isdigit() and int(value) > 0:
        return int(value)
    raise InputError("--target is not known", found=text, expected="floor=NUMBER (at least 1) or median")
