"""``cxraug audit``: what a data set lacks, in sentences and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.selection import (
    LABEL_COLUMNS_HELP,
    choice,
    names,
    parse_age_bins,
    parse_label_columns,
    parse_where,
    say_label_columns,
)

if TYPE_CHECKING:
    from cxraug.balance.sample_size import Question

WIDTH = 120  # of a line where there is no terminal
LINES = 12  # of the summary; with the title and the paths a user reads fifteen


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def audit(
        manifest: Path = typer.Argument(..., help="The manifest (CSV or Parquet)."),
        groups: str = typer.Option("sex,age", "--groups", help="Columns or intersections, e.g. sex,age,sex*age."),
        age_bins: str = typer.Option("0,20,40,60,80", "--age-bins", help="Lower bounds of the age bands in years."),
        where: list[str] = typer.Option([], "--where", help="Keep rows with column=value[,value...]. Repeatable."),
        findings: str | None = typer.Option(None, "--findings", help="Only these findings, separated by commas."),
        label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
        root: Path | None = typer.Option(None, "--root", help="Folder that image paths start from."),
        pixels: bool = typer.Option(
            True, "--pixels/--no-pixels", help="Read every image and look for copies and burned-in text."
        ),
        images: bool = typer.Option(
            True, "--images/--no-images", help="Also look for faulty pictures, near copies and doubtful labels."
        ),
        image_limit: int = typer.Option(20_000, "--image-limit", min=0, help="Images looked at, at most; 0: all."),
        gap: float = typer.Option(0.05, "--gap", help="AUROC gap between groups that is to be seen."),
        auroc: float = typer.Option(0.8, "--auroc", help="AUROC to expect of the better group."),
        power: float = typer.Option(0.8, "--power", help="Power with which the gap is to be seen."),
        seed: int = typer.Option(0, "--seed", help="Of the choice of images, folds and planted faults."),
        on_bad_image: str = typer.Option("error", "--on-bad-image", help="error or skip (listed in rejected.csv)."),
        out: Path = typer.Option(Path("audit"), "--out", help="Folder for audit.html, audit.json and tables."),
        as_json: bool = typer.Option(False, "--json", help="Print the audit as JSON."),
    ) -> None:
        """Say what is rare, who is under-represented, and what findings are confused with."""
        import numpy as np

        from cxraug.balance.audit import audit_manifest, write_audit, written_rows
        from cxraug.errors import InputError
        from cxraug.studies.cache import build_cache
        from cxraug.studies.images import Encoding
        from cxraug.studies.manifest import read_manifest

        bad = choice(on_bad_image, "--on-bad-image", ("error", "skip"))
        bins = parse_age_bins(age_bins)
        question = _question(gap, auroc, power)
        data = read_manifest(
            manifest,
            root=root,
            where=parse_where(where),
            findings=names(findings),
            label_columns=parse_label_columns(label_columns),
        )
        say_label_columns(data.label_columns)
        for column in (part.strip() for group in names(groups) or [] for part in group.split("*")):
            if column not in data.frame.columns:
                raise InputError("--groups names a column that is not there", file=manifest, column=column)
        sha = writing = looked = None
        if pixels:
            first = next(iter(data.take(np.arange(min(len(data), 1))).paths()), None)
            if first is not None and bad == "error" and not first.exists():
                raise InputError("no such image", file=first, expected="an image; --no-pixels audits the table alone")
            data, cache = build_cache(data, out / "cache", Encoding(), on_bad_image=bad)  # type: ignore[arg-type]
            sha, writing = cache.sha, cache.writing
            if images:
                from cxraug.balance.image_audit import look_at_images

                looked = look_at_images(data, cache, out / "cache", limit=image_limit or None, seed=seed)
        found = audit_manifest(
            data,
            groups=names(groups) or [],
            age_bins=bins,
            pixel_sha=sha,
            writing=writing,
            question=question,
            images=None if looked is None else looked.summary,
        )
        written = None if writing is None else written_rows(data, writing)
        write_audit(found, out, written=written, images=None if looked is None else looked.tables())
        if as_json:
            print_json(found)
            return
        _print(found, out)


def _question(gap: float, auroc: float, power: float) -> Question:
    from cxraug.balance.sample_size import Question
    from cxraug.errors import InputError

    try:
        return Question(gap, auroc, power)
    except ValueError as error:
        raise InputError(f"--gap, --auroc, --power: {error}") from None


def _print(found: dict, out: Path) -> None:
    """What stands out, one line per kind, and where the rest is."""
    from shutil import get_terminal_size

    from cxraug.balance.naming import summary

    width = max(get_terminal_size((WIDTH, 24)).columns, 60)
    typer.echo(
        f"{found['images']:,} images, {found['studies']:,} studies, {found['patients']:,} patients, "
        f"{len(found['findings'])} findings; counted in {found['naming_rows']}"
    )
    wide = max((len(kind) for kind, _ in summary(found["named"], LINES)), default=0)
    lines = summary(found["named"], LINES, width - wide - 2)
    for kind, text in lines:
        typer.echo(f"{kind:<{wide}}  {text}")
    if not lines:
        typer.echo("No rule names anything.")
    typer.echo(f"{len(found['named'])} sentences and every table: {out / 'audit.html'}, audit.json, *.csv")
