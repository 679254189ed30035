"""One training of one arm (draw, seed, ratio), as a job that any process can do from the run folder alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.recipe import SYNTHETIC_ARMS, WITHOUT_GATE
from cxraug.run import MARKER, Run, once
from cxraug.seeds import derive_seed
from cxraug.storage import read_json, write_json

SET_OF = {"mixed": "core", "pretrained": "core", "gaussian": "gaussian", "outside": "outside"}
ADDS_NOTHING = ("real", "weighted", "augmented")  # no images, so no ratio
NEEDS_PLAN = ("duplicated", "oversampled", "real_pretrained")


@dataclass(frozen=True)
class ArmJob:
    """What to train: ``patients`` is set for points of the learning curve only."""

    run: str
    kind: str
    ratio: float | None
    draw: int
    seed: int
    patients: Any = None


def arm_folder(job: ArmJob) -> Path:
    """Where a job's model, history and predictions lie."""
    if job.patients is not None:
        return Path(job.run) / "curve" / f"{job.patients}" / f"draw-{job.draw:02d}" / f"seed-{job.seed}"
    name = job.kind if job.ratio is None else f"{job.kind}@{job.ratio:g}"
    return Path(job.run) / f"draw-{job.draw:02d}" / "arms" / name / f"seed-{job.seed}"


def curve_jobs(run: Run) -> list[ArmJob]:
    """The trainings of the learning curve: the real arm with more and more patients of the limited finding."""
    settings = run.recipe.curve
    if settings is None:
        return []
    own = [limit.patients for limit in run.recipe.data.limit if limit.finding == settings.finding]
    counts: list[Any] = [*sorted({*settings.patients, *(n for n in own if n)}), "all"]
    return [
        ArmJob(str(run.folder), "real", None, draw, seed, patients=count)
        for count in counts
        for draw in range(settings.draws)
        for seed in range(settings.seeds)
    ]


def train_arms(run: Run, jobs: list[ArmJob], what: str) -> None:
    """Train all ``jobs`` that are not done, ``recipe.workers`` at a time (one thread each)."""
    from cxraug.classifiers.pool import train_many

    missing = [job for job in jobs if not (arm_folder(job) / MARKER).is_file()]
    workers = run.recipe.workers or os.cpu_count() or 1
    train_many([partial(train_job, job) for job in missing], workers, what=what, done=len(jobs) - len(missing))


def train_job(job: ArmJob) -> None:
    """Train one arm and write its predictions for validation and test."""
    once(arm_folder(job), lambda: _train(open_run(job.run), job))


@lru_cache(maxsize=1)
def open_run(folder: str) -> Run:
    """The run in ``folder``, opened once per process."""
    return Run.open(folder)


def _train(run: Run, job: ArmJob) -> dict[str, Any]:
    from cxraug.classifiers.arms import Images, arm_data
    from cxraug.classifiers.prediction import predict_arm, write_predictions
    from cxraug.classifiers.training import train_arm

    recipe, frame = run.recipe, run.manifest.frame
    keep = run.keep(job.draw, job.patients).keep
    train, val = run.rows("train") & keep, run.rows("val") & keep
    primary = recipe.evaluate.primary.finding
    added, planned_cells = added_images(run, job, int(train.sum()))
    data = arm_data(
        job.kind,
        Images(np.asarray(run.cache.pixels[train]), run.y[train]),
        list(run.cells(frame[train])),
        added=added,
        planned_cells=planned_cells,
        seed=derive_seed(recipe.seed, "arm data", job.draw, job.seed),
        pretrain_share=recipe.arms.pretrain_share,
    )
    folder = arm_folder(job)
    train_arm(
        data,
        Images(np.asarray(run.cache.pixels[val]), run.y[val]),
        folder,
        recipe.train,
        findings=run.findings,
        seed=derive_seed(recipe.seed, "train", job.draw, job.seed),
        select=None if primary == "macro" else primary,
        card={"arm": job.kind, "ratio": job.ratio, "draw": job.draw, "seed": job.seed,
              "encoding": recipe.data.encoding.__dict__},
        seen=run.seen(train),
    )  # fmt: skip
    rows = val | run.rows("test")
    p = predict_arm(folder, np.asarray(run.cache.pixels[rows]), device=recipe.train.device)
    write_predictions(
        folder / "predictions.parquet", frame[rows], run.y[rows], p, run.findings,
        arm=job.kind, seed=job.seed, draw=job.draw,
    )  # fmt: skip
    return {"added": 0 if added is None else len(added.y)}


