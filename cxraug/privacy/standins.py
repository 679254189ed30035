"""From real studies to the prompts of their stand-ins, and what of them a core has to honour."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.core import LATERAL, VIEWS, Card, GenerativeCore
from cxraug.cores.given import write_files
from cxraug.errors import InputError
from cxraug.privacy.cells import UNKNOWN, band_age
from cxraug.privacy.pseudonyms import Pseudonyms
from cxraug.privacy.swap_settings import SwapSettings
from cxraug.studies.labels import DEVICES, NO_FINDING, format_labels, parse_labels
from cxraug.studies.manifest import Manifest

ATTRIBUTES = ("sex", "age", "race", "source")
DROPPABLE = (*ATTRIBUTES, "report")


def studies_of(manifest: Manifest, settings: SwapSettings) -> pd.DataFrame:
    """One row per study to be swapped, in the manifest's order.

    A study with several images of one projection (frontal or lateral) becomes as many studies, since a core draws at
    most one of each at once.

    Returns
    -------
    Columns ``key`` (the study's old name, unique), ``patient``, ``study``, ``labels`` (text that names every finding
    in play), ``sex``, ``race``, ``source`` (blank: unknown), ``age``, ``views`` ("PA|Lateral"), ``rows`` (positions in
    the manifest, in the order of the views) and ``report`` (blank: none).

    Raises
    ------
    InputError : a name in ``drop`` or ``view_as`` that is neither an attribute nor a finding or view of the manifest.
    """
    frame = manifest.frame
    findings = [f for f in manifest.findings if f not in settings.drop]
    _check_names(manifest, settings)
    view = frame["view"].replace(dict(settings.view_as))
    keep = ~view.isin(settings.drop).to_numpy(bool)
    y = manifest.y(findings)
    lateral = (view == LATERAL).to_numpy(bool)
    table = pd.DataFrame({"patient": frame["patient_id"], "study": frame["study_id"], "lateral": lateral})[keep]
    table["part"] = table.groupby(["patient", "study", "lateral"], sort=False).cumcount()
    rows = []
    for (patient, study, part), here in table.groupby(["patient", "study", "part"], sort=False):
        at = sorted(here.index, key=lambda i: bool(lateral[i]))  # the frontal view first
        first = frame.loc[at[0]]
        annotated = manifest.annotated.get(str(first["source"]), ())
        row: dict[str, Any] = {
            "key": f"{patient}\0{study}\0{part}", "patient": patient, "study": study, "rows": at,
            "views": "|".join(str(view[i]) for i in at), "age": float(first["age"]),
            "labels": _label_text(y[at], findings, annotated),
        }  # fmt: skip
        for name in ("sex", "race", "source", "report"):
            value = first.get(name)
            row[name] = UNKNOWN if value is None or value != value else str(value)
        rows.append(row)
    if not rows:
        raise InputError("no study is left to swap", file=manifest.file, expected="rows in views that are not dropped")
    studies = pd.DataFrame(rows)
    for name in settings.drop:
        if name == "age":
            studies["age"] = np.nan
        elif name in DROPPABLE:
            studies[name] = UNKNOWN
    return studies


def refuse_unknown(studies: pd.DataFrame, core: GenerativeCore, settings: SwapSettings) -> None:
    """Raise :class:`InputError` that names the first attribute, finding or view which the core cannot honour."""
    card = core.card
    for name in ATTRIBUTES:
        there = studies["age"].notna() if name == "age" else studies[name] != UNKNOWN
        if there.any() and name not in card.conditions:
            raise InputError(f"core {card.name} does not know the condition {name!r}",
                             expected=f"another core, or --drop {name}")  # fmt: skip
    for name, known in (("source", card.sources), ("race", card.races)):
        strange = sorted(set(studies[name]) - {UNKNOWN} - set(known))
        if strange:
            raise InputError(f"core {card.name} does not know the {name}", found=strange[0],
                             expected=f"one of {', '.join(known) or 'none'}, or --drop {name}")  # fmt: skip
    named = {f for text in pd.unique(studies["labels"]) for f in parse_labels(text)} - {NO_FINDING}
    strange = sorted(named - set(card.findings))
    if strange:
        raise InputError(f"core {card.name} does not know the finding", found=strange[0],
                         expected=f"one of {', '.join(card.findings)}, or --drop {strange[0]!r}")  # fmt: skip
    strange = sorted({view for text in studies["views"] for view in text.split("|")} - set(card.views))
    if strange:
        expected = f"one of {', '.join(card.views)}: --view-as '{strange[0]}={card.views[0]}', or --drop '{strange[0]}'"
        raise InputError(f"core {card.name} does not know the view", found=strange[0], expected=expected)
    _check_strength(core, settings)


def configure_strength(core: GenerativeCore, settings: SwapSettings) -> None:
    """Set the core's sampler to the strength asked for; :class:`InputError` where it has none."""
    if isinstance(settings.strength, float):
        _configure(core, settings.strength)
    elif settings.strength == "variation" and "strength" in getattr(core, "sampler_fields", ()):
        _configure(core, 1.0)


