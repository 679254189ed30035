"""``cxraug core``: the generative cores at hand, their cards, samples of them, and training new ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.core_evaluate import evaluate
from cxraug.errors import InputError

if TYPE_CHECKING:
    from cxraug.cores.core import Card, Prompt, Study


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    core = typer.Typer(help="Generative cores: list, show, sample, train, evaluate.", no_args_is_help=True)
    core.command("list")(list_)
    core.command("show")(show)
    core.command("sample")(sample)
    core.command("train")(train)
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
    # without frames all columns fit 80 characters, and names that are typed elsewhere are never cut
    table = Table("name", "kind", "pixels", "views", "conditions", "findings", "licence", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for card in cards:
        lists = (card.views, card.conditions, card.findings)
        table.add_row(card.name, card.kind, str(card.resolution), *[", ".join(x) for x in lists], card.licence)
    Console().print(table)
    typer.echo("Also: gaussian (fitted on the spot by a run), or any FOLDER that `cxraug core train` wrote.")


def show(
    name: str = typer.Argument(..., help="Name of a shipped core, or a core's folder."),
    as_json: bool = typer.Option(False, "--json", help="For machines; the card is JSON anyway."),
) -> None:
    """Print a core's card as JSON; hashes of what it has seen as counts."""
    from cxraug.cores.registry import read_card

    print_json(_short(read_card(name)))


def sample(
    name: str = typer.Argument(..., help="Name of a shipped core, or a core's folder."),
    out: Path = typer.Option(..., "--out", help="Folder to write: images, reports.csv and sheet.png."),
    n: int = typer.Option(16, "--n", min=1, help="Number of studies."),
    findings: str = typer.Option("", "--findings", help='Labels such as "Effusion|-Edema" or "No Finding".'),
    sex: str | None = typer.Option(None, "--sex", help="M or F."),
    age: float | None = typer.Option(None, "--age", help="Years."),
    view: str | None = typer.Option(None, "--view", help='Such as "PA" or "PA|Lateral"; default the first known.'),
    source: str | None = typer.Option(None, "--source", help="A source that the core knows."),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the first study; the others count on."),
    steps: int | None = typer.Option(None, "--steps", min=1, help="Sampler steps."),
    guidance: float | None = typer.Option(None, "--guidance", min=0, help="Classifier-free guidance; 1 is none."),
    as_json: bool = typer.Option(False, "--json", help="Print what was written as JSON."),
) -> None:
    """Draw studies of one prompt and write them with a contact sheet."""
    from cxraug.cores.core import Prompt
    from cxraug.cores.registry import open_core
    from cxraug.progress import track
    from cxraug.studies.labels import parse_labels

    try:
        labels = {finding: value for finding, value in parse_labels(findings).items() if value in (0, 1)}
    except ValueError as error:
        raise InputError(f"--findings: {error}") from None
    if sex not in (None, "M", "F"):
        raise InputError("--sex", found=sex, expected="M or F")
    if age is not None and not 0 <= age <= 120:
        raise InputError("--age", found=age, expected="0 to 120 years")
    core = open_core(name)
    core.configure(steps=steps, guidance=guidance)
    views = tuple((view or core.card.views[0]).split("|"))
    prompts = [Prompt(f"s{i:05d}", labels, sex, age, views=views, source=source) for i in range(n)]
    studies: list[Study] = []
    for start in track(range(0, n, core.batch_size), "sampling batches"):
        part = prompts[start : start + core.batch_size]
        studies += core.generate(part, [seed + start + i for i in range(len(part))])
    _write(studies, prompts, out)
    if as_json:
        print_json({"core": core.card.name, "studies": n, "reports": out / "reports.csv", "sheet": out / "sheet.png"})
    else:
        typer.echo(f"{n} studies of {core.card.name}: {out / 'sheet.png'}")


def train(
    recipe: Path = typer.Argument(..., help="The core's recipe (YAML), e.g. recipes/phantom-nano.yaml."),
    out: Path = typer.Option(..., "--out", help="Folder of the core."),
    fresh: bool = typer.Option(False, "--fresh", help="Throw an earlier training in this folder away."),
    as_json: bool = typer.Option(False, "--json", help="Print the folder and the card as JSON."),
) -> None:
    """Train a core; run it again to go on where it stopped."""
    from cxraug.cores.recipe import read_core_recipe, start_over, train_core
    from cxraug.cores.registry import read_card

    wanted = read_core_recipe(recipe)
    if fresh:
        start_over(out)
    train_core(wanted, out)
    if as_json:
        print_json({"folder": out, "card": _short(read_card(str(out)))})
    else:
        typer.echo(f"core {wanted.name}: {out}")


def _write(studies: list[Study], prompts: list[Prompt], out: Path) -> None:
    import pandas as pd
    from PIL import Image

    from cxraug.storage import atomic

    rows = []
    for prompt, study in zip(prompts, studies, strict=True):
        for view, pixels in study.images.items():
            name = f"{prompt.prompt_id}_{view.replace(' ', '-')}.png"
            with atomic(out / name) as temporary:
                Image.fromarray(pixels).save(temporary)
            rows.append({"image": name, "view": view, "report": study.report})
    with atomic(out / "reports.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    with atomic(out / "sheet.png") as temporary:
        Image.fromarray(_sheet(studies)).save(temporary)


def _sheet(studies: list[Study]):  # type: ignore[no-untyped-def]
    """All images of all studies in a grid about as wide as high, uint8."""
    import numpy as np

    images = [pixels for study in studies for pixels in study.images.values()]
    columns = int(np.ceil(np.sqrt(len(images))))
    size = images[0].shape[0] + 2
    sheet = np.zeros((size * -(-len(images) // columns), size * columns), np.uint8)
    for i, pixels in enumerate(images):
        row, column = divmod(i, columns)
        sheet[row * size : row * size + size - 2, column * size : column * size + size - 2] = pixels
    return sheet


def _short(card: Card) -> dict[str, object]:
    seen = card.hashes
    return {**card.model_dump(mode="json"), "seen": {"patients": len(seen.patients), "images": len(seen.images)}}
