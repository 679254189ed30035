"""The fairness card of an audit: what was audited, on whom, results, gaps, what could be missed, limits (Markdown).

After the model cards of Mitchell et al. (2019, FAT*, arXiv 1810.03993), in the form of ``data_cards/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cxraug.evaluation.metrics import ANY_FINDING, MACRO
from cxraug.pages.gaps import alpha_of, missed, sentence, suppressed_places, unknown
from cxraug.pages.markdown import bullets, plain_text, table
from cxraug.pages.page import interval, number
from cxraug.pages.probes import ENCODING, probe_sentences
from cxraug.pages.runfolder import RunFolder, whole
from cxraug.pages.verdict import label

if TYPE_CHECKING:
    from cxraug.pages.answers import Answers

COLUMNS = ("auroc", "tpr", "fpr", "ece")
LIMITS = (
    "An audit shows gaps of the classifier on these patients. It does not say why they are there, nor what holds at "
    "another hospital.",
    "Labels were taken as given: if a group is labelled worse, its gap is wrong in a way that no number here shows.",
    "That no gap is shown is not fairness: gaps below the smallest detectable one, suppressed cells and groups that "
    "were not named are not judged.",
    "Groups are the columns that were given; people inside a level may differ as much as people of two levels.",
)


def fairness_card(run: RunFolder, answers: Answers) -> str:
    """The card as Markdown; names from the files are escaped and stay text."""
    parts = [
        "# Fairness card: audit of predictions",
        table(("", ""), _facts(run)),
        "## In short",
        f"**{plain_text(answers.heading)}.** {plain_text(answers.sentence)}",
        *(f"**{question}**\n\n{bullets(lines)}" for question, lines in answers.questions),
        "## On whom",
        table(("group", "level", "images", "patients"), _whom(run)),
        "## Results on the whole test set",
        *_results(run),
        "## Gaps found",
        bullets(_told(answers)) if answers.gaps else "No gap is shown. That is not the same as no gap.",
        "## What could have been missed",
        "The smallest gap that would have been found with 80 % power at the level adjusted for all gaps of the family.",
        table(("group", "metric", "gaps judged", "suppressed", "median", "largest"), _missed(run)),
    ]
    hidden = [
        f"{group} {level}: {', '.join(names)}" for group, level, names in suppressed_places(run)
    ]  # fmt: skip
    if hidden:
        parts += ["AUROC is suppressed (too few cases), so nothing is known, for:", bullets(hidden)]
    if encoded := probe_sentences(run):
        parts += ["## What the features encode", ENCODING, bullets(encoded)]
    parts += ["## Limits", bullets(LIMITS)]
    if notes := [str(text) for text in run.evaluation.get("notes") or []]:
        parts += ["Notes of this evaluation:", bullets(notes)]
    parts += ["## Method", bullets(str(text) for text in run.evaluation.get("methods") or [])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _told(answers: Answers) -> list[str]:
    several = len({gap.row["arm"] for gap in answers.gaps}) > 1
    return [(f"{gap.row['arm']}: " if several else "") + sentence(gap) for gap in answers.gaps]


def _facts(run: RunFolder) -> list[tuple[str, ...]]:
    info = run.evaluation
    settings = info.get("settings") or {}
    files = [
        f"{Path(str(f.get('file', ''))).name} (sha256 {str(f.get('sha256', ''))[:12]})" for f in info.get("files") or []
    ]
    runs = info.get("runs") or []
    rows = [
        (
            "What",
            "Predictions of " + ", ".join(dict.fromkeys(str(r.get("arm")) for r in runs)) + f", {len(runs)} run(s)",
        ),
        ("Files", ", ".join(files)),
        ("Findings", ", ".join(map(str, info.get("findings") or []))),
        ("Test set", f"{number(info.get('n_images'), ',d')} images of {number(info.get('n_patients'), ',d')} patients"),
        ("Groups", ", ".join(settings.get("groups") or []) or "none"),
        ("Thresholds", str(info.get("threshold_source", ""))),
        (
            "Level",
            f"{100 * (1 - alpha_of(run)):g} % intervals, patient-clustered; gaps simultaneous per metric and grouping",
        ),
        (
            "Given from",
            f"{settings.get('min_cell', 10)} images and patients; flagged few below {settings.get('few', 50)}",
        ),
        ("Made by", "`cxraug evaluate`, cxraug " + str((info.get("versions") or {}).get("cxraug", ""))),
    ]
    return [(name, text if name == "Made by" else plain_text(text)) for name, text in rows if text]


def _whom(run: RunFolder) -> list[tuple[str, ...]]:
    """Images and patients per level: the largest of the findings' counts."""
    if run.cells.empty:
        return []
    rows = whole(run.cells)
    rows = rows[(rows["finding"] != MACRO) & rows["metric"].isin(["auroc", "tpr", "brier", "ece"])]
    counts = rows.groupby(["group", "level"], sort=False)[["n", "n_patients"]].max()
    least = int((run.evaluation.get("settings") or {}).get("min_cell", 10))
    found: list[tuple[str, ...]] = []
    for row in counts.reset_index().to_dict("records"):
        group, level = row["group"], row["level"]
        small = min(row["n"], row["n_patients"]) < least
        texts = (f"fewer than {least}",) * 2 if small else (number(row["n"], ",d"), number(row["n_patients"], ",d"))
        found.append((plain_text(group), plain_text(level) + (" (not known)" if unknown(level) else ""), *texts))
    return found


def _results(run: RunFolder) -> list[str]:
    if run.cells.empty:
        return ["No metric was measured."]
    rows = whole(run.cells)
    rows = rows[(rows["group"] == "all") & (rows["finding"] != ANY_FINDING)]
    metrics = [name for name in COLUMNS if (rows["metric"] == name).any()]
    arms, parts = list(dict.fromkeys(rows["arm"])), []
    for arm in arms:
        part = rows[rows["arm"] == arm]
        lines = []
        for finding in dict.fromkeys(part["finding"]):
            cells = {r["metric"]: r for r in part[part["finding"] == finding].to_dict("records")}
            lines.append((plain_text(finding), *(_value(cells.get(name)) for name in metrics)))
        if len(arms) > 1:
            parts.append(f"### {plain_text(arm)}")
        parts.append(table(("finding", *(label(name) for name in metrics)), lines))
    return parts


def _value(row: dict | None) -> str:
    if row is None:
        return ""
    if row["flag"] == "suppressed":
        return "suppressed"
    return interval(row["value"], row["ci_low"], row["ci_high"]) + (" (few)" if row["flag"] == "few" else "")


def _missed(run: RunFolder) -> list[tuple[str, ...]]:
    return [
        (plain_text(row["group"]), label(row["metric"]), str(row["shown"]), str(row["suppressed"]), number(row["mdg"]),
         number(row["most"]))
        for row in missed(run).to_dict("records")
    ]  # fmt: skip
