"""What the audit finds of what was planted, how often its intervals hold, and whether its sample sizes are right.

python benchmarks/audit.py --work DIR [--manifest MANIFEST] --out benchmarks/AUDIT.md
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import special

from cxraug.balance.adjustment import Sums, covariates, level_odds
from cxraug.balance.association import odds_ratio, share_interval
from cxraug.balance.clustered_share import clustered_interval
from cxraug.balance.confounding import adjusted_odds, variable_of
from cxraug.balance.label_noise import find_label_noise
from cxraug.balance.mirrored import find_mirrored
from cxraug.balance.near_copies import find_near_copies
from cxraug.balance.picture_faults import CUT, FAULTS, MIRRORED, PRIOR, blank, find_faults, small
from cxraug.balance.sample_size import Question, patients_needed, positives_needed, power_of
from cxraug.balance.tally import tally_levels
from cxraug.evaluation.auroc import auroc
from cxraug.evaluation.measured import Patients
from cxraug.privacy.structure import cells_of
from cxraug.storage import atomic
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.phantom.cohort import PhantomSettings, make_cohort

STUDIES, REAL, PER_KIND = 400, 1000, 15
PLANTED = (*FAULTS, "half turn", MIRRORED, "blank")
COMMON = ("Cardiomegaly", "Edema", "Effusion", "Consolidation", "Pneumothorax")  # of the phantoms
DRAWS = 5  # of the labels that are turned
WRONG = (0.02, 0.05)  # shares of the labels that are turned
SETS, TRIALS, SHARES, BATCH = 200, 1000, 1000, 100


def main() -> None:
    """Run the parts that are asked for and not done yet; the page holds what is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, help=f"real images, at most {REAL:,} of which are used")
    parser.add_argument("--only", help="parts, separated by commas: " + ", ".join(PARTS))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    for name in asked.only.split(",") if asked.only else PARTS:
        file = asked.work / f"{name}.md"
        if not file.exists():
            lines = PARTS[name]() if name in SIMULATED else PARTS[name](sets(asked.work, asked.manifest))
            with atomic(file) as temporary:
                temporary.write_text("\n".join(lines) + "\n")
    command = f"python benchmarks/audit.py --work DIR{' --manifest MANIFEST' if asked.manifest else ''} --out FILE"
    done = [(asked.work / f"{name}.md").read_text() for name in PARTS if (asked.work / f"{name}.md").exists()]
    asked.out.write_text("\n".join([f"# What the audit finds\n\n    {command}\n", *done]))


def sets(work: Path, real: Path | None) -> dict[str, tuple[Manifest, np.ndarray]]:
    """Phantoms, and some real images."""
    settings = PhantomSettings(n=STUDIES, size=64, seed=11, prevalence=dict.fromkeys(COMMON, 0.3))
    path = make_cohort(settings, work / "phantom", workers=1)
    found = {"phantoms": loaded(path, work / "cache")}
    return {**found, "real images": loaded(real, work / "cache-real", REAL)} if real else found


def loaded(path: Path, cache: Path, most: int = 10**9) -> tuple[Manifest, np.ndarray]:
    """A manifest and its pixels (n, 64, 64)."""
    manifest = read_manifest(path)
    if len(manifest) > most:
        manifest = manifest.take(np.sort(np.random.default_rng(0).permutation(len(manifest))[:most]))
    manifest, pixels = build_cache(manifest, cache, Encoding(), on_bad_image="skip")
    return manifest, np.asarray(pixels.pixels).copy()


