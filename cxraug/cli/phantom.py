"""``cxraug phantom``: make the embedded cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from cxraug.cli.answer import print_json
from cxraug.errors import InputError, first_problem


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("phantom")(phantom)


def phantom(
    out: Path = typer.Option(..., help="Folder to write: manifest.parquet, images/, masks/."),
    n: int = typer.Option(2000, help="Number of studies."),
    seed: int = typer.Option(0, help="Cohorts of different seeds share no patient."),
    size: int = typer.Option(128, help="Side of the pictures in pixels."),
    views: str = typer.Option("PA", help="Views of a study, comma-separated: PA, AP, Lateral."),
    female: float = typer.Option(0.5, help="Share of women."),
    age_mean: float = typer.Option(55.0, help="Mean age in years."),
    age_sd: float = typer.Option(18.0, help="Standard deviation of the age."),
    prevalence: list[str] = typer.Option([], help="FINDING=P, e.g. Pneumothorax=0.03; may be repeated."),
    odds: list[str] = typer.Option([], help="FINDING:CONDITION=RATIO, e.g. Pneumothorax:sex=F=0.5 or Mass:age>=60=2."),
    severity: list[str] = typer.Option([], help="FINDING:CONDITION=FACTOR: how marked a finding is in a group."),
    label_noise: float = typer.Option(0.0, help="Share of the positive labels that are wrong."),
    workers: int = typer.Option(2, min=1, help="Processes that render."),
    fresh: bool = typer.Option(False, "--fresh", help="Start over instead of going on."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Make a cohort of procedural chest X-rays with known findings, masks, boxes and reports.

    Prevalence and its dependence on sex and age are what you set, so that a known imbalance and a known group gap
    can be planted. See data_cards/phantom.md for what these pictures are not good for.
    """
    import pandas as pd
    from pydantic import ValidationError

    from cxraug.studies.phantom.cohort import PhantomSettings, make_cohort

    try:
        settings = PhantomSettings(
            n=n,
            seed=seed,
            size=size,
            views=tuple(v.strip() for v in views.split(",")),
            female=female,
            age_mean=age_mean,
            age_sd=age_sd,
            prevalence={k: _number(v, "--prevalence") for k, v in (_pair(p, "--prevalence") for p in prevalence)},
            odds_ratio=_factors(odds, "--odds"),
            severity=_factors(severity, "--severity"),
            label_noise=label_noise,
        )
    except ValidationError as error:
        key, message = first_problem(error)
        raise InputError(f"{key or 'settings'}: {message}") from None
    manifest = make_cohort(settings, out, workers=workers, fresh=fresh)
    frame = pd.read_parquet(manifest)
    studies = frame.drop_duplicates("study_id")
    counts = studies["labels"].str.split("|").explode().value_counts()
    if as_json:
        summary: dict[str, Any] = {
            "manifest": str(manifest), "images": len(frame), "studies": len(studies),
            "patients": int(frame["patient_id"].nunique()), "positives": {k: int(v) for k, v in counts.items()},
        }  # fmt: skip
        print_json(summary)
        return
    typer.echo(
        f"{manifest}: {len(frame)} images, {len(studies)} studies, {frame['patient_id'].nunique()} patients; "
        + ", ".join(f"{k} {v}" for k, v in counts.sort_index().items())
    )


def _pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.rpartition("=")
    if not sign or not name:
        raise InputError(f"{option} is not NAME=VALUE", found=text)
    return name, value


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} has no number after the last '='", found=text) from None


def _factors(options: list[str], option: str) -> dict[str, dict[str, float]]:
    """``FINDING:CONDITION=FACTOR`` options as finding -> condition -> factor."""
    factors: dict[str, dict[str, float]] = {}
    for text in options:
        name, value = _pair(text, option)
        finding, sign, condition = name.partition(":")
        if not sign:
            raise InputError(f"{option} is not FINDING:CONDITION=FACTOR", found=text)
        factors.setdefault(finding, {})[condition] = _number(value, option)
    return factors
