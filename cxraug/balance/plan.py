"""The plan: which studies to pull from a core so that rare findings and thin cells reach their targets."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxraug.balance.allocation import Allocation, Demand, allocate, list_demands
from cxraug.balance.census import Census, take_census
from cxraug.balance.companions import add_companions, wanted_share
from cxraug.balance.evaluated import Aims, spread_budget
from cxraug.balance.explanation import ROUNDING, held_back_by, without_each_limit
from cxraug.balance.kinds import Kinds, list_kinds
from cxraug.balance.limits import VIEWS, Limit, list_limits
from cxraug.balance.prompts import askable_views, write_prompts
from cxraug.balance.settings import PlanSettings
from cxraug.balance.target import ALL, ANY, count_cells, want
from cxraug.errors import InputError
from cxraug.evaluation.groups import AGE_BINS, MISSING, group_levels
from cxraug.storage import atomic, write_json

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
        ``planned``, ``after``, ``shortfall``, ``studies_planned``, ``prevalence_before``, ``prevalence_after``,
        ``excess`` (positives above a share that is wanted from both sides), ``held_back_by`` (the limits that bind an
        unmet target, in words).
    notes : what was left out and why, in plain words.
    programme : the readings of the integer programme, each with the bound of its linear relaxation.
    groups : the groups that were balanced.
    """

    frame: pd.DataFrame
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    programme: list[dict[str, Any]] = field(default_factory=list)
    groups: tuple[str, ...] = ()


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
    aims: Aims | None = None,
) -> Plan:
    """Plan which studies to generate.

    Parameters
    ----------
    train : training rows only. Synthetic ones (of earlier plans) count as there, never as real.
    settings : what is wanted; see :class:`PlanSettings`.
    findings : the findings that classifiers are trained on; default all.
    groups : used unless ``settings.groups`` names others; those that the data or the core do not have are left out.
    seed : of the order, of the donors of ages and views, and of the seed in every row.
    core_card : the core that will be asked. What it cannot honour is left out with a note if it was only a default.
    n : exactly so many studies, in place of ``settings.budget``. Beyond what the targets need, kinds grow in
        proportion.
    aims : where an evaluation says that the budget should go, in place of the settings' target; see
        :func:`cxraug.balance.evaluated.read_aims`.

    Raises
    ------
    InputError : rows outside train; a finding, group or view asked for by name that is not in the data or that the core
        cannot honour.
    """
    settings = settings or PlanSettings()
    if (train.frame["split"] != "train").any():
        raise InputError("a plan is made from training rows only", file=train.file, column="split")
    made = train.frame["synthetic"].fillna(False).to_numpy(bool) if "synthetic" in train.frame else None
    real = train if made is None else train.take(~made)
    census = take_census(real, findings)
    if not len(census):
        raise InputError("a plan needs training studies", file=train.file, found="none")
    if aims is not None:
        n = settings.budget if n is None else n  # all of it is spent
        groups, settings = aims.groups, settings.model_copy(update={"groups": None, "target": "floor", "floor": None})
    levels, notes = _usable_levels(census, settings, groups, age_bins, core_card)
    earlier = None if made is None or not made.any() else take_census(train.take(made), findings)
    cells, there, studies = _count(census, earlier, levels, age_bins)
    if earlier is not None:
        notes.append(f"{len(earlier):,} synthetic studies are there already: they count as made, not as real")
    _refuse_unknown_findings(settings, core_card)
    cells, more = want(cells, settings, there) if aims is None else spread_budget(cells, aims, settings, n)
    notes += [*more, *_share_notes(cells, settings)]
    views, unlimited = askable_views(census, settings.views, core_card), census
    if settings.views_as_real is not None:
        census = replace(census, frame=census.frame.assign(views=views))
    of_kind = levels if settings.views_as_real is None else {**levels, VIEWS: views.fillna(MISSING)}
    kinds, left_out = list_kinds(
        census,
        of_kind,
        known=None if core_card is None else core_card.findings,
        min_label_set=settings.min_label_set,
    )
    demands = list_demands(kinds, cells, levels, tolerance=settings.tolerance)
    limits = list_limits(kinds, _with_studies(cells, studies, levels, there), of_kind, settings, views)
    allocation = _allocate(kinds, demands, limits, settings, n)
    rng = np.random.default_rng(seed)
    frame, plan_levels = write_prompts(
        census, kinds, allocation.counts, demands, of_kind, views=settings.views, card=core_card, rng=rng,
        reports=settings.reports,
    )  # fmt: skip
    table = _before_after(cells, frame, plan_levels, settings.tolerance)
    table["held_back_by"] = _held_back(table, allocation, demands, kinds, core_card, settings)
    if settings.companions and demands and not frame["reason"].str.startswith("companion").any():
        notes.append("no companions: every label set that can be planned has a wanted finding; name fewer in findings")
    if not (table["target"] > table["before"]).any() and settings.target == "floor":
        notes.append("no finding is under its target" + (": the real proportions are kept" if len(frame) else ""))
    held = (table["shortfall"] > 0) & (table["held_back_by"] != ROUNDING)
    notes += [
        *left_out,
        *_left_blank(unlimited, core_card),
        *_shortfall_notes(table, {f for s in kinds.sets for f in s}),
    ]
    notes += without_each_limit(allocation, demands, np.flatnonzero(held.to_numpy()).tolist())
    if n is not None and len(frame) < n:
        notes.append(f"only {len(frame):,} of {n:,} studies can be planned within the limits")
    readings = [vars(reading) for reading in allocation.solution.readings]
    return Plan(frame, table, notes, readings, tuple(levels))


