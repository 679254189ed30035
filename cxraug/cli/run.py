"""``cxraug run``: walk a recipe to its verdict."""

from __future__ import annotations

from pathlib import Path

import typer

from cxraug.cli.answer import print_json


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def run(
        recipe: Path = typer.Argument(..., help="The recipe (YAML)."),
        out: Path | None = typer.Option(None, "--out", help="Run folder; default runs/<recipe name>."),
        set_: list[str] = typer.Option([], "--set", help="Replace a setting, e.g. --set train.steps=400. Repeatable."),
        fresh: bool = typer.Option(False, "--fresh", help="Throw an earlier run in this folder away."),
        as_json: bool = typer.Option(False, "--json", help="Print the verdict as JSON."),
    ) -> None:
        """Walk a recipe from manifest to verdict; run it again to go on where it stopped."""
        import pandas as pd

        from cxraug.run import run_recipe

        verdict = run_recipe(recipe, out, overrides=list(set_), fresh=fresh)
        assert verdict is not None
        if as_json:
            print_json(verdict)
            return
        from cxraug.pages.verdict import print_verdict

        folder = Path(verdict["folder"])
        print_verdict(verdict, pd.read_csv(folder / "evaluation" / "comparison.csv"))
        typer.echo(f"report: {folder / 'report.html'}")
