"""Targets: how many studies of a finding, or which share, is wanted in every level of a group."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.balance.census import NO_FINDING, Census
from cxraug.balance.sample_size import Question, positives_needed
from cxraug.balance.settings import PlanSettings
from cxraug.errors import InputError
from cxraug.evaluation.groups import MISSING, level_order

ALL = "all"
ANY = "(any study)"  # in place of a finding: how many studies a level has
COLUMNS = ("finding", "group", "level", "studies", "before", "target")
MOST_POSITIVES = 4  # times those that would do if nothing else were scarce; beyond, something else is
ENDLESS = 1e12
FIRM = 50  # positives below which a prevalence is no example to the other levels


def count_cells(census: Census, levels: Mapping[str, pd.Series], age_bins: Sequence[float]) -> pd.DataFrame:
    """Count studies per finding and group level; the whole set is group ``all``, missing levels are left out.

    Parameters
    ----------
    census : the training studies.
    levels : per group the level of every study (see :func:`cxraug.evaluation.groups.group_levels`).

    Returns
    -------
    Frame with ``finding, group, level, studies`` (whose label is known) and ``before`` (positives).
    """
    known, positive = ~np.isnan(census.y), census.y == 1
    everything = {ALL: pd.Series(ALL, index=census.frame.index, dtype="str"), **levels}
    rows = []
    for group, of_study in everything.items():
        for level in level_order(of_study, age_bins):
            if MISSING in level.split("*"):
                continue
            here = (of_study == level).to_numpy()
            counts = zip(census.findings, known[here].sum(0), positive[here].sum(0), strict=True)
            rows += [(f, group, level, int(n), int(k)) for f, n, k in counts]
    return pd.DataFrame(rows, columns=list(COLUMNS[:5]))


def want(
    cells: pd.DataFrame, settings: PlanSettings, levels: Mapping[str, pd.Series]
) -> tuple[pd.DataFrame, list[str]]:
    """Add what ``settings`` want to the counted ``cells``, and say in words what could not be set.

    ``levels`` : per group the level of every study there is, earlier synthetic ones included.

    Returns
    -------
    cells : with ``target`` (positives wanted, NaN: none), ``share`` (of the level's studies that shall be positive, or
        of all studies that shall be in the level where the finding is :data:`ANY`; NaN: none) and ``both`` (a share
        above the wanted one counts as well).

    Raises
    ------
    InputError : a wanted finding that does not occur; a table of weights that cannot be read.
    """
    _refuse_unknown(cells, settings.findings)
    empty = cells.assign(target=np.nan, share=np.nan, both=False)
    if settings.target == "uniform":
        return _uniform(empty, settings), []
    if settings.target == "parity":
        return _parity(empty, settings)
    if settings.target == "population":
        return _population(empty, settings, levels)
    if settings.target == "power":
        return _power(empty, settings)
    done = set_targets(cells, floor=settings.floor, findings=settings.findings)
    healthy = done[(done["finding"] == NO_FINDING) & (done["target"] > done["before"])]
    notes = []
    if settings.findings is None and len(healthy):
        notes.append(
            f"{NO_FINDING} is wanted as often as in the median level, so that small groups are not filled up with the "
            "sick alone; name findings to leave it out"
        )
    return done.assign(share=np.nan, both=False), notes


def set_targets(cells: pd.DataFrame, *, floor: int | None, findings: Sequence[str] | None) -> pd.DataFrame:
    """Add the column ``target`` (NaN where nothing is wanted) to ``cells``.

    The floor of a group is ``floor`` or, by default, the median count over its cells (finding x level, without No
    Finding). Every cell of the wanted findings gets its group's floor; without any group the whole set is the level.
    ``findings`` None wants those with a cell under the floor; then No Finding also gets a target, the median of its own
    counts over the levels, so that an under-represented group is not filled with sick patients only.

    Raises
    ------
    InputError : a wanted finding that does not occur.
    """
    _refuse_unknown(cells, findings)
    cells = cells.assign(target=np.nan)
    for group in _groups(cells):
        here = cells["group"] == group
        disease = here & (cells["finding"] != NO_FINDING)
        healthy = here & (cells["finding"] == NO_FINDING)
        if findings is not None:
            base = cells.loc[disease if disease.any() else here, "before"]
            wanted = here & cells["finding"].isin(list(findings))
            cells.loc[wanted, "target"] = floor if floor is not None else _median(base)
            continue
        if disease.any():
            level_floor = floor if floor is not None else _median(cells.loc[disease, "before"])
            under = cells.loc[disease & (cells["before"] < level_floor), "finding"]
            cells.loc[disease & cells["finding"].isin(under), "target"] = level_floor
        if healthy.any() and group != ALL:
            cells.loc[healthy, "target"] = _median(cells.loc[healthy, "before"])
    return cells


def read_weights(path: str | Path) -> pd.DataFrame:
    """The shares of levels in the real population: columns ``group, level, weight``, weights scaled to 1 per group.

    Raises
    ------
    InputError : a missing column, a weight that is not a positive number, a level named twice.
    """
    from cxraug.studies.table import read_table

    table = read_table(path)
    for column in ("group", "level", "weight"):
        if column not in table.frame.columns:
            raise InputError("missing column", file=path, column=column, expected="group, level, weight")
    frame = pd.DataFrame({name: table.frame[name].astype("str").str.strip() for name in ("group", "level")})
    weight = pd.to_numeric(table.frame["weight"], errors="coerce")
    for row, (name, value) in enumerate(zip(table.frame["weight"], weight, strict=True)):
        if not (np.isfinite(value) and value > 0):
            raise InputError("not a weight", file=path, row=row + 2, column="weight", found=name, expected="above 0")
    twice = np.flatnonzero(frame.duplicated())
    if len(twice):
        raise InputError("a level twice", file=path, row=int(twice[0]) + 2, found=frame["level"].iloc[int(twice[0])])
    return frame.assign(weight=weight / weight.groupby(frame["group"]).transform("sum"))


def _uniform(cells: pd.DataFrame, settings: PlanSettings) -> pd.DataFrame:
    """Every wanted finding has the same prevalence, or more, in every level."""
    whole = cells[(cells["group"] == ALL) & (cells["finding"] != NO_FINDING)]
    prevalence = settings.prevalence or float((whole["before"] / whole["studies"].clip(lower=1)).median())
    cells.loc[_wanted(cells, settings), "share"] = prevalence
    return cells


def _parity(cells: pd.DataFrame, settings: PlanSettings) -> tuple[pd.DataFrame, list[str]]:
    """The prevalence of the highest level with enough positives to be one, in every level."""
    notes = []
    for (group, finding), part in cells[_wanted(cells, settings)].groupby(["group", "finding"], sort=False):
        firm = part[part["before"] >= FIRM]
        if len(part) < 2 or firm.empty:
            few = f"no level of {group} has {FIRM} positives to give the example" if len(part) > 1 else "one level only"
            notes.append(f"no parity of {finding} over {group}: {few}")
            continue
        cells.loc[part.index, "share"] = float((firm["before"] / firm["studies"]).max())
    cells["both"] = cells["share"].notna()
    return cells, notes


def _population(
    cells: pd.DataFrame, settings: PlanSettings, levels: Mapping[str, pd.Series]
) -> tuple[pd.DataFrame, list[str]]:
    weights, notes, rows = read_weights(str(settings.population)), [], []
    if not weights["group"].isin(list(levels)).any():
        raise InputError(
            "none of the population's groups is balanced",
            file=settings.population,
            column="group",
            found=", ".join(dict.fromkeys(weights["group"])),
            expected=f"one of {', '.join(levels) or 'none'}, or plan.groups (--groups) that names it",
        )
    for group, part in weights.groupby("group", sort=False):
        if group not in levels:
            notes.append(f"the population's {group} is left out: the plan has no such group (name it in groups)")
            continue
        known = levels[str(group)][[MISSING not in text.split("*") for text in levels[str(group)]]]
        absent = sorted(set(known) - set(part["level"]))
        if absent:
            raise InputError(
                f"no weight for a level of {group} that the data have",
                file=settings.population,
                column="level",
                found=", ".join(absent),
                expected="a row for every level",
            )
        for level, weight in zip(part["level"], part["weight"], strict=True):
            here = int((known == level).sum())
            row = {"finding": ANY, "group": group, "level": level, "studies": len(known), "before": here}
            rows.append(row | {"real": here, "target": np.nan, "share": float(weight), "both": True})
    return pd.concat([pd.DataFrame(rows, columns=list(cells.columns)), cells], ignore_index=True), notes


def _power(cells: pd.DataFrame, settings: PlanSettings) -> tuple[pd.DataFrame, list[str]]:
    """As many positives as the audit says that the gap between a level and the other levels of its group takes."""
    notes = [
        "a power target counts training studies; what measures the gap are real test studies, and none of the "
        "planned ones will be among them"
    ]
    question = Question(gap=float(settings.gap or 0), auroc=settings.auroc)
    enough = float(positives_needed(question, np.array([0.0, ENDLESS]), np.array([ENDLESS, ENDLESS])))
    hopeless = []
    for (group, finding), part in cells[_wanted(cells, settings)].groupby(["group", "finding"], sort=False):
        if group == ALL:
            continue
        level = np.column_stack([part["before"], part["studies"] - part["before"]]).astype(float)
        needed = positives_needed(question, level, level.sum(axis=0) - level)
        within = needed <= MOST_POSITIVES * enough  # not so where it is NaN
        cells.loc[part.index[within], "target"] = needed[within]
        hopeless += [f"{finding} in {group} {name}" for name in part["level"][~within]]
    if hopeless:
        notes.append(
            f"{len(hopeless)} cells have no target: more positives would not show an AUROC gap of {settings.gap:g} "
            f"there (over {MOST_POSITIVES * enough:,.0f}, if any number), since their negatives or the other levels' "
            f"positives are too few: {', '.join(hopeless[:5])}" + (", ..." if len(hopeless) > 5 else "")
        )
    return cells, notes


def _wanted(cells: pd.DataFrame, settings: PlanSettings) -> pd.Series:
    named = cells["finding"] != NO_FINDING
    if settings.findings is not None:
        named = cells["finding"].isin(settings.findings)
    return named & cells["group"].isin(_groups(cells))


def _groups(cells: pd.DataFrame) -> list[str]:
    return [g for g in dict.fromkeys(cells["group"]) if g != ALL] or [ALL]


def _refuse_unknown(cells: pd.DataFrame, findings: Sequence[str] | None) -> None:
    known = list(dict.fromkeys(cells["finding"]))
    for name in findings or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise InputError(
                "plan.findings (--findings) names a finding that does not occur in train",
                found=name,
                expected="one of " + ", ".join(known) + (f" (did you mean {near[0]!r}?)" if near else ""),
            )


def _median(counts: pd.Series) -> int:
    return max(1, int(np.floor(counts.median())))
