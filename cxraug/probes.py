"""Linear probes of the arms of a finished training: which attributes of the patients do their features encode?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.arm_job import ArmJob, arm_folder, chosen_jobs, open_run
from cxraug.errors import InputError
from cxraug.evaluation.groups import MISSING, group_levels, level_order
from cxraug.recipe import Recipe
from cxraug.run import MARKER, Run, once
from cxraug.storage import atomic, digest
from cxraug.studies.manifest import Manifest

COLUMNS = ("arm", "seed", "draw", "attribute", "level", "value", "ci_low", "ci_high", "n", "n_pos", "n_patients",
           "flag")  # fmt: skip
DIFFERENCES = ("baseline", "arm", "attribute", "level", "difference", "ci_low", "ci_high", "p_value", "p_adjusted",
               "n_seeds", "n_draws", "n_patients", "mde", "flag")  # fmt: skip
MOST_LEVELS = 20
PREDICTIONS = "predictions.parquet"
UNTRAINED = "untrained"  # the arm that stands for the networks before their training


@dataclass(frozen=True)
class ProbeJob:
    """Which arm to probe, and for what; the features are computed once for all ``attributes``.

    ``trained``: False probes the network before the training, which is the same for every arm of its draw and seed.
    """

    arm: ArmJob
    attributes: tuple[str, ...]
    trained: bool = True

    @property
    def folder(self) -> Path:
        """Where the probes' test scores lie."""
        arm = self.arm
        own = Path(arm.run) / f"draw-{arm.draw:02d}" / UNTRAINED / f"seed-{arm.seed}"
        return (arm_folder(arm) if self.trained else own) / "probes" / digest(list(self.attributes))[:8]


def refuse_probes(recipe: Recipe, manifest: Manifest, attributes: Sequence[str]) -> None:
    """Refuse attributes that the data cannot be probed for, and a classifier that has no features to probe.

    Raises
    ------
    InputError
        A column that is not there, an attribute without two levels in a split or with more than ``MOST_LEVELS``, a
        network with several last layers.
    """
    from cxraug.classifiers.probe import refuse_unprobed

    frame = manifest.frame
    for attribute in attributes:
        for column in (part.strip() for part in attribute.split("*")):
            if column not in frame.columns:
                columns = ", ".join(map(str, frame.columns))
                raise InputError("no such column to probe", file=manifest.file, column=column,
                                 expected=f"one of {columns}")  # fmt: skip
        of_row, levels = attribute_levels(frame, attribute, recipe.evaluate.age_bins)
        if len(levels) > MOST_LEVELS:
            raise InputError(
                "too many levels to probe", file=manifest.file, column=attribute, found=len(levels),
                expected=f"at most {MOST_LEVELS}",
            )  # fmt: skip
        for split in ("train", "val", "test"):
            held = sorted(set(of_row[(frame["split"] == split).to_numpy()]) & set(levels))
            if len(held) < 2:
                raise InputError(
                    f"a probe needs two levels in the {split} rows", file=manifest.file, column=attribute,
                    found=", ".join(held) or "none",
                )  # fmt: skip
    if attributes:
        refuse_unprobed(recipe.train.model, recipe.data.size)


def attribute_levels(frame: pd.DataFrame, attribute: str, age_bins: Sequence[float]) -> tuple[np.ndarray, list[str]]:
    """The level of every row, and the known levels in order; rows of any other level are of unknown attribute."""
    of_row = group_levels(frame, attribute, age_bins)
    return of_row.to_numpy(dtype=object), [
        level for level in level_order(of_row, age_bins) if MISSING not in level.split("*")
    ]


def probe_arms(run: Run, attributes: Sequence[str]) -> Path:
    """Probe every arm, draw and seed that is evaluated, and the networks before training; return ``probes.csv``.

    Writes ``evaluation/probes.csv`` (AUROC) and ``probe_differences.csv``: every arm against the networks before
    training (:data:`UNTRAINED`) and against its controls, paired over patients, seeds and draws.

    Each level of an attribute is told from all others (of two levels one is enough: the other has the same AUROC).
    Probes are fitted on the real training rows of the draw, which all its arms had: what differs between arms is the
    classifier. A level with less than ``evaluate.min_cell`` of them is suppressed, as is one of the test rows. Rows of
    other attributes that an earlier call wrote are kept.
    """
    from cxraug.classifiers.pool import train_many

    arms = chosen_jobs(run)
    jobs = [ProbeJob(job, tuple(attributes)) for job in arms]
    jobs += [ProbeJob(job, tuple(attributes), trained=False) for job in arms if job.kind == arms[0].kind]
    missing = [job for job in jobs if not (job.folder / MARKER).is_file()]
    workers = run.recipe.workers or os.cpu_count() or 1
    train_many([partial(probe_job, job) for job in missing], workers, what="probes", done=len(jobs) - len(missing))
    folder = run.folder / "evaluation"
    values, differences = probe_tables(run, jobs)
    _write_beside(folder / "probe_differences.csv", differences, attributes)
    return _write_beside(folder / "probes.csv", values, attributes)


