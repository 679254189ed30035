"""Samples per second of a core against the stock diffusers loop (DDIM, 50 steps), same weights and initial noise.

    python benchmarks/core_sampling.py cxr-nano --manifest MANIFEST --n 5000 --work runs/core-sampling

The stock loop is the one of diffusers' pipelines: DDIMScheduler with its default betas, classifier-free guidance of the
core's own scale at every step, both halves in one batch. The network predicts the clean x for x_t = (1 - t) x + t e;
DDIM's x is the same picture scaled by 1 / sqrt((1 - t)^2 + t^2), with t / (1 - t) = sqrt((1 - a) / a). Distances are
Frechet to the same n real images; their ratio has a one-sided 95 % bound (jackknife over blocks of prompts, which both
samples share). Images and times of finished chunks lie in ``--work`` and are reused.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from scipy.stats import t as student

from cxraug.cores.core import Prompt, prompts_from_plan
from cxraug.cores.measures.rows import MAIN, choose_rows, plan_of
from cxraug.cores.multiprompt import core as multiprompt
from cxraug.cores.multiprompt.core import MultipromptCore
from cxraug.cores.registry import open_core
from cxraug.fidelity.extractors import open_extractor
from cxraug.fidelity.frechet import frechet_distance
from cxraug.progress import track
from cxraug.seeds import derive_seed
from cxraug.storage import atomic
from cxraug.studies.cache import build_cache
from cxraug.studies.images import encode
from cxraug.studies.manifest import read_manifest

BLOCKS, CHUNK = 10, 64


def ddim(model: Any, settings: Any, shapes: dict[int, tuple[int, ...]], streams: Any, device: str = "cpu") -> Any:
    """The stock loop, with the interface of :func:`cxraug.cores.multiprompt.sampling.sample`."""
    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(50, device=device)
    ((slot, shape),) = shapes.items()
    size = int(np.prod(shape))
    x = torch.stack([torch.randn(size, generator=g) for g in streams[slot]]).to(device).view(-1, *shape)
    for step in scheduler.timesteps:
        kept = float(scheduler.alphas_cumprod[step])
        ratio = ((1 - kept) / kept) ** 0.5
        t = ratio / (1 + ratio)
        clean = model({slot: x * (1 - t) / kept**0.5}, t)[slot]
        x = scheduler.step(clean, step, x).prev_sample
    return {slot: x}


def main() -> None:
    """Parse, draw with both loops in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("core")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--view", default="PA")
    parser.add_argument("--source", help="only rows of these sources, separated by commas")
    parser.add_argument("--extractor", default="conv-random")
    asked = parser.parse_args()
    core = open_core(asked.core)
    assert isinstance(core, MultipromptCore)
    where = {"view": [asked.view]} | ({"source": asked.source.split(",")} if asked.source else {})
    manifest = read_manifest(asked.manifest, where=where)
    rows = choose_rows(manifest, ["train", "val", "test"], core.card.views, None, 0)
    plan = plan_of(rows, MAIN, core.card, core.card.findings, seed=5).assign(wants_report=False)
    rng = np.random.default_rng(5)
    at = rng.integers(0, len(plan), asked.n) if asked.n > len(plan) else rng.permutation(len(plan))[: asked.n]
    plan = plan.iloc[at].assign(
        prompt_id=[f"b{i:06d}" for i in range(asked.n)], seed=[derive_seed(5, i) for i in range(asked.n)]
    )  # fmt: skip
    prompts, seeds = prompts_from_plan(plan, core.card.findings), plan["seed"].tolist()
    extractor = open_extractor(asked.extractor)
    chosen = np.flatnonzero(np.isin(rows.study, np.unique(at)))
    _, cache = build_cache(rows.manifest.take(chosen), asked.work / "real", extractor.encoding)
    own = multiprompt.sample
    drawn: dict[str, list[np.ndarray]] = {"ours": [], "ddim": []}
    seconds = {"ours": 0.0, "ddim": 0.0}
    for start in track(range(0, asked.n, CHUNK), "chunks of both loops"):
        for name, loop in (("ours", own), ("ddim", ddim)):
            images, took = chunk(core, prompts[start : start + CHUNK], seeds[start : start + CHUNK], loop,
                                 asked.work / name / f"{start:06d}.npz")  # fmt: skip
            drawn[name].append(images)
            seconds[name] += took
    real = extractor.features(np.array(cache.pixels))
    found = {name: extractor.features(np.stack([encode(i, extractor.encoding) for part in parts for i in part]))
             for name, parts in drawn.items()}  # fmt: skip
    distance = {name: frechet_distance(real, x) for name, x in found.items()}
    deleted = []
    for part in np.array_split(np.arange(asked.n), BLOCKS):
        keep = np.setdiff1d(np.arange(asked.n), part)
        deleted.append(frechet_distance(real, found["ours"][keep]) / frechet_distance(real, found["ddim"][keep]))
    ratio = distance["ours"] / distance["ddim"]
    bound = ratio + float(student.ppf(0.95, BLOCKS - 1)) * float(np.sqrt((BLOCKS - 1) * np.var(deleted)))
    print(f"{asked.core} ({core.card.sha256[:12]}), n = {asked.n} against {len(real)} real images, "
          f"extractor {extractor.name} ({extractor.sha256[:12]})")  # fmt: skip
    for name in ("ddim", "ours"):
        print(f"{name:5} {asked.n / seconds[name]:8.2f} images/s   Frechet {distance[name]:.4f}")
    speed = seconds["ddim"] / seconds["ours"]
    print(f"speed {speed:.2f}x   Frechet ratio {ratio:.4f} (at most {bound:.4f}, one-sided 95 %)")


def chunk(
    core: MultipromptCore, prompts: list[Prompt], seeds: list[int], loop: Any, file: Path
) -> tuple[np.ndarray, float]:
    """Images and seconds of one chunk under a sampling loop; kept in ``file``."""
    if not file.is_file():
        multiprompt.sample = loop
        settings = core.settings
        if loop is ddim:  # the stock loop guides at every step
            core.configure(guidance_from=0.0, guidance_until=1.0)
        began = time.perf_counter()
        studies = core.generate(prompts, seeds)
        took = time.perf_counter() - began
        core._use(settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, x=np.stack([next(iter(s.images.values())) for s in studies]), seconds=took)
    with np.load(file) as stored:
        return stored["x"], float(stored["seconds"])


if __name__ == "__main__":
    main()