def planted_faults(sets: dict[str, tuple[Manifest, np.ndarray]]) -> list[str]:
    """Some images of each fault among the others."""
    out = [
        "## Faulty pictures",
        "",
        f"{PER_KIND} of each kind among the others; the others flagged are not all false.",
        "",
    ]
    out += ["| images | n | fault | found | named right |", "|---|---|---|---|---|"]
    for name, (manifest, pixels) in sets.items():
        rng = np.random.default_rng(1)
        changed, truth = pixels.copy(), np.full(len(pixels), "", dtype=object)
        rows = rng.permutation(len(pixels))[: PER_KIND * len(PLANTED)].reshape(-1, PER_KIND)
        for kind, at in zip(PLANTED, rows, strict=True):
            truth[at] = kind
            changed[at] = [altered(image, kind, rng) for image in pixels[at]]
        views = manifest.frame["view"].to_numpy(dtype=object)
        found = find_faults(changed, manifest.frame["patient_id"].to_numpy(dtype=object), views)
        for kind in PLANTED:
            at = truth == kind
            name_of = "upside down" if kind == "half turn" else kind
            caught, right = (found.fault[at] != "").mean(), (found.fault[at] == name_of).mean()
            out.append(f"| {name} | {len(pixels):,} | {kind} | {caught:.0%} | {right:.0%} |")
        others = (found.fault[truth == ""] != "").mean()
        out.append(f"| {name} | {len(pixels):,} | none | {others:.2%} | |")
    return out


def mirrored_images(sets: dict[str, tuple[Manifest, np.ndarray]]) -> list[str]:
    """Every frontal image mirrored, judged by a classifier that did not see the patient."""
    out = ["## Mirrored images", ""]
    out += [
        "Every frontal image judged as it is and mirrored, by what other patients taught; intervals by patient.",
        "",
        "| images | n | found, 1 % false alarms | found, as listed | false alarms, as listed |",
        "|---|---|---|---|---|",
    ]
    for name, (manifest, pixels) in sets.items():
        rows = np.flatnonzero((manifest.frame["view"] != "Lateral").to_numpy() & (blank(pixels) == ""))
        patients = pd.factorize(manifest.frame["patient_id"].iloc[rows])[0]
        found = find_mirrored(cells_of(pixels[rows]), patients, PRIOR, CUT)
        assert found is not None
        sound = found.probability <= CUT
        flags = (found.side > np.quantile(-found.side[sound], 0.99), found.mirror_probability > CUT, ~sound)
        out.append(f"| {name} | {len(rows):,} | " + " | ".join(share_of(flag, patients) for flag in flags) + " |")
    return out


