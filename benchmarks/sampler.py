"""The sampler's cost beside its core's, and what a classifier gains from it beside random over-sampling; on phantoms.

    OMP_NUM_THREADS=1 python benchmarks/sampler.py --out benchmarks/SAMPLER.md

Each cohort is new patients: training images in which a finding is rare, and as many test images with and without it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.pipeline import make_pipeline
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from cxraug.balance import SyntheticOverSampler
from cxraug.cores.conditions import Conditions
from cxraug.cores.core import GenerativeCore, prompts_from_plan
from cxraug.cores.gaussian import fit_gaussian
from cxraug.cores.registry import open_core
from cxraug.storage import atomic, read_json, write_json
from cxraug.studies.images import Encoding, encode
from cxraug.studies.phantom.cohort import PhantomSettings, render_study, sample_cohort
from cxraug.studies.seen import Seen

FINDINGS, RARE = ("Cardiomegaly", "Pneumothorax"), 0.08  # a large one and a fine one
SIDE, RENDERED = 32, 128  # RENDERED: the size phantom-nano knows phantoms in
TRAIN, TEST, RATIO = 160, 160, 0.5
NANO = "phantom-nano"
REFERENCE = "RandomOverSampler"
ARMS = (
    "real images alone", REFERENCE, "SMOTE", "gaussian", "gaussian, both classes", NANO, f"{NANO}, both classes",
)  # fmt: skip


def main() -> None:
    """Parse, time, compare, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "SAMPLER.md")
    parser.add_argument("--cohorts", type=int, default=8)
    parser.add_argument("--findings", default=",".join(FINDINGS))
    parser.add_argument("--rounds", type=int, default=3, help="the fastest of so many counts")
    parser.add_argument(
        "--work", type=Path, help="keep each cohort's scores here, and go on where an earlier call stopped"
    )
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    core = open_core(NANO)
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work or Path(temporary)
        scores = {
            finding: [
                kept(work / f"{finding}-{seed}.json", lambda f=finding, s=seed: compare(core, f, s))
                for seed in range(asked.cohorts)
            ]
            for finding in asked.findings.split(",")
        }
        costs = kept(work / f"costs-{asked.rounds}.json", lambda: costs_of(core, asked.rounds))
    text = page(scores, costs, asked.cohorts, asked.rounds)
    with atomic(asked.out) as temporary_page:
        temporary_page.write_text(text)
    print(text)


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What ``file`` holds, or what ``make`` returns, which it then holds."""
    if not file.is_file():
        write_json(file, make())
    return read_json(file)


def phantoms(
    n: int, seed: int, prevalence: float, *, finding: str = FINDINGS[0], side: int = SIDE
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, side * side) uint8 and whether each shows ``finding`` (n,)."""
    settings = PhantomSettings(n=n, seed=seed, size=RENDERED, prevalence={finding: prevalence}, studies_per_patient=1.0)
    cohort = sample_cohort(settings)
    encoding = Encoding(size=side)
    images = [
        encode(render_study(study, settings).images["PA"], encoding).ravel() for study in cohort.to_dict("records")
    ]
    shown = cohort["labels"].str.split("|").map(lambda names: finding in names)
    return np.stack(images), shown.to_numpy(int)


def both_classes(y: np.ndarray) -> dict[int, int]:
    """As many synthetic images as :data:`RATIO` asks for, half of them of either class."""
    without, having = np.bincount(y)
    half = (int(RATIO * without) - having) // 2
    return {0: int(without + half), 1: int(having + half)}


