"""A pipeline fine-tuned on a data set as a core of its own: adapters, card, and whether it copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxraug import __version__
from cxraug.cores.captions import captions_of
from cxraug.cores.conditions import Conditions
from cxraug.cores.core import Card
from cxraug.cores.measures.memorisation import Training, memorisation
from cxraug.cores.peft import need_peft
from cxraug.cores.pipelines.core import PipelineCore, open_diffusers, read_diffusers_card
from cxraug.cores.pipelines.training import CHECKPOINT, prompts_of, train_lora
from cxraug.cores.registry import CARD, WEIGHTS
from cxraug.cores.spec import CoreSpec, parse_spec
from cxraug.errors import InputError
from cxraug.fidelity.extractors import open_extractor
from cxraug.seeds import derive_seed
from cxraug.storage import atomic, digest, file_sha256, write_json
from cxraug.studies.cache import PixelCache, build_cache
from cxraug.studies.images import encode
from cxraug.studies.manifest import Manifest
from cxraug.studies.seen import Seen

if TYPE_CHECKING:
    from cxraug.cores.recipe import CoreRecipe, LoraKind

EXTRACTOR = "conv-random"


def tune_pipeline(
    recipe: CoreRecipe, kind: LoraKind, out: Path, manifest: Manifest, cache: PixelCache, every: Manifest,
    *, described: dict[str, Any],
) -> None:  # fmt: skip
    """Train the adapters of ``recipe`` on ``manifest``, compare what they draw with it, and write the core.

    ``copies.csv`` holds the nearest training images of ``check_samples`` drawn images beside those of held-out rows of
    ``every`` (other splits, other patients), ``nearest_pairs.csv`` names the closest; without held-out rows there is
    nothing to judge by, and the card says so.
    """
    need_peft()
    spec = parse_spec(kind.base)
    assert spec is not None
    card = read_diffusers_card(spec)
    if recipe.encoding.size != card.resolution:
        raise InputError("encoding.size is not what the pipeline draws", found=recipe.encoding.size,
                         expected=card.resolution)  # fmt: skip
    conditions = Conditions.from_manifest(manifest, recipe.data.findings)
    texts = manifest.frame["report"].fillna("").astype(str).tolist() if "report" in manifest.frame else []
    prompts, views = prompts_of(conditions, texts or [""] * len(manifest))
    captions = captions_of(spec)
    key = digest([card.sha256, kind.model_dump(mode="json"), cache.sha, recipe.seed])
    train_lora(open_diffusers(spec).pipeline, captions, prompts, views, np.asarray(cache.pixels), out, kind,
               key=key, seed=recipe.seed, weights=WEIGHTS)  # fmt: skip
    about = {"base": kind.base, "base_sha256": card.sha256, **kind.model_dump(exclude={"kind", "base"})}
    seen = Seen.of(manifest.frame["patient_id"], cache.sha, key=digest([recipe.name, recipe.seed, "seen"])[:32])
    findings = [*card.findings, *(f for f in conditions.findings if f not in card.findings)]
    tuned = card.model_copy(update={
        "name": recipe.name, "version": __version__, "kind": "lora", "sha256": file_sha256(out / WEIGHTS),
        "findings": findings,
        "views": [*card.views, *(v for v in sorted(set(views)) if v not in card.views and "view" in captions.says)],
        "races": [*card.races, *(r for r in sorted(set(map(str, conditions.race))) if r and r not in card.races)],
        "licence": recipe.licence, "training_data": {"base": card.training_data, **described},
        "seen": seen.to_json(), "encoding": recipe.encoding.model_dump(),
        "settings": {**card.settings, "lora": about},
    })  # fmt: skip
    found = _copies(recipe, kind, tuned, out, manifest, cache, every) if kind.check_samples else "not looked for"
    settings = {**tuned.settings, "copies": found}
    write_json(out / CARD, tuned.model_copy(update={"settings": settings}).model_dump(mode="json"))
    (out / CHECKPOINT).unlink(missing_ok=True)


def open_tuned(folder: Path, card: Card, *, device: str = "cpu") -> PipelineCore:
    """Open what :func:`tune_pipeline` wrote; its base must be there, and be the one it was trained on."""
    about = card.settings["lora"]
    base = parse_spec(about["base"])
    assert base is not None
    if file_sha256(folder / WEIGHTS) != card.sha256:
        raise InputError("weights are not those of card.json", file=folder / WEIGHTS)
    if read_diffusers_card(base).sha256 != about["base_sha256"]:
        raise InputError("the pipeline below the LoRA is not the one that it was trained on", file=base.path)
    return open_diffusers(CoreSpec(base.kind, base.path, {**base.options, "lora": str(folder / WEIGHTS)}), card=card,
                          device=device)  # fmt: skip


def _copies(
    recipe: CoreRecipe, kind: LoraKind, card: Card, out: Path, manifest: Manifest, cache: PixelCache, every: Manifest
) -> str:
    """Draw from training prompts, compare, write the two tables; one line for the card."""
    patients = set(manifest.frame["patient_id"])
    held = every.take((~every.frame["split"].isin(recipe.data.splits) & ~every.frame["patient_id"].isin(patients))
                      .to_numpy())  # fmt: skip
    if not len(held):
        return "cannot be judged: the data have no held-out rows of other patients"
    extractor = open_extractor(EXTRACTOR)
    held, reference = build_cache(held, out / "data" / "held", extractor.encoding)
    _, own = build_cache(manifest, out / "data" / "train", extractor.encoding)
    conditions = Conditions.from_manifest(manifest, recipe.data.findings)
    prompts, views = prompts_of(conditions, [""] * len(manifest))
    rows = np.random.default_rng(derive_seed(recipe.seed, "copies")).integers(0, len(manifest), kind.check_samples)
    asked = [replace(prompts[i], prompt_id=f"c{n}", views=(views[i],)) for n, i in enumerate(rows.tolist())]
    studies = open_tuned(out, card).generate(asked, [derive_seed(recipe.seed, "copies", n) for n in range(len(asked))])
    drawn = np.stack([encode(next(iter(s.images.values())), extractor.encoding) for s in studies])
    table, pairs = memorisation(
        drawn, np.asarray(reference.pixels),
        Training(np.asarray(own.pixels), manifest.frame["image"].tolist(), manifest.frame["patient_id"].tolist()),
        images=[p.prompt_id for p in asked], real_patients=held.frame["patient_id"].tolist(), of="all",
    )  # fmt: skip
    for name, frame in (("copies.csv", pd.DataFrame(table)), ("nearest_pairs.csv", pairs)):
        with atomic(out / name) as temporary:
            frame.to_csv(temporary, index=False)
    copies = int(pairs["closer_than_real"].sum())
    return f"{copies} of {len(asked)} drawn images are closer to a training image than every held-out real one is"
