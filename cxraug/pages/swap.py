"""The report of a swap as a page: what was done, what it is worth, what attackers find, what is not promised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from cxraug.pages.page import (
    bullets,
    facts,
    fold,
    interval,
    note,
    number,
    paragraph,
    render_page,
    section,
    table,
)
from cxraug.pages.plot import Interval, forest
from cxraug.pages.sheet import sheet

SHOWN = 24  # stand-ins on the page
MAIN = "macro"
ATTACK_COLUMNS = {
    "attack": "attack", "target": "on", "impostors": "against", "measure": "measure", "value": "value [95 %]",
    "n_pairs": "pairs", "n_patients": "patients", "flag": "flag", "method": "how",
}  # fmt: skip


def swap_page(swap: dict[str, Any], frame: pd.DataFrame, folder: Path) -> str:
    """Return ``swap`` (the content of ``swap.json``) as one offline HTML file.

    ``frame`` : manifest rows of the swapped set in ``folder``; the first images are shown, all of them synthetic.
    """
    parts = {
        "done": ("What was done", _done(swap)),
        "utility": ("What the swapped set is worth", _utility(swap)),
        "privacy": ("What attackers find", _privacy(swap)),
        "cells": ("Attributes that were kept", _cells(swap)),
        "reports": ("Reports", _reports(swap)),
        "images": ("Stand-ins", [sheet(folder, frame.drop_duplicates("study_id").head(SHOWN))]),
        "limits": ("What is not promised", [bullets(swap["not_promised"])]),
        "how": ("How it was made", _how(swap)),
    }
    body = Markup("").join(section(key, title, *content) for key, (title, content) in parts.items())
    subtitle = (
        f"{swap['swapped']:,} of {swap['studies']:,} studies, {swap['images']:,} synthetic images, "
        f"k = {swap['k']} patients, core {swap['core']['core']}, strength {swap['settings']['strength']}"
    )
    nav = [(key, title) for key, (title, _) in parts.items()]
    return render_page("Anonymisation swap", body, subtitle=subtitle, nav=nav)


def _done(swap: dict[str, Any]) -> list[Markup]:
    left = pd.DataFrame(swap["left_out"], columns=["reason", "studies"])
    read = swap["read_back"]
    parts = [
        facts(
            [
                ("studies swapped", f"{swap['swapped']:,} of {swap['studies']:,}"),
                ("synthetic images", f"{swap['images']:,}"),
                ("fewest patients behind a combination (k)", f"{swap['k']} (asked: {swap['k_asked']})"),
                ("splits swapped", ", ".join(swap["splits"])),
                ("real rows never written", f"{swap['rows_never_written']:,}"),
            ]
        ),
        paragraph(
            f"Before it was given out the set was read back: {read['images_read']:,} pictures and "
            f"{read['text_files_read']} other files, looked through for {read['original_strings_looked_for']:,} names "
            f"of the originals, {read['original_tiles_looked_for']:,} pieces of their pixels, and metadata. "
            "Nothing was found."
        ),
    ]
    parts += [table(left, caption="Studies left out, and why")] if len(left) else [paragraph("No study was left out.")]
    parts += [note(text) for text in swap["notes"]]
    return parts


def _utility(swap: dict[str, Any]) -> list[Markup]:
    rows = pd.DataFrame(swap["utility"])
    if rows.empty:
        return [paragraph("Not measured.")]
    whole = rows[(rows["group"] == "all") & rows["auroc"].notna()]
    if whole.empty:
        return [paragraph("Too few real test patients have any finding for an AUROC: nothing can be said.")]
    finding = MAIN if (whole["finding"] == MAIN).any() else None
    main = whole if finding is None else whole[whole["finding"] == finding]
    parts: list[Markup] = [paragraph(_sentence(row)) for _, row in main[main["arm"] == "swapped"].iterrows()]
    if (warning := _weak(main)) is not None:
        parts.append(note(warning, "bad"))
    parts.append(forest(_intervals(whole), what="AUROC on real test patients, as a ratio to training on real images",
                        reference=1.0))  # fmt: skip
    parts.append(table(_shown(whole), caption="Trained on each, tested on real patients"))
    groups = rows[(rows["group"] != "all") & (rows["arm"] == "swapped") & rows["auroc"].notna()]
    if len(groups):
        parts.append(fold("By group", table(_shown(groups), caption="Swapped against real, by group"), printed=True))
    suppressed = int(rows["auroc"].isna().sum() / max(rows["arm"].nunique(), 1))
    about = "Intervals are patient-clustered, over test patients and seeds, each at 95 % by itself."
    parts.append(
        paragraph(f"{about} {suppressed} cells hold too few patients and are left out." if suppressed else about)
    )
    return parts


def _sentence(row: Any) -> str:
    name = "on average over the findings" if row["finding"] == MAIN else f"for {row['finding']}"
    return (
        f"A classifier trained on the swapped set reaches {number(row['ratio'], '.1%')} of the AUROC of one trained on "
        f"the real images {name} (ratio {interval(row['ratio'], row['ratio_low'], row['ratio_high'])}; AUROC "
        f"{number(row['auroc'])} against {number(row['baseline_auroc'])})."
    )


def _weak(main: pd.DataFrame) -> str | None:
    """What to say where the classifier of the real images is no better than chance: then the ratio says nothing."""
    real = main[main["arm"] == "real"]
    if real.empty or not (real["auroc_low"] <= 0.5).any():
        return None
    row = real.iloc[0]
    return (
        f"The classifier trained on the real images is itself not shown to be better than chance (AUROC "
        f"{interval(row['auroc'], row['auroc_low'], row['auroc_high'])}), so this ratio says nothing about what the "
        "swapped set is worth: train longer (--train-steps), or bring more rows."
    )


def _intervals(rows: pd.DataFrame) -> list[Interval]:
    order = [MAIN, *sorted(set(rows["finding"]) - {MAIN})]
    return [
        Interval(row["arm"], row["ratio"], row["ratio_low"], row["ratio_high"], group=finding,
                 strong=row["arm"] == "swapped", few=row["flag"] == "few")
        for finding in order
        for _, row in rows[(rows["finding"] == finding) & rows["ratio"].notna()].iterrows()
    ]  # fmt: skip


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    def cut(name: str) -> Sequence[str]:
        low, high = f"{name}_low", f"{name}_high"
        spec = "+.3f" if name == "difference" else ".3f"
        return [interval(v, a, b, spec) for v, a, b in zip(rows[name], rows[low], rows[high], strict=True)]

    named = {"finding": rows["finding"].tolist(), "trained on": rows["arm"].tolist()}
    if (rows["group"] != "all").any():
        named = {"group": rows["group"].tolist(), "level": rows["level"].tolist(), **named}
    return pd.DataFrame({
        **named, "AUROC": cut("auroc"), "difference from real": cut("difference"), "ratio to real": cut("ratio"),
        "positive images": rows["n_pos"].tolist(), "test patients": rows["n_patients"].tolist(),
        "flag": rows["flag"].tolist(),
    })  # fmt: skip


def _privacy(swap: dict[str, Any]) -> list[Markup]:
    found = swap["attacks"]
    parts = [paragraph(text) for text in found.get("sentences", [])]
    if found.get("alarms"):
        parts.insert(0, note(f"Alarm: {', '.join(found['alarms'])}.", "bad"))
    rows = pd.DataFrame(found["rows"])
    triples = zip(rows["value"], rows["ci_low"], rows["ci_high"], strict=True)
    shown = rows.assign(value=[interval(*three) for three in triples]).drop(columns=["ci_low", "ci_high"])
    order = [name for name in ATTACK_COLUMNS if name in shown]
    known = shown[rows["value"].notna()]
    parts.append(table(known[order].rename(columns=ATTACK_COLUMNS), caption="Attacks, on real pairs first"))
    if len(known) < len(shown):
        rest = table(shown[rows["value"].isna()][order].rename(columns=ATTACK_COLUMNS))
        parts.append(fold(f"{len(shown) - len(known)} numbers that these patients are too few for", rest))
    parts += [note(text) for text in found.get("notes", [])]
    return parts


def _cells(swap: dict[str, Any]) -> list[Markup]:
    from cxraug.privacy.cells import STEPS

    cells, words = swap["cells"], dict(STEPS)
    steps = pd.DataFrame(
        [{"what was coarsened": words[name], "studies": count} for name, count in cells["steps"].items()]
    )
    lost = pd.DataFrame(list(cells["findings_made_absent"].items()), columns=["finding", "studies"])
    parts = [
        paragraph(
            f"Every combination of label set, sex, age band, race, source and views that is published has at least "
            f"{swap['k']} patients behind it, counted in the written files ({cells['published']:,} combinations). "
            "Studies in rarer ones were coarsened in the order below, or left out. Ages are the middle of their band; "
            "from 90 on all are one."
        ),
        table(steps, caption="Studies by what they needed; each line includes those above it"),
    ]
    if len(lost):
        parts.append(table(lost, caption="Findings that became absent because beside others they were too rare"))
    return parts


def _reports(swap: dict[str, Any]) -> list[Markup]:
    found = swap["reports"]
    if not found["reports"]:
        return [paragraph("No reports were published.")]
    return [
        paragraph(
            f"{found['reports']:,} new reports. A phrase is {found['words']} words in a row; one that the reports of "
            f"fewer than {found['fewer_than_patients']} patients have is rare. The new reports repeat "
            f"{number(found['mean'], '.2f')} rare phrases on average (at most {found['most']}; "
            f"{number(found['share_with_any'], '.1%')} repeat any); {number(found['limit'], '.1f')} were allowed, "
            "because that many are shared by real reports of different patients, unless set otherwise. Reports with "
            "what looks like a date, time, number, address or name were refused."
        )
    ]


def _how(swap: dict[str, Any]) -> list[Markup]:
    settings = {k: str(v) for k, v in swap["settings"].items() if k != "gate"}
    gate = swap["gate"]
    return [
        paragraph(
            f"{swap['candidates_tried']:,} candidates were judged. The gate rejects {gate['rejected']} of {gate['n']} "
            f"held-out real training images. New ids come from a key that is not in this set; the order of rows is "
            "that of the new ids."
        ),
        fold("Settings", facts(settings.items())),
    ]
