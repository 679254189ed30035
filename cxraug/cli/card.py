"""``cxraug card``: the card of a generated or swapped set."""

from __future__ import annotations

from pathlib import Path

import typer

from cxraug.cli.answer import print_json


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def card(
        folder: Path = typer.Argument(..., metavar="SET", help="A generated or swapped set (folder)."),
        name: str | None = typer.Option(None, "--name", help="What the set is called; default its folder's name."),
        licence: str | None = typer.Option(
            None, "--licence", help="Licence of the set, e.g. CC-BY-4.0; default the core's, and the card says so."
        ),
        core: str | None = typer.Option(
            None, "--core", help="The core that made it, for its licence, where the set has no card of it (a swap)."
        ),
        privacy: Path | None = typer.Option(
            None, "--privacy", help="privacy.json of `cxraug privacy SET`, or its folder; default SET or SET/privacy."
        ),
        fresh: bool = typer.Option(False, "--fresh", help="Replace a README.md that is not a card of cxraug."),
        as_json: bool = typer.Option(False, "--json", help="Print what the card says in short, as JSON."),
    ) -> None:
        """Write SET/README.md (Hugging Face dataset card) and SET/croissant.json; every image is checked first."""
        from cxraug.cores.registry import read_card
        from cxraug.interop.card import write_card
        from cxraug.interop.setfacts import accepted_rows, read_set_facts

        facts = read_set_facts(folder, privacy=privacy, core=None if core is None else read_card(core))
        readme, croissant = write_card(folder, facts, name=name, licence=licence, fresh=fresh)
        attacked = facts.privacy is not None or bool((facts.swap or {}).get("attacks"))
        if as_json:
            print_json({
                "card": readme, "croissant": croissant, "images": len(facts.manifest),
                "accepted": int(accepted_rows(facts.manifest).sum()), "gated": facts.gate is not None,
                "attacked": attacked, "swapped": facts.swapped, "core": facts.core["name"], "hashes": facts.hashes,
                "notes": facts.notes,
            })  # fmt: skip
            return
        typer.echo(f"{readme}: {len(facts.manifest)} images"
                   + ("" if facts.gate is not None or facts.swapped else ", not gated")
                   + ("" if attacked else ", not attacked"))  # fmt: skip
        typer.echo(f"{croissant}: Croissant JSON-LD")
        for note in facts.notes:
            typer.echo(f"note: {note}")
