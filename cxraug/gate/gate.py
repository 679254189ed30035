"""The gate: every check under one budget of falsely rejected real images, re-draws, verdicts, ``gate.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.core import GenerativeCore
from cxraug.errors import InputError
from cxraug.evaluation.groups import AGE_BINS
from cxraug.gate.acceptance import Verdicts, acceptance, gate_notes
from cxraug.gate.agreement import Agreement
from cxraug.gate.check import Check, Images
from cxraug.gate.duplicates import Duplicates
from cxraug.gate.settings import GateSettings
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
        """Fit every check on real training images and share out the budget."""
        p = [check.fit(real).p for check in self.checks]
        self.tests = [test for check in self.checks for test in check.tests]
        joint = np.concatenate(p, axis=1) if p else np.zeros((len(real), 0))
        self.levels = joint_levels(
            joint, [test.rate for test in self.tests], [test.scales for test in self.tests], self.false_reject
        )
        rejected = joint <= self.levels
        asked = ~np.isnan(joint)
        self.real = {
            "n": len(real),
            "rejected": int(rejected.any(axis=1).sum()),
            "rate": float(rejected.any(axis=1).mean()) if len(real) else None,
            "budget": self.false_reject,
            "tests": {
                test.name: {"level": level, "asked": int(asked[:, j].sum()), "rejected": int(rejected[:, j].sum())}
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

    @property
    def nearest(self) -> np.ndarray | None:
        """Correlation of each image of the last batch with its nearest training image, if copies are looked for."""
        return next((check.correlations for check in self.checks if isinstance(check, Duplicates)), None)

    def describe(self) -> dict[str, Any]:
        """What was fitted and what it does to real images, JSON-ready."""
        levels = {test.name: level for test, level in zip(self.tests, self.levels.tolist(), strict=True)}
        return {"real": self.real, "checks": {check.name: check.describe(levels) for check in self.checks}}


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
    common = np.nextafter(ceiling, 0) if np.isfinite(ceiling) else np.inf
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
    images = _real_images(real, cache, findings)
    here = {s: real.annotated[s] for s in sorted(set(real.frame["source"])) if s in real.annotated}
    claims = _Claims(tuple(findings), here, plan)
    key = digest(
        [
            set_settings(set_folder), settings.model_dump(), seed, core is not None, list(groups), list(age_bins),
            vars(encoding), images.patients.tolist(), images.y.tolist(), list(cache.sha), claims.findings,
            claims.annotated, claims.sources,
        ]
    )  # fmt: skip
    if (set_folder / GATE).is_file() and (set_folder / MANIFEST).is_file():
        old = read_json(set_folder / GATE)
        if old.get("key") == key:
            return old
    gate = Gate(_checks(settings, tuple(findings), seed, Path(folder)), settings.false_reject).fit(images)
    verdicts = _judge_draws(gate, set_folder, core, settings.max_redraws, claims, encoding)
    (set_folder / GATE).unlink(missing_ok=True)  # never beside a manifest of other verdicts
    frame = write_set(set_folder, verdicts.lines, verdicts.reasons)
    _remove_other_redraws(set_folder, verdicts.lines)
    fitted = gate.describe()
    summary = {
        "key": key,
        "settings": settings.model_dump(mode="json"),
        **fitted,
        **acceptance(frame, verdicts, groups, age_bins),
        "notes": gate_notes(fitted, settings, redraws=core is not None),
    }
    write_json(set_folder / GATE, summary)
    return plain(summary)


class _Claims:
    """What a synthetic image claims: the findings of its label text, read as its source annotates."""

    def __init__(
        self, findings: tuple[str, ...], annotated: Mapping[str, Sequence[str]], plan: pd.DataFrame | None
    ) -> None:
        self.findings = findings
        common = set.intersection(*(set(known) for known in annotated.values())) if annotated else set()
        self.annotated = {"": sorted(common), **{source: list(known) for source, known in annotated.items()}}
        self.sources: dict[str, str] = {}
        if plan is not None and "source" in plan:
            named = plan[plan["source"].fillna("") != ""]
            self.sources = dict(zip(named["prompt_id"].astype(str), named["source"].astype(str), strict=True))

    def read(self, frame: pd.DataFrame) -> np.ndarray:
        """Labels (n, F) of manifest rows: 1, 0 or NaN."""
        own = frame["source"].fillna("")
        source = own.where(own != "", frame["prompt_id"].map(self.sources).fillna("").astype("str"))
        return label_matrix(frame["labels"], source, self.findings, self.annotated)


def _checks(settings: GateSettings, findings: tuple[str, ...], seed: int, folder: Path) -> list[Check]:
    checks: list[Check] = []
    left = settings.false_reject
    if settings.duplicates:
        checks.append(Duplicates(settings.copy_rate, seed))
        left -= settings.copy_rate
    if settings.agreement:
        checks.append(Agreement(findings, settings, left, seed, folder))
    return checks


def _real_images(real: Manifest, cache: PixelCache, findings: Sequence[str]) -> Images:
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
    patients = frame["patient_id"].to_numpy(dtype=object)
    return Images(np.asarray(cache.pixels), real.y(list(findings)), patients, np.asarray(cache.sha))


def _judge_draws(
    gate: Gate, folder: Path, core: GenerativeCore | None, max_redraws: int, claims: _Claims, encoding: Encoding
) -> Verdicts:
    verdicts = Verdicts()
    lines = first_draw(folder)
    for draw in range(max_redraws + 1):
        frame = set_frame(lines)
        pixels = np.stack([encode(read_pixels(folder / image), encoding) for image in frame["image"]])
        reasons = gate.judge(Images(pixels, claims.read(frame), frame["patient_id"].to_numpy(dtype=object)))
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
