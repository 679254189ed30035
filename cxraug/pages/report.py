"""The run report: one offline HTML file that starts with the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from cxraug.pages import plot, verdict
from cxraug.pages.material import audit_section, generated_section, limit_section, plan_section, sheet_section
from cxraug.pages.method import NOTES
from cxraug.pages.page import Cell, blocks, bullets, facts, fold, render_page, section, table
from cxraug.pages.probes import probes_section
from cxraug.pages.results import (
    absent,
    comparison_section,
    curve_section,
    findings_section,
    groups_section,
    ratio_section,
)
from cxraug.pages.runfolder import RunFolder, read_run
from cxraug.storage import atomic

REPORT = "report.html"
EVALUATION_FACTS = ("settings", "threshold_source", "recalibration", "n_images", "n_patients", "versions", "files")
NAV = (
    ("verdict", "Verdict"),
    ("audit", "What the data lack"),
    ("limit", "Made scarce on purpose"),
    ("plan", "What the plan asks for"),
    ("gate", "Generated and rejected"),
    ("sheets", "Synthetic images"),
    ("arms", "Arms and controls"),
    ("findings", "AUROC by finding"),
    ("groups", "Groups and gaps"),
    ("mitigation", "Mitigation"),
    ("probes", "Encoding of attributes"),
    ("curve", "Room for improvement"),
    ("ratio", "Ratio"),
    ("settings", "Settings"),
    ("method", "Method"),
)


def write_run_report(run: str | Path) -> Path:
    """Write ``report.html`` into the run folder ``run`` and return its path.

    Parts of the run that are missing are left out with a line that says so. The same folder gives the same bytes.

    Raises
    ------
    InputError
        If ``run`` is no run folder or one of its files is broken.
    """
    found = read_run(run)
    path = found.path / REPORT
    with atomic(path) as temporary:
        temporary.write_text(report_html(found), encoding="utf-8")
    return path


def report_html(run: RunFolder) -> str:
    """The report of ``run`` as one HTML file."""
    body = blocks(
        [
            verdict_section(run),
            audit_section(run),
            limit_section(run),
            plan_section(run),
            generated_section(run),
            sheet_section(run),
            comparison_section(run),
            findings_section(run),
            groups_section(run),
            probes_section(run),
            curve_section(run),
            ratio_section(run),
            settings_section(run),
            method_section(run),
        ]
    )
    nav = [(key, name) for key, name in NAV if f'<section id="{key}"' in body]
    name = str(run.setting("name", default=run.path.resolve().name))
    return render_page(name, body, subtitle=_subtitle(run), nav=nav)


def verdict_section(run: RunFolder) -> Markup:
    """The first screen: the verdict with its interval, what it means, what to do, what to know before quoting it."""
    found = run.verdict
    if not found:
        return section(
            "verdict",
            "Verdict",
            absent("verdict.json", "This run has no verdict yet; run it again to finish it."),
        )
    numbers = [found.get(k) for k in ("difference", "ci_low", "ci_high")]
    picture = Markup("")
    if verdict.outcome(found) and all(n is not None for n in numbers):
        picture = plot.effect(
            *(float(n) for n in numbers),  # type: ignore[arg-type]
            mde=found.get("mde"),
            room=found.get("room"),
            what=f"difference in {verdict.endpoint(found)}, {found.get('arm')} − {found.get('control')}",
        )
    warnings = verdict.caveats(found)
    told = (
        Markup('<div class="caveats"><h3>Before quoting this</h3>{}</div>').format(bullets(warnings))
        if warnings
        else ""
    )
    return Markup(
        '<section id="verdict" class="verdict tone-{tone}"><h2>{heading}</h2>\n<p class="sentence">{sentence}</p>\n'
        "{picture}{facts}"
        '<div class="columns"><div><h3>What this means</h3><p>{meaning}</p></div>'
        "<div><h3>What to do next</h3>{steps}</div></div>{caveats}</section>\n"
    ).format(
        tone=verdict.tone(found),
        heading=verdict.heading(found),
        sentence=verdict.sentence(found),
        picture=picture,
        facts=facts(verdict.facts(found)),
        meaning=verdict.meaning(found),
        steps=bullets(verdict.next_steps(found)),
        caveats=told,
    )


def settings_section(run: RunFolder) -> Markup:
    """Every setting and version of the run."""
    if not run.settings and not run.evaluation:
        return section("settings", "Settings and versions", absent("settings.json"))
    parts: list[str | Markup] = []
    rows = flatten(run.settings.get("recipe", {k: v for k, v in run.settings.items() if k != "versions"}))
    if run.settings:
        parts.append(fold(f"All settings ({len(rows)})", _pairs(rows, "setting"), printed=True))
    rest = {k: v for k, v in run.settings.items() if k != "recipe"}
    if run.seconds:
        rest["minutes"] = {stage: round(seconds / 60, 1) for stage, seconds in run.seconds.items()}
    if "recipe" in run.settings and rest:
        parts.append(fold("Versions, machine and time", _pairs(flatten(rest), "what"), printed=True))
    if run.evaluation:
        chosen = {key: run.evaluation[key] for key in EVALUATION_FACTS if key in run.evaluation}
        parts.append(fold("Evaluation", _pairs(flatten(chosen), "setting"), printed=True))
    return section(
        "settings",
        "Settings and versions",
        *parts,
        lead="Everything that was used here.",
    )


def method_section(run: RunFolder) -> Markup:
    """How the numbers were made, with sources, and what the evaluation noted."""
    lines = Markup("").join(Markup("<li><span>{}</span><span>{}</span></li>").format(*note) for note in NOTES)
    parts = [Markup('<ul class="named">{}</ul>\n').format(lines)]
    for name, key in (("As computed here", "methods"), ("Notes of this evaluation", "notes")):
        if found := [str(text) for text in run.evaluation.get(key) or []]:
            parts.append(fold(name, bullets(found), printed=True))
    return section("method", "Method", *parts)


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted key, text); lists of plain values stay on one line."""
    if isinstance(value, dict) and value:
        return [
            pair for key, part in value.items() for pair in flatten(part, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list) and any(isinstance(part, (dict, list)) for part in value):
        return [pair for i, part in enumerate(value) for pair in flatten(part, f"{prefix}.{i}")]
    if isinstance(value, list):
        return [(prefix, ", ".join(str(part) for part in value) or "none")]
    text = "not set" if value is None or value == {} else str(value)
    return [(prefix, text)]


def _pairs(rows: list[tuple[str, str]], name: str) -> Markup:
    keys = [Cell(Markup("<code>{}</code>").format(key), key) for key, _ in rows]
    return table(pd.DataFrame({name: keys, "value": [text for _, text in rows]}))


def _subtitle(run: RunFolder) -> str:
    found = run.verdict
    parts = ["cxraug run report"]
    if found.get("arm") and found.get("control"):
        parts.append(f"primary endpoint: {verdict.endpoint(found)}, {found['arm']} against {found['control']}")
    return " · ".join(parts)
