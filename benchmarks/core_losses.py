"""Which weighting of noise levels to train with: the same core trained under each loss, drawn from alike, and scored.

    python benchmarks/core_losses.py --out runs/core-losses

Frontal phantoms of 128 px, `nano`, equal steps, seeds, prompts and sampler. Frechet distance to phantoms of another
cohort; the ratio to the first loss has a 95 % interval (jackknife over ten blocks of prompts, which all samples share).
Finished trainings and samples lie in ``--out`` and are reused.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from cxraug.cores.bench import BLOCKS, Trial, bench_core
from cxraug.cores.recipe import CoreRecipe, train_core
from cxraug.cores.registry import open_core
from cxraug.fidelity.extractors import open_extractor
from cxraug.fidelity.frechet import frechet_distance
from cxraug.studies.cache import build_cache
from cxraug.studies.manifest import read_manifest
from cxraug.studies.phantom.cohort import PhantomSettings, make_cohort

LOSSES: dict[str, dict[str, Any]] = {
    "residual, all levels alike": {"loss": "residual", "velocity_weight": 0.0},
    "residual, half way to flow": {"loss": "residual", "velocity_weight": 0.5},
    "rectified flow": {"loss": "flow"},
    "min-SNR 5": {"loss": "min_snr", "snr_limit": 5.0},
}


def main() -> None:
    """Parse, train, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--train", type=int, default=4000, help="phantoms to train on")
    parser.add_argument("--n", type=int, default=500, help="samples")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    held = read_manifest(make_cohort(PhantomSettings(n=2 * asked.n, seed=778, size=128), asked.out / "held"))
    extractor = open_extractor("conv-random")
    features: dict[str, np.ndarray] = {}
    for name, loss in LOSSES.items():
        folder = asked.out / name.replace(" ", "-").replace(",", "")
        recipe = CoreRecipe.model_validate({
            "name": "losses", "seed": 1, "data": {"phantom": {"n": asked.train, "seed": 777, "size": 128},
                                                   "splits": ["train", "val", "test"]},
            "encoding": {"size": 128},
            "core": {"kind": "multiprompt", "size": "nano", "steps": asked.steps, "report": None, "reference_share": 0,
                     "recognition_steps": 0, "threads": asked.threads, **loss},
        })  # fmt: skip
        core = open_core(train_core(recipe, folder / "core"))
        trial = Trial(12, 1.5)
        bench_core(core, held, extractor, [trial], splits=["train", "val", "test"], n=asked.n, folder=folder / "bench")
        with np.load(folder / "bench" / "trials" / f"{trial.name}.npz") as stored:
            features[name] = stored["features"]
    _, cache = build_cache(held, asked.out / "real", extractor.encoding)
    real = extractor.features(np.array(cache.pixels))
    blocks = np.array_split(np.arange(asked.n), BLOCKS)
    first = next(iter(features.values()))
    print(f"extractor {extractor.name} ({extractor.sha256[:12]}), n = {asked.n} against {len(real)} phantoms")
    for name, found in features.items():
        ratio = frechet_distance(real, found) / frechet_distance(real, first)
        deleted = []
        for block in blocks:
            keep = np.setdiff1d(np.arange(asked.n), block)
            deleted.append(frechet_distance(real, found[keep]) / frechet_distance(real, first[keep]))
        reach = float(student.ppf(0.975, BLOCKS - 1)) * float(np.sqrt((BLOCKS - 1) * np.var(deleted)))
        print(f"{name:28} Frechet {frechet_distance(real, found):8.3f}   ratio {ratio:.3f} +- {reach:.3f}")


if __name__ == "__main__":
    main()
