"""What a swapped set is worth: a classifier trained on it, tested on real patients, beside ones trained on real images.

Controls: as many real images as there are stand-ins (so that fewer images are not taken for worse ones), and a swap by
the Gaussian core (so that a core has to beat blurred means). All arms share steps, batch, seeds and validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from cxraug.classifiers.arms import ArmData, Images
from cxraug.classifiers.card import read_classifier_card
from cxraug.classifiers.prediction import predict_arm, write_predictions
from cxraug.classifiers.settings import TrainSettings
from cxraug.classifiers.training import train_arm
from cxraug.cores.conditions import Conditions
from cxraug.cores.core import prompts_from_plan
from cxraug.cores.gaussian import fit_gaussian
from cxraug.errors import InputError
from cxraug.evaluation.assembly import levels_of
from cxraug.evaluation.cells import Cell, measure, support
from cxraug.evaluation.comparison import shared_runs
from cxraug.evaluation.groups import AGE_BINS
from cxraug.evaluation.measured import Measured, mean_of
from cxraug.evaluation.metrics import MACRO, METRICS
from cxraug.evaluation.predictions import Predictions, read_predictions
from cxraug.evaluation.subjects import Subject
from cxraug.evaluation.uncertainty import combine, interval
from cxraug.progress import track
from cxraug.seeds import derive_seed
from cxraug.studies.cache import PixelCache, build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.manifest import Manifest
from cxraug.studies.seen import Seen

REAL = "real"
SAME_SIZE: Literal["real, same size"] = "real, same size"
SWAPPED: Literal["swapped"] = "swapped"
GAUSSIAN: Literal["Gaussian swap"] = "Gaussian swap"
COLUMNS = (
    "arm", "baseline", "finding", "group", "level", "auroc", "auroc_low", "auroc_high", "baseline_auroc", "difference",
    "difference_low", "difference_high", "ratio", "ratio_low", "ratio_high", "n", "n_pos", "n_patients", "n_seeds",
    "flag",
)  # fmt: skip
ALPHA = 0.05


class UtilitySettings(BaseModel):
    """How utility is measured. ``arms`` beside training on the real images; ``groups`` of test patients; ``components``
    of the Gaussian core; suppressed below ``min_cell`` images or patients of either class, flagged below ``few``."""

    model_config = ConfigDict(extra="forbid")
    train: TrainSettings = Field(default_factory=TrainSettings)
    seeds: int = Field(2, ge=1)
    arms: tuple[Literal["real, same size", "swapped", "Gaussian swap"], ...] = (SAME_SIZE, SWAPPED, GAUSSIAN)
    groups: tuple[str, ...] = ("sex", "age")
    age_bins: tuple[float, ...] = AGE_BINS
    components: int = Field(256, ge=1)
    min_cell: int = Field(10, ge=0)
    few: int = Field(50, ge=0)


@dataclass(frozen=True)
class Material:
    """Real rows and their pixels, by role; ``plan``: the stand-ins' own prompts, by which the Gaussian core draws."""

    train: Manifest
    train_cache: PixelCache
    val: Manifest
    val_cache: PixelCache
    test: Manifest
    test_cache: PixelCache
    plan: pd.DataFrame


