"""The report's sections about material: what the audit named, what was planned, generated, rejected, and how it "
"looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from cxraug.balance.naming import headlines
from cxraug.errors import InputError
from cxraug.evaluation.groups import AGE_BINS, group_levels, level_order
from cxraug.pages import plot
from cxraug.pages.page import Cell, bullets, figure, fold, heading, note, number, paragraph, section, table, tag
from cxraug.pages.results import MAX_ROWS, absent
from cxraug.pages.runfolder import RunFolder, SetFolder
from cxraug.pages.sheet import choose, is_copy, refuse_real, sheet

CONTROL_SETS = ("outside",)  # not generated: studies of a core's own training cohort, a control
REMOVED_COLUMNS = ("split", "what", "name", "before", "kept", "removed")  # JSON keeps no order
SHEET_BYTES = 2_200_000
NAMED_SHOWN = 10


def audit_section(run: RunFolder) -> Markup:
    """What the audit named: rare findings, under-served groups, confounding."""
    if not run.audit:
        return section("audit", "What the data lack", absent("audit/audit.json"))
    items = run.audit.get("named", [])
    named = [{"kind": "", "holds": True} | n for n in items if isinstance(n, dict)]
    if not named:
        return section("audit", "What the data lack", paragraph("The audit of the training data named nothing."))
    first = headlines(named, NAMED_SHOWN)
    rest = [n for n in named if not any(n is shown for shown in first)]
    parts: list[str | Markup] = [_named_list(first)]
    if rest:
        parts.append(fold(f"{len(rest)} more", _named_list(rest)))
    return section(
        "audit",
        "What the data lack",
        *parts,
        lead="Named by the audit of the training rows. Counts and cross tables are in audit/audit.html of the run.",
    )


def limit_section(run: RunFolder) -> Markup:
    """What ``data.limit`` took away on purpose; nothing where the recipe limits nothing."""
    limits = run.setting("data", "limit", default=[])
    removed = [(d.name, pd.DataFrame(d.limit.get("removed") or [])) for d in run.draws]
    removed = [(name, frame) for name, frame in removed if len(frame)]
    if not limits and not removed:
        return Markup("")
    words = [
        _limit_words(limit) + _limit_shortfall(run, at) for at, limit in enumerate(limits) if isinstance(limit, dict)
    ]
    val = run.setting("data", "limit_val", default=True)
    parts: list[str | Markup] = [bullets(words)] if words else []
    parts.append(
        paragraph(
            "Validation was limited in proportion; test rows were not touched."
            if val
            else "Validation was not limited (limit_val: false): choices saw more data than a user would have."
        )
    )
    if removed:
        name, frame = removed[0]
        if "removed" in frame:
            frame = frame[frame["removed"] > 0]
        columns = [c for c in REMOVED_COLUMNS if c in frame] or list(frame.columns)
        parts.append(fold(f"What went with the dropped patients in {name}", table(frame[columns])))
    return section(
        "limit", "Made scarce on purpose", *parts, lead="Whole patients were dropped at random, anew in every draw."
    )


def plan_section(run: RunFolder) -> Markup:
    """What the plan asked for, before and after."""
    draw = next((d for d in run.draws if len(d.plan)), None)
    if draw is None:
        return section("plan", "What the plan asks for", absent("draw-*/plan/table.csv"))
    rows = draw.plan
    parts: list[str | Markup] = []
    if {"finding", "before", "after"} <= set(rows.columns):
        parts.append(_plan_figure(run, rows))
    frame = rows.rename(columns=lambda c: str(c).replace("_", " "))
    formats = {c: ".1%" for c in frame.columns if str(c).startswith("prevalence")}
    parts.append(fold(f"The whole plan by finding and group ({len(frame)} rows)", table(frame, formats=formats)))
    several = sum(len(d.plan) > 0 for d in run.draws)
    which = (
        f" Shown is {draw.name}, one of {several} draws; the others differ only by which patients were kept."
        if several > 1
        else ""
    )
    return section(
        "plan",
        "What the plan asks for",
        *parts,
        lead=f"Positive training studies before and after, towards the stated targets.{which}",
    )


def generated_section(run: RunFolder) -> Markup:
    """What was generated, what the gate rejected and why."""
    sets = [s for s in run.sets if s.name not in CONTROL_SETS and len(s.rows)]
    if not sets:
        return section("gate", "What was generated and rejected", absent("draw-*/sets/*/manifest.parquet"))
    parts: list[str | Markup] = [_acceptance_table(sets)]
    main = _main_set_name(sets)
    rows = pd.concat([s.rows.assign(_draw=s.draw) for s in sets if s.name == main], ignore_index=True)
    if "gate" not in rows or rows["gate"].isna().all():
        parts.append(note("These images did not pass a gate: nothing was checked or rejected.", "warning"))
        return section("gate", "What was generated and rejected", *parts)
    parts += [heading(f"Why images of “{main}” were rejected"), _reasons_table(rows, sets, main)]
    parts += [heading(f"Acceptance of “{main}” by finding and group"), _acceptance_by_cell(run, rows)]
    if notes := _gate_notes(sets, main):
        parts += [heading("What the gate does to real images and copies"), bullets(notes)]
    return section(
        "gate",
        "What was generated and rejected",
        *parts,
        lead="A synthetic image has to pass the gate before it may enter a training mix.",
    )


def sheet_section(run: RunFolder) -> Markup:
    """Synthetic images by finding and group, and some that were rejected."""
    sets = [s for s in run.sets if s.name not in CONTROL_SETS and len(s.rows)]
    if not sets:
        return Markup("")
    main = next(s for s in sets if s.name == _main_set_name(sets))
    try:
        refuse_real(main.rows, main.folder / "manifest.parquet")
        parts = _sheets(run, main)
    except InputError as error:
        return section("sheets", "Synthetic images", note(f"No image is shown: {error}", "bad"))
    return section(
        "sheets",
        "Synthetic images",
        *parts,
        lead="Every image here was generated; none shows a real patient. They are the first of each kind in the order "
        "generated, not the best, captioned with what was asked for.",
    )


def _plan_figure(run: RunFolder, rows: pd.DataFrame) -> Markup:
    has_target = rows["target"].notna() if "target" in rows else pd.Series(False, index=rows.index)
    grew = rows["after"] > rows["before"]
    if "group" in rows:
        whole = rows["group"] == "all"
        first = run.verdict.get("finding")
        group = run.setting("evaluate", "primary", "group")
        shown = rows[whole | (has_target & grew)]
        # The primary endpoint's finding first, and its own group in it; the whole set leads each finding.
        key = [
            (r["finding"] != first, str(r["finding"]), r["group"] != "all", r["group"] != group)
            for r in shown.to_dict("records")
        ]
        shown = shown.iloc[sorted(range(len(shown)), key=lambda i: key[i])]
    else:
        shown = rows
    marks = [
        plot.Change(
            label=_level_words(r),
            before=float(r["before"]),
            after=float(r["after"]),
            target=float(r["target"]) if pd.notna(r.get("target")) else None,
            group=str(r["finding"]),
        )
        for r in shown.head(MAX_ROWS).to_dict("records")
    ]
    rest = len(shown) - MAX_ROWS
    return figure(
        plot.changes(marks, what="positive training studies"),
        "Whole set and the cells that the plan fills."
        + (f" {rest} more cells are in the table below." if rest > 0 else ""),
    )


def _acceptance_table(sets: Sequence[SetFolder]) -> Markup:
    lines = []
    for name in dict.fromkeys(s.name for s in sets):
        mine = [s for s in sets if s.name == name]
        rows = pd.concat([s.rows for s in mine], ignore_index=True)
        accepted = int((rows["gate"] == "accept").sum()) if "gate" in rows else 0
        gated = "gate" in rows and rows["gate"].notna().any()
        cores = list(rows["core"].dropna().unique()) if "core" in rows else list[str]()
        lines.append(
            {
                "set": name,
                "core": ", ".join(map(str, cores)) or "–",
                "draws": len(mine),
                "images": len(rows),
                "accepted": accepted if gated else None,
                "rejected": len(rows) - accepted if gated else None,
                "accepted share": accepted / len(rows) if gated else None,
            }
        )
    return table(pd.DataFrame(lines), caption="Generated sets, all draws together", formats={"accepted share": ".1%"})


def _reasons_table(rows: pd.DataFrame, sets: Sequence[SetFolder], main: str) -> Markup:
    rejected = rows[rows["gate"] == "reject"]
    if rejected.empty:
        return paragraph("No image was rejected.")
    reasons = rejected["gate_reasons"].fillna("") if "gate_reasons" in rejected else pd.Series("", index=rejected.index)
    counts: Counter[str] = Counter()
    for text in reasons:
        counts.update({part.strip() for part in str(text).split("|") if part.strip()} or {"no reason given"})
    frame = pd.DataFrame([{"reason": r, "images": n, "share of all": n / len(rows)} for r, n in counts.most_common()])
    told = table(frame, caption="Final rejections; an image can have several reasons", formats={"share of all": ".1%"})
    redrawn = sum(_count(part.gate.get("redrawn")) for part in sets if part.name == main)
    return told + (
        paragraph(f"{number(redrawn, ',d')} prompts were drawn again after a first rejection.") if redrawn else ""
    )


def _acceptance_by_cell(run: RunFolder, rows: pd.DataFrame) -> Markup:
    bins = tuple(run.setting("evaluate", "age_bins", default=AGE_BINS))
    groups = [
        g for g in run.setting("evaluate", "groups", default=["sex", "age"]) if all(p in rows for p in g.split("*"))
    ]
    present = (
        rows["labels"]
        .fillna("")
        .map(lambda t: [p for p in str(t).split("|") if p and p[0] not in "-?"] or ["none named"])
    )
    long = rows.assign(finding=present, ok=rows["gate"] == "accept").explode("finding")
    levels = {g: group_levels(rows, g, bins) for g in groups}
    lines = []
    for finding in sorted(long["finding"].unique()):
        mine = long[long["finding"] == finding]
        line: dict[str, Any] = {"finding": finding, "images": len(mine), "accepted": mine["ok"].mean()}
        for group in groups:
            for level in level_order(levels[group], bins):
                part = mine["ok"][(levels[group] == level).reindex(mine.index).to_numpy()]
                name = level if group != "sex" else {"F": "women", "M": "men"}.get(level, level)
                name = f"{group} missing" if level == "missing" else name
                line[name] = (
                    Cell(f"{number(part.mean(), '.0%')} of {len(part)}", float(part.mean())) if len(part) else None
                )
        lines.append(line)
    return table(
        pd.DataFrame(lines), formats={"accepted": ".1%"}, caption="Share of the images asked for that was accepted"
    )


def _gate_notes(sets: Sequence[SetFolder], main: str) -> list[str]:
    """The gate's own notes of the first draw: those of the others differ by counts only."""
    part = next(p for p in sets if p.name == main)
    notes = part.gate.get("notes") or []
    lines = [_sentence_case(str(n)) + "." for n in (notes if isinstance(notes, list) else [notes])]
    copies = (part.gate.get("checks") or {}).get("duplicates") or {}
    closest = [c.get("correlation") for c in part.gate.get("closest") or [] if c.get("gate") == "accept"]
    if copies.get("cutoff") is not None and closest:
        lines.append(
            f"The accepted image closest to a training image correlates {number(max(closest))} with it; above "
            f"{number(copies['cutoff'])} an image counts as a copy (from how alike images of two patients are)."
        )
    return lines


