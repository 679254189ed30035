"""Do a run's synthetic images carry the labels they were asked for? Measured by a classifier that no arm may use.

    python benchmarks/adherence.py RUN [--steps N]

Trains the recipe's classifier on *all* real training rows (limits lifted: this is a look behind a finished run, never a
part of one) and prints, beside its AUROC on the real test rows, its AUROC on the accepted synthetic images: asked for
the finding against asked without it. 0.5 means that the label is not in the images. A second classifier tells
synthetic from real; where it can, "synthetic" itself is a shortcut to whatever label the plan raised.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from cxraug.classifiers.arms import Images, arm_data
from cxraug.classifiers.prediction import predict_arm
from cxraug.classifiers.training import train_arm
from cxraug.run import Run
from cxraug.synthesis.generate import load_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, help="training steps; by default the recipe's")
    options = parser.parse_args()
    run = Run.open(options.run)
    settings = run.recipe.train.model_copy(update={"steps": options.steps or run.recipe.train.steps})
    finding = run.recipe.evaluate.primary.finding
    column = run.findings.index(finding)
    with tempfile.TemporaryDirectory() as folder:
        judge = fit(
            run, Path(folder) / "judge", settings, run.y, run.findings, {s: run.rows(s) for s in ("train", "val")}
        )
        test = run.rows("test") & ~np.isnan(run.y[:, column])
        real = roc_auc_score(run.y[test, column], predict_arm(judge, run.cache.pixels[test])[:, column])
        print(f"{finding}: AUROC on the real test rows {real:.3f} ({int(test.sum())} images)")
        values: dict[str, list[float]] = {}
        for draw in range(run.recipe.draws):
            for name in ("core", "gaussian"):
                path = run.draw_folder(draw) / "sets" / name
                if not path.is_dir():
                    continue
                frame, pixels = load_set(path, run.recipe.data.encoding)
                keep = (frame["gate"] == "accept").to_numpy()
                y = np.array([finding in str(text).split("|") for text in frame["labels"]])[keep]
                p = predict_arm(judge, pixels[keep])[:, column]
                told = told_apart(run, Path(folder) / f"apart-{draw}-{name}", settings, draw, pixels[keep])
                value = roc_auc_score(y, p)
                values.setdefault(name, []).append(value)
                asked = f"{y.sum()} of {len(y)} asked with it"
                print(f"draw {draw}, {name}: {value:.3f} ({asked}); synthetic told from real {told:.3f}", flush=True)
    for name, found in values.items():
        print(f"{name}: mean over {len(found)} draws {np.mean(found):.3f}")


def fit(run, folder, settings, y, names, rows):
    """A classifier of ``names`` on the rows of the run; labels ``y`` (n, F)."""
    parts = {
        split: Images(np.asarray(run.cache.pixels[mask]), y[mask].astype(np.float32)) for split, mask in rows.items()
    }
    data = arm_data("real", parts["train"], [""] * int(rows["train"].sum()), added=None, planned_cells=None, seed=0)
    seen = run.seen(rows["train"])
    return train_arm(data, parts["val"], folder, settings, findings=tuple(names), seed=0, seen=seen)


def told_apart(run, folder, settings, draw, synthetic):
    """AUROC of telling held-out synthetic images from real test images, after training on as many of each."""
    order = np.random.default_rng(draw).permutation(len(synthetic))
    train, held = synthetic[order[::2]], synthetic[order[1::2]]
    real = np.flatnonzero(run.rows("train") & run.keep(draw).keep)[: len(train)]
    pixels = np.concatenate([np.asarray(run.cache.pixels[real]), train])
    y = np.r_[np.zeros(len(real)), np.ones(len(train))].astype(np.float32)[:, None]
    images = Images(pixels, y)
    data = arm_data("real", images, [""] * len(y), added=None, planned_cells=None, seed=0)
    train_arm(
        data, images, folder, settings, findings=("synthetic",), seed=0, seen=run.seen(np.zeros(len(run.y), bool))
    )
    test = np.asarray(run.cache.pixels[run.rows("test")])
    p = predict_arm(folder, np.concatenate([test, held]))[:, 0]
    return roc_auc_score(np.r_[np.zeros(len(test)), np.ones(len(held))], p)


if __name__ == "__main__":
    main()