def share_of(flags: np.ndarray, patients: np.ndarray) -> str:
    """A share with its interval, clustered by patient."""
    tally = tally_levels(flags.astype(np.float32)[:, None], patients, np.zeros(len(flags), int), ["all"])
    value, low, high = (part[0, 0] for part in (tally.prevalence, tally.low, tally.high))
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def altered(image: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """An image (64, 64) with one fault, drawn apart from what the audit plants for itself."""
    if kind == "inverted":
        return 255 - image
    if kind == "turned":
        return np.rot90(image, rng.choice([1, 3]))
    if kind == "upside down":
        return image[::-1]
    if kind == "half turn":
        return image[::-1, ::-1]
    if kind == MIRRORED:
        return image[:, ::-1]
    if kind == "blank":
        return np.full_like(image, rng.integers(0, 256))
    side = int(rng.uniform(0.5, 0.75) * len(image))
    y, x = rng.integers(0, len(image) - side + 1, 2)
    return np.asarray(Image.fromarray(image[y : y + side, x : x + side]).resize(image.shape, Image.Resampling.BILINEAR))


def planted_copies(sets: dict[str, tuple[Manifest, np.ndarray]]) -> list[str]:
    """Images replaced by changed copies of another patient's image."""
    out = [
        "## Near copies",
        "",
        f"At most {PER_KIND} images of each kind replaced by a changed copy of another patient's.",
        "",
    ]
    out += ["| images | n | copy | found | cut |", "|---|---|---|---|---|"]
    kinds = ("JPEG quality 50", "brighter", "mirrored", "cropped to 90 %")
    for name, (manifest, pixels) in sets.items():
        each = min(PER_KIND, len(pixels) // 80)
        rng = np.random.default_rng(2)
        changed, of = pixels.copy(), {}
        rows = rng.permutation(len(pixels))
        take, rest = rows[: len(kinds) * each], rows[len(kinds) * each :]
        for i, row in enumerate(take):
            source = rest[i]
            changed[row] = copied(pixels[source], kinds[i // each])
            of[manifest.frame["image"].iloc[row]] = manifest.frame["image"].iloc[source]
        copies = find_near_copies(changed, cells_of(changed), manifest.frame)
        assert copies is not None
        pairs = {frozenset(p) for p in zip(copies.pairs["image"], copies.pairs["image_of_copy"], strict=True)}
        planted = [
            frozenset((manifest.frame["image"].iloc[row], of[manifest.frame["image"].iloc[row]])) for row in take
        ]
        for k, kind in enumerate(kinds):
            hit = np.mean([pair in pairs for pair in planted[k * each : (k + 1) * each]])
            out.append(f"| {name} | {len(pixels):,} | {kind} | {hit:.0%} | {copies.cut:.3f} |")
        clean = find_near_copies(pixels, cells_of(pixels), manifest.frame)
        assert clean is not None
        out.append(f"| {name} | {len(pixels):,} | none planted | {len(clean.pairs)} pairs | {clean.cut:.3f} |")
    return out


def copied(image: np.ndarray, kind: str) -> np.ndarray:
    """A changed copy of an image (64, 64)."""
    if kind.startswith("JPEG"):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=50)
        return np.asarray(Image.open(stream))
    if kind == "brighter":
        return np.clip(image * 0.8 + 40, 0, 255).astype(np.uint8)
    if kind == "mirrored":
        return image[:, ::-1]
    edge = round(len(image) * 0.05)
    return np.asarray(Image.fromarray(image[edge:-edge, edge:-edge]).resize(image.shape, Image.Resampling.BILINEAR))


def wrong_labels(sets: dict[str, tuple[Manifest, np.ndarray]]) -> list[str]:
    """Labels turned: a share of the positive ones, and as many negative ones."""
    out = ["## Doubtful labels", ""]
    out += [
        "A share of the positive labels and as many negative ones are turned; found among findings that are judged. "
        f"Means of {DRAWS} draws.",
        "",
    ]
    out += ["| images | turned | findings judged | listed | of these turned | first 20 | turned ones found | right "
            "labels listed |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, (manifest, pixels) in sets.items():
        features = np.concatenate([cells_of(pixels), small(pixels)], axis=1)
        y, findings = manifest.y(), list(manifest.findings)
        for share in WRONG:
            rows = np.array([turned(features, manifest, y, share, draw) for draw in range(DRAWS)])
            judged, listed, hits, first, first_hits, wrong, right, missed = rows.sum(axis=0)
            low, high = share_interval(int(first_hits), int(first))
            out.append(
                f"| {name} | {share:.0%} | {judged / DRAWS:.1f} of {len(findings)} | {listed / DRAWS:.0f} "
                f"| {hits / max(listed, 1):.0%} | {first_hits / max(first, 1):.0%} [{low:.0%}, {high:.0%}] "
                f"| {hits / max(wrong, 1):.0%} | {missed / max(right, 1):.2%} |"
            )
    return out


def turned(features: np.ndarray, manifest: Manifest, y: np.ndarray, share: float, draw: int) -> tuple[int, ...]:
    """Findings judged, labels listed, turned ones of these, of the first 20, turned ones of these; then of the findings
    judged: turned labels, right labels, and right ones listed."""
    findings = list(manifest.findings)
    place = {image: i for i, image in enumerate(manifest.frame["image"])}
    rng, wrong = np.random.default_rng([3, draw]), np.zeros(y.shape, bool)
    for f in range(y.shape[1]):
        for value in (1, 0):
            rows = np.flatnonzero(y[:, f] == value)
            number = round(share * np.count_nonzero(y[:, f] == 1))
            wrong[rng.choice(rows, min(number, len(rows)), replace=False), f] = True
    found = find_label_noise(features, np.where(wrong, 1 - y, y), manifest.frame, findings, seed=draw)
    judged = [findings.index(f["finding"]) for f in found.findings if f["judged"]]
    pairs = zip(found.candidates["image"], found.candidates["finding"], strict=True)
    hit = np.array([wrong[place[image], findings.index(finding)] for image, finding in pairs], bool)
    right = int((~np.isnan(y[:, judged]) & ~wrong[:, judged]).sum())
    return (len(judged), len(hit), int(hit.sum()), len(hit[:20]), int(hit[:20].sum()), int(wrong[:, judged].sum()),
            right, int((~hit).sum()))  # fmt: skip


def sample_sizes() -> list[str]:
    """Does the number of patients that the audit names really give the power?"""
    out = ["## Sample size", "", f"Normal scores, DeLong variances, {TRIALS:,} simulated tests each at 5 %.", ""]
    out += ["| gap | AUROC | rest (+/-) | level (+/-) | promised | simulated |", "|---|---|---|---|---|---|"]
    for gap, area, rest, share in (
        (0.05, 0.8, (1000, 9000), 0.1), (0.05, 0.9, (400, 2000), 0.3), (0.1, 0.8, (150, 1500), 0.05),
        (0.1, 0.75, (300, 300), 0.5), (0.15, 0.85, (60, 600), 0.1),
    ):  # fmt: skip
        question = Question(gap, area)
        others = np.array(rest)
        whole = float(patients_needed(question, np.array([0, 0]), others, np.array(share)))
        level = np.array([round(whole * share), round(whole * (1 - share))])
        only = float(positives_needed(question, np.array([0, level[1] * 3]), others))
        for counts in (level, np.array([only, level[1] * 3])):
            if not np.isfinite(counts).all():
                continue
            counts = counts.astype(int)
            promised = float(power_of(question, counts, others))
            found = simulated_power(question, counts, others)
            out.append(
                f"| {gap:g} | {area:g} | {rest[0]:,} / {rest[1]:,} | {counts[0]:,} / {counts[1]:,} | {promised:.1%} "
                f"| {found:.1%} |"
            )
    return out


def simulated_power(
    question: Question, level: np.ndarray, rest: np.ndarray, trials: int = TRIALS, seed: int = 0
) -> float:
    """Share of simulated data sets in which the gap is significant."""
    from scipy.special import ndtri

    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(trials):
        value, variance = 0.0, 0.0
        for (m, n), area, sign in ((level, question.auroc - question.gap, -1), (rest, question.auroc, 1)):
            score = np.concatenate([rng.normal(np.sqrt(2) * ndtri(area), 1, m), rng.normal(0, 1, n)])
            y = np.repeat([1.0, 0.0], [m, n])
            patients = Patients(np.arange(m + n), m + n)
            found = auroc(score[None], [np.argsort(score)], y, patients, (int(m), int(n)))
            value += sign * float(found.value[0])
            variance += float(found.variance[0])
        hits += abs(value) / np.sqrt(variance) > ndtri(1 - question.alpha / 2)
    return hits / trials


def coverage() -> list[str]:
    """Odds ratios at the same age and view, when view is a confounder and patients have several images."""
    out = ["## Odds ratios, all else equal", ""]
    out += [f"{SETS} simulated sets each: women are X-rayed AP more often, AP images show the finding more often, and",
            "a patient's images share an effect (standard deviation 1 of the logit). 95 % intervals.", ""]  # fmt: skip
    out += [
        "| patients | true odds ratio | adjusted: mean | covers | crude: mean | covers |",
        "|---|---|---|---|---|---|",
    ]
    for patients, truth in ((300, 1.0), (300, 2.0), (3000, 1.0)):
        rows = np.array([one_set(patients, truth, seed) for seed in range(SETS)])
        adjusted, low, high, crude, crude_low, crude_high, target = rows.T
        held = ((low <= target) & (target <= high)).mean()
        crude_held = ((crude_low <= target) & (target <= crude_high)).mean()
        mean, crude_mean = (np.exp(np.log(part).mean()) for part in (adjusted, crude))
        shown = np.exp(np.log(target).mean())
        out.append(f"| {patients:,} | {shown:.2f} | {mean:.2f} | {held:.1%} | {crude_mean:.2f} | {crude_held:.1%} |")
    return out


def one_set(patients: int, truth: float, seed: int) -> tuple[float, ...]:
    """Adjusted and crude odds ratios with limits, and the marginal odds ratio that they estimate.

    A shared effect shrinks odds ratios towards 1 when averaged over patients (Zeger, Liang & Albert 1988, Biometrics
    44): by ``1 / sqrt(1 + 0.346 s^2)`` on the log scale.
    """
    rng = np.random.default_rng([patients, seed, round(truth * 10)])
    images = 1 + rng.poisson(2.5, patients)
    patient = np.repeat(np.arange(patients), images)
    female = (rng.random(patients) < 0.5)[patient]
    age = rng.normal(55, 15, patients).clip(18, 90).round()[patient]
    ap = rng.random(len(patient)) < np.where(female, 0.6, 0.3)
    logit = -2.2 + np.log(truth) * female + 1.2 * ap + 0.02 * (age - 55) + rng.normal(0, 1, patients)[patient]
    y = (rng.random(len(patient)) < 1 / (1 + np.exp(-logit))).astype(np.float32)[:, None]
    frame = pd.DataFrame({"age": age, "view": np.where(ap, "AP", "PA"), "source": ""})
    others = covariates(frame)
    pattern, at = np.unique(others.of * 2 + female, return_inverse=True)
    sums, design = Sums.of(y, patient, at).finding(0), others.design[pattern // 2]
    adjusted, crude = (level_odds(sums, pattern % 2 == 1, x) for x in (design, design[:, :1]))
    marginal = truth ** (1 / np.sqrt(1 + 0.346))
    return (np.exp(adjusted.log), *adjusted.limits(), np.exp(crude.log), *crude.limits(), float(marginal))


def views() -> list[str]:
    """What findings go with: AP images, by images and all else equal, against counts of patients."""
    out = ["## View, by images and by patients", ""]
    out += [f"{SETS} simulated sets each: 1 to 30 images per patient, AP with a chance of its own; a patient's images",
            "share an effect (standard deviation 0.5 of the logit). By patients: who ever had an AP image against the",
            "others, with the finding in any image. 95 % intervals.", ""]  # fmt: skip
    out += [
        "| patients | true odds ratio | by images: mean | covers | by patients: mean | covers |",
        "|---|---|---|---|---|---|",
    ]
    for patients, truth in ((300, 1.0), (300, 0.8), (3000, 0.8), (3000, 2.0)):
        rows = np.array([one_view(patients, truth, seed) for seed in range(SETS)])
        value, low, high, by_patient, patient_low, patient_high, target = rows.T
        held, other = ((a <= target) & (target <= b) for a, b in ((low, high), (patient_low, patient_high)))
        mean, patient_mean, shown = (np.exp(np.log(part).mean()) for part in (value, by_patient, target))
        out.append(
            f"| {patients:,} | {shown:.2f} | {mean:.2f} | {held.mean():.1%} | {patient_mean:.2f} | {other.mean():.1%} |"
        )
    return out


def one_view(patients: int, truth: float, seed: int) -> tuple[float, ...]:
    """Odds of a finding in AP images with limits, by images and by patients, and the marginal odds ratio."""
    rng = np.random.default_rng([patients, seed, round(truth * 10), 7])
    images = np.minimum(1 + rng.geometric(0.3, patients) * rng.integers(0, 4, patients), 30)
    patient = np.repeat(np.arange(patients), images)
    age = rng.integers(20, 90, patients)[patient]
    ap = rng.random(len(patient)) < 0.4
    logit = -2 + np.log(truth) * ap + 0.01 * (age - 55) + rng.normal(0, 0.5, patients)[patient]
    y = (rng.random(len(patient)) < 1 / (1 + np.exp(-logit))).astype(np.float32)[:, None]
    frame = pd.DataFrame({"age": age, "view": np.where(ap, "AP", "PA"), "source": ""})
    variable = variable_of("view", frame["view"], ["AP", "PA"], ("view",))
    row = adjusted_odds(variable, frame, y, patient, ["finding"])[0]
    ever, sick = (np.bincount(patient, part) > 0 for part in (ap, y[:, 0]))
    by_patient = odds_ratio(int((ever & sick).sum()), int(ever.sum()), int((~ever & sick).sum()), int((~ever).sum()))
    found = [row["odds_ratio"], row["ci_low"], row["ci_high"], by_patient.value, by_patient.low, by_patient.high]
    return (*found, float(truth ** (1 / np.sqrt(1 + 0.346 * 0.25))))


def shares() -> list[str]:
    """Does the interval of a prevalence hold what it promises, for rare findings and few images too?"""
    out = ["## Prevalence intervals", ""]
    out += [f"{SHARES:,} simulated sets each of n images, 50 to 5,000, prevalence 0.002 to 0.5; a patient's images are",
            "alike as a correlation says. One image per patient; 1 to about 8 (Poisson); 1 to 100, most with a few",
            "(skewed), also with the finding more frequent where patients have more images. 95 % intervals; width:",
            "over that of the exact interval of n patients.", ""]  # fmt: skip
    out += ["| images per patient | correlation | coverage: mean | lowest | at n, prevalence | width |",
            "|---|---|---|---|---|---|"]  # fmt: skip
    for sizes, alike in (("one", 0.0), ("Poisson", 0.0), ("Poisson", 0.3), ("Poisson", 0.7), ("skewed", 0.0),
                         ("skewed", 0.3), ("skewed", 0.7), ("skewed, more where sick", 0.3)):  # fmt: skip
        cells = [
            (*held_share(sizes, n, p, alike), n, p)
            for n in (50, 200, 1000, 5000)
            for p in (0.002, 0.01, 0.05, 0.2, 0.5)
        ]
        held, least = np.array([c[0] for c in cells]), min(cells)
        width = np.exp(np.mean(np.log([c[1] for c in cells])))
        out.append(
            f"| {sizes} | {alike:g} | {held.mean():.1%} | {least[0]:.1%} | {least[2]:,}, {least[3]:g} | {width:.2f} |"
        )
    return out


def held_share(sizes: str, n: int, p: float, alike: float) -> tuple[float, float]:
    """Share of simulated sets whose interval holds the prevalence, and its width over the exact one of n patients."""
    rng = np.random.default_rng([n, round(1000 * p), round(10 * alike), len(sizes)])
    images = patients_of(sizes, n, rng)
    rate = np.full(len(images), p)
    if "sick" in sizes:
        at = np.linspace(-15, 5, 2001)
        mean = (special.expit(at[:, None] + np.log(images)) * images).sum(axis=1) / n
        rate = special.expit(np.interp(p, mean, at) + np.log(images))
    truth = float(rate @ images / n)
    patient = np.repeat(np.arange(len(images)), images)
    held, width = [], []
    for _ in range(SHARES // BATCH):  # the sets of a batch are columns: findings do not tell of each other
        size = (BATCH, len(images))
        drawn = np.broadcast_to(rate, size) if alike == 0 else rng.beta(*beta_of(rate, alike), size)
        y = (rng.random((n, BATCH)) < drawn.T[patient]).astype(np.float32)
        tally = tally_levels(y, patient, np.zeros(n, int), ["all"])
        low, high = tally.low[0], tally.high[0]
        exact = clustered_interval(y.mean(axis=0), np.full(BATCH, float(n)))
        held.append((low <= truth) & (truth <= high))
        width.append((high - low) / (exact[1] - exact[0]))
    return float(np.mean(held)), float(np.mean(width))


def beta_of(rate: np.ndarray, alike: float) -> tuple[np.ndarray, np.ndarray]:
    """Parameters of a beta distribution with mean ``rate`` and correlation ``alike`` between a patient's images."""
    return rate * (1 / alike - 1), (1 - rate) * (1 / alike - 1)


def patients_of(sizes: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Images per patient, n in all."""
    if sizes == "one":
        return np.ones(n, int)
    images = (
        1 + rng.poisson(2.5, n) if sizes == "Poisson" else np.minimum(1 + rng.pareto(1.1, n) * 1.5, 100).astype(int)
    )
    ends = np.cumsum(images)
    kept = images[: int(np.searchsorted(ends, n)) + 1]
    kept[-1] -= kept.sum() - n
    return kept


PARTS: dict[str, Callable[..., list[str]]] = {
    "faults": planted_faults, "mirrored": mirrored_images, "copies": planted_copies, "labels": wrong_labels,
    "shares": shares, "power": sample_sizes, "odds": coverage, "views": views,
}  # fmt: skip
SIMULATED = ("shares", "power", "odds", "views")

if __name__ == "__main__":
    start = time.monotonic()
    main()
    print(f"{time.monotonic() - start:.0f} s")
