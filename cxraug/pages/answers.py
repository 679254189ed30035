"""The four questions that an audit of predictions answers first, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cxraug.evaluation.metrics import ANY_FINDING, MACRO, NO_FINDING
from cxraug.pages.gaps import (
    Row,
    ShownGap,
    alpha_of,
    distinct_gaps,
    missed,
    people,
    sentence,
    short,
    shown_gaps,
    suppressed_places,
)
from cxraug.pages.page import interval, number
from cxraug.pages.runfolder import RunFolder, whole
from cxraug.pages.verdict import label

THRESHOLDED = ("tpr", "fpr", "underdiagnosis", "overdiagnosis")
MOST = 4  # gaps on the first screen
NEAR = 0.05  # the AUROC gap that is used to say how many patients would be needed


@dataclass(frozen=True)
class Answers:
    """What the first screen says: a heading, one sentence, a list per question, and the gaps behind them.

    ``tone`` is ``bad`` where a gap to somebody's disadvantage is shown, ``warn`` where there are hints of one or no gap
    was judged, and ``quiet`` otherwise: an audit never proves that there is no gap.
    """

    heading: str
    sentence: str
    tone: str
    how_good: list[str]
    for_whom_worse: list[str]
    how_sure: list[str]
    what_to_do: list[str]
    gaps: list[ShownGap]

    @property
    def questions(self) -> list[tuple[str, list[str]]]:
        """The questions with their answers, in order."""
        return [
            ("How good is it?", self.how_good),
            ("For whom is it worse?", self.for_whom_worse),
            ("How sure is that?", self.how_sure),
            ("What to do", self.what_to_do),
        ]

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        rows = [
            {**dict(gap.row), "worse": gap.worse, "hint": gap.hint, "sentence": sentence(gap)}
            for gap in self.gaps
        ]  # fmt: skip
        texts = {"how_good": self.how_good, "for_whom_worse": self.for_whom_worse,
                 "how_sure": self.how_sure, "what_to_do": self.what_to_do}  # fmt: skip
        return {"heading": self.heading, "sentence": self.sentence, **texts, "shown_gaps": rows}


def answers_of(run: RunFolder) -> Answers:
    """Answer the four questions from the tables of an evaluation."""
    gaps = shown_gaps(run)
    worse = [gap for gap in gaps if gap.worse and not gap.hint]
    hints = [gap for gap in gaps if gap.worse and gap.hint]
    rows = distinct_gaps(run.gaps)
    judged = int((rows["flag"] != "suppressed").sum()) if len(rows) else 0
    if worse:
        heading = f"{len(worse)} gap{'s' if len(worse) > 1 else ''} to a group's disadvantage"
        told, tone = f"Worse for some, most clearly {short(worse[0])}.", "bad"
    elif hints:
        heading, tone = f"{len(hints)} hint{'s' if len(hints) > 1 else ''} of a gap, from few cases", "warn"
        told = f"Most clearly {short(hints[0])}: too few cases to say that it is there."
    elif judged:
        heading, tone = "No gap to a group's disadvantage is shown", "quiet"
        told = " ".join(["That no gap is shown does not mean that there is none.", *_missable(run)[:1]])
    else:
        heading, tone = "No gap was judged", "warn"
        told = "No group was compared, or every group is too small." if len(rows) else "No group was asked for."
    return Answers(
        heading, told, tone, _how_good(run), _for_whom(worse, hints), _how_sure(run, gaps), _do(run, gaps), gaps
    )


def _how_good(run: RunFolder) -> list[str]:
    if run.cells.empty:
        return ["No metric was measured."]
    rows = whole(run.cells)
    rows = rows[(rows["group"] == "all") & (rows["flag"] != "suppressed")]
    arms = list(dict.fromkeys(rows["arm"]))
    lines = []
    for arm in arms:
        part = rows[(rows["arm"] == arm) & (rows["metric"] == "auroc")]
        name = f"{arm}: " if len(arms) > 1 else ""
        macro = part[part["finding"] == MACRO].to_dict("records")
        single = part[~part["finding"].isin([MACRO, ANY_FINDING, NO_FINDING])].sort_values("value").to_dict("records")
        for row in macro:
            lines.append(f"{name}mean AUROC {_value(row)} over {len(single)} findings{_single_runs(run, row, '.3f')}.")
        if single:
            last, first = single[0], single[-1]
            ends = [f"best {first['finding']} {_value(first)}", f"worst {last['finding']} {_value(last)}"]
            lines.append(f"{name}{'; '.join(ends if len(single) > 1 else ends[:1])}.")
        for row in rows[(rows["arm"] == arm) & (rows["metric"] == "underdiagnosis")].to_dict("records"):
            share = interval(100 * row["value"], 100 * row["ci_low"], 100 * row["ci_high"], ".1f")
            called = f"of the sick, {share} % are called healthy (underdiagnosis)"
            lines.append(f"{name}{called}{_single_runs(run, row, '.1%')}.")
    return [line[:1].upper() + line[1:] if len(arms) == 1 else line for line in lines] or ["No AUROC was measured."]


def _single_runs(run: RunFolder, row: Row, spec: str) -> str:
    """Between which values the single runs of an arm lie."""
    same = (run.cells["seed"] != "all") | (run.cells["draw"] != "all")
    for key in ("arm", "finding", "group", "level", "metric"):
        same &= run.cells[key] == row[key]
    values = run.cells.loc[same, "value"]
    if len(values) < 2:
        return ""
    return f"; {len(values)} runs from {number(values.min(), spec)} to {number(values.max(), spec)}"


def _value(row: dict) -> str:
    return interval(row["value"], row["ci_low"], row["ci_high"]) + (", few cases" if row["flag"] == "few" else "")


def _for_whom(worse: list[ShownGap], hints: list[ShownGap]) -> list[str]:
    lines = [short(gap) for gap in worse[:MOST]] or ["For nobody that could be shown."]
    if len(worse) > MOST:
        lines.append(f"And {len(worse) - MOST} more, each with its sentence below.")
    if hints:
        more = f" and {len(hints) - 1} more" if len(hints) > 1 else ""
        lines.append(f"Hints, from few cases: {short(hints[0])}{more}.")
    return lines


def _how_sure(run: RunFolder, gaps: list[ShownGap]) -> list[str]:
    rows = distinct_gaps(run.gaps)
    if rows.empty:
        return ["Nothing was compared."]
    alpha = alpha_of(run)
    judged, firm = rows[rows["flag"] != "suppressed"], [gap for gap in gaps if not gap.hint]
    families = len(judged[["arm", "family"]].drop_duplicates())
    showing = len({(gap.row["arm"], gap.row["family"]) for gap in firm})
    lines = [
        f"{len(firm)} of {len(judged):,} gaps are shown (adjusted p at most {alpha:g}). Intervals and p values hold "
        f"together over each family (one metric and grouping): {showing} of {families} families show one, where about "
        f"{number(alpha * families, '.1f')} would if there were no gap at all."
    ]
    if len(gaps) > len(firm):
        lines.append(f"{len(gaps) - len(firm)} more rest on few cases, where small p come too often: hints.")
    raw = [gap for gap in firm if gap.raw is not None and gap.row["matched"] == ""]
    stand = sum(gap.matched is not None and gap.matched["p_adjusted"] <= alpha for gap in raw)
    if raw:
        which = (
            f"Of {len(raw)} raw gaps {stand} stand" if len(raw) > 1 else f"The raw gap {'stands' if stand else 'goes'}"
        )
        lines.append(f"{which} at the same mix of the other covariates.")
    lines += _missable(run)[:2]
    if len(run.evaluation.get("runs") or []) == 1:
        lines.append("One training: whether another seed gives the same was not assessed.")
    return lines


def _missable(run: RunFolder) -> list[str]:
    """Per grouping, up to which size this audit could have missed an AUROC gap."""
    lines = []
    for row in missed(run, ("auroc",)).to_dict("records"):
        if not row["shown"]:
            lines.append(f"AUROC by {row['group']}: every gap is suppressed, so nothing is known.")
            continue
        hidden = f"; {row['suppressed']} more suppressed" if row["suppressed"] else ""
        lines.append(
            f"AUROC gaps by {row['group']} of up to {number(row['mdg'], '.2f')} could have been missed (80 % power, "
            f"median of {row['shown']}{hidden})."
        )
    return lines


def _do(run: RunFolder, gaps: list[ShownGap]) -> list[str]:
    """Steps that follow from what was found, the most pressing first."""
    alpha, worse, lines = alpha_of(run), [gap for gap in gaps if gap.worse], []
    ranked = {(g.row["finding"], g.row["group"], g.row["level"]) for g in worse if g.row["metric"] == "auroc"}
    seen: set[str] = set()

    def say(kind: str, text: str) -> None:
        if kind not in seen:
            seen.add(kind)
            lines.append(text)

    for gap in worse:
        row = gap.row
        who, place = people(row["group"], row["level"]), (row["finding"], row["group"], row["level"])
        fell = gap.matched is not None and gap.matched["p_adjusted"] > alpha
        if row["metric"] == "auroc":
            say("rank", f"{row['finding']} in {who}: the ranking itself is worse. Look at labels and images, then "
                "train with more of them (“cxraug plan” says how many).")  # fmt: skip
        elif "cut" not in seen and row["metric"] in THRESHOLDED and place not in ranked:
            say("cut", f"{row['finding']} in {who}: no AUROC gap is shown there{_unseen(run, row)}, so the "
                "threshold may sit differently for them. See the curves; recalibrate before retraining.")  # fmt: skip
        if row["matched"] == "" and fell:
            say("mix", "A gap that goes at the same mix of the other covariates may be theirs, not the group's.")
        if gap.hint:
            say("few", f"Collect more cases before acting on gaps with few ({row['finding']} in {who}).")
    if any(not gap.hint for gap in worse):
        lines.append("Confirm on other patients before acting.")
    hidden = suppressed_places(run)
    if hidden:
        hidden.sort(key=lambda place: -len(place[2]))
        names = "; ".join(f"{people(group, level)} ({len(found)} findings)" for group, level, found in hidden[:2])
        lines.append(
            f"Collect test cases where nothing can be said: {names}{' and others' if len(hidden) > 2 else ''}."
        )
    if not worse:
        wide = missed(run, ("auroc",))
        wide = wide[wide["mdg"] > NEAR]
        for row in wide.head(1).to_dict("records"):
            times = number((row["mdg"] / NEAR) ** 2, ".1f")
            lines.append(
                f"To see {label('auroc')} gaps of {NEAR} by {row['group']}, test about {times} times the patients."
            )
        lines.append("Do not report this as “fair”: report what could have been missed.")
    return lines


def _unseen(run: RunFolder, row: Row) -> str:
    """How large an AUROC gap could have been missed where ``row`` shows a gap of a rate."""
    rows = whole(run.gaps)
    rows = rows[(rows["metric"] == "auroc") & (rows["matched"] == "") & (rows["flag"] != "suppressed")]
    for key in ("arm", "finding", "group", "level"):
        rows = rows[rows[key] == row[key]]
    return f" (one of up to {number(rows['mdg'].iloc[0], '.2f')} could have been missed)" if len(rows) else ""