def standin_plan(
    studies: pd.DataFrame, published: pd.DataFrame, names: Pseudonyms, card: Card, settings: SwapSettings,
    paths: Sequence[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """The plan of the stand-ins and what links it to the originals, both in the order of the new ids.

    Parameters
    ----------
    studies : from :func:`studies_of`. published : what may be said of those that are swapped, by the same index.
    names : new ids and seeds. paths : absolute path of each row of the manifest.

    Returns
    -------
    (plan, links) : ``plan`` by the contract; ``links`` has ``prompt_id, patient, study, rows, views`` (private).
    """
    writes = bool(card.settings.get("writes_report"))
    rows, links = [], []
    for index, seen in published.iterrows():
        study = studies.loc[index]  # type: ignore[call-overload]
        prompt_id = names.name("study", study["key"])
        views = seen["views"].split("|")
        of_view = dict(zip(study["views"].split("|"), study["rows"], strict=True))
        row: dict[str, Any] = {
            "prompt_id": prompt_id,
            "labels": _asked_labels(seen["labels"], card),
            "sex": seen["sex"], "race": seen["race"], "source": seen["source"],
            "age": band_age(seen["age_band"]), "views": seen["views"],
            "seed": names.seed(prompt_id), "reason": "stand-in",
        }  # fmt: skip
        if settings.strength == "report":
            row["report"] = study["report"]
        else:
            row["wants_report"] = writes and "report" not in settings.drop
        if settings.shows_images:
            row["reference_image"] = write_files({view: paths[of_view[view]] for view in views})
        rows.append(row)
        links.append({"prompt_id": prompt_id, "patient": study["patient"], "study": study["study"],
                      "rows": [of_view[view] for view in views], "views": seen["views"]})  # fmt: skip
    plan = pd.DataFrame(rows).sort_values("prompt_id", ignore_index=True)
    text = [c for c in plan.columns if c not in ("age", "seed", "wants_report")]
    plan = plan.astype({**dict.fromkeys(text, "str"), "seed": "int64", "age": "float64"})
    for name in text:
        plan[name] = plan[name].where(plan[name] != UNKNOWN)
    return plan, pd.DataFrame(links).sort_values("prompt_id", ignore_index=True)


def _label_text(y: np.ndarray, findings: Sequence[str], annotated: Collection[str]) -> str:
    """Label text of rows (v, F) of one study: present in any image, else absent in any, else unknown.

    An uncertain finding becomes absent: the stand-in is drawn without it, so that its label is true of what it shows.
    """
    values = np.where((y == 1).any(axis=0), 1, np.where((y == 0).any(axis=0), 0, -1))
    named = {f: int(v) for f, v in zip(findings, values, strict=True)}
    sick = any(v == 1 and f != NO_FINDING and f not in DEVICES for f, v in named.items())
    if named.get(NO_FINDING) == 0 and not sick:  # something is there that nobody named
        return format_labels(named)
    if any(v >= 0 for v in named.values()):
        named = {f: 0 if v < 0 and f in annotated else v for f, v in named.items()}
        if NO_FINDING in named:
            named[NO_FINDING] = int(not sick)
    return format_labels(named)


def _asked_labels(labels: str, card: Card) -> str:
    """Label text for the core: what is known; every other finding of the core is left open."""
    named = {f: v for f, v in parse_labels(labels).items() if f in card.findings}
    return format_labels({**named, **{f: -1 for f in card.findings if f not in named}})


def _check_names(manifest: Manifest, settings: SwapSettings) -> None:
    views = set(manifest.frame["view"])
    known = [*DROPPABLE, *manifest.findings, *sorted(views)]
    for name in settings.drop:
        if name not in known:
            raise InputError("--drop names nothing that is there", found=name, expected=f"one of {', '.join(known)}")
    for old, new in settings.view_as.items():
        if old not in views or new not in VIEWS:
            raise InputError("--view-as", found=f"{old}={new}",
                             expected=f"one of {', '.join(sorted(views))} = one of {', '.join(VIEWS)}")  # fmt: skip


def _check_strength(core: GenerativeCore, settings: SwapSettings) -> None:
    conditions = core.conditions  # below strength 1 a core may take an image that its card does not name
    if settings.strength == "report":
        if "report" not in conditions:
            raise InputError(f"core {core.card.name} takes no report as a condition", found="--strength report",
                             expected="attributes, or another core")  # fmt: skip
        return
    if not settings.shows_images:
        return
    if "reference_image" not in conditions:
        raise InputError(f"core {core.card.name} takes no image as a condition",
                         found=f"--strength {settings.strength}", expected="attributes, or another core")  # fmt: skip
    if settings.strength == "variation" and getattr(core, "alignment", None) is None:
        raise InputError(f"core {core.card.name} has no shared space to vary an image in", found="--strength variation",
                         expected="attributes, a number, or another core")  # fmt: skip


def _configure(core: GenerativeCore, strength: float) -> None:
    try:
        core.configure(strength=strength)
    except InputError as error:
        raise InputError(f"core {core.card.name} cannot start from an image: {error}",
                         expected="attributes, variation, or another core") from None  # fmt: skip
