"""Fidelity of a synthetic set against real data: who is compared with whom, the scores, the files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.fidelity.extractors import Extractor
from cxraug.fidelity.score import MEASURES, MIN_IMAGES, score_features
from cxraug.seeds import derive_seed
from cxraug.storage import atomic, write_json
from cxraug.studies.cache import build_cache
from cxraug.studies.manifest import Manifest

MAX_IMAGES = 2000  # per sample unless asked otherwise: distances between all pairs are kept in memory
FEW = 50
ALL = "all"
NOT_COMPARABLE = "not comparable with published FID"
COLUMNS = (
    "finding", "measure", "score", "ci_low", "ci_high", "floor", "difference", "difference_low", "difference_high",
    "n", "extractor", "extractor_sha256", "flag",
)  # fmt: skip
VIEW_SHARE = 0.05  # a difference between the sides' shares of a view that is worth a note


@dataclass(frozen=True)
class Samples:
    """Rows of three samples of one size: two of the real manifest with no patient in both, one of the synthetic."""

    reference: np.ndarray
    floor: np.ndarray
    synthetic: np.ndarray


def compare_sets(
    real: Manifest,
    synthetic: Manifest,
    extractor: Extractor,
    *,
    by_findings: bool = False,
    n: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a synthetic set against real data, beside real data against real data at the same n.

    Parameters
    ----------
    real : real rows only. synthetic : rows of a generated set, or any other.
    by_findings : also per finding that both sides name, among the images that show it.
    n : images of each sample; default as many as there are, at most :data:`MAX_IMAGES`.
    seed : of the draw.

    Returns
    -------
    JSON-ready: ``rows`` (:data:`COLUMNS`), ``n``, ``extractor``, ``views``, ``counts``, ``notes``.

    Raises
    ------
    InputError : a synthetic row in ``real``, other views on one side than on the other, too few patients or prompts.
    ImageError : an image that cannot be read.

    Notes
    -----
    One image of each patient (prompt) is drawn, so that images are independent. Patients are dealt to the reference and
    to the floor; n is the size of the smallest of the three, and the others are cut to it at random.
    """
    _refuse_synthetic(real)
    views = _views(real, synthetic)
    seed = derive_seed(seed, "fidelity")
    samples = {ALL: draw(real, synthetic, np.random.default_rng([seed, 0]), MAX_IMAGES if n is None else n)}
    _refuse_small(samples[ALL], real, synthetic, n)
    if by_findings:
        shared = [name for name in real.findings if name in synthetic.findings]
        present = real.y(shared) == 1, synthetic.y(shared) == 1
        for i, name in enumerate(shared, 1):
            rng = np.random.default_rng([seed, i])
            most = MAX_IMAGES if n is None else n
            samples[name] = draw(real, synthetic, rng, most, tuple(side[:, i - 1] for side in present))
    kept = {name: part for name, part in samples.items() if len(part.reference) >= MIN_IMAGES}
    real_features, real_sha = _features(real, [p for s in kept.values() for p in (s.reference, s.floor)], extractor)
    synthetic_features, sha = _features(synthetic, [s.synthetic for s in kept.values()], extractor)
    rows = []
    for name, part in samples.items():
        size = len(part.reference)
        about = {"finding": name, "n": size, "extractor": extractor.name, "extractor_sha256": extractor.sha256}
        if name not in kept:
            rows += [{**about, "measure": measure, "flag": "suppressed"} for measure in MEASURES]
            continue
        scores = score_features(
            real_features[part.reference], real_features[part.floor], synthetic_features[part.synthetic]
        )
        for score in scores:
            value = asdict(score)
            value |= {"ci_low": value.pop("low"), "ci_high": value.pop("high")}
            rows.append({**about, **value, "flag": "few" if size < FEW else ""})
    return {
        "rows": [{column: row.get(column) for column in COLUMNS} for row in rows],
        "n": len(samples[ALL].reference),
        "min_n": MIN_IMAGES,
        "seed": seed,
        "extractor": {**extractor.describe(), "features": int(real_features.shape[1])},
        "views": views,
        "counts": {"real": _counts(real), "synthetic": _counts(synthetic)},
        "notes": _notes(real, synthetic, views, len(set(sha) & set(real_sha))),
    }


