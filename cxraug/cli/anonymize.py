"""``cxraug anonymize``: a private data set in, a synthetic one out in which no study can be traced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cxraug.cli.answer import print_json
from cxraug.cli.selection import LABEL_COLUMNS_HELP, names, parse_label_columns, parse_where, say_label_columns
from cxraug.errors import InputError

if TYPE_CHECKING:
    from cxraug.cores.core import GenerativeCore
    from cxraug.privacy.attacks import AttackSettings
    from cxraug.privacy.swap import Reporter
    from cxraug.studies.manifest import Manifest


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("anonymize")(anonymize)


def anonymize(
    manifest: Path = typer.Argument(..., help="Manifest of the real data."),
    core: str = typer.Option(..., "--core", help="A shipped core's name or a core's folder."),
    out: Path = typer.Option(..., "--out", help="Folder of the swapped set."),
    k: int = typer.Option(5, "--k", help="Fewest patients behind every published combination of attributes."),
    strength: str = typer.Option(
        "attributes",
        "--strength",
        help="What reaches the core: attributes; report (the real one); variation (the real images, through the shared "
        "embedding); or the share of noise added to the real images before they are denoised, e.g. 0.6.",
    ),
    candidates: int = typer.Option(4, "--candidates", help="Stand-ins drawn per study; the gate takes the best."),
    splits: str = typer.Option("train", "--splits", help="Rows that are swapped; all others are never written."),
    drop: str | None = typer.Option(
        None, "--drop", help="Give up: sex, age, race, source, report, a finding or a view; separated by commas."
    ),
    view_as: list[str] = typer.Option([], "--view-as", help="OLD=NEW: draw a view that the core does not know as one."),
    keep_patients: bool = typer.Option(
        False, "--keep-patients", help="Studies of one patient share a new patient; otherwise each is its own."
    ),
    dates: str | None = typer.Option(None, "--dates", help="The column of dates, or none; found by its name."),
    max_phrases: float | None = typer.Option(
        None, "--max-phrases", help="Rare phrases that a new report may repeat; default: as real reports do by chance."
    ),
    own_nearest: bool = typer.Option(
        True, "--refuse-own/--allow-own", help="Refuse a stand-in that is nearest to the very patient it stands for."
    ),
    private: Path | None = typer.Option(
        None, "--private", help="Folder for what links old and new; default OUT-private, removed at the end."
    ),
    keep_private: bool = typer.Option(False, "--keep-private", help="Do not remove the private folder at the end."),
    key: Path | None = typer.Option(None, "--key", help="Take the key of the new names from this file."),
    keep_key: Path | None = typer.Option(None, "--keep-key", help="Leave the key in this file; otherwise it is lost."),
    where: list[str] = typer.Option([], "--where", help="Keep rows with column=value[,value...]. Repeatable."),
    root: Path | None = typer.Option(None, "--root", help="Data folder of the real images, if not the manifest's."),
    label_columns: str | None = typer.Option(None, "--label-columns", help=LABEL_COLUMNS_HELP),
    size: int = typer.Option(64, "--size", help="Side in pixels at which gate and classifiers see images."),
    gate_steps: int = typer.Option(120, "--gate-steps", help="Training steps of each of the gate's classifiers."),
    only_copies: bool = typer.Option(
        False, "--only-copies", help="The gate looks for copies alone, and is not trained."
    ),
    model: str = typer.Option("resnet10t", "--model", help="Any timm model, for gate and utility."),
    sampler_steps: int | None = typer.Option(None, "--sampler-steps", help="Sampler steps of the core."),
    guidance: float | None = typer.Option(None, "--guidance", help="Classifier-free guidance of the core."),
    report: bool = typer.Option(True, "--report/--no-report", help="Measure utility and privacy of the swapped set."),
    test: Path | None = typer.Option(None, "--test", help="Manifest of real test rows; default the split test."),
    groups: str = typer.Option("sex,age", "--groups", help="Groups of test patients for utility."),
    train_steps: int = typer.Option(200, "--train-steps", help="Steps of each classifier of the utility table."),
    seeds: int = typer.Option(2, "--seeds", help="Trainings of each arm of the utility table."),
    attack_steps: int = typer.Option(400, "--attack-steps", help="Training steps of the attackers' networks."),
    same_labels: bool = typer.Option(
        False, "--same-labels", help="A patient number under other labels is another patient (for the attacks only)."
    ),
    fresh: bool = typer.Option(False, "--fresh", help="Start over, and replace a finished swap in OUT."),
    device: str = typer.Option("cpu", "--device", help="Where the core computes: cpu or cuda."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Swap every real study for a synthetic one with the same attributes and a new report; resumes."""
    from pydantic import ValidationError

    from cxraug.cores.registry import open_core
    from cxraug.errors import first_problem
    from cxraug.gate.settings import GateSettings
    from cxraug.machine import check_device
    from cxraug.privacy.attacks import AttackSettings
    from cxraug.privacy.swap import swap
    from cxraug.privacy.swap_settings import SwapSettings, parse_strength
    from cxraug.studies.manifest import read_manifest

    check_device(device)
    try:
        settings = SwapSettings(
            k=k, strength=parse_strength(strength), candidates=candidates, splits=tuple(names(splits) or ()),  # type: ignore[arg-type]
            drop=tuple(names(drop) or ()), view_as=_pairs(view_as), keep_patients=keep_patients, dates=dates,
            max_phrases=max_phrases, own_nearest=own_nearest, size=size,
            gate=GateSettings(steps=gate_steps, model=model, max_redraws=0, **_checks_off(only_copies)),
        )  # fmt: skip
    except ValidationError as error:
        path, message = first_problem(error)
        raise InputError(f"--{path.partition('.')[0].replace('_', '-')}: {message}" if path else message) from None
    if keep_key is not None and keep_key.exists():
        raise InputError("--keep-key: this file is there already", file=keep_key, expected="a new file")
    data = read_manifest(
        manifest, root=root, where=parse_where(where), label_columns=parse_label_columns(label_columns)
    )
    say_label_columns(data.label_columns)
    _refuse_early(
        data, test, tuple(names(groups) or ()) if report else (), model if report or not only_copies else None
    )
    opened = open_core(core, device=device, overrides={"steps": sampler_steps, "guidance": guidance})
    attack = AttackSettings(steps=attack_steps, same_labels=same_labels)
    reporter = (
        _reporter(opened, test, tuple(names(groups) or ()), model, train_steps, seeds, attack) if report else None
    )
    result = swap(
        data, opened, out, settings, private=private, key=key, keep_key=keep_key, keep_private=keep_private,
        fresh=fresh, hidden=report, reporter=reporter,
    )  # fmt: skip
    if as_json:
        print_json(result)
        return
    _show(result)


