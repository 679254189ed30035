"""Our plan against what a user would do instead, on the labels of NIH ChestX-ray14 (112,120 images).

    python benchmarks/planning.py [--budget 100000] [--floor 200] [--out docs/results/plan]

The table is the one that torchxrayvision ships (Data_Entry_2017_v2020: labels, sex, age, view; no image). Every method
adds the same number of images to it, and what is counted are labels: peers copy real images, a plan asks a core for new
ones, and whether either helps a classifier is another question. Cells are 14 findings x sex x age band.

- imbalance ratio: positives of the most over those of the least frequent finding (1 is even);
- worst cell: positives of the smallest cell, also over the cells that have a real positive (a peer cannot fill others);
- mutual information of finding and sex*age, mean over findings, in millibits (0: no finding tells the group);
- copies: how often the most used image (a plan: the most used combination of label set, sex, age band) is added;
- images for the floor: how many images bring every cell with a real positive to `--floor` positives.

Peers: RandomOverSampler of imbalanced-learn with label sets as classes, or label set x sex x age band, the budget
poured into the smallest classes until they are level; ML-ROS (Charte, Rivera, del Jesus & Herrera 2015,
algorithm 2); sampling with replacement in inverse proportion to the prevalence of an image's rarest finding, or of its
rarest cell.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.balance.cost import plan_cost
from cxraug.balance.plan import Plan, PlanSettings, make_plan, write_plan
from cxraug.balance.verification import verify_plan
from cxraug.evaluation.groups import AGE_BINS, group_levels
from cxraug.machine import machine
from cxraug.pages.markdown import table
from cxraug.storage import atomic
from cxraug.studies.manifest import Manifest

TABLE = "data/Data_Entry_2017_v2020.csv.gz"
NO_FINDING = "No Finding"
GROUP = "sex*age"
MOST = 20_000_000  # images: beyond, a floor counts as not reached
STEP = 2_000  # clones between two looks of ML-ROS


@dataclass(frozen=True)
class Labels:
    """The table as arrays: ``y`` (n, F) bool without No Finding, ``cell`` (n,) its sex x age band, ``classes`` (n,)."""

    y: np.ndarray
    group: np.ndarray
    label_set: np.ndarray
    findings: tuple[str, ...]

    @property
    def groups(self) -> int:
        return int(self.group.max()) + 1

    def cells(self, weight: np.ndarray | None = None) -> np.ndarray:
        """(F, G) positives, each row counting ``weight`` (n,) times."""
        w = np.ones(len(self.y)) if weight is None else weight
        return np.stack([np.bincount(self.group, w * self.y[:, f], self.groups) for f in range(len(self.findings))])

    def sizes(self, weight: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(self.group, weight, self.groups).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=100_000)
    parser.add_argument("--floor", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    train = read_nih()
    labels = as_labels(train)
    rows = [row("nothing added", labels, np.zeros(len(labels.y)), None)]
    for name, draw, needed in peers(labels, options.budget):
        rows.append(row(name, labels, draw(), needed(options.floor)))
    fewest = make_plan(train, PlanSettings(floor=options.floor, groups=[GROUP], findings=list(labels.findings)))
    floor_images = len(fewest.frame)
    programmes, checks = [], []
    weights = tempfile.TemporaryDirectory()
    even = Path(weights.name) / "weights.csv"
    pd.DataFrame({"group": GROUP, "level": sorted(group_levels(train.frame, GROUP).unique()), "weight": 1}).to_csv(even)
    for name, settings in plans(options.budget, labels.findings, even).items():
        began = time.perf_counter()
        plan = make_plan(train, settings)
        seconds = time.perf_counter() - began
        rows.append(plan_row(name, labels, train, plan, floor_images if name == FLOOR else None))
        limits = verify_plan(plan.frame, train, settings, findings=train.findings, groups=plan.groups,
                             age_bins=AGE_BINS)  # fmt: skip
        checks.append(limits.assign(plan=name))
        programmes.append(programme_row(name, plan, limits, seconds))
        if options.out is not None and name == LIMITED:
            write_plan(plan, options.out / "page", fresh=True, settings=settings, limits=limits,
                       cost=plan_cost(plan.frame).to_json())  # fmt: skip
            (options.out / "page" / "plan.parquet").unlink()
    print_tables(options, rows, programmes, pd.concat(checks, ignore_index=True))


FLOOR, LIMITED = "plan: floor", "plan: floor, all limits"


def plans(budget: int, findings: tuple[str, ...], even: Path) -> dict[str, PlanSettings]:
    """What the plan is asked: every target, floors and parity also within all limits; ``even``: a table of weights."""
    base = {"budget": budget, "groups": [GROUP], "findings": list(findings)}
    limits = {"per_real": 20, "per_prompt": 500, "views_as_real": 0.05}
    return {
        FLOOR: PlanSettings(floor=3000, **base),
        LIMITED: PlanSettings(floor=3000, **base, **limits),
        "plan: parity": PlanSettings(target="parity", **base),
        "plan: parity, all limits": PlanSettings(target="parity", **base, **limits),
        "plan: uniform prevalence 5 %": PlanSettings(target="uniform", prevalence=0.05, **base),
        "plan: groups of equal size": PlanSettings(target="population", population=str(even), **base),
        "plan: power for a gap of 0.05": PlanSettings(target="power", gap=0.05, **base),
    }


def read_nih() -> Manifest:
    """All rows of the table as training rows, an image a study."""
    raw = pd.read_csv(str(files("torchxrayvision").joinpath(TABLE)))
    frame = pd.DataFrame(
        {
            "image": raw["Image Index"], "patient_id": raw["Patient ID"].astype("str"), "study_id": raw["Image Index"],
            "view": raw["View Position"], "sex": raw["Patient Gender"], "age": raw["Patient Age"].astype(float),
            "labels": raw["Finding Labels"], "source": "nih_cxr14", "split": "train",
        }
    )  # fmt: skip
    frame = frame.astype({name: "str" for name in frame.columns if name != "age"})
    names = tuple(sorted({part for text in frame["labels"].unique() for part in text.split("|")}))
    return Manifest(frame, Path(), None, names, {"nih_cxr14": names})


def as_labels(train: Manifest) -> Labels:
    findings = tuple(f for f in train.findings if f != NO_FINDING)
    group, _ = pd.factorize(group_levels(train.frame, GROUP), sort=True)
    label_set, _ = pd.factorize(train.frame["labels"])
    return Labels(train.y(findings) == 1, group, label_set, findings)


# -- peers ------------------------------------------------------------------------------------------------------------


def peers(labels: Labels, budget: int) -> list[tuple[str, Callable, Callable]]:
    """Name, what it adds (how often each real image), and how many images a floor takes."""
    both = pd.factorize(pd.Series(labels.label_set) * labels.groups + labels.group)[0]
    rarest, rarest_cell = inverse_weights(labels)
    return [
        ("RandomOverSampler, label sets", lambda: oversample(labels.label_set, budget),
         lambda floor: oversampled_for(labels, labels.label_set, floor)),
        ("RandomOverSampler, label set x sex x age", lambda: oversample(both, budget),
         lambda floor: oversampled_for(labels, both, floor)),
        ("ML-ROS", lambda: ml_ros(labels, budget)[0], lambda floor: ml_ros(labels, MOST, floor)[1]),
        ("inverse prevalence, rarest finding", lambda: sample(rarest, budget),
         lambda floor: sampled_for(labels, rarest, floor)),
        ("inverse prevalence, rarest cell", lambda: sample(rarest_cell, budget),
         lambda floor: sampled_for(labels, rarest_cell, floor)),
    ]  # fmt: skip


def level(counts: np.ndarray, budget: float) -> np.ndarray:
    """What is added to each class when ``budget`` is poured into the smallest until they are level."""
    low, high = 0.0, float(counts.max() + budget)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(middle - counts, 0).sum() <= budget else (low, middle)
    return np.maximum(low - counts, 0)


def oversample(classes: np.ndarray, budget: int) -> np.ndarray:
    """How often imbalanced-learn's RandomOverSampler adds each image."""
    from imblearn.over_sampling import RandomOverSampler

    counts = np.bincount(classes)
    added = level(counts, budget)
    whole = np.floor(added).astype(int)
    whole[np.argsort(whole - added, kind="stable")[: budget - whole.sum()]] += 1
    sampler = RandomOverSampler(sampling_strategy=dict(enumerate((counts + whole).tolist())), random_state=0)
    sampler.fit_resample(np.zeros((len(classes), 1)), classes)
    return np.bincount(sampler.sample_indices_, minlength=len(classes)) - 1.0


