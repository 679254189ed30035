"""How long does an audit take? Every finding in every cell, against a loop over scikit-learn and against fairlearn.

    python benchmarks/evaluation.py --rows 112000

Patients, age, sex and labels are those of NIH ChestX-ray14 (the table that torchxrayvision ships: 112,120 images, 14
findings); only the scores are simulated. More rows than it has are copies of its patients under new names. The cells
are the whole set, sex, age in 16 bands of five years, and their intersections: 51.

Measured: AUROC, AUPRC, TPR and FPR of every finding and cell with patient-clustered influence values; a patient
bootstrap of AUPRC in every one of them; the whole ``evaluate`` (intervals, gaps, matched gaps, extremes). The peers
bootstrap images, which is the wrong interval, and are too slow to run in full: a few replicates are timed, scaled, and
marked so.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.evaluation.auprc import bootstrap_auprc, patient_weights
from cxraug.evaluation.cells import Cell, measure
from cxraug.evaluation.evaluate import EvaluationSettings, evaluate
from cxraug.evaluation.groups import group_levels
from cxraug.evaluation.predictions import Predictions, read_predictions
from cxraug.evaluation.subjects import Subject, subjects_of

FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
            "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax")  # fmt: skip
BINS = tuple(range(10, 90, 5))
METRICS = ("auroc", "auprc", "tpr", "fpr")
THRESHOLD = 0.5
MIN_CELL = 10


def nih(rows: int, seed: int = 0) -> pd.DataFrame:
    """A predictions table of about ``rows`` test rows: real patients and labels, simulated scores."""
    package = find_spec("torchxrayvision")  # not imported: it would load torch into the peak memory
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "data" / "Data_Entry_2017_v2020.csv.gz"
    table = pd.read_csv(path)
    copies = [
        table.assign(**{"Patient ID": table["Patient ID"].astype("str") + f"-{k}",
                        "Image Index": table["Image Index"] + f"-{k}"})
        for k in range(-(-rows // len(table)))
    ]  # fmt: skip
    table = pd.concat(copies, ignore_index=True)
    patients = table["Patient ID"].drop_duplicates().to_numpy()
    rng = np.random.default_rng(seed)
    if rows < len(table):
        keep = rng.permutation(patients)[: max(20, round(len(patients) * rows / len(table)))]
        table = table[table["Patient ID"].isin(keep)].reset_index(drop=True)
    codes, names = pd.factorize(table["Patient ID"])
    age = table["Patient Age"].where(table["Patient Age"] < 120).clip(10, 89)  # a few ages are typing errors
    frame = pd.DataFrame({"image": table["Image Index"], "patient_id": table["Patient ID"],
                          "sex": table["Patient Gender"], "age": age})  # fmt: skip
    labels = table["Finding Labels"].str.split("|")
    for finding in FINDINGS:
        y = labels.map(lambda found, finding=finding: finding in found).to_numpy(dtype=float)
        latent = 1.5 * y + 0.6 * rng.standard_normal(len(names))[codes] + 0.8 * rng.standard_normal(len(y))
        frame[f"y_{finding}"], frame[f"p_{finding}"] = y, 1 / (1 + np.exp(1 - latent))
    return frame


def cells_of(predictions: Predictions) -> dict[str, Cell]:
    """The cells that are not empty."""
    whole = Cell.whole(predictions.patients)
    cells = {"all": whole}
    for group in ("sex", "age", "sex*age"):
        levels = group_levels(predictions.table, group, BINS).to_numpy()
        cells |= {f"{group} {level}": whole.part(levels == level) for level in np.unique(levels)}
    return cells


def prepared(predictions: Predictions) -> list[Subject]:
    """The findings with one fixed threshold."""
    cuts = np.full((1, len(predictions.findings)), THRESHOLD)
    return [s for s in subjects_of(predictions, cuts, predictions.p) if s.name in FINDINGS]


def measurable(subject: Subject, cell: Cell) -> bool:
    """Enough of both classes."""
    positives = int(subject.y[cell.rows].sum())
    return min(positives, len(cell.rows) - positives) >= MIN_CELL


def influence_path(predictions: Predictions) -> int:
    """Every metric with its influence values; returns how many."""
    done = 0
    cells = cells_of(predictions)
    for subject in prepared(predictions):
        for cell in cells.values():
            if measurable(subject, cell):
                done += sum(bool(measure(subject, name, cell).variance[0]) for name in METRICS)
    return done


def bootstrap_path(predictions: Predictions, replicates: int) -> int:
    """A patient bootstrap of AUPRC in every cell; returns how many cells."""
    weights = patient_weights(len(predictions.patients), replicates, 0)
    done = 0
    cells = cells_of(predictions)
    for subject in prepared(predictions):
        assert subject.scores is not None
        for cell in cells.values():
            if measurable(subject, cell):
                rows = cell.ascending(subject.scores[0], subject.order[0], subject)
                bootstrap_auprc(subject.scores[0], rows, subject.y, predictions.patient_of, weights)
                done += 1
    return done


def whole_audit(predictions: Predictions, replicates: int) -> int:
    """The command's own work; returns the rows of its tables."""
    cuts = pd.DataFrame({"finding": FINDINGS, "threshold": THRESHOLD})
    settings = EvaluationSettings(groups=("sex", "age", "sex*age"), age_bins=BINS, bootstrap=replicates)
    found = evaluate(predictions, settings, cuts)
    return len(found.cells) + len(found.gaps)