def utility_table(material: Material, swapped: Path, work: Path, settings: UtilitySettings, *, size: int,
                  fit: Any = "crop") -> pd.DataFrame:  # fmt: skip
    """AUROC on the real test rows of every arm, with its difference from and ratio to training on the real images.

    Parameters
    ----------
    swapped : folder of the swapped set. work : private folder of trainings and predictions; what is done stays.
    size, fit : the encoding of all pixels.

    Returns
    -------
    Columns :data:`COLUMNS`: per arm, finding (and ``macro``), group and level. Intervals are patient-clustered, over
    test patients and seeds, each at 95 % by itself; those of ratios are of the logarithm, put back.

    Raises
    ------
    InputError : no test rows, or no finding with both classes in training and test.
    """
    findings = judged_findings(material)
    encoding = Encoding(size=size, fit=fit)
    made = build_cache(_read(swapped), work / "swapped-cache", encoding)
    n = len(made[0])
    few = _some_patients(material.train.frame["patient_id"].to_numpy(), n)
    parts = {
        REAL: Images(np.asarray(material.train_cache.pixels), material.train.y(findings)),
        SAME_SIZE: Images(np.asarray(material.train_cache.pixels)[few], material.train.y(findings)[few]),
        SWAPPED: Images(np.asarray(made[1].pixels), _y(made[0], findings)),
    }
    if GAUSSIAN in settings.arms:
        blurred = _gaussian_swap(material, work / "gaussian", settings, made[0])
        parts[GAUSSIAN] = Images(blurred, _y(made[0], findings))
    val = Images(np.asarray(material.val_cache.pixels).reshape(-1, size, size), material.val.y(findings))
    files, names = [], []
    jobs = [(arm, seed) for arm in (REAL, *settings.arms) for seed in range(settings.seeds)]
    for arm, seed in track(jobs, "training on real and swapped images"):
        folder = work / "arms" / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
        seen = Seen.of(material.train.frame["patient_id"], material.train_cache.sha)
        train_arm(ArmData(parts[arm]), val, folder, settings.train, findings=findings, seed=seed, seen=seen)
        assert read_classifier_card(folder).findings == list(findings)
        p = predict_arm(folder, np.asarray(material.test_cache.pixels))
        rows = material.test.frame.assign(split="test")
        files.append(write_predictions(folder / "predictions.parquet", rows, material.test.y(findings), p, findings,
                                       arm, seed, 0))  # fmt: skip
        names.append(arm)
    return compare_arms(read_predictions(files), settings)


def compare_arms(predictions: Predictions, settings: UtilitySettings) -> pd.DataFrame:
    """Every arm beside :data:`REAL` (columns :data:`COLUMNS`), in all cells that hold enough."""
    subjects = [
        Subject(name, predictions.y[i], np.ascontiguousarray(predictions.p[:, i]), None, None)
        for i, name in enumerate(predictions.findings)
    ]
    whole = Cell.whole(predictions.patients)
    cells = [("all", "all", whole)]
    for group in settings.groups:
        if all(part.strip() in predictions.table.columns for part in group.split("*")):
            levels, order = levels_of(predictions, group, settings.age_bins)
            cells += [(group, level, whole.part(levels == level)) for level in order]
    rows = []
    for group, level, cell in cells:
        able = []
        for subject in subjects:
            held = support(subject, "auroc", cell, min_cell=settings.min_cell, few=settings.few)
            about = {"finding": subject.name, "group": group, "level": level, "n": held.n, "n_pos": held.n_pos,
                     "n_patients": held.n_patients, "flag": held.flag}  # fmt: skip
            found = measure(subject, "auroc", cell) if held.shown else None
            if found is not None and subject.name != NO_FINDING:
                able.append(found)
            rows += _arms(found, predictions, about)
        if len(able) > 1:
            about = {"finding": MACRO, "group": group, "level": level, "n": len(cell.rows), "flag": "",
                     "n_patients": cell.patients.count(cell.rows)}  # fmt: skip
            rows += _arms(mean_of(able), predictions, about)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def judged_findings(material: Material) -> list[str]:
    """Findings that the real training and test rows have both ways; :class:`InputError` for none."""
    if not len(material.test):
        raise InputError(
            "no real test row to measure utility on", expected="rows of the split test, or --test MANIFEST"
        )
    names = [f for f in material.train.findings if f in material.test.findings]
    both = [_two_classes(m.y(names)) for m in (material.train, material.test)]
    found = [f for f, a, b in zip(names, *both, strict=True) if a and b]
    if not found:
        raise InputError("no finding has positives and negatives in both training and test rows")
    return found


