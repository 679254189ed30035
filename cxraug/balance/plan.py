"""The plan: which studies to pull from a core so that rare findings and thin cells reach their targets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxraug.balance.allocation import Demand, allocate, list_demands
from cxraug.balance.census import Census, take_census
from cxraug.balance.companions import add_companions, wanted_share
from cxraug.balance.kinds import Kinds, list_kinds
from cxraug.balance.prompts import write_prompts
from cxraug.balance.settings import PlanSettings
from cxraug.balance.target import ALL, count_cells, set_targets
from cxraug.errors import InputError
from cxraug.evaluation.groups import AGE_BINS, MISSING, group_levels
from cxraug.storage import atomic

if TYPE_CHECKING:
    from cxraug.cores.core import Card
    from cxraug.studies.manifest import Manifest

__all__ = ["Plan", "PlanSettings", "make_plan", "write_plan"]

PROMPTED = ("sex", "age", "race", "source", "view")  # group columns that a prompt can ask for


@dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes
    ----------
    frame : one row per study to generate, columns ``cxraug.cores.core.PLAN_COLUMNS``; any prefix is a smaller plan with
        the same proportions.
    table : per finding and group level: ``studies`` (label known), ``before`` (positives), ``target`` (NaN: none),
        ``planned``, ``after``, ``shortfall``, ``studies_planned``, ``prevalence_before``, ``prevalence_after``.
    notes : what was left out and why, in plain words.
    """

    frame: pd.DataFrame
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def make_plan(
    train: Manifest,
    settings: PlanSettings | None = None,
    *,
    findings: Sequence[str] | None = None,
    groups: Sequence[str] = ("sex", "age"),
    age_bins: Sequence[float] = AGE_BINS,
    seed: int = 0,
    core_card: Card | None = None,
    n: int | None = None,
) -> Plan:
    """Plan which studies to generate.

    Parameters
    ----------
    train : training rows only.
    settings : what is wanted; see :class:`PlanSettings`.
    findings : the findings that classifiers are trained on; default all.
    groups : used unless ``settings.groups`` names others; those that the data or the core do not have are left out.
    seed : of the order, of the donors of ages and views, and of the seed in every row.
    core_card : the core that will be asked. What it cannot honour is left out with a note if it was only a default.
    n : exactly so many studies, in place of ``settings.budget``. Beyond what the targets need, kinds grow in
        proportion.

    Raises
    ------
    InputError : rows outside train; a finding, group or view asked for by name that is not in the data or that the core
        cannot honour.
    """
    settings = settings or PlanSettings()
    if (train.frame["split"] != "train").any():
        raise InputError("a plan is made from training rows only", file=train.file, column="split")
    census = take_census(train, findings)
    if not len(census):
        raise InputError("a plan needs training studies", file=train.file, found="none")
    levels, notes = _usable_levels(census, settings, groups, age_bins, core_card)
    cells = set_targets(count_cells(census, levels, age_bins), floor=settings.floor, findings=settings.findings)
    _refuse_unknown_findings(settings, core_card)
    kinds, left_out = list_kinds(
        census,
        levels,
        known=None if core_card is None else core_card.findings,
        min_label_set=settings.min_label_set,
    )
    demands = list_demands(kinds, cells, levels)
    counts = _counts(kinds, demands, settings, n)
    rng = np.random.default_rng(seed)
    frame, plan_levels = write_prompts(
        census, kinds, counts, demands, levels, views=settings.views, card=core_card, rng=rng
    )
    table = _before_after(cells, frame, plan_levels)
    if settings.companions and demands and not frame["reason"].str.startswith("companion").any():
        notes.append("no companions: every label set that can be planned has a wanted finding; name fewer in findings")
    if not (table["target"] > table["before"]).any():
        notes.append("no finding is under its target" + (": the real proportions are kept" if len(frame) else ""))
    return Plan(frame, table, [*notes, *left_out, *_left_blank(census, core_card), *_shortfall_notes(table)])


def _counts(kinds: Kinds, demands: Sequence[Demand], settings: PlanSettings, n: int | None) -> np.ndarray:
    limit = settings.budget if n is None else n
    if not demands or not settings.companions:
        return allocate(kinds, demands, settings.budget, n)
    wanted = None if limit is None else wanted_share(limit, settings.companions)
    counts = allocate(kinds, demands, wanted, None if n is None else wanted)
    both = add_companions(kinds, demands, counts, settings.companions, limit=limit, exact=n is not None)
    if both.sum() == counts.sum():  # every label set is wanted: nothing is held back for companions
        return allocate(kinds, demands, settings.budget, n)
    return both


def write_plan(plan: Plan, folder: str | Path, *, fresh: bool = False) -> None:
    """Write ``plan.parquet`` and ``table.csv`` (before and after) into ``folder``.

    Raises
    ------
    InputError : the folder holds another plan (``fresh`` replaces it), or a generated set, which keeps its own plan.
    """
    folder, buffer = Path(folder), io.BytesIO()
    if (folder / "set.json").exists():
        raise InputError("this folder holds a generated set", file=folder, expected="another --out for the plan")
    plan.frame.to_parquet(buffer, index=False)
    files = {"plan.parquet": buffer.getvalue(), "table.csv": plan.table.to_csv(index=False).encode()}
    for name, content in files.items():
        if not fresh and (folder / name).exists() and (folder / name).read_bytes() != content:
            raise InputError(
                f"this folder holds another plan: {name} differs",
                file=folder,
                expected="the same manifest and settings, another --out, or --fresh to replace it",
            )
    for name, content in files.items():
        with atomic(folder / name) as temporary:
            temporary.write_bytes(content)


