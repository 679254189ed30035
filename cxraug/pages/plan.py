"""The page of a plan: before and after, what holds unmet targets back, the limits checked, and what it costs."""

from __future__ import annotations

from typing import Any

import pandas as pd
from markupsafe import Markup

from cxraug.pages import plot
from cxraug.pages.page import blocks, bullets, facts, figure, fold, note, number, render_page, section, table

SHOWN = 60


def plan_page(cells: pd.DataFrame, about: dict[str, Any], limits: pd.DataFrame | None = None) -> str:
    """A complete HTML file.

    Parameters
    ----------
    cells : the table of a plan. about : what ``plan.json`` holds. limits : of
        :func:`cxraug.balance.verification.verify_plan`.
    """
    wanted = cells[cells["target"].notna()]
    met = int(((wanted["shortfall"] == 0) & (wanted["excess"] == 0)).sum())
    cost = about.get("cost") or {}
    hours = cost.get("hours")
    pairs = [
        ("Studies", number(about["studies"], ",d")),
        ("Targets met", f"{met} of {len(wanted)}"),
        ("Limits kept", "not checked" if limits is None else f"{int(limits['holds'].sum())} of {len(limits)}"),
        *([("Images", number(cost["images"], ",d"))] if cost else []),
        *([("Hours of the core", number(hours, ".1f"))] if hours is not None else []),
    ]
    summary = section("summary", "In short", facts(pairs), bullets(about["notes"]))
    changed = _changes(wanted if len(wanted) else cells)
    parts = [summary, changed, _unmet(wanted), _limits(limits), _method(about)]
    nav = [("summary", "In short"), ("changes", "Before and after"), ("unmet", "Unmet targets"),
           ("limits", "Limits"), ("method", "The programme")]  # fmt: skip
    return render_page("Plan", blocks(parts), subtitle=f"Target: {about['settings']['target']}", nav=nav)


def _changes(cells: pd.DataFrame) -> Markup:
    gap = ((cells["target"] - cells["before"]) / cells["target"].clip(lower=1)).fillna(0)
    shown = cells.loc[gap.sort_values(ascending=False, kind="stable").index[:SHOWN]].sort_index()
    rows = [
        plot.Change(
            str(r["finding"]) if r["group"] == "all" else f"{r['finding']}, {r['level']}",
            r["before"], r["after"], None if pd.isna(r["target"]) else r["target"], group=str(r["group"]),
        )
        for r in shown.sort_values("group", kind="stable").to_dict("records")
    ]  # fmt: skip
    left = f", the {len(shown)} furthest from their target" if len(shown) < len(cells) else ""
    caption = f"Positive training studies{left}."
    picture = figure(plot.changes(rows, what="positive training studies"), caption) if rows else ""
    formats = {"prevalence_before": ".1%", "prevalence_after": ".1%"}
    return section("changes", "Before and after", picture,
                   fold("All cells with a target", table(cells.reset_index(drop=True), formats=formats)))  # fmt: skip


def _unmet(wanted: pd.DataFrame) -> Markup:
    short = wanted[(wanted["shortfall"] > 0) | (wanted["excess"] > 0)]
    if short.empty:
        return section("unmet", "Unmet targets", "Every target is met.")
    columns = ["finding", "group", "level", "target", "after", "shortfall", "excess", "held_back_by"]
    shown = short[columns].rename(columns={"held_back_by": "held back by"}).reset_index(drop=True)
    lead = "Named is the limit that binds: with one more unit of it the shortfall would be smaller."
    return section("unmet", "Unmet targets", table(shown), lead=lead)


def _limits(limits: pd.DataFrame | None) -> Markup:
    if limits is None:
        return section("limits", "Limits", note("The limits were not checked.", "warning"))
    shown = limits.assign(holds=["yes" if held else "no" for held in limits["holds"]])
    lead = "Counted anew from the rows of plan and manifest, by code of its own. The tightest of each kind is shown."
    return section("limits", "Limits", table(shown), lead=lead)


def _method(about: dict[str, Any]) -> Markup:
    lines = [
        "The largest relative shortfall is made as small as possible, then their sum, then the price: a study costs "
        "more the further its kind is beyond how often it really occurs.",
        "Bound: the optimum if studies could be divided, which no plan of whole studies can beat.",
        "Prevalences are those of the planned labels, not of what a classifier will see in the images.",
    ]
    readings = pd.DataFrame(about["programme"], columns=["name", "bound", "value"])
    return section("method", "The programme", bullets(lines), table(readings, formats={"bound": ".4f", "value": ".4f"}))
