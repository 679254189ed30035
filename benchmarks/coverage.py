"""Do the intervals hold what they promise? Simulation with known truth; prints a table.

    python benchmarks/coverage.py --replicates 500

The world: patients with 3.4 images on average; labels and scores correlate 0.4 within a patient; scores of several
classifiers share patient noise and add noise per draw and per seed; the separation of a classifier varies over draws
and seeds. All truths have closed forms (scores are normal) but AUPRC, which is integrated numerically.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from cxraug.evaluation.auprc import auprc, bootstrap_auprc, patient_weights
from cxraug.evaluation.auroc import auroc
from cxraug.evaluation.gaps import Gaps, max_t
from cxraug.evaluation.measured import Array, Measured, Patients
from cxraug.evaluation.rates import false_positive_rate, true_positive_rate
from cxraug.evaluation.uncertainty import combine, interval

RHO = 0.4
IMAGES = 3.4
THRESHOLD = 1.0


@dataclass(frozen=True)
class World:
    """How classifiers scatter: noise shared by all, per arm and draw, per run (sum 1); sd of the separation."""

    shared: float = 0.7
    per_draw: float = 0.2
    per_seed: float = 0.1
    sd_common: float = 0.0  # a draw's effect on both arms
    sd_draw: float = 0.0  # a draw's effect on one arm
    sd_seed: float = 0.0


@dataclass(frozen=True)
class Cohort:
    """Images sorted by patient."""

    patient_of: Array
    y: Array
    patients: Patients

    def noise(self, rng: np.random.Generator) -> Array:
        """Standard normal per image, correlated RHO within a patient."""
        return _noise(rng, self.patient_of)


def cohort(n_patients: int, prevalence: float, rng: np.random.Generator) -> Cohort:
    """Patients with a geometric number of images and correlated labels."""
    sizes = rng.geometric(1 / IMAGES, n_patients)
    patient_of = np.repeat(np.arange(n_patients), sizes)
    y = (_noise(rng, patient_of) > stats.norm.isf(prevalence)).astype(float)
    return Cohort(patient_of, y, Patients(np.flatnonzero(np.diff(patient_of, prepend=-1)), len(patient_of)))


def _noise(rng: np.random.Generator, patient_of: Array) -> Array:
    by_patient = rng.standard_normal(patient_of[-1] + 1)[patient_of]
    return np.sqrt(RHO) * by_patient + np.sqrt(1 - RHO) * rng.standard_normal(len(patient_of))


def experiment(
    data: Cohort, world: World, means: tuple[float, float], draws: int, seeds: int, rng: np.random.Generator
) -> tuple[list[Array], list[float], list[Array]]:
    """Scores (R, n) of both arms, the AUROC each arm is about, and draw labels.

    With one draw the truth is that draw's (draws are not assessed), with one run that run's.
    """
    common = data.noise(rng)
    shift = rng.standard_normal(draws) * world.sd_common
    scores, truths = [], []
    for mean in means:
        rows = []
        separation = mean
        for d in range(draws):
            own = data.noise(rng)
            centre = mean + shift[d] + rng.standard_normal() * world.sd_draw
            for _ in range(seeds):
                separation = centre + rng.standard_normal() * world.sd_seed
                noise = np.sqrt(world.shared) * common + np.sqrt(world.per_draw) * own
                rows.append(separation * data.y + noise + np.sqrt(world.per_seed) * data.noise(rng))
        scores.append(np.stack(rows))
        if draws > 1:
            variance = world.sd_common**2 + world.sd_draw**2 + world.sd_seed**2
            truths.append(float(stats.norm.cdf(mean / np.sqrt(2 + variance))))
        elif seeds > 1:
            truths.append(float(stats.norm.cdf(centre / np.sqrt(2 + world.sd_seed**2))))
        else:
            truths.append(float(stats.norm.cdf(separation / np.sqrt(2))))
    return scores, truths, [np.repeat(np.arange(draws), seeds)] * 2


def paired_difference(
    replicates: int, n_patients: int, prevalence: float, world: World, draws: int, seeds: int, seed: int = 0
) -> dict[str, float]:
    """Coverage of the 95 % interval of the AUROC difference of two arms, and what the estimated error is worth."""
    rng = np.random.default_rng(seed)
    hits, errors, claimed, truth = 0, [], [], (0.0, 0.0)
    for _ in range(replicates):
        data = cohort(n_patients, prevalence, rng)
        scores, truth_pair, labels = experiment(data, world, (1.2, 1.3), draws, seeds, rng)
        truth = (truth_pair[0], truth_pair[1])
        cell = np.ones(len(data.y), dtype=bool)
        parts = [auroc(s, np.argsort(s, axis=1), data.y, cell, data.patients) for s in scores]
        found = combine(parts[1].minus(parts[0], paired=True), labels[0])
        error = found.value - (truth[1] - truth[0])
        hits += abs(error) <= found.margin(0.05)
        errors.append(error)
        claimed.append(found.variance)
    return {
        "coverage": hits / replicates,
        "true se": float(np.std(errors)),
        "claimed se": float(np.sqrt(np.mean(claimed))),
    }


def true_auprc(mean: float, prevalence: float) -> float:
    """Average precision of two unit normals ``mean`` apart."""
    t = np.linspace(-8, 8 + mean, 20001)
    tpr, fpr = stats.norm.sf(t - mean), stats.norm.sf(t)
    precision = prevalence * tpr / (prevalence * tpr + (1 - prevalence) * fpr + 1e-300)
    return float(np.sum((precision[:-1] + precision[1:]) / 2 * -np.diff(tpr)))


def single_cells(replicates: int, n_patients: int, prevalence: float, seed: int = 0) -> dict[str, float]:
    """Coverage of one classifier's intervals, of the image-level AUROC interval, and of a gap between two groups."""
    rng = np.random.default_rng(seed)
    mean = 1.5
    truth = {
        "auroc": stats.norm.cdf(mean / np.sqrt(2)),
        "auprc": true_auprc(mean, prevalence),
        "tpr": stats.norm.sf(THRESHOLD - mean),
        "fpr": stats.norm.sf(THRESHOLD),
    }
    truth |= {"auprc bootstrap": truth["auprc"], "auroc by image": truth["auroc"]}
    hits = dict.fromkeys([*truth, "auroc gap", "tpr gap"], 0)
    for replicate in range(replicates):
        data = cohort(n_patients, prevalence, rng)
        left = (rng.random(n_patients) < 0.5)[data.patient_of]
        while min((data.y[left] == 1).sum(), (data.y[~left] == 1).sum()) < 2:  # a gap needs both
            data = cohort(n_patients, prevalence, rng)
            left = (rng.random(n_patients) < 0.5)[data.patient_of]
        scores = (mean * data.y + data.noise(rng))[None]
        cell, order = np.ones(len(data.y), dtype=bool), np.argsort(scores, axis=1)
        found = {
            "auroc": auroc(scores, order, data.y, cell, data.patients),
            "auprc": auprc(scores, order, data.y, cell, data.patients),
            "tpr": true_positive_rate(scores >= THRESHOLD, data.y, cell, data.patients),
            "fpr": false_positive_rate(scores >= THRESHOLD, data.y, cell, data.patients),
        }
        weights = patient_weights(n_patients, 200, replicate)
        boot = bootstrap_auprc(scores[0], order[0], data.y, cell, data.patient_of, weights)
        one = found["auprc"]
        scale = np.sqrt(np.nanvar(boot, ddof=1) / one.variance[0])
        found["auprc bootstrap"] = Measured(one.value, one.influence * scale, one.floor, one.df)
        alone = Patients(np.arange(len(data.y)), len(data.y))
        found["auroc by image"] = auroc(scores, order, data.y, cell, alone)
        for name, m in found.items():
            low, high = interval(m.value, m.variance, m.df, "wilson" if name in ("tpr", "fpr") else "logit", 0.05)
            hits[name] += bool(low[0] <= truth[name] <= high[0])
        sides = [auroc(scores, order, data.y, part, data.patients) for part in (left, ~left)]
        hits["auroc gap"] += gap_covers(sides, "logit")
        sides = [true_positive_rate(scores >= THRESHOLD, data.y, part, data.patients) for part in (left, ~left)]
        hits["tpr gap"] += gap_covers(sides, "wilson")
    return {name: count / replicates for name, count in hits.items()}


