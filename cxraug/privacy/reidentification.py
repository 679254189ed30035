"""The re-identification attack: fold by fold a network that has not seen a patient tries to recognise that patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.core import LATERAL
from cxraug.cores.measures.fitting import kept
from cxraug.evaluation.uncertainty import interval
from cxraug.privacy.linkage import (
    LEAST,
    MATCHED_ON,
    Attributes,
    Scored,
    Trials,
    auc,
    draw_trials,
    genuine_pairs,
    linkage,
    score_trials,
)
from cxraug.privacy.verification import (
    LEAST_PATIENTS,
    SHIFTS,
    Embedder,
    Lessons,
    embed,
    pixel_vectors,
    teachable,
    train_embedder,
)
from cxraug.progress import track
from cxraug.seeds import derive_seed
from cxraug.storage import digest
from cxraug.studies.cache import PixelCache
from cxraug.studies.manifest import Manifest
from cxraug.studies.splits import patient_hash

REIDENTIFICATION, ATTRIBUTES = "re-identification", "attribute linkage"
NETWORK, PIXELS, BOTH = "network", "pixels", "both"
NEAREST_NULL = 0.01  # of real strangers: what counts as a striking resemblance
MOST_PAIRS = 5000  # of all patients; more make no interval narrower that matters
BLOCK = 256  # images whose scores with a whole gallery are held at a time
NEAREST_PROBES, NEAREST_GALLERY = 1000, 4000  # images, at most one of a patient


@dataclass(frozen=True)
class IdentificationSettings:
    """``folds`` of patients; ``steps`` of each fold's network; ``most`` genuine pairs of a patient and ``impostors`` of
    a pair; ``replicates`` of the bootstrap; ``same_labels``: under another label a patient counts as another one."""

    folds: int = 3
    steps: int = 400
    most: int = 5
    impostors: int = 200
    replicates: int = 400
    seed: int = 0
    device: str = "cpu"
    same_labels: bool = False


@dataclass(frozen=True)
class Gallery:
    """Real images and what an attacker knows of them, row by row.

    ``pixels`` uint8 (n, S, S); ``sha`` (n,) of native pixels; ``patient`` (n,) int codes; ``projection`` (n,) 0
    frontal, 1 lateral; ``fold`` (n,) the fold of the patient; ``group`` (n,) sex and source; ``attributes`` to match.
    """

    pixels: np.ndarray
    sha: np.ndarray
    patient: np.ndarray
    projection: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    attributes: Attributes

    @classmethod
    def of(cls, manifest: Manifest, cache: PixelCache, settings: IdentificationSettings) -> Gallery:
        """Of a manifest and its pixels."""
        frame = manifest.frame
        who = frame["patient_id"].astype("str")
        if settings.same_labels:
            who = who + " " + frame["labels"].astype("str").fillna("")
        names, patient = np.unique(who.to_numpy(str), return_inverse=True)
        fold = np.array([int(patient_hash(f"attack {settings.seed} {name}") * settings.folds) for name in names])
        group = [f"{a}\0{b}" for a, b in zip(frame["source"], frame["sex"].astype("str").fillna(""), strict=True)]
        lateral = (frame["view"] == LATERAL).to_numpy(bool).astype(int)
        return cls(cache.pixels, np.asarray(cache.sha), patient, lateral, fold[patient],
                   np.unique(group, return_inverse=True)[1], Attributes.of(frame))  # fmt: skip

    def lessons(self, fold: int) -> Lessons:
        """What the network of ``fold`` learns from: every image of the other folds."""
        rows = np.flatnonzero(self.fold != fold)
        identity = np.unique(self.patient[rows] * 2 + self.projection[rows], return_inverse=True)[1]
        return Lessons(np.asarray(self.pixels[rows]), identity, self.group[rows] * 2 + self.projection[rows])


@dataclass(frozen=True)
class Attack:
    """What came out: ``rows`` of the table, ``facts`` for the record, ``notes`` to read."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    notes: list[str]


