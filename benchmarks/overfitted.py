"""Is a core that learnt its training images by heart caught, and a sound one left alone?

    python benchmarks/overfitted.py --out benchmarks/OVERFITTED.md --work runs/overfitted

The same diffusion core is trained for the same number of steps on 50 and on 4,000 phantoms of 32 px; a Gaussian core
is fitted to the 4,000. Each attack of :data:`ATTACKS` is asked about each core. Held-out phantoms are of other
patients. Finished trainings and samples lie in ``--work`` and are reused.

The preconditioner keeps 4 principal components, so that the network has to learn the images. With nearly as many as
there are images the Gaussian part holds their span, the network adds little, and what is drawn are blends of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxraug.cores.conditions import Conditions
from cxraug.cores.core import GenerativeCore, Prompt
from cxraug.cores.diffusion.training import train_diffusion
from cxraug.cores.gaussian import fit_gaussian
from cxraug.cores.registry import open_core
from cxraug.cores.settings import DiffusionSettings
from cxraug.fidelity.extractors import conv_random
from cxraug.privacy.closest import closest_record
from cxraug.privacy.denoising import LEVELS, HasDenoisingLoss
from cxraug.privacy.membership import distance_scores, membership
from cxraug.privacy.memorisation import CopyDetector
from cxraug.progress import track
from cxraug.storage import atomic
from cxraug.studies.phantom.cohort import PhantomSettings, render_study, sample_cohort
from cxraug.studies.phantom.findings import FINDINGS
from cxraug.studies.seen import Seen

SIDE, FEW, MANY, HELD, MADE = 32, 50, 4000, 300, 100
COMPONENTS = 4  # of the preconditioner; the Gaussian core keeps 48
RATE, LEVEL = 0.01, 0.01  # of false alarms per image; of the test of the whole set
KEY = "00" * 16


@dataclass(frozen=True)
class Patients:
    """Frontal images uint8 (n, 32, 32) of n patients, and what a core is told of them."""

    pixels: np.ndarray
    conditions: Conditions

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> Patients:
        """Some of them."""
        return Patients(self.pixels[rows], self.conditions.take(rows))

    def prompts(self) -> list[Prompt]:
        """A prompt for each."""
        c = self.conditions
        return [
            Prompt(f"p{i}", dict(zip(c.findings, c.y[i].astype(int).tolist(), strict=True)), str(c.sex[i]), c.age[i])
            for i in range(len(self))
        ]


@dataclass(frozen=True)
class Case:
    """A core with the patients it was trained on, others, and images it made of the prompts of its members."""

    name: str
    core: GenerativeCore
    members: Patients
    others: Patients
    made: np.ndarray


@dataclass(frozen=True)
class Finding:
    """What an attack says of a core: an alarm or none, and the numbers behind it."""

    alarm: bool
    said: str


def memorisation(case: Case) -> Finding:
    """Matches of made images with training images, calibrated on the others (:mod:`cxraug.privacy.memorisation`)."""
    detector = CopyDetector.fit(
        case.members.pixels, np.arange(len(case.members)), case.others.pixels, rate=RATE, calibration=len(case.others)
    )
    found = detector.judge(case.made)
    whole = detector.excess(found["correlation"].to_numpy())
    assert whole is not None
    return Finding(
        whole.p_value <= LEVEL,
        f"{int(found['alarm'].sum())} of {len(found)} images called copies at {RATE:.0%}; all together p = "
        f"{whole.p_value:.2g}; correlation {found['correlation'].median():.3f} (median) to "
        f"{found['correlation'].max():.3f}, of real images {np.nanmedian(detector.null):.3f} to "
        f"{np.nanmax(detector.null):.3f}",
    )


def membership_by_distance(case: Case) -> Finding:
    """Distances of real images to made ones, relative to their real neighbours, members against the others."""
    pixels, member, who = _both(case)
    features = conv_random().features
    score = distance_scores(features(pixels), features(case.made), who)
    return _told(membership(score, member, who, level=LEVEL))


def membership_by_loss(case: Case) -> Finding | None:
    """The core's own denoising loss, members against the others; None for a core without one."""
    if not isinstance(case.core, HasDenoisingLoss):
        return None
    _, member, who = _both(case)
    parts = [case.core.denoising_loss(p.pixels, p.conditions, LEVELS, 0).mean(1) for p in (case.members, case.others)]
    return _told(membership(-np.concatenate(parts), member, who, level=LEVEL))


