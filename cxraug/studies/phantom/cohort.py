"""The phantom cohort: who is examined and what they have (fast), and the folder of rendered studies."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from scipy.optimize import brentq
from scipy.special import expit, ndtri

from cxraug.errors import InputError
from cxraug.progress import track
from cxraug.storage import atomic, read_json, write_json
from cxraug.studies.images import MASK_BITS
from cxraug.studies.phantom.findings import FINDINGS, finding_side
from cxraug.studies.phantom.projection import Rendered, render
from cxraug.studies.phantom.report import write_report

DEFAULT_PREVALENCE = {
    "Atelectasis": 0.12,
    "Cardiomegaly": 0.12,
    "Consolidation": 0.10,
    "Edema": 0.08,
    "Effusion": 0.14,
    "Mass": 0.06,
    "Nodule": 0.08,
    "Pneumothorax": 0.07,
}
PERSISTENCE = 0.5  # correlation of a finding's latent variable between two studies of one patient
MAX_SEVERITY = 1.5
UNIT = 32  # studies per resumable unit of work
VERSION = 1  # of the model; part of the settings digest, so that an old folder is not mixed with new pictures
_CONDITION = re.compile(r"^(sex)=(M|F)$|^(age)(>=|<=|<|>)(\d+(?:\.\d+)?)$")


class PhantomSettings(BaseModel):
    """What a phantom cohort is made of; equal settings give equal bytes.

    ``prevalence`` holds marginal probabilities of the cohort (a finding that is not named keeps its default).
    ``odds_ratio[finding][condition]`` multiplies the odds of the finding where the condition holds, the marginal
    prevalence staying what was set. ``severity[finding][condition]`` multiplies the severity there: below 1 a
    finding is as frequent but harder to see, which plants a gap between groups; before that severity is uniform on
    ``severity_range``. Conditions are ``sex=F``, ``sex=M``, ``age>=60``, ``age<40`` and the like; where several hold,
    their factors multiply.
    ``views`` are of a study: ``PA``, or ``PA`` and ``Lateral``; with both ``PA`` and ``AP`` a share ``ap_share``
    of the studies has an AP instead of a PA view.
    ``label_noise`` is the share of positive labels that are wrong; as many negatives are turned positive, so that
    prevalence stays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    n: int = Field(2000, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    size: int = Field(128, ge=32, le=1024)
    views: tuple[str, ...] = ("PA",)
    ap_share: float = Field(0.3, ge=0, le=1)
    female: float = Field(0.5, ge=0, le=1)
    age_mean: float = Field(55.0, gt=0, lt=120)
    age_sd: float = Field(18.0, gt=0)
    age_range: tuple[int, int] = (18, 95)
    prevalence: dict[str, float] = {}
    odds_ratio: dict[str, dict[str, float]] = {}
    severity: dict[str, dict[str, float]] = {}
    severity_range: tuple[float, float] = (0.3, 1.0)
    studies_per_patient: float = Field(1.4, ge=1, le=10)
    splits: tuple[float, float, float] = (0.6, 0.1, 0.3)
    label_noise: float = Field(0.0, ge=0, le=0.5)

    @field_validator("views")
    @classmethod
    def _known_views(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        if not views or len(set(views)) != len(views) or set(views) - {"PA", "AP", "Lateral"}:
            raise ValueError(f"views are some of PA, AP, Lateral, each once; found {list(views)}")
        return views

    @field_validator("prevalence", "odds_ratio", "severity")
    @classmethod
    def _known_findings(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name not in FINDINGS:
                raise ValueError(f"unknown finding {name!r}; expected one of {', '.join(FINDINGS)}")
        return value

    @field_validator("odds_ratio", "severity")
    @classmethod
    def _known_conditions(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for finding, factors in value.items():
            for condition, factor in factors.items():
                if not _CONDITION.match(condition):
                    raise ValueError(f"{finding}: condition {condition!r} is not like sex=F or age>=60")
                if not 0 < factor < 1e6:
                    raise ValueError(f"{finding}: {condition} has factor {factor}; expected a positive number")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> PhantomSettings:
        for name, p in self.prevalence.items():
            if not 0 <= p < 1:
                raise ValueError(f"prevalence of {name} is {p}; expected 0 <= p < 1")
        for name, factors in self.severity.items():
            if any(f > MAX_SEVERITY for f in factors.values()):
                raise ValueError(f"severity of {name}: a factor above {MAX_SEVERITY}")
        if min(self.splits) < 0 or abs(sum(self.splits) - 1) > 1e-6:
            raise ValueError(f"splits {self.splits} do not add up to 1")
        if not 0 < self.severity_range[0] <= self.severity_range[1] <= MAX_SEVERITY:
            raise ValueError(f"severity_range {self.severity_range} is not within 0..{MAX_SEVERITY}")
        low, high = self.age_range
        if not 0 <= low < high <= 120:
            raise ValueError(f"age_range {self.age_range} is not within 0..120")
        return self

    def prevalence_of(self, finding: str) -> float:
        """The marginal prevalence of ``finding`` that this cohort has in expectation."""
        return self.prevalence.get(finding, DEFAULT_PREVALENCE[finding])


def condition_holds(condition: str, sex: np.ndarray, age: np.ndarray) -> np.ndarray:
    """Where ``condition`` ("sex=F", "age>=60", ...) holds; ``sex`` (n,) of "M"/"F" and ``age`` (n,) years."""
    match = _CONDITION.match(condition)
    if match is None:
        raise InputError("unknown condition", found=condition, expected="sex=F, sex=M, age>=60, age<40, ...")
    if match[1]:
        return sex == match[2]
    bound = float(match[5])
    compare = {">=": np.greater_equal, "<=": np.less_equal, "<": np.less, ">": np.greater}[match[4]]
    return compare(age, bound)


def probabilities(settings: PhantomSettings, finding: str, sex: np.ndarray, age: np.ndarray) -> np.ndarray:
    """P(finding | sex, age), shape (n,): logistic in the conditions, its mean over the population as set.

    The intercept solves E[sigmoid(a + sum log OR)] = prevalence over the product of the sex and age distributions.
    """
    prevalence = settings.prevalence_of(finding)
    factors = settings.odds_ratio.get(finding, {})
    if prevalence == 0 or not factors:
        return np.full(len(sex), prevalence)
    years, weight = _age_distribution(settings)
    grid_sex = np.repeat(np.array(["F", "M"]), len(years))
    grid_age = np.tile(years, 2).astype(float)
    grid_weight = np.concatenate([settings.female * weight, (1 - settings.female) * weight])
    offset = _log_factor(factors, grid_sex, grid_age)
    intercept = brentq(lambda a: float(grid_weight @ expit(a + offset)) - prevalence, -60, 60, xtol=1e-12)
    return expit(intercept + _log_factor(factors, sex, age))


def sample_cohort(settings: PhantomSettings) -> pd.DataFrame:
    """Draw who is examined and what they have, without rendering: one row per study.

    Columns: ``study_id, patient_id, sex, age, labels, report, split, views`` ("PA|Lateral"), ``source``, ``truth``
    (labels before label noise), ``severity`` (JSON, finding to severity), ``patient_seed, study_seed``.
    """
    rng = np.random.default_rng([settings.seed, 0x9A17])
    patient, number = _patients(settings, rng)
    n_patients = int(patient[-1]) + 1
    years, weight = _age_distribution(settings)
    sex = np.where(rng.random(n_patients) < settings.female, "F", "M")[patient]
    age = rng.choice(years, n_patients, p=weight)[patient].astype(float)
    split = _splits(settings, n_patients, rng)[patient]
    views = _views(settings, rng)
    present, noisy, strength = _sample_findings(settings, patient, sex, age, rng)
    patient_seed = _seeds(settings.seed, patient, np.zeros_like(patient))
    study_seed = _seeds(settings.seed, patient, number + 1)
    rows = []
    for i in range(settings.n):
        sampled = {f: float(strength[i, j]) for j, f in enumerate(FINDINGS) if present[i, j]}
        labels = {f: int(noisy[i, j]) for j, f in enumerate(FINDINGS)}
        seed = int(study_seed[i])
        details = {f: {"side": finding_side(f, seed), "severity": sampled.get(f)} for f, y in labels.items() if y}
        text_rng = np.random.default_rng([seed, 7])
        rows.append(
            {
                "study_id": f"phantom-{settings.seed}-{patient[i]:05d}-{number[i]}",
                "patient_id": f"phantom-{settings.seed}-{patient[i]:05d}",
                "sex": str(sex[i]),
                "age": float(age[i]),
                "labels": _label_text(noisy[i]),
                "report": write_report(labels, str(sex[i]), float(age[i]), views[i], text_rng, details=details),
                "split": str(split[i]),
                "views": "|".join(views[i]),
                "source": "phantom",
                "truth": _label_text(present[i]),
                "severity": json.dumps({f: round(s, 4) for f, s in sampled.items()}),
                "patient_seed": int(patient_seed[i]),
                "study_seed": seed,
            }
        )
    return pd.DataFrame(rows)


def render_study(study: Mapping[str, Any], settings: PhantomSettings) -> Rendered:
    """Render one row of :func:`sample_cohort` in all its views at ``settings.size``."""
    return render(
        sex=str(study["sex"]),
        age=float(study["age"]),
        severity={str(k): float(v) for k, v in json.loads(study["severity"]).items()},
        views=str(study["views"]).split("|"),
        patient_seed=int(study["patient_seed"]),
        study_seed=int(study["study_seed"]),
        size=settings.size,
    )


def make_cohort(settings: PhantomSettings, out: str | Path, *, workers: int = 2, fresh: bool = False) -> Path:
    """Render a cohort into ``out`` and return the path of its manifest.

    Writes ``manifest.parquet`` (one row per image), ``images/*.png``, ``masks/*.png`` (bit 1 lung, 2 heart,
    4 lesion) and ``phantom.json`` (the settings). Work goes on where it stopped; the bytes do not depend on
    ``workers`` or on interruptions. A folder made with other settings is an :class:`InputError` unless ``fresh``.
    """
    out = Path(out)
    manifest, parts = out / "manifest.parquet", out / ".parts"
    if fresh:
        for name in ("images", "masks", ".parts"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("manifest.parquet", "phantom.json"):
            (out / name).unlink(missing_ok=True)
    wanted = {"version": VERSION, **settings.model_dump(mode="json")}
    if (out / "phantom.json").exists():
        found = read_json(out / "phantom.json")
        changed = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
        if changed:
            raise InputError(
                f"folder holds a phantom cohort with another {changed[0]!r}",
                file=out,
                found=found.get(changed[0]),
                expected=f"{wanted.get(changed[0])!r}; use a new folder or start over with --fresh",
            )
        if manifest.exists():
            return manifest
    write_json(out / "phantom.json", wanted)
    cohort = sample_cohort(settings)
    starts = range(0, settings.n, UNIT)
    missing = [s for s in starts if not (parts / f"{s:07d}.json").exists()]
    jobs = [(settings, cohort.iloc[s : s + UNIT].to_dict("records"), out, parts / f"{s:07d}.json") for s in missing]
    for _ in track(_run(jobs, workers), "phantom units", total=len(starts), done=len(starts) - len(missing)):
        pass
    rows = [row for s in starts for row in read_json(parts / f"{s:07d}.json")]
    frame = pd.DataFrame(rows)
    with atomic(manifest) as temporary:
        frame.to_parquet(temporary, index=False)
    shutil.rmtree(parts)
    return manifest


def _run(jobs: list[tuple[Any, ...]], workers: int) -> Iterator[None]:
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            _make_unit(*job)
            yield None
        return
    # fork starts at once and needs no guarded main module; elsewhere it is unsafe, and spawn does the same work
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        yield from pool.map(_make_unit, *zip(*jobs, strict=True))


def _make_unit(settings: PhantomSettings, studies: list[dict[str, Any]], out: Path, part: Path) -> None:
    rows = []
    for study in studies:
        rendered = render_study(study, settings)
        for view, pixels in rendered.images.items():
            name = f"{study['study_id']}-{view}.png"
            _write_png(out / "images" / name, pixels)
            masks = rendered.masks[view]
            bits = sum((masks[k].astype(np.uint8) * bit for k, bit in MASK_BITS.items()), np.zeros_like(pixels))
            _write_png(out / "masks" / name, bits)
            rows.append(
                {
                    "image": f"images/{name}",
                    "patient_id": study["patient_id"],
                    "study_id": study["study_id"],
                    "view": view,
                    "sex": study["sex"],
                    "age": study["age"],
                    "labels": study["labels"],
                    "report": study["report"],
                    "mask": f"masks/{name}",
                    "boxes": json.dumps(rendered.boxes[view]),
                    "split": study["split"],
                    "source": study["source"],
                    "license": "CC0-1.0",
                    "truth": study["truth"],
                    "severity": study["severity"],
                }
            )
    write_json(part, rows)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=6)


def _patients(settings: PhantomSettings, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Patient number and number of the study within the patient, each (n,); 1 + Poisson studies a patient."""
    counts = 1 + rng.poisson(settings.studies_per_patient - 1, settings.n)
    patient = np.repeat(np.arange(settings.n), counts)[: settings.n]
    first = np.searchsorted(patient, patient)
    return patient, np.arange(settings.n) - first


def _age_distribution(settings: PhantomSettings) -> tuple[np.ndarray, np.ndarray]:
    """Whole years and their probabilities: a normal distribution cut to ``age_range``."""
    low, high = settings.age_range
    years = np.arange(low, high + 1)
    weight = np.exp(-0.5 * ((years - settings.age_mean) / settings.age_sd) ** 2)
    if weight.sum() == 0:
        raise InputError(
            "age_mean is too far outside age_range", found=settings.age_mean, expected=str(settings.age_range)
        )
    return years, weight / weight.sum()


def _log_factor(factors: Mapping[str, float], sex: np.ndarray, age: np.ndarray) -> np.ndarray:
    total = np.zeros(len(sex))
    for condition, factor in factors.items():
        total += np.log(factor) * condition_holds(condition, sex, age)
    return total


def _splits(settings: PhantomSettings, n_patients: int, rng: np.random.Generator) -> np.ndarray:
    edges = np.cumsum(settings.splits)[:2] * n_patients
    names = np.where(np.arange(n_patients) < round(edges[0]), "train", "test").astype("<U5")
    names[round(edges[0]) : round(edges[1])] = "val"
    return names[rng.permutation(n_patients)]


def _views(settings: PhantomSettings, rng: np.random.Generator) -> list[tuple[str, ...]]:
    is_ap = rng.random(settings.n) < settings.ap_share
    mixed = {"PA", "AP"} <= set(settings.views)
    views = []
    for ap in is_ap:
        left_out = ("PA" if ap else "AP") if mixed else ""
        views.append(tuple(v for v in settings.views if v != left_out))
    return views


def _sample_findings(
    settings: PhantomSettings, patient: np.ndarray, sex: np.ndarray, age: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Present, labelled as present (bool) and severity (float), each (n, findings).

    A Gaussian copula ties the studies of one patient; the marginal probability of each study is exact.
    """
    n = settings.n
    present, noisy = np.zeros((n, len(FINDINGS)), bool), np.zeros((n, len(FINDINGS)), bool)
    severity = np.zeros((n, len(FINDINGS)))
    for j, finding in enumerate(FINDINGS):
        p = probabilities(settings, finding, sex, age)
        patient_part = rng.standard_normal(n)[patient]
        latent = np.sqrt(PERSISTENCE) * patient_part + np.sqrt(1 - PERSISTENCE) * rng.standard_normal(n)
        present[:, j] = latent < ndtri(p)
        base = rng.uniform(*settings.severity_range, n)
        severity[:, j] = base * np.exp(_log_factor(settings.severity.get(finding, {}), sex, age))
        flip = rng.random(n) < np.where(present[:, j], settings.label_noise, settings.label_noise * p / (1 - p))
        noisy[:, j] = present[:, j] ^ flip
    return present, noisy, severity


def _label_text(present: np.ndarray) -> str:
    return "|".join(f for f, y in zip(FINDINGS, present, strict=True) if y) or "No Finding"


def _seeds(seed: int, patient: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Well-mixed 63-bit seeds, (n,): SplitMix64 of (cohort seed, patient, number)."""
    with np.errstate(over="ignore"):
        state = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + patient.astype(np.uint64) * np.uint64(
            0xD1B54A32D192ED03
        )
        for word in (number.astype(np.uint64), np.uint64(seed)):
            state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(1)).astype(np.int64)