def draw(
    real: Manifest,
    synthetic: Manifest,
    rng: np.random.Generator,
    most: int,
    among: tuple[np.ndarray, ...] | None = None,
) -> Samples:
    """Draw the three samples, one image per patient (prompt), in random order.

    ``among`` are masks of the rows of ``real`` and ``synthetic`` to draw from. Samples may be empty.
    """
    masks = among or (np.ones(len(real), bool), np.ones(len(synthetic), bool))
    own, other = (_one_each(m.frame["patient_id"], mask, rng) for m, mask in zip((real, synthetic), masks, strict=True))
    size = min(len(own) // 2, len(other), most)
    return Samples(own[:size], own[size : 2 * size], other[:size])


def write_fidelity(found: dict[str, Any], out: Path) -> None:
    """Write ``fidelity.csv`` (the rows) and ``fidelity.json`` (everything) into ``out``."""
    with atomic(out / "fidelity.csv") as temporary:
        pd.DataFrame(found["rows"], columns=list(COLUMNS)).to_csv(temporary, index=False)
    write_json(out / "fidelity.json", found)


def _one_each(patients: pd.Series, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A row of every patient among ``mask``, in random order."""
    order = rng.permutation(np.flatnonzero(mask))
    return order[~patients.iloc[order].duplicated().to_numpy()]


def _features(manifest: Manifest, samples: Sequence[np.ndarray], extractor: Extractor) -> tuple[np.ndarray, np.ndarray]:
    """Features (rows of the manifest, d), zero where no sample has the row, and digests of the pixels read."""
    rows = np.unique(np.concatenate(samples))
    with tempfile.TemporaryDirectory() as folder:
        _, cache = build_cache(manifest.take(rows), folder, extractor.encoding)
        found = extractor.features(np.array(cache.pixels))
    features = np.zeros((len(manifest), found.shape[1]), np.float32)
    features[rows] = found
    return features, cache.sha


def _refuse_synthetic(real: Manifest) -> None:
    if "synthetic" not in real.frame:
        return
    bad = real.frame["synthetic"].fillna(False).to_numpy(bool)
    if bad.any():
        more = f" (and {bad.sum() - 1} more)" if bad.sum() > 1 else ""
        raise InputError(
            f"a synthetic row in the real data: image {real.frame['image'].iloc[int(bad.argmax())]!r}{more}",
            file=real.file, column="synthetic", found="True", expected="real rows only (--where synthetic=False)",
        )  # fmt: skip


def _views(real: Manifest, synthetic: Manifest) -> list[str]:
    """The views of both sides; other views on one side are refused, for they would count as lack of fidelity."""
    sides = [sorted(set(m.frame["view"])) for m in (real, synthetic)]
    if sides[0] != sides[1]:
        raise InputError(
            f"the two sets hold different views: {', '.join(sides[0])} in the real data",
            file=synthetic.file, column="view", found=", ".join(sides[1]),
            expected="the same views on both sides; --views names those to compare",
        )  # fmt: skip
    return sides[0]


def _refuse_small(sample: Samples, real: Manifest, synthetic: Manifest, n: int | None) -> None:
    if n is not None and n < MIN_IMAGES:
        raise InputError("--n is too small", found=n, expected=f"at least {MIN_IMAGES}")
    for manifest, needed, what in (
        (real, 2 * MIN_IMAGES, "patients"),
        (synthetic, MIN_IMAGES, "prompts (patient ids)"),
    ):
        there = manifest.frame["patient_id"].nunique()
        if there < needed:
            raise InputError(f"too few {what}", file=manifest.file, found=there, expected=f"at least {needed}")
    if n is not None and len(sample.reference) < n:
        raise InputError(
            "not that many images",
            found=f"--n {n}",
            expected=f"at most {len(sample.reference)}: half of the real patients and one image of each prompt",
        )


def _counts(manifest: Manifest) -> dict[str, Any]:
    frame = manifest.frame
    return {
        "images": len(frame),
        "patients": int(frame["patient_id"].nunique()),
        "views": frame["view"].value_counts().sort_index().to_dict(),
    }


def _notes(real: Manifest, synthetic: Manifest, views: Sequence[str], copies: int) -> list[str]:
    notes = [
        f"{NOT_COMPARABLE}; comparable only with scores of the same extractor and n",
        "a score says how alike the sets look to this extractor: not that labels are right, nor that nobody is copied",
    ]
    shares = [m.frame["view"].value_counts(normalize=True) for m in (real, synthetic)]
    for view in views:
        if abs(shares[0][view] - shares[1][view]) > VIEW_SHARE:
            notes.append(f"{view} is {shares[0][view]:.0%} of the real and {shares[1][view]:.0%} of the other images")
    both = len(set(real.frame["patient_id"]) & set(synthetic.frame["patient_id"]))
    if both:
        notes.append(f"{both} patients stand on both sides: the second set is not independent of the real data")
    if copies:
        notes.append(f"{copies} images of the second set are, pixel for pixel, among the real images that were read")
    return notes
