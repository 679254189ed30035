"""A core beside real X-rays: distance over the floor and the Gaussian core's, adherence, copies among many, a sheet.

    python benchmarks/real_core.py cxr-nano --manifest MANIFEST --work runs/real-core --out docs/results/core

MANIFEST holds the sources that the core was trained on, with its train split. Reference images are its val and test
rows. Everything that is made lies in ``--work`` and is reused; tables and generated pictures go to ``--out``; the
nearest pairs, which show real images, stay in ``--work``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import t as student

from cxraug.classifiers.arms import ArmData, Images
from cxraug.classifiers.card import read_classifier_card
from cxraug.classifiers.prediction import predict_arm
from cxraug.classifiers.settings import TrainSettings
from cxraug.classifiers.training import train_arm
from cxraug.cores.conditions import Conditions
from cxraug.cores.core import GenerativeCore, prompts_from_plan
from cxraug.cores.gaussian import fit_gaussian
from cxraug.cores.measures.memorisation import Training, memorisation
from cxraug.cores.measures.paired import paired_auroc
from cxraug.cores.measures.rows import MAIN, choose_rows, plan_of
from cxraug.cores.registry import open_core
from cxraug.evaluation.uncertainty import interval
from cxraug.fidelity.extractors import Extractor, open_extractor
from cxraug.fidelity.frechet import frechet_distance
from cxraug.progress import track
from cxraug.seeds import derive_seed
from cxraug.storage import atomic, digest, write_json
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding, encode
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.seen import Seen

POOLS = {"kermany_pediatric": ["kermany_pediatric"], "nih_cxr14": ["nih_cxr14", "nih_cxr14_64px"]}
BLOCKS = 10
CHUNK = 512


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("core")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=500, help="images of each sample of a distance")
    parser.add_argument("--samples", type=int, default=10_000, help="images searched for copies; 0 skips the search")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of the extractor")
    asked = parser.parse_args()
    core = open_core(asked.core)
    sources = [s for s in core.card.sources if s]
    manifest = read_manifest(asked.manifest, where={"source": sources})
    asked.out.mkdir(parents=True, exist_ok=True)
    train = manifest.take((manifest.frame["split"] == "train").to_numpy())
    _, pixels = build_cache(manifest, asked.work / "pixels", Encoding(size=core.card.resolution))
    own = train_extractor(manifest, np.asarray(pixels.pixels), asked.work / "extractor", asked.steps)
    extractors = [open_extractor(str(own)), open_extractor("conv-random")]
    is_train = (manifest.frame["split"] == "train").to_numpy()
    conditions = Conditions.from_manifest(train, core.card.findings)
    gaussian = fit_gaussian(
        np.asarray(pixels.pixels)[is_train], conditions, asked.work / "gaussian",
        seen=Seen.of(["-"], ["-"]), training_data={}, components=384,
    )  # fmt: skip
    rows, seen = distances(core, gaussian, manifest, np.asarray(pixels.pixels), extractors, own, asked)
    for name, table in (("distance.csv", pd.DataFrame(rows)), ("adherence.csv", pd.DataFrame(seen))):
        with atomic(asked.out / name) as temporary:
            table.to_csv(temporary, index=False, float_format="%.4f")
        print(table.to_string(index=False, float_format=lambda x: f"{x:.4g}"))
    sheet(core, train, asked.out / "sheet.png")
    if asked.samples:
        copies(core, manifest, np.asarray(pixels.pixels), asked)


def train_extractor(manifest: Manifest, pixels: np.ndarray, folder: Path, steps: int) -> Path:
    """A classifier of all findings, trained on the train split; its weights are hashed in its card."""
    findings = list(manifest.findings)
    y = manifest.y(findings).astype(np.float32)
    split = manifest.frame["split"].to_numpy(str)
    parts = {s: Images(np.ascontiguousarray(pixels[split == s]), y[split == s]) for s in ("train", "val")}
    settings = TrainSettings(model="resnet10t", steps=steps, batch_size=32, eval_every=steps, checkpoint_every=100)
    patients = manifest.frame["patient_id"][split == "train"]
    return train_arm(ArmData(parts["train"]), parts["val"], folder, settings, findings=findings, seed=0,
                     seen=Seen.of(patients, []), progress=True)  # fmt: skip


def distances(
    core: GenerativeCore, gaussian: GenerativeCore, manifest: Manifest, pixels: np.ndarray,
    extractors: list[Extractor], classifier: Path, asked: argparse.Namespace,
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:  # fmt: skip
    """Per pool of sources and extractor: distances of floor, core and Gaussian core to the same n held-out images.

    And the rows of :func:`adherence`, of the same images.
    """
    found: list[dict[str, object]] = []
    seen: list[dict[str, object]] = []
    frame = manifest.frame
    for pool, sources in POOLS.items():
        inside = frame["source"].isin(sources).to_numpy()
        held = inside & frame["split"].isin(["val", "test"]).to_numpy()
        rng = np.random.default_rng(derive_seed(0, pool))
        reference = rng.permutation(np.flatnonzero(held))[: asked.n]
        others = inside & ~np.isin(frame["patient_id"], frame["patient_id"].iloc[reference])
        floor = rng.permutation(np.flatnonzero(others))[: asked.n]
        n = min(len(reference), len(floor))
        reference, floor = reference[:n], floor[:n]
        images = {"floor": pixels[floor]}
        for name, model in (("core", core), ("gaussian", gaussian)):
            plan, images[name] = generated(model, manifest.take(reference), asked.work / f"{pool}-{name}.npz", seed=1)
            if model is core:
                seen += adherence(
                    classifier, extractors[0], core, manifest.take(held), pixels[held], plan, images[name]
                )
        for extractor in extractors:
            real = features(extractor, pixels[reference])
            drawn = {name: features(extractor, x) for name, x in images.items()}
            found.append({"pool": pool, "extractor": extractor.name, "sha256": extractor.sha256[:16], "n": n,
                          **shares(real, drawn)})  # fmt: skip
    return found, seen


def adherence(
    classifier: Path, extractor: Extractor, core: GenerativeCore, real: Manifest, pixels: np.ndarray,
    plan: pd.DataFrame, images: np.ndarray,
) -> list[dict[str, object]]:  # fmt: skip
    """AUROC of a classifier of real images, per source and finding: on held-out real rows, and for the labels asked.

    Findings with fewer than ten positives or negatives on either side are left out. Intervals are clustered by
    patient (DeLong on the logit scale), marginal, 95 %.
    """
    findings = list(read_classifier_card(classifier).findings)
    prompts = prompts_from_plan(plan, core.card.findings)
    told = np.array([[p.labels.get(f, -1) for f in findings] for p in prompts], float)
    told[told < 0] = np.nan
    said = predict_arm(classifier, np.stack([encode(image, extractor.encoding) for image in images]))
    truth = real.y(findings).astype(float)
    read = predict_arm(classifier, np.stack([encode(image, extractor.encoding) for image in pixels]))
    rows: list[dict[str, object]] = []
    for source in sorted(set(real.frame["source"])):
        here, there = (real.frame["source"] == source).to_numpy(), (plan["source"] == source).to_numpy()
        for at, finding in enumerate(findings):
            row: dict[str, object] = {"source": source, "finding": finding}
            for name, y, p, who in (
                ("real", truth[here, at], read[here, at], real.frame["patient_id"].to_numpy(str)[here]),
                ("generated", told[there, at], said[there, at], plan["prompt_id"].to_numpy(str)[there]),
            ):
                if min((y == 1).sum(), (y == 0).sum()) < 10:
                    break
                measured = paired_auroc(p[None], y, who)
                assert measured is not None
                low, high = interval(measured.value, measured.variance, measured.df, "logit", 0.05)
                row |= {f"{name}_positives": int((y == 1).sum()), name: float(measured.value[0]),
                        f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}  # fmt: skip
            if "generated" in row:
                rows.append(row)
    return rows


def shares(real: np.ndarray, drawn: dict[str, np.ndarray]) -> dict[str, float]:
    """Distances, and (core - floor) / (gaussian - floor) with a 95 % jackknife interval over blocks of images."""

    def value(keep: np.ndarray) -> dict[str, float]:
        d = {name: frechet_distance(real[keep], x[keep]) for name, x in drawn.items()}
        return {**d, "share": (d["core"] - d["floor"]) / (d["gaussian"] - d["floor"])}

    n = len(real)
    whole = value(np.arange(n))
    deleted = [value(np.setdiff1d(np.arange(n), part))["share"] for part in np.array_split(np.arange(n), BLOCKS)]
    error = float(np.sqrt((BLOCKS - 1) * np.var(deleted)))
    reach = float(student.ppf(0.975, BLOCKS - 1))
    return {**whole, "share_low": whole["share"] - reach * error, "share_high": whole["share"] + reach * error}


def features(extractor: Extractor, pixels: np.ndarray) -> np.ndarray:
    """Features of pixels (n, S, S) at the extractor's own size."""
    return extractor.features(np.stack([encode(image, extractor.encoding) for image in pixels]))


