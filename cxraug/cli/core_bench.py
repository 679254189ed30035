"""``cxraug core bench``: quality against steps of a core's sampler."""

from __future__ import annotations

from pathlib import Path

import typer

from cxraug.cli.answer import print_json
from cxraug.errors import InputError


def bench(
    name: str = typer.Argument(..., metavar="CORE", help="Name of a shipped core, or a core's folder."),
    manifest: Path = typer.Argument(..., help="Manifest of real images; their attributes are the prompts."),
    out: Path = typer.Option(..., "--out", help="Folder: bench.csv, sheets/, and the trials that are done."),
    steps: str = typer.Option("4,6,8,12,20", "--steps", help="Numbers of sampler steps."),
    guidance: str | None = typer.Option(None, "--guidance", help="Guidance scales; default the core's own."),
    until: str | None = typer.Option(
        None, "--until", help="Noise levels below which guidance acts; default the core's."
    ),
    since: str | None = typer.Option(None, "--from", help="Noise levels above which it acts; default the core's."),
    n: int = typer.Option(500, "--n", min=20, help="Studies."),
    splits: str = typer.Option("val", "--splits", help="Splits of the real rows. Choose on val, never on test."),
    tolerance: float = typer.Option(
        0.05, "--tolerance", min=0, help="Share above the lowest distance that is allowed."
    ),
    extractor: str = typer.Option("conv-random", "--extractor", help="As of `cxraug fidelity`."),
    where: list[str] = typer.Option([], "--where", help="Only rows with column=value[,value...]; may be repeated."),
    root: Path | None = typer.Option(None, "--root", help="Folder that the manifest's paths start from."),
    seed: int = typer.Option(0, "--seed", min=0),
    write: bool = typer.Option(False, "--write", help="Make the chosen setting the default of a core's folder."),
    device: str = typer.Option("cpu", "--device", help="Where to compute: cpu or cuda."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Print distance to real images against sampler steps; choose the cheapest setting as good as the best."""
    from cxraug.cli.selection import names, parse_where
    from cxraug.cores.bench import bench_core, trials
    from cxraug.cores.registry import SHIPPED, find_core, open_core, write_sampler
    from cxraug.fidelity.extractors import open_extractor
    from cxraug.machine import check_device
    from cxraug.studies.manifest import read_manifest

    core = open_core(name, device=check_device(device))
    if write and find_core(name).is_relative_to(SHIPPED):
        raise InputError("--write changes a core's folder, not a shipped core", found=name)
    own = core.sampler
    scales = _numbers(guidance, "--guidance") or [float(own.get("guidance", 1.0))]
    levels = _numbers(until, "--until") or [float(own.get("guidance_until", 1.0))]
    lowest = _numbers(since, "--from") or [float(own.get("guidance_from", 0.0))]
    counts = [int(x) for x in _numbers(steps, "--steps") or []]
    real = read_manifest(manifest, root=root, where=parse_where(where))
    found = bench_core(
        core, real, open_extractor(extractor), trials(counts, scales, levels, lowest),
        splits=names(splits) or [], n=n, seed=seed, tolerance=tolerance, folder=out,
    )  # fmt: skip
    chosen = found[found["chosen"]].iloc[0]
    if write:
        known = [x for x in ("guidance", "guidance_from", "guidance_until") if x in own]
        write_sampler(name, sampler_steps=int(chosen["steps"]), **{x: float(chosen[x]) for x in known})
    if as_json:
        print_json({"trials": found.to_dict("records"), "written": write, "table": out / "bench.csv"})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("steps", "guidance", "from", "until", "evals", "s/image", "Frechet", "over", "bound", "",
                  box=None, pad_edge=False)  # fmt: skip
    for row in found.to_dict("records"):
        table.add_row(
            str(row["steps"]), f"{row['guidance']:g}", f"{row['guidance_from']:g}", f"{row['guidance_until']:g}",
            str(row["evaluations"]),
            f"{row['seconds_per_image']:.3f}", f"{row['frechet']:.3f}", f"{row['over_best']:+.1%}",
            f"{row['ci_high']:+.1%}", "chosen" if row["chosen"] else "",
        )  # fmt: skip
    Console().print(table)
    typer.echo(f"extractor {extractor}, n = {n}, {'written to the card' if write else 'not written (--write)'}: {out}")


def _numbers(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 0 or (option == "--steps" and any(v != int(v) or v < 1 for v in values)):
        raise InputError(f"{option} is not a list of numbers", found=text, expected="such as 4,6,8")
    return values
