"""``cxraug core sample``: one prompt, spelled out in options, and n studies of it as a generated set."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cxraug.cli.answer import print_json
from cxraug.errors import InputError

if TYPE_CHECKING:
    from cxraug.cores.core import Card

MAX_TEXT = 1 << 20  # bytes of a report or of boxes


def sample(
    name: str = typer.Argument(..., help="Name of a shipped core, or a core's folder."),
    out: Path = typer.Option(..., "--out", help="Folder of the generated set, with sheet.png and reports.csv."),
    n: int = typer.Option(16, "--n", min=1, help="Number of studies."),
    findings: str = typer.Option(
        "",
        "--findings",
        help='Such as "Cardiomegaly,-Effusion" or "No Finding" (| for , is fine too): -A absent, ?A left to the core. '
        "Unnamed ones are absent too; without this option all are left to the core.",
    ),
    sex: str | None = typer.Option(None, "--sex", help="M or F."),
    age: float | None = typer.Option(None, "--age", help="Years."),
    race: str | None = typer.Option(None, "--race", help="If the core knows it."),
    views: str | None = typer.Option(
        None,
        "--views",
        "--view",
        help='Views such as "PA,Lateral", or "frontal" (the first frontal one of the core) and "lateral"; "none" for '
        "reports alone. Default: the core's first.",
    ),
    report: bool | None = typer.Option(
        None, "--report/--no-report", help="Whether a core that writes reports is to write one. [default: report]"
    ),
    source: str | None = typer.Option(None, "--source", help="A source that the core knows."),
    from_report: Path | None = typer.Option(None, "--from-report", help="Text file with the report to draw."),
    from_image: list[str] = typer.Option(
        [], "--from-image", help="Reference image, FILE or VIEW=FILE; again for another view."
    ),
    mask: list[str] = typer.Option([], "--mask", help="Mask, FILE or VIEW=FILE; again for another view."),
    boxes: str | None = typer.Option(
        None, "--boxes", help="Lesions: a JSON list of {label,x,y,w,h} in pixels of the core's output, or its file."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the first study; the others count on."),
    steps: int | None = typer.Option(None, "--steps", min=1, help="Sampler steps."),
    guidance: float | None = typer.Option(None, "--guidance", min=0, help="Classifier-free guidance; 1 is none."),
    strength: float | None = typer.Option(
        None, "--strength", min=0, max=1, help="How far a reference image is drawn again; 1: it is only hinted at."
    ),
    keep_masks: bool = typer.Option(
        False, "--keep-masks", help="Copy the masks into the set: only where they are no patient's."
    ),
    fresh: bool = typer.Option(False, "--fresh", help="Throw away what another prompt made in this folder."),
    device: str = typer.Option("cpu", "--device", help="Where the core computes: cpu or cuda."),
    as_json: bool = typer.Option(False, "--json", help="Print what was written as JSON."),
) -> None:
    """Draw n studies of one prompt: a generated set, a contact sheet and the reports; resumes."""
    from cxraug.cores.core import LATERAL, NO_VIEWS
    from cxraug.cores.given import write_files
    from cxraug.cores.registry import open_core
    from cxraug.machine import check_device
    from cxraug.synthesis.sample import sample_reports, sample_set

    if sex not in (None, "M", "F"):
        raise InputError("--sex", found=sex, expected="M or F")
    if age is not None and not 0 <= age <= 120:
        raise InputError("--age", found=age, expected="0 to 120 years")
    if report and from_report is not None:
        raise InputError("--report with --from-report: a report is either given or wanted", expected="one of the two")
    if out.exists() and not out.is_dir():
        raise InputError("--out is not a folder", file=out)
    core = open_core(name, device=check_device(device))
    core.configure(steps=steps, guidance=guidance, strength=strength)
    card = core.card
    asked = parse_views(views, card.views)
    first = "PA" if "PA" in card.views else card.views[0]
    images = parse_files(from_image, "--from-image", card.views, default=first)
    frontal = next((view for view in asked if view != LATERAL), first)
    masks = parse_files(mask, "--mask", card.views, default=frontal)
    prompt = {
        "labels": parse_findings(findings, card),
        "sex": sex,
        "age": age,
        "race": race,
        "views": "|".join(asked) or NO_VIEWS,
        "source": source,
        "report": None if from_report is None else _read_text(from_report, "--from-report"),
        "mask": write_files(masks) if masks else None,
        "boxes": boxes if boxes is None or boxes.lstrip()[:1] in ("[", "{") else _read_text(Path(boxes), "--boxes"),
        "reference_image": write_files(images) if images else None,
        "wants_report": report is not False and from_report is None,
    }
    write = sample_set if asked else sample_reports
    written = write(core, prompt, out, n=n, seed=seed, fresh=fresh, **({"keep_masks": keep_masks} if asked else {}))
    if report and written["reports"] is None:
        print(f"core {card.name} wrote no report", file=sys.stderr, flush=True)
    if as_json:
        print_json({"core": card.name, "studies": n, **written})
        return
    files = ", ".join(Path(written[k]).name for k in ("manifest", "sheet", "reports") if written[k] is not None)
    what = f"{n} studies ({written['images']} images)" if asked else f"{n} reports"
    typer.echo(f"{what} of {card.name} in {out}: {files}")


def parse_views(text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """Views of ``--views``: names out of ``known``, ``frontal``, ``lateral``, or ``none``; blank is the first known.

    Names are separated by ``,`` or ``|`` and read without regard to case. Raises :class:`InputError` for a view that is
    unknown or asked for twice, and for ``none`` beside others.
    """
    from cxraug.cores.core import NO_VIEWS

    if text is None:
        return (known[0],)
    parts = [part.strip() for part in re.split(r"[,|]", text)]
    if [part.lower() for part in parts] == [NO_VIEWS]:
        return ()
    views = [_view(part, known, "--views") for part in parts]
    if len(set(views)) < len(views):
        raise InputError(
            "--views: the same view twice", found=text, expected=f"distinct views out of {', '.join(known)}"
        )
    return tuple(views)


def parse_findings(text: str, card: Card) -> str:
    """``--findings`` in the label grammar; uncertain ones are said to be left to the core.

    Raises :class:`InputError` for bad grammar, a finding that the core does not know and for a finding beside ``No
    Finding``.
    """
    from cxraug.studies.labels import NO_FINDING, contradicts, format_labels, parse_labels

    try:
        labels = parse_labels(text.replace(",", "|"))
    except ValueError as error:
        raise InputError(
            f"--findings: {error}", expected='such as "A,-B,?C": present, absent, left to the core'
        ) from None
    for finding in labels:
        if finding not in (*card.findings, NO_FINDING):
            expected = f"one of {', '.join([*card.findings, NO_FINDING])}"
            raise InputError(f"--findings: core {card.name} does not know it", found=finding, expected=expected)
    other = contradicts(labels)
    if other is not None:
        raise InputError(f"--findings: {NO_FINDING!r} together with {other!r}", expected="one or the other")
    uncertain = [finding for finding, value in labels.items() if value < 0]
    if uncertain:
        print(f"left to the core: {', '.join(uncertain)}", file=sys.stderr, flush=True)
    return format_labels(labels)


def parse_files(items: Sequence[str], option: str, known: Sequence[str], *, default: str) -> dict[str, str]:
    """``FILE`` or ``VIEW=FILE`` options as view -> absolute path; a bare file belongs to ``default``.

    Raises :class:`InputError` for an unknown view and two files of one view.
    """
    files: dict[str, str] = {}
    for item in items:
        view, equals, path = item.partition("=")
        bare = not equals or os.path.isfile(item)
        view, path = (default, item) if bare else (_view(view, known, option), path)
        if view in files:
            raise InputError(f"{option}: two files of the view {view}", found=item, expected="VIEW=FILE, one of each")
        if not path.strip():
            raise InputError(f"{option} names no file", found=item, expected="FILE or VIEW=FILE")
        files[view] = os.path.abspath(path)
    return files


def _view(name: str, known: Sequence[str], option: str) -> str:
    from cxraug.cores.core import LATERAL

    meaning = {view.lower(): view for view in known}
    frontal = [view for view in known if view != LATERAL]
    if frontal:
        meaning["frontal"] = frontal[0]
    if name.strip().lower() not in meaning:
        expected = f"one of {', '.join([*known, 'frontal'] if frontal else known)}"
        raise InputError(f"{option}: the core does not know the view", found=name, expected=expected)
    return meaning[name.strip().lower()]


def _read_text(path: Path, option: str) -> str:
    try:
        if not path.is_file():
            raise InputError(f"{option}: no such file", file=path)
        with open(path, "rb") as stream:
            text = stream.read(MAX_TEXT + 1)
        if len(text) > MAX_TEXT:
            raise InputError(f"{option}: the file is too large", file=path, expected=f"at most {MAX_TEXT} bytes")
        if not text.strip() or b"\0" in text:
            raise InputError(f"{option}: no text in the file", file=path)
        return text.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise InputError(f"{option}: not text in UTF-8", file=path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{option}: cannot be read ({error})", file=path) from None
