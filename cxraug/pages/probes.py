"""The report's section about linear probes: which attributes of the patients the classifiers' features encode."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from cxraug.pages import plot
from cxraug.pages.gaps import alpha_of
from cxraug.pages.page import Cell, bullets, figure, fold, heading, interval, note, number, section, table, tag
from cxraug.pages.runfolder import RunFolder, whole

MEANS = (
    "A value near 1: a linear readout of what the classifier gives to its last layer tells the level from the others. "
    "A value whose interval holds 0.5: this readout, with these images, cannot be shown to tell it.",
    "A network that never saw a finding may encode an attribute too: compare arms with each other, on the same "
    "patients, before blaming what one of them was trained on.",
)
MEANS_NOT = (
    "Encoding is not use. A high value does not say that findings are predicted from the attribute, nor that anybody "
    "is treated unfairly: that is what the gaps measure. Glocker et al., eBioMedicine 89 (2023) 104467.",
    "A low value is no proof of fairness, nor of absence: a curved readout or more images may find what this one does "
    "not. Race was read off chest X-rays in which no expert could see it. Gichoya et al., Lancet Digital Health 4 "
    "(2022) e406.",
    "An attribute can be found through what goes with it in these data: findings, view, scanner, site.",
)


CHANCE = 0.5
UNTRAINED = "untrained"  # the arm of :mod:`cxraug.probes` that stands for the networks before their training
ENCODING = (
    "AUROC of a linear readout of what the classifier gives to its last layer. Encoding is not use: it does not say "
    "that findings are predicted from the attribute."
)


def probe_sentences(run: RunFolder) -> list[str]:
    """What each arm encodes of each attribute, beside the same network before training, in one sentence each."""
    if run.probes.empty:
        return []
    rows = whole(run.probes)
    rows = rows[rows["flag"] != "suppressed"]
    found = []
    for (arm, attribute), part in rows[rows["arm"] != UNTRAINED].groupby(["arm", "attribute"], sort=False):
        before = rows[(rows["arm"] == UNTRAINED) & (rows["attribute"] == attribute)]
        before = before[before["level"].isin(part["level"])]
        told = int((part["ci_low"] > CHANCE).sum())
        text = f"{arm} {'encodes' if told else 'is not shown to encode'} {attribute}: AUROC {_values(part)}"
        text += f", {told} with an interval above chance" if len(part) > 1 else ""
        text += f"; the same network before training: {_values(before)}" if len(before) else ""
        if len(part) == 1 and len(run.probe_differences):
            every = run.probe_differences
            own = every[(every["baseline"] == UNTRAINED) & (every["arm"] == arm) & (every["attribute"] == attribute)]
            own = own[(own["level"] == part["level"].iloc[0]) & (own["flag"] != "suppressed")]
            for row in own.to_dict("records"):
                text += f" (difference {interval(row['difference'], row['ci_low'], row['ci_high'], '+.3f')})"
        found.append(text + ".")
    return found


def _values(rows: pd.DataFrame) -> str:
    if len(rows) == 1:
        row = rows.iloc[0]
        return interval(row["value"], row["ci_low"], row["ci_high"])
    return f"{number(rows['value'].min())} to {number(rows['value'].max())} over {len(rows)} levels"


def probes_section(run: RunFolder) -> Markup:
    """AUROC of linear probes per attribute, level and arm; nothing where none were asked for."""
    if run.probes.empty:
        return Markup("")
    rows = whole(run.probes)
    marks = [
        _mark(row) for _, part in rows.groupby(["attribute", "level"], sort=False) for row in part.to_dict("records")
    ]
    frame = pd.DataFrame(
        {
            "attribute": rows["attribute"],
            "level": rows["level"],
            "arm": rows["arm"],
            "AUROC [95 %]": [_cell(row) for row in rows.to_dict("records")],
            "images": rows["n"],
            "of the level": rows["n_pos"],
            "patients": rows["n_patients"],
        }
    )
    picture = figure(
        plot.forest(marks, what="AUROC of the probe", reference=CHANCE, unit_range=(0, 1)),
        "Each level against all others (of two levels one is shown; the other has the same AUROC). Mean over seeds and "
        "draws with patient-clustered 95 % intervals, each by itself and not corrected; the line is chance.",
    )
    return section(
        "probes",
        "Which attributes the features encode",
        bullets(probe_sentences(run)),
        picture,
        _differences(run),
        heading("What this means"),
        bullets(MEANS),
        heading("What it does not mean"),
        bullets(MEANS_NOT),
        note(
            "Logistic regression on standardised features, fitted on the real training rows of each draw (for every "
            "arm the same), regularisation chosen on validation, AUROC on the test set. A level that too few training "
            "or test patients have is suppressed. “untrained”: the same networks with the weights that their training "
            "began with, random unless the recipe names weights."
        ),
        fold("The same as a table", table(frame, caption="Linear probes on the test set")),
        lead="Can sex, age or another attribute be read off what a classifier gives to its last layer?",
    )


def _differences(run: RunFolder) -> Markup:
    """Paired differences between the arms' probes; nothing where none were measured."""
    rows = run.probe_differences
    if rows.empty:
        return Markup("")
    marks = []
    for row in rows.sort_values(["attribute", "level"], kind="stable").to_dict("records"):
        name, group = f"{row['arm']} − {row['baseline']}", f"{row['attribute']}: {row['level']}"
        if row["flag"] == "suppressed":
            marks.append(plot.Interval(label=name, note="suppressed: too few patients", group=group))
            continue
        few = row["flag"] == "few"
        marks.append(
            plot.Interval(
                label=name,
                value=row["difference"],
                low=row["ci_low"],
                high=row["ci_high"],
                note="few" if few else "",
                group=group,
                few=few,
                strong=row["p_adjusted"] <= alpha_of(run),
            )
        )
    return figure(
        plot.forest(marks, what="difference in AUROC of the probe", reference=0.0, sign=True,
                    sides=("encodes less", "encodes more")),
        "Each arm against the networks before training and against its controls: the same patients, seeds and draws. "
        "Intervals are patient-clustered and marginal; bold where p, corrected over all these differences (Holm), is "
        f"at most {alpha_of(run):g}.",
    )  # fmt: skip


def _mark(row: dict) -> plot.Interval:
    group = f"{row['attribute']}: {row['level']}"
    if row["flag"] == "suppressed":
        return plot.Interval(label=row["arm"], note="suppressed: too few patients", group=group)
    few = row["flag"] == "few"
    return plot.Interval(
        label=row["arm"], value=row["value"], low=row["ci_low"], high=row["ci_high"], note="few" if few else "",
        group=group, few=few,
    )  # fmt: skip


def _cell(row: dict) -> Cell:
    if row["flag"] == "suppressed":
        return Cell(tag("suppressed"))
    mark = Markup(" ") + tag("few", "warning") if row["flag"] == "few" else Markup("")
    return Cell(Markup("{}{}").format(interval(row["value"], row["ci_low"], row["ci_high"]), mark), row["value"])