def _sheets(run: RunFolder, part: SetFolder) -> list[str | Markup]:
    rows = part.rows
    gated = "gate" in rows and rows["gate"].notna().any()
    shown = rows[rows["gate"] == "accept"] if gated else rows
    first = str(run.verdict.get("finding") or "")
    present = shown["labels"].fillna("").map(lambda t: [p for p in str(t).split("|") if p and p[0] not in "-?"])
    counted = Counter(name for names in present for name in names)
    findings = sorted(counted, key=lambda f: (f != first, f))
    chosen = choose(shown, findings, ["sex"])
    cells = sum(len(levels) for _, levels in chosen) or 1
    parts: list[str | Markup] = []
    if not gated:
        parts.append(
            note("These images passed no gate, so they were not checked for copies of training images.", "warning")
        )
    for finding, levels in chosen:
        both = pd.concat([rows_ for _, rows_ in levels])
        parts += [heading(finding), sheet(part.folder, both, budget=SHEET_BYTES * len(levels) // cells)]
    if gated:
        parts += _rejected_sheet(part)
    return parts


def _rejected_sheet(part: SetFolder) -> list[str | Markup]:
    """Some rejected images with their reasons, but none that was rejected as a copy of a real (or any other) image."""
    rows = part.rows[part.rows["gate"] == "reject"]
    if rows.empty or "gate_reasons" not in rows:
        return []
    copy = is_copy(rows)
    rows = rows[~copy].head(8)
    told = f"{int(copy.sum())} images rejected as copies or without a reason are not shown." if copy.any() else ""
    if rows.empty:
        return [note(told)] if told else []
    return [
        heading("Rejected"),
        sheet(
            part.folder,
            rows.assign(_why=rows["gate_reasons"].str.replace("|", "; ", regex=False)),
            budget=300_000,
            extra="_why",
        ),
        note(told) if told else "",
    ]


def _main_set_name(sets: Sequence[SetFolder]) -> str:
    names = [s.name for s in sets]
    return "core" if "core" in names else next((n for n in names if n != "gaussian"), names[0])


def _level_words(row: Mapping[Any, Any]) -> str:
    if "group" not in row or row["group"] in ("all", ""):
        return "whole set"
    return f"{row['group']} {row['level']}"


def _limit_words(limit: dict[str, Any]) -> str:
    group = limit.get("group")
    who = (
        f"with {limit['finding']}"
        if limit.get("finding")
        else "with " + ", ".join(f"{k} {v}" for k, v in (group or {}).items())
    )
    if limit.get("patients") is not None:
        return f"Only {number(limit['patients'], ',d')} training patients {who} were kept."
    return f"Only {number(limit.get('share'), '.0%')} of the training patients {who} were kept."


def _limit_shortfall(run: RunFolder, at: int) -> str:
    """What a limit's patients came down to where the other limits dropped some of them."""
    parts = [d.limit.get("limits") or [] for d in run.draws]
    mine = [part[at] for part in parts if len(part) > at and part[at]["left"] < part[at]["asked"]]
    if not mine:
        return ""
    left = sorted({int(part["left"]) for part in mine})
    count = str(left[0]) if len(left) == 1 else f"{left[0]} to {left[-1]}"
    which = "every draw" if len(mine) == len(run.draws) else f"{len(mine)} of {len(run.draws)} draws"
    return f" With the other limits {count} of {mine[0]['asked']} asked for are left in {which}."


def _named_list(named: Sequence[dict[str, Any]]) -> Markup:
    lines = [
        Markup("<li><span>{}</span><span>{}{}</span></li>").format(
            _sentence_case(str(n["kind"])),
            str(n.get("sentence") or _named_fallback(n)),
            Markup("") if n["holds"] else Markup(" ") + tag("a hint: may be chance"),
        )
        for n in named
    ]
    return Markup('<ul class="named">{}</ul>\n').format(Markup("").join(lines))


def _named_fallback(named: dict[str, Any]) -> str:
    return " · ".join(str(named[k]) for k in ("finding", "group", "level") if named.get(k))


def _count(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else 0


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]
