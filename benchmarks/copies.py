"""Are copies of training images found, and real ones left alone? Planted copies of real X-rays, at 1 % false alarms.

    python benchmarks/copies.py MANIFEST --work runs/copies --out benchmarks/COPIES.md

MANIFEST is the folder of real X-rays with the sources below. Training images are its train rows; calibration is on
validation and test rows. Copies are altered at 64 x 64 pixels, where the search works. Nothing real is written.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from cxraug.evaluation.uncertainty import interval
from cxraug.gate.check import conformal_high
from cxraug.gate.duplicates import standardise
from cxraug.privacy import alignment, memorisation, structure
from cxraug.privacy.memorisation import STATISTIC, CopyDetector
from cxraug.privacy.nearest import nearest, unit
from cxraug.storage import atomic, digest, file_sha256
from cxraug.studies.cache import PixelCache, build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import Manifest, read_manifest

POOLS = {
    "kermany_pediatric": ["kermany_pediatric"],
    "nih_cxr14": ["nih_cxr14"],
    "nih_cxr14_64px": ["nih_cxr14_64px"],
    "together": ["kermany_pediatric", "nih_cxr14", "nih_cxr14_64px"],
}
RATE, FOLDS = 0.01, 5
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def cropped(pixels: np.ndarray, rng: np.random.Generator, part: float = 0.9) -> np.ndarray:
    """A part of each side from anywhere in the picture, brought back to its size."""
    side = len(pixels)
    keep = round(part * side)
    y, x = rng.integers(0, side - keep + 1, 2)
    image = Image.fromarray(np.ascontiguousarray(pixels[y : y + keep, x : x + keep]))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def shifted(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to 4 of 64 pixels in each direction, the border repeated."""
    y, x = rng.integers(0, 9, 2)
    return np.pad(pixels, 4, mode="edge")[y : y + len(pixels), x : x + len(pixels)]


def toned(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast times 0.6 to 1.2, brightness by -30 to 30 grey values, clipped."""
    gain, offset = rng.uniform(0.6, 1.2), rng.uniform(-30, 30)
    return np.clip((pixels - 128.0) * gain + 128 + offset, 0, 255).astype(np.uint8)


def recompressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Through a JPEG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def blurred(pixels: np.ndarray, width: float) -> np.ndarray:
    """Gaussian, ``width`` pixels of 64."""
    return gaussian_filter(pixels.astype(float), width).astype(np.uint8)


def turned(pixels: np.ndarray, rng: np.random.Generator, degrees: float) -> np.ndarray:
    """One way or the other, corners black."""
    return np.asarray(Image.fromarray(pixels).rotate(degrees * rng.choice([-1, 1]), Image.Resampling.BICUBIC))


COPIES: dict[str, Change] = {
    "exact": lambda x, rng: x,
    "mirrored": lambda x, rng: x[:, ::-1],
    "cropped to 90 % of the side": cropped,
    "brightness and contrast": toned,
    "JPEG quality 50": lambda x, rng: recompressed(x, 50),
    "JPEG quality 30": lambda x, rng: recompressed(x, 30),
}
BESIDE: dict[str, Change] = {
    "shifted by up to 4 of 64 px": shifted,
    "blurred, 1 px of 64": lambda x, rng: blurred(x, 1.0),
    "blurred, 1.5 px of 64": lambda x, rng: blurred(x, 1.5),
    "turned by 2 degrees": lambda x, rng: turned(x, rng, 2),
    "turned by 4 degrees": lambda x, rng: turned(x, rng, 4),
    "mirrored, cropped to 90 %, JPEG 50": lambda x, rng: recompressed(cropped(x[:, ::-1], rng), 50),
    "cropped to 80 % of the side": lambda x, rng: cropped(x, rng, 0.8),
}


def main() -> None:
    """Parse, measure every pool, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "COPIES.md")
    parser.add_argument("--n", type=int, default=150, help="copies of each kind and pool")
    parser.add_argument("--pool", action="append", choices=list(POOLS), help="this one only; may be repeated")
    asked = parser.parse_args()
    manifest = read_manifest(asked.manifest, where={"source": POOLS["together"]})
    manifest, cache = build_cache(manifest, asked.work / "pixels", Encoding(64))
    found = {pool: kept(manifest, cache, pool, asked) for pool in asked.pool or POOLS}
    text = report(found, asked.n)
    with atomic(asked.out) as temporary:
        temporary.write_text(text)
    print(text)