def generated(core: GenerativeCore, rows: Manifest, file: Path, *, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """One image per row with the row's attributes, kept in ``file`` chunk by chunk; and the plan."""
    chosen = choose_rows(rows, ["train", "val", "test"], core.card.views, None, seed)
    plan = plan_of(chosen, MAIN, core.card, core.card.findings, seed=seed).assign(wants_report=False)
    if len(plan) < len(rows):  # several images of one study: every image asks for one of its own
        plan = plan.sample(len(rows), replace=True, random_state=seed).reset_index(drop=True)
        plan["seed"] = [derive_seed(seed, "again", i) for i in range(len(plan))]
    plan["prompt_id"] = [f"r{i:06d}" for i in range(len(plan))]
    return plan, drawn_plan(core, plan, file)


def drawn_plan(core: GenerativeCore, plan: pd.DataFrame, file: Path) -> np.ndarray:
    """Images (n, S, S) of a plan; finished chunks are kept beside ``file`` under the core's hash and sampler."""
    prompts = prompts_from_plan(plan, core.card.findings)
    seeds = plan["seed"].tolist()
    parts = []
    key = f"{core.card.sha256[:12]}-{digest(core.sampler)[:12]}"
    for start in track(range(0, len(prompts), CHUNK), file.stem):
        part = file.with_name(f"{file.stem}-{key}") / f"{start:06d}.npz"
        if not part.is_file():
            studies = core.generate(prompts[start : start + CHUNK], seeds[start : start + CHUNK])
            part.parent.mkdir(parents=True, exist_ok=True)
            with atomic(part) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, x=np.stack([next(iter(s.images.values())) for s in studies]))
        with np.load(part) as stored:
            parts.append(stored["x"])
    return np.concatenate(parts)


