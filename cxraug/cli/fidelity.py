"""``cxraug fidelity``: how alike a synthetic set and real data are, beside how alike real data are to themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from cxraug.studies.manifest import Manifest


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def fidelity(
        real: Path = typer.Argument(..., help="Manifest of real images."),
        synth: Path = typer.Argument(..., help="A generated set (folder), or a manifest."),
        extractor: str = typer.Option(
            "conv-random", "--extractor", help="conv-random, the folder of a trained classifier, or xrv:FILE."
        ),
        by: str | None = typer.Option(None, "--by", help="findings: also for each finding that both sets name."),
        groups: str | None = typer.Option(
            None, "--groups", help="Also per level of columns or intersections, e.g. sex,age."
        ),
        age_bins: str = typer.Option("0,20,40,60,80", "--age-bins", help="Lower bounds of the age bands in years."),
        views: str | None = typer.Option(None, "--views", help="Compare only these views, e.g. PA or PA,AP."),
        n: int | None = typer.Option(None, "--n", help="Images of each sample; default as many as there are, 2000."),
        where: list[str] = typer.Option([], "--where", help="Keep real rows with column=value[,value...]. Repeatable."),
        with_rejected: bool = typer.Option(False, "--with-rejected", help="Also images that the gate rejected."),
        label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
        root: Path | None = typer.Option(None, "--root", help="Folder that the real images' paths start from."),
        halves: int = typer.Option(10, "--halves", help="How often the real images are dealt into two halves."),
        size: int = typer.Option(128, "--size", help="Side in pixels for spectrum, grey levels and MS-SSIM."),
        seed: int = typer.Option(0, "--seed", min=0, help="Of the draw of images."),
        out: Path | None = typer.Option(None, "--out", help="Folder for fidelity.csv, fidelity.json, fidelity.html."),
        as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    ) -> None:
        """How alike two sets look, in features, spectra, grey levels and diversity, beside real against real."""
        from cxraug.fidelity.comparison import compare_sets, write_fidelity
        from cxraug.fidelity.extractors import open_extractor
        from cxraug.studies.manifest import read_manifest

        by_findings = by is not None and choice(by, "--by", ("findings",)) == "findings"
        chosen = names(views)
        opened = open_extractor(extractor)
        data = read_manifest(
            real, root=root, where=parse_where(where), label_columns=parse_label_columns(label_columns)
        )
        say_label_columns(data.label_columns)
        other, rejected = read_synthetic(synth, with_rejected)
        found = compare_sets(
            _of_views(data, chosen), _of_views(other, chosen), opened, by_findings=by_findings,
            groups=names(groups) or [], age_bins=parse_age_bins(age_bins), n=n, halves=halves, size=size, seed=seed,
        )  # fmt: skip
        found["rejected_left_out"] = rejected
        if rejected:
            found["notes"].append(f"{rejected} images that the gate rejected are left out (--with-rejected keeps them)")
        if out is not None:
            write_fidelity(found, out)
        if as_json:
            print_json(found)
            return
        _show(found)
        if out is not None:
            typer.echo(f"fidelity: {out / 'fidelity.html'}")


def read_synthetic(path: Path, with_rejected: bool) -> tuple[Manifest, int]:
    """The rows of a generated set or a manifest, and how many the gate's verdict left out."""
    from cxraug.errors import InputError
    from cxraug.studies.manifest import read_manifest
    from cxraug.synthesis.assembly import MANIFEST

    if path.is_dir() and not (path / MANIFEST).is_file():
        raise InputError("not a finished generated set", file=path, expected=f"a folder with {MANIFEST}")
    manifest = read_manifest(path / MANIFEST if path.is_dir() else path)
    if with_rejected or "gate" not in manifest.frame:
        return manifest, 0
    rejected = (manifest.frame["gate"] == "reject").to_numpy(bool)
    return manifest.take(~rejected), int(rejected.sum())


def _of_views(manifest: Manifest, views: list[str] | None) -> Manifest:
    from cxraug.errors import InputError

    if views is None:
        return manifest
    there = set(manifest.frame["view"])
    missing = [view for view in views if view not in there]
    if missing:
        raise InputError(
            "--views names a view that is not there", file=manifest.file, column="view", found=missing[0],
            expected="one of " + ", ".join(sorted(there)),
        )  # fmt: skip
    return manifest.take(manifest.frame["view"].isin(views).to_numpy())


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    used, console = found["extractor"], Console()
    about = f"{used['name']} ({used['sha256'][:12]}), {', '.join(found['views'])}"
    suppressed = []
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        cells.setdefault((row["finding"], row["group"], row["level"]), []).append(row)
    for (finding, group, level), rows in cells.items():
        n, flag = rows[0]["n"], rows[0]["flag"]
        name = finding if group == "all" else f"{finding}, {group} {level}"
        if flag == "suppressed":
            suppressed.append(f"{name} ({n})")
            continue
        few = " (few)" if flag else ""
        table = Table(title=Text(f"{name}: n = {n}{few} per sample, {about}"), title_justify="left")
        for heading in ("measure", "score [95 %]", "real: floor [its spread]", "minus floor [95 %]"):
            table.add_column(heading, justify="left" if heading == "measure" else "right")
        for row in rows:
            table.add_row(
                row["measure"],
                Text(_interval(row["score"], row["ci_low"], row["ci_high"])),
                Text(_interval(row["floor"], row["floor_low"], row["floor_high"])),
                Text(_interval(row["difference"], row["difference_low"], row["difference_high"])),
            )
        console.print(table)
    if suppressed:
        console.print(Text(f"suppressed, fewer than {found['min_n']} per sample: {', '.join(suppressed)}"))
    for note in (f"{used['name']} is {used['note']}", *found["notes"]):
        console.print(Text(f"note: {note}"))


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3g}" if low != low else f"{value:.3g} [{low:.3g}, {high:.3g}]"