class Identification:
    """The attackers of all folds, and the attack on real pairs that says what they are worth.

    Of three attackers (the network; plain correlation of pixels; the sum of both, each in units of its spread between
    strangers) a fold uses the one that does best on the real pairs of the *other* folds, never on its own.
    """

    def __init__(self, gallery: Gallery, work: Path, settings: IdentificationSettings) -> None:
        self.gallery, self.settings, self.work = gallery, settings, work
        self.notes: list[str] = []
        self.models: list[Embedder | None] = []
        self.shas: list[str] = []
        lessons_of = [gallery.lessons(fold) for fold in range(settings.folds)]
        able = min(teachable(lessons) for lessons in lessons_of) >= LEAST_PATIENTS
        for fold, lessons in enumerate(lessons_of):
            if not able:
                self.models.append(None)
                continue
            about = {"pixels": digest(sorted(gallery.sha[gallery.fold != fold].tolist())), "steps": settings.steps,
                     "identity": digest(lessons.identity.tolist()), "group": digest(lessons.group.tolist()),
                     "size": int(gallery.pixels.shape[1]), "seed": settings.seed, "fold": fold,
                     "folds": settings.folds}  # fmt: skip
            model, facts = kept(
                work / f"network-{fold}", about,
                lambda lessons=lessons, fold=fold: train_embedder(  # type: ignore[misc]
                    lessons, steps=settings.steps, seed=derive_seed(settings.seed, "fold", fold),
                    device=settings.device,
                ),
                Embedder,
            )  # fmt: skip
            self.models.append(model)
            self.shas.append(facts["sha256"])
        if not able:
            self.notes.append(
                f"no patient-verification network: fewer than {LEAST_PATIENTS} patients with several images to train "
                "it on; only pixels are compared"
            )
        self._targets: dict[tuple[int, str], np.ndarray] = {}
        self._spread: dict[tuple[int, str], tuple[float, float]] = {}
        self.attackers = [NETWORK, PIXELS, BOTH] if able else [PIXELS]
        self.chosen = [self.attackers[0]] * settings.folds

    # scores

    def _vectors(
        self, fold: int, attacker: str, pixels: np.ndarray, shifts: Sequence[tuple[int, int]] = ((0, 0),)
    ) -> np.ndarray:
        """(n, shifts, d) vectors whose dot products are the scores; pixels are taken at each of ``shifts``."""
        parts = []
        if attacker != PIXELS:
            model = self.models[fold]
            assert model is not None
            alone = embed(model, pixels, device=self.settings.device)
            parts.append(np.broadcast_to(alone[:, None], (len(alone), len(shifts), alone.shape[1])))
        if attacker != NETWORK:
            parts.append(np.stack([pixel_vectors(pixels, shift) for shift in shifts], axis=1))
        if attacker == BOTH:
            scale = [self._strangers(fold, name)[1] for name in (NETWORK, PIXELS)]
            parts = [part / np.float32(np.sqrt(s)) for part, s in zip(parts, scale, strict=True)]
        return np.concatenate(parts, axis=2)

    def _target_vectors(self, fold: int, attacker: str) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of the fold's real rows, and the position of every real row among them (-1 elsewhere)."""
        rows = np.flatnonzero(self.gallery.fold == fold)
        place = np.full(len(self.gallery.fold), -1)
        place[rows] = np.arange(len(rows))
        if (fold, attacker) not in self._targets:
            self._targets[fold, attacker] = self._vectors(fold, attacker, self.gallery.pixels[rows])[:, 0]
        return self._targets[fold, attacker], place

    def _scored(self, fold: int, attacker: str, trials: Trials, pixels: np.ndarray) -> Scored:
        """Scores of trials of one fold; ``pixels`` is the probes' table."""
        used, at = np.unique(trials.probe, return_inverse=True)
        probes = self._vectors(fold, attacker, pixels[used], _shifts(attacker))
        targets, place = self._target_vectors(fold, attacker)
        local = replace(trials, probe=at, target=place[trials.target], other=place[trials.other])
        scored = score_trials(local, lambda row: probes[row], targets)
        return Scored(trials, scored.genuine, scored.impostor)

    def _strangers(self, fold: int, attacker: str) -> tuple[float, float]:
        """Mean and spread of an attacker's scores between images of different patients of a fold."""
        if (fold, attacker) not in self._spread:
            rows = np.flatnonzero(self.gallery.fold == fold)
            rng = np.random.default_rng(derive_seed(self.settings.seed, "strangers", fold))
            rows = rng.permutation(rows)[:500]
            vectors = self._vectors(fold, attacker, self.gallery.pixels[np.sort(rows)])[:, 0]
            patient = self.gallery.patient[np.sort(rows)]
            scores = (vectors @ vectors.T)[patient[:, None] != patient[None]]
            spread = float(scores.std()) if len(scores) else 1.0
            self._spread[fold, attacker] = (float(scores.mean()) if len(scores) else 0.0, max(spread, 1e-6))
        return self._spread[fold, attacker]

    def _standard(self, fold: int, attacker: str, scored: Scored) -> Scored:
        """In units that folds share: spread of scores between strangers."""
        mean, spread = self._strangers(fold, attacker)
        return Scored(scored.trials, (scored.genuine - mean) / spread, (scored.impostor - mean) / spread)

    # attacks

    def attack_real(self) -> Attack:
        """Real pairs of one patient against impostors: matched, and unmatched. Chooses each fold's attacker."""
        gallery, settings = self.gallery, self.settings
        probe, target, same = genuine_pairs(
            gallery.patient, gallery.projection, gallery.sha, most=settings.most, seed=settings.seed
        )
        some = self._some(len(probe))
        probe, target = probe[some], target[some]
        found: dict[str, dict[tuple[int, str], Scored]] = {REIDENTIFICATION: {}, ATTRIBUTES: {}}
        lost = dict.fromkeys(found, 0)
        for name, part in found.items():
            trials, lost[name] = self._trials(probe, target, name)
            for fold in track(range(settings.folds), f"{name} of real pairs"):
                mine = trials.take(gallery.fold[trials.target] == fold)
                for attacker in self.attackers:
                    part[fold, attacker] = self._standard(
                        fold, attacker, self._scored(fold, attacker, mine, gallery.pixels)
                    )
        choice = REIDENTIFICATION if any(len(s.trials) for s in found[REIDENTIFICATION].values()) else ATTRIBUTES
        for fold in range(settings.folds):
            values = {}
            for attacker in self.attackers:
                others = pool([found[choice][f, attacker] for f in range(settings.folds) if f != fold])
                values[attacker] = float(auc(others).value[0]) if len(others.trials) else 0.0
            self.chosen[fold] = max(self.attackers, key=lambda name: values[name])
        rows = []
        facts: dict[str, Any] = {
            "attackers": self.chosen, "networks": self.shas, "same_picture_pairs_left_out": same,
            "pairs": len(probe), "without_matched_impostor": lost[REIDENTIFICATION],
        }  # fmt: skip
        single = {}
        for name, part in found.items():
            pooled = pool([part[fold, self.chosen[fold]] for fold in range(settings.folds)])
            rows += self._rows(pooled, name, "real pairs")
            for attacker in self.attackers:
                alone = pool([part[fold, attacker] for fold in range(settings.folds)])
                single[f"{name}: {attacker}"] = float(auc(alone).value[0]) if len(alone.trials) else None
        notes = list(self.notes)
        if same:
            notes.append(f"{same} pairs of one patient are the same picture twice and are left out of the attack")
        if lost[REIDENTIFICATION]:
            notes.append(
                f"{lost[REIDENTIFICATION]} of {len(probe)} real pairs have no impostor with the same {MATCHED_ON}, and "
                "are left out of the matched attack"
            )
        return Attack(rows, facts | {"auc_of_each_attacker": single}, notes)

    def attack_synthetic(
        self, pixels: np.ndarray, original: np.ndarray, target: str = "synthetic to original", *, level: float = 0.025
    ) -> Attack:
        """From synthetic images uint8 (m, S, S) to the real rows ``original`` (m,) that they stand in for.

        Impostors are originals of other patients (rows that occur in ``original``) of the same fold and projection.
        ``level`` : of the one-sided test (matched AUC above 0.5) behind the alarm.
        """
        gallery, settings = self.gallery, self.settings
        rng = np.random.default_rng(derive_seed(settings.seed, "synthetic pairs"))
        order = rng.permutation(len(original))
        rank = pd.Series(gallery.patient[original[order]]).groupby(gallery.patient[original[order]]).cumcount()
        probe = np.sort(order[rank.to_numpy() < settings.most])
        probe = probe[self._some(len(probe))]
        linked = np.zeros(len(gallery.patient), bool)
        linked[original] = True
        rows: list[dict[str, Any]] = []
        facts: dict[str, Any] = {"pairs": len(probe), "linked": len(original)}
        notes = []
        for name in (REIDENTIFICATION, ATTRIBUTES):
            trials, lost = self._trials(probe, original[probe], name, linked)
            parts = []
            for fold in track(range(settings.folds), f"{name} of synthetic images"):
                mine = trials.take(gallery.fold[trials.target] == fold)
                attacker = self.chosen[fold]
                parts.append(self._standard(fold, attacker, self._scored(fold, attacker, mine, pixels)))
            found = self._rows(pool(parts), name, target)
            if name == REIDENTIFICATION:
                _raise_alarm(found[0], pool(parts), level)
            rows += found
            if name == REIDENTIFICATION:
                facts["without_matched_impostor"] = lost
                if lost:
                    notes.append(
                        f"{lost} of {len(probe)} synthetic images have no impostor whose original has the same "
                        f"{MATCHED_ON}, and are left out of the matched attack"
                    )
        return Attack(rows, facts, notes)

    def attack_nearest(self, pixels: np.ndarray, projection: np.ndarray) -> Attack:
        """Synthetic images without links: how many resemble some real patient more than 99 % of real strangers do.

        ``pixels`` uint8 (m, S, S), ``projection`` (m,). A real image's resemblance to strangers is its best match among
        one image of each other patient of its fold; no AUC is claimed, for nobody knows whom a synthetic image shows.
        """
        gallery, settings = self.gallery, self.settings
        rng = np.random.default_rng(derive_seed(settings.seed, "nearest"))
        above, of, patients = [], [], 0
        some = np.sort(rng.permutation(len(pixels))[: 2 * NEAREST_PROBES])
        for fold in track(range(settings.folds), "nearest patients of synthetic images"):
            for side in np.unique(projection[some]):
                real = np.flatnonzero((gallery.fold == fold) & (gallery.projection == side))
                real = real[rng.permutation(len(real))]
                real = np.sort(real[np.unique(gallery.patient[real], return_index=True)[1]][:NEAREST_GALLERY])
                if len(real) < 2 * LEAST:
                    continue
                attacker = self.chosen[fold]
                targets, place = self._target_vectors(fold, attacker)
                targets = targets[place[real]]
                probes = np.sort(rng.permutation(len(real))[:NEAREST_PROBES])
                null = self._best(fold, gallery.pixels[real[probes]], targets, probes)
                mine = some[projection[some] == side]
                best = self._best(fold, pixels[mine], targets, None)
                cut = np.sort(null)[::-1][int(np.floor(NEAREST_NULL * len(null)))]
                above += (best > cut).tolist()
                of += mine.tolist()
                patients += len(real)
        n = len(set(of))
        about = {"attack": REIDENTIFICATION, "target": "synthetic to nearest patient", "impostors": "real strangers",
                 "measure": "resemble a patient", "ci_low": None, "ci_high": None, "n_pairs": n,
                 "n_patients": patients}  # fmt: skip
        method = (
            "share of synthetic images whose best match among real patients is above what 1 % of real images reach "
            "with strangers; mean over folds; says nothing about AUC: no links were given"
        )
        value = float(np.mean(above)) if above else None
        flag = "" if above else "suppressed"
        return Attack([about | {"value": value, "method": method, "flag": flag}], {"synthetic_images": n}, [])

    def _best(self, fold: int, pixels: np.ndarray, targets: np.ndarray, own: np.ndarray | None) -> np.ndarray:
        """Highest score of each image with any target; ``own`` (n,) is the target that is the image itself."""
        attacker = self.chosen[fold]
        best = np.empty(len(pixels), np.float32)
        for i in range(0, len(pixels), BLOCK):
            vectors = self._vectors(fold, attacker, pixels[i : i + BLOCK], _shifts(attacker))
            scores = np.max([vectors[:, shift] @ targets.T for shift in range(vectors.shape[1])], axis=0)
            if own is not None:
                scores[np.arange(len(scores)), own[i : i + BLOCK]] = -np.inf
            best[i : i + BLOCK] = scores.max(axis=1)
        return best

    def _some(self, n: int) -> np.ndarray:
        rng = np.random.default_rng(derive_seed(self.settings.seed, "pairs"))
        return np.sort(rng.permutation(n)[:MOST_PAIRS])

    def _trials(
        self, probe: np.ndarray, target: np.ndarray, name: str, among: np.ndarray | None = None
    ) -> tuple[Trials, int]:
        gallery = self.gallery
        within = gallery.fold * 2 + gallery.projection
        if among is not None:  # rows that may not be impostors stand alone
            within = np.where(among, within, 2 * self.settings.folds + np.arange(len(within)))
        attributes = gallery.attributes if name == REIDENTIFICATION else None
        return draw_trials(
            probe, target, gallery.patient, within, attributes, most=self.settings.impostors, seed=self.settings.seed
        )

    def _rows(self, scored: Scored, name: str, target: str) -> list[dict[str, Any]]:
        about = {"attack": name, "target": target, "impostors": "matched" if name == REIDENTIFICATION else "unmatched"}
        found = linkage(scored, replicates=self.settings.replicates, seed=self.settings.seed)
        return [about | row for row in found]


