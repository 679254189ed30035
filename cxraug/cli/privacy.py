"""``cxraug privacy``: can anybody be found in a synthetic set?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.selection import LABEL_COLUMNS_HELP, parse_label_columns, parse_where, say_label_columns

if TYPE_CHECKING:
    import pandas as pd

    from cxraug.cores.core import Card


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def privacy(
        synthetic: Path = typer.Argument(..., metavar="SET", help="A generated set (folder), or a manifest."),
        real: Path = typer.Option(..., "--real", help="Manifest of the real images to protect, all splits."),
        out: Path = typer.Option(..., "--out", help="Folder for attacks.csv, privacy.json and privacy.html."),
        core: str | None = typer.Option(
            None, "--core", help="The set's core: its loss is attacked too, and its card says who was trained on."
        ),
        links: Path | None = typer.Option(
            None, "--links", help="Table prompt_id, image, patient_id: whom each synthetic study stands in for."
        ),
        networks: Path | None = typer.Option(
            None, "--networks", help="Folder of the attackers' networks, shared by several sets; default OUT/work."
        ),
        size: int = typer.Option(64, "--size", help="Side in pixels at which images are compared."),
        folds: int = typer.Option(3, "--folds", help="Folds of patients; each is attacked by a network of the others."),
        steps: int = typer.Option(400, "--steps", help="Training steps of each fold's network."),
        pairs: int = typer.Option(5, "--pairs", help="Pairs of one patient that are attacked, at most."),
        impostors: int = typer.Option(200, "--impostors", help="Impostors of a pair, at most."),
        extractor: str = typer.Option("conv-random", "--extractor", help="Of distances; as of `cxraug fidelity`."),
        loss: bool = typer.Option(True, "--loss/--no-loss", help="Attack the core's loss, where it has one."),
        copies: bool = typer.Option(True, "--copies/--no-copies", help="Look for memorised images."),
        same_labels: bool = typer.Option(
            False, "--same-labels", help="A patient number under other labels is another patient (shared numbers)."
        ),
        with_rejected: bool = typer.Option(False, "--with-rejected", help="Also images that the gate rejected."),
        where: list[str] = typer.Option([], "--where", help="Keep real rows with column=value[,value...]. Repeatable."),
        label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
        root: Path | None = typer.Option(None, "--root", help="Folder that the real images' paths start from."),
        seed: int = typer.Option(0, "--seed", min=0, help="Of folds, pairs, networks and bootstraps."),
        device: str = typer.Option("cpu", "--device", help="Where to compute: cpu or cuda."),
        fresh: bool = typer.Option(False, "--fresh", help="Throw away what OUT holds and start over."),
        as_json: bool = typer.Option(False, "--json", help="Print privacy.json."),
    ) -> None:
        """Attack a synthetic set: re-identification, membership, closest records; real pairs first."""
        from cxraug.cli.fidelity import read_synthetic
        from cxraug.cores.registry import open_core
        from cxraug.errors import InputError
        from cxraug.machine import check_device
        from cxraug.pages.privacy import write_privacy_page
        from cxraug.privacy.attacks import AttackSettings, attack_set
        from cxraug.studies.manifest import read_manifest

        check_device(device)
        settings = AttackSettings(
            size=size, folds=folds, steps=steps, pairs=pairs, impostors=impostors, extractor=extractor, loss=loss,
            copies=copies, same_labels=same_labels, seed=seed, device=device,
        )  # fmt: skip
        table = None if links is None else read_links(links)
        data = read_manifest(
            real, root=root, where=parse_where(where), label_columns=parse_label_columns(label_columns)
        )
        say_label_columns(data.label_columns)
        made, rejected = read_synthetic(synthetic, with_rejected)
        opened = None if core is None else open_core(core, device=device)
        card = _card_of(synthetic)
        if opened is not None and card is not None and opened.card.sha256 != card.sha256:
            raise InputError("--core is not the core that made the set", file=synthetic,
                             found=f"{opened.card.name} {opened.card.sha256[:12]}",
                             expected=f"{card.name} {card.sha256[:12]}")  # fmt: skip
        found = attack_set(
            data, made, out, settings, links=table, core=opened, card=card, networks=networks,
            fresh=fresh,
        )  # fmt: skip
        page = write_privacy_page(out)
        if as_json:
            print_json(found)
            return
        _show(found)
        if rejected:
            typer.echo(f"note: {rejected} images that the gate rejected are left out (--with-rejected keeps them)")
        typer.echo(f"attacks: {out / 'attacks.csv'}, page: {page}")


def read_links(path: Path) -> pd.DataFrame:
    """Read a table of links (CSV or Parquet) as text."""
    from cxraug.errors import InputError
    from cxraug.privacy.attacks import LINKS
    from cxraug.studies.table import read_table

    frame = read_table(path).frame
    for name in LINKS:
        if name not in frame:
            raise InputError("missing column", file=path, row=1, column=name, expected=", ".join(LINKS))
        empty = frame[name].isna()
        if empty.any():
            raise InputError("empty value", file=path, row=int(empty.to_numpy().argmax()) + 2, column=name)
    return frame[list(LINKS)].astype("str")


def _card_of(path: Path) -> Card | None:
    """The card of the core that made a generated set; None for a manifest or a set without one."""
    from cxraug.cores.core import Card
    from cxraug.storage import read_json
    from cxraug.synthesis.generate import CARD

    place = (path if path.is_dir() else path.parent) / CARD
    return Card.model_validate(read_json(place)) if place.is_file() else None


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=None, pad_edge=False)
    for name in ("attack", "target", "measure", "value [95 %]", "patients", ""):
        right = name in ("value [95 %]", "patients")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name == "attack")
    told = [row for row in found["rows"] if row["value"] is not None]
    for row in told:
        cells = [row["attack"], row["target"], row["measure"], _value(row), str(row["n_patients"]), row["flag"]]
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    if blank := len(found["rows"]) - len(told):
        console.print(Text(f"{blank} numbers that these patients are too few for stand in attacks.csv, each with why"))
    for line in found["sentences"]:
        console.print(Text(line))
    for line in found["notes"]:
        console.print(Text(f"note: {line}"))
    console.print(Text(found["not_promised"][0]))


def _value(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "–"
    if row["ci_low"] is None:
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