def added_images(run: Run, job: ArmJob, n_real: int) -> tuple[Any, list[str] | None]:
    """The images an arm adds, and the cells that its count-matched control must fill.

    The number is what the core's accepted images allow, up to ratio x real images, so that every arm of one ratio and
    draw adds the same number.
    """
    if job.kind not in (*SET_OF, *NEEDS_PLAN, *WITHOUT_GATE):
        return None, None
    from cxraug.classifiers.arms import Images
    from cxraug.synthesis.generate import load_set
    from cxraug.synthesis.rejection import load_listed, match_cells

    sets = run.draw_folder(job.draw) / "sets"
    plan = pd.read_parquet(run.draw_folder(job.draw) / "plan" / "plan.parquet").set_index("prompt_id", drop=False)

    def accepted(name: str) -> tuple[pd.DataFrame, np.ndarray]:
        frame, pixels = load_set(sets / name, run.recipe.data.encoding)
        keep = (frame["gate"] == "accept").to_numpy()
        return frame[keep], pixels[keep]

    frame, pixels = accepted("core")
    if frame.empty:
        raise _none_accepted(sets / "core")
    wanted = len(frame) if job.ratio is None else min(len(frame), round(job.ratio * n_real))
    # a control fills the cells of what the core's arm really adds, not of what was asked
    frame, pixels = frame.iloc[:wanted], pixels[:wanted]
    asked = plan.loc[frame["prompt_id"]].assign(view=frame["view"].to_numpy())
    cells = list(run.cells(asked))
    if job.kind == "oversampled":
        return None, _raised(run, job.draw) or cells
    if job.kind in WITHOUT_GATE:
        other, other_pixels = load_listed(run.draw_folder(job.draw) / job.kind, run.recipe.data.encoding)
        of_other = plan.loc[other["prompt_id"]].assign(view=other["view"].to_numpy())
        rows = match_cells(_keys(asked), cells, _keys(of_other), list(run.cells(of_other)))
        return Images(np.ascontiguousarray(other_pixels[rows]), run.plan_y(of_other.iloc[rows])), cells
    name = SET_OF.get(job.kind)
    if name is None:
        return None, cells
    if name != "core":
        other, other_pixels = accepted(name)
        if other.empty:
            raise _none_accepted(sets / name)
        of_other = plan.loc[other["prompt_id"]].assign(view=other["view"].to_numpy())
        rows = _same_images(asked, cells, of_other, list(run.cells(of_other)))
        asked, pixels = of_other.iloc[rows], other_pixels[rows]
    return Images(np.ascontiguousarray(pixels), run.plan_y(asked)), cells


def _none_accepted(folder: Path) -> InputError:
    """An arm has nothing to add: which checks of the gate rejected how many images in the last draw."""
    last = read_json(folder / "gate.json")["draws"][-1]
    checks = ", ".join(f"{name} {count}" for name, count in sorted(last["checks"].items()))
    return InputError(
        f"the gate rejected all {last['images']} images ({checks}), so nothing can be added; see gate.html beside it",
        file=folder / "gate.json",
    )


def _same_images(asked: pd.DataFrame, cells: list[str], other: pd.DataFrame, other_cells: list[str]) -> np.ndarray:
    """For each image of the core's arm the control core's image of the same prompt and view.

    Where the gate rejected that one, another of its cell, of its label set, or any stands in, in turn: both arms
    then have one count per cell as far as the control core's accepted images allow.
    """
    keys = _keys(asked)
    by_prompt = {key: i for i, key in enumerate(_keys(other))}
    by_cell: dict[str, list[int]] = {}
    for i, cell in enumerate(other_cells):
        for key in (cell, cell.split("|")[0], ""):
            by_cell.setdefault(key, []).append(i)
    rows, turn = [], 0
    for key, cell in zip(keys, cells, strict=True):
        row = by_prompt.get(key)
        if row is None:
            pool = by_cell.get(cell) or by_cell.get(cell.split("|")[0]) or by_cell[""]
            row, turn = pool[turn % len(pool)], turn + 1
        rows.append(row)
    return np.array(rows, dtype=np.int64)


def _keys(rows: pd.DataFrame) -> list[str]:
    """What tells one planned image from another: its prompt and view."""
    return list(rows["prompt_id"] + "/" + rows["view"])


def _raised(run: Run, draw: int) -> list[str]:
    """The findings that the plan raises, as cells: imbalanced-learn's classes are about these alone."""
    table = pd.read_csv(run.draw_folder(draw) / "plan" / "table.csv")
    return sorted(set(table.loc[table["target"] > table["before"], "finding"]))


def lead_arm(run: Run) -> str:
    """The arm on whose validation score the ratio is chosen."""
    return next(kind for kind in SYNTHETIC_ARMS if kind in run.recipe.arms.use)


def chosen_jobs(run: Run) -> list[ArmJob]:
    """Every arm, draw and seed that is evaluated: the chosen ratio only."""
    lead, jobs = lead_arm(run), []
    for draw in range(run.recipe.draws):
        ratio = select_ratio(run, lead, draw)
        for kind in run.recipe.arms.use:
            own = None if kind in ADDS_NOTHING else ratio
            jobs += [ArmJob(str(run.folder), kind, own, draw, seed) for seed in range(run.recipe.seeds)]
    return jobs


def select_ratio(run: Run, lead: str, draw: int) -> float | None:
    """The ratio of synthetic to real images with the best validation score, mean over seeds; kept in ratio.json."""
    ratios = run.recipe.arms.ratios
    if ratios is None:
        return None
    path = run.draw_folder(draw) / "ratio.json"
    if not path.is_file():
        scores = {}
        for ratio in ratios:
            cards = [
                read_json(arm_folder(ArmJob(str(run.folder), lead, ratio, draw, seed)) / "card.json")
                for seed in range(run.recipe.seeds)
            ]
            known = [card["val_auroc"] for card in cards if card["val_auroc"] is not None]
            scores[f"{ratio:g}"] = float(np.mean(known)) if known else float("-inf")
        best = max(ratios, key=lambda ratio: scores[f"{ratio:g}"])  # ties: the smaller, named first
        write_json(path, {"chosen": best, "validation_auroc": scores, "arm": lead})
    return read_json(path)["chosen"]