def gaps_of(pairs: list[list[Measured]], scale: str) -> tuple[Gaps, Array]:
    """Gaps and their influence values (P, G) from (level, rest) pairs of one run."""
    one = np.zeros(1)
    differences = [combine(a.minus(b), one) for a, b in pairs]
    left, right = ([combine(pair[side], one) for pair in pairs] for side in (0, 1))
    return Gaps.of(differences, left, right, scale), np.stack([gap.influence for gap in differences], axis=1)


def gap_covers(sides: list[Measured], scale: str) -> bool:
    """Whether the 95 % interval of one gap holds 0."""
    low, high = gaps_of([sides], scale)[0].interval(0.05)
    return bool(low[0] <= 0 <= high[0])


def family_wise_error(
    replicates: int, n_patients: int, levels: int, shared: bool, metric: str, findings: int = 1, seed: int = 0
) -> float:
    """Share of replicates with any adjusted p below 0.05 where no group differs.

    ``shared``: one image in five lies in another level than its patient's other images.
    """
    rng = np.random.default_rng(seed)
    rejected = 0
    for replicate in range(replicates):
        data = cohort(n_patients, 0.3, rng)
        level = rng.integers(0, levels, n_patients)[data.patient_of]
        if shared:
            moved = rng.random(len(level)) < 0.2
            level = np.where(moved, rng.integers(0, levels, len(level)), level)
        pairs = []
        for _ in range(findings):
            y = (data.noise(rng) > stats.norm.isf(0.3)).astype(float)
            scores = (1.5 * y + data.noise(rng))[None]
            order = np.argsort(scores, axis=1)
            for name in range(levels):
                pair = [
                    auroc(scores, order, y, part, data.patients)
                    if metric == "auroc"
                    else false_positive_rate(scores >= THRESHOLD, y, part, data.patients)
                    for part in (level == name, level != name)
                ]
                pairs.append(pair)
        found, influence = gaps_of(pairs, "logit" if metric == "auroc" else "wilson")
        joint = max_t(influence, found.p_values(), 0.05, replicate, draws=2000)
        rejected += bool((joint.p_adjusted <= 0.05).any())
    return rejected / replicates


