"""The verdict in words: what a primary endpoint's difference means, what to do next, and the same on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cxraug.evaluation.metrics import METRICS
from cxraug.pages.page import ABSENT, interval, number

OUTCOMES = ("better", "worse", "no effect seen", "inconclusive")
HEADINGS = {
    "better": "Better than the control",
    "worse": "Worse than the control",
    "no effect seen": "No effect seen",
    "inconclusive": "Inconclusive",
    "": "No verdict",
}
TONES = {"better": "good", "worse": "bad", "no effect seen": "quiet", "inconclusive": "warn", "": "warn"}
GATE_CONTROLS = ("ungated", "random_reject")  # against these the arm differs in the gate's choice of images alone
COLOURS = {"good": "green", "bad": "red", "quiet": "cyan", "warn": "yellow"}


def outcome(verdict: Mapping[str, Any]) -> str:
    """The outcome that may be shown: one of :data:`OUTCOMES`, or empty.

    A claim stands only beside its interval: without a difference and both ends nothing is claimed. An outcome that
    contradicts the numbers beside it is shown as "inconclusive": "better" or "worse" with an interval that holds 0 or
    lies on the other side, "no effect seen" with one that does not hold 0, or with a smallest detectable difference
    above the room (unmeasured: above what separates the control from a perfect value).
    """
    said = verdict.get("outcome")
    difference, low, high = (_number(verdict.get(k)) for k in ("difference", "ci_low", "ci_high"))
    if difference is None or low is None or high is None:
        return "inconclusive" if said == "inconclusive" else ""
    if said not in OUTCOMES:
        return ""
    if said in ("better", "worse"):
        rises = (said == "better") == higher_is_better(_text(verdict.get("metric")))
        if not (low > 0 if rises else high < 0):
            return "inconclusive"
    mde, room = _number(verdict.get("mde")), _number(verdict.get("room"))
    room = _number(verdict.get("most")) if room is None else room
    too_coarse = mde is not None and room is not None and mde > room
    if said == "no effect seen" and (too_coarse or low > 0 or high < 0):
        return "inconclusive"
    return str(said)


def label(metric: str) -> str:
    """How a metric is written, e.g. ``AUROC``."""
    return METRICS[metric].label if metric in METRICS else metric


def higher_is_better(metric: str) -> bool:
    """Whether more is better; so for a metric that is not known."""
    return metric not in METRICS or METRICS[metric].higher_is_better


def heading(verdict: Mapping[str, Any]) -> str:
    """The outcome in a few words."""
    return HEADINGS[outcome(verdict)]


def tone(verdict: Mapping[str, Any]) -> str:
    """``good``, ``bad``, ``quiet`` or ``warn``."""
    return TONES[outcome(verdict)]


def sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict's own sentence; where it may not be shown, why."""
    if outcome(verdict) == "":
        return "The primary endpoint has no difference with an interval, so nothing can be said."
    if outcome(verdict) != verdict.get("outcome"):
        return f"{endpoint(verdict)} {difference_text(verdict)}: not enough to say more"
    return _text(verdict.get("sentence")) or f"{endpoint(verdict)} {difference_text(verdict)}"


def endpoint(verdict: Mapping[str, Any]) -> str:
    """What was compared, e.g. ``Pneumothorax AUROC in sex F``."""
    metric = _text(verdict.get("metric"))
    where = _text(verdict.get("level"))
    group = _text(verdict.get("group"))
    inside = f" in {group} {where}" if where and where != "all" else ""
    return f"{_text(verdict.get('finding')) or 'Finding'} {label(metric)}{inside}"


def difference_text(verdict: Mapping[str, Any]) -> str:
    """``+0.031 [+0.012, +0.050]``."""
    difference, low, high = (_number(verdict.get(k)) for k in ("difference", "ci_low", "ci_high"))
    return interval(difference, low, high, "+.3f")


