"""The report's sections about results: comparisons, findings, groups and gaps, learning curve, ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from cxraug.pages import plot
from cxraug.pages.page import (
    Cell,
    Format,
    blocks,
    figure,
    fold,
    heading,
    interval,
    note,
    number,
    paragraph,
    section,
    table,
    tag,
)
from cxraug.pages.runfolder import DrawFolder, RunFolder, whole
from cxraug.pages.verdict import higher_is_better, label

MAX_TABLE = 300  # rows of a table
MAX_ROWS = 40  # of a plot; what goes beyond stays in the table
RATES = ("auroc", "tpr", "fpr")
WORST = (
    "The worst of several levels is picked by its noise too: its value is biased towards the bad side, and the "
    "interval is that of a level chosen in advance."
)


def comparison_section(run: RunFolder) -> Markup:
    """Every arm against its controls: the primary endpoint, the other findings, and the whole table."""
    rows = run.comparison
    if rows.empty:
        return section("arms", "Arms against their controls", absent("evaluation/comparison.csv"))
    metric = _primary_metric(run)
    where = [str(run.verdict.get(key) or "all") for key in ("group", "level")]
    overall = rows[(rows["metric"] == metric) & (rows["group"] == where[0]) & (rows["level"] == where[1])]
    first = str(run.verdict.get("finding") or "")
    parts: list[str | Markup] = [
        paragraph(
            "Each line is an arm minus one of its controls, paired over the same draws, seeds and test patients. An "
            "arm and its controls share training steps, batch size, image size and augmentation. Right of zero the "
            "arm has the higher value" + ("." if higher_is_better(metric) else "; for this metric lower is better.")
        )
    ]
    main = overall[overall["finding"] == first]
    others = overall[(overall["finding"] != first) & (overall["finding"] != "macro")]
    macro = overall[overall["finding"] == "macro"]
    name = label(metric)
    for part, caption in (
        (main, f"{first}, {name}: the bold line is the primary endpoint; all others are exploratory."),
        (macro if first != "macro" else macro.head(0), f"Macro mean of {name} over findings that no level suppresses."),
    ):
        if len(part):
            parts.append(figure(_difference_forest(run, part), caption))
    if len(others):
        plots = figure(
            _difference_forest(run, _ordered(others, _findings(run, others)).head(MAX_ROWS)),
            f"Other findings, {name}; exploratory.",
        )
        parts.append(fold(f"Other findings ({others['finding'].nunique()})", plots, _more(others)))
    parts.append(_non_inferiority_part(run))
    shown = rows[rows["metric"].isin({metric, *RATES}) & rows["group"].isin({"all", where[0]})]
    parts.append(
        fold("Table of comparisons", _comparison_table(_capped(shown)), _left_out(shown, rows, "comparison.csv"))
    )
    parts.append(
        note(
            "Intervals are marginal (each holds 95 % by itself); adjusted p values are Holm's over the family "
            "printed. “Detectable” is the smallest difference that would have been found with 80 % power at the "
            "adjusted level."
        )
    )
    return section("arms", "Arms against their controls", *parts)


def findings_section(run: RunFolder) -> Markup:
    """AUROC of every finding and arm with its interval."""
    if run.cells.empty:
        return section("findings", "AUROC by finding and arm", absent("evaluation/cells.csv"))
    rows = whole(run.cells)
    rows = rows[(rows["metric"] == "auroc") & (rows["group"] == "all")]
    if rows.empty:
        return section("findings", "AUROC by finding and arm", absent("AUROC of the whole test set"))
    order = _findings(run, rows)
    rows = _ordered(rows, order)
    marks = [
        interval_row(run, r, value="value", label=r["arm"], group=_finding(r), strong=_is_primary_arm(run, r))
        for r in rows.head(2 * MAX_ROWS).to_dict("records")
    ]
    frame = pd.DataFrame(
        {
            "finding": rows["finding"],
            "arm": rows["arm"],
            "AUROC [95 %]": [_value_cell(run, r, "value") for r in rows.to_dict("records")],
            "images": rows["n"],
            "positive": rows["n_pos"],
            "patients": rows["n_patients"],
            "method": rows["method"],
        }
    )
    return section(
        "findings",
        "AUROC by finding and arm",
        figure(
            plot.forest(marks, what="AUROC", unit_range=(0, 1)),
            "Mean over seeds and draws with patient-clustered 95 % intervals. Intervals of two arms may overlap "
            "although their paired difference is clear: compare arms in the section before.",
        ),
        fold("The same as a table", table(frame, caption="AUROC on the test set", formats=dict.fromkeys(COUNTS, ",d"))),
    )


COUNTS = ("images", "positive", "patients", "n")


def groups_section(run: RunFolder) -> Markup:
    """AUROC, TPR and FPR per group level, and the signed gaps."""
    parts: list[str | Markup] = []
    probe = run.verdict.get("source_probe")
    if isinstance(probe, dict) and probe.get("auroc") is not None:
        parts.append(
            note(
                f"The source of an image can be told from its pixels with AUROC {number(probe['auroc'])} (0.5 would "
                "be chance). Findings that are confounded with the source must be read within one source.",
                "warning",
            )
        )
    parts.append(_gap_part(run))
    parts.append(group_tables(run))
    return section(
        "groups",
        "For whom: groups and gaps",
        *parts,
        lead="A gap is a group level minus the rest of the test set, at the one threshold chosen on validation.",
    )


def mitigation_section(run: RunFolder) -> Markup:
    """TPR and FPR before and after thresholds by group, where an evaluation was asked for them."""
    found = run.evaluation.get("mitigation")
    if not found:
        return Markup("")
    rows = [row for row in found["rows"] if row["before"] is not None]
    columns = {"before": "before", "after": "after", "gap before": "gap_before", "gap after": "gap_after",
               "change of the gap": "gap_change"}  # fmt: skip
    frame = pd.DataFrame(
        {
            "arm": [row["arm"] for row in rows],
            "finding": [row["finding"] for row in rows],
            found["group"]: [
                row["level"] + (" (threshold kept)" if row["threshold"] == "kept" else "") for row in rows
            ],
            "metric": [label(row["metric"]) for row in rows],
            **{
                name: [interval(*(row[key + end] for end in ("", "_low", "_high"))) for row in rows]
                for name, key in columns.items()
            },
            "flag": [row["flag"] for row in rows],
        }
    )
    redrawn = ", ".join(f"{finding} {100 * share:.1f} %" for finding, share in found["redrawn"].items())
    told = note(
        f"Nothing else on this page uses these thresholds. {found['method']}, constraint {found['constraint']}, fitted "
        "on validation rows. It needs the group of every new patient, may lower a rate for one group to meet another, "
        f"and decides some images at random (seed {found['seed']}): another draw would change {redrawn} of the "
        "decisions. Intervals take the fitted rule as given; those of gaps hold together over findings and levels."
    )
    parts = [told, table(frame, caption="Before and after"), *(paragraph(text) for text in found["notes"])]
    return section("mitigation", f"Mitigation: thresholds by {found['group']}", *parts)


def group_tables(run: RunFolder) -> Markup:
    """Values per level, largest differences over levels beside chance, worst levels."""
    return blocks([_rate_part(run), _extreme_part(run), _worst_part(run)])


def curve_section(run: RunFolder) -> Markup:
    """The learning curve of real data alone and the room it leaves."""
    if run.curve.empty:
        return section("curve", "Room for improvement", absent("curve/points.csv", "No learning curve was asked for."))
    points = run.curve.dropna(subset=["auroc"])
    names = list(dict.fromkeys(points["n_patients"]))
    means, low, high = [], [], []
    for name in names:
        value, ends = draw_interval(points[points["n_patients"] == name])
        means.append(value)
        low.append(ends[0])
        high.append(ends[1])
    runs = [(names.index(n), float(v)) for n, v in zip(points["n_patients"], points["auroc"], strict=True)]
    finding = run.setting("curve", "finding", default=run.verdict.get("finding", "finding"))
    several = len(set(points["draw"])) > 1
    picture = plot.curve(
        names, means, low, high, points=runs, x_name=f"training patients with {finding}", y_name=f"{finding} AUROC"
    )
    caption = (
        "Real images only, on the test set. Small dots are single trainings; the band is the 95 % interval of the "
        "mean over draws (Student's t), where there are several."
        if several
        else "Real images only, on the test set. Small dots are single trainings; with one draw there is no interval."
    )
    counts = points.groupby("n_patients", sort=False).size()
    frame = pd.DataFrame(
        {
            "training patients": names,
            "AUROC [95 %]": [
                Cell(interval(m, a, b) if a is not None else number(m), m)
                for m, a, b in zip(means, low, high, strict=True)
            ],
            "trainings": [int(counts[name]) for name in names],
        }
    )
    room = _as_float(run.verdict.get("room"))
    lead = "How far real images alone go."
    if room is not None:
        control = run.verdict.get("control")
        least, most, ceiling, start = (
            _as_float(run.verdict.get(f"room_{k}")) for k in ("low", "high", "ceiling", "control")
        )
        lead = (
            f"With every real patient there is, AUROC is {number(ceiling)}; the control “{control}” on what the limit "
            f"leaves has {number(start)}. The room is the difference, {interval(room, least, most, '+.3f')}: "
            "augmentation can hardly be expected to give more."
            if room > 0
            else f"More real patients do not raise AUROC above the control “{control}” here, so there is no room for "
            "augmentation either."
        )
    return section("curve", "Room for improvement", figure(picture, caption), table(frame), lead=lead)


def ratio_section(run: RunFolder) -> Markup:
    """The ratio of synthetic to real images that validation chose, per draw."""
    lines, short = [], False
    for draw in run.draws:
        scores = draw.ratio.get("validation_auroc")
        if isinstance(scores, dict):
            chosen = _as_float(draw.ratio.get("chosen"))
            line: dict[str, Any] = {"draw": draw.name}
            for ratio, score in scores.items():
                text = Markup("<b>{}</b>" if _as_float(ratio) == chosen else "{}").format(number(_as_float(score)))
                effective = _unfilled(draw, ratio)
                if effective is not None:
                    text += Markup(" (in effect {})").format(number(effective, ".2f"))
                    short = True
                line[f"ratio {ratio}"] = Cell(text, _as_float(score))
            lines.append(line | {"chosen": chosen})
    if not lines:
        why = "The whole plan was used: the recipe names no ratios." if run.draws else ""
        return section("ratio", "Ratio of synthetic to real", absent("draw-*/ratio.json", why))
    return section(
        "ratio",
        "Ratio of synthetic to real",
        table(pd.DataFrame(lines), caption="AUROC on validation, mean over seeds", formats={"chosen": "g"}),
        note("“In effect”: the gate accepted too few images to fill the ratio asked for, in the arm and its controls.")
        if short
        else "",
        lead="Chosen on validation, before the test rows were read; the other arms of a draw use the same ratio.",
    )


def _unfilled(draw: DrawFolder, ratio: str) -> float | None:
    """The ratio that arms of ``ratio`` really had, where the accepted images could not fill it; None where they did."""
    asked, realised = _as_float(ratio), draw.realised.get(str(ratio))
    if asked is None or realised is None:
        return None
    added, real = realised
    return added / real if added < round(asked * real) else None


def draw_interval(points: pd.DataFrame) -> tuple[float, tuple[float | None, float | None]]:
    """Mean of the draw means of ``auroc`` and its 95 % t interval over draws; no interval with one draw."""
    from scipy.stats import t

    draws = points.groupby("draw")["auroc"].mean().to_numpy(dtype=float)
    mean = float(draws.mean())
    if len(draws) < 2:
        return mean, (None, None)
    half = float(t.ppf(0.975, len(draws) - 1) * draws.std(ddof=1) / np.sqrt(len(draws)))
    return mean, (max(mean - half, 0.0), min(mean + half, 1.0))


def absent(what: str, why: str = "") -> Markup:
    """The plain line that stands where a part is missing."""
    return note(f"{why or 'This part is not in the run.'} Nothing is shown here ({what} is not there).")


def _difference_forest(run: RunFolder, rows: pd.DataFrame) -> Markup:
    marks = [
        interval_row(
            run,
            r,
            value="difference",
            label=f"{r['arm']} − {r['baseline']}",
            group=_finding(r),
            strong=_is_primary(run, r),
        )
        for r in rows.to_dict("records")
    ]
    return plot.forest(marks, what="difference", reference=0.0, sign=True, sides=("control higher", "arm higher"))


def _comparison_table(rows: pd.DataFrame) -> Markup:
    records = rows.to_dict("records")
    hidden = [r["flag"] == "suppressed" for r in records]
    frame = pd.DataFrame(
        {
            "arm": rows["arm"],
            "control": rows["baseline"],
            "finding": rows["finding"],
            "group": [_where(r) for r in records],
            "metric": rows["metric"],
            "difference [95 %]": [
                Cell(tag("suppressed"))
                if h
                else Cell(interval(r["difference"], r["ci_low"], r["ci_high"], "+.3f"), r["difference"])
                for r, h in zip(records, hidden, strict=True)
            ],
            "p": [None if h else r["p_value"] for r, h in zip(records, hidden, strict=True)],
            "p adjusted": [None if h else r["p_adjusted"] for r, h in zip(records, hidden, strict=True)],
            "detectable": [None if h else r["mde"] for r, h in zip(records, hidden, strict=True)],
            "patients": rows["n_patients"],
            "flag": rows["flag"],
        }
    )
    decimals: dict[str, Format] = {"p": _p_text, "p adjusted": _p_text, "detectable": ".3f", "patients": ",d"}
    return table(frame, caption="Comparisons over all draws and seeds", formats=decimals)


def _gap_part(run: RunFolder) -> Markup:
    if run.gaps.empty:
        return absent("evaluation/gaps.csv")
    rows = whole(run.gaps)
    rows = rows[rows["metric"].isin([*RATES, "underdiagnosis"])]
    raw = rows[rows["matched"] == ""]
    arms = _shown_arms(run, raw)
    order = _findings(run, raw)
    parts: list[str | Markup] = [heading("Gaps")]
    for metric in [m for m in (*RATES, "underdiagnosis") if (raw["metric"] == m).any()]:
        chosen = raw[(raw["metric"] == metric) & raw["arm"].isin(arms)]
        # The arms of one level stand beside each other, the control first.
        place = dict.fromkeys(zip(chosen["group"], chosen["level"], strict=True))
        rank = {key: i for i, key in enumerate(place)}
        by_arm = chosen["arm"].map(arms.index)
        by_level = pd.Series([rank[k] for k in zip(chosen["group"], chosen["level"], strict=True)], index=chosen.index)
        chosen = _ordered(chosen.loc[(by_level * len(arms) + by_arm).sort_values(kind="stable").index], order)
        empty = [f for f, part in chosen.groupby("finding", sort=False) if (part["flag"] == "suppressed").all()]
        told = note(f"Suppressed in every level: {', '.join(map(str, empty))}.") if empty else Markup("")
        chosen = chosen[~chosen["finding"].isin(empty)]
        if chosen.empty:
            parts.append(told)
            continue
        marks = [
            interval_row(
                run,
                r,
                value="gap",
                label=f"{_where(r)} · {r['arm']}",
                group=_finding(r),
                strong=_is_primary_arm(run, r),
            )
            for r in chosen.head(MAX_ROWS).to_dict("records")
        ]
        title = f"{label(metric)} gaps"
        picture = figure(
            plot.forest(
                marks, what="gap", reference=0.0, sign=True, sides=("lower than the rest", "higher than the rest")
            ),
            f"{title}: level minus rest. Intervals hold together over the family (studentised max-T).",
        )
        whole_part = [picture, _more(chosen), told]
        parts.append(blocks(whole_part) if metric == "auroc" else fold(title, *whole_part))
    mine = rows[rows["arm"].isin(arms)]
    parts.append(fold("Table of gaps", gap_table(_capped(mine)), _left_out(mine, run.gaps, "gaps.csv")))
    return blocks(parts)


def gap_table(rows: pd.DataFrame) -> Markup:
    """Rows of ``gaps.csv`` as a sortable table."""
    records = rows.to_dict("records")
    hidden = [r["flag"] == "suppressed" for r in records]
    frame = pd.DataFrame(
        {
            "arm": rows["arm"],
            "finding": rows["finding"],
            "level": [_where(r) for r in records],
            "metric": rows["metric"],
            "reference": rows["reference"],
            "matched": rows["matched"],
            "gap [95 %]": [
                Cell(tag("suppressed")) if h else Cell(interval(r["gap"], r["ci_low"], r["ci_high"], "+.3f"), r["gap"])
                for r, h in zip(records, hidden, strict=True)
            ],
            "p adjusted": [None if h else r["p_adjusted"] for r, h in zip(records, hidden, strict=True)],
            "detectable": [None if h else r["mdg"] for r, h in zip(records, hidden, strict=True)],
            "flag": rows["flag"],
        }
    )
    return table(frame, caption="Signed gaps", formats={"p adjusted": _p_text, "detectable": ".3f"})


def _extreme_part(run: RunFolder) -> Markup:
    """Largest differences over levels, each beside what chance gives."""
    rows = pd.DataFrame(run.evaluation.get("extremes") or [])
    if rows.empty:
        return Markup("")
    arms = _shown_arms(run, rows)
    rows = _ordered(rows[rows["arm"].isin(arms)], _findings(run, rows))
    what = [
        "equalised odds" if r["metric"] == "equalised_odds" else f"max − min of {label(r['of'])}"
        for r in rows.to_dict("records")
    ]
    frame = pd.DataFrame(
        {
            "arm": rows["arm"],
            "finding": rows["finding"],
            "group": rows["group"],
            "what": what,
            "levels": rows["levels"].map(len),
            "value": rows["value"],
            "mean with no gap": rows["null_mean"],
            "95 % with no gap": rows["null_q95"],
            "p": rows["p_value"],
        }
    )
    decimals: dict[str, Format] = {
        "value": ".3f", "mean with no gap": ".3f", "95 % with no gap": ".3f", "p": _p_text, "levels": ",d",
    }  # fmt: skip
    told = note(
        "The largest difference of several levels is above 0 even where no group differs. Read a value against the two "
        "columns beside it, which say what levels with equal values would give; p values are not corrected."
    )
    return fold(
        "Largest differences over levels",
        told,
        table(_capped(frame), caption="Max − min and equalised odds", formats=decimals),
        _left_out(frame, frame, "evaluation.json"),
    )


def _worst_part(run: RunFolder) -> Markup:
    """The worst level per grouping and metric, and macro means weighted by positives."""
    parts: list[str | Markup] = []
    worst = pd.DataFrame(run.evaluation.get("worst_levels") or [])
    if len(worst):
        worst = worst[worst["arm"].isin(_shown_arms(run, worst)) & worst["metric"].isin([*RATES, "ece"])]
    if len(worst):
        worst = _ordered(worst, _findings(run, worst))
        records = worst.to_dict("records")
        frame = pd.DataFrame(
            {
                "arm": worst["arm"],
                "finding": [_finding(r) for r in records],
                "level": [_where(r) for r in records],
                "metric": [label(r["metric"]) for r in records],
                "value [95 %]": [_value_cell(run, r, "value") for r in records],
            }
        )
        parts.append(fold("Worst levels", note(WORST), table(_capped(frame), caption="Worst level per grouping")))
    macro = pd.DataFrame(run.evaluation.get("macro_weighted_by_positives") or [])
    if len(macro):
        macro = macro[macro["arm"].isin(_shown_arms(run, macro))]
        records = macro.to_dict("records")
        frame = pd.DataFrame(
            {
                "arm": macro["arm"],
                "level": [_where(r) for r in records],
                "metric": [label(r["metric"]) for r in records],
                "findings": macro["findings"],
                "mean [95 %]": [Cell(interval(r["value"], r["ci_low"], r["ci_high"]), r["value"]) for r in records],
            }
        )
        title = "Macro means weighted by positives"
        parts.append(fold(title, table(_capped(frame), caption=title), _left_out(frame, frame, "evaluation.json")))
    return blocks(parts)


def _non_inferiority_part(run: RunFolder) -> Markup:
    """One-sided tests against the margin."""
    rows = pd.DataFrame(run.evaluation.get("non_inferiority") or [])
    if rows.empty:
        return Markup("")
    records = rows.to_dict("records")
    frame = pd.DataFrame(
        {
            "arm": rows["arm"],
            "control": rows["baseline"],
            "finding": [_finding(r) for r in records],
            "metric": [label(r["metric"]) for r in records],
            "difference": rows["difference"],
            "bound": rows["bound"],
            "margin": rows["margin"],
            "p adjusted": rows["p_adjusted"],
            "non-inferior": ["yes" if r["shown"] else "not shown" for r in records],
        }
    )
    decimals: dict[str, Format] = {"difference": "+.3f", "bound": "+.3f", "margin": "g", "p adjusted": _p_text}
    told = note(
        "Non-inferior: worse than the control by less than the margin, by a one-sided test at half the two-sided "
        "level; the bound is that end of the 95 % interval. “Not shown” is no evidence of harm. All but the primary "
        "endpoint are corrected by Holm."
    )
    return blocks([heading("Non-inferiority"), table(frame, caption="Against the margin", formats=decimals), told])


def _rate_part(run: RunFolder) -> Markup:
    if run.cells.empty:
        return absent("evaluation/cells.csv")
    rows = whole(run.cells)
    rows = rows[(rows["group"] != "all") & rows["metric"].isin(RATES)]
    if rows.empty:
        return absent("group rows of evaluation/cells.csv")
    arms, order = _shown_arms(run, rows), _findings(run, rows)
    parts: list[str | Markup] = [heading("AUROC, TPR and FPR per group")]
    for group in dict.fromkeys(rows["group"]):
        part = rows[rows["group"] == group]
        first = part[(part["finding"] == order[0]) & part["arm"].isin(arms)]
        parts.append(_rate_table(run, first, f"{order[0]} by {group}"))
        every = _ordered(part, order)
        kept = every[every["finding"].isin(order[: max(1, MAX_TABLE * len(order) * len(RATES) // max(len(every), 1))])]
        told = _left_out(kept, every, "cells.csv") if len(kept) < len(every) else ""
        parts.append(fold(f"All findings and arms by {group}", _rate_table(run, kept, f"By {group}"), told))
    return blocks(parts)


def _rate_table(run: RunFolder, rows: pd.DataFrame, caption: str) -> Markup:
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        key = (row["finding"], row["level"], row["arm"])
        line = lines.setdefault(key, dict(zip(("finding", "level", "arm"), key, strict=True)))
        line |= {"images": row["n"], "positive": row["n_pos"]}
        for metric in RATES:
            line.setdefault(label(metric), Cell("–"))
        line[label(row["metric"])] = _value_cell(run, row, "value")
    if not lines:
        return Markup("")
    return table(pd.DataFrame(list(lines.values())), caption=caption, formats={"images": ",d", "positive": ",d"})


def _value_cell(run: RunFolder, row: Mapping[Any, Any], value: str) -> Cell:
    if row["flag"] == "suppressed":
        return Cell(tag("suppressed"))
    text = interval(row[value], row["ci_low"], row["ci_high"])
    mark = Markup(" ") + tag("few", "warning") if row["flag"] == "few" else Markup("")
    return Cell(Markup("{}{}").format(text, mark), _as_float(row[value]))


def interval_row(
    run: RunFolder, row: Mapping[Any, Any], *, value: str, label: str, group: str, strong: bool
) -> plot.Interval:
    """A row of ``cells.csv``, ``gaps.csv`` or ``comparison.csv`` as a row of a forest plot."""
    few = (
        run.evaluation.get("settings", {}).get("min_cell", 10)
        if isinstance(run.evaluation.get("settings"), dict)
        else 10
    )
    if row["flag"] == "suppressed" or _as_float(row[value]) is None:
        why = f"suppressed: fewer than {few}" if row["flag"] == "suppressed" else "not available"
        return plot.Interval(label=label, note=why, group=group)
    return plot.Interval(
        label=label,
        value=_as_float(row[value]),
        low=_as_float(row["ci_low"]),
        high=_as_float(row["ci_high"]),
        note="few" if row["flag"] == "few" else "",
        group=group,
        strong=strong,
        few=row["flag"] == "few",
    )


def _primary_metric(run: RunFolder) -> str:
    return str(run.verdict.get("metric") or "auroc")


def _is_primary(run: RunFolder, row: Mapping[Any, Any]) -> bool:
    verdict = run.verdict
    return (
        all(row[k] == verdict.get(k) for k in ("arm", "finding", "metric"))
        and row["baseline"] == verdict.get("control")
        and row["level"] == (verdict.get("level") or "all")
    )


def _is_primary_arm(run: RunFolder, row: Mapping[Any, Any]) -> bool:
    return row["arm"] == run.verdict.get("arm") and row["finding"] == run.verdict.get("finding")


def _shown_arms(run: RunFolder, rows: pd.DataFrame) -> list[str]:
    """The primary control and arm; all arms where the verdict names none."""
    named = [str(a) for a in (run.verdict.get("control"), run.verdict.get("arm")) if a in set(rows["arm"])]
    return named or list(dict.fromkeys(rows["arm"]))


def _findings(run: RunFolder, rows: pd.DataFrame) -> list[str]:
    """Findings with the primary one first, then as in the file, macro means last."""
    names = list(dict.fromkeys(rows["finding"]))
    first = run.verdict.get("finding")
    return sorted(names, key=lambda n: (n != first, n == "macro"))


def _ordered(rows: pd.DataFrame, findings: Sequence[str]) -> pd.DataFrame:
    rank = {name: i for i, name in enumerate(findings)}
    return rows.iloc[rows["finding"].map(rank).to_numpy().argsort(kind="stable")]


def _finding(row: Mapping[Any, Any]) -> str:
    return "Macro mean" if row["finding"] == "macro" else str(row["finding"])


def _where(row: Mapping[Any, Any]) -> str:
    return "all" if row["group"] in ("all", "") else f"{row['group']} {row['level']}"


def _capped(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.head(MAX_TABLE)


def _left_out(shown: pd.DataFrame, every: pd.DataFrame, name: str) -> Markup:
    """Where the rows are that a table leaves out to keep the page small."""
    rest = len(every) - min(len(shown), MAX_TABLE)
    if rest <= 0:
        return Markup("")
    return Markup(
        "<p><small>{} more rows (other arms, metrics, groups or single runs) are in evaluation/{}.</small></p>\n"
    ).format(number(rest, ",d"), name)


def _more(rows: pd.DataFrame) -> Markup:
    rest = len(rows) - MAX_ROWS
    text = "<p><small>{} more rows are left out of this plot.</small></p>\n" if rest > 0 else ""
    return Markup(text).format(rest)


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _as_float(value: object) -> float | None:
    try:
        number_ = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number_ if np.isfinite(number_) else None
