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
from cxraug.evaluation.groups import AGE_BINS, MISSING, group_levels, level_order
from cxraug.fidelity.extractors import Extractor
from cxraug.fidelity.look import PAIRS, Look, pair_similarities
from cxraug.fidelity.score import (
    EVERY_MEASURE,
    MIN_IMAGES,
    Score,
    over_halves,
    plain_values,
    score_features,
    score_look,
    score_pairs,
)
from cxraug.progress import track
from cxraug.seeds import derive_seed
from cxraug.storage import atomic, write_json
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import Manifest

MAX_IMAGES = 2000  # per sample unless asked otherwise: distances between all pairs are kept in memory
FEW = 50
SIZE = 128
ALL = "all"
NOT_COMPARABLE = "not comparable with published FID"
HALVES = 10
COLUMNS = (
    "finding", "group", "level", "measure", "score", "ci_low", "ci_high", "floor", "floor_sd", "floor_low",
    "floor_high", "difference", "difference_low", "difference_high", "n", "halves", "extractor", "extractor_sha256",
    "flag",
)  # fmt: skip
VIEW_SHARE = 0.05  # a difference between the sides' shares of a view that is worth a note


@dataclass(frozen=True)
class Samples:
    """Rows of three samples of one size: two of the real manifest with no patient in both, one of the synthetic."""

    reference: np.ndarray
    floor: np.ndarray
    synthetic: np.ndarray


@dataclass(frozen=True)
class Cell:
    """A finding and a level of a group; ``all`` where there is none."""

    finding: str = ALL
    group: str = ALL
    level: str = ALL


@dataclass(frozen=True)
class Side:
    """What is known of the rows of a manifest that take part, by row: features (rows, d), look, pixels, digests."""

    features: np.ndarray
    look: Look
    pixels: np.ndarray
    sha: frozenset[str]