def compare(core: GenerativeCore, finding: str, seed: int) -> dict[str, float]:
    """Test AUROC of a logistic regression after each sampler, on the cohort of ``seed``."""
    X, y = phantoms(TRAIN, 2 * seed + 1, RARE, finding=finding)
    X_test, y_test = phantoms(TEST, 2 * seed + 2, 0.5, finding=finding)
    told = {"findings": [finding], "random_state": seed}
    samplers: list[Any] = [
        "passthrough",
        RandomOverSampler(sampling_strategy=RATIO, random_state=seed),
        SMOTE(sampling_strategy=RATIO, random_state=seed),
        SyntheticOverSampler(sampling_strategy=RATIO, **told),
        SyntheticOverSampler(sampling_strategy=both_classes, **told),
        SyntheticOverSampler(core=core, sampling_strategy=RATIO, **told),
        SyntheticOverSampler(core=core, sampling_strategy=both_classes, **told),
    ]
    scores = {}
    for name, sampler in zip(ARMS, samplers, strict=True):
        classifier = make_pipeline(sampler, StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        scores[name] = float(roc_auc_score(y_test, classifier.fit(X, y).decision_function(X_test)))
    return {**scores, "positives": float(y.sum())}


def costs_of(core: GenerativeCore, rounds: int) -> list[dict[str, Any]]:
    """Seconds of processor time of the sampler, and of its core alone on the same prompts."""
    X, y = phantoms(400, 1000, RARE, side=64)
    more = int((y == 0).sum() - y.sum())
    rows = [
        cost(
            "gaussian, 64 px, fitted on 400", SyntheticOverSampler(random_state=0, findings=[FINDINGS[0]]), X, y, rounds
        )
    ]
    some = {0: int((y == 0).sum()), 1: int(y.sum()) + 32}
    asked = SyntheticOverSampler(core=core, random_state=0, findings=[FINDINGS[0]], sampling_strategy=some)
    rows.append(cost(f"{NANO}, 128 px drawn, 64 px returned", asked, X, y, rounds))
    peer = min(timed(lambda: RandomOverSampler(random_state=0).fit_resample(X, y)) for _ in range(rounds))
    return [*rows, {"what": "RandomOverSampler", "images": more, "sampler": peer, "core": None}]


def cost(what: str, sampler: SyntheticOverSampler, X: np.ndarray, y: np.ndarray, rounds: int) -> dict[str, Any]:
    """Seconds of both ways, the fastest of ``rounds`` in turn; the first call, which warms up, does not count."""
    sampler.fit_resample(X, y)
    made, core = sampler.provenance_, sampler.core_
    plan = made.rename(columns={"view": "views"})[["prompt_id", "labels", "views"]].assign(wants_report=False)
    prompts, seeds = prompts_from_plan(plan, core.card.findings), made["seed"].tolist()

    def bare() -> None:
        if sampler.core != "gaussian":
            core.generate(prompts, seeds)
            return
        with tempfile.TemporaryDirectory() as folder:
            conditions = Conditions.of([FINDINGS[0]], y[:, None])
            square = X.reshape(len(X), 64, 64)
            fitted = fit_gaussian(square, conditions, Path(folder), seen=Seen.of([], []), training_data={})
            fitted.generate(prompts, seeds)

    pairs = [(timed(lambda: sampler.fit_resample(X, y)), timed(bare)) for _ in range(rounds)]
    whole, alone = (min(times) for times in zip(*pairs, strict=True))
    return {"what": what, "images": len(made), "sampler": whole, "core": alone}


def timed(way: Callable[[], object]) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    way()
    return time.process_time() - start


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % t interval over cohorts."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - half, mean + half


def page(scores: dict[str, list[dict[str, float]]], costs: list[dict[str, Any]], cohorts: int, rounds: int) -> str:
    """The page of all tables."""
    named = f"--findings {','.join(scores)} --cohorts {cohorts} --rounds {rounds}"
    lines = [
        "# The sampler", "", f"    OMP_NUM_THREADS=1 python benchmarks/sampler.py {named}", "",
        "## What it costs", "",
        f"Seconds of processor time, the fastest of {rounds} in turn, {torch.get_num_threads()} thread(s). The core "
        "alone has the same prompts and seeds (`gaussian`: and is fitted on the same images).", "",
        "| what | synthetic images | sampler, s | core alone, s | ratio |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in costs:
        alone = ("", "") if row["core"] is None else (f"{row['core']:.2f}", f"{row['sampler'] / row['core']:.2f}")
        lines.append(f"| {row['what']} | {row['images']} | {row['sampler']:.3g} | {alone[0]} | {alone[1]} |")
    lines += [
        "", "## What a classifier gains", "",
        f"{cohorts} phantom cohorts of new patients per finding, {TRAIN} training images each, and {TEST} test images, "
        f"half of them with the finding; {SIDE} px, standardised, logistic regression (C = 0.01, not tuned). "
        f"Over-sampled to {RATIO} positives per negative; \"both classes\": as many synthetic images, half of either "
        "class. Test AUROC, mean over cohorts with its 95 % t interval, and the paired difference from "
        f"{REFERENCE}, with an interval of its own that is not corrected for the others. `{NANO}` has learned from "
        "other phantoms: outside data, which the other arms do not have. An interval of few cohorts is wide "
        "and may leave what an AUROC can be.",
    ]  # fmt: skip
    for finding, found in scores.items():
        lines += ["", *gain_table(finding, found)]
    return "\n".join(lines) + "\n"


def gain_table(finding: str, scores: list[dict[str, float]]) -> list[str]:
    """AUROC of every arm, and its difference from :data:`REFERENCE`."""
    positives = np.mean([score["positives"] for score in scores])
    title = f"{finding}, in {positives:.0f} of {TRAIN} training images on average"
    lines = [f"| {title} | AUROC | minus {REFERENCE} |", "| --- | --- | --- |"]
    for name in ARMS:
        value = mean_interval([score[name] for score in scores])
        difference = mean_interval([score[name] - score[REFERENCE] for score in scores])
        against = "" if name == REFERENCE else f"{difference[0]:+.3f} [{difference[1]:+.3f}, {difference[2]:+.3f}]"
        lines.append(f"| {name} | {value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}] | {against} |")
    return lines


if __name__ == "__main__":
    main()
