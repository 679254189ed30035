"""``cxraug recipe new|check``: write a commented recipe for a manifest, check one before a long run."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the command group to ``app``."""
    group = typer.Typer(help="Write and check recipes.", no_args_is_help=True)
    app.add_typer(group, name="recipe")

    @group.command()
    def new(
        manifest: Path = typer.Argument(..., help="Your manifest (CSV or Parquet)."),
        out: Path = typer.Option(Path("recipe.yaml"), "--out", help="Where to write the recipe."),
        finding: str | None = typer.Option(None, "--finding", help="The rare finding; default: the rarest usable one."),
        fresh: bool = typer.Option(False, "--fresh", help="Replace an existing file."),
    ) -> None:
        """Write a commented recipe for your own manifest: what it found there is filled in."""
        from cxraug.errors import InputError
        from cxraug.recipe import read_recipe
        from cxraug.recipe_draft import draft_recipe
        from cxraug.storage import atomic

        if out.exists() and not fresh:
            raise InputError("the file is there already", file=out, expected="another --out, or --fresh to replace it")
        text = draft_recipe(manifest, out, finding)
        with atomic(out) as temporary:
            temporary.write_text(text)
        read_recipe(out)
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
            typer.echo(found.model_dump_json(indent=1))
            return
        trainings = found.draws * found.seeds * (len(found.arms.use) + len(found.arms.ratios or [None]) - 1)
        design = f"{found.draws} draws x {found.seeds} seeds"
        typer.echo(f"{recipe}: good; {design}, {trainings} trainings of {found.train.steps} steps")
