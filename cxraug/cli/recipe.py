"""``cxraug recipe new|check``: write a commented recipe for a manifest, check one before a long run."""

from __future__ import annotations

from pathlib import Path

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.selection import LABEL_COLUMNS_HELP, parse_label_columns, say_label_columns


def register(app: typer.Typer) -> None:
    """Add the command group to ``app``."""
    group = typer.Typer(help="Write and check recipes.", no_args_is_help=True)
    app.add_typer(group, name="recipe")

    @group.command()
    def new(
        manifest: Path = typer.Argument(..., help="Your manifest (CSV or Parquet)."),
        out: Path = typer.Option(Path("recipe.yaml"), "--out", help="Where to write the recipe."),
        finding: str | None = typer.Option(None, "--finding", help="The rare finding; default: the rarest usable one."),
        label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
        fresh: bool = typer.Option(False, "--fresh", help="Replace an existing file."),
        as_json: bool = typer.Option(False, "--json", help="Print the file and its settings as JSON."),
    ) -> None:
        """Write a commented recipe for your own manifest: what it found there is filled in."""
        from cxraug.errors import InputError
        from cxraug.recipe import read_recipe
        from cxraug.recipe_draft import draft_recipe
        from cxraug.storage import atomic
        from cxraug.studies.manifest import read_manifest

        if out.exists() and not fresh:
            raise InputError("the file is there already", file=out, expected="another --out, or --fresh to replace it")
        data = read_manifest(manifest, label_columns=parse_label_columns(label_columns))
        say_label_columns(data.label_columns)
        text = draft_recipe(data, manifest, out, finding)
        with atomic(out) as temporary:
            temporary.write_text(text)
        drafted = read_recipe(out)
        if as_json:
            print_json({"recipe": out, "settings": drafted.model_dump(mode="json")})
        else:
            typer.echo(f"wrote {out}; look it through, then: cxraug run {out}")

    @group.command()
    def check(
        recipe: Path = typer.Argument(..., help="The recipe (YAML)."),
        set_: list[str] = typer.Option([], "--set", help="Replace a setting, e.g. --set train.steps=400. Repeatable."),
        data: bool = typer.Option(True, "--data/--no-data", help="Also look at the manifest and images it names."),
        as_json: bool = typer.Option(False, "--json", help="Print every setting that the run would use."),
    ) -> None:
        """Check a recipe as a run does first: keys, combinations, models, core, manifest; no image is decoded."""
        from cxraug.feasibility import refuse_impossible
        from cxraug.recipe import read_recipe

        found = read_recipe(recipe, list(set_))
        manifest = found.data.manifest
        refuse_impossible(found, None if manifest is None or not data else lambda: found.data.read(manifest))
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        trainings = found.draws * found.seeds * (len(found.arms.use) + len(found.arms.ratios or [None]) - 1)
        design = f"{found.draws} draws x {found.seeds} seeds"
        typer.echo(f"{recipe}: good; {design}, {trainings} trainings of {found.train.steps} steps")