def _raise_alarm(row: dict[str, Any], scored: Scored, level: float) -> None:
    """Flag the AUC's row where the attack finds patients: its lower limit at a one-sided ``level`` is above chance."""
    if row["value"] is not None:
        area = auc(scored)
        low, _ = interval(area.value, area.variance, area.df, "logit", 2 * level)
        if low[0] > 0.5:
            row["flag"] = "|".join(filter(None, (row["flag"], "alarm")))


def _shifts(attacker: str) -> Sequence[tuple[int, int]]:
    return ((0, 0),) if attacker == NETWORK else SHIFTS


def pool(parts: Sequence[Scored]) -> Scored:
    """Trials of several folds as one; rows of tables stay what they were."""
    trials = [part.trials for part in parts]
    starts = np.cumsum([0, *(len(t.other) for t in trials)])
    start = np.concatenate([np.zeros(1, int), *(t.start[1:] + s for t, s in zip(trials, starts, strict=False))])

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros(0, arrays[0].dtype), *arrays])

    return Scored(
        Trials(joined([t.probe for t in trials]), joined([t.target for t in trials]), start,
               joined([t.other for t in trials]), joined([t.patient for t in trials]),
               joined([t.other_patient for t in trials])),
        joined([part.genuine for part in parts]), joined([part.impostor for part in parts]),
    )  # fmt: skip
