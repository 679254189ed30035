"""``cxraug evaluate``: audit anybody's predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxraug.cli.answer import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from cxraug.evaluation.evaluate import Evaluation, EvaluationSettings

HEADLINE = (("auroc", "auprc"), ("tpr", "fpr"), ("underdiagnosis", "overdiagnosis"))
WIDE = 140


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="evaluate")(evaluate)


def evaluate(
    predictions: Annotated[
        list[str], typer.Argument(metavar="PREDICTIONS...", help="CSV or Parquet files; NAME:FILE names an arm.")
    ],
    groups: Annotated[
        str, typer.Option(help="Group columns and intersections, e.g. sex,age,sex*age; '' for none.")
    ] = "",
    age_bins: Annotated[str, typer.Option(help="Lower bounds of the age bands in years.")] = "0,20,40,60,80",
    thresholds: Annotated[
        list[Path] | None, typer.Option(help="finding,threshold table: once for all files or once per file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables.")] = None,
    reference: Annotated[
        list[str] | None, typer.Option(help="Reference level of a group, e.g. sex=M (default: the rest).")
    ] = None,
    controls: Annotated[
        str, typer.Option(help="Arms to compare the others with (default: the first arm where there are several).")
    ] = "",
    primary: Annotated[
        str,
        typer.Option(
            metavar="ARM,CONTROL,FINDING[,METRIC[,GROUP=LEVEL]]",
            help="The comparison named in advance: reported first, a family of its own.",
        ),
    ] = "",
    metrics: Annotated[str, typer.Option(help="Metrics, comma separated (default: all).")] = "",
    min_cell: Annotated[int, typer.Option(help="Suppress cells below so many images or patients.")] = 10,
    few: Annotated[int, typer.Option(help="Flag cells below so many.")] = 50,
    alpha: Annotated[float, typer.Option(help="Two-sided level; intervals are 1 - alpha.")] = 0.05,
    threshold_rule: Annotated[
        str, typer.Option(help="youden, f1, sensitivity=S or fpr=F, on validation rows.")
    ] = "youden",
    recalibration: Annotated[
        str, typer.Option(help="platt, temperature, isotonic or none, on validation rows, before Brier score and ECE.")
    ] = "platt",
    mitigate: Annotated[
        str, typer.Option(metavar="GROUP", help="Show what thresholds by this group would change (needs fairlearn).")
    ] = "",
    mitigate_by: Annotated[
        str, typer.Option(help="equalized_odds, true_positive_rate_parity or false_positive_rate_parity.")
    ] = "equalized_odds",
    bootstrap: Annotated[int, typer.Option(help="Patient-bootstrap replicates for AUPRC.")] = 1000,
    matched: Annotated[
        str, typer.Option(help="Also gaps at matched population, prevalence; '' for none.")
    ] = "population,prevalence",
    match_on: Annotated[str, typer.Option(help="Columns the population is matched on.")] = "sex,age,view",
    non_inferiority: Annotated[
        float | None,
        typer.Option(metavar="MARGIN", help="Also test whether arms are worse than controls by less than this AUROC."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstraps.")] = 0,
    formats: Annotated[
        str,
        typer.Option("--format", help="Reports in the folder: html, md (a fairness card), json."),
    ] = "html",
    logits: Annotated[bool, typer.Option("--logits", help="The p_ columns hold logits.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse files with different test images (default: those in all of them).")
    ] = False,
    with_train: Annotated[
        bool, typer.Option("--with-train", help="Judge rows of the training split too, as if they were test rows.")
    ] = False,
    on: Annotated[
        str, typer.Option("--on", help="test, or val: the validation rows, with the test rows left unread.")
    ] = "test",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Metrics per finding and group with patient-clustered intervals, gaps between groups, comparisons of arms."""
    from cxraug.errors import InputError
    from cxraug.evaluation.evaluate import evaluate as run
    from cxraug.evaluation.evaluate import write_evaluation
    from cxraug.evaluation.predictions import read_predictions, refuse_one_class
    from cxraug.pages.evaluation import check_formats, write_evaluation_report

    reports = list(dict.fromkeys(_list(formats)))
    check_formats(reports)
    if out is None and reports != ["html"]:
        raise InputError("--format needs a folder to write to", found=formats, expected="--out FOLDER")
    if out is not None and out.exists() and not out.is_dir():
        raise InputError("--out is a file", file=out, expected="a folder")
    if on not in ("test", "val"):
        raise InputError("--on is not known", found=on, expected="test or val")
    if on == "val" and with_train:
        raise InputError("--on val judges validation rows alone", found="--with-train", expected="one of the two")
    read = read_predictions(predictions, logits=logits, strict=strict, with_train=with_train, on=on)  # type: ignore[arg-type]
    refuse_one_class(read)
    named = _list(controls) or (read.arms[:1] if len(read.arms) > 1 else [])
    values = {
        "groups": ["*".join(part.strip() for part in group.split("*")) for group in _list(groups)],
        "age_bins": _numbers(age_bins), "min_cell": min_cell, "few": few, "alpha": alpha,
        "threshold_rule": threshold_rule, "reference": _references(reference or []), "controls": named, "seed": seed,
        "primary": _primary(primary) if primary else None, "matched": _list(matched), "match_on": _list(match_on),
        "non_inferiority": non_inferiority,
        "bootstrap": bootstrap, **({"metrics": _list(metrics)} if metrics else {}),
    }  # fmt: skip
    if non_inferiority is not None and not named:
        raise InputError("--non-inferiority compares arms", found="one arm", expected="NAME:FILE of at least two arms")
    tables = list(thresholds) if thresholds else None
    evaluation = run(
        read,
        _settings(values),
        thresholds=tables,
        recalibration=recalibration,  # type: ignore[arg-type]
        mitigation=(mitigate, mitigate_by) if mitigate else None,
    )
    if out is not None:
        write_evaluation(evaluation, out)
        write_evaluation_report(out, reports)
    if json_:
        _print_json(evaluation, out)
    else:
        _print_tables(evaluation, out)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[float]:
    from cxraug.errors import InputError

    try:
        return [float(part) for part in _list(text)]
    except ValueError:
        raise InputError("--age-bins takes numbers", found=text, expected="for example 0,20,40,60,80") from None


