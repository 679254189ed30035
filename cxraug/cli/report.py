"""``cxraug report``: the page of a run, and its verdict on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from cxraug.cli.answer import print_json


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def report(
        run: Path = typer.Argument(..., help="A run folder, e.g. runs/quickstart, or an evaluation folder."),
        share: Path | None = typer.Option(None, help="Also write what may be published (tables, one sheet) here."),
        formats: str = typer.Option(
            "html", "--format", help="Of an evaluation folder: html, md (a fairness card), json."
        ),
        as_json: bool = typer.Option(False, "--json", help="Print the verdict as JSON."),
    ) -> None:
        """Write RUN/report.html (one file, works offline) and print the verdict."""
        from cxraug.errors import InputError
        from cxraug.pages.evaluation import write_evaluation_report
        from cxraug.pages.report import write_run_report
        from cxraug.pages.runfolder import read_run
        from cxraug.pages.verdict import print_verdict

        if (run / "cells.csv").is_file():
            names = [name.strip() for name in formats.split(",") if name.strip()]
            path = write_evaluation_report(run, list(dict.fromkeys(names)))
            if as_json:
                print_json({"report": path})
            else:
                typer.echo(f"report: {path}")
            return
        if formats != "html":
            raise InputError("--format is for an evaluation folder", file=run, expected=f"{run / 'evaluation'}")
        path = write_run_report(run)
        if share is not None:
            from cxraug.pages.share import write_share

            print(f"share: {write_share(run, share)}", file=sys.stderr)
        found = read_run(run)
        if as_json:
            print_json({**found.verdict, "report": path})
            return
        if found.verdict:
            print_verdict(found.verdict, found.comparison)
        typer.echo(f"report: {path}")
