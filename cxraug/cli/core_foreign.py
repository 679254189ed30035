"""``cxraug core search`` and ``cxraug core convert``: cores of other programs."""

from __future__ import annotations

from pathlib import Path

import typer

from cxraug.cli.answer import print_json


def search(
    words: list[str] = typer.Argument(None, help="Words that all occur in a core's entry, e.g. lateral or MIMIC."),
    condition: list[str] = typer.Option([], "--condition", help="Only cores that know it, e.g. race; repeatable."),
    view: list[str] = typer.Option([], "--view", help="Only cores that draw it, e.g. Lateral; repeatable."),
    as_json: bool = typer.Option(False, "--json", help="Print the entries as JSON."),
) -> None:
    """List known public cores of others, their terms, and how to name them. Nothing is downloaded."""
    from cxraug.cores.known import search_cores

    found = search_cores(words or [], conditions=condition, views=view)
    if as_json:
        print_json({"cores": [core.model_dump(mode="json") for core in found]})
        return
    for core in found:
        typer.echo(f"{core.name}: {core.title}, {core.resolution} px, {'|'.join(core.views) or 'views: see source'}")
        typer.echo(f"  conditions  {', '.join(core.conditions)}")
        typer.echo(f"  source      {core.source} ({core.paper})")
        typer.echo(f"  licence     {core.licence}; access: {core.access}")
        typer.echo(f"  trained on  {', '.join(core.trained_on)}; none of that may be in your test or validation rows")
        typer.echo(f"  use as      {core.spec}")
    typer.echo(f"{len(found)} of the registry; get the weights from the source yourself, under its terms"
               if found else "none in the registry")  # fmt: skip


def convert(
    source: str = typer.Argument(..., metavar="SRC", help="chexgen:FILE or xgem:FILE."),
    target: Path = typer.Argument(..., metavar="DST", help="Folder of the converted core."),
    as_json: bool = typer.Option(False, "--json", help="Print the card as JSON."),
) -> None:
    """Convert the weights of another program once, into safetensors of diffusers and transformers."""
    from cxraug.cores.registry import convert_core

    card = convert_core(source, target)
    if as_json:
        print_json({"folder": target, "card": card.model_dump(mode="json")})
        return
    typer.echo(f"{target}: core {card.name}, {card.resolution} px, {', '.join(card.views)}")
    for part, count in card.settings.get("dropped", {}).items():
        typer.echo(f"  left out of {part}: {count:,} parameters without effect")
    typer.echo(f"use it as {source.split(':')[0]}:{target}")