def _references(pairs: list[str]) -> dict[str, str]:
    from cxraug.errors import InputError

    for pair in pairs:
        if "=" not in pair:
            raise InputError("--reference takes GROUP=LEVEL", found=pair, expected="for example sex=M")
    found = dict(pair.split("=", 1) for pair in pairs)  # type: ignore[misc]
    if len(found) < len(pairs):
        raise InputError("--reference names a group twice", found=", ".join(pairs), expected="one level per group")
    return found


def _primary(text: str) -> dict[str, str]:
    from cxraug.errors import InputError

    parts = _list(text)
    if not 3 <= len(parts) <= 5 or (len(parts) == 5 and "=" not in parts[4]):
        expected = "ARM,CONTROL,FINDING[,METRIC[,GROUP=LEVEL]]"
        raise InputError("--primary names a comparison", found=text, expected=expected)
    named = dict(zip(("arm", "control", "finding", "metric"), parts, strict=False))
    if len(parts) == 5:
        named["group"], named["level"] = parts[4].split("=", 1)
    return named


def _settings(values: dict[str, Any]) -> EvaluationSettings:
    from pydantic import ValidationError

    from cxraug.errors import InputError, first_problem
    from cxraug.evaluation.evaluate import EvaluationSettings

    try:
        return EvaluationSettings(**values)
    except ValidationError as error:
        key, message = first_problem(error)
        raise InputError(f"--{key.split('.')[0].replace('_', '-')}: {message}") from None


