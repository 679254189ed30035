"""``cxraug plan``: how many studies of which kind to pull from a core."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from cxraug.balance.plan import Plan


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def plan(
        manifest: Path = typer.Argument(..., help="The manifest (CSV or Parquet); its train rows are planned for."),
        target: str = typer.Option("median", "--target", help="floor=NUMBER (per finding and level), or median."),
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
        views: str | None = typer.Option(None, "--views", help="Views of every study; default as real."),
        core: str | None = typer.Option(None, "--core", help="Plan only what this core can honour."),
        where: list[str] = typer.Option([], "--where", help="Keep rows with column=value[,value...]. Repeatable."),
        label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
        root: Path | None = typer.Option(None, "--root", help="Folder that image paths start from."),
        seed: int = typer.Option(0, "--seed", min=0, help="Of the order and of every study's own seed."),
        out: Path = typer.Option(Path("plan"), "--out", help="Folder for plan.parquet and table.csv."),
        fresh: bool = typer.Option(False, "--fresh", help="Replace another plan in this folder."),
        as_json: bool = typer.Option(False, "--json", help="Print the table and notes as JSON."),
    ) -> None:
        """Plan the studies that lift rare findings and thin groups to a stated target within a budget."""
        from cxraug.balance.plan import PlanSettings, make_plan, write_plan
        from cxraug.balance.settings import parse_target
        from cxraug.studies.manifest import read_manifest

        settings = PlanSettings(
            budget=budget,
            findings=names(findings),
            floor=parse_target(target),
            groups=names(groups),
            min_label_set=min_label_set,
            views=names(views) or None,
        )
        bins = parse_age_bins(age_bins)
        card = None
        if core is not None:
            from cxraug.cores.registry import read_card

            card = read_card(core)
        columns = parse_label_columns(label_columns)
        data = read_manifest(manifest, root=root, where=parse_where(where), label_columns=columns)
        say_label_columns(data.label_columns)
        train = data.take((data.frame["split"] == "train").to_numpy())
        made = make_plan(train, settings, age_bins=bins, seed=seed, core_card=card, n=n)
        write_plan(made, out, fresh=fresh)
        if as_json:
            print_json({"studies": len(made.frame), "notes": made.notes, "table": made.table.to_dict("records")})
            return
        _print(made)
        typer.echo(f"plan: {out / 'plan.parquet'}, {len(made.frame):,} studies; every cell: {out / 'table.csv'}")


def _print(made: Plan) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cxraug.pages.page import number

    console = Console()
    for text in made.notes:
        console.print(Text(f"note: {text}"))
    table = Table(title="Positive training studies", title_justify="left")
    for name in ("finding", "cell"):
        table.add_column(name)
    for name in ("before", "target", "planned", "after", "short"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in made.table[made.table["target"].notna()].to_dict("records"):
        cells = [Text(str(row["finding"])), Text(f"{row['group']} {row['level']}" if row["group"] != "all" else "all")]
        cells += [Text(number(row[name], ",d")) for name in ("before", "target", "planned", "after", "shortfall")]
        table.add_row(*cells, style="bold" if row["shortfall"] > 0 else None)
    console.print(table)
