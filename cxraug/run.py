"""The walk through a recipe: manifest, audit, plan, generate, gate, mix, train, predict, evaluate, report.

Every stage writes a folder and, last, a marker; a stage with a marker is not done again. All randomness comes from the
recipe's seed through :func:`cxraug.seeds.derive_seed`, so an interrupted run ends with the same tables.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import ValidationError

from cxraug import __version__
from cxraug.errors import InputError
from cxraug.evaluation.groups import group_levels
from cxraug.feasibility import refuse_impossible, refuse_rows
from cxraug.machine import machine
from cxraug.recipe import Recipe, read_recipe
from cxraug.seeds import derive_seed
from cxraug.storage import atomic, digest, file_sha256, plain, read_json, write_json
from cxraug.studies.cache import PixelCache, build_cache
from cxraug.studies.labels import label_matrix
from cxraug.studies.limit import Limited, count_patients, count_removed, describe, limit_patients
from cxraug.studies.manifest import Manifest
from cxraug.studies.seen import Seen, refuse_hidden

STAGES = ("data", "audit", "curve", "core", "train", "evaluate", "report")
MARKER = "done.json"
TIMES = "times.jsonl"
PACKAGES = (
    "torch", "timm", "diffusers", "torchxrayvision", "scikit-learn", "imbalanced-learn", "pandas", "numpy", "scipy",
    "torchmetrics", "accelerate",
)  # fmt: skip


class Run:
    """One recipe and its folder: the data of the run, its draws and where everything lies."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, Path(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open an existing run folder by the settings saved with it."""
        saved = read_json(Path(folder) / "settings.json")
        return cls(Recipe.model_validate(saved["recipe"]), Path(folder))

    # -- data ---------------------------------------------------------------------------------------------------------

    @cached_property
    def listed(self) -> Manifest:
        """The checked manifest as it was read, before any image is decoded."""
        settings = self.recipe.data
        if settings.phantom is not None:
            from cxraug.studies.phantom.cohort import make_cohort

            path = make_cohort(settings.phantom, self.folder / "cohort")
        else:
            path = Path(str(settings.manifest))
        return settings.read(path)

    @cached_property
    def data(self) -> tuple[Manifest, PixelCache]:
        """The manifest (bad images left out if the recipe says so) and its decoded pixels."""
        settings = self.recipe.data
        return build_cache(self.listed, self.folder / "cache", settings.encoding, on_bad_image=settings.on_bad_image)

    @property
    def manifest(self) -> Manifest:
        """The run's manifest."""
        return self.data[0]

    @property
    def cache(self) -> PixelCache:
        """The run's pixels, uint8 (n, size, size), aligned with the manifest."""
        return self.data[1]

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """The findings that classifiers are trained on."""
        return tuple(self.recipe.data.findings or self.manifest.findings)

    @cached_property
    def y(self) -> np.ndarray:
        """Labels (n, F) of every row: 1, 0, or NaN where unknown."""
        return self.manifest.y(self.findings)

    def rows(self, split: str) -> np.ndarray:
        """Boolean mask of a split's rows."""
        return (self.manifest.frame["split"] == split).to_numpy()

    # -- draws --------------------------------------------------------------------------------------------------------

    def draw_folder(self, draw: int) -> Path:
        """Where a draw's plan, sets and arms lie."""
        return self.folder / f"draw-{draw:02d}"

    def keep(self, draw: int, patients: int | Literal["all"] | None = None) -> Limited:
        """Which rows a draw keeps after the recipe's limits; ``patients`` replaces the curve finding's count."""
        keep, parts = np.ones(len(self.manifest), bool), []
        for limit in self.recipe.data.limit:
            count, share = limit.patients, limit.share
            if patients is not None and self.recipe.curve and limit.finding == self.recipe.curve.finding:
                if patients == "all":
                    continue
                count, share = patients, None
            part = limit_patients(
                self.manifest,
                finding=limit.finding,
                group=limit.group,
                patients=count,
                share=share,
                seed=derive_seed(self.recipe.seed, "limit", limit.finding or limit.group, draw),
                limit_val=self.recipe.data.limit_val,
            )
            keep &= part.keep
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        return Limited(keep=keep, removed=count_removed(self.manifest, keep) if parts else pd.DataFrame())

    def limits_left(self, draw: int) -> list[dict[str, Any]]:
        """For each of the recipe's limits whom it is about, how many training patients it asks for, and how many stay.

        Several limits together may leave fewer: each drops whole patients, whom another one would have kept.
        """
        keep, everyone = self.keep(draw).keep, np.ones(len(self.manifest), bool)
        found = []
        for limit in self.recipe.data.limit:
            available, left = (
                count_patients(self.manifest, rows, finding=limit.finding, group=limit.group)
                for rows in (everyone, keep)
            )
            asked = limit.patients if limit.share is None else max(round(limit.share * available), 1)
            found.append(
                {"finding": limit.finding, "group": limit.group, "available": available, "asked": asked, "left": left}
            )
        return found

    def forbidden(self, keep: np.ndarray) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Patients and pixel digests that nothing trained for a draw may have seen, by role."""
        roles = {"test": self.rows("test"), "validation": self.rows("val"), "limited-out": self.rows("train") & ~keep}
        ids = self.manifest.frame["patient_id"].to_numpy()
        return (
            {role: list(ids[mask]) for role, mask in roles.items()},
            {role: list(self.cache.sha[mask]) for role, mask in roles.items()},
        )

    def seen(self, rows: np.ndarray) -> Seen:
        """Keyed hashes of the given rows, for the card of what is trained on them; one key per run: same bytes."""
        key = digest([self.recipe.seed, self.recipe.name, "seen"])[:32]
        return Seen.of(self.manifest.frame["patient_id"].to_numpy()[rows], self.cache.sha[rows], key=key)

    def cells(self, frame: pd.DataFrame) -> np.ndarray:
        """The cell of each row as text: label set, sex, age band and view (the grain of plan and controls)."""
        known = set(self.findings)
        labels = frame["labels"].fillna("").map(lambda text: _label_set(text, known))
        age = group_levels(frame, "age", self.recipe.audit.age_bins)
        sex = group_levels(frame, "sex", self.recipe.audit.age_bins)
        return (labels + "|" + sex + "|" + age + "|" + frame["view"].astype(str)).to_numpy(dtype=object)

    def plan_y(self, plan: pd.DataFrame) -> np.ndarray:
        """Labels (n, F) of planned studies, as their label set's source annotates them."""
        sources = plan["source"].fillna("").astype(str)
        return label_matrix(plan["labels"], sources, self.findings, self.manifest.annotated)


