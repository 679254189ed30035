"""Does the gate keep the images that carry their label? Measured by a classifier that shares no patient with the gate.

    python benchmarks/gate_effect.py RUN [--steps N]

RUN is a finished run with the arms `mixed`, `ungated` and `random_reject`. A judge is trained on the *test* rows
(neither gate, core nor arm has seen them; the run is over, so nothing is chosen by it), with validation rows to
stop on. For the primary finding it prints the judge's AUROC on the real training rows, then for every draw how many
studies the gate threw out, and of what each arm adds

- the judge's AUROC for "asked for with the finding" (0.5: the label is not in the images; blank without a side),
- `seen`: of the images asked for with the finding the share that the judge scores above the lowest 5 % of real ones,
  also of those thrown out.

Intervals are over draws (Student's t), for this one judge.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from adherence import fit
from scipy import stats
from sklearn.metrics import roc_auc_score

from cxraug.arm_job import ArmJob, added_images, chosen_jobs
from cxraug.classifiers.prediction import predict_arm
from cxraug.recipe import WITHOUT_GATE
from cxraug.run import Run
from cxraug.storage import read_json
from cxraug.synthesis.assembly import MANIFEST
from cxraug.synthesis.rejection import list_first_draws, load_listed

ARMS = ("mixed", *WITHOUT_GATE)
MISSED = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, help="training steps of the judge; by default the recipe's")
    options = parser.parse_args()
    run = Run.open(options.run)
    settings = run.recipe.train.model_copy(update={"steps": options.steps or run.recipe.train.steps})
    finding = run.recipe.evaluate.primary.finding
    column = run.findings.index(finding)
    with tempfile.TemporaryDirectory() as folder:
        rows = {"train": run.rows("test"), "val": run.rows("val")}
        judge = fit(run, Path(folder) / "judge", settings, run.y, run.findings, rows)
        real = run.rows("train") & ~np.isnan(run.y[:, column])
        p, y = predict_arm(judge, run.cache.pixels[real])[:, column], run.y[real, column]
        told = f"{roc_auc_score(y, p):.3f} ({len(y)} images, {int(y.sum())} with it)"
        print(f"{finding}: the judge's AUROC on real rows that it has not seen {told}")
        cutoff = float(np.quantile(p[y == 1], MISSED))
        found = pd.DataFrame([row(run, draw, judge, column, cutoff) for draw in range(run.recipe.draws)])
    print(found.round(3).to_string(index=False))
    thrown, studies = int(found["thrown_out"].sum()), int(found["studies"].sum())
    print(f"thrown out at first: {thrown} of {studies} studies ({thrown / studies:.1%})")
    for what in ("", "seen "):
        for arm in ARMS:
            print(f"{what}{arm}: {interval(found[what + arm])}")
        for other in WITHOUT_GATE:
            print(f"{what}mixed - {other}: {interval(found[f'{what}mixed'] - found[what + other], '+.3f')}")
    print(f"seen thrown_out: {interval(found['seen thrown_out'])}")


def row(run: Run, draw: int, judge: Path, column: int, cutoff: float) -> dict[str, float]:
    """The numbers of one draw."""
    ratio = next(job.ratio for job in chosen_jobs(run) if (job.draw, job.kind) == (draw, "mixed"))
    counts = read_json(run.draw_folder(draw) / "sets" / "core" / "gate.json")["studies"]["all"]
    numbers: dict[str, float] = {"draw": draw, "studies": counts["n"]}
    numbers["thrown_out"] = counts["n"] - counts["accepted_first"]
    numbers["left_out"] = counts["n"] - counts["accepted"]
    n_real = int((run.rows("train") & run.keep(draw).keep).sum())
    for arm in ARMS:
        images, _ = added_images(run, ArmJob(str(run.folder), arm, ratio, draw, 0), n_real)
        p = predict_arm(judge, images.pixels)[:, column]
        numbers[arm] = auroc(images.y[:, column], p)
        numbers[f"seen {arm}"] = share(p[images.y[:, column] == 1] > cutoff)
    y, pixels = thrown_out(run, draw, column)
    numbers["seen thrown_out"] = share(predict_arm(judge, pixels)[y == 1, column] > cutoff)
    return numbers


def share(seen: np.ndarray) -> float:
    return float(seen.mean()) if len(seen) else float("nan")


def thrown_out(run: Run, draw: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and pixels of the first draws of studies that have another in the gated set, or none."""
    folder = run.draw_folder(draw)
    if not (folder / "ungated" / MANIFEST).is_file():
        list_first_draws(folder / "sets" / "core", folder / "ungated")
    frame, pixels = load_listed(folder / "ungated", run.recipe.data.encoding)
    core = pd.read_parquet(folder / "sets" / "core" / MANIFEST)
    kept = set("sets/core/" + core.loc[core["gate"] == "accept", "image"])
    out = ~frame["image"].isin(kept).to_numpy()
    plan = pd.read_parquet(folder / "plan" / "plan.parquet").set_index("prompt_id", drop=False)
    y = run.plan_y(plan.loc[frame["prompt_id"]])[:, column]
    return y[out], pixels[out]


def auroc(y: np.ndarray, p: np.ndarray) -> float:
    known = ~np.isnan(y)
    return float(roc_auc_score(y[known], p[known])) if 0 < y[known].sum() < known.sum() else float("nan")


def interval(values: pd.Series, shown: str = ".3f") -> str:
    """Mean with a 95 % interval over draws."""
    values = values.dropna()
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return f"{mean:{shown}} (one draw)"
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return f"{mean:{shown}} [{mean - half:{shown}}, {mean + half:{shown}}] over {n} draws"


if __name__ == "__main__":
    main()
