"""``cxraug plan``: how many studies of which kind to pull from a core."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.selection import (
    LABEL_COLUMNS_HELP,
    names,
    parse_age_bins,
    parse_label_columns,
    parse_where,
    say_label_columns,
)
from cxraug.errors import InputError, WorkError

if TYPE_CHECKING:
    from cxraug.balance.plan import Plan
    from cxraug.balance.settings import PlanSettings
    from cxraug.cores.core import Card, GenerativeCore
    from cxraug.studies.manifest import Manifest

TARGETS_HELP = (
    "Per finding and level: floor=NUMBER, median, uniform[=PREVALENCE], parity, population=FILE (group,level,weight) "
    "or power=AUROC_GAP."
)

SHOWN = 40  # cells in the terminal


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def plan(
        manifest: Path = typer.Argument(..., help="The manifest (CSV or Parquet); its train rows are planned for."),
        target: str = typer.Option("median", "--target", help=TARGETS_HELP),
        budget: int | None = typer.Option(None, "--budget", min=1, help="The most studies; default: all needed."),
        n: int | None = typer.Option(None, "--n", min=1, help="Exactly so many studies instead of a budget."),
        findings: str | None = typer.Option(
            None,
            "--findings",
            help="Raise these, as A,B; names as in the labels of train, which are listed where one is not among them. "
            "Default: those under the floor.",
        ),
        groups: str | None = typer.Option(None, "--groups", help="Default sex,age where data and core have them."),
        age_bins: str = typer.Option("0,20,40,60,80", "--age-bins", help="Lower bounds of the age bands in years."),
        min_label_set: int = typer.Option(3, "--min-label-set", min=1, help="Leave out label sets of fewer patients."),
        per_real: float | None = typer.Option(None, "--per-real", help="The most synthetic per real, in every cell."),
        per_prompt: int | None = typer.Option(
            None, "--per-prompt", min=1, help="The most studies of one label set in one combination of levels."
        ),
        views: str | None = typer.Option(None, "--views", help="Views of every study; default as real."),
        views_as_real: float | None = typer.Option(
            None, "--views-as-real", help="How far the share of a view may be from the real one, as 0.05."
        ),
        tolerance: float = typer.Option(
            0.02, "--tolerance", help="How far a share (uniform, parity, population) may be off, as a part of it."
        ),
        companions: float = typer.Option(
            0.0, "--companions", min=0, help="Studies without the wanted findings, per study with one."
        ),
        reports: bool = typer.Option(False, "--reports", help="Prompts carry real reports, each at most once."),
        core: str | None = typer.Option(None, "--core", help="Plan only what this core can honour."),
        timed: bool = typer.Option(False, "--time", help="Time the core, and say how many hours the plan takes."),
        evaluation: Path | None = typer.Option(
            None, "--from-evaluation", help="Spend the budget where this evaluation of validation rows is worst."
        ),
        aim: str = typer.Option("gap", "--aim", help="Worst by gap or by interval (with --from-evaluation)."),
        arm: str | None = typer.Option(None, "--arm", help="Whose rows of the evaluation."),
        earlier: list[Path] = typer.Option(
            [], "--with", help="A generated set of an earlier round: its accepted images count as there. Repeatable."
        ),
        where: list[str] = typer.Option([], "--where", help="Keep rows with column=value[,value...]. Repeatable."),
        label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
        root: Path | None = typer.Option(None, "--root", help="Folder that image paths start from."),
        seed: int = typer.Option(0, "--seed", min=0, help="Of the order and of every study's own seed."),
        out: Path = typer.Option(Path("plan"), "--out", help="Folder for plan.parquet, table.csv and plan.html."),
        fresh: bool = typer.Option(False, "--fresh", help="Replace another plan in this folder."),
        as_json: bool = typer.Option(False, "--json", help="Print the table and notes as JSON."),
    ) -> None:
        """Plan the studies that bring findings and groups to a stated target within a budget and other limits."""
        from cxraug.balance.cost import plan_cost
        from cxraug.balance.evaluated import read_aims
        from cxraug.balance.plan import make_plan, write_plan
        from cxraug.balance.settings import parse_target
        from cxraug.balance.verification import verify_plan
        from cxraug.studies.manifest import read_manifest

        settings = _settings(
            **parse_target(target), budget=budget, findings=names(findings), groups=names(groups),
            min_label_set=min_label_set, per_real=per_real, per_prompt=per_prompt, views=names(views) or None,
            views_as_real=views_as_real, reports=reports, tolerance=tolerance, companions=companions,
        )  # fmt: skip
        _refuse_odd(target, core, timed, evaluation, groups, arm)
        if n is not None and budget is not None:
            raise InputError("--n is exact; it takes the place of --budget", found=f"--n {n} --budget {budget}")
        card = None if core is None else _card(core)
        columns = parse_label_columns(label_columns)
        data = read_manifest(manifest, root=root, where=parse_where(where), label_columns=columns)
        say_label_columns(data.label_columns)
        aims = None if evaluation is None else read_aims(evaluation, aim=aim, arm=arm, manifest=data)
        bins = parse_age_bins(age_bins) if aims is None else aims.age_bins
        train = _with_earlier(data.take((data.frame["split"] == "train").to_numpy()), earlier)
        made = make_plan(train, settings, age_bins=bins, seed=seed, core_card=card, n=n, aims=aims)
        limits = verify_plan(made.frame, train, settings, findings=train.findings, groups=made.groups,
                             age_bins=bins, card=card, n=n)  # fmt: skip
        cost = plan_cost(made.frame, _open(core) if timed and core is not None else None)
        write_plan(made, out, fresh=fresh, settings=settings, limits=limits, cost=cost.to_json())
        if as_json:
            answer = {"studies": len(made.frame), "notes": made.notes, "table": made.table.to_dict("records")}
            answer |= {"limits": limits.to_dict("records"), "programme": made.programme}
            print_json(answer | {"cost": cost.to_json()})
            return
        _print(made)
        broken = limits[~limits["holds"]]
        kept = "all kept" if broken.empty else "NOT kept: " + ", ".join(broken["limit"] + " " + broken["tightest"])
        typer.echo(f"limits: {len(limits)} checked, {kept}; cost: {cost.sentence}")
        typer.echo(f"plan: {out / 'plan.parquet'}, {len(made.frame):,} studies; every cell: {out / 'table.csv'}")
        if not broken.empty:
            raise WorkError(f"the plan breaks limits of its own: {out / 'limits.csv'}; do not use it")


def _settings(**values: Any) -> PlanSettings:
    from pydantic import ValidationError

    from cxraug.balance.settings import PlanSettings
    from cxraug.errors import first_problem

    try:
        return PlanSettings(**values)
    except ValidationError as error:
        key, message = first_problem(error)
        raise InputError(f"--{key.replace('_', '-')}: {message}" if key else message) from None


def _refuse_odd(
    target: str, core: str | None, timed: bool, evaluation: Path | None, groups: str | None, arm: str | None
) -> None:
    """Refuse options that mean nothing together."""
    if timed and core is None:
        raise InputError("--time times a core", expected="--core NAME")
    if arm is not None and evaluation is None:
        raise InputError("--arm goes with --from-evaluation", found=arm)
    if evaluation is not None and (target != "median" or groups is not None):
        asked = f"--groups {groups}" if groups is not None else f"--target {target}"
        raise InputError("--from-evaluation takes targets and groups from the evaluation", found=asked)


def _with_earlier(train: Manifest, folders: list[Path]) -> Manifest:
    """``train`` with the accepted images of generated sets."""
    from cxraug.studies.manifest import concat, read_manifest

    parts = [train]
    for folder in folders:
        made = read_manifest(folder / "manifest.parquet", root=folder)
        if "gate" in made.frame.columns:
            made = made.take((made.frame["gate"].fillna("accept") != "reject").to_numpy())
        parts.append(made)
    return concat(parts) if folders else train


def _card(core: str) -> Card:
    from cxraug.cores.registry import read_card

    return read_card(core)


def _open(core: str) -> GenerativeCore:
    from cxraug.cores.registry import open_core

    return open_core(core)


def _print(made: Plan) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cxraug.pages.page import number

    console = Console()
    for text in made.notes:
        console.print(Text(f"note: {text}"))
    table = Table(title="Positive training studies", title_justify="left")
    wanted = made.table[made.table["target"].notna()]
    only = wanted["group"].iloc[0] if wanted["group"].nunique() == 1 else None
    for name in ("finding", only or "cell"):
        table.add_column(name, no_wrap=True)
    for name in ("before", "target", "planned", "after", "short"):
        table.add_column(name, justify="right", no_wrap=True)
    asked = wanted[(wanted["target"] > wanted["before"]) | (wanted["planned"] > 0)]
    # the worst ones, where there are too many to be read, in the order of the table
    relative = (asked["shortfall"] / asked["target"].clip(lower=1)).sort_values(ascending=False, kind="stable")
    shown = asked.loc[sorted(relative.index[:SHOWN])]
    for row in shown.to_dict("records"):
        cell = row["level"] if only or row["group"] == "all" else f"{row['group']} {row['level']}"
        cells = [Text(str(row["finding"])), Text(str(cell))]
        cells += [Text(number(row[name], ",d")) for name in ("before", "target", "planned", "after", "shortfall")]
        table.add_row(*cells, style="bold" if row["shortfall"] > 0 else None)
    console.print(table)
    if len(wanted) > len(shown):
        console.print(
            f"{len(wanted) - len(shown)} more cells with a target, none of them further from it: in table.csv"
        )
    for words in dict.fromkeys(wanted.loc[wanted["shortfall"] > 0, "held_back_by"]):
        rows = wanted[(wanted["shortfall"] > 0) & (wanted["held_back_by"] == words)]
        named = f"{rows.iloc[0]['finding']}, {rows.iloc[0]['group']} {rows.iloc[0]['level']}"
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        console.print(Text(f"short: {named}{more}: held back by {words}"))
