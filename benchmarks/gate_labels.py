"""Planted wrong labels: how many does the gate find, and how many right ones does it reject?

python benchmarks/gate_labels.py --out runs/gate-labels

Two phantom cohorts that share no patient (as `cxraug phantom` makes them): one is the real data, whose training rows
the gate is fitted on; the other stands for a generated set, with one image per patient and without reports (a report of
the true findings would give a wrong label away). In a fifth of the set's images one finding, drawn evenly, is turned
from present to absent or back; "No Finding" follows from what is then claimed. Writes GATE.md beside this file (--to).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from cxraug.evaluation.uncertainty import wilson
from cxraug.gate.agreement import Agreement
from cxraug.gate.check import Images
from cxraug.gate.gate import Gate, claimed_images, open_checks, real_images
from cxraug.gate.settings import GateSettings
from cxraug.pages.markdown import table
from cxraug.storage import atomic
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.manifest import read_manifest
from cxraug.studies.phantom.cohort import PhantomSettings, make_cohort

CLEAR = 0.97  # AUROC of the gate's classifier on held-out real images
NORMAL = 1.959964
PURPOSE = """# Planted wrong labels

{command}

prints what stands here. {n} phantom images of the real cohort's training split fit the gate ({model}, {size} px,
{steps} steps per fold, {folds} folds). In {flipped} of {total} images of another cohort one finding's label was turned.
An image is found if it is rejected. Intervals are 95 %. The stated result is over findings whose classifier reaches an
AUROC of {clear} on held-out real images; the others are printed below them.
"""


def plant(y: np.ndarray, findings: list[str], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n, F) with one finding turned in ``share`` of the rows, and which (n,): -1 for none.

    The finding is drawn evenly from all but "No Finding", which then follows from the others.
    """
    rng = np.random.default_rng(seed)
    at = [f for f, name in enumerate(findings) if name != NO_FINDING]
    which = np.full(len(y), -1)
    rows = rng.permutation(len(y))[: round(share * len(y))]
    which[rows] = rng.choice(at, len(rows))
    claimed = y.copy()
    claimed[rows, which[rows]] = 1 - claimed[rows, which[rows]]
    if NO_FINDING in findings:
        claimed[:, findings.index(NO_FINDING)] = (claimed[:, at] == 0).all(axis=1)
    return claimed, which


def judge(gate: Gate, batch: Images, which: np.ndarray, findings: list[str]) -> dict[str, Any]:
    """Rejections of one gate: of flipped images per finding (with the right reason), of right ones, of real ones."""
    reasons = gate.judge(batch)
    rejected = np.array([bool(why) for why in reasons])
    named = np.array([any(findings[f] in reason for reason in why) for why, f in zip(reasons, which, strict=True)])
    flipped = {
        f: (int((rejected & (which == f)).sum()), int((named & (which == f)).sum()), int((which == f).sum()))
        for f in range(len(findings))
    }
    return {"flipped": flipped, "right": (int(rejected[which < 0].sum()), int((which < 0).sum())), "real": gate.real}


