"""Does it pay to plan in rounds, by the validation gaps, instead of at once? On phantoms with a planted gap.

    python benchmarks/adaptive_plan.py [--core gaussian|phantom-nano|renderer] [--out runs/adaptive-plan] [--seeds 3]

Women have fewer masses and cardiomegalies in training, and milder ones everywhere. Three arms of equal steps on the
same real images: `real`; `one-shot`, a plan for the default floor, all of the budget at once; `adaptive`, the same
budget in rounds, each aimed by an evaluation of the validation rows of the classifier of the round before (the first:
`real`). Both plans bring one study without the findings per study with one. Who draws the images: the Gaussian core,
fitted on the training rows; phantom-nano, which ships; or the renderer of the cohort itself, which draws as the
population does (an ideal core: what is left is the plan's own worth). Images are taken as they come, without a gate.
Test rows are read once, at the end, by the evaluation of the toolkit, with seeds as draws (each has its own plans,
images and trainings). Minutes on one core, three quarters of an hour with phantom-nano and 5 seeds; called again it
goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from cxraug.balance.evaluated import read_aims
from cxraug.balance.plan import PlanSettings, make_plan
from cxraug.classifiers.arms import ArmData, Images, concat
from cxraug.classifiers.prediction import predict_arm, write_predictions
from cxraug.classifiers.settings import TrainSettings
from cxraug.classifiers.training import train_arm
from cxraug.cores.conditions import Conditions
from cxraug.cores.core import Card, Prompt, Study, prompts_from_plan
from cxraug.cores.gaussian import fit_gaussian
from cxraug.cores.registry import open_core, read_card
from cxraug.evaluation.endpoint import Endpoint
from cxraug.evaluation.evaluate import EvaluationSettings, evaluate, write_evaluation
from cxraug.evaluation.predictions import read_predictions
from cxraug.pages.markdown import plain_text, table
from cxraug.seeds import derive_seed
from cxraug.storage import atomic
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding, encode
from cxraug.studies.manifest import concat as joined
from cxraug.studies.manifest import read_manifest
from cxraug.studies.phantom.cohort import PhantomSettings, condition_holds, make_cohort
from cxraug.studies.phantom.projection import render
from cxraug.studies.seen import Seen

FINDINGS = ("Cardiomegaly", "Effusion", "Mass", "No Finding", "Pneumothorax")
GROUPS = ("sex",)
COHORT = PhantomSettings(
    n=5200, seed=5, size=128, views=("PA",), splits=(0.15, 0.25, 0.6), severity_range=(0.3, 0.9),
    prevalence={"Cardiomegaly": 0.12, "Effusion": 0.14, "Mass": 0.08, "Pneumothorax": 0.08, "Atelectasis": 0.0,
                "Consolidation": 0.0, "Edema": 0.0, "Nodule": 0.0},
    odds_ratio={"Cardiomegaly": {"sex=F": 0.4}, "Mass": {"sex=F": 0.4}},
    severity={"Cardiomegaly": {"sex=F": 0.7}, "Mass": {"sex=F": 0.7}},
)  # fmt: skip
ENCODING = Encoding(size=64)  # what classifiers see, of real and synthetic images alike
CORES = ("gaussian", "phantom-nano", "renderer")
CHUNK = 64  # studies asked for at once
PRIMARY = Endpoint(arm="adaptive", control="one-shot", finding="macro", metric="auroc", group="sex", level="F")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", choices=CORES, default="gaussian")
    parser.add_argument("--out", type=Path, default=Path("runs/adaptive-plan"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=600)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--model", default="resnet10t")
    options = parser.parse_args()
    experiment = Experiment(options.out, options.steps, options.model, options.core)
    files, spent = [], []
    for seed in range(options.seeds):
        for arm, plans in experiment.arms(seed, options.budget, options.rounds).items():
            files.append(experiment.folder / f"seed-{seed}" / arm / "predictions.parquet")
            for number, plan in enumerate(plans):
                spent.append({"seed": seed, "arm": arm, "round": number + 1, **experiment.counted(plan)})
    report(files, pd.DataFrame(spent), experiment.folder)


class Drawing(Protocol):
    """What draws the images of a plan."""

    card: Card

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Study]: ...


class Renderer:
    """The ideal core: draws a study as the cohort's own population has it, severities of the sexes included."""

    def __init__(self) -> None:
        self.card = read_card("phantom-nano").model_copy(update={"name": "renderer", "views": ["PA"]})

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Study]:
        return [self._study(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _study(self, prompt: Prompt, seed: int) -> Study:
        rng = np.random.default_rng([seed, 11])
        sex, age = prompt.sex or rng.choice(["F", "M"]), prompt.age if prompt.age is not None else 55.0
        severity = {}
        for finding in (f for f, y in prompt.labels.items() if y and f != "No Finding"):
            severity[finding] = float(rng.uniform(*COHORT.severity_range))
            for condition, factor in COHORT.severity.get(finding, {}).items():
                severity[finding] *= factor if condition_holds(condition, np.array([sex]), np.array([age]))[0] else 1.0
        drawn = render(sex=str(sex), age=float(age), severity=severity, views=["PA"], patient_seed=seed,
                       study_seed=int(rng.integers(2**62)), size=COHORT.size)  # fmt: skip
        return Study(drawn.images)


class Experiment:
    """The cohort, the core, and one training after the other."""

    def __init__(self, folder: Path, steps: int, model: str, core: str) -> None:
        self.folder = folder / core
        self.settings = TrainSettings(model=model, steps=steps, eval_every=40)
        manifest = read_manifest(make_cohort(COHORT, folder / "cohort", workers=1), findings=FINDINGS)
        self.manifest, cache = build_cache(manifest, folder / "cache", ENCODING)
        self.pixels, self.y = np.asarray(cache.pixels), self.manifest.y(FINDINGS)
        split = self.manifest.frame["split"].to_numpy(dtype=object)
        self.rows = {name: split == name for name in ("train", "val", "test")}
        rows = self.rows["train"]
        self.train = self.manifest.take(rows)
        self.seen = Seen.of(self.train.frame["patient_id"], cache.sha[rows])
        self.core = self._open(core, rows)

    def _open(self, name: str, rows: np.ndarray) -> Drawing:
        if name != "gaussian":
            return Renderer() if name == "renderer" else open_core(name)
        return fit_gaussian(
            self.pixels[rows], Conditions.from_manifest(self.train, FINDINGS), self.folder / "core", seen=self.seen,
            training_data={"phantom": COHORT.model_dump(mode="json")}, encoding=ENCODING,
        )  # fmt: skip

    def arms(self, seed: int, budget: int, rounds: int) -> dict[str, list[pd.DataFrame]]:
        """Train every arm of a seed; the plans that each spent its budget on."""
        settings = PlanSettings(min_label_set=2, findings=[f for f in FINDINGS if f != "No Finding"], companions=1)
        self.fit("real", seed, [])
        once = make_plan(self.train, settings, findings=FINDINGS, groups=GROUPS, core_card=self.core.card, n=budget,
                         seed=derive_seed(seed, "one-shot")).frame  # fmt: skip
        self.fit("one-shot", seed, [once])
        plans: list[pd.DataFrame] = []
        last = "real"
        for number in range(rounds):
            aims = read_aims(self.validated(last, seed), aim="gap", manifest=self.manifest)
            part = budget * (number + 1) // rounds - budget * number // rounds
            plan = make_plan(
                self.with_made(plans), settings, findings=FINDINGS, core_card=self.core.card, n=part, aims=aims,
                seed=derive_seed(seed, "round", number),
            )  # fmt: skip
            print(f"seed {seed}, round {number + 1}: " + "; ".join(aims.notes[-2:]), flush=True)
            plans.append(plan.frame.assign(prompt_id=[f"r{number}-{p}" for p in plan.frame["prompt_id"]]))
            last = "adaptive" if number == rounds - 1 else f"after-round-{number + 1}"
            self.fit(last, seed, plans)
        return {"real": [], "one-shot": [once], "adaptive": plans}

    def fit(self, arm: str, seed: int, plans: list[pd.DataFrame]) -> None:
        """Train on the real rows and what the plans ask for; predict validation and test rows."""
        folder = self.folder / f"seed-{seed}" / arm
        data = Images(self.pixels[self.rows["train"]], self.y[self.rows["train"]])
        if plans:
            data = concat([data, *(self.generated(plan) for plan in plans)])
        val = Images(self.pixels[self.rows["val"]], self.y[self.rows["val"]])
        train_arm(ArmData(data), val, folder, self.settings, findings=FINDINGS, seed=derive_seed("fit", seed),
                  seen=self.seen)  # fmt: skip
        rows = self.rows["val"] | self.rows["test"]
        p = predict_arm(folder, self.pixels[rows])
        frame = self.manifest.frame[rows]
        write_predictions(folder / "predictions.parquet", frame, self.y[rows], p, FINDINGS, arm, 0, seed)

    def generated(self, plan: pd.DataFrame) -> Images:
        """The images of a plan, from the core; kept, since a later round asks for those of the earlier ones again."""
        kept = (
            self.folder / "images" / f"{pd.util.hash_pandas_object(plan[['labels', 'sex', 'age', 'seed']]).sum()}.npy"
        )
        if not kept.exists():
            # severities and side are the core's to draw: only what every core here takes is asked for
            prompts = [replace(p, wants_report=False) for p in prompts_from_plan(plan, self.core.card.findings)]
            seeds, pixels = plan["seed"].tolist(), []
            for at in range(0, len(prompts), CHUNK):
                made = self.core.generate(prompts[at : at + CHUNK], seeds[at : at + CHUNK])
                pixels += [encode(study.images["PA"], ENCODING) for study in made]
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic(kept) as temporary, temporary.open("wb") as stream:
                np.save(stream, np.stack(pixels))
        named = [str(text).split("|") for text in plan["labels"]]
        return Images(np.load(kept), np.array([[float(f in n) for f in FINDINGS] for n in named], dtype=np.float32))

    def with_made(self, plans: list[pd.DataFrame]):
        """The training manifest with what earlier rounds made counted as there."""
        if not plans:
            return self.train
        rows = pd.concat(plans, ignore_index=True)
        made = self.train.frame.iloc[:0].reindex(range(len(rows))).assign(
            image=rows["prompt_id"], patient_id="syn-" + rows["prompt_id"], study_id=rows["prompt_id"],
            view=rows["views"], sex=rows["sex"], age=rows["age"], labels=rows["labels"], split="train",
            source=self.train.frame["source"].iloc[0], synthetic=True,
        )  # fmt: skip
        made = made.astype({c: t for c, t in self.train.frame.dtypes.items() if c != "synthetic"})
        other = type(self.train)(made, self.train.root, None, self.train.findings, self.train.annotated)
        return joined([self.train, other])

    def validated(self, arm: str, seed: int) -> Path:
        """The folder of an evaluation of the validation rows; test rows are not read."""
        folder = self.folder / f"seed-{seed}" / arm
        found = evaluate(
            read_predictions([folder / "predictions.parquet"], on="val"),
            EvaluationSettings(groups=GROUPS, metrics=("auroc",), matched=(), min_cell=5, bootstrap=0),
        )
        write_evaluation(found, folder / "validation")
        return folder / "validation"

    def counted(self, plan: pd.DataFrame) -> dict[str, int]:
        """Studies per sex and finding."""
        sets = [set(str(text).split("|")) for text in plan["labels"]]
        counts = {"studies": len(plan)}
        for sex in ("F", "M"):
            counts |= {f"{f} {sex}": sum(f in s and x == sex for s, x in zip(sets, plan["sex"], strict=True))
                       for f in FINDINGS}  # fmt: skip
        return counts


def markdown_table(frame: pd.DataFrame) -> str:
    """``frame`` as Markdown."""
    rows = [["" if pd.isna(v) else plain_text(v) for v in row] for row in frame.itertuples(index=False)]
    return table(list(frame.columns), rows)


def report(files: list[Path], spent: pd.DataFrame, out: Path) -> None:
    """Evaluate the test rows and print the tables."""
    pairs = [("one-shot", "adaptive"), ("real", "one-shot"), ("real", "adaptive")]
    settings = EvaluationSettings(
        groups=GROUPS, metrics=("auroc",), matched=(), primary=PRIMARY, bootstrap=0, comparisons=pairs
    )
    found = evaluate(read_predictions(files), settings)
    write_evaluation(found, out / "evaluation")
    cells = found.cells[(found.cells["seed"] == "all") & (found.cells["draw"] == "all")]
    rows = found.comparison[found.comparison["metric"] == "auroc"]
    rows = rows[["arm", "baseline", "finding", "group", "level", "difference", "ci_low", "ci_high", "p_value", "mde",
                 "n_draws", "flag"]]  # fmt: skip
    print("\nWhat the budget was spent on (studies per finding and sex)\n")
    print(markdown_table(spent))
    print("\nTest AUROC, mean over seeds, 95 % interval\n")
    print(markdown_table(cells[["arm", "finding", "group", "level", "value", "ci_low", "ci_high", "n_pos"]].round(3)))
    print("\nDifferences (the first row is the primary endpoint)\n")
    print(markdown_table(rows.round(3)))
    gaps = found.gaps[(found.gaps["seed"] == "all") & (found.gaps["draw"] == "all") & (found.gaps["level"] == "F")]
    print("\nGaps, women minus men\n")
    print(markdown_table(gaps[["arm", "finding", "gap", "ci_low", "ci_high", "p_adjusted", "mdg"]].round(3)))


if __name__ == "__main__":
    main()