def main() -> None:
    """Print the tables; ``--out`` also writes them as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--out", help="Markdown file")
    options = parser.parse_args()
    n = options.replicates
    parts = [f"Nominal 95 %, {n} replicates (standard error of a coverage of 0.95: {np.sqrt(0.0475 / n):.3f})."]

    def say(title: str, rows: list[dict]) -> None:
        frame = pd.DataFrame(rows)
        lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
        for row in frame.itertuples(index=False):
            lines.append("| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row) + " |")
        parts.append("\n".join([f"## {title}", "", *lines]))
        print(parts[-1], "\n", flush=True)

    print(parts[0], "\n")
    sizes = ((60, 0.1), (150, 0.1), (300, 0.5), (1500, 0.1))
    say(
        "One classifier",
        [{"patients": p, "positives": round(p * IMAGES * prev), **single_cells(n, p, prev)} for p, prev in sizes],
    )
    worlds = {
        "runs differ in noise only": World(),
        "runs of an arm identical in noise": World(1.0, 0.0, 0.0),
        "draws matter": World(sd_common=0.2, sd_draw=0.1, sd_seed=0.05),
        "draws matter most": World(0.9, 0.05, 0.05, 0.3, 0.3, 0.1),
        "seeds matter most": World(0.9, 0.05, 0.05, 0.0, 0.0, 0.3),
    }
    rows = []
    for name, world in worlds.items():
        for draws, seeds in ((1, 1), (1, 3), (3, 3), (8, 3)):
            found = paired_difference(n, 300, 0.3, world, draws, seeds)
            rows.append({"world": name, "draws": draws, "seeds": seeds, **found})
    say("Difference of two arms (AUROC, 300 patients, about 300 positives)", rows)
    say(
        "Family-wise error of gaps where there is none (nominal 5 %)",
        [
            {"metric": metric, "levels": levels, "patients in two levels": "yes" if shared else "no",
             "error": family_wise_error(n, 100 * max(levels, 4), levels, shared, metric)}
            for metric in ("fpr", "auroc") for levels in (2, 5, 12) for shared in (False, True)
        ],
    )  # fmt: skip
    if options.out:
        with open(options.out, "w") as stream:
            stream.write("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