def scikit_learn_loop(predictions: Predictions, replicates: int) -> int:
    """The usual loop: draw images, ``roc_auc_score`` and ``average_precision_score`` per finding and cell."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng, done = np.random.default_rng(0), 0
    cells = cells_of(predictions)
    for i, _ in enumerate(predictions.findings):
        y, p = predictions.y[i], predictions.p[0, i]
        for cell in cells.values():
            rows = cell.rows
            if min(y[rows].sum(), len(rows) - y[rows].sum()) < MIN_CELL:
                continue
            for _ in range(replicates):
                drawn = rng.choice(rows, len(rows))
                if 0 < y[drawn].sum() < len(drawn):
                    roc_auc_score(y[drawn], p[drawn])
                    average_precision_score(y[drawn], p[drawn])
                    done += 1
    return done


def fairlearn_frames(predictions: Predictions, replicates: int) -> int:
    """``MetricFrame(n_boot=...)`` of TPR and FPR by sex and age band: one per finding."""
    from fairlearn.metrics import MetricFrame, false_positive_rate, true_positive_rate

    features = {name: group_levels(predictions.table, name, BINS).to_numpy() for name in ("sex", "age")}
    metrics = {"tpr": true_positive_rate, "fpr": false_positive_rate}
    for i, _ in enumerate(predictions.findings):
        MetricFrame(
            metrics=metrics, y_true=predictions.y[i].astype(int), y_pred=(predictions.p[0, i] >= THRESHOLD).astype(int),
            sensitive_features=features, n_boot=replicates, ci_quantiles=[0.025, 0.975], random_state=0,
        )  # fmt: skip
    return len(predictions.findings)


def job(name: str, rows: int, replicates: int, few: int) -> str:
    """Run one piece in this process; one line of a table: rows, what, seconds for ``replicates``, peak memory."""
    predictions = read_predictions([nih(rows)])
    tasks: dict[str, tuple[Callable[[int], int], bool]] = {
        "influence values, 4 metrics": (lambda _: influence_path(predictions), False),
        "patient bootstrap of AUPRC": (lambda n: bootstrap_path(predictions, n), False),
        "cxraug evaluate, all metrics": (lambda n: whole_audit(predictions, n), False),
        "scikit-learn loop, AUROC + AUPRC": (lambda n: scikit_learn_loop(predictions, n), True),
        "fairlearn n_boot, TPR + FPR": (lambda n: fairlearn_frames(predictions, n), True),
    }
    task, slow = tasks[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    task(few if slow else replicates)
    seconds = time.perf_counter() - start
    told = f"{seconds:.1f}"
    if slow and few < replicates:
        told = f"{seconds * replicates / few:,.0f} (scaled from {few} replicates)"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cells = len(cells_of(predictions))
    return f"| {len(predictions.table):,} | {cells} | {name} | {told} | {peak:,.0f} | {before:,.0f} |"


NAMES = (
    "influence values, 4 metrics",
    "patient bootstrap of AUPRC",
    "cxraug evaluate, all metrics",
    "scikit-learn loop, AUROC + AUPRC",
    "fairlearn n_boot, TPR + FPR",
)


def main() -> None:
    """Print the table; every line is measured in a process of its own, so that peak memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 112_000, 400_000])
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--few", type=int, default=2, help="replicates of the peers, scaled to --replicates")
    parser.add_argument("--only", nargs="+", default=list(NAMES), choices=NAMES, metavar="NAME")
    parser.add_argument("--out", help="Markdown file")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(job(options.job[0], int(options.job[1]), options.replicates, options.few))
        return
    lines = [
        f"14 findings, {options.replicates:,} replicates where there is a bootstrap.",
        "",
        "| rows | cells | what | seconds | peak MiB | of which the table read |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for rows in options.rows:
        for name in options.only:
            numbers = ["--replicates", str(options.replicates), "--few", str(options.few)]
            command = [sys.executable, __file__, "--job", name, str(rows), *numbers]
            lines.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
            print(lines[-1], flush=True)
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
