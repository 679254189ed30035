"""How long does an audit take? Every finding in every cell, against a loop over scikit-learn and against fairlearn.

    python benchmarks/evaluation.py --rows 112000

Patients, age, sex and labels are those of NIH ChestX-ray14 (the table that torchxrayvision ships: 112,120 images, 14
findings); only the scores are simulated. More rows than it has are copies of its patients under new names. The cells
are the whole set, sex, age in 16 bands of five years, and their intersections: 51.

Measured: AUROC, AUPRC, TPR and FPR of every finding and cell with patient-clustered influence values; a patient
bootstrap of AUPRC in every one of them; the whole evaluation and the whole command. The peers bootstrap images, which
is the wrong interval, and are too slow to run in full: a few replicates are timed and scaled.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import warnings
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
GROUPS = ("sex", "age", "sex*age")
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
                bootstrap_auprc(subject.scores[0], rows, subject.y, predictions.patients.of, weights)
                done += 1
    return done


def whole_audit(predictions: Predictions, replicates: int) -> int:
    """The whole evaluation, without files and page; returns the rows of its tables."""
    cuts = pd.DataFrame({"finding": FINDINGS, "threshold": THRESHOLD})
    settings = EvaluationSettings(groups=GROUPS, age_bins=BINS, bootstrap=replicates)
    found = evaluate(predictions, settings, cuts)
    return len(found.cells) + len(found.gaps)


def command(folder: Path, replicates: int) -> float:
    """Seconds of ``cxraug evaluate`` from the start of Python to the written page."""
    arguments = ["--groups", ",".join(GROUPS), "--age-bins", ",".join(map(str, BINS)), "--bootstrap", str(replicates),
                 "--thresholds", str(folder / "thresholds.csv"), "--out", str(folder / "out")]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cxraug", "evaluate", str(folder / "predictions.csv"), *arguments],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - start


def scikit_learn_loop(predictions: Predictions, replicates: int, metrics: tuple[str, ...]) -> int:
    """The usual loop: draw images, call scikit-learn per finding and cell."""
    from sklearn.metrics import average_precision_score, recall_score, roc_auc_score

    functions = {
        "auroc": roc_auc_score,
        "auprc": average_precision_score,
        "tpr": lambda y, p: recall_score(y, p >= THRESHOLD),
        "fpr": lambda y, p: 1 - recall_score(y, p >= THRESHOLD, pos_label=0),
    }
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
                    for name in metrics:
                        functions[name](y[drawn], p[drawn])
                    done += 1
    return done


def fairlearn_frames(predictions: Predictions, replicates: int) -> int:
    """``MetricFrame(n_boot=...)`` of AUPRC by sex, by age band and by both, per finding: the same cells."""
    from fairlearn.metrics import MetricFrame
    from sklearn.metrics import average_precision_score

    levels = pd.DataFrame({name: group_levels(predictions.table, name, BINS).to_numpy() for name in ("sex", "age")})
    for i, _ in enumerate(predictions.findings):
        for features in (["sex"], ["age"], ["sex", "age"]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # cells without positives
                MetricFrame(
                    metrics={"auprc": average_precision_score}, y_true=predictions.y[i].astype(int),
                    y_pred=predictions.p[0, i], sensitive_features=levels[features], n_boot=replicates,
                    ci_quantiles=[0.025, 0.975], random_state=0,
                )  # fmt: skip
    return len(predictions.findings)


OURS = ("influence values, 4 metrics", "patient bootstrap of AUPRC", "evaluate", "cxraug evaluate")
PEERS = {
    "scikit-learn loop, the 4 metrics": "influence values, 4 metrics",
    "scikit-learn loop, AUPRC": "patient bootstrap of AUPRC",
    "fairlearn n_boot, AUPRC": "patient bootstrap of AUPRC",
}


def job(name: str, rows: int, replicates: int, few: int) -> dict[str, float]:
    """Run one piece in this process: rows, cells, seconds (of a peer: scaled to ``replicates``), peak memory in MiB."""
    frame = nih(rows)
    if name == "cxraug evaluate":
        with tempfile.TemporaryDirectory() as folder:
            frame.to_csv(Path(folder) / "predictions.csv", index=False)
            cuts = pd.DataFrame({"finding": FINDINGS, "threshold": THRESHOLD})
            cuts.to_csv(Path(folder) / "thresholds.csv", index=False)
            seconds = command(Path(folder), replicates)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return {"rows": len(frame), "seconds": seconds, "peak": peak / 1024}
    predictions = read_predictions([frame])
    tasks: dict[str, Callable[[int], int]] = {
        "influence values, 4 metrics": lambda _: influence_path(predictions),
        "patient bootstrap of AUPRC": lambda n: bootstrap_path(predictions, n),
        "evaluate": lambda n: whole_audit(predictions, n),
        "scikit-learn loop, the 4 metrics": lambda n: scikit_learn_loop(predictions, n, METRICS),
        "scikit-learn loop, AUPRC": lambda n: scikit_learn_loop(predictions, n, ("auprc",)),
        "fairlearn n_boot, AUPRC": lambda n: fairlearn_frames(predictions, n),
    }
    start = time.perf_counter()
    tasks[name](few if name in PEERS else replicates)
    seconds = (time.perf_counter() - start) * (replicates / few if name in PEERS else 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rows": len(frame), "seconds": seconds, "peak": peak / 1024}


def measured(name: str, rows: int, options: argparse.Namespace) -> dict[str, float]:
    """:func:`job` in a process of its own, so that peak memory is its own."""
    numbers = ["--replicates", str(options.replicates), "--few", str(options.few)]
    arguments = [sys.executable, __file__, "--job", name, str(rows), *numbers]
    return json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Print the tables; ``--out`` also writes them as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 112_000, 400_000])
    parser.add_argument("--peer-rows", type=int, default=112_000, help="the size at which the peers are timed")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--few", type=int, default=2, help="replicates of the peers, scaled to --replicates")
    parser.add_argument("--out", help="Markdown file")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(job(options.job[0], int(options.job[1]), options.replicates, options.few)))
        return
    said: list[str] = []

    def say(*lines: str) -> None:
        said.extend(lines)
        print("\n".join(lines), flush=True)

    say(
        "# Speed of the audit", "", "    " + " ".join(["python benchmarks/evaluation.py", *sys.argv[1:]]), "",
        "Labels, patients, age and sex of NIH ChestX-ray14, simulated scores; 14 findings, 51 cells (the whole set,",
        f"sex, 16 age bands, both); {options.replicates:,} replicates where there is a bootstrap. `evaluate` is every",
        "metric, gap, matched gap and extreme; `cxraug evaluate` the command, from starting Python to the page.", "",
        "| rows | what | seconds | peak MiB | seconds x 1e6 / (rows x log rows) |", "|---|---|---|---|---|",
    )  # fmt: skip
    times: dict[str, float] = {}
    for rows in options.rows:
        for name in OURS:
            found = measured(name, rows, options)
            n, seconds = int(found["rows"]), found["seconds"]
            if rows == options.peer_rows:
                times[name] = seconds
            say(f"| {n:,} | {name} | {seconds:.1f} | {found['peak']:,.0f} | {seconds * 1e6 / (n * math.log(n)):.1f} |")
    if options.peer_rows in options.rows:
        say(
            "", f"Against what else could be done, {options.peer_rows:,} rows, same cells (the peers draw images, not",
            f"patients; timed with {options.few} replicates and scaled to {options.replicates:,}):", "",
            "| what | seconds | against | times as fast |", "|---|---|---|---|",
        )  # fmt: skip
        for peer, ours in PEERS.items():
            seconds = measured(peer, options.peer_rows, options)["seconds"]
            say(f"| {peer} | {seconds:,.0f} | {ours} | {seconds / times[ours]:,.0f} |")
    if options.out:
        Path(options.out).write_text("\n".join(said) + "\n")


if __name__ == "__main__":
    main()