def closest(case: Case) -> Finding:
    """Whether made images lie closer to members than to as many others."""
    pixels, member, who = _both(case)
    features = conv_random().features
    found = closest_record(features(case.made), features(pixels), member, who, level=LEVEL)
    row = found["rows"][0]
    return Finding(
        bool(found["alarm"]), f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}] closer to a member"
    )


def _both(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of members and others, who is a member, and names of the patients."""
    pixels = np.concatenate([case.members.pixels, case.others.pixels])
    return pixels, np.arange(len(pixels)) < len(case.members), np.arange(len(pixels)).astype(str)


def _told(found: dict[str, Any]) -> Finding:
    row = found["rows"][0]
    auc = f"AUC {row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    return Finding(bool(found["alarm"]), f"{auc}; members among the highest scores: p = {found['p_top']:.2g}")


ATTACKS: dict[str, Callable[[Case], Finding | None]] = {
    "memorisation": memorisation, "membership, distance": membership_by_distance,
    "membership, loss": membership_by_loss, "closest record": closest,
}  # fmt: skip
EXPECTED = {"diffusion, 50 images": True, f"diffusion, {MANY:,} images": False, f"Gaussian, {MANY:,} images": False}


def main() -> None:
    """Parse, train, draw, attack, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "OVERFITTED.md")
    parser.add_argument("--steps", type=int, default=2000)
    asked = parser.parse_args()
    lines = [
        "# A core that learnt its images by heart", "",
        f"Printed by `python benchmarks/overfitted.py --work DIR --steps {asked.steps}`: phantoms of {SIDE} px, "
        f"{asked.steps} training steps for both diffusion cores, {MADE} images of each core, {HELD} held-out patients.",
        "", "| core | attack | alarm | expected | what it says |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for case in cases(asked.work, asked.steps):
        for name, attack in ATTACKS.items():
            found = attack(case)
            if found is None:
                continue
            words = case.name, name, _word(found.alarm), _word(EXPECTED[case.name]), found.said
            lines.append(f"| {' | '.join(words)} |")
            print(lines[-1], flush=True)
    with atomic(asked.out) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def cases(work: Path, steps: int) -> list[Case]:
    """The cores, trained or reopened."""
    everyone = patients(MANY + HELD)
    many, others = everyone.take(np.arange(MANY)), everyone.take(np.arange(MANY, MANY + HELD))
    few = many.take(np.arange(FEW))
    settings = DiffusionSettings(
        steps=steps, batch_size=16, channels=(64, 128, 192, 256), grid=8, components=COMPONENTS, dropout=0,
        field_dropout=0, ema=0.99, threads=1, guidance=1.0, sampler_steps=10, checkpoint_every=100,
    )  # fmt: skip
    found = []
    for name, members in (("diffusion, 50 images", few), (f"diffusion, {MANY:,} images", many)):
        folder = train_diffusion(
            members.pixels, members.conditions, work / f"diffusion-{len(members)}", settings,
            seen=Seen.of(["-"], ["-"], key=KEY), training_data={}, name=name,
        )  # fmt: skip
        found.append((name, open_core(str(folder)), members))
    gaussian = fit_gaussian(
        many.pixels, many.conditions, work / "gaussian", components=48, seen=Seen.of(["-"], ["-"], key=KEY),
        training_data={},
    )  # fmt: skip
    found.append((f"Gaussian, {MANY:,} images", gaussian, many))
    return [
        Case(name, core, members, others, drawn(core, members, work / f"{folder}.npy"))
        for folder, (name, core, members) in zip(("few", "many", "gaussian"), found, strict=True)
    ]


def patients(n: int) -> Patients:
    """Phantoms, one study each."""
    settings = PhantomSettings(n=n, seed=50, size=SIDE, studies_per_patient=1)
    studies = sample_cohort(settings).to_dict("records")
    pixels = np.stack([render_study(study, settings).images["PA"] for study in track(studies, "phantoms")])
    y = np.array([[finding in str(study["labels"]).split("|") for finding in FINDINGS] for study in studies])
    conditions = Conditions.of(
        FINDINGS, y.astype(np.float32), sex=[s["sex"] for s in studies], age=[s["age"] for s in studies]
    )
    return Patients(pixels, conditions)


def drawn(core: GenerativeCore, asked: Patients, file: Path) -> np.ndarray:
    """Images of the prompts of patients, kept in ``file``."""
    if not file.is_file():
        prompts = asked.prompts()[:MADE]
        studies = core.generate(prompts, list(range(len(prompts))))
        with atomic(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, np.stack([study.images["PA"] for study in studies]))
    return np.load(file)


def _word(alarm: bool) -> str:
    return "yes" if alarm else "no"


if __name__ == "__main__":
    main()