def _write_beside(path: Path, table: pd.DataFrame, attributes: Sequence[str]) -> Path:
    """Write ``table`` after the rows of other attributes that ``path`` holds."""
    if path.is_file():
        texts = ("baseline", "arm", "seed", "draw", "attribute", "level", "flag")
        old = pd.read_csv(path, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values={
            name: "" for name in table.columns if name not in texts
        })  # fmt: skip
        old = old[~old["attribute"].isin(list(attributes))]
        table = pd.concat([old, table], ignore_index=True) if len(old) else table
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
    return path


def probe_job(job: ProbeJob) -> None:
    """Fit the probes of one trained classifier and write their scores of the test rows."""
    once(job.folder, lambda: _probe(open_run(job.arm.run), job))


def _probe(run: Run, job: ProbeJob) -> dict[str, Any]:
    from cxraug.classifiers.prediction import write_predictions
    from cxraug.classifiers.probe import arm_features, probe

    frame, arm = run.manifest.frame, job.arm
    keep = run.keep(arm.draw).keep
    rows = {"train": run.rows("train") & keep, "val": run.rows("val") & keep, "test": run.rows("test")}
    features = {
        split: arm_features(
            arm_folder(arm), np.asarray(run.cache.pixels[mask]), trained=job.trained, device=run.recipe.train.device
        )
        for split, mask in rows.items()
    }
    names, truths, scores, strengths, unfitted = [], [], [], {}, []
    for attribute in job.attributes:
        for level, y in _one_vs_rest(run, attribute).items():
            name = f"{attribute}={level}"
            names.append(name)
            truths.append(y[rows["test"]])
            if not _enough(run, y, rows["train"]):
                unfitted.append(name)
                scores.append(np.full(len(truths[-1]), 0.5))
                continue
            found, strengths[name] = probe(
                features["train"], y[rows["train"]], features["val"], y[rows["val"]], features["test"]
            )
            scores.append(found)
    write_predictions(
        job.folder / PREDICTIONS, frame[rows["test"]], np.stack(truths, axis=1), np.stack(scores, axis=1), names,
        arm=arm.kind if job.trained else UNTRAINED, seed=arm.seed, draw=arm.draw,
    )  # fmt: skip
    return {"attributes": list(job.attributes), "inverse_regularisation": strengths, "unfitted": unfitted}


def _one_vs_rest(run: Run, attribute: str) -> dict[str, np.ndarray]:
    """Labels (n,) of every row per level: 1, 0, NaN where the attribute is unknown; of two levels the first one."""
    of_row, levels = attribute_levels(run.manifest.frame, attribute, run.recipe.evaluate.age_bins)
    known = np.isin(of_row, levels)
    asked = levels[:1] if len(levels) == 2 else levels
    return {level: np.where(known, (of_row == level).astype(float), np.nan) for level in asked}


def _enough(run: Run, y: np.ndarray, rows: np.ndarray) -> bool:
    """Whether ``rows`` hold enough images and patients of both sides to fit a probe."""
    patients = run.manifest.frame["patient_id"]
    least = max(run.recipe.evaluate.min_cell, 1)
    return all(patients[rows & (y == side)].nunique() >= least for side in (0, 1))


def probe_tables(run: Run, jobs: Sequence[ProbeJob]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AUROC of every probe with its patient-clustered interval, over all runs of an arm and for each alone, and the
    paired differences of the arms over all runs (:data:`COLUMNS` and :data:`DIFFERENCES`).

    A level that some draw could not fit is suppressed.
    """
    from cxraug.conclusion import comparisons
    from cxraug.evaluation.evaluate import EvaluationSettings, evaluate
    from cxraug.evaluation.predictions import read_predictions

    tables = [pd.read_parquet(job.folder / PREDICTIONS) for job in jobs]
    pairs = [(UNTRAINED, arm) for arm in run.recipe.arms.use] + comparisons(run)
    settings = EvaluationSettings(
        groups=(), metrics=("auroc",), min_cell=run.recipe.evaluate.min_cell, matched=(), bootstrap=0,
        comparisons=pairs,
    )  # fmt: skip
    found = evaluate(read_predictions([pd.concat(tables, ignore_index=True)]), settings)
    unfitted = {name for job in jobs for name in once(job.folder, dict)["unfitted"]}
    where = {
        f"{attribute}={level}": (attribute, level)
        for attribute in jobs[0].attributes
        for level in _one_vs_rest(run, attribute)
    }
    values = _by_level(found.cells, where, unfitted, ["value", "ci_low", "ci_high"])
    numbers = ["difference", "ci_low", "ci_high", "p_value", "p_adjusted", "mde"]
    differences = _by_level(found.comparison, where, unfitted, numbers)
    return values[list(COLUMNS)], differences[list(DIFFERENCES)]


def _by_level(
    table: pd.DataFrame, where: dict[str, tuple[str, str]], unfitted: set[str], numbers: list[str]
) -> pd.DataFrame:
    """The rows about a probe with its ``attribute`` and ``level``; the ``numbers`` of what was not fitted are blank."""
    table = table[table["finding"].isin(list(where)) & (table["metric"] == "auroc")].reset_index(drop=True)
    hidden = table["finding"].isin(list(unfitted))
    table.loc[hidden, numbers] = np.nan
    table.loc[hidden, "flag"] = "suppressed"
    pairs = [where[name] for name in table["finding"]]
    names = {name: [pair[k] for pair in pairs] for k, name in enumerate(("attribute", "level"))}
    return table.drop(columns="level").assign(**names)
