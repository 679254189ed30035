"""What the gate did, as a page beside the set: to real images, to synthetic ones, and to whom it was unfair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

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
from cxraug.pages.sheet import is_copy, refuse_real, sheet
from cxraug.storage import atomic

PAGE = "gate.html"
SHOWN = 24  # images of a sheet
SHEET_BYTES = 700_000
WHAT = {
    "duplicates": "copies of training images, and of each other",
    "agreement": "classifiers see the findings asked for, and no others",
    "demographics": "looks like the sex, age and race asked for",
    "realism": "no stranger than real images are",
    "reports": "the report does not contradict what was asked for",
}


def write_gate_page(folder: Path, frame: pd.DataFrame, summary: Mapping[str, Any]) -> Path:
    """Write ``gate.html`` into the set's ``folder``; ``frame`` are its manifest rows, ``summary`` is ``gate.json``.

    Only synthetic images are shown, and none that was rejected as a copy; no real image is named.
    """
    path = Path(folder) / PAGE
    text = gate_page(folder, frame, summary)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def gate_page(folder: Path, frame: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    """The page as one offline HTML file."""
    refuse_real(frame, folder / "manifest.parquet")
    parts = {
        "real": ("What it does to real images", _real(summary)),
        "why": ("What was rejected, and why", _why(summary)),
        "findings": ("By finding", _findings(summary)),
        "groups": ("By group: is the gate fair?", _groups(summary)),
        "copies": ("Closest to a training image", _copies(summary)),
        "sheets": ("Synthetic images", _sheets(folder, frame)),
        "notes": ("Notes", [bullets(_sentence(text) for text in summary["notes"])]),
        "how": ("How it judges", _how(summary)),
    }
    body = Markup("").join(section(key, title, *content) for key, (title, content) in parts.items())
    subtitle = (
        f"{summary['accepted']:,} of {summary['total']:,} synthetic images accepted, "
        f"{summary['redrawn']:,} prompts drawn again"
    )
    return render_page("Gate", body, subtitle=subtitle, nav=[(key, title) for key, (title, _) in parts.items()])


def _real(summary: Mapping[str, Any]) -> list[Markup]:
    real, lines = summary["real"], []
    for name, part in real["checks"].items():
        lines.append(
            {"check": name, "judges": WHAT.get(name, ""), "real images judged": part["asked"],
             "rejected": part["rejected"], "by this check alone": part["alone"], "false-reject rate": _rate(part),
             "level": _levels(name, summary)}
        )  # fmt: skip
    lines.append(
        {"check": "all together", "judges": f"budget {number(real['budget'], '.1%')}", "real images judged": real["n"],
         "rejected": real["rejected"], "by this check alone": None, "false-reject rate": _rate(real), "level": None}
    )  # fmt: skip
    within = summary["fairness"]["calibrated_within"]
    return [
        paragraph(
            "An image is rejected by one check or another, so one budget of falsely rejected real images covers them "
            "all. Each real training image was judged by networks and distances that had not seen its patient."
            + (f" Cut-offs were chosen within each level of {within}." if within else "")
        ),
        table(
            pd.DataFrame(lines),
            caption="Held-out real training images that the gate rejects",
            strong=[False] * (len(lines) - 1) + [True],
        ),
    ]


def _why(summary: Mapping[str, Any]) -> list[Markup]:
    draws = summary["draws"]
    first, n = draws[0], max(draws[0]["images"], 1)
    checks = [
        {"check": name, "rejected at the first draw": first["checks"].get(name, 0),
         "share": first["checks"].get(name, 0) / n,
         "real images, for comparison": summary["real"]["checks"][name]["rate"]}
        for name in summary["real"]["checks"]
    ]  # fmt: skip
    parts = [
        facts(
            (f"draw {draw['draw'] + 1}", f"{draw['rejected']:,} of {draw['images']:,} images rejected")
            for draw in draws
        ),
        table(
            pd.DataFrame(checks), caption="Synthetic images per check, first draw",
            formats={"share": ".1%", "real images, for comparison": ".1%"},
        ),
    ]  # fmt: skip
    reasons = [
        {
            "reason": reason,
            "first draw": first["reasons"].get(reason, 0),
            "at the end": summary["reasons"].get(reason, 0),
        }
        for reason in sorted({*first["reasons"], *summary["reasons"]})
    ]
    if not reasons:
        return [*parts, paragraph("No image was rejected.")]
    frame = pd.DataFrame(reasons).sort_values(["first draw", "reason"], ascending=[False, True], kind="stable")
    return [*parts, table(frame, caption="Images per reason; an image can have several")]


def _findings(summary: Mapping[str, Any]) -> list[Markup]:
    seen = summary["checks"].get("agreement", {}).get("findings", {})
    tests = summary["real"]["tests"]
    lines = []
    for finding in sorted({*summary["studies"]["findings"], *seen}):
        part, judge = summary["studies"]["findings"].get(finding), seen.get(finding, {})
        area = interval(judge.get("auroc"), judge.get("auroc_low"), judge.get("auroc_high"))
        lines.append(
            {"finding": finding, "asked for": part["n"] if part else 0,
             "accepted first": _accepted(part) if part else None,
             "at the end": part["rate"] if part else None,
             "classifier's AUROC": Cell(area, judge.get("auroc")),
             "real with it": _tested(tests.get(f"{finding} present")),
             "real without it": _tested(tests.get(f"{finding} absent"))}
        )  # fmt: skip
    return [
        table(
            pd.DataFrame(lines), formats={"at the end": ".1%"},
            caption="Studies per claimed finding, 95 % intervals; real images with and without it that are rejected",
        )
    ]  # fmt: skip


def _groups(summary: Mapping[str, Any]) -> list[Markup]:
    fairness = summary["fairness"]
    real = {(row["group"], row["level"]): row for row in fairness["real"]}
    synthetic = {(row["group"], row["level"]): row for row in fairness["synthetic"]}
    lines = [
        {"group": group, "level": level, **_fair("real", real.get((group, level))),
         **_fair("synthetic", synthetic.get((group, level)))}
        for group, level in dict.fromkeys([*real, *synthetic])
    ]  # fmt: skip
    if not lines:
        return [paragraph("No group was named.")]
    worse = [text for text in summary["notes"] if "is rejected more" in text]
    told = [note(_sentence(text), "warning") for text in worse] or [
        paragraph("No level of a group is rejected more than the others after correction for many looks.")
    ]
    within = fairness["calibrated_within"]
    hint = (
        f"Cut-offs were chosen within each level of {within}."
        if within
        else "Calibration within a group (--per-group, gate.per_group) gives each of its levels one false-reject rate."
    )
    return [
        *told,
        paragraph(
            "Rejection with 95 % intervals (clustered by patient); p against the other levels, corrected (Holm) over "
            "the table. Real images show what the gate does to people; synthetic studies, at the first draw and among "
            f"equal requests, also what the core does. {hint}"
        ),
        table(pd.DataFrame(lines), caption="Rejected per level: real images, synthetic studies"),
    ]


def _copies(summary: Mapping[str, Any]) -> list[Markup]:
    copies, closest = summary["checks"].get("duplicates"), summary.get("closest") or []
    if copies is None or not closest:
        return [paragraph("Copies were not looked for.")]
    lines = [
        {"prompt": pair["prompt_id"], "view": pair["view"], "correlation": pair["correlation"], "verdict": pair["gate"]}
        for pair in closest
    ]
    cut = copies.get("cutoff")
    told = "No cut-off could be set." if cut is None else f"Above {number(cut)} an image counts as a copy."
    return [
        paragraph(f"{told} Which training image is the nearest is not told: no real image is named here."),
        fold(f"The {len(lines)} closest", table(pd.DataFrame(lines)), opened=len(lines) <= 5),
    ]


def _sheets(folder: Path, frame: pd.DataFrame) -> list[Markup]:
    accepted, rejected = frame[frame["gate"] == "accept"], frame[frame["gate"] == "reject"]
    parts = [
        paragraph("Every image here was generated; none shows a real patient. The first ones in the order asked for.")
    ]
    parts += [heading("Accepted")]
    parts += [sheet(folder, accepted.head(SHOWN), budget=SHEET_BYTES)] if len(accepted) else [paragraph("None.")]
    parts += [heading("Rejected")]
    copy = is_copy(rejected)
    shown = rejected[~copy].head(SHOWN)
    if len(shown):
        why = shown.assign(_why=shown["gate_reasons"].str.replace("|", "; ", regex=False))
        parts.append(sheet(folder, why, budget=SHEET_BYTES, extra="_why"))
    elif not copy.any():
        parts.append(paragraph("None."))
    if copy.any():
        parts.append(
            note(f"{int(copy.sum())} images rejected as copies are not shown: they may be as good as real ones.")
        )
    return parts


def _how(summary: Mapping[str, Any]) -> list[Markup]:
    checks, lines = summary["checks"], []
    readers = checks.get("agreement", checks.get("demographics", {})).get("model", [])
    for reader in readers:
        lines.append(
            f"{reader['model']} ({reader['folds']} fold{'s' if reader['folds'] > 1 else ''}) reads "
            f"{', '.join(reader['outputs'])}."
        )
    lines += [f"{name}: {part['statistic']}." for name, part in checks.items() if part.get("statistic")]
    if "realism" in checks:
        features = checks["realism"]["features"]
        lines.append(f"Realism is measured in the features of {features['name']}: {features['note']}.")
    attributes = [
        {"attribute": name, "read on real images": _read(part), "note": part["note"]}
        for name, part in checks.get("demographics", {}).get("attributes", {}).items()
    ]
    parts = [bullets(_sentence(line) for line in lines)]
    if attributes:
        parts.append(table(pd.DataFrame(attributes), caption="How well attributes are read on held-out real images"))
    settings = pd.DataFrame([{"setting": k, "value": str(v)} for k, v in summary["settings"].items()])
    return [*parts, fold("Settings", table(settings))]


def _rate(part: Mapping[str, Any]) -> Cell:
    return Cell(interval(part["rate"], part["ci_low"], part["ci_high"], ".1%"), part["rate"])


def _accepted(part: Mapping[str, Any]) -> Cell:
    share = part["accepted_first"] / part["n"] if part["n"] else None
    return Cell(interval(share, part["first_low"], part["first_high"], ".1%"), share)


def _levels(check: str, summary: Mapping[str, Any]) -> str:
    """The range of the levels at which a check's tests reject."""
    mine = [test["level"] for test in summary["real"]["tests"].values() if test["check"] == check]
    if not mine:
        return "abstains"
    if not max(mine):
        return "not calibrated"
    low, high = number(min(mine), ".2%"), number(max(mine), ".2%")
    return low if low == high else f"{low} to {high}"


def _tested(test: Mapping[str, Any] | None) -> Cell:
    if test is None:
        return Cell("not judged", None)
    share = test["rejected"] / test["asked"] if test["asked"] else None
    return Cell(f"{test['rejected']:,} of {test['asked']:,}", share)


def _fair(what: str, row: Mapping[str, Any] | None) -> dict[str, Any]:
    if row is None:
        return {what: None, f"{what} rejected": None, f"p, {what}": None}
    p = row["p_adjusted"]
    told = "few" if row["flag"] else number(p) if p is None or p >= 0.001 else "< 0.001"
    return {what: row["n"], f"{what} rejected": _rate(row), f"p, {what}": Cell(told, p)}


def _read(part: Mapping[str, Any]) -> str:
    if part.get("correlation") is not None:
        return "correlation " + interval(part["correlation"], part["correlation_low"], part["correlation_high"], ".2f")
    areas: Sequence[tuple[str, Mapping[str, Any]]] = list((part.get("auroc") or {}).items())
    return "; ".join(f"AUROC of {k} " + interval(v["auroc"], v["auroc_low"], v["auroc_high"], ".2f") for k, v in areas)


def _sentence(text: str) -> str:
    return (text[:1].upper() + text[1:]).rstrip(".") + "."