def _allocate(
    kinds: Kinds, demands: Sequence[Demand], limits: Sequence[Limit], settings: PlanSettings, n: int | None
) -> Allocation:
    limit = settings.budget if n is None else n
    if not demands or not settings.companions:
        return allocate(kinds, demands, settings.budget, n, limits=limits, per_prompt=settings.per_prompt)
    wanted = None if limit is None else wanted_share(limit, settings.companions)
    made = allocate(kinds, demands, wanted, None if n is None else wanted)
    both = add_companions(kinds, demands, made.counts, settings.companions, limit=limit, exact=n is not None)
    if both.sum() == made.counts.sum():  # every label set is wanted: nothing is held back for companions
        return allocate(kinds, demands, settings.budget, n)
    return replace(made, counts=both)


def write_plan(
    plan: Plan,
    folder: str | Path,
    *,
    fresh: bool = False,
    settings: PlanSettings | None = None,
    limits: pd.DataFrame | None = None,
    cost: Mapping[str, Any] | None = None,
) -> None:
    """Write ``plan.parquet`` and ``table.csv`` (before and after) into ``folder``.

    With ``settings`` also ``plan.json`` (settings, programme, notes and ``cost``), ``plan.html`` and, where ``limits``
    were verified, ``limits.csv``.

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
    if limits is not None:
        files["limits.csv"] = limits.to_csv(index=False).encode()
    if settings is not None:
        from cxraug.pages.plan import plan_page

        about = {
            "studies": len(plan.frame),
            "settings": settings.model_dump(mode="json"),
            "groups": list(plan.groups),
            "programme": plan.programme,
            "cost": cost,
            "notes": plan.notes,
        }
        files["plan.html"] = plan_page(plan.table, about, limits).encode()
        write_json(folder / "plan.json", about)
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


def _count(
    census: Census, earlier: Census | None, levels: dict[str, pd.Series], age_bins: Sequence[float]
) -> tuple[pd.DataFrame, dict[str, pd.Series], tuple[int, int]]:
    """The cells of real and ``earlier`` synthetic studies together, with ``real``, the positives that are real.

    Also the levels of all these studies, and how many are real and how many there are.
    """
    cells = count_cells(census, levels, age_bins)
    cells = cells.assign(real=cells["before"])
    if earlier is None:
        return cells, levels, (len(census), len(census))
    of_earlier = {g: group_levels(earlier.frame, g, age_bins).reset_index(drop=True) for g in levels}
    key = ["finding", "group", "level"]
    other = cells[key].merge(count_cells(earlier, of_earlier, age_bins), on=key, how="left")
    for name in ("studies", "before"):
        cells[name] += other[name].fillna(0).to_numpy(np.int64)
    there = {g: pd.concat([levels[g], of_earlier[g]], ignore_index=True) for g in levels}
    return cells, there, (len(census), len(census) + len(earlier))


def _with_studies(
    cells: pd.DataFrame, studies: tuple[int, int], levels: Mapping[str, pd.Series], there: Mapping[str, pd.Series]
) -> pd.DataFrame:
    """``cells`` and, per level, the row of :data:`ANY` finding: how many studies there are, and how many real ones.

    ``studies`` and levels of the real ones, and of these and the earlier synthetic ones together (``there``).
    """
    known = cells[cells["finding"] != ANY]
    rows = []
    for group, level in known[["group", "level"]].drop_duplicates().itertuples(index=False):
        of_them, n = studies if group == ALL else (int((s[group] == level).sum()) for s in (levels, there))
        rows.append({"finding": ANY, "group": group, "level": level, "before": n, "real": of_them})
    return pd.concat([known[["finding", "group", "level", "before", "real"]], pd.DataFrame(rows)], ignore_index=True)


def _before_after(cells: pd.DataFrame, frame: pd.DataFrame, levels: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    sets = [set(str(text).split("|")) for text in frame["labels"]]
    has = {f: np.array([f in s or f == ANY for s in sets], dtype=bool) for f in dict.fromkeys(cells["finding"])}
    planned, studies = [], []
    for finding, group, level in zip(cells["finding"], cells["group"], cells["level"], strict=True):
        here = np.ones(len(frame), dtype=bool) if group == ALL else (levels[group] == level).to_numpy()
        planned.append(int((here & has[finding]).sum()))
        studies.append(len(frame) if finding == ANY else int(here.sum()))
    table = cells.drop(columns=["share", "both", "real", "scale"], errors="ignore").assign(
        planned=planned, after=cells["before"] + planned
    )
    total = table["studies"] + studies
    low, high = (cells["share"] * total * (1 + sign * tolerance) for sign in (-1, 1))
    # where both sides count, either whole number next to a share will do
    down, up = (np.floor(low + 1e-6), np.ceil(high - 1e-6))
    least = np.where(cells["both"], down, np.ceil(low - 1e-6))
    table["target"] = table["target"].fillna(pd.Series(least, index=table.index))
    table["shortfall"] = (table["target"] - table["after"]).clip(lower=0)
    table["studies_planned"] = studies
    table["prevalence_before"] = table["before"] / table["studies"].where(table["studies"] > 0)
    table["prevalence_after"] = table["after"] / total.where(total > 0)
    excess = (table["after"] - up).clip(lower=0)
    table["excess"] = excess.where(cells["both"] & table["target"].notna(), 0).astype(np.int64)
    return table


def _held_back(
    table: pd.DataFrame,
    made: Allocation,
    demands: Sequence[Demand],
    kinds: Kinds,
    card: Card | None,
    settings: PlanSettings,
) -> list[str]:
    """Per row of ``table``, why its target is not met; empty where it is."""
    named, asked = held_back_by(made, demands), {d.cell for d in demands}
    seen = {f for s in kinds.sets for f in s}
    words = []
    for at, row in enumerate(table.to_dict("records")):
        if not (row["shortfall"] > 0 or row["excess"] > 0):
            words.append("")
        elif at in asked:
            words.append(named.get(at, ROUNDING))
        elif card is not None and row["finding"] not in (*card.findings, "No Finding"):
            words.append(f"the conditions of the core: {card.name} does not know {row['finding']}")
        elif row["finding"] not in seen:
            words.append(
                f"the labels: no study with completely known labels of what can be planned has {row['finding']}"
            )
        else:
            words.append(f"the label sets: none seen in {settings.min_label_set} patients has it where this level is")
    return words


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


def _share_notes(cells: pd.DataFrame, settings: PlanSettings) -> list[str]:
    """What counts as a share that is met, where shares are wanted."""
    if "share" not in cells.columns or cells["share"].isna().all():
        return []
    next_study = "; either whole number of studies next to that will do" if cells["both"].any() else ""
    return [f"a share counts as met within {100 * settings.tolerance:g} % of itself{next_study}"]


def _shortfall_notes(table: pd.DataFrame, seen: set[str]) -> list[str]:
    """How much is missing in all; ``seen`` are the findings of studies that can be planned."""
    wanted = table[table["target"].notna()]
    short = wanted[wanted["shortfall"] > 0]
    over = wanted[wanted["excess"] > 0]
    notes = []
    if len(over):
        notes.append(f"{len(over)} shares stay above what is wanted: a plan adds studies and takes none away")
    if short.empty:
        return notes
    relative = short["shortfall"] / short["target"]
    worst = short.iloc[int(relative.argmax())]
    notes.append(
        f"{len(short)} of {len(wanted)} targets are not met; the largest relative shortfall is {relative.max():.0%} "
        f"({worst['finding']}, {worst['group']} {worst['level']}: {worst['after']} of {worst['target']:.0f}), held "
        f"back by {worst['held_back_by']}"
    )
    never = [f for f in dict.fromkeys(short["finding"]) if f not in seen and f != ANY]
    if never:
        notes.append("no study that can be planned shows " + ", ".join(never) + ": the shortfall stays")
    return notes