def meaning(verdict: Mapping[str, Any]) -> str:
    """What the outcome means, in plain words."""
    arm, control = _named(verdict, "arm"), _named(verdict, "control")
    about, mde, room = endpoint(verdict), number(_number(verdict.get("mde"))), _number(verdict.get("room"))
    kind = outcome(verdict)
    gate = _is_about_gate(verdict)
    if kind == "better":
        if gate:
            return (
                f"What the gate threw out made {about} worse: {arm} and {control} hold images of the same core, in the "
                "same cells and of the same number, and differ only in which of them were chosen. The true effect lies "
                "plausibly anywhere in the interval."
            )
        return (
            f"Training with {arm} changed {about} for the better, by more than chance explains. The control "
            f"{control} had the same number of training steps, so longer training is not the reason. The true effect "
            "lies plausibly anywhere in the interval."
        )
    if kind == "worse":
        if gate:
            return (
                f"The gate's choice harms {about}: {arm} and {control} hold images of the same core, in the same cells "
                "and of the same number, and what the gate kept is worth less than what nobody chose."
            )
        return (
            f"Training with {arm} made {about} worse than {control} with the same number of training steps, by more "
            "than chance explains. These synthetic images harm this endpoint."
        )
    if kind == "no effect seen":
        return (
            f"The arms {arm} and {control} cannot be told apart on {about}. By its own scatter, this experiment would "
            f"have found a difference of {mde} or more in four of five repetitions; a smaller one cannot be excluded."
        )
    if kind == "inconclusive":
        nothing = "the gate does nothing" if gate else "synthetic images do nothing"
        if _number(verdict.get("difference")) is None:
            return (
                f"The test set holds too few patients to show {about} at all, so the question stays open. That is "
                f"not evidence that {nothing}."
            )
        if outcome(verdict) != verdict.get("outcome"):
            return "The outcome on file does not follow from the numbers beside it, so it is not repeated here."
        most = _number(verdict.get("most"))
        why = f"it could only have found a difference of {mde} or more, and "
        if room is not None:
            why += f"the learning curve leaves room for {_room(verdict)}"
        elif most is not None:
            why += f"a perfect classifier would differ from {control} by {number(most)}"
        else:
            why = f"the smallest difference it could have found is {mde}"
        if room is not None and room <= 0:
            why = "more real patients did not help either, so there is no room in which a gain could show"
        return f"This experiment cannot answer the question: {why}. That is not evidence that {nothing}."
    return "The evaluation did not yield an interval for the primary endpoint, and a claim without one is not shown."


