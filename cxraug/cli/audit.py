"""``cxraug audit``: what a data set lacks, in sentences and numbers."""

from __future__ import annotations

from pathlib import Path

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

SENTENCES = 15


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
        on_bad_image: str = typer.Option("error", "--on-bad-image", help="error or skip (listed in rejected.csv)."),
        out: Path = typer.Option(Path("audit"), "--out", help="Folder for audit.json, audit.html and burned_text.csv."),
        as_json: bool = typer.Option(False, "--json", help="Print the audit as JSON."),
    ) -> None:
        """Say what is rare, who is under-represented, and what findings are confused with."""
        from cxraug.balance.audit import audit_manifest, write_audit, written_rows
        from cxraug.errors import InputError
        from cxraug.studies.cache import build_cache
        from cxraug.studies.images import Encoding
        from cxraug.studies.manifest import read_manifest

        bad = choice(on_bad_image, "--on-bad-image", ("error", "skip"))
        bins = parse_age_bins(age_bins)
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
        sha = writing = None
        if pixels:
            data, cache = build_cache(data, out / "cache", Encoding(), on_bad_image=bad)  # type: ignore[arg-type]
            sha, writing = cache.sha, cache.writing
        found = audit_manifest(data, groups=names(groups) or [], age_bins=bins, pixel_sha=sha, writing=writing)
        write_audit(found, out, written=None if writing is None else written_rows(data, writing))
        if as_json:
            print_json(found)
            return
        _print(found)
        typer.echo(f"audit: {out / 'audit.html'}")


def _print(found: dict) -> None:
    """The named findings first, then the findings."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cxraug.balance.naming import headlines

    console = Console()
    shown = headlines(found["named"], SENTENCES)
    table = Table(title="What stands out", title_justify="left", show_lines=False)
    table.add_column("what", style="bold", no_wrap=True)
    table.add_column("in numbers")
    for item in shown:
        table.add_row(Text(item["kind"] + ("" if item["holds"] else " (hint)")), Text(item["sentence"]))
    console.print(table if shown else Text("No rule names anything."))
    if len(found["named"]) > len(shown):
        console.print(Text(f"and {len(found['named']) - len(shown)} more in audit.html"))
    counts = Table(title=f"Findings ({found['naming_rows']})", title_justify="left")
    for name in ("finding", "patients", "of", "prevalence", "images", "test patients"):
        counts.add_column(name, justify="left" if name == "finding" else "right")
    for f in found["findings"]:
        test = f["by_split"].get("test", {}).get("patients_positive")
        counts.add_row(
            Text(f["finding"]),
            f"{f['patients_positive']:,}",
            f"{f['patients_known']:,}",
            "" if f["prevalence"] is None else f"{f['prevalence']:.1%}",
            f"{f['images_positive']:,}",
            "" if test is None else f"{test:,}",
        )
    console.print(counts)
    text = found["burned_text"]
    if text["checked"]:
        told = f"burned-in text: {text['images']:,} images (burned_text.csv), a lead marker only: {text['markers']:,}"
        console.print(Text(told))