# -- what can be asked ------------------------------------------------------------------------------------------------


def _usable_levels(
    census: Census,
    settings: PlanSettings,
    groups: Sequence[str],
    age_bins: Sequence[float],
    card: Card | None,
) -> tuple[dict[str, pd.Series], list[str]]:
    """The level of every study per group that data and core have, and notes about the groups left out."""
    asked = settings.groups is not None
    levels: dict[str, pd.Series] = {}
    notes: list[str] = []
    known = np.ones(len(census), dtype=bool)
    for group in dict.fromkeys(settings.groups if settings.groups is not None else groups):
        problem = _cannot_ask(group, census, settings, card)
        if problem is not None and asked:
            raise InputError(f"the plan cannot balance the group {group!r}: {problem}")
        if problem is None:
            level = group_levels(census.frame, group, age_bins).reset_index(drop=True)
            here = known & np.array([MISSING not in text.split("*") for text in level], dtype=bool)
            if here.any():
                levels[group], known = level, here
                continue
            problem = "no training study has it" + (f" together with {', '.join(levels)}" if levels else "")
        notes.append(f"group {group} is left out: {problem}")
    return levels, notes


def _cannot_ask(group: str, census: Census, settings: PlanSettings, card: Card | None) -> str | None:
    """Why a prompt cannot ask for the levels of ``group``; None if it can."""
    for part in (part.strip() for part in group.split("*")):
        if part not in PROMPTED:
            return f"a prompt cannot ask for {part} (only {', '.join(PROMPTED)})"
        if part not in census.frame.columns:
            return f"the data have no column {part}"
        if part == "view" and settings.views is not None:
            return "the views of every study are fixed"
        if card is not None and part != "view" and part not in card.conditions:
            return f"core {card.name} does not take {part}"
        if card is not None and part in ("source", "race", "view"):
            known = {"source": card.sources, "race": card.races, "view": card.views}[part]
            unknown = sorted(set(census.frame[part].dropna()) - {*known, ""})
            if unknown:
                return f"core {card.name} does not know the {part} {unknown[0]!r}"
    return None


def _refuse_unknown_findings(settings: PlanSettings, card: Card | None) -> None:
    if card is None:
        return
    for what, asked, known in (
        ("finding", settings.findings or [], [*card.findings, "No Finding"]),
        ("view", settings.views or [], card.views),
    ):
        for name in asked:
            if name not in known:
                raise InputError(
                    f"core {card.name} does not know the {what} that the plan asks for",
                    found=name,
                    expected="one of " + ", ".join(known),
                )


# -- before and after -------------------------------------------------------------------------------------------------


def _before_after(cells: pd.DataFrame, frame: pd.DataFrame, levels: pd.DataFrame) -> pd.DataFrame:
    sets = [set(str(text).split("|")) for text in frame["labels"]]
    has = {f: np.array([f in s for s in sets], dtype=bool) for f in dict.fromkeys(cells["finding"])}
    planned, studies = [], []
    for finding, group, level in zip(cells["finding"], cells["group"], cells["level"], strict=True):
        here = np.ones(len(frame), dtype=bool) if group == ALL else (levels[group] == level).to_numpy()
        planned.append(int((here & has[finding]).sum()))
        studies.append(int(here.sum()))
    table = cells.assign(planned=planned, after=cells["before"] + planned)
    table["shortfall"] = (table["target"] - table["after"]).clip(lower=0)
    table["studies_planned"] = studies
    table["prevalence_before"] = table["before"] / table["studies"].where(table["studies"] > 0)
    total = table["studies"] + table["studies_planned"]
    table["prevalence_after"] = table["after"] / total.where(total > 0)
    return table


def _left_blank(census: Census, card: Card | None) -> list[str]:
    """Notes about what the data know and the core does not take."""
    if card is None:
        return []
    notes = []
    for name in ("sex", "age", "race", "source"):
        values = census.frame[name] if name in census.frame.columns else pd.Series(dtype="str")
        known = values[values.notna() & (values != "")]
        if len(known) and name not in card.conditions:
            notes.append(f"core {card.name} does not take {name}: left blank")
        elif name in ("source", "race"):
            unknown = sorted(set(known) - set(card.sources if name == "source" else card.races))
            notes += [f"core {card.name} does not know the {name} {value!r}: left blank" for value in unknown]
    views = {v for text in pd.unique(census.frame["views"]) for v in text.split("|")}
    notes += [f"core {card.name} does not know the view {v!r}: left out" for v in sorted(views - set(card.views))]
    return notes


def _shortfall_notes(table: pd.DataFrame) -> list[str]:
    wanted = table[table["target"].notna()]
    short = wanted[wanted["shortfall"] > 0]
    if short.empty:
        return []
    relative = short["shortfall"] / short["target"]
    worst = short.iloc[int(relative.argmax())]
    notes = [
        f"{len(short)} of {len(wanted)} targets are not met; the largest relative shortfall is {relative.max():.0%} "
        f"({worst['finding']}, {worst['group']} {worst['level']}: {worst['after']} of {worst['target']:.0f})"
    ]
    planned = table.groupby("finding")["planned"].max()
    never = [f for f in dict.fromkeys(short["finding"]) if planned[f] == 0]
    if never:
        notes.append("no study that can be planned shows " + ", ".join(never) + ": the shortfall stays")
    return notes
