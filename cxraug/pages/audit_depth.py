"""The deeper sections of the audit's page: all else equal, shortcuts, gaps that can be measured, and the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from cxraug.pages.page import Cell, fold, heading, interval, note, number, paragraph, table

Heat = Callable[..., Markup]
FAULT_WORDS = {"turned": "turned by 90°", "upside down": "upside down or flipped", "cropped": "cropped off centre"}


def shortcuts(audit: dict[str, Any]) -> list[Markup]:
    """How well view and source alone tell a finding."""
    rows = audit["shortcuts"]
    if not rows:
        return [heading("View and source alone"), paragraph("All images share one view and one source.")]
    names = list(dict.fromkeys(row["from"] for row in rows))
    at = {(row["finding"], row["from"]): row for row in rows}
    best = {f: max(at[f, n]["auroc"] for n in names if (f, n) in at) for f in dict.fromkeys(r["finding"] for r in rows)}
    lines = [
        {"finding": finding, **{f"from {n}": _interval(at.get((finding, n)), "auroc", ".2f") for n in names}}
        for finding in sorted(best, key=lambda f: -best[f])
    ]
    text = (
        "AUROC of a rule that sees nothing of the image but what the column names, out of fold by patient, with "
        "patient-clustered intervals. A classifier that is trained on these data can reach this much without looking "
        "at the disease; on data that were taken otherwise it loses it."
    )
    return [heading("View and source alone"), paragraph(text), table(pd.DataFrame(lines))]


def all_else_equal(audit: dict[str, Any]) -> list[Markup]:
    """Projection and source against findings, adjusted; groups are beside their cells."""
    rows = [r for r in audit["associations"] if r["group"] in ("projection", "source") and r["odds_ratio"] is not None]
    views = {r["level"] for r in audit["associations"] if r["group"] == "view"}
    told = {"PA", "AP"} if views <= {"PA", "AP"} else {"PA"}  # without other views it is told above
    rows = [r for r in rows if not (r["group"] == "projection" and r["level"] in told)]
    parts: list[Markup] = []
    if rows:
        caption = (
            "Odds of a finding in AP (and AP Supine) against PA images, and in a source against the others: crude, and "
            "at the same age, sex and the other of the two (logistic regression, variance clustered by patient)"
        )
        parts += [heading("AP against PA, source against source"), odds_table(rows, caption, level=True)]
    if audit["acquisition"]:
        caption = "Share of AP among frontal images, patient-clustered 95 % interval"
        lines = [
            {
                "group": r["group"],
                "level": r["level"],
                "frontal images": r["images"],
                "AP": _interval(r, "share", ".1%"),
            }
            for r in audit["acquisition"]
        ]
        parts.append(fold("Who is X-rayed AP", table(pd.DataFrame(lines), caption=caption)))
    return parts


def odds_table(rows: Sequence[dict[str, Any]], caption: str, *, level: bool) -> Markup:
    """Crude and adjusted odds ratios."""
    lines = []
    for r in sorted(rows, key=lambda r: (r["p_adjusted"], -abs(r["odds_ratio"] - 1))):
        line: dict[str, Any] = {"finding": r["finding"]}
        line |= {"with": f"{r['group']} {r['level']}"} if level else {}
        line |= {
            "crude odds ratio": Cell(interval(r["crude"], r["crude_low"], r["crude_high"], ".2f"), r["crude"]),
            "adjusted": Cell(interval(r["odds_ratio"], r["ci_low"], r["ci_high"], ".2f"), r["odds_ratio"]),
            "for": r["adjusted_for"],
            "corrected p": r["p_adjusted"],
        }
        lines.append(line)
    return table(pd.DataFrame(lines), caption=caption, formats={"corrected p": ".3f"})


def measurable(audit: dict[str, Any], heat: Heat) -> list[Markup]:
    """Which gaps the test patients can show."""
    answer, question = audit["measurable"], audit["measurable"]["question"]
    if not answer["cells"]:
        return [paragraph("No group has two levels: there is no gap to measure.")]
    text = (
        f"Can an AUROC gap of {question['gap']:g} between a level (at {question['auroc'] - question['gap']:g}) and the "
        f"rest (at {question['auroc']:g}) be seen in the patients of {answer['rows']}, with {question['power']:.0%} "
        f"power at the {question['alpha']:.0%} level, looking once? A number is how many positive patients the cell "
        "still lacks, all else as it is; ✓ none; ×3: no number there is enough, because negatives or the rest are too "
        "few, and all test patients have to grow threefold; – nothing to grow. The darker, the more power. A patient "
        "counts once, however many images."
    )
    parts = [paragraph(text)]
    for group in dict.fromkeys(c["group"] for c in answer["cells"]):
        cells = [c for c in answer["cells"] if c["group"] == group]
        levels, findings = (list(dict.fromkeys(c[k] for c in cells)) for k in ("level", "finding"))
        at = {(c["finding"], c["level"]): c for c in cells}
        marks = [[_mark(at[f, level], question["power"]) for level in levels] for f in findings]
        shades = [[at[f, level]["power"] for level in levels] for f in findings]
        parts += [
            heading(f"By {group}"),
            heat(findings, levels, marks, shades, f"Positive patients lacking by {group}"),
        ]
        lines = [
            {
                "finding": c["finding"], "level": c["level"], "positive": c["positive"], "negative": c["negative"],
                "power": c["power"], "smallest gap": c["detectable"], "positives needed": c["positives_needed"],
                "or patients needed": c["patients_needed"], "both grown by": c["growth"],
                "positives needed, corrected": c["positives_needed_corrected"],
                "positive in train": c["positive_in_train"],
            }
            for c in cells
        ]  # fmt: skip
        counts = dict.fromkeys(("positives needed", "or patients needed", "positives needed, corrected"), ",d")
        caption = (
            "Needed: positive patients (negatives as they are), or patients of the level at its prevalence, or the "
            "factor by which all test patients grow; corrected: at the level that many looks leave. Smallest gap: seen "
            "with the power asked for"
        )
        formats = {**counts, "power": ".0%", "smallest gap": ".3f", "both grown by": ".2g"}
        parts.append(fold("All cells", table(pd.DataFrame(lines), caption=caption, formats=formats)))
    return parts


def images(audit: dict[str, Any]) -> list[Markup]:
    """Faulty pictures, near copies and doubtful labels."""
    looked = audit["images_looked_at"]
    if not looked:
        return [note("Images were not looked at for faults, near copies and doubtful labels.", "warning")]
    parts = []
    if looked["images"] < looked["of"]:
        parts.append(
            note(f"{looked['images']:,} of {looked['of']:,} images were looked at (--image-limit).", "warning")
        )
    return [*parts, *_faults(looked["faults"]), *_copies(looked["near_copies"]), *_labels(looked["label_noise"])]


def _faults(faults: dict[str, Any]) -> list[Markup]:
    counts, found = faults["counts"], faults["planted_found"]
    kinds = [*found, *(k for k in counts if k not in found)]
    lines = [
        {"fault": FAULT_WORDS.get(k, k), "images": counts.get(k, 0), "planted ones found": found.get(k)} for k in kinds
    ]
    text = (
        f"Of {faults['judged']:,} images that were compared. Each fault was planted in these very images, and a small "
        "classifier was asked about patients that it did not see: the last column is the share that it found. All that "
        f"it flags is {number(faults['most_false_alarms'], '.2%')} of the images, so its false alarms are at most "
        "that. faulty_images.csv lists them, the surest first. Blank images are found by rule."
    )
    if faults["mirrored_found_at_one_percent"] is not None:
        text += (
            " An image is listed as mirrored if that is likelier than not, were 0.5 % of the images mirrored; with 1 % "
            f"of false alarms {faults['mirrored_found_at_one_percent']:.0%} of mirrored images would be found."
        )
    return [
        heading("Faulty pictures"),
        paragraph(text),
        table(pd.DataFrame(lines), formats={"planted ones found": ".1%"}),
    ]


def _copies(copies: dict[str, Any] | None) -> list[Markup]:
    if copies is None:
        return [heading("Near copies"), paragraph("Not looked for: fewer than 100 images, or one patient.")]
    text = (
        f"{copies['pairs']:,} pairs of images of different patients agree more than {copies['cut']:.3f} once one is "
        f"laid on the other (mirrored, scaled, turned, shifted): {copies['across_splits']:,} lie in two splits, "
        f"{copies['different_labels']:,} have different labels. In {copies['compared']:,} images "
        f"{copies['expected_by_chance']:g} such pairs are expected by chance. near_copies.csv lists them."
    )
    return [heading("Near copies"), note(text, "warning") if copies["pairs"] else paragraph(text)]


def _labels(noise: dict[str, Any]) -> list[Markup]:
    text = (
        f"Labels that speak against their image, judged by {noise['extractor']} and a regression that did not see the "
        f"patient. doubtful_labels.csv lists {noise['candidates']:,}, the most doubtful first. At most "
        f"{noise['false_alarms']:.0%} of the right labels of a kind are listed, by construction. Found: of labels that "
        "were turned on purpose in a second fit, the share that was listed. Wrong among listed: what share of the list "
        f"would be wrong labels if {noise['supposed']:.0%} of these labels were wrong at random."
    )
    judged = [f for f in noise["findings"] if f["judged"]]
    rest = [f for f in noise["findings"] if not f["judged"]]
    parts = [heading("Doubtful labels"), paragraph(text), *_trust(noise)]
    lines = [
        {"finding": f["finding"], "AUROC": _interval(f, "auroc", ".2f"), "labelled": name,
         "labels": f[f"labels_{name}"], "listed": f[f"listed_{name}"], "found": f[f"found_{name}"],
         "wrong among listed": f[f"right_{name}"]}
        for f in judged
        for name in ("present", "absent")
    ]  # fmt: skip
    if lines:
        parts.append(table(pd.DataFrame(lines), formats={"found": ".0%", "wrong among listed": ".0%"}))
    if rest:
        reasons = pd.DataFrame([{"finding": f["finding"], "why not": f["why"]} for f in rest])
        parts.append(fold(f"{len(rest)} findings that could not be judged", table(reasons)))
    return parts


def _trust(noise: dict[str, Any]) -> list[Markup]:
    """How far the list can be trusted, as measured on these images."""
    if not noise["first"]:
        return []
    share = noise["first_turned"] / noise["first"]
    words = (
        "Most of what heads the list is worth correcting." if noise["first_low"] > 0.5
        else "Take it as a list to read, not to correct: many of these labels are right and their images hard."
        if share >= 0.2
        else "Hardly better than reading at random: the images say too little about these labels."
    )  # fmt: skip
    text = (
        f"How far to trust it: after {noise['planted']:.0%} of the positive labels and as many negative ones had been "
        f"turned on purpose, {noise['first_turned']} of the first {noise['first']} of the list were turned ones "
        f"({share:.0%} [{noise['first_low']:.0%}, {noise['first_high']:.0%}]). {words} With fewer wrong labels among "
        "these data fewer of the first will be wrong; nobody knows how many are before some have been read. Read the "
        "first twenty."
    )
    return [note(text, "warning")]


def _mark(cell: dict[str, Any], power: float) -> str:
    if cell["power"] >= power:
        return "✓"
    if cell["positives_missing"] is not None:
        return f"{cell['positives_missing']:,}"
    return "–" if cell["growth"] is None else f"×{cell['growth']:.2g}" if cell["growth"] < 100 else "×99+"


def _interval(row: dict[str, Any] | None, value: str, spec: str) -> Cell:
    if row is None or row[value] is None:
        return Cell("–", None)
    return Cell(interval(row[value], row["ci_low"], row["ci_high"], spec), row[value])
