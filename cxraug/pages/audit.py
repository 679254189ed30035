"""The audit as a page: the sentences first, then the tables they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from cxraug.balance.naming import ALPHA, headlines, sure_odds
from cxraug.pages import audit_depth
from cxraug.pages.page import (
    Cell,
    bullets,
    facts,
    fold,
    heading,
    interval,
    note,
    number,
    paragraph,
    render_page,
    section,
    table,
)

SENTENCES = 15  # that are open at first sight
CELL_WIDTH, CELL_HEIGHT, LABEL_WIDTH = 44, 24, 170


def audit_page(audit: dict[str, Any]) -> str:
    """Return ``audit`` (see :func:`cxraug.balance.audit.audit_manifest`) as one offline HTML file."""
    parts = {
        "named": ("What stands out", _named(audit)),
        "findings": ("Findings", _findings(audit)),
        "groups": ("Groups", _groups(audit)),
        "cells": ("Findings by group", _cells(audit)),
        "together": ("Findings that occur together", _together(audit)),
        "confounded": (
            "What findings go with",
            [*_confounded(audit), *audit_depth.all_else_equal(audit), *audit_depth.shortcuts(audit)],
        ),
        "measurable": ("Which gaps can be measured", audit_depth.measurable(audit, _heat)),
        "images": ("Images", audit_depth.images(audit)),
        "quality": ("Missing values, copies, burned-in text", _quality(audit)),
    }
    body = Markup("").join(section(key, title, *content) for key, (title, content) in parts.items())
    subtitle = f"{audit['images']:,} images, {audit['studies']:,} studies, {audit['patients']:,} patients"
    return render_page("Audit", body, subtitle=subtitle, nav=[(key, title) for key, (title, _) in parts.items()])


def _named(audit: dict[str, Any]) -> list[Markup]:
    named = audit["named"]
    parts: list[Markup] = []
    firm, hints = [n for n in named if n["holds"]], [n for n in named if not n["holds"]]
    first = headlines(firm, SENTENCES)
    rest = [n for n in firm if not any(n is shown for shown in first)]
    parts.append(_sentences(first) if firm else paragraph("No rule names anything."))
    if rest:
        parts.append(fold(f"{len(rest)} more of the same kinds", _sentences(rest)))
    if hints:
        parts.append(fold(f"{len(hints)} hints that do not survive the correction for many looks", _sentences(hints)))
    rules = bullets(Markup("<b>{}</b>: {}").format(kind, rule) for kind, rule in audit["rules"].items())
    parts.append(fold("The rules by which this is named", rules))
    return parts


def _sentences(named: Sequence[dict[str, Any]]) -> Markup:
    items = Markup("").join(
        Markup("<li><span>{}</span><span>{}</span></li>").format(n["kind"], n["sentence"]) for n in named
    )
    return Markup('<ul class="named">{}</ul>\n').format(items)


def _findings(audit: dict[str, Any]) -> list[Markup]:
    rows = []
    for f in audit["findings"]:
        row: dict[str, Any] = {"finding": f["finding"]}
        row |= {"patients": f["patients_positive"], "of": f["patients_known"], "prevalence": f["prevalence"]}
        shares = (f["image_prevalence"], f["image_ci_low"], f["image_ci_high"])
        row |= {"of images": Cell(interval(*shares, ".1%"), f["image_prevalence"]), "design effect": f["design_effect"]}
        row |= {"images": f["images_positive"], "uncertain, blank": f["images_uncertain"]}
        row |= {f"{s} patients": b["patients_positive"] for s, b in f["by_split"].items() if s not in ("all", "train")}
        rows.append(row)
    counts = facts((s["split"], f"{s['patients']:,} patients, {s['images']:,} images") for s in audit["splits"])
    caption = f"Positive patients and images, {audit['naming_rows']} unless named"
    caption += "; intervals are clustered by patient"
    formats = {"prevalence": ".1%", "design effect": ".1f"}
    return [counts, table(pd.DataFrame(rows), caption=caption, formats=formats)]


def _groups(audit: dict[str, Any]) -> list[Markup]:
    rows = [
        {
            "group": g["group"],
            "level": g["level"],
            "patients": g["patients"],
            "share": g["share"],
            "expected": g["expected_share"],
            "expected from": {"even": "even shares", "margins": "its parts"}[g["expectation"]],
        }
        for g in audit["groups"]
    ]
    if not rows:
        return [paragraph("No group was asked for.")]
    return [
        table(
            pd.DataFrame(rows),
            caption=f"Patients per level, {audit['naming_rows']}; a patient counts in every level he or she occurs in",
            formats={"share": ".1%", "expected": ".1%"},
        )
    ]


def _cells(audit: dict[str, Any]) -> list[Markup]:
    parts: list[Markup] = []
    for group in dict.fromkeys(c["group"] for c in audit["cells"]):
        cells = [c for c in audit["cells"] if c["group"] == group]
        levels = list(dict.fromkeys(c["level"] for c in cells))
        findings = list(dict.fromkeys(c["finding"] for c in cells))
        at = {(c["finding"], c["level"]): c for c in cells}
        values = [[at[f, level]["patients_positive"] for level in levels] for f in findings]
        shades = [[_relative(at[f, level]) for level in levels] for f in findings]
        parts += [heading(f"By {group}"), _heat(findings, levels, values, shades, f"Positive patients by {group}")]
        rows = [
            {
                "finding": c["finding"],
                "level": c["level"],
                "positive": c["patients_positive"],
                "of": c["patients"],
                "prevalence": c["prevalence"],
                "elsewhere": c["rest_prevalence"],
                "ratio": Cell(interval(c["ratio"], c["ci_low"], c["ci_high"], ".2f"), c["ratio"]),
                "adjusted p": c["p_adjusted"],
                "of images": Cell(
                    interval(c["image_prevalence"], c["image_ci_low"], c["image_ci_high"], ".1%"), c["image_prevalence"]
                ),
                "odds ratio, all else equal": _odds(c["adjusted"]),
                "flag": c["flag"],
            }
            for c in cells
        ]
        same = next((c["adjusted"]["adjusted_for"] for c in cells if c["adjusted"]), "")
        caption = (
            "Patients; ratio of prevalences with a 95 % interval of its own, p adjusted over the table (Holm); share "
            f"of images, clustered by patient; odds against the other levels at the same {same}"
        )
        formats = {"prevalence": ".1%", "elsewhere": ".1%", "adjusted p": ".3f"}
        parts.append(fold("All cells with intervals", table(pd.DataFrame(rows), caption=caption, formats=formats)))
    if not parts:
        return [paragraph("No group was asked for, or none is in the data.")]
    legend = "Numbers are positive training patients. The darker, the more prevalent is the finding for its row."
    return [paragraph(legend), *parts]


def _relative(cell: dict[str, Any]) -> float | None:
    """Prevalence in the cell as a share of the sum of here and elsewhere: 0.5 is no difference."""
    here, rest = cell["prevalence"], cell["rest_prevalence"]
    if here is None or rest is None or here + rest == 0:
        return None
    return here / (here + rest)


def _together(audit: dict[str, Any]) -> list[Markup]:
    names, counts = audit["cooccurrence"]["findings"], audit["cooccurrence"]["studies"]
    shades = [[n / row[i] if row[i] else None for n in row] for i, row in enumerate(counts)]
    sets = audit["label_sets"]
    text = (
        f"{sets['distinct']:,} label sets in {sets['studies']:,} studies with complete labels, {sets['seen_once']:,} "
        "of them in one study only. In the picture a row's shade is the share of its studies that also show the "
        "column's finding."
    )
    frame = pd.DataFrame(sets["most_frequent"], columns=["labels", "studies"])
    frame["labels"] = frame["labels"].str.replace("|", " + ", regex=False)
    return [
        paragraph(text),
        _heat(names, names, counts, shades, "Studies that show two findings"),
        fold("The most frequent label sets", table(frame, caption="Studies per label set")),
    ]


def _confounded(audit: dict[str, Any]) -> list[Markup]:
    found = sorted(audit["confounded"], key=lambda c: -sure_odds(c["all_else_equal"] or c))
    if not found:
        return [paragraph("Source, view and groups have a single level each: nothing to be confused with.")]
    text = (
        "The level was picked because it stands out; its p value is corrected for that and, by Holm, for all rows. "
        "Intervals are each for themselves; first is what is surely strongest, all else equal where that is known. "
        "View, source and other columns of the image are counted in images; their odds ratio is that at "
        "the same age, sex, view and source, clustered by patient. (Counts of patients would tie AP images to every "
        "finding: who has many images has some of both.) Sex, race and age are counted in patients, and all else equal "
        "is what is left of them among images that are otherwise alike."
    )
    firm, rest = [c for c in found if c["p_adjusted"] < ALPHA], [c for c in found if c["p_adjusted"] >= ALPHA]
    parts = [paragraph(text)]
    parts.append(_associations(firm) if firm else paragraph("No association survives the correction."))
    if rest:
        parts.append(fold(f"{len(rest)} associations that do not survive the correction", _associations(rest)))
    return parts


def _associations(found: Sequence[dict[str, Any]]) -> Markup:
    rows = [
        {
            "finding": c["finding"],
            "stands out in": f"{c['variable']} {c['level']}",
            "of": f"{c['n']:,} {c['unit']}",
            "there": c["prevalence"],
            "elsewhere": c["rest_prevalence"],
            "crude odds ratio": _odds(c if c["unit"] == "patients" else _crude(c)),
            "odds ratio, all else equal": _odds(
                c if c["unit"] == "images" and c["adjusted_for"] else c["all_else_equal"]
            ),
            "same": _same(c),
            "adjusted p": _p(c["p_adjusted"]),
        }
        for c in found
    ]
    return table(pd.DataFrame(rows), formats={"there": ".1%", "elsewhere": ".1%"})


def _p(value: float) -> Cell:
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}", value)


def _crude(row: dict[str, Any]) -> dict[str, Any]:
    return {"odds_ratio": row["crude"], "ci_low": row["crude_low"], "ci_high": row["crude_high"]}


def _odds(row: dict[str, Any] | None) -> Cell:
    if row is None or row["odds_ratio"] is None:
        return Cell("–", None)
    return Cell(interval(row["odds_ratio"], row["ci_low"], row["ci_high"], ".2f"), row["odds_ratio"])


def _same(row: dict[str, Any]) -> str:
    """What is the same where all else is equal."""
    held = row["adjusted_for"] if row["unit"] == "images" else (row["all_else_equal"] or {}).get("adjusted_for", "")
    apart = f"; not told apart from {row['inseparable_from']}" if row["inseparable_from"] else ""
    return f"{held or 'too few patients'}{apart}"


def _quality(audit: dict[str, Any]) -> list[Markup]:
    missing = pd.DataFrame([{k: m[k] for k in ("column", "missing", "share")} for m in audit["missing"]])
    copies = audit["duplicates"]
    if not copies["checked"]:
        about = note("Copies were not looked for: pixels were not read.", "warning")
    elif not copies["sets"]:
        about = paragraph("No two images have the same pixels.")
    else:
        about = paragraph(
            f"{number(copies['sets'], ',d')} pictures occur more than once ({copies['images']:,} copies): "
            f"{copies['across_splits']:,} images lie in two splits, {copies['across_patients']:,} pictures belong "
            f"to two patients, {copies['different_labels']:,} have different labels."
        )
    return [table(missing, caption="Images without a value", formats={"share": ".1%"}), about, *_burned_text(audit)]


def _burned_text(audit: dict[str, Any]) -> list[Markup]:
    found = audit["burned_text"]
    if not found["checked"]:
        return [note("Burned-in text was not looked for: pixels were not read.", "warning")]
    about = (
        f"{found['images']:,} images have text burned into their pixels ({found['tagged']:,} by the word of their "
        f"DICOM header), {found['train']:,} of them in train; burned_text.csv beside this page lists them. "
        f"{found['markers']:,} more have a lead marker only. Text may name a patient: look before such images leave "
        "the house. Training a core leaves them out unless it is told burned_text: keep. None found does not mean that "
        "there is none."
    )
    shares = pd.DataFrame(found["by_source"])
    parts = [note(about, "warning") if found["images"] else paragraph(about)]
    if found["images"] and len(shares) > 1:
        parts.append(table(shares, caption="Images with text and with a lead marker alone, by source"))
    return parts


def _heat(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[int | str]],
    shades: Sequence[Sequence[float | None]],
    name: str,
) -> Markup:
    """A grid of counts or marks; ``shades`` in [0, 1] set the background, None leaves it empty."""
    width = LABEL_WIDTH + CELL_WIDTH * len(columns)
    top = 14 + 6 * min(max((len(c) for c in columns), default=0), 24)
    height = top + CELL_HEIGHT * len(rows)
    parts = []
    for j, column in enumerate(columns):
        x = LABEL_WIDTH + CELL_WIDTH * j + CELL_WIDTH / 2
        place = f"translate({x:.0f} {top - 8}) rotate(-60)"
        parts.append(Markup('<text transform="{}">{}</text>').format(place, _short(column)))
    for i, row in enumerate(rows):
        y = top + CELL_HEIGHT * i
        label = Markup('<text x="{}" y="{}" text-anchor="end">{}</text>')
        parts.append(label.format(LABEL_WIDTH - 8, y + 16, _short(row)))
        for j, column in enumerate(columns):
            shade = shades[i][j]
            opacity = 0.0 if shade is None else 0.75 * min(max(shade, 0.0), 1.0)
            parts.append(
                Markup(
                    '<g><title>{}, {}: {}</title><rect x="{}" y="{}" width="{}" height="{}" fill="var(--accent)" '
                    'fill-opacity="{:.2f}" stroke="var(--line)"/><text x="{}" y="{}" text-anchor="middle" '
                    'style="fill:var(--ink)">{}</text></g>'
                ).format(
                    row, column, values[i][j], LABEL_WIDTH + CELL_WIDTH * j, y, CELL_WIDTH, CELL_HEIGHT, opacity,
                    LABEL_WIDTH + CELL_WIDTH * j + CELL_WIDTH // 2, y + 16, _mark(values[i][j]),
                )
            )  # fmt: skip
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
        '<svg width="{width}" height="{height}" role="img" aria-label="{name}">{marks}</svg></div>\n'
    ).format(name=name, width=width + 60, height=height + 2, marks=Markup("").join(parts))


def _mark(value: int | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _short(text: str, limit: int = 26) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