def report(asked: argparse.Namespace, command: str) -> str:
    """Make (or resume) the cohorts and the gate's networks, judge, and put it into Markdown."""
    settings = GateSettings(model=asked.model, steps=asked.steps, learning_rate=asked.lr)
    encoding = Encoding(size=asked.size)
    ours = make_cohort(PhantomSettings(n=asked.n, seed=11 + asked.seed), asked.out / "real")
    others = PhantomSettings(n=asked.n_set, seed=911 + asked.seed, studies_per_patient=1.0)
    manifest, cache = build_cache(read_manifest(ours), asked.out / "cache-real", encoding)
    train = (manifest.frame["split"] == "train").to_numpy()
    findings = list(manifest.findings)
    real = real_images(manifest.take(train), cache.take(train), findings, settings)
    rows, pixels = build_cache(read_manifest(make_cohort(others, asked.out / "set")), asked.out / "cache-set", encoding)
    claimed, which = plant(rows.y(findings), findings, asked.share, asked.seed)
    bare = settings.model_copy(update={"reports": False})  # a report of the true findings would give the flip away
    batch = claimed_images(rows.frame, np.asarray(pixels.pixels), claimed, None, bare)
    checks = open_checks(settings, tuple(findings), asked.seed, asked.out / "gate")
    reader = next(check.reader for check in checks if isinstance(check, Agreement))
    budget = settings.false_reject
    alone = Gate([Agreement(tuple(findings), settings, budget, reader)], budget).fit(real)
    together = Gate(checks, budget).fit(real)
    told = together.describe()["checks"]["agreement"]["findings"]
    results = {
        "the label check alone": judge(alone, batch, which, findings),
        "all checks": judge(together, batch, which, findings),
    }
    facts = {
        "command": f"    {command}", "n": len(real), "model": asked.model, "size": asked.size, "steps": asked.steps,
        "folds": settings.folds, "flipped": int((which >= 0).sum()), "total": len(which), "clear": CLEAR,
    }  # fmt: skip
    clear = [f for f, name in enumerate(findings) if (told[name]["auroc"] or 0) >= CLEAR]
    parts = [PURPOSE.format(**facts), _summary(results, clear, budget)]
    parts += [f"## By finding\n\n{_by_finding(results, told, findings, set(clear))}\n"]
    return "\n".join(parts)


def _summary(results: dict[str, dict[str, Any]], clear: list[int], budget: float) -> str:
    lines = []
    for name, part in results.items():
        found, _, n = np.sum([part["flipped"][f] for f in clear], axis=0) if clear else (0, 0, 0)
        lines.append(
            [name, f"{budget:.0%}", _share(found, n), _share(*part["right"]),
             _share(part["real"]["rejected"], part["real"]["n"])]
        )  # fmt: skip
    head = ["gate", "budget", f"wrong labels found (AUROC >= {CLEAR})", "right ones rejected", "real images rejected"]
    return table(head, lines) + "\n"


def _by_finding(results: dict[str, dict[str, Any]], told: dict[str, Any], findings: list[str], clear: set[int]) -> str:
    order = sorted(
        (f for f, name in enumerate(findings) if name != NO_FINDING), key=lambda f: -told[findings[f]]["auroc"]
    )
    lines = []
    for f in order:
        judged = told[findings[f]]
        area = f"{judged['auroc']:.3f} [{judged['auroc_low']:.3f}, {judged['auroc_high']:.3f}]"
        found = [_share(part["flipped"][f][0], part["flipped"][f][2]) for part in results.values()]
        named = [_share(part["flipped"][f][1], part["flipped"][f][2]) for part in results.values()]
        lines.append([findings[f], area, "yes" if f in clear else "no", *found, named[0]])
    head = ["finding", "AUROC on held-out real images", f">= {CLEAR}", *(f"found, {name}" for name in results),
            "found by its own name, the label check alone"]  # fmt: skip
    return table(head, lines)


def _share(k: int, n: int) -> str:
    """``k of n: share [95 % interval]`` (Wilson; images of distinct patients)."""
    if not n:
        return "none"
    low, high = wilson(np.array(k / n), np.array(n), NORMAL)
    return f"{k} of {n}: {k / n:.1%} [{float(low):.1%}, {float(high):.1%}]"


def main() -> None:
    """Parse, do it, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=Path(__file__).with_name("GATE.md"))
    parser.add_argument("--n", type=int, default=4000, help="studies of the real cohort; 60 %% are its training split")
    parser.add_argument("--set", type=int, default=2500, dest="n_set", help="images of the set")
    parser.add_argument("--share", type=float, default=0.2, help="of the set's images with a wrong label")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--model", default="test_resnet", help="any timm model")
    parser.add_argument("--steps", type=int, default=1200, help="training steps of each fold's network")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    shown = {"n": asked.n, "set": asked.n_set, "share": asked.share, "size": asked.size, "model": asked.model,
             "steps": asked.steps, "lr": asked.lr, "seed": asked.seed}  # fmt: skip
    text = report(
        asked, " ".join(["python benchmarks/gate_labels.py --out OUT", *(f"--{k} {v}" for k, v in shown.items())])
    )
    print(text)
    with atomic(asked.to) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
