"""``cxraug generate``: a plan and a core in, a generated set out."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from cxraug.cli.answer import print_json
from cxraug.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def generate(
        plan: Path = typer.Argument(..., help="The plan: its folder, plan.parquet or a CSV with one row per study."),
        core: str = typer.Option(..., "--core", help="A shipped core's name or a core's folder."),
        out: Path = typer.Option(..., "--out", help="Folder of the generated set."),
        unit: int | None = typer.Option(
            None, "--unit", help="Prompts per unit of work (a multiple of the core's batch)."
        ),
        shard: str = typer.Option("0/1", "--shard", help="i/n: do every n-th unit from the i-th on."),
        steps: int | None = typer.Option(None, "--steps", min=1, help="Sampler steps."),
        guidance: float | None = typer.Option(None, "--guidance", min=0, help="Classifier-free guidance; 1 is none."),
        strength: float | None = typer.Option(
            None, "--strength", min=0, max=1, help="How far reference images are drawn again; 1: they are hinted at."
        ),
        fresh: bool = typer.Option(False, "--fresh", help="Throw away what other settings made in this folder."),
        root: Path | None = typer.Option(
            None, "--root", help="Folder that masks and reference images may lie in; default the plan's own."
        ),
        keep_masks: bool = typer.Option(
            False, "--keep-masks", help="Copy the plan's masks into the set: only where they are no patient's."
        ),
        device: str = typer.Option("cpu", "--device", help="Where the core computes: cpu or cuda."),
        as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    ) -> None:
        """Generate every study of a plan; run it again to go on where it stopped."""
        from cxraug.cores.registry import open_core
        from cxraug.machine import check_device
        from cxraug.synthesis.generate import count_done, generate_set
        from cxraug.synthesis.prompts import read_plan

        part = re.fullmatch(r"(\d+)/(\d+)", shard)
        if part is None:
            raise InputError("bad --shard", found=shard, expected="i/n, for example 0/4")
        opened = open_core(core, device=check_device(device))
        opened.configure(steps=steps, guidance=guidance, strength=strength)
        folder = generate_set(
            read_plan(plan),
            opened,
            out,
            unit=unit,
            shard=(int(part[1]), int(part[2])),
            fresh=fresh,
            folder=plan if plan.is_dir() else plan.parent,
            root=root,
            keep_masks=keep_masks,
        )
        done, total = count_done(folder)
        result = {"folder": str(folder), "units": total, "units_done": done, "finished": done == total}
        if as_json:
            print_json(result)
        elif done == total:
            typer.echo(f"{folder / 'manifest.parquet'}: {_images(folder)} images; gate them with `cxraug gate`")
        else:
            typer.echo(f"{folder}: {done} of {total} units done; the other shards are missing")


def _images(folder: Path) -> int:
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(folder / "manifest.parquet").num_rows)
