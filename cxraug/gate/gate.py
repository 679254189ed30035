"""The gate: every check under one budget of falsely rejected real images, re-draws, verdicts, ``gate.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.core import GenerativeCore
from cxraug.cores.measures.paired import paired_mean
from cxraug.errors import InputError
from cxraug.evaluation.groups import AGE_BINS, group_levels
from cxraug.evaluation.uncertainty import interval
from cxraug.gate.acceptance import Verdicts, acceptance, gate_notes, rejected_studies
from cxraug.gate.agreement import Agreement
from cxraug.gate.check import Check, Images
from cxraug.gate.demographics import Demographics
from cxraug.gate.duplicates import Duplicates
from cxraug.gate.fairness import rejection_by_level
from cxraug.gate.reader import Reader
from cxraug.gate.realism import Realism
from cxraug.gate.reports import Reports
from cxraug.gate.settings import GateSettings
from cxraug.machine import Device
from cxraug.pages.gate import PAGE, write_gate_page
from cxraug.storage import digest, plain, read_json, write_json
from cxraug.studies.cache import PixelCache
from cxraug.studies.images import Encoding, encode, read_pixels
from cxraug.studies.labels import label_matrix
from cxraug.studies.manifest import Manifest
from cxraug.synthesis.assembly import MANIFEST, remove_strays, set_frame, write_set
from cxraug.synthesis.generate import GATE, first_draw, redraw, set_settings
from cxraug.synthesis.unit import UNITS

OTHER_VIEW = "another view of the study was rejected"


class Gate:
    """Checks that share one budget.

    Test j rejects an image whose p-value is at most ``level_j``. Levels start at each test's own rate and, where its
    check allows that, are raised together by the largest factor at which the union of all tests still rejects at most
    ``false_reject`` of the held-out real images; no level exceeds ``false_reject``.
    """

    def __init__(self, checks: Sequence[Check], false_reject: float) -> None:
        self.checks, self.false_reject = list(checks), false_reject

    def fit(self, real: Images) -> Gate:
        """Fit every check on real training images and share out the budget.

        ``real_rejected`` (n,) is then which of them it rejects.
        """
        p = [check.fit(real).p for check in self.checks]
        self.tests = [test for check in self.checks for test in check.tests]
        owner = np.repeat([check.name for check in self.checks], [part.shape[1] for part in p]) if p else np.zeros(0)
        joint = np.concatenate(p, axis=1) if p else np.zeros((len(real), 0))
        self.levels = joint_levels(
            joint, [test.rate for test in self.tests], [test.scales for test in self.tests], self.false_reject
        )
        rejected = joint <= self.levels
        asked = ~np.isnan(joint)
        self.real_rejected: np.ndarray = np.asarray(rejected.any(axis=1))
        self.real = {
            "n": len(real),
            "rejected": int(self.real_rejected.sum()),
            **_rate(self.real_rejected, real.patients),
            "budget": self.false_reject,
            "checks": {
                check.name: {
                    "asked": int((mine := np.asarray(asked[:, owner == check.name].any(axis=1))).sum()),
                    "rejected": int((bad := np.asarray(rejected[:, owner == check.name].any(axis=1))).sum()),
                    "alone": int((bad & ~rejected[:, owner != check.name].any(axis=1)).sum()),
                    **_rate(bad[mine], real.patients[mine]),
                }
                for check in self.checks
            },
            "tests": {
                test.name: {
                    "check": str(owner[j]),
                    "level": level,
                    "finest": test.finest,
                    "asked": int(asked[:, j].sum()),
                    "rejected": int(rejected[:, j].sum()),
                }
                for j, (test, level) in enumerate(zip(self.tests, self.levels.tolist(), strict=True))
            },
        }
        return self

    def judge(self, batch: Images) -> list[list[str]]:
        """Reasons for rejection of each image, empty for an accepted one. Accepted images are remembered."""
        p = [check.score(batch).p for check in self.checks]
        rejected = np.concatenate(p, axis=1) <= self.levels if p else np.zeros((len(batch), 0), bool)
        reasons = [[self.tests[j].reason for j in np.flatnonzero(row)] for row in rejected]
        _reject_whole_studies(reasons, batch.patients)
        accepted = batch.take(np.array([not r for r in reasons], bool))
        for check in self.checks:
            check.remember(accepted)
        return reasons

    def scores(self, batch: Images) -> np.ndarray:
        """How far each image is from being rejected: its smallest p-value relative to that test's level, (n,).

        At most 1: rejected; larger is better; infinite where no test applies. Nothing is remembered, so that several
        candidates for one study (rows with one patient id) can be ranked before one of them is judged.
        """
        p = np.concatenate([np.zeros((len(batch), 0)), *(check.score(batch).p for check in self.checks)], axis=1)
        relative = p / np.maximum(self.levels, np.finfo(float).tiny)
        return np.where(np.isnan(relative), np.inf, relative).min(axis=1, initial=np.inf)

    @property
    def nearest(self) -> np.ndarray | None:
        """Correlation of each image of the last batch with its nearest training image, if copies are looked for."""
        return next((check.correlations for check in self.checks if isinstance(check, Duplicates)), None)

    def describe(self) -> dict[str, Any]:
        """What was fitted and what it does to real images, JSON-ready."""
        levels = {test.name: level for test, level in zip(self.tests, self.levels.tolist(), strict=True)}
        return {"real": self.real, "checks": {check.name: check.describe(levels) for check in self.checks}}


def _rate(rejected: np.ndarray, patients: np.ndarray) -> dict[str, float | None]:
    """Share of rejected images with its 95 % interval (Wilson, clustered by patient)."""
    if not len(rejected):
        return {"rate": None, "ci_low": None, "ci_high": None}
    found = paired_mean(rejected[None].astype(float), patients)
    low, high = interval(found.value, found.variance, found.df, "wilson", 0.05)
    return {"rate": float(found.value[0]), "ci_low": float(low[0]), "ci_high": float(high[0])}


def joint_levels(p: np.ndarray, rates: Sequence[float], scales: Sequence[bool], budget: float) -> np.ndarray:
    """The level of each test: its rate, times one common factor for tests that scale, at most ``budget``.

    Parameters
    ----------
    p : (n, T) p-values of held-out real images, NaN where a test does not apply.
    rates : (T,) rates of the tests. scales : (T,) whether the factor applies.
    budget : the largest share of the n images that the union of all tests may reject.
    """
    rate, free = np.asarray(rates, float), np.asarray(scales, bool)
    fixed = (p[:, ~free] <= rate[~free]).any(axis=1)
    # The factor at which each image falls; a p-value above the budget never rejects.
    factor = np.where(p[:, free] <= budget, p[:, free] / rate[free], np.inf)
    falls = factor.min(axis=1, initial=np.inf)
    falls = np.sort(falls[~fixed])
    allowed = max(int(np.floor(budget * len(p))) - int(fixed.sum()), 0)
    ceiling = falls[allowed] if allowed < len(falls) else np.inf
    common = np.nextafter(ceiling, 0) if np.isfinite(ceiling) else np.finfo(float).max
    # Rounding must not move a p-value across its level: stay a hair below the first one that would be too many.
    return np.where(free, np.minimum(rate * common * (1 - 1e-9), budget), rate)


def gate_set(
    set_folder: str | Path,
    real: Manifest,
    cache: PixelCache,
    encoding: Encoding,
    settings: GateSettings,
    *,
    findings: Sequence[str],
    folder: str | Path,
    plan: pd.DataFrame | None = None,
    core: GenerativeCore | None = None,
    seed: int = 0,
    groups: Sequence[str] = ("sex", "age"),
    age_bins: Sequence[float] = AGE_BINS,
    device: Device = "auto",
) -> dict[str, Any]:
    """Accept or reject every image of a generated set; re-draw what was rejected.

    Parameters
    ----------
    set_folder : a finished set. Its manifest gets ``gate`` and ``gate_reasons``; ``gate.json`` is written last.
    real, cache : real *training* rows and their pixels, aligned. Other splits are refused.
    encoding : how the cache was encoded; synthetic images are encoded the same way.
    findings : what the classifier judges.
    folder : where its weights are kept, so that later calls reuse them.
    plan : names each prompt's ``source`` where the core was asked without: an unnamed finding is absent where that
        source annotates it. Without any source it is absent where all real sources annotate it.
    core : the core that made the set, for re-draws; without it nothing is re-drawn.
    groups, age_bins : acceptance is counted per finding and per level of these groups.
    device : where the gate's networks compute: ``cpu``, ``cuda``, or ``auto``, which is CUDA where there is one.

    Returns
    -------
    The content of ``gate.json``.

    Raises
    ------
    InputError
        Rows that are not training rows, an unfinished set, a core other than the set's, weights that do not fit.

    Notes
    -----
    A study is accepted when all its views are. A rejected prompt is generated again under a seed derived from its own
    and the number of the draw, at most ``max_redraws`` times; if it still fails, its last draw stays as ``reject``.
    The same set, data and settings give the same files, and a finished gate is not computed again.
    """
    set_folder = Path(set_folder)
    images = real_images(real, cache, findings, settings, age_bins)
    here = {s: real.annotated[s] for s in sorted(set(real.frame["source"])) if s in real.annotated}
    claims = _Claims(tuple(findings), here, plan, settings, age_bins)
    key = digest(
        [
            set_settings(set_folder), settings.model_dump(), seed, core is not None, list(groups), list(age_bins),
            vars(encoding), [_plain_values(images), list(cache.sha)], claims.findings, claims.annotated, claims.sources,
            *([] if device == "auto" else [device]),
        ]
    )  # fmt: skip
    if (set_folder / GATE).is_file() and (set_folder / MANIFEST).is_file() and (set_folder / PAGE).is_file():
        old = read_json(set_folder / GATE)
        if old.get("key") == key:
            return old
    gate = Gate(open_checks(settings, tuple(findings), seed, Path(folder), device), settings.false_reject).fit(images)
    verdicts = _judge_draws(gate, set_folder, core, settings.max_redraws, claims, encoding)
    (set_folder / GATE).unlink(missing_ok=True)  # never beside a manifest of other verdicts
    frame = write_set(set_folder, verdicts.lines, verdicts.reasons)
    _remove_other_redraws(set_folder, verdicts.lines)
    fitted = gate.describe()
    counted = acceptance(frame, verdicts, groups, age_bins)
    fairness = {
        "real": rejection_by_level(gate.real_rejected, _levels(real.frame, groups, age_bins), images.patients),
        "synthetic": rejected_studies(frame, verdicts, groups, age_bins),
        "calibrated_within": settings.per_group,
    }
    summary = plain(
        {
            "key": key,
            "settings": settings.model_dump(mode="json"),
            **fitted,
            **counted,
            "rejected": {image: why for image, why in verdicts.reasons.items() if why},  # of every draw
            "fairness": fairness,
            "notes": gate_notes(fitted, settings, fairness, counted, redraws=core is not None),
        }
    )
    write_gate_page(set_folder, frame, summary)
    write_json(set_folder / GATE, summary)
    return summary


class _Claims:
    """What a synthetic image claims: the findings of its label text, read as its source annotates."""

    def __init__(
        self,
        findings: tuple[str, ...],
        annotated: Mapping[str, Sequence[str]],
        plan: pd.DataFrame | None,
        settings: GateSettings | None = None,
        age_bins: Sequence[float] = AGE_BINS,
    ) -> None:
        self.findings, self.settings, self.age_bins = findings, settings or GateSettings(), age_bins
        common = set.intersection(*(set(known) for known in annotated.values())) if annotated else set()
        self.annotated = {"": sorted(common), **{source: list(known) for source, known in annotated.items()}}
        self.sources: dict[str, str] = {}
        if plan is not None and "source" in plan:
            named = plan[plan["source"].fillna("") != ""]
            self.sources = dict(zip(named["prompt_id"].astype(str), named["source"].astype(str), strict=True))

    def read(self, frame: pd.DataFrame) -> np.ndarray:
        """Labels (n, F) of manifest rows: 1, 0 or NaN."""
        own = frame["source"].fillna("")
        source = own.where(own != "", frame["prompt_id"].map(lambda name: self.sources.get(name, "")).astype("str"))
        return label_matrix(frame["labels"], source, self.findings, self.annotated)

    def images(self, frame: pd.DataFrame, pixels: np.ndarray) -> Images:
        """Manifest rows of a set with their pixels (n, S, S)."""
        return claimed_images(frame, pixels, self.read(frame), None, self.settings, self.age_bins)


def open_checks(
    settings: GateSettings, findings: tuple[str, ...], seed: int, folder: Path, device: Device = "auto"
) -> list[Check]:
    """The checks that ``settings`` turn on, for ``Gate(checks, settings.false_reject)``.

    ``findings`` are judged; ``folder`` keeps the networks' weights; ``device`` is where the networks compute.
    """
    rates = settings.rates()
    reader = Reader(findings, settings, seed, folder, device)
    checks: list[Check] = []
    if settings.duplicates:
        checks.append(Duplicates(settings.copy_rate, seed))
    if settings.agreement and findings:
        checks.append(Agreement(findings, settings, rates["agreement"], reader))
    if settings.demographics:
        checks.append(Demographics(settings, rates["demographics"], reader))
    if settings.realism:
        checks.append(Realism(settings, rates["realism"]))
    if settings.reports and findings:
        checks.append(Reports(findings, settings, rates["reports"]))
    return checks


def real_images(
    real: Manifest,
    cache: PixelCache,
    findings: Sequence[str],
    settings: GateSettings | None = None,
    age_bins: Sequence[float] = AGE_BINS,
) -> Images:
    """Real training rows with their pixels, as a gate is fitted on them.

    Raises :class:`InputError` for rows that are not real training rows, or other pixels than rows.
    """
    frame = real.frame
    if len(frame) != len(cache.pixels):
        raise InputError("manifest and pixels differ in length", found=len(cache.pixels), expected=str(len(frame)))
    if (frame["split"] != "train").any():
        row = int(np.flatnonzero((frame["split"] != "train").to_numpy())[0])
        raise InputError(
            "the gate may only see training rows", file=real.file, column="split", found=frame["split"].iloc[row],
            expected="train",
        )  # fmt: skip
    if "synthetic" in frame and frame["synthetic"].fillna(False).astype(bool).any():
        raise InputError("the gate is fitted on real rows only", file=real.file, column="synthetic", found="True")
    if frame.empty:
        raise InputError("no real training rows to fit the gate on", file=real.file)
    settings = settings or GateSettings()
    return claimed_images(
        frame, np.asarray(cache.pixels), real.y(list(findings)), np.asarray(cache.sha), settings, age_bins
    )


def claimed_images(
    frame: pd.DataFrame, pixels: np.ndarray, y: np.ndarray, sha: np.ndarray | None, settings: GateSettings,
    age_bins: Sequence[float] = AGE_BINS,
) -> Images:  # fmt: skip
    """Manifest rows, real or synthetic, as the checks that are on see them.

    ``frame`` needs ``patient_id`` and whatever ``settings.per_group`` names; ``sex, age, race, report`` are read where
    they are. ``pixels`` uint8 (n, S, S), ``y`` (n, F): 1, 0, NaN, ``sha`` (n,) or None.
    """

    def text(name: str) -> np.ndarray | None:
        if name not in frame:
            return None
        values = frame[name].astype(object)
        return values.where(values.notna() & (values.astype(str).str.strip() != ""), None).to_numpy(dtype=object)

    sex = frame["sex"] if "sex" in frame else pd.Series(np.nan, index=frame.index)
    age = frame["age"] if "age" in frame else pd.Series(np.nan, index=frame.index)
    return Images(
        pixels, y, frame["patient_id"].to_numpy(dtype=object), sha,
        female=np.where(sex == "F", 1.0, np.where(sex == "M", 0.0, np.nan)),
        age=age.to_numpy(dtype=float), race=text("race"), reports=text("report") if settings.reports else None,
        levels=None if settings.per_group is None
        else group_levels(frame, settings.per_group, age_bins).to_numpy(dtype=object),
    )  # fmt: skip


def _plain_values(images: Images) -> list[Any]:
    """Everything but the pixels, for a digest."""
    parts = (getattr(images, part.name) for part in fields(images) if part.name not in ("pixels", "sha"))
    return [None if part is None else part.tolist() for part in parts]


def _levels(frame: pd.DataFrame, groups: Sequence[str], age_bins: Sequence[float]) -> dict[str, np.ndarray]:
    """Levels of the groups whose columns are there."""
    there = [group for group in groups if all(part.strip() in frame for part in group.split("*"))]
    return {group: group_levels(frame, group, age_bins).to_numpy(dtype=object) for group in there}


def _judge_draws(
    gate: Gate, folder: Path, core: GenerativeCore | None, max_redraws: int, claims: _Claims, encoding: Encoding
) -> Verdicts:
    verdicts = Verdicts()
    lines = first_draw(folder)
    for draw in range(max_redraws + 1):
        frame = set_frame(lines)
        pixels = np.stack([encode(read_pixels(folder / image), encoding) for image in frame["image"]])
        reasons = gate.judge(claims.images(frame, pixels))
        verdicts.add(draw, lines, frame["image"].tolist(), reasons, gate.nearest)
        rejected = [prompt for prompt, why in zip(frame["prompt_id"], reasons, strict=True) if why]
        if not rejected or core is None or draw == max_redraws:
            break
        lines = redraw(folder, core, rejected, draw + 1)
    return verdicts


def _reject_whole_studies(reasons: list[list[str]], patients: np.ndarray) -> None:
    """A study with one rejected view is rejected: its other views get :data:`OTHER_VIEW` as reason."""
    rejected = {patient for patient, why in zip(patients, reasons, strict=True) if why}
    for patient, why in zip(patients, reasons, strict=True):
        if not why and patient in rejected:
            why.append(OTHER_VIEW)


def _remove_other_redraws(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Drop images and records of re-draws that other settings made."""
    draws = {line["draw"] for line in lines}
    records = [f"{UNITS}/{p.name}" for p in (folder / UNITS).glob("draw-*.jsonl") if int(p.name.split("-")[1]) in draws]
    remove_strays(folder, lines, records)