def _arms(found: Measured | None, predictions: Predictions, about: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for arm in predictions.arms:
        row: dict[str, Any] = {"arm": arm, "baseline": REAL, **about}
        if found is not None:
            own, base = shared_runs(predictions.runs, arm, REAL)
            draws = predictions.runs["draw"].to_numpy(dtype=object)[own]
            a, b = found.take(own), found.take(base)
            value = combine(a, draws)
            row |= {"auroc": value.value, "n_seeds": value.n_seeds, "baseline_auroc": combine(b, draws).value}
            about_it = np.array([value.value]), np.array([value.variance]), np.array([value.df])
            low, high = interval(*about_it, METRICS["auroc"].scale, ALPHA)
            row |= {"auroc_low": float(low[0]), "auroc_high": float(high[0])}
            if arm != REAL:
                difference = combine(a.minus(b, paired=True), draws)
                ratio = combine(_log(a).minus(_log(b), paired=True), draws)
                half = difference.margin(ALPHA)
                with np.errstate(over="ignore"):  # of a few patients: no upper limit
                    factor = float(np.exp(ratio.margin(ALPHA)))
                row |= {
                    "difference": difference.value, "difference_low": difference.value - half,
                    "difference_high": difference.value + half, "ratio": np.exp(ratio.value),
                    "ratio_low": np.exp(ratio.value) / factor, "ratio_high": np.exp(ratio.value) * factor,
                }  # fmt: skip
        rows.append(row)
    return rows


def _log(found: Measured) -> Measured:
    """The logarithm by the delta method."""
    value = np.maximum(found.value, 1e-6)
    return Measured(np.log(value), found.influence / value[:, None], found.floor / value**2, found.df)


def _gaussian_swap(material: Material, folder: Path, settings: UtilitySettings, made: Manifest) -> np.ndarray:
    """Images (n, S, S) of a Gaussian core fitted on the same real rows, one for every row of ``made``, in its order."""
    findings = [f for f in material.train.findings if f != NO_FINDING]
    core = fit_gaussian(
        np.asarray(material.train_cache.pixels), Conditions.from_manifest(material.train, findings), folder,
        components=settings.components, seen=Seen.of([], []), training_data={},
    )  # fmt: skip
    plan = material.plan[material.plan["prompt_id"].isin(made.frame["prompt_id"])].reset_index(drop=True)
    plan = plan.drop(columns=["report", "reference_image", "wants_report"], errors="ignore")
    for name in ("sex", "age", "race", "source"):
        if name in plan and name not in core.card.conditions:
            plan = plan.drop(columns=name)
    known = set(core.card.findings)
    plan["labels"] = [_known_only(text, known) for text in plan["labels"]]
    prompts = prompts_from_plan(plan)
    studies = core.generate(prompts, [derive_seed("Gaussian swap", prompt.prompt_id) for prompt in prompts])
    of = {prompt.prompt_id: study for prompt, study in zip(prompts, studies, strict=True)}
    return np.stack([of[p].images[v] for p, v in zip(made.frame["prompt_id"], made.frame["view"], strict=True)])


def _known_only(labels: object, known: set[str]) -> str | None:
    if labels is None or labels != labels:
        return None
    return "|".join(part for part in str(labels).split("|") if part.lstrip("-?") in known or part == NO_FINDING) or None


def _some_patients(patients: np.ndarray, n: int) -> np.ndarray:
    """Rows of whole patients in a fixed random order, cut at ``n`` images."""
    order = np.random.default_rng(derive_seed("same size")).permutation(pd.unique(patients))
    rank = {patient: i for i, patient in enumerate(order)}
    rows = np.argsort([rank[patient] for patient in patients], kind="stable")
    return np.sort(rows[:n])


def _two_classes(y: np.ndarray) -> Sequence[bool]:
    return ((y == 1).any(axis=0) & (y == 0).any(axis=0)).tolist()


def _y(made: Manifest, findings: Sequence[str]) -> np.ndarray:
    """Labels (n, F) of the stand-ins; a finding that they say nothing about is unknown."""
    known = [f for f in findings if f in made.findings]
    y = np.full((len(made), len(findings)), np.nan, np.float32)
    if known:
        y[:, [list(findings).index(f) for f in known]] = made.y(known)
    return y


def _read(folder: Path) -> Manifest:
    from cxraug.studies.manifest import read_manifest

    made = read_manifest(folder / "manifest.parquet")
    return replace(made, findings=tuple(sorted({*made.findings, *(f for v in made.annotated.values() for f in v)})))
