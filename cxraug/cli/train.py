"""``cxraug train`` and ``cxraug predict``: train a recipe's arms, and ask a trained classifier about any manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.selection import (
    LABEL_COLUMNS_HELP,
    choice,
    names,
    parse_label_columns,
    parse_where,
    say_label_columns,
)
from cxraug.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""

    @app.command()
    def train(
        recipe: Path = typer.Argument(..., help="The recipe (YAML)."),
        out: Path | None = typer.Option(None, "--out", help="Run folder; default runs/<recipe name>."),
        set_: list[str] = typer.Option([], "--set", help="Replace a setting, e.g. --set train.steps=400. Repeatable."),
        fresh: bool = typer.Option(False, "--fresh", help="Throw an earlier run in this folder away."),
        probe: str | None = typer.Option(
            None, "--probe", help="Attributes that linear probes look for in the arms' features, e.g. sex,age,race."
        ),
        as_json: bool = typer.Option(False, "--json", help="Print the folder and the predictions as JSON."),
    ) -> None:
        """Train and predict all arms of a recipe, and stop before the evaluation."""
        from cxraug.recipe import read_recipe
        from cxraug.run import run_recipe

        folder = out or Path("runs") / read_recipe(recipe, list(set_)).name
        probes = list(dict.fromkeys(names(probe) or []))
        if probe is not None and not probes:
            raise InputError("--probe names no column", found=probe, expected="for example sex,age")
        run_recipe(recipe, folder, overrides=list(set_), fresh=fresh, until="train", probes=probes)
        predictions = sorted(folder.glob("draw-*/arms/*/seed-*/predictions.parquet"))
        if as_json:
            table = {"probes": folder / "evaluation" / "probes.csv"} if probes else {}
            print_json({"folder": folder, "predictions": predictions, **table})
        else:
            typer.echo(f"{folder}: {len(predictions)} classifiers trained; `cxraug run` goes on from here")
            if probes:
                typer.echo(f"probes: {folder / 'evaluation' / 'probes.csv'}; `cxraug report {folder}` shows them")

    @app.command()
    def predict(
        model: Path = typer.Argument(..., help="Folder of a trained classifier (card.json, model.safetensors)."),
        manifest: Path = typer.Argument(..., help="The manifest (CSV or Parquet)."),
        out: Path = typer.Option(..., "--out", help="Predictions to write (.csv or .parquet)."),
        split: list[str] = typer.Option([], "--split", help="Only these splits (train, val, test). Repeatable."),
        where: list[str] = typer.Option([], "--where", help="Keep rows with column=value[,value...]. Repeatable."),
        label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
        root: Path | None = typer.Option(None, "--root", help="Folder that image paths start from."),
        on_bad_image: str = typer.Option("error", "--on-bad-image", help="error or skip (listed in rejected.csv)."),
        cache: Path | None = typer.Option(None, "--cache", help="Keep decoded images in this folder for other models."),
        arm: str | None = typer.Option(None, "--arm", help="Write this arm name into the predictions."),
        as_json: bool = typer.Option(False, "--json", help="Print counts as JSON."),
    ) -> None:
        """Predict every finding of a trained classifier for every image of a manifest."""
        from cxraug.classifiers.manifest import predict_manifest

        bad = cast(Literal["error", "skip"], choice(on_bad_image, "--on-bad-image", ("error", "skip")))
        splits = [choice(name, "--split", ("train", "val", "test")) for name in split]
        done = predict_manifest(
            model,
            manifest,
            out,
            splits=splits,
            where=parse_where(where),
            root=root,
            label_columns=parse_label_columns(label_columns),
            on_bad_image=bad,
            cache=cache,
            arm=arm,
        )
        say_label_columns(done["label_columns"])
        if as_json:
            print_json({**done, "predictions": out})
        else:
            left_out = f", {done['rejected']} bad images left out" if done["rejected"] else ""
            typer.echo(f"{out}: {done['images']} images, {len(done['findings'])} findings{left_out}")