def sheet(core: GenerativeCore, train: Manifest, file: Path) -> None:
    """64 samples with the attributes of random training rows."""
    rng = np.random.default_rng(4)
    plan = plan_of(choose_rows(train, ["train"], core.card.views, None, 0), MAIN, core.card, core.card.findings, seed=4)
    plan = plan.iloc[rng.permutation(len(plan))[:64]].assign(wants_report=False)
    studies = core.generate(prompts_from_plan(plan, core.card.findings), plan["seed"].tolist())
    images = [next(iter(s.images.values())) for s in studies]
    grid = np.concatenate([np.concatenate(images[i : i + 8], 1) for i in range(0, 64, 8)], 0)
    Image.fromarray(grid).save(file)


def copies(core: GenerativeCore, manifest: Manifest, pixels: np.ndarray, asked: argparse.Namespace) -> None:
    """Nearest training images of many samples and of every held-out image; pairs are drawn into ``--work``."""
    split = manifest.frame["split"].to_numpy(str)
    is_train = split == "train"
    train = manifest.take(is_train)
    rng = np.random.default_rng(7)
    plan = plan_of(choose_rows(train, ["train"], core.card.views, None, 0), MAIN, core.card, core.card.findings, seed=7)
    plan = plan.iloc[rng.integers(0, len(plan), asked.samples)].reset_index(drop=True)
    plan = plan.assign(
        seed=[derive_seed(7, i) for i in range(len(plan))], prompt_id=[f"c{i:06d}" for i in range(len(plan))],
        wants_report=False,
    )  # fmt: skip
    images = drawn_plan(core, plan, asked.work / "copies")
    known = Training(pixels[is_train], train.frame["image"].tolist(), train.frame["patient_id"].tolist())
    held = manifest.take(~is_train)
    rows, pairs = memorisation(
        images, pixels[~is_train], known, images=plan["prompt_id"].tolist(),
        real_patients=held.frame["patient_id"].tolist(), of="all",
    )  # fmt: skip
    answer = {"rows": [{name: value for name, value in row.items() if value == value} for row in rows]}  # no NaN
    pairs.to_csv(asked.work / "pairs.csv", index=False)
    names = {name: i for i, name in enumerate(known.images)}
    strips = []
    for pair in pairs.head(20).to_dict("records"):
        i, j = int(str(pair["image"])[1:]), names[str(pair["nearest_image"])]
        strips.append(np.concatenate([images[i], known.pixels[j]], 1))
    grid = [np.concatenate(strips[i : i + 5], 1) for i in range(0, len(strips) - 4, 5)]
    Image.fromarray(np.concatenate(grid, 0)).save(asked.work / "pairs.png")
    write_json(asked.out / "copies.json", answer)
    print(json.dumps(answer, indent=1, default=str))


if __name__ == "__main__":
    main()
