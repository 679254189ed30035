"""The report of an audit of predictions: one offline page, a fairness card (Markdown) and the same for machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from cxraug.errors import InputError
from cxraug.pages import plot
from cxraug.pages.answers import Answers, answers_of
from cxraug.pages.curves import curves_section
from cxraug.pages.fairness_card import fairness_card
from cxraug.pages.gaps import (
    alpha_of,
    distinct_gaps,
    is_shown,
    is_worse,
    missed,
    sentence,
    unknown,
)
from cxraug.pages.page import blocks, bullets, figure, fold, heading, note, number, render_page, section, table
from cxraug.pages.probes import probes_section
from cxraug.pages.report import NAV, REPORT, method_section, settings_section
from cxraug.pages.results import (
    absent,
    comparison_section,
    findings_section,
    gap_table,
    group_tables,
    interval_row,
    mitigation_section,
)
from cxraug.pages.runfolder import RunFolder, read_evaluation, whole
from cxraug.pages.verdict import label
from cxraug.storage import atomic, write_json

FORMATS = {"html": REPORT, "md": "report.md", "json": "report.json"}
DRAWN = ("auroc", "tpr", "fpr", "underdiagnosis", "overdiagnosis", "ece")  # metrics that get plots
FIRST = 20  # rows of a forest plot that is not folded
MOST_ROWS = 150  # of a folded one
MOST_ARMS = 2  # arms with heat maps
NAMES = (
    ("answers", "In short"),
    ("sentences", "Gaps in words"),
    ("gaps", "Gaps"),
    ("map", "Finding × group"),
    ("curves", "ROC and calibration"),
    ("missed", "What could be missed"),
    ("tables", "Tables by group"),
    *NAV,
)


def write_evaluation_report(folder: str | Path, formats: Sequence[str] = ("html",)) -> Path:
    """Write the report of an evaluation folder (``cells.csv``, ``gaps.csv``, ``curves.csv``, ...) into it.

    Parameters
    ----------
    formats : ``html`` (``report.html``), ``md`` (``report.md``, the fairness card) and ``json`` (``report.json``).

    Returns
    -------
    The path of the first one. The same folder gives the same bytes.

    Raises
    ------
    InputError
        If ``folder`` is no evaluation folder or a format is not known.
    """
    folder = Path(folder)
    check_formats(formats)
    found = read_evaluation(folder)
    answers = answers_of(found)
    for name in formats:
        path = folder / FORMATS[name]
        if name == "json":
            write_json(path, answers.as_json())
            continue
        text = evaluation_html(found, answers) if name == "html" else fairness_card(found, answers)
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / FORMATS[formats[0]]


def check_formats(formats: Sequence[str]) -> None:
    """Raise :class:`InputError` for a format that is not known."""
    for name in formats:
        if name not in FORMATS:
            raise InputError("--format: no such format", found=name, expected=", ".join(FORMATS))
    if not formats:
        raise InputError("--format: no format", expected=", ".join(FORMATS))


def evaluation_html(run: RunFolder, answers: Answers) -> str:
    """The report as one HTML file."""
    body = blocks(
        [
            answers_section(run, answers),
            sentences_section(answers),
            gaps_section(run),
            map_section(run),
            curves_section(run),
            missed_section(run),
            comparison_section(run) if len(run.comparison) else "",
            findings_section(run),
            tables_section(run),
            mitigation_section(run),
            probes_section(run),
            settings_section(run),
            method_section(run),
        ]
    )
    nav = [(key, name) for key, name in NAMES if f'<section id="{key}"' in body]
    return render_page("Audit of predictions", body, subtitle=subtitle(run), nav=nav)


def subtitle(run: RunFolder) -> str:
    """What was audited: images, patients and runs."""
    info = run.evaluation
    if "n_images" not in info:
        return run.path.resolve().name
    runs = len(info.get("runs") or [])
    judged = "validation" if info.get("judged") == "val" else "test"
    counts = f"{number(info['n_images'], ',d')} {judged} images of {number(info['n_patients'], ',d')} patients"
    return f"{run.path.resolve().name} · {counts} · {runs} run{'s' if runs != 1 else ''}"


def answers_section(run: RunFolder, answers: Answers) -> Markup:
    """The first screen: how good, for whom worse, how sure, what to do."""
    columns = Markup("").join(
        Markup("<div><h3>{}</h3>{}</div>").format(question, bullets(lines)) for question, lines in answers.questions
    )
    return Markup(
        '<section id="answers" class="verdict tone-{}"><h2>{}</h2>\n<p class="sentence">{}</p>\n'
        '<div class="columns">{}</div></section>\n'
    ).format(answers.tone, answers.heading, answers.sentence, columns)


def sentences_section(answers: Answers) -> Markup:
    """One sentence per gap that is shown: to a disadvantage first, then to an advantage."""
    if not answers.gaps:
        return section("sentences", "Gaps in words", note("No gap is shown. That is not the same as no gap."))
    several = len({gap.row["arm"] for gap in answers.gaps}) > 1
    parts: list[str | Markup] = []
    firm = [gap for gap in answers.gaps if not gap.hint]
    for title, gaps in (
        ("To a disadvantage", [gap for gap in firm if gap.worse]),
        ("To an advantage", [gap for gap in firm if not gap.worse]),
        ("Hints, from few cases", [gap for gap in answers.gaps if gap.hint]),
    ):
        lines = [f"{gap.row['arm']}: " * several + sentence(gap) for gap in gaps]
        if lines:
            parts += [heading(title), bullets(lines)]
    lead = (
        "The gaps whose adjusted p value is small enough; brackets hold simultaneous intervals. Each gap is told once, "
        "from the side that is worse off."
    )
    return section("sentences", "Gaps in words", *parts, lead=lead)


def gaps_section(run: RunFolder) -> Markup:
    """Forest plots of the raw gaps by metric, those with the smallest p first, then every finding by grouping."""
    rows = distinct_gaps(run.gaps)
    if rows.empty:
        return section("gaps", "Gaps", absent("a gap", "No group was compared."))
    raw = rows[rows["matched"] == ""]
    parts: list[str | Markup] = []
    for metric in [name for name in DRAWN if (raw["metric"] == name).any()]:
        part = raw[raw["metric"] == metric]
        shown = part[part["flag"] != "suppressed"].sort_values("p_adjusted", kind="stable")
        title = label(metric)[:1].upper() + label(metric)[1:]
        if shown.empty:
            parts.append(note(f"{title}: every gap is suppressed, too few cases."))
            continue
        clear = sum(is_shown(row, alpha_of(run)) for row in shown.to_dict("records"))
        first = shown.head(max(FIRST, min(clear, MOST_ROWS)))
        caption = f"The {len(first)} of {len(shown)} {label(metric)} gaps with the smallest adjusted p; "
        caption += f"{clear} {'is' if clear == 1 else 'are'} shown (bold). Intervals hold together per grouping."
        these: list[str | Markup] = [figure(_forest(run, first, grouped=False), caption)]
        for group in dict.fromkeys(part["group"]):
            every = part[part["group"] == group].sort_values("finding", kind="stable", key=_order(part))
            left = max(len(every) - MOST_ROWS, 0)
            told = note(f"{left} more rows are in gaps.csv.") if left else ""
            picture = figure(_forest(run, every.head(MOST_ROWS), grouped=True))
            these.append(fold(f"All {label(metric)} gaps by {group} ({len(every)})", picture, told))
        if clear or metric == "auroc":
            parts += [heading(title), *these]
        else:
            parts.append(fold(f"{title}: no gap is shown", *these))
    chosen = rows[rows["metric"].isin(DRAWN) | (rows["p_adjusted"] <= alpha_of(run))]
    chosen = chosen.sort_values("p_adjusted", kind="stable")
    left = len(rows) - min(len(chosen), MOST_ROWS * 2)
    told = note(f"{left} more rows are in gaps.csv.") if left > 0 else ""
    parts.append(fold("Table of gaps, raw and matched", gap_table(chosen.head(MOST_ROWS * 2)), told))
    lead = "A gap is a group level minus its reference; of two mirror images the side that is worse off is shown."
    return section("gaps", "Gaps", *parts, lead=lead)


def _order(rows: pd.DataFrame):
    """Sort key: findings in the order of the table."""
    rank = {name: i for i, name in enumerate(dict.fromkeys(rows["finding"]))}
    return lambda column: column.map(rank)


def _forest(run: RunFolder, rows: pd.DataFrame, *, grouped: bool) -> Markup:
    several, alpha = len(set(rows["arm"])) > 1, alpha_of(run)
    marks = []
    for row in rows.to_dict("records"):
        where = f"{row['level']} − {row['reference']}" + (f" · {row['arm']}" if several else "")
        name = where if grouped else f"{row['finding']}, {row['group']} {where}"
        group = str(row["finding"]) if grouped else ""
        marks.append(interval_row(run, row, value="gap", label=name, group=group, strong=is_shown(row, alpha)))
    sides = ("lower than the reference", "higher than the reference")
    return plot.forest(marks, what="gap", reference=0.0, sign=True, sides=sides)


def map_section(run: RunFolder) -> Markup:
    """Findings down, group levels across: the raw gap, coloured by who is worse off."""
    rows = whole(run.gaps) if len(run.gaps) else run.gaps
    if rows.empty:
        return Markup("")
    rows = rows[(rows["matched"] == "") & ~rows["level"].map(unknown).astype(bool)]
    parts: list[str | Markup] = []
    arms = list(dict.fromkeys(rows["arm"]))
    for arm in arms[:MOST_ARMS]:
        for metric in ("auroc", "tpr", "fpr", "ece"):
            part = rows[(rows["arm"] == arm) & (rows["metric"] == metric)]
            if part.empty:
                continue
            title = label(metric) + (f", {arm}" if len(arms) > 1 else "")
            pictures = [_heat(run, part[part["group"] == group], f"{title} by {group}") for group in _groups(part)]
            parts.append(blocks(pictures) if not parts else fold(title, *pictures))
    steps = ", ".join(f"{step:g}" for step in plot.HEAT_STEPS)
    told = (
        f"Red: worse than the reference, blue: better; the colour deepens at {steps}. Framed and bold: gaps that are "
        "shown. °: few cases. “–”: suppressed, too few cases to show anything."
    )
    return section("map", "Finding × group", *parts, note(told), lead="The gap of every cell at one glance.")


def _groups(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(rows["group"]))


def _heat(run: RunFolder, rows: pd.DataFrame, caption: str) -> Markup:
    alpha = alpha_of(run)
    levels, findings = list(dict.fromkeys(rows["level"])), list(dict.fromkeys(rows["finding"]))
    cells = {}
    for row in rows.to_dict("records"):
        hidden = row["flag"] == "suppressed" or row["gap"] != row["gap"]
        cells[row["finding"], row["level"]] = (
            plot.Heat(note="–")
            if hidden
            else plot.Heat(float(row["gap"]), is_worse(row), is_shown(row, alpha), row["flag"] == "few")
        )
    table_rows = [(name, [cells.get((name, level), plot.Heat(note="–")) for level in levels]) for name in findings]
    return plot.heat_map(levels, table_rows, caption=f"Gap of {caption}", corner="finding")


def missed_section(run: RunFolder) -> Markup:
    """The smallest gaps that would have been found, and what was suppressed."""
    rows = missed(run)
    if rows.empty:
        return Markup("")
    frame = pd.DataFrame(
        {
            "group": rows["group"],
            "metric": [label(name) for name in rows["metric"]],
            "gaps judged": rows["shown"],
            "suppressed": rows["suppressed"],
            "smallest detectable, median": rows["mdg"],
            "largest": rows["most"],
        }
    )
    lead = "The gap that would have been found in four of five repetitions, at the level adjusted for all of them."
    told = note("A gap below these sizes may well be there. Suppressed means that nothing is known.", "warning")
    return section("missed", "What could have been missed", told, table(frame, caption="Per grouping"), lead=lead)


def tables_section(run: RunFolder) -> Markup:
    """The numbers by group: rates, largest differences, worst levels."""
    return section("tables", "Tables by group", group_tables(run))