def next_steps(verdict: Mapping[str, Any]) -> list[str]:
    """What to do next, most useful first."""
    kind = outcome(verdict)
    arm, control = _named(verdict, "arm"), _named(verdict, "control")
    mde, room = _number(verdict.get("mde")), _number(verdict.get("room"))
    draws = _number(verdict.get("n_draws"))
    steps = []
    gate = _is_about_gate(verdict)
    if kind == "better" and gate:
        steps += [
            "Keep the gate on for this core, and see in its reasons what it threw out.",
            f"Compare {arm} with the controls without synthetic images too: a gate that helps does not mean that the "
            "images help.",
        ]
    elif kind == "worse" and gate:
        steps += [
            "See in the gate's reasons and its acceptance per finding and group which images it threw out: it may keep "
            "only the most typical ones.",
            "Try a smaller gate.false_reject in a new run before switching a check off.",
        ]
    elif kind == "better":
        steps += [
            f"Train with {arm} at the ratio chosen on validation, and keep {control} as the model to compare with.",
            "Look at the gaps below before use: a finding can gain while a group loses.",
            "Confirm on data of another hospital: these test rows have now been looked at.",
        ]
    elif kind == "worse":
        steps += [
            f"Do not add these images; use {control}.",
            "Find out whether the images carry their labels: a classifier that knows the finding should tell them "
            "apart (see the gate's AUROC, and the contact sheets).",
            "Try a smaller ratio or a core trained on more images, in a new run.",
        ]
    elif kind == "no effect seen":
        thin = [
            text
            for text, is_so in (
                ("one draw", draws == 1),
                ("one seed", _number(verdict.get("n_seeds")) == 1),
                ("few test cases", verdict.get("few") is True),
            )
            if is_so
        ]
        if thin:
            steps.append(
                f"Repeat with more before giving {'the gate' if gate else 'these images'} up: this rests on "
                f"{' and '.join(thin)}, and the smallest detectable difference is itself uncertain."
            )
        elif room is None:
            steps.append(
                f"Measure the room with a learning curve (curve in the recipe): without it nobody can say whether "
                f"{number(mde)} is little."
            )
        elif gate:
            steps.append(
                "Do not expect a gain from the gate on this endpoint. What else it is for, keeping out copies of real "
                "patients, is not measured here."
            )
        else:
            steps.append(f"Do not expect a gain from these images here; {control} is the simpler choice.")
        if room is not None and room > 0:
            steps.append(f"More real patients would still help: the learning curve leaves {_room(verdict)}.")
        steps.append(
            "A worse core may change this: a gate matters as much as there is to throw out."
            if gate
            else "A better core may change this; compare fidelity and rejections of two cores before another run."
        )
    elif kind == "inconclusive":
        if mde is not None and room is not None and 0 < room < mde:
            times = (mde / room) ** 2
            much = "twice" if times < 2.5 else f"{times:,.0f} times"
            steps.append(
                f"About {much} as much evidence (test patients, draws and seeds) "
                "would bring the smallest detectable difference down to the room."
            )
        else:
            steps.append("Add test patients with this finding first, then draws; more seeds alone help least.")
        steps.append("Or choose an endpoint with more positives in the test set.")
    else:
        steps.append("Check that the primary endpoint has at least 10 positive and 10 negative test patients.")
    if draws == 1:
        steps.append(
            "Repeat with several random draws of the limited data: with one, luck of the draw is not assessed."
        )
    return steps


def caveats(verdict: Mapping[str, Any]) -> list[str]:
    """What a reader must know before quoting the verdict."""
    lines = []
    if verdict.get("outside") is True:
        lines.append(
            "With outside data: something here was trained on images that are not in this data set, so a gain may "
            "come from those images and not from synthesis."
        )
    draws, seeds = _number(verdict.get("n_draws")), _number(verdict.get("n_seeds"))
    if draws == 1:
        lines.append("One draw: how much the result depends on which patients were kept was not assessed.")
    if seeds == 1:
        lines.append("One seed: how much the result depends on the random start of training was not assessed.")
    if _number(verdict.get("mde")) is None:
        lines.append("The smallest detectable difference is not known.")
    if _number(verdict.get("room")) is None:
        lines.append("The room for improvement was not measured (no learning curve).")
    notes = verdict.get("notes") or []
    lines += [_text(n) for n in (notes if isinstance(notes, list) else [notes]) if _text(n)]
    return [_sentence(line) for line in lines]


