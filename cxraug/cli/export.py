"""``cxraug export``: a manifest or a synthetic set in the layout of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.selection import LABEL_COLUMNS_HELP, parse_label_columns, parse_where, say_label_columns


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def export(
        manifest: Path = typer.Argument(..., help="A manifest, or a generated or swapped set (folder)."),
        to: str = typer.Option(
            ..., "--to", help="hf (Hugging Face image folder), folders (torchvision), webdataset, coco (boxes)."
        ),
        out: Path = typer.Option(..., "--out", help="Folder of the export; an interrupted one goes on."),
        copy: bool = typer.Option(False, "--copy", help="Copy images; default: hard links where the disk has them."),
        finding: str | None = typer.Option(
            None, "--finding", help="folders: the classes are this finding present, and absent."
        ),
        leave_out_several: bool = typer.Option(
            False, "--leave-out-several", help="folders: leave out rows with several findings."
        ),
        shard: int = typer.Option(1000, "--shard", help="webdataset: images in a shard."),
        seed: int = typer.Option(0, "--seed", help="webdataset: seed of the order of rows."),
        with_rejected: bool = typer.Option(False, "--with-rejected", help="Also images that the gate rejected."),
        where: list[str] = typer.Option([], "--where", help="Keep rows with column=value[,value...]. Repeatable."),
        root: Path | None = typer.Option(None, "--root", help="Data folder of the images, if not the manifest's."),
        label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
        fresh: bool = typer.Option(False, "--fresh", help="Throw away the export that OUT holds."),
        as_json: bool = typer.Option(False, "--json", help="Print what was exported as JSON."),
    ) -> None:
        """Write a data set for other libraries: images with their labels, groups, boxes and provenance."""
        from pydantic import ValidationError

        from cxraug.errors import InputError, first_problem
        from cxraug.interop.card import write_export_card
        from cxraug.interop.export import export as write
        from cxraug.interop.setfacts import accepted_rows, read_set_facts
        from cxraug.interop.settings import ExportSettings
        from cxraug.studies.manifest import read_manifest
        from cxraug.synthesis.assembly import MANIFEST, PROVENANCE

        try:
            settings = ExportSettings.model_validate({
                "to": to, "copy_images": copy, "finding": finding, "leave_out_several": leave_out_several,
                "shard": shard, "seed": seed,
            })  # fmt: skip
        except ValidationError as error:
            key, message = first_problem(error)
            raise InputError(f"--{key.replace('_', '-')}: {message}" if key else message) from None
        path = manifest / MANIFEST if manifest.is_dir() else manifest
        data = read_manifest(
            path, root=root, where=parse_where(where), label_columns=parse_label_columns(label_columns)
        )
        say_label_columns(data.label_columns)
        accepted = accepted_rows(data)
        rejected = 0 if with_rejected else int((~accepted).sum())
        if rejected == len(data):
            raise InputError("the gate rejected every image", file=path, expected="--with-rejected to export them")
        facts = read_set_facts(manifest) if to == "hf" and (manifest / PROVENANCE).is_file() else None
        result = write(data.take(accepted) if rejected else data, out, settings, fresh=fresh)
        if facts is not None:
            result["card"] = str(write_export_card(out, manifest, facts, title=manifest.resolve().name))
        if as_json:
            print_json({**result, "rejected": rejected})
            return
        _show(result, rejected)


def _show(result: dict[str, Any], rejected: int) -> None:
    typer.echo(f"{result['folder']}: {result['images']} images as {result['format']}")
    for reason, count in result.get("left_out", {}).items():
        typer.echo(f"left out: {count} images: {reason}")
    if rejected:
        typer.echo(f"left out: {rejected} images that the gate rejected (--with-rejected keeps them)")
