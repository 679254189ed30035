"""What sampler steps and guidance buy: distance to real images against seconds, and the default that follows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import t as student

from cxraug.cores.core import GenerativeCore, prompts_from_plan
from cxraug.cores.measures.rows import FRONTAL, MAIN, choose_rows, plan_of
from cxraug.errors import InputError
from cxraug.fidelity.extractors import Extractor
from cxraug.fidelity.frechet import frechet_distance
from cxraug.progress import track
from cxraug.storage import atomic
from cxraug.studies.cache import build_cache
from cxraug.studies.images import encode
from cxraug.studies.manifest import Manifest
from cxraug.synthesis.sample import contact_sheet

BLOCKS = 10
COLUMNS = (
    "steps", "guidance", "guidance_from", "guidance_until", "evaluations", "seconds_per_image",
    "frechet", "over_best", "ci_high", "chosen",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One setting of the sampler: guidance acts at noise levels from ``since`` to ``until``."""

    steps: int
    guidance: float
    until: float = 1.0
    since: float = 0.0

    @property
    def name(self) -> str:
        """Of its files."""
        part = f"_from-{self.since:g}" if self.since else ""
        return f"steps-{self.steps}_guidance-{self.guidance:g}{part}_until-{self.until:g}"

    def evaluations(self, levels: Sequence[float]) -> int:
        """Evaluations of the network per image for steps at these noise levels: two where guidance acts, else one."""
        guided = 0 if self.guidance in (0.0, 1.0) else sum(self.since <= t <= self.until for t in levels)
        return len(levels) + guided


def trials(
    steps: Sequence[int], guidance: Sequence[float], until: Sequence[float], since: Sequence[float] = (0.0,)
) -> list[Trial]:
    """All combinations; without guidance its interval means nothing and is written once."""
    found = []
    for s, g, u, f in itertools.product(steps, guidance, until, since):
        if f >= u:
            raise InputError("guidance cannot begin above its end", found=f"--from {f:g} --until {u:g}")
        found.append(Trial(s, g, u, f) if g not in (0.0, 1.0) else Trial(s, g))
    return list(dict.fromkeys(found))


def bench_core(
    core: GenerativeCore, manifest: Manifest, extractor: Extractor, wanted: Sequence[Trial], *, splits: Sequence[str],
    n: int, seed: int = 0, tolerance: float = 0.05, folder: Path,
) -> pd.DataFrame:  # fmt: skip
    """Generate ``n`` frontal images under every trial with the same prompts and seeds, and score them.

    Parameters
    ----------
    manifest, splits : real rows; their attributes are the prompts, their frontal images the reference.
    tolerance : a setting qualifies whose Frechet distance is, with 95 % confidence, at most this share above the
        lowest; the qualifying one of fewest network evaluations is ``chosen``. Differences are paired over prompts: a
        jackknife over ten blocks of prompts, deleted from both samples (and from the reference) alike.
    folder : for ``bench.csv`` and one contact sheet per trial; a trial that is there is not run again.

    Raises
    ------
    InputError : too few studies, or a core without sampler settings.
    """
    if not core.sampler.get("steps"):
        raise InputError(f"core {core.card.name} has no sampler to measure")
    rows = choose_rows(manifest, splits, core.card.views, n, seed)
    frontal = np.flatnonzero(rows.projection == FRONTAL)
    if len(frontal) < 2 * BLOCKS:
        raise InputError("too few frontal images", found=len(frontal), expected=f"at least {2 * BLOCKS}")
    rows = rows.of_studies(rows.study[frontal])
    plan = plan_of(rows, MAIN, core.card, core.card.findings, seed=seed)
    views = rows.views[np.flatnonzero(rows.projection == FRONTAL)]
    plan = plan.assign(views=views, wants_report=False)
    prompts, seeds = prompts_from_plan(plan, core.card.findings), plan["seed"].tolist()
    _, cache = build_cache(rows.manifest.take(rows.projection == FRONTAL), folder / "real", extractor.encoding)
    real = extractor.features(np.array(cache.pixels))
    features: list[np.ndarray] = []
    table: list[dict[str, Any]] = []
    for trial in track(wanted, "trials"):
        kept = folder / "trials" / f"{trial.name}.npz"
        since = trial.since if trial.since or "guidance_from" in core.sampler else None
        core.configure(steps=trial.steps, guidance=trial.guidance, guidance_until=trial.until, guidance_from=since)
        if not kept.is_file():
            began = time.perf_counter()
            studies = core.generate(prompts, seeds)
            seconds = (time.perf_counter() - began) / len(prompts)
            images = [next(iter(s.images.values())) for s in studies]
            sheet = folder / "sheets" / f"{trial.name}.png"
            sheet.parent.mkdir(parents=True, exist_ok=True)
            with atomic(sheet) as temporary:
                Image.fromarray(contact_sheet(images[:64])).save(temporary, format="PNG")
            found = extractor.features(np.stack([encode(image, extractor.encoding) for image in images]))
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic(kept) as temporary, temporary.open("wb") as stream:
                np.savez(stream, features=found, seconds=seconds)
        with np.load(kept) as stored:
            features.append(stored["features"])
            seconds = float(stored["seconds"])
        table.append({
            "steps": trial.steps, "guidance": trial.guidance, "guidance_from": trial.since,
            "guidance_until": trial.until, "evaluations": trial.evaluations(core.noise_levels()),
            "seconds_per_image": seconds, "frechet": frechet_distance(real, features[-1]),
        })  # fmt: skip
    frame = pd.DataFrame(table)
    best = int(frame["frechet"].argmin())
    over, high = zip(*(_over(real, found, features[best]) for found in features), strict=True)
    frame["over_best"], frame["ci_high"] = over, high
    fits = frame[frame["ci_high"] <= tolerance]
    fits = fits if len(fits) else frame.iloc[[best]]
    frame["chosen"] = frame.index == fits.sort_values(["evaluations", "frechet"]).index[0]
    with atomic(folder / "bench.csv") as temporary:
        frame[list(COLUMNS)].to_csv(temporary, index=False)
    return frame[list(COLUMNS)]


def _over(real: np.ndarray, found: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    """How much larger a Frechet distance is than the best, as a share, and its one-sided 95 % bound."""
    if found is best:
        return 0.0, 0.0

    def ratio(keep: np.ndarray) -> float:
        return frechet_distance(real[keep], found[keep]) / frechet_distance(real[keep], best[keep]) - 1

    n = len(real)
    whole = ratio(np.arange(n))
    deleted = [ratio(np.setdiff1d(np.arange(n), part)) for part in np.array_split(np.arange(n), BLOCKS)]
    error = np.sqrt((BLOCKS - 1) * np.var(deleted))
    return whole, whole + float(student.ppf(0.95, BLOCKS - 1)) * error
