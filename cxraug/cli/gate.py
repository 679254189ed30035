"""``cxraug gate``: accept or reject the images of a generated set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.selection import LABEL_COLUMNS_HELP, names, parse_age_bins, parse_label_columns, say_label_columns

if TYPE_CHECKING:
    from cxraug.gate.settings import GateSettings
    from cxraug.studies.cache import PixelCache
    from cxraug.studies.manifest import Manifest
    from cxraug.studies.seen import Seen


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def gate(
        set_folder: Path = typer.Argument(..., metavar="SET", help="A generated set (folder)."),
        real: Path = typer.Option(
            ..., "--real", help="Manifest of the real data; its training rows calibrate the gate."
        ),
        root: Path | None = typer.Option(None, "--root", help="Data folder of the real images, if not the manifest's."),
        label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
        core: str | None = typer.Option(None, "--core", help="The set's core, to draw rejected prompts again."),
        out: Path | None = typer.Option(None, "--out", help="Folder for the gate's classifiers; default SET/gate."),
        size: int = typer.Option(64, "--size", help="Side in pixels at which images are compared."),
        findings: str | None = typer.Option(None, "--findings", help="Findings to judge, A,B or A|B; default: all."),
        false_reject: float = typer.Option(
            0.05, "--false-reject", help="Share of real images that all checks may reject."
        ),
        redraws: int = typer.Option(1, "--redraws", help="How often a rejected prompt is drawn again (needs --core)."),
        steps: int = typer.Option(120, "--steps", help="Training steps of each of the gate's classifiers."),
        model: str = typer.Option("resnet10t", "--model", help="Any timm model."),
        weights: Path | None = typer.Option(None, "--weights", help="Folder of a classifier trained before."),
        agreement: bool = typer.Option(True, "--agreement/--no-agreement", help="Check labels with a classifier."),
        demographics: bool = typer.Option(
            True, "--demographics/--no-demographics", help="Check sex, age and race, as far as they can be read."
        ),
        realism: bool = typer.Option(True, "--realism/--no-realism", help="Reject strangers to the real images."),
        reports: bool = typer.Option(True, "--reports/--no-reports", help="Check reports against what was asked for."),
        duplicates: bool = typer.Option(True, "--duplicates/--no-duplicates", help="Look for copies."),
        copy_rate: float | None = typer.Option(
            None, "--copy-rate", help="Part of --false-reject for copies; default: 0.01, at most half of it."
        ),
        shares: str | None = typer.Option(
            None, "--shares", help="How the rest of --false-reject is divided, e.g. agreement=6,realism=1."
        ),
        per_group: str | None = typer.Option(
            None, "--per-group", help="Calibrate within the levels of a group: sex, age, view, sex*age, any column."
        ),
        age_bins: str | None = typer.Option(None, "--age-bins", help="Lower bounds of age bands, e.g. 0,20,40,60,80."),
        xrv_findings: Path | None = typer.Option(
            None, "--xrv-findings", help="Weights of torchxrayvision's classifier (local file), read in place of ours."
        ),
        xrv_sex: Path | None = typer.Option(None, "--xrv-sex", help="Weights of torchxrayvision's sex model."),
        xrv_age: Path | None = typer.Option(None, "--xrv-age", help="State dict of torchxrayvision's age model."),
        xrv_race: Path | None = typer.Option(None, "--xrv-race", help="Weights of torchxrayvision's race model."),
        seed: int = typer.Option(0, "--seed", min=0, help="Of folds, networks and calibration."),
        device: str = typer.Option(
            "auto", "--device", help="Where to compute: cpu or cuda; auto: networks on cuda if there, --core on cpu."
        ),
        fresh: bool = typer.Option(False, "--fresh", help="Judge again even if these settings were judged before."),
        as_json: bool = typer.Option(False, "--json", help="Print gate.json."),
    ) -> None:
        """Accept or reject every image of a generated set, with reasons; draw rejected prompts again."""
        from pydantic import ValidationError

        from cxraug.cores.registry import open_core
        from cxraug.errors import InputError, first_problem
        from cxraug.evaluation.groups import AGE_BINS
        from cxraug.gate.gate import gate_set
        from cxraug.gate.settings import GateSettings
        from cxraug.machine import check_device
        from cxraug.studies.cache import build_cache
        from cxraug.studies.images import Encoding
        from cxraug.studies.manifest import read_manifest
        from cxraug.synthesis.generate import GATE, refuse_other_core, set_settings

        where = check_device(device, auto=True)
        set_settings(set_folder)
        try:
            files = {"weights": weights, "xrv_findings": xrv_findings, "xrv_sex": xrv_sex, "xrv_age": xrv_age,
                     "xrv_race": xrv_race}  # fmt: skip
            settings = GateSettings(
                agreement=agreement, demographics=demographics, realism=realism, reports=reports, duplicates=duplicates,
                false_reject=false_reject, max_redraws=redraws, steps=steps, model=model, per_group=per_group,
                copy_rate=min(0.01, false_reject / 2) if copy_rate is None else copy_rate,
                shares=_shares(shares), **{key: None if path is None else str(path) for key, path in files.items()},
            )  # fmt: skip
        except ValidationError as error:
            key, message = first_problem(error)
            option = {"max_redraws": "redraws"}.get(key, key).partition(".")[0].replace("_", "-")
            raise InputError(f"--{option}: {message}" if key else message) from None
        opened = None
        if core is not None:
            opened = open_core(core, device="cpu" if where == "auto" else where)
            refuse_other_core(set_folder, opened)  # before networks are trained for nothing
        folder = out or set_folder / "gate"
        encoding = Encoding(size=size)
        data = read_manifest(real, root=root, label_columns=parse_label_columns(label_columns))
        say_label_columns(data.label_columns)
        manifest, cache = build_cache(data, folder / "cache", encoding)
        refuse_all_hidden(manifest, cache, set_folder, settings)
        train = (manifest.frame["split"] == "train").to_numpy()
        judged = names((findings or "").replace("|", ",")) or list(manifest.findings)
        unknown = [name for name in judged if name not in manifest.findings]
        if unknown:
            raise InputError("unknown finding", found=unknown[0], expected=f"one of {', '.join(manifest.findings)}")
        if fresh:
            (set_folder / GATE).unlink(missing_ok=True)
        summary = gate_set(
            set_folder, manifest.take(train), cache.take(train), encoding, settings, findings=judged,
            folder=folder, core=opened, seed=seed,
            age_bins=AGE_BINS if age_bins is None else parse_age_bins(age_bins), device=where,
        )  # fmt: skip
        if as_json:
            print_json(summary)
            return
        _show(summary)


def refuse_all_hidden(manifest: Manifest, cache: PixelCache, set_folder: Path, settings: GateSettings) -> None:
    """Refuse a set whose core, or gate weights that, have seen validation or test rows of the real data."""
    from cxraug.cores.core import Card
    from cxraug.gate.seen import networks_seen
    from cxraug.storage import read_json
    from cxraug.studies.seen import refuse_hidden
    from cxraug.synthesis.generate import CARD

    card = Card.model_validate(read_json(set_folder / CARD))
    named: list[tuple[str, Seen]] = [(f"core {card.name} of {set_folder}", card.hashes)]
    for path, seen in networks_seen(settings).items():
        if seen is None:
            typer.echo(f"note: gate {path}: no card, so what it has seen is not known", err=True)
        else:
            named.append((f"gate {path}", seen))
    split = manifest.frame["split"].to_numpy()
    ids = manifest.frame["patient_id"].to_numpy()
    roles = {"test": split == "test", "validation": split == "val"}
    patients: dict[str, Iterable[str]] = {role: list(ids[rows]) for role, rows in roles.items()}
    images: dict[str, Iterable[str]] = {role: list(cache.sha[rows]) for role, rows in roles.items()}
    for what, seen in named:
        refuse_hidden(seen, what, patients=patients, images=images)


def _shares(text: str | None) -> dict[str, float]:
    """``CHECK=NUMBER,...`` as a dictionary."""
    from cxraug.errors import InputError

    shares = {}
    for part in (text or "").split(","):
        name, _, value = part.partition("=")
        if part.strip():
            try:
                shares[name.strip()] = float(value)
            except ValueError:
                raise InputError("--shares is not CHECK=NUMBER", found=part, expected="e.g. agreement=6") from None
    return shares


def _show(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary['accepted']} of {summary['total']} images accepted")
    for heading in ("finding", "studies", "first draw", "accepted", "gate's AUROC [95 %]"):
        table.add_column(heading, justify="left" if heading == "finding" else "right")
    seen = summary["checks"].get("agreement", {}).get("findings", {})
    for finding, part in {**summary["studies"]["findings"], "all": summary["studies"]["all"]}.items():
        judge = seen.get(finding, {})
        area = "" if judge.get("auroc") is None else "{auroc:.3f} [{auroc_low:.3f}, {auroc_high:.3f}]".format(**judge)
        table.add_row(finding, str(part["n"]), str(part["accepted_first"]), str(part["accepted"]), area)
    console = Console()
    console.print(table)
    for reason, count in sorted(summary["reasons"].items(), key=lambda item: -item[1]):
        console.print(f"rejected: {reason}: {count}", highlight=False)
    for note in summary["notes"]:
        console.print(f"note: {note}", highlight=False)