def compare_sets(
    real: Manifest,
    synthetic: Manifest,
    extractor: Extractor,
    *,
    by_findings: bool = False,
    groups: Sequence[str] = (),
    age_bins: Sequence[float] = AGE_BINS,
    n: int | None = None,
    halves: int = HALVES,
    size: int = SIZE,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a synthetic set against real data, beside real data against real data at the same n.

    Parameters
    ----------
    real : real rows only. synthetic : rows of a generated set, or any other.
    by_findings : also per finding that both sides name, among the images that show it.
    groups : also per level of these columns or intersections, and with ``by_findings`` per finding and level.
    age_bins : lower bounds of the age bands in years.
    n : images of each sample; default as many as there are, at most :data:`MAX_IMAGES`.
    halves : how often the real images are divided anew into reference and floor.
    size : side in pixels of the images whose spectrum, histogram and diversity are measured.
    seed : of the draw.

    Returns
    -------
    JSON-ready: ``rows`` (:data:`COLUMNS`), ``n``, ``extractor``, ``views``, ``counts``, ``curves`` (mean spectrum and
    pooled histogram of the whole sets), ``notes``.

    Raises
    ------
    InputError : a synthetic row in ``real``, other views on one side than on the other, too few patients or prompts, a
        group that one side lacks.
    ImageError : an image that cannot be read.

    Notes
    -----
    One image of each patient (prompt) is drawn, so that images are independent. Patients are dealt to the reference and
    to the floor; n is the size of the smallest of the three, and the others are cut to it at random. The same patients
    are dealt anew ``halves`` times (:func:`cxraug.fidelity.score.over_halves`).
    """
    _refuse_synthetic(real)
    views = _views(real, synthetic)
    if halves < 1:
        raise InputError("--halves is too small", found=halves, expected="at least 1")
    seed, most = derive_seed(seed, "fidelity"), MAX_IMAGES if n is None else n
    members = _members(real, synthetic, by_findings=by_findings, groups=groups, age_bins=age_bins)
    samples = {
        cell: draw(real, synthetic, np.random.default_rng([seed, i]), most, masks)
        for i, (cell, masks) in enumerate(members.items())
    }
    _refuse_small(samples[Cell()], real, synthetic, n)
    kept = {cell: part for cell, part in samples.items() if len(part.reference) >= MIN_IMAGES}
    own = _side(real, [p for s in kept.values() for p in (s.reference, s.floor)], extractor, size)
    other = _side(synthetic, [s.synthetic for s in kept.values()], extractor, size)
    scored = {
        cell: _scores(own, other, part, halves, np.random.default_rng([seed, i, 1]))
        for i, (cell, part) in enumerate(track(list(kept.items()), "fidelity of cells"))
    }
    rows: list[dict[str, Any]] = []
    for cell, part in samples.items():
        count = len(part.reference)
        about = {**asdict(cell), "n": count, "halves": halves, "extractor": extractor.name,
                 "extractor_sha256": extractor.sha256}  # fmt: skip
        if cell not in kept:
            rows += [{**about, "measure": measure, "flag": "suppressed"} for measure in EVERY_MEASURE]
            continue
        for score in scored[cell]:
            value = asdict(score)
            value |= {"ci_low": value.pop("low"), "ci_high": value.pop("high")}
            rows.append({**about, **value, "flag": "few" if count < FEW else ""})
    whole = samples[Cell()]
    return {
        "rows": [{column: row.get(column) for column in COLUMNS} for row in rows],
        "n": len(whole.reference),
        "min_n": MIN_IMAGES,
        "halves": halves,
        "seed": seed,
        "extractor": {**extractor.describe(), "features": int(own.features.shape[1])},
        "size": size,
        "views": views,
        "counts": {"real": _counts(real), "synthetic": _counts(synthetic)},
        "curves": _curves(own, other, whole),
        "notes": _notes(real, synthetic, views, len(own.sha & other.sha), size),
    }


def _members(
    real: Manifest, synthetic: Manifest, *, by_findings: bool, groups: Sequence[str], age_bins: Sequence[float]
) -> dict[Cell, tuple[np.ndarray, np.ndarray]]:
    """The rows of both sides that each cell is about, as masks."""
    sides = real, synthetic
    everyone = np.ones(len(real), bool), np.ones(len(synthetic), bool)
    findings = {ALL: everyone}
    if by_findings:
        shared = [name for name in real.findings if name in synthetic.findings]
        present = [side.y(shared) == 1 for side in sides]
        findings |= {name: (present[0][:, i], present[1][:, i]) for i, name in enumerate(shared)}
    strata = {(ALL, ALL): everyone}
    for group in groups:
        for side in sides:
            absent = [c for c in (p.strip() for p in group.split("*")) if c not in side.frame.columns]
            if absent:
                raise InputError("--groups names a column that is not there", file=side.file, column=absent[0])
        levels = [group_levels(side.frame, group, age_bins) for side in sides]
        for level in level_order(pd.concat(levels), age_bins):
            if MISSING not in level.split("*"):
                strata[group, level] = ((levels[0] == level).to_numpy(), (levels[1] == level).to_numpy())
    return {
        Cell(finding, *at): (of[0] & where[0], of[1] & where[1])
        for at, where in strata.items()
        for finding, of in findings.items()
    }


def _scores(own: Side, other: Side, part: Samples, halves: int, rng: np.random.Generator) -> list[Score]:
    """Every measure of one cell, in the order of :data:`EVERY_MEASURE`."""
    features, looks = other.features[part.synthetic], other.look.take(part.synthetic)
    found, others, pool = [], [], np.concatenate([part.reference, part.floor])
    for half in range(halves):
        a, b = np.split(pool if half == 0 else rng.permutation(pool), 2)
        seen = own.look.take(a), own.look.take(b)
        if half == 0:
            found = [
                *score_features(own.features[a], own.features[b], features),
                *score_look(seen[0], seen[1], looks),
            ]
        else:
            others.append(plain_values(own.features[a], own.features[b], features, [*seen, looks]))
    pairs = min(len(part.synthetic) // 2, PAIRS)
    alike = [pair_similarities(side.pixels[rows[: 2 * pairs]], pairs)
             for side, rows in ((other, part.synthetic), (own, pool))]  # fmt: skip
    return [*over_halves(found, others), score_pairs(*alike)]


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
    """Write ``fidelity.csv`` (the rows), ``fidelity.json`` (everything) and ``fidelity.html`` into ``out``."""
    from cxraug.pages.fidelity import fidelity_page

    with atomic(out / "fidelity.csv") as temporary:
        pd.DataFrame(found["rows"], columns=list(COLUMNS)).to_csv(temporary, index=False)
    write_json(out / "fidelity.json", found)
    with atomic(out / "fidelity.html") as temporary:
        temporary.write_text(fidelity_page(found), encoding="utf-8")


def _one_each(patients: pd.Series, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A row of every patient among ``mask``, in random order."""
    order = rng.permutation(np.flatnonzero(mask))
    return order[~patients.iloc[order].duplicated().to_numpy()]


def _side(manifest: Manifest, samples: Sequence[np.ndarray], extractor: Extractor, size: int) -> Side:
    """What the rows in ``samples`` show; zero where no sample has the row."""
    rows = np.unique(np.concatenate(samples))
    drawn, encoding = manifest.take(rows), Encoding(size)
    with tempfile.TemporaryDirectory() as folder:
        _, cache = build_cache(drawn, Path(folder) / "features", extractor.encoding)
        found = extractor.features(np.array(cache.pixels))
        if encoding != extractor.encoding:
            _, cache = build_cache(drawn, Path(folder) / "look", encoding)
        pixels = np.array(cache.pixels)
    seen = Look.of(pixels)

    def spread(values: np.ndarray) -> np.ndarray:
        result = np.zeros((len(manifest), *values.shape[1:]), values.dtype)
        result[rows] = values
        return result

    looks = Look(spread(seen.spectra), spread(seen.bands), spread(seen.histograms))
    return Side(spread(found.astype(np.float32)), looks, spread(pixels), frozenset(cache.sha))


def _curves(own: Side, other: Side, part: Samples) -> dict[str, Any]:
    """Mean spectrum in decibels and pooled histogram of the three samples: sums over at least 30 images, no image."""
    sides = {"real": (own, part.reference), "real, other half": (own, part.floor), "synthetic": (other, part.synthetic)}
    steps = own.look.spectra.shape[1]
    return {
        "frequency": ((np.arange(steps) + 1) / (2 * steps)).round(6),
        "spectrum": {name: side.look.spectra[rows].mean(axis=0).round(4) for name, (side, rows) in sides.items()},
        "histogram": {name: side.look.histograms[rows].mean(axis=0).round(7) for name, (side, rows) in sides.items()},
    }


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


def _notes(real: Manifest, synthetic: Manifest, views: Sequence[str], copies: int, size: int) -> list[str]:
    notes = [
        f"{NOT_COMPARABLE}; comparable only with scores of the same extractor and n",
        f"spectrum, power, grey levels and MS-SSIM are of images brought to {size} px: detail that a smaller image "
        "never had counts as missing",
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