def kept(manifest: Manifest, cache: PixelCache, pool: str, asked: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """:func:`measure`, or what an earlier run with the same data and code of it kept in ``--work``."""
    code = [file_sha256(Path(str(module.__file__))) for module in (structure, alignment, memorisation)]
    folder = asked.work / digest([pool, asked.n, cache.sha.tolist(), code, file_sha256(Path(__file__))])[:16]
    names = ("alarms", "copies", "about")
    if not all((folder / f"{name}.csv").is_file() for name in names):
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in measure(manifest, cache, POOLS[pool], asked.n).items():
            with atomic(folder / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)
    return {name: pd.read_csv(folder / f"{name}.csv") for name in names}


def measure(manifest: Manifest, cache: PixelCache, sources: list[str], n: int) -> dict[str, pd.DataFrame]:
    """Tables ``alarms`` (false alarms on real images) and ``copies`` (found, per kind) of one pool of sources."""
    frame = manifest.frame
    inside = frame["source"].isin(sources).to_numpy()
    is_train = inside & (frame["split"] == "train").to_numpy()
    is_held = inside & ~is_train
    train, held = np.asarray(cache.pixels[is_train]), np.asarray(cache.pixels[is_held])
    patients, others = frame["patient_id"][is_train].to_numpy(), frame["patient_id"][is_held].to_numpy()
    sha = np.asarray(cache.sha)[is_train]
    detector = CopyDetector.fit(train, patients, held, others, rate=RATE, sha=sha, calibration=len(held))
    inner = CopyDetector.fit(train, patients, rate=RATE, sha=sha)
    plain = Plain(train)
    null = detector.null
    who = others[detector.rows]
    nulls = {"held-out": null, "training": inner.null, "plain": plain(held)[detector.rows]}
    fold = np.random.default_rng(0).permutation(FOLDS * (len(set(who)) // FOLDS + 1))[
        np.unique(who, return_inverse=True)[1]
    ] % FOLDS  # fmt: skip
    crossed = np.full(len(null), np.nan)
    for k in range(FOLDS):
        crossed[fold == k] = conformal_high(null[fold != k], null[fold == k])
    whole = detector.excess(null[fold < 2]) if len(null) else None
    alarms = [
        _alarms("held-out images, calibrated on other held-out patients (5 folds)", crossed, who, RATE),
        _alarms("held-out images, calibrated on training images as in the gate", conformal_high(inner.null, null),
                who, max(RATE, inner.finest)),
    ]  # fmt: skip
    rng = np.random.default_rng(1)
    rows = np.sort(rng.permutation(len(train))[:n])
    copies = []
    for kind, change in (COPIES | BESIDE).items():
        pixels = np.stack([change(train[i], rng) for i in rows])
        match = detector.match(pixels)
        values = {"held-out": match["correlation"].to_numpy(), "training": match["correlation"].to_numpy(),
                  "plain": plain(pixels)}  # fmt: skip
        line: dict[str, object] = {"kind": kind, "n": len(rows), "named": float((match["nearest"] == rows).mean())}
        for name, value in values.items():
            line[name] = float((conformal_high(nulls[name], value) <= RATE).mean())
        copies.append(line | {"lowest": float(np.quantile(values["held-out"], 0.05))})
    about = pd.DataFrame([{
        "train": len(train), "held": len(held), "patients": len(set(who)), "n": detector.n,
        "twice": detector.filed_twice, "twice_train": inner.filed_twice,
        "median": float(np.nanmedian(null)), "cut": float(np.nanquantile(null, 1 - RATE)),
        "most": float(np.nanmax(null)),
        "detectable": np.nan if whole is None else whole.detectable,
    }])  # fmt: skip
    return {"alarms": pd.DataFrame(alarms), "copies": pd.DataFrame(copies), "about": about}


class Plain:
    """What an earlier version of the gate used: the largest correlation of 32 x 32 pixels less their average."""

    def __init__(self, train: np.ndarray) -> None:
        small = standardise(train)
        self.average = small.mean(axis=0)
        self.train = unit(small - self.average)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return nearest(unit(standardise(pixels) - self.average), self.train)[0]


def _alarms(how: str, p: np.ndarray, patients: np.ndarray, rate: float) -> dict[str, object]:
    """Share of images with ``p`` at most ``rate``; Wilson's interval with the patients' design effect (Rao-Scott)."""
    known = np.isfinite(p)
    of = np.unique(patients[known], return_inverse=True)[1]
    size, called = np.bincount(of), np.bincount(of, p[known] <= rate)
    share = called.sum() / size.sum()
    influence = (called - share * size) * np.sqrt(len(size) / (len(size) - 1)) / size.sum()
    low, high = interval(share, np.square(influence).sum(), np.array(len(size) - 1.0), "wilson", 0.05)
    return {"how": how, "rate": rate, "n": int(known.sum()), "share": share, "low": low.item(), "high": high.item()}


def report(found: dict[str, dict[str, pd.DataFrame]], n: int) -> str:
    """The page."""
    lines = [
        "# Copies of training images: found, and real ones left alone", "",
        f"Printed by `python benchmarks/copies.py MANIFEST --work DIR --n {n}` on real X-rays (64 x 64 pixels; "
        "training images: train rows; calibration and false alarms: validation and test rows, other patients). "
        f"Statistic: {STATISTIC}. An image is called a copy at a conformal p-value of at most {RATE:g}.", "",
        "## The real images", "",
        "| pool | training images | held-out images (patients) | filed twice | correlation of held-out images: median, "
        "99 %, largest |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for pool, tables in found.items():
        a = tables["about"].iloc[0]
        lines.append(f"| {pool} | {a.train:.0f} | {a.held:.0f} ({a.patients:.0f}) | {a.twice:.0f} held-out, "
                     f"{a.twice_train:.0f} training | {a['median']:.3f}, {a.cut:.3f}, {a.most:.3f} |")  # fmt: skip
    lines += ["", "## False alarms on real images", "",
              "| pool | images | stated rate | measured | 95 % (Wilson, clustered by patient) |",
              "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for pool, tables in found.items():
        for row in tables["alarms"].itertuples():
            lines.append(f"| {pool} | {row.n} {row.how} | {row.rate:.1%} | {row.share:.2%} | "
                         f"{row.low:.2%} to {row.high:.2%} |")  # fmt: skip
    for title, kinds in (("Planted copies", COPIES), ("Beside", BESIDE)):
        lines += ["", f"## {title}", "",
                  f"Share of {n} copies per kind and pool that is called a copy, and of which the right training image "
                  "is named.", "",
                  "| pool | copy | found | as in the gate | right image | 5 % of correlations are below | "
                  "32-pixel correlation alone |", "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        for pool, tables in found.items():
            for row in tables["copies"].to_dict("records"):
                if row["kind"] in kinds:
                    lines.append(
                        f"| {pool} | {row['kind']} | {row['held-out']:.1%} | {row['training']:.1%} "
                        f"| {row['named']:.1%} | {row['lowest']:.3f} | {row['plain']:.1%} |"
                    )
    lines += [
        "", "*Found*: calibrated on held-out images; *as in the gate*: on training images of other patients. The last "
        "column is the correlation of 32 x 32 pixels without mirroring, shifts or alignment, at the same rate: what is "
        "missed is missed because the compared pixels no longer lie on each other. Copies cropped to 80 % lie outside "
        "the looks that are searched (scales 0.9 to 1.1, shifts of 4 px).", "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