def run_recipe(
    path: str | Path,
    out: str | Path | None = None,
    *,
    overrides: list[str] | None = None,
    fresh: bool = False,
    until: str = "report",
    probes: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Walk a recipe to its verdict; go on where an earlier sitting stopped.

    Parameters
    ----------
    path : the recipe (YAML). out : run folder, ``runs/<recipe name>`` by default.
    overrides : ``key.path=value`` settings that replace the recipe's. fresh : throw an earlier run away.
    until : the last stage to do, one of :data:`STAGES`. probes : attributes to look for in the features of the trained
        arms as soon as they are trained, whatever the recipe says (:func:`cxraug.probes.probe_arms`).

    Returns
    -------
    The verdict (see :func:`cxraug.evaluation.endpoint.verdict`), or None if stopped before it.

    Raises
    ------
    InputError
        Bad recipe or data, or an old folder made by other settings.
    """
    from cxraug import arm_job, stages
    from cxraug.machine import check_device

    arm_job.open_run.cache_clear()
    recipe = read_recipe(path, overrides)
    check_device(recipe.core.device, name="core.device")
    check_device(recipe.train.device, name="train.device", auto=True)
    run = Run(recipe, Path(out) if out is not None else Path("runs") / recipe.name)
    if fresh and run.folder.exists():
        ours = ("settings.json", "recipe.yaml")
        if any(run.folder.iterdir()) and not all((run.folder / name).is_file() for name in ours):
            raise InputError(
                "--fresh deletes run folders only", file=run.folder, expected="a folder with settings.json"
            )
        shutil.rmtree(run.folder)
    settings = _settings(run)
    _refuse_other_settings(run.folder, settings)
    walk: dict[str, Callable[[Run], Any]] = {
        "data": lambda run: check_data(run, probes),
        "audit": stages.audit,
        "curve": stages.curve,
        "core": stages.common_core,
        "train": lambda run: stages.draws(run, probes),
        "evaluate": stages.evaluate,
        "report": stages.report,
    }
    result = None
    for number, name in enumerate(STAGES, 1):
        print(f"[{number}/{len(STAGES)}] {name}", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            result = walk[name](run)
        finally:
            _note_time(run.folder, name, time.monotonic() - started)
        if name == "data":  # a recipe that the data refuse leaves no folder that claims it
            _save_settings(run.folder, settings, Path(path))
        if name == until:
            break
    return result if until == "report" else None


def once(folder: Path, work: Callable[[], Any]) -> Any:
    """Do ``work`` unless ``folder`` has its marker; the marker keeps what ``work`` returned (JSON)."""
    marker = folder / MARKER
    if marker.is_file():
        return read_json(marker)["result"]
    result = work()
    write_json(marker, {"result": result})
    return read_json(marker)["result"]


def check_data(run: Run, probes: Sequence[str] = ()) -> None:
    """Read and decode everything, and refuse what cannot work before any time is spent."""
    from cxraug.probes import refuse_probes

    recipe = run.recipe
    refuse_impossible(recipe, lambda: run.listed)
    refuse_rows(recipe, run.manifest)  # once more: bad images may have been left out
    refuse_probes(recipe, run.manifest, probes)
    for draw in range(recipe.draws):
        limited = run.keep(draw)
        refuse_all_hidden(run, limited.keep)
        path, left = run.draw_folder(draw) / "limit.json", run.limits_left(draw)
        for limit in left:
            who = describe(limit["finding"], limit["group"])
            short = limit["asked"] - limit["left"]
            why = f": data.limit asks for {limit['asked']}, other limits dropped {short} of them" if short else ""
            _say(f"draw {draw}: {limit['left']} of {limit['available']} training patients with {who} stay{why}")
        if not path.is_file():
            removed = limited.removed.to_dict("records")
            write_json(path, {"removed": removed, "kept": limited.keep.sum(), "limits": left})


def refuse_all_hidden(run: Run, keep: np.ndarray) -> None:
    """Refuse a core, gate classifier or initial weights that have seen test, validation or limited-out rows."""
    recipe = run.recipe
    patients, images = run.forbidden(keep)
    named: list[tuple[str, Seen | None]] = []
    if recipe.core.name not in ("train", "gaussian"):
        from cxraug.cores.registry import read_card

        named.append((f"core {recipe.core.name}", read_card(recipe.core.name).hashes))
    if recipe.gate.networks():
        from cxraug.gate.seen import networks_seen

        named += [(f"gate {path}", seen) for path, seen in networks_seen(recipe.gate).items()]
    if recipe.train.weights is not None:
        from cxraug.classifiers.models import weights_seen

        named.append((f"initial weights {recipe.train.weights}", weights_seen(Path(recipe.train.weights))))
    for what, seen in named:
        if seen is not None:
            refuse_hidden(seen, what, patients=patients, images=images)


def _settings(run: Run) -> dict[str, Any]:
    settings: dict[str, Any] = {"recipe": run.recipe.model_dump(mode="json")}
    if run.recipe.data.manifest is not None and Path(run.recipe.data.manifest).is_file():
        settings["manifest_sha256"] = file_sha256(run.recipe.data.manifest)
    gate = {f"gate.{key}": name for key, name in run.recipe.gate.networks().items()}
    named = {"train.weights": run.recipe.train.weights, "gate.weights": run.recipe.gate.weights} | gate
    for key, name in named.items():
        files = (
            [] if name is None else [Path(name)] if Path(name).is_file() else sorted(Path(name).rglob("*.safetensors"))
        )
        settings[f"{key} sha256"] = [file_sha256(file) for file in files]
    if run.recipe.core.name not in ("train", "gaussian"):
        from cxraug.cores.registry import read_card

        settings["core sha256"] = read_card(run.recipe.core.name).sha256
    return settings


def _refuse_other_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on in a folder that was made by another recipe, other data or other weights."""
    path = folder / "settings.json"
    if not path.is_file():
        return
    old = read_json(path)
    changed = _first_difference(_with_defaults(old.get("recipe")), settings["recipe"])
    for key in settings:
        if changed is None and key != "recipe" and old.get(key) != plain(settings[key]):
            changed = f"the content of a file ({key})"
    if changed is not None:
        raise InputError(
            f"this folder holds a run with another recipe: {changed} differs",
            file=folder,
            expected="the same recipe, another --out, or --fresh to start over",
        )


def _with_defaults(recipe: Any) -> Any:
    """A saved recipe with the defaults of settings that did not exist when it was saved: it never asked otherwise."""
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:
        return recipe


def _save_settings(folder: Path, settings: dict[str, Any], source: Path) -> None:
    path = folder / "settings.json"
    if path.is_file():
        _note_other_versions(path)
        return
    settings["versions"] = _versions()
    settings["machine"] = machine()
    with atomic(folder / "recipe.yaml") as temporary:
        shutil.copyfile(source, temporary)
    write_json(path, settings)


def _note_time(folder: Path, stage: str, seconds: float) -> None:
    """One line per stage and sitting, also of one that was interrupted; no folder, no line."""
    if folder.is_dir():
        with (folder / TIMES).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "seconds": round(seconds, 1)}) + "\n")


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"cxraug": __version__, "python": platform.python_version(), **packages}


def _note_other_versions(path: Path) -> None:
    """Say that a run goes on under other versions than before, and keep it in its settings: the report shows them."""
    settings, now = read_json(path), _versions()
    then = dict(settings.get("versions", {}))
    for later in settings.get("resumed with", []):
        then |= later
    changed = {name: version for name, version in now.items() if then.get(name) != version}
    if not changed:
        return
    told = ", ".join(f"{name} {version} (was {then.get(name, 'none')})" for name, version in changed.items())
    print(f"  note: this run goes on with other versions: {told}", file=sys.stderr, flush=True)
    settings["resumed with"] = [*settings.get("resumed with", []), changed]
    write_json(path, settings)


def _first_difference(old: Any, new: Any, path: str = "") -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            found = _first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return None if old == new else path


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _label_set(labels: str, known: set[str]) -> str:
    """The present findings of a label text that the run knows, sorted: what a cell is about."""
    return "+".join(sorted(part for part in labels.split("|") if part in known))