def _print_json(evaluation: Evaluation, out: Path | None) -> None:
    tables = (evaluation.cells, evaluation.gaps)
    cells, gaps = (table[(table["seed"] == "all") & (table["draw"] == "all")] for table in tables)
    value = {
        "out": out,
        "cells": cells.to_dict("records"),
        "gaps": gaps.to_dict("records"),
        "comparison": evaluation.comparison.to_dict("records"),
        "non_inferiority": evaluation.info["non_inferiority"],
        "notes": evaluation.info["notes"],
    }
    if "mitigation" in evaluation.info:
        value["mitigation"] = evaluation.info["mitigation"]
    print_json(value)


def _print_tables(evaluation: Evaluation, out: Path | None) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)  # a log or a pipe has no width of its own
    info = evaluation.info
    judged = "validation" if info["judged"] == "val" else "test"
    console.print(
        f"{info['n_images']:,} {judged} images of {info['n_patients']:,} patients, {len(info['runs'])} run(s)"
    )
    for arm in dict.fromkeys(evaluation.cells["arm"]):
        for pair in HEADLINE:
            table = _cells_table(evaluation, arm, pair)
            if table.row_count:
                console.print(table)
    if len(evaluation.gaps):
        console.print(_gaps_table(evaluation))
    if len(evaluation.comparison):
        console.print(_comparison_table(evaluation))
    for row in info["non_inferiority"]:
        console.print(_non_inferiority_line(row), markup=False)
    if "mitigation" in info:
        console.print(_mitigation_table(info["mitigation"]))
        for note in info["mitigation"]["notes"]:
            console.print(f"mitigation: {note}", markup=False)
    for note in info["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print("* few cases (fewer than the flag's limit); suppressed: too few to be shown", markup=False)
    if out is not None:
        console.print(f"written to {out}", markup=False)


def _non_inferiority_line(row: dict[str, Any]) -> str:
    shown = "non-inferior" if row["shown"] else "non-inferiority not shown"
    what = f"{row['arm']} - {row['baseline']}, {row['finding']} {row['metric']}"
    return (
        f"{what}: {shown} at the margin {row['margin']:g} (bound {row['bound']:+.3f}, p {_p_value(row['p_adjusted'])})"
    )


def _p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _table(title: str, columns: dict[str, str]) -> Table:
    """An open table whose columns (name: justify) fold rather than lose digits."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name, justify in columns.items():
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _cells_table(evaluation: Evaluation, arm: str, metrics: tuple[str, ...]) -> Table:
    """One row per finding: the ``metrics`` on the whole test set over all runs."""
    from rich.text import Text

    from cxraug.evaluation.metrics import METRICS

    cells = evaluation.cells[evaluation.cells["arm"] == arm]
    whole = cells[(cells["seed"] == "all") & (cells["draw"] == "all") & (cells["group"] == "all")]
    whole = whole[whole["metric"].isin(metrics)]
    shown = [metric for metric in metrics if metric in set(whole["metric"])]
    columns = {"finding": "left", "positives": "right", **{METRICS[metric].label: "right" for metric in shown}}
    level = 100 * (1 - evaluation.info["settings"]["alpha"])
    table = _table(f"{arm}, whole test set, {level:g} % patient-clustered intervals", columns)
    for finding in dict.fromkeys(whole["finding"]):
        rows = whole[whole["finding"] == finding].set_index("metric").to_dict("index")
        n_pos = next(iter(rows.values()))["n_pos"]
        texts = [_number(rows[metric]) if metric in rows else "" for metric in shown]
        table.add_row(Text(str(finding)), "" if n_pos != n_pos or n_pos is None else f"{int(n_pos):,}", *texts)
    return table


def _number(row: dict[str, Any]) -> str:
    if row["flag"] == "suppressed":
        return "suppressed"
    mark = "*" if row["flag"] == "few" else ""
    return f"{row['value']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f}){mark}"


def _gaps_table(evaluation: Evaluation, most: int = 20) -> Table:
    """The gaps with the smallest adjusted p over all runs, at least those that are shown (p at most alpha)."""
    from rich.text import Text

    from cxraug.pages.gaps import distinct_gaps, is_shown

    gaps = distinct_gaps(evaluation.gaps)
    gaps = gaps[gaps["flag"] != "suppressed"].sort_values("p_adjusted", kind="stable")
    alpha = evaluation.info["settings"]["alpha"]
    firm = sum(is_shown(row, alpha) for row in gaps.to_dict("records"))
    clear = int((gaps["p_adjusted"] <= alpha).sum())
    title = f"Gaps: {firm} of {len(gaps)} are shown (adjusted p, simultaneous intervals per metric and grouping)"
    columns = {"arm": "left", "finding": "left", "who": "left", "metric": "left", "gap": "right", "p adj.": "right",
               "detectable": "right"}  # fmt: skip
    table = _table(title, columns)
    for row in gaps.head(max(most, clear)).to_dict("records"):
        who = f"{row['group']} {row['level']} - {row['reference']}"
        who += f", {row['matched']} matched" if row["matched"] else ""
        mark = "*" if row["flag"] == "few" else ""
        gap = f"{row['gap']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f}){mark}"
        texts = [str(row["arm"]), str(row["finding"]), who, str(row["metric"]), gap]
        table.add_row(*map(Text, texts), _p_value(row["p_adjusted"]), f"{row['mdg']:.3f}")
    return table


def _comparison_table(evaluation: Evaluation, most: int = 40) -> Table:
    """The primary endpoint, then AUROC and AUPRC on the whole test set."""
    from rich.text import Text

    rows = evaluation.comparison
    ranks = rows["metric"].isin(["auroc", "auprc"]) & (rows["group"] == "all")
    rows = rows[(rows["flag"] != "suppressed") & (ranks | (rows["family"] == "primary"))]
    columns = {"arm - control": "left", "finding": "left", "metric": "left", "difference": "right", "p Holm": "right",
               "detectable": "right", "draws x seeds": "left"}  # fmt: skip
    table = _table("Arms against controls (marginal intervals, Holm within a family)", columns)
    for row in rows.head(most).to_dict("records"):
        texts = [f"{row['arm']} - {row['baseline']}", str(row["finding"]), str(row["metric"])]
        mark = "*" if row["flag"] == "few" else ""
        difference = f"{row['difference']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f}){mark}"
        draws = f"{row['n_draws']} x {row['n_seeds']}" + (", draws not assessed" if row["n_draws"] == 1 else "")
        table.add_row(*map(Text, texts), Text(difference), _p_value(row["p_adjusted"]), f"{row['mde']:.3f}", draws)
    return table


def _mitigation_table(found: dict[str, Any], most: int = 40) -> Table:
    """TPR and FPR before and after thresholds by group: the first rows, all of them are in ``mitigation.csv``."""
    from rich.text import Text

    title = f"Mitigation, not applied: thresholds by {found['group']}, {found['constraint']} (fairlearn, on validation)"
    columns = {"arm": "left", "finding": "left", "level": "left", "metric": "left", "before": "right",
               "after": "right", "gap before": "right", "gap after": "right"}  # fmt: skip
    table = _table(title, columns)
    shown = [row for row in found["rows"] if row["before"] == row["before"]]  # not NaN: not suppressed
    for row in shown[:most]:
        level = row["level"] + (" (threshold kept)" if row["threshold"] == "kept" else "")
        mark = "*" if row["flag"] == "few" else ""
        rates = [_with_limits(row, name, "") + mark for name in ("before", "after")]
        gaps = [_with_limits(row, f"gap_{name}", "+") for name in ("before", "after")]
        table.add_row(*map(Text, (row["arm"], row["finding"], level, row["metric"].upper(), *rates, *gaps)))
    if len(shown) > most:
        table.caption = f"{len(shown) - most} more rows in mitigation.csv"
    return table


def _with_limits(row: dict[str, Any], name: str, sign: str) -> str:
    value, low, high = (row[name + end] for end in ("", "_low", "_high"))
    return "" if value != value else f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"