def _reporter(
    core: GenerativeCore,
    test: Path | None,
    groups: tuple[str, ...],
    model: str,
    train_steps: int,
    seeds: int,
    attack: AttackSettings,
) -> Reporter:
    """What measures utility and privacy; a bad test manifest or setting is refused before anything is drawn."""
    from functools import partial

    from pydantic import ValidationError

    from cxraug.classifiers.settings import TrainSettings
    from cxraug.errors import first_problem
    from cxraug.privacy.swap_report import write_report
    from cxraug.privacy.utility import UtilitySettings
    from cxraug.studies.manifest import read_manifest
    from cxraug.studies.seen import refuse_hidden

    try:
        train = TrainSettings(model=model, steps=train_steps, eval_every=max(1, train_steps // 5))
        settings = UtilitySettings(train=train, seeds=seeds, groups=groups)
    except ValidationError as error:
        path, message = first_problem(error)
        raise InputError(f"--{path.replace('_', '-')}: {message}") from None
    data = None if test is None else read_manifest(test)
    if data is not None:
        refuse_hidden(
            core.card.hashes, f"core {core.card.name}", patients={"test": data.frame["patient_id"]}, images={}
        )
    return partial(write_report, settings=settings, test=data, attack=attack)


def _refuse_early(real: Manifest, test: Path | None, groups: tuple[str, ...], model: str | None) -> None:
    """Refuse groups and a network that are not there before anything is drawn: the drawing takes longest."""
    from cxraug.classifiers.models import build_model
    from cxraug.evaluation.groups import group_levels
    from cxraug.studies.manifest import read_manifest

    frame = real.frame if test is None else read_manifest(test).frame
    for group in groups:
        if group not in ("sex", "age"):  # the default's are left out where they are not known
            group_levels(frame, group)
    if model is not None:
        build_model(model, 1)


def _checks_off(only_copies: bool) -> dict[str, Any]:
    """The gate's settings that switch off every check but that for copies."""
    from cxraug.gate.settings import GateSettings

    switches = [name for name, field in GateSettings.model_fields.items() if field.annotation is bool]
    return {name: False for name in switches if only_copies and name != "duplicates"}


def _pairs(items: list[str]) -> dict[str, str]:
    pairs = {}
    for item in items:
        old, equals, new = (part.strip() for part in item.partition("="))
        if not (old and equals and new):
            raise InputError("--view-as", found=item, expected="OLD=NEW, for example 'AP Supine=AP'")
        pairs[old] = new
    return pairs


def _show(result: dict[str, Any]) -> None:
    typer.echo(
        f"{result['folder']}: {result['swapped']} of {result['studies']} studies swapped ({result['images']} images); "
        f"k = {result['k']} patients (asked: {result['k_asked']})"
    )
    for row in result["left_out"]:
        typer.echo(f"left out: {row['studies']} studies: {row['reason']}")
    page = Path(result["folder"]) / "report" / "swap.html"
    if page.is_file():
        typer.echo(f"utility and attacks: {page}")
    if result["private"] is not None:
        typer.echo(f"{result['private']}: PRIVATE, it links the stand-ins to real patients")
