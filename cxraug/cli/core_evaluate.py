"""``cxraug core evaluate``: measures of a core beside real images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cxraug.cli.answer import print_json

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = ("attributes",)  # sets whose rows are printed one by one; of the others only macro and overall rows


def evaluate(
    name: str = typer.Argument(..., metavar="CORE", help="Name of a shipped core, or a core's folder."),
    manifest: Path = typer.Argument(..., help="Manifest of real images: train rows for the probes, others to match."),
    out: Path = typer.Option(
        ..., "--out", help="Folder: sets/, probes/, measures.csv, core_evaluation.json, report.html."
    ),
    splits: str = typer.Option("test", "--splits", help="Splits of the real rows that prompts are made of."),
    n: int | None = typer.Option(None, "--n", min=1, help="Studies to ask for; default all of the splits."),
    sets: str | None = typer.Option(None, "--sets", help='Only these prompts, e.g. "attributes,views only".'),
    train: Path | None = typer.Option(None, "--train", help="Manifest of the images that the core was trained on."),
    probes: Path | None = typer.Option(None, "--probes", help="Folder of the probes; default OUT/probes."),
    probe_steps: int = typer.Option(1500, "--probe-steps", min=1, help="Training steps of the reader."),
    side: int = typer.Option(128, "--side", min=32, help="Pixels at which the probes read; at most the core's own."),
    swaps: int = typer.Option(48, "--swaps", min=0, help="Prompts whose attributes are swapped one by one."),
    pairs: int = typer.Option(100, "--pairs", min=0, help="Prompts that are generated twice, for diversity."),
    extractor: str = typer.Option("conv-random", "--extractor", help="As of `cxraug fidelity`."),
    where: list[str] = typer.Option([], "--where", help="Only rows with column=value[,value...]; may be repeated."),
    root: Path | None = typer.Option(None, "--root", help="Folder that the manifest's paths start from."),
    steps: int | None = typer.Option(None, "--steps", min=1, help="Sampler steps."),
    guidance: float | None = typer.Option(None, "--guidance", min=0, help="Classifier-free guidance; 1 is none."),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the choice of studies, the prompts' noise and the probes."),
    device: str = typer.Option("cpu", "--device", help="Where to compute: cpu or cuda."),
    fresh: bool = typer.Option(False, "--fresh", help="Throw away the sets and probes in OUT."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Measure a core on prompts made of real test rows, beside these rows; run it again to go on where it stopped."""
    from cxraug.cli.selection import names, parse_where
    from cxraug.cores.measures.evaluation import EvaluationSettings, evaluate_core
    from cxraug.cores.registry import open_core
    from cxraug.machine import check_device
    from cxraug.pages.core_evaluation import write_core_report
    from cxraug.studies.manifest import read_manifest

    core = open_core(name, device=check_device(device))
    core.configure(steps=steps, guidance=guidance)
    settings = EvaluationSettings(
        splits=tuple(names(splits) or ()), n=n, seed=seed, sets=tuple(names(sets) or ()), probe_steps=probe_steps,
        side=side, swaps=swaps, pairs=pairs, extractor=extractor, device=device,
    )  # fmt: skip
    real = read_manifest(manifest, root=root, where=parse_where(where))
    known = None if train is None else read_manifest(train)
    found = evaluate_core(core, real, out, settings, probes=probes, train=known, fresh=fresh)
    page = write_core_report(out)
    if as_json:
        print_json(found)
        return
    _show(found)
    typer.echo(f"measures: {out / 'measures.csv'}, page: {page}")


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(Text(f"{found['core']['name']} {found['core']['sha256'][:12]}: {sentence(found)}"))
    for name in dict.fromkeys(row["prompts"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["prompts"] == name]
        if name not in SHOWN:
            rows = [row for row in rows if row["of"] == row["of"] and _is_whole(row)]
        console.print(_table(name, rows))
    for text in found["notes"]:
        console.print(Text(f"note: {text}"))


def sentence(found: dict[str, Any]) -> str:
    """How good the probes are on the real images: what generated ones are measured by."""
    wanted = {"label auroc": "macro AUROC", "sex accuracy": "sex accuracy", "age correlation": "age r"}
    parts = []
    for measure, text in wanted.items():
        real = [r["real"] for r in found["rows"] if r["measure"] == measure and r["of"] in ("macro", "sex", "age")]
        real = [value for value in real if value == value]
        if real:
            parts.append(f"{text} {real[0]:.3f}")
    return f"the probes on {found['manifest']['images']} real images: {', '.join(parts) or 'not measured'}"


def _is_whole(row: dict[str, Any]) -> bool:
    whole = ("macro", "all", "sex", "age", "all boxes", "lung", "heart", "lesion", "one prompt", "images", "micro")
    return row["measure"].startswith(("swap", "pair", "recall", "prompts")) or row["of"].split(", ")[0] in whole


def _table(name: str, rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(f"prompts: {name}"), title_justify="left", box=None, pad_edge=False)
    for column in ("measure", "of", "real", "generated", "chance", "ratio [95 %]", "n", ""):
        shown.add_column(column, justify="left" if column in ("measure", "of", "") else "right", overflow="fold")
    for row in rows:
        ratio = _number(row["ratio"])
        if row["ci_low"] == row["ci_low"]:
            ratio += f" [{_number(row['ci_low'])}, {_number(row['ci_high'])}]"
        cells = [row["measure"], row["of"], *(_number(row[c]) for c in ("real", "generated", "chance")), ratio]
        shown.add_row(*(Text(str(c)) for c in cells), str(row["n"] or ""), Text(row["flag"]))
    return shown


def _number(value: float) -> str:
    return f"{value:.3g}" if value == value else ""
