"""The page of a privacy audit: what was attacked, first on real pairs, and what is not promised. It shows no image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from cxraug.errors import InputError
from cxraug.pages import plot
from cxraug.pages.page import Cell, blocks, bullets, facts, figure, fold, interval, note, render_page, section
from cxraug.pages.page import table as html_table
from cxraug.privacy.attacks import RESULT
from cxraug.privacy.linkage import MATCHED_ON
from cxraug.privacy.reidentification import ATTRIBUTES, REIDENTIFICATION
from cxraug.storage import atomic, read_json

PAGE = "privacy.html"
REAL = "real pairs"


def write_privacy_page(folder: str | Path) -> Path:
    """Write ``privacy.html`` into the folder of an audit and return its path; the same folder, the same bytes.

    No image is shown and no real image or patient is named. Raises :class:`InputError` if ``folder`` holds no audit.
    """
    folder = Path(folder)
    found = read_json(folder / RESULT)
    if not isinstance(found, dict) or not {"rows", "sentences", "not_promised"} <= set(found):
        raise InputError("not the result of a privacy audit", file=folder / RESULT)
    rows = pd.DataFrame(found["rows"])
    linkage = rows["attack"].isin([REIDENTIFICATION, ATTRIBUTES])
    sections = {
        "summary": _summary(found), "real": _real(rows[linkage & (rows["target"] == REAL)]),
        "synthetic": _synthetic(rows[linkage & (rows["target"] != REAL)]),
        "membership": _membership(rows[rows["attack"] == "membership"], found),
        "closest": _closest(rows[rows["attack"].isin(["closest record", "memorisation"])]),
        "promised": _not_promised(found), "method": _method(found, rows),
    }  # fmt: skip
    names = {
        "summary": "In short", "real": "The attack on real pairs", "synthetic": "The attack on synthetic images",
        "membership": "Membership in the training set", "closest": "Closest records and copies",
        "promised": "What is not promised", "method": "Method and settings",
    }  # fmt: skip
    counts = found["counts"]
    subtitle = f"{counts['synthetic_images']} synthetic images, {counts['real_images']} real images of "
    subtitle += f"{counts['real_patients']} patients"
    nav = [(key, names[key]) for key, part in sections.items() if part]
    html = render_page("Privacy: who can be found?", blocks(sections.values()), subtitle=subtitle, nav=nav)
    with atomic(folder / PAGE) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return folder / PAGE


def _summary(found: dict[str, Any]) -> Markup:
    alarms = found["alarms"]
    verdict = (
        note(f"Alarm: {', '.join(alarms)}.", "bad") if alarms else
        note("No alarm among the attacks that were tried. This is no proof of anonymity.")
    )  # fmt: skip
    return section("summary", "In short", verdict, bullets(found["sentences"]), bullets(found["notes"]))


def _real(rows: pd.DataFrame) -> Markup:
    lead = (
        "An attack that fails on real pairs proves nothing about synthetic images. So it is first tried on two real "
        "images of one patient, by networks that have not seen that patient."
    )
    return section("real", "The attack on real pairs", _linkage(rows), lead=lead)


def _synthetic(rows: pd.DataFrame) -> Markup:
    linked = (rows["measure"] == "auc").any()
    lead = (
        "The same attack, from each synthetic image to the real one that it stands in for, against the originals of "
        "other patients." if linked else
        "No links from synthetic images to originals were given, so it is counted how many resemble a real patient."
    )  # fmt: skip
    return section("synthetic", "The attack on synthetic images", _linkage(rows), lead=lead)


def _linkage(rows: pd.DataFrame) -> Markup:
    marks = [
        plot.Interval(
            f"{row['attack']} ({row['impostors']} impostors)", row["value"], row["ci_low"], row["ci_high"],
            note=row["method"], strong=row["impostors"] == "matched", few="few" in row["flag"],
        )
        for row in _records(rows[rows["measure"] == "auc"])
    ]  # fmt: skip
    picture = Markup("")
    if marks:
        caption = (
            f"AUC with its 95 % interval; 0.5 is chance. Matched impostors share {MATCHED_ON} with the target, so what "
            "is left is the person. Unmatched ones show what attributes alone give away: a swap keeps them by design."
        )
        picture = figure(plot.forest(marks, what="AUC", reference=0.5, unit_range=(0, 1)), caption)
    return blocks([picture, _table(rows)])


def _membership(rows: pd.DataFrame, found: dict[str, Any]) -> Markup:
    counts = found["counts"]
    lead = (
        f"Are the {counts['members']} real images that the core was trained on ({counts['members_by']}) told from the "
        f"{counts['non_members']} others?"
    )
    return section("membership", "Membership in the training set", _table(rows), note(f"Rule: {found['rule']}."),
                   lead=lead)  # fmt: skip


def _closest(rows: pd.DataFrame) -> Markup:
    lead = "Do synthetic images lie closer to training images than chance allows?"
    return section("closest", "Closest records and copies", _table(rows), lead=lead)


def _not_promised(found: dict[str, Any]) -> Markup:
    return section("promised", "What is not promised", bullets(found["not_promised"]))


def _method(found: dict[str, Any], rows: pd.DataFrame) -> Markup:
    settings, real = found["settings"], found["facts"].get(REAL, {})
    core = found["core"]
    pairs = [
        ("Core", "not named" if core is None else f"{core['name']} {core['version']} ({core['sha256'][:12]})"),
        ("Attackers, fold by fold", ", ".join(real.get("attackers", []))),
        ("Networks", ", ".join(sha[:12] for sha in real.get("networks", [])) or "none"),
        ("Steps of each", str(settings["steps"])), ("Pixels", str(settings["size"])),
        ("Extractor of distances", f"{found['extractor']['name']} ({found['extractor']['sha256'][:12]})"),
        ("Seed", str(settings["seed"])), ("cxraug", found["version"]),
    ]  # fmt: skip
    alone = [f"{name}: {interval(value, None, None).removesuffix(' [no interval]')}"
             for name, value in real.get("auc_of_each_attacker", {}).items()]  # fmt: skip
    lines = [
        "Every patient is attacked by a network that was trained on other patients only. Of the attackers a fold uses "
        "the one that is best on the real pairs of the other folds.",
        "Intervals are clustered by patient, wherever a patient stands in a pair.",
        "A rate at a fixed false-match or false-positive rate is printed only where the number of impostors or "
        "non-members resolves it.",
    ]
    methods = dict.fromkeys(f"{a}, {m}: {how}" for a, m, how in zip(rows["attack"], rows["measure"], rows["method"],
                                                                   strict=True))  # fmt: skip
    return section(
        "method", "Method and settings", facts(pairs), bullets(lines),
        fold("AUC of each attacker alone on the real pairs", bullets(alone)) if alone else "",
        fold("How each row was measured", bullets(methods)),
    )  # fmt: skip


def _table(rows: pd.DataFrame) -> Markup:
    cells = [
        Cell(interval(row["value"], row["ci_low"], row["ci_high"]).removesuffix(" [no interval]"), row["value"])
        for row in _records(rows)
    ]
    shown = pd.DataFrame(
        {
            "attack": rows["attack"], "target": rows["target"], "impostors": rows["impostors"],
            "measure": rows["measure"], "value [95 %]": cells, "pairs or images": rows["n_pairs"],
            "patients": rows["n_patients"], "flag": rows["flag"].str.replace("|", ", "),
        }
    )  # fmt: skip
    return html_table(shown)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries in which a missing number is None."""
    return rows.astype(object).where(rows.notna(), None).to_dict("records")  # type: ignore[return-value]