def oversampled_for(labels: Labels, classes: np.ndarray, floor: int) -> int | None:
    """Images until every cell has ``floor`` positives, in expectation."""
    counts = np.bincount(classes)

    def short(budget: float) -> bool:
        return worst(labels, (level(counts, budget) / counts)[classes]) < floor

    return bisect(short)


def ml_ros(labels: Labels, budget: int, floor: int | None = None) -> tuple[np.ndarray, int | None]:
    """Clones by ML-ROS: images of labels rarer than the mean imbalance are copied, label by label, until none is left.

    As in the paper an image without a finding has no label. With ``floor`` also the number of clones when every cell
    has it.
    """
    y = labels.y
    rng = np.random.default_rng(0)
    counts, added = y.sum(axis=0).astype(float), np.zeros(len(y))
    mean = float((counts.max() / counts).mean())
    bags = {f: np.flatnonzero(y[:, f]) for f in range(y.shape[1]) if counts.max() / counts[f] > mean}
    made = 0
    while bags and made < budget:
        for f in list(bags):
            size = min(STEP // len(bags) + 1, budget - made)
            copied = rng.choice(bags[f], size)
            np.add.at(added, copied, 1)
            counts += y[copied].sum(axis=0)
            made += size
            if counts.max() / counts[f] <= mean:
                del bags[f]
        if floor is not None and worst(labels, added) >= floor:
            return added, made
    return added, None


def inverse_weights(labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Weights of images: 1 over the count of their rarest finding, and of their rarest cell; healthy ones alike."""
    healthy = ~labels.y.any(axis=1)
    per_finding = labels.y.sum(axis=0)
    finding = np.where(labels.y, 1 / per_finding, 0).max(axis=1) + healthy / healthy.sum()
    cells = labels.cells()
    of_healthy = np.bincount(labels.group, healthy, labels.groups)
    cell = np.where(labels.y, 1 / np.maximum(cells[:, labels.group].T, 1), 0).max(axis=1)
    return finding, cell + healthy / of_healthy[labels.group]


def sample(weights: np.ndarray, budget: int) -> np.ndarray:
    """How often each image is drawn with replacement."""
    drawn = np.random.default_rng(0).choice(len(weights), budget, p=weights / weights.sum())
    return np.bincount(drawn, minlength=len(weights)).astype(float)


def sampled_for(labels: Labels, weights: np.ndarray, floor: int) -> int | None:
    return bisect(lambda budget: worst(labels, budget * weights / weights.sum()) < floor)


def worst(labels: Labels, added: np.ndarray) -> float:
    """Positives of the smallest cell that has a real one."""
    cells = labels.cells()
    return float((cells + labels.cells(added))[cells > 0].min())


def bisect(short: Callable[[float], bool]) -> int | None:
    low, high = 0, MOST
    if short(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if short(middle) else (low, middle)
    return high


# -- what is counted --------------------------------------------------------------------------------------------------


def row(name: str, labels: Labels, added: np.ndarray, needed: int | None) -> list[str]:
    cells, sizes = labels.cells() + labels.cells(added), labels.sizes() + labels.sizes(added)
    return measures(name, int(added.sum()), cells, sizes, labels.cells() > 0, int(added.max()), needed)


def plan_row(name: str, labels: Labels, train: Manifest, plan: Plan, needed: int | None) -> list[str]:
    levels = sorted(group_levels(train.frame, GROUP).unique())
    group = pd.Categorical(group_levels(plan.frame, GROUP), categories=levels).codes.astype(int)
    sets = [set(text.split("|")) for text in plan.frame["labels"]]
    y = np.array([[f in s for f in labels.findings] for s in sets])
    new = Labels(y, group, group, labels.findings)
    cells = np.stack([np.bincount(group, y[:, f], labels.groups) for f in range(len(labels.findings))])
    sizes = np.bincount(group, minlength=labels.groups)
    copies = plan.frame.groupby([plan.frame["labels"], new.group]).size().max()
    return measures(
        name, len(plan.frame), labels.cells() + cells, labels.sizes() + sizes, labels.cells() > 0, int(copies), needed
    )


def measures(
    name: str, images: int, cells: np.ndarray, sizes: np.ndarray, real: np.ndarray, copies: int, needed: int | None
) -> list[str]:
    """A row of the table."""
    positives = cells.sum(axis=1)
    information = 1000 * np.mean([mutual_information(part, sizes) for part in cells])
    ratio = f"{positives.max() / positives.min():.1f}"
    told = "" if name == "nothing added" or (needed is None and name.startswith("plan")) else (
        "not reached" if needed is None else f"{needed:,}"
    )  # fmt: skip
    return [name, f"{images:,}", ratio, f"{cells.min():,.0f}", f"{cells[real].min():,.0f}", f"{information:.2f}",
            f"{copies:,}", told]  # fmt: skip


def mutual_information(positives: np.ndarray, sizes: np.ndarray) -> float:
    """I(finding; group) in bits, from positives and studies per group (G,)."""
    joint = np.stack([positives, sizes - positives]) / sizes.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    kept = joint > 0
    return float((joint[kept] * np.log2(joint[kept] / independent[kept])).sum())


def programme_row(name: str, plan: Plan, limits: pd.DataFrame, seconds: float) -> list[str]:
    found = {r["name"]: r for r in plan.programme}
    wanted = plan.table[plan.table["target"].notna()]
    unmet = int((wanted["shortfall"] > 0).sum())
    each = [f"{found[key]['value']:.4f} ({found[key]['bound']:.4f})" for key in ("worst", "total")]
    cost = f"{found['cost']['value']:,.0f} ({found['cost']['bound']:,.0f})"
    kept = f"{int(limits['holds'].sum())} of {len(limits)}"
    return [name, f"{len(wanted) - unmet} of {len(wanted)}", *each, cost, kept, f"{seconds:.1f}"]


def print_tables(
    options: argparse.Namespace, rows: list[list[str]], programmes: list[list[str]], checks: pd.DataFrame
) -> None:
    head = ["method", "images added", "imbalance ratio", "worst cell", "worst cell with a real positive",
            "mutual information", "copies", f"images for a floor of {options.floor}"]  # fmt: skip
    solved = ["plan", "targets met", "largest shortfall (bound)", "sum of shortfalls (bound)", "price (bound)",
              "limits kept", "seconds"]  # fmt: skip
    where = machine()
    told = f"{where['processor']}, {where['cores']} cores"
    shown = [
        [r["plan"], r["limit"], f"{r['checked']:,}", r["tightest"], f"{abs(r['allowed']):,.5g}",
         f"{abs(r['found']):,.5g}", "yes" if r["holds"] else "no"]
        for r in checks.to_dict("records")
    ]  # fmt: skip
    text = "\n\n".join(
        [
            f"Budget {options.budget:,} images.", table(head, rows),
            f"The programmes ({told}; seconds of the whole plan):", table(solved, programmes),
            "Limits, counted by the verifier:",
            table(["plan", "limit", "checked", "tightest", "allowed", "found", "holds"], shown),
        ]
    )  # fmt: skip
    print(text)
    if options.out is not None:
        with atomic(options.out / "tables.md") as path:
            path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