def facts(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers behind the sentence as (name, text)."""

    def count(key: str) -> str:
        return number(_number(verdict.get(key)), ",d")

    return [
        ("Difference", number(_number(verdict.get("difference")), "+.3f")),
        ("95 % interval", _range(verdict)),
        ("p value", p_text(verdict.get("p_value"))),
        ("Smallest detectable", number(_number(verdict.get("mde")))),
        ("Room", _room(verdict)),
        ("Draws × seeds", f"{count('n_draws')} × {count('n_seeds')}"),
        ("Test patients", count("n_patients")),
        ("Arm", _text(verdict.get("arm")) or ABSENT),
        ("Control", _text(verdict.get("control")) or ABSENT),
    ]


def print_verdict(verdict: Mapping[str, Any], comparison: pd.DataFrame, *, console: Console | None = None) -> None:
    """Print the verdict as a panel, and the primary arm against every control as a table, on standard output.

    Parameters
    ----------
    verdict : the contents of ``verdict.json``.
    comparison : the contents of ``comparison.csv``; may be empty.
    """
    console = console or Console()
    colour = COLOURS[tone(verdict)]
    lines = [Text(_safe(sentence(verdict)), style="bold"), Text(), Text(_safe(meaning(verdict)))]
    for caveat in caveats(verdict):
        lines.append(Text("! " + _safe(caveat), style="dim"))
    lines += [Text(), Text("Next: " + _safe(next_steps(verdict)[0]))]
    console.print(
        Panel(Group(*lines), title=Text(heading(verdict)), title_align="left", border_style=colour, padding=(1, 2))
    )
    values = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, text in facts(verdict):
        values.add_row(Text(name, style="dim"), Text(_safe(text)))
    console.print(values)
    rows = primary_rows(verdict, comparison)
    if rows.empty:
        return
    grid = Table(
        title=Text(_safe(f"{endpoint(verdict)}: {verdict.get('arm')} against each control")), title_justify="left"
    )
    for name, justify in (
        ("control", "left"),
        ("difference [95 %]", "right"),
        ("p (Holm)", "right"),
        ("detectable", "right"),
    ):
        grid.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in rows.to_dict("records"):
        style = "bold" if row["baseline"] == verdict.get("control") else ""
        shown = row.get("flag") != "suppressed"
        texts = (
            interval(row["difference"], row["ci_low"], row["ci_high"], "+.3f") if shown else "suppressed",
            p_text(row.get("p_adjusted")) if shown else ABSENT,
            detectable_text(row.get("mde")) if shown else ABSENT,
        )
        grid.add_row(*(Text(_safe(str(t)), style=style) for t in (row["baseline"], *texts)))
    console.print(grid)


def primary_rows(verdict: Mapping[str, Any], comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``comparison`` with the primary arm and endpoint, one per control, the primary control first."""
    if comparison.empty:
        return comparison
    keep = pd.Series(True, index=comparison.index)
    wanted = {key: _text(verdict.get(key)) for key in ("arm", "finding", "metric")}
    wanted |= {key: _text(verdict.get(key)) or "all" for key in ("group", "level")}
    for key, value in wanted.items():
        keep &= comparison[key].astype("str") == value
    rows = comparison[keep]
    first = (rows["baseline"].astype("str") != _text(verdict.get("control"))).to_numpy().argsort(kind="stable")
    return rows.iloc[first]


def _range(verdict: Mapping[str, Any]) -> str:
    low, high = _number(verdict.get("ci_low")), _number(verdict.get("ci_high"))
    return f"{number(low, '+.3f')} to {number(high, '+.3f')}" if low is not None and high is not None else "none"


def _room(verdict: Mapping[str, Any]) -> str:
    """``+0.071 [+0.050, +0.092]``, the interval where there is one."""
    value, low, high = (_number(verdict.get(k)) for k in ("room", "room_low", "room_high"))
    if value is None or low is None or high is None:
        return number(value, "+.3f")
    return interval(value, low, high, "+.3f")


def p_text(value: Any) -> str:
    """A p value in three digits, ``< 0.001`` below that."""
    p = _number(value)
    return ABSENT if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def detectable_text(mde: Any) -> str:
    """The smallest detectable difference; ``none`` above 1, where a metric between 0 and 1 leaves nothing to detect."""
    value = _number(mde)
    return "none" if value is not None and value > 1 else number(value)


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, (bool, str)) or value != value:
        return None
    return float(value)


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def _is_about_gate(verdict: Mapping[str, Any]) -> bool:
    return _text(verdict.get("control")) in GATE_CONTROLS and _text(verdict.get("arm")) not in GATE_CONTROLS


def _named(verdict: Mapping[str, Any], role: str) -> str:
    """An arm's name in quotes."""
    return f"“{_text(verdict.get(role)) or role}”"


def _sentence(text: str) -> str:
    """``text`` with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _safe(text: str) -> str:
    """Without control characters, which could drive the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
