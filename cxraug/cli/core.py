"""``cxraug core``: the generative cores at hand, their cards, samples of them, and training new ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.core_bench import bench
from cxraug.cli.core_evaluate import evaluate
from cxraug.cli.core_foreign import convert, search
from cxraug.cli.sample import sample

if TYPE_CHECKING:
    from cxraug.cores.core import Card


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    core = typer.Typer(help="Generative cores: list, show, search, sample, train, convert, evaluate, bench.",
                       no_args_is_help=True)  # fmt: skip
    core.command("list")(list_)
    core.command("show")(show)
    core.command("search")(search)
    core.command("convert")(convert)
    core.command("sample")(sample)
    core.command("train")(train)
    core.command("bench")(bench)
    core.command("evaluate")(evaluate)
    app.add_typer(core, name="core")


def list_(as_json: bool = typer.Option(False, "--json", help="Print the cards as JSON.")) -> None:
    """List the shipped cores."""
    from rich.console import Console
    from rich.table import Table

    from cxraug.cores.registry import list_cores

    cards = list_cores()
    if as_json:
        print_json({"cores": [_short(card) for card in cards]})
        return
    # without frames and one name to a line all columns fit 80 characters, and names that are typed elsewhere stay whole
    table = Table("name", "kind", "pixels", "views", "conditions", "findings", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for card in cards:
        lists = (card.views, card.conditions, card.findings)
        table.add_row(card.name, card.kind, str(card.resolution), *["\n".join(x) for x in lists])
    Console().print(table)
    typer.echo("Also: gaussian (fitted on the spot by a run), any FOLDER that `cxraug core train` wrote, and cores of\n"
               "others: diffusers:PATH, chexgen:FILE, xgem:FILE (`cxraug core search` lists public ones).")  # fmt: skip


def show(
    name: str = typer.Argument(..., help="Name of a shipped core, a core's folder, or KIND:PATH."),
    as_json: bool = typer.Option(False, "--json", help="For machines; the card is JSON anyway."),
) -> None:
    """Print a core's card as JSON, its parameters, and what of it is missing here; hashes of what it saw as counts."""
    from cxraug.cores.inventory import missing, parameters
    from cxraug.cores.registry import read_card
    from cxraug.errors import InputError

    absent = missing(name)
    try:
        card = _short(read_card(name))
    except InputError:
        card = {}
    print_json({**card, "parameters": parameters(name), "missing": absent})


def train(
    recipe: Path = typer.Argument(..., help="The core's recipe (YAML), e.g. recipes/phantom-nano.yaml."),
    out: Path = typer.Option(..., "--out", help="Folder of the core."),
    stage: str | None = typer.Option(
        None,
        "--stage",
        help="Stop after this stage of a multi-prompt core: autoencoder, report, alignment or denoiser.",
    ),
    fresh: bool = typer.Option(False, "--fresh", help="Throw an earlier training in this folder away."),
    as_json: bool = typer.Option(False, "--json", help="Print the folder, the stages and the card as JSON."),
) -> None:
    """Train a core; run it again to go on where it stopped."""
    from cxraug.cores.recipe import read_core_recipe, stages_of, start_over, train_core
    from cxraug.cores.registry import CARD, read_card
    from cxraug.errors import InputError

    wanted = read_core_recipe(recipe)
    stages = stages_of(wanted)
    last = next((name for name in stages if name == (stage or "denoiser")), None)
    if last is None:
        raise InputError("--stage: the training of this core has no such stage", found=stage,
                         expected=f"one of {', '.join(stages)}")  # fmt: skip
    if fresh:
        start_over(out)
    train_core(wanted, out, until=last)
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes, the first one answers
    finished = (out / CARD).is_file()
    following = None if finished else stages[stages.index(last) + 1]
    if as_json:
        card = _short(read_card(str(out))) if finished else None
        print_json({"folder": out, "stage": stages[-1] if finished else last, "next": following, "card": card})
    elif finished:
        typer.echo(f"core {wanted.name}: {out}")
    else:
        typer.echo(f"core {wanted.name}: stage {last} is finished in {out}; next: {following} "
                   "(the same command with --stage, or without it to the end)")  # fmt: skip


def _short(card: Card) -> dict[str, object]:
    seen = card.hashes
    return {**card.model_dump(mode="json"), "seen": {"patients": len(seen.patients), "images": len(seen.images)}}
