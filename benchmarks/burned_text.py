"""How often writing in the pixels is found, and how often something else is taken for it.

    python benchmarks/burned_text.py MANIFEST [--most 1000] [--known FILE] [--copies 3] [--flagged FILE] [--out FILE]

False flags: images of MANIFEST (one of each patient, at most `--most` of each source) that are flagged as text. Many
X-rays have some, so this is an upper bound, unless `--known` names a file with the images (one a line) that a person
saw to have text: these are left out. `--flagged` writes the list to look at. Sensitivity: text of several words in
PIL's own font, drawn straight on images that are not flagged, of MANIFEST (320 pixels and more) and of the phantom, in
memory only. Contrast is that between the letters and the mean grey under them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from cxraug.balance.association import share_interval
from cxraug.progress import track
from cxraug.studies.burned_text import MARKER, TEXT, writing_in
from cxraug.studies.images import read_pixels
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.phantom.cohort import PhantomSettings, render_study, sample_cohort

WORDS = ("DOE JANE", "MRN 004711", "1956-04-12", "Acc: 99120 14:35", "PORTABLE", "General Hospital")
SIZES = (8, 10, 12, 16, 24)  # pixels of the font
CONTRASTS = (45, 60, 90, 150)  # grey levels
PLACES = ("corner", "edge", "middle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--known", type=Path)
    parser.add_argument("--flagged", type=Path)
    parser.add_argument("--copies", type=int, default=3, help="drawings per size, contrast, place and base")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    known = set(options.known.read_text().split()) if options.known else set()
    real = read_manifest(options.manifest)
    lines, clean, flagged = false_flags(real, known, options.most)
    bases = {"real images": clean, "phantoms": phantoms(24)}
    lines += sensitivity(bases, options.copies)
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    if options.flagged:
        options.flagged.write_text("\n".join(flagged) + "\n")


def false_flags(real: Manifest, known: set[str], most: int) -> tuple[list[str], list[np.ndarray], list[str]]:
    """A table by source, some images that are not flagged, and the names of those that are."""
    rng, frame = np.random.default_rng(0), real.frame
    order = rng.permutation(len(frame))
    one_each = order[~frame["patient_id"].iloc[order].duplicated().to_numpy()]
    source = frame["source"].to_numpy()[one_each]
    chosen = np.concatenate([one_each[source == s][:most] for s in _sources(frame)])
    rows, clean, flagged = [], [], []
    for i in track(chosen, "images"):
        pixels = read_pixels(real.root / frame["image"].iloc[i])
        start = time.process_time()
        found = writing_in(pixels)
        seconds = time.process_time() - start
        name = frame["image"].iloc[i]
        rows.append((frame["source"].iloc[i], max(pixels.shape), found, seconds, name in known))
        if found == TEXT:
            flagged.append(name)
        elif min(pixels.shape) >= 320:
            clean.append(pixels)
    table = pd.DataFrame(rows, columns=["source", "side", "found", "seconds", "known"])
    with_text = "without those known to have text" if known else "an upper bound of false flags"
    lines = ["# Writing in the pixels", "", "    python benchmarks/burned_text.py MANIFEST --known FILE --out "
             "benchmarks/BURNED_TEXT.md", "", f"Images flagged as text, {with_text}, with a 95 % interval:", "",
             "| source | patients | flagged, known to have text | others | flagged | share | lead marker only | ms |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for source in _sources(table):
        part = table[table["source"] == source]
        rest = part[~part["known"]]
        n, k = len(rest), int((rest["found"] == TEXT).sum())
        low, high = share_interval(k, n)
        lines.append(
            f"| {source} | {len(part):,} | {int((part['known'] & (part['found'] == TEXT)).sum())} | {n:,} | {k} | "
            f"{k / n:.1%} [{low:.1%}, {high:.1%}] | {(part['found'] == MARKER).mean():.0%} | "
            f"{1000 * part['seconds'].mean():.1f} |"
        )
    order = rng.permutation(len(clean))[:200]
    return lines, [clean[i] for i in order], flagged


def sensitivity(bases: dict[str, list[np.ndarray]], copies: int) -> list[str]:
    """Shares of drawn texts that are found, by size and contrast, and by place."""
    rng, rows = np.random.default_rng(1), []
    for base, images in bases.items():
        for size in SIZES:
            for contrast in CONTRASTS:
                for place in PLACES:
                    for word in WORDS * copies:
                        picture = drawn(images[rng.integers(len(images))], word, size, contrast, place, rng)
                        if picture is not None:
                            rows.append((base, size, contrast, place, writing_in(picture) == TEXT))
    table = pd.DataFrame(rows, columns=["base", "size", "contrast", "place", "found"])
    lines = ["", f"Texts drawn that are found ({len(table):,} in all), by size of the font in pixels and contrast in "
             "grey levels:", "", "| on | size | " + " | ".join(map(str, CONTRASTS)) + " |",
             "|---|---|" + "---|" * len(CONTRASTS)]  # fmt: skip
    for (base, size), part in table.groupby(["base", "size"], sort=False):
        means = part.groupby("contrast")["found"].mean()
        lines.append(f"| {base} | {size} | " + " | ".join(f"{means[c]:.0%}" for c in CONTRASTS) + " |")
    fit = table[(table["size"] >= 10) & (table["contrast"] >= 60)]
    told = ", ".join(f"{p} {fit[fit['place'] == p]['found'].mean():.0%}" for p in PLACES)
    low, high = share_interval(int(fit["found"].sum()), len(fit))
    lines += ["", f"At 10 pixels and more and 60 grey levels and more: {fit['found'].mean():.1%} "
              f"[{low:.1%}, {high:.1%}] of {len(fit):,}; {told}."]  # fmt: skip
    return lines


def drawn(
    image: np.ndarray, word: str, size: int, contrast: int, place: str, rng: np.random.Generator
) -> np.ndarray | None:
    """``image`` with ``word``, or None where it does not fit, or where neither white nor black has the contrast."""
    picture, font = Image.fromarray(image), ImageFont.load_default(size)
    wide, high = (int(v) for v in font.getbbox(word)[2:])
    across, down = image.shape[1] - wide - 4, image.shape[0] - high - 4
    if min(across, down) < 4:
        return None
    x, y = {"corner": (rng.choice([4, across]), rng.choice([4, down])),
            "edge": (rng.integers(4, across + 1), rng.choice([4, down])),
            "middle": (rng.integers(across // 3, 2 * across // 3 + 1), rng.integers(down // 3, 2 * down // 3 + 1)),
            }[place]  # fmt: skip
    under = image[y : y + high, x : x + wide].mean()
    greys = [g for g in (under + contrast, under - contrast) if 0 <= g <= 255]
    if not greys:
        return None
    ImageDraw.Draw(picture).text((int(x), int(y)), word, fill=round(greys[0]), font=font)
    return np.asarray(picture)


def phantoms(n: int) -> list[np.ndarray]:
    settings = PhantomSettings(n=n, seed=7, size=256, studies_per_patient=1)
    records = sample_cohort(settings).to_dict("records")
    return [next(iter(render_study(record, settings).images.values())) for record in records]


def _sources(frame: pd.DataFrame) -> list[str]:
    return sorted(set(frame["source"]))


if __name__ == "__main__":
    main()
