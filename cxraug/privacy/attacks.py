"""Every privacy attack on a synthetic set, one table: who attacks what, how well, and how sure that is.

First the attack on real pairs, for an attack that fails on those proves nothing; then the synthetic images. Nothing
here is a guarantee: attacks that nobody has thought of are not in the table.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug import __version__
from cxraug.cores.core import LATERAL, Card, GenerativeCore
from cxraug.errors import InputError
from cxraug.fidelity.extractors import Extractor, open_extractor
from cxraug.privacy.closest import closest_record
from cxraug.privacy.denoising import losses_of
from cxraug.privacy.membership import RULE, distance_scores, membership
from cxraug.privacy.memorisation import LEAST as CALIBRATION
from cxraug.privacy.memorisation import STATISTIC, CopyDetector
from cxraug.privacy.reidentification import (
    REIDENTIFICATION,
    Gallery,
    Identification,
    IdentificationSettings,
)
from cxraug.storage import atomic, digest, read_json, write_json
from cxraug.studies.cache import PixelCache, build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import Manifest

TABLE, RESULT, WORK = "attacks.csv", "privacy.json", "work"
COLUMNS = (
    "attack", "target", "impostors", "measure", "value", "ci_low", "ci_high", "n_pairs", "n_patients", "method", "flag",
)  # fmt: skip
LINKS = ("prompt_id", "image", "patient_id")
FALSE_ALARMS = 0.05  # chance that any of the tests of an audit raises an alarm about a sound core
LOSS_ROWS = 1000  # images on either side whose denoising loss is taken
VERSION = 3  # raised whenever the numbers change for the same settings
NOT_PROMISED = (
    "No differential privacy: none of these numbers bounds what another attacker could find.",
    "Only images are attacked here, not reports, and only by the attackers named below.",
    "Attributes that a synthetic image keeps by design (findings, sex, age, view) can be linked by whoever knows them; "
    "the row “attribute linkage” says how far.",
    "An interval says how sure a number is for these patients and this attacker. A stronger one may do better.",
)


@dataclass(frozen=True)
class AttackSettings:
    """What an audit is told.

    ``size`` pixels at which images are compared; ``folds`` of patients, ``steps`` of each fold's network; at most
    ``pairs`` genuine pairs of a patient and ``impostors`` of a pair; ``replicates`` of bootstraps; ``extractor`` whose
    features distances of membership and closest record are taken in; ``loss``: attack the core's loss too, where it
    has one; ``copies``: look for memorised images;
    ``same_labels``: for archives whose patient numbers may be shared by two patients under two labels, where a number
    under another label counts as another patient (re-identification only).
    """

    size: int = 64
    folds: int = 3
    steps: int = 400
    pairs: int = 5
    impostors: int = 200
    replicates: int = 400
    extractor: str = "conv-random"
    loss: bool = True
    copies: bool = True
    same_labels: bool = False
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, low, high in (("size", 32, 512), ("folds", 2, 20), ("steps", 1, 10**6), ("pairs", 1, 10**4),
                                ("impostors", 1, 10**5), ("replicates", 50, 10**5)):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is out of range", found=getattr(self, name), expected=f"{low} to {high}")

    @property
    def identification(self) -> IdentificationSettings:
        """Those of the re-identification."""
        return IdentificationSettings(
            self.folds, self.steps, self.pairs, self.impostors, self.replicates, self.seed, self.device,
            self.same_labels,
        )  # fmt: skip


def attack_swap(
    real: Manifest, swapped: Manifest, links: pd.DataFrame, out: Path, settings: AttackSettings | None = None,
    *, core: GenerativeCore | None = None, card: Card | None = None, networks: Path | None = None, fresh: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Attack a swap: :func:`attack_set` with the links from synthetic studies to the real ones they stand in for."""
    return attack_set(real, swapped, out, settings, links=links, core=core, card=card, networks=networks, fresh=fresh)


def attack_set(
    real: Manifest, synthetic: Manifest, out: str | Path, settings: AttackSettings | None = None,
    *, links: pd.DataFrame | None = None, core: GenerativeCore | None = None, card: Card | None = None,
    networks: Path | None = None, fresh: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run all attacks and write ``attacks.csv`` and ``privacy.json`` into ``out``; the same input is not run again.

    Parameters
    ----------
    real : every real image, also those that no synthetic one stands in for (rows marked synthetic are left out).
    synthetic : the images to attack; a column ``prompt_id`` where there are links.
    links : ``prompt_id, image, patient_id``: the real image (as the real manifest names it) and its patient that a
        prompt was made for. Each synthetic image is linked to its prompt's original of the same view, else of the same
        projection. Without links each synthetic image is compared with its nearest real patient, and no AUC is given.
    core : asked for its loss, where it has one; its card says who was trained on. card : the same without the core.
        Without either the members are the rows of the split train.
    networks : folder of the attackers' networks and decoded real images, to share between several sets; default
        ``out/work``.

    Returns
    -------
    What ``privacy.json`` holds: ``rows`` (:data:`COLUMNS`), ``sentences``, ``alarms``, ``notes``, ``counts``,
    ``settings``, ``digests``, ``not_promised``.

    Raises
    ------
    InputError : a link that names an unknown image or another patient, no image left, networks of other data.
    """
    settings, out = settings or AttackSettings(), Path(out)
    card = core.card if core is not None else card
    real = _without_synthetic(real)
    linked = None if links is None else link_rows(real, synthetic, links)
    about = {
        "version": VERSION, "settings": asdict(settings), "real": real.digest(), "synthetic": synthetic.digest(),
        "links": None if links is None else digest(links[list(LINKS)].astype("str").to_numpy().tolist()),
        "card": None if card is None else digest(card.model_dump(mode="json")), "loss of": core is not None,
    }  # fmt: skip
    work = networks or out / WORK
    if fresh:
        for name in (RESULT, TABLE):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / WORK, ignore_errors=True)
    encoding = Encoding(settings.size)
    kept_real, cache = build_cache(real, work / "real", encoding)
    kept_synthetic, made = build_cache(synthetic, out / WORK / "synthetic", encoding)
    about["pixels"] = digest([sorted(cache.sha.tolist()), sorted(made.sha.tolist())])
    key = digest(about)
    if (out / RESULT).is_file():
        found = read_json(out / RESULT)
        if found.get("key") == key:
            return dict(found)
    extractor = open_extractor(settings.extractor)
    audit = _Audit(kept_real, cache, kept_synthetic, made, settings, extractor, out / WORK)
    member, who = members_of(kept_real, cache.sha, card)
    tests = 3 + (linked is not None) + settings.copies + (core is not None and settings.loss)
    audit.level = FALSE_ALARMS / tests
    audit.identify(work, linked)
    audit.compare(member, who)
    audit.ask(core, member)
    if settings.copies:
        audit.copies(member)
    answer = {
        "key": key, "version": __version__, "settings": asdict(settings), "extractor": extractor.describe(),
        "digests": {k: v for k, v in about.items() if k in ("real", "synthetic", "links", "card", "pixels")},
        "core": None if card is None else {"name": card.name, "version": card.version, "sha256": card.sha256},
        "rows": audit.rows, "facts": audit.facts, "notes": audit.notes, "counts": audit.counts,
        "rule": f"{RULE}; stand-ins: alarm if the matched AUC of re-identification is above 0.5; the tests of an audit "
                f"share {100 * FALSE_ALARMS:g} % false alarms, {audit.level:.3g} each",
        "alarms": sorted({row["attack"] for row in audit.rows if "alarm" in row["flag"].split("|")}),
        "not_promised": list(NOT_PROMISED),
    }  # fmt: skip
    answer["sentences"] = sentences(answer)
    with atomic(out / TABLE) as temporary:
        pd.DataFrame(audit.rows, columns=list(COLUMNS)).to_csv(temporary, index=False)
    write_json(out / RESULT, answer)
    return dict(read_json(out / RESULT))


class _Audit:
    """One audit in flight: the images on both sides, and the rows so far."""

    def __init__(
        self, real: Manifest, cache: PixelCache, synthetic: Manifest, made: PixelCache, settings: AttackSettings,
        extractor: Extractor, work: Path,
    ) -> None:  # fmt: skip
        self.work = work
        self.real, self.cache, self.synthetic, self.made = real, cache, synthetic, made
        self.settings, self.extractor = settings, extractor
        self.level = FALSE_ALARMS
        self.rows: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.counts: dict[str, Any] = {
            "real_images": len(real), "real_patients": int(real.frame["patient_id"].nunique()),
            "synthetic_images": len(synthetic),
        }  # fmt: skip

    def identify(self, work: Path, linked: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Re-identification: real pairs first."""
        gallery = Gallery.of(self.real, self.cache, self.settings.identification)
        attack = Identification(gallery, work, self.settings.identification)
        parts = [attack.attack_real()]
        if linked is None:
            lateral = (self.synthetic.frame["view"] == LATERAL).to_numpy(bool).astype(int)
            parts.append(attack.attack_nearest(np.asarray(self.made.pixels), lateral))
        else:
            rows, original = linked
            self.counts["linked_images"] = len(rows)
            if len(rows) < len(self.synthetic):
                self.notes.append(f"{len(self.synthetic) - len(rows)} synthetic images are linked to no original")
            pixels = np.asarray(self.made.pixels[rows])
            parts.append(attack.attack_synthetic(pixels, original, level=self.level))
        for name, part in zip(("real pairs", "synthetic images"), parts, strict=True):
            self.rows += part.rows
            self.notes += part.notes
            self.facts[name] = part.facts

    def compare(self, member: np.ndarray, who: str) -> None:
        """Distance-based membership, and the closest record."""
        frame, settings = self.real.frame, self.settings
        patient, source = frame["patient_id"].to_numpy(str), frame["source"].to_numpy(str)
        self.counts |= {"members": int(member.sum()), "non_members": int((~member).sum()), "members_by": who}
        real, synthetic = (self._features(m, c) for m, c in ((self.real, self.cache), (self.synthetic, self.made)))
        torn = np.isin(patient, patient[member]) & ~member  # an image not seen, of a patient who was
        if torn.any():
            self.notes.append(f"{int(torn.sum())} unseen images of seen patients are left out of membership")
        keep = ~torn
        for name, others in (("calibrated by real neighbours", patient), ("plain", None)):
            score = distance_scores(real, synthetic, others, device=settings.device)
            found = membership(
                score[keep], member[keep], patient[keep], source[keep], level=self.level,
                replicates=settings.replicates, seed=settings.seed,
                method=f"distance to the nearest synthetic image, {name}",
            )  # fmt: skip
            self._membership(found, f"distance, {name}")
        found = closest_record(
            synthetic,
            real[keep],
            member[keep],
            patient[keep],
            source[keep],
            level=self.level,
            seed=settings.seed,
            device=settings.device,
        )
        about = {"attack": "closest record", "target": "synthetic images", "impostors": "held-out real images"}
        self.rows += [about | row for row in found["rows"]]

    def ask(self, core: GenerativeCore | None, member: np.ndarray) -> None:
        """Loss-based membership, where the core has a loss."""
        if core is None or not self.settings.loss:
            return
        rng = np.random.default_rng([self.settings.seed, 17])
        some = [rng.permutation(np.flatnonzero(side))[:LOSS_ROWS] for side in (member, ~member)]
        rows = np.sort(np.concatenate(some))
        losses = losses_of(core, self.real.take(rows), seed=self.settings.seed)
        if losses is None:
            self.notes.append(f"core {core.card.name} has no denoising loss to ask: membership from distances only")
            return
        patient = self.real.frame["patient_id"].to_numpy(str)[rows]
        keep = ~(np.isin(patient, patient[member[rows]]) & ~member[rows])
        found = membership(
            -losses[keep], member[rows][keep], patient[keep], self.real.frame["source"].to_numpy(str)[rows][keep],
            level=self.level, replicates=self.settings.replicates, seed=self.settings.seed,
            method="denoising loss over the noise levels, lower for members",
        )  # fmt: skip
        self._membership(found, "loss of the core")

    def copies(self, member: np.ndarray) -> None:
        """Memorisation: best matches among the training images beside those of held-out real images."""
        frame, pixels = self.real.frame, np.asarray(self.cache.pixels)
        patient, source = frame["patient_id"].to_numpy(str), frame["source"].to_numpy(str)
        held = ~member & ~np.isin(patient, patient[member]) & np.isin(source, source[member])
        about = {"attack": "memorisation", "target": "synthetic images", "impostors": "held-out real images",
                 "n_pairs": len(self.made), "n_patients": len(np.unique(patient[member | held]))}  # fmt: skip
        names = ("share of copies", "p of more copies than chance")
        if not member.any() or held.sum() < CALIBRATION:
            why = (
                f"{int(member.sum())} training and {int(held.sum())} held-out images; {CALIBRATION} held-out are needed"
            )
            self.rows += [about | _blank(name, why, "suppressed") for name in names]
            return
        detector = CopyDetector.fit(
            pixels[member], patient[member], pixels[held], patient[held], sha=self.cache.sha[member],
            seed=self.settings.seed, device=self.settings.device,
        )  # fmt: skip
        found = detector.judge(np.asarray(self.made.pixels))
        method = f"{STATISTIC}; {detector.abstains or f'false-alarm rate {detector.rate:g} per image'}"
        self.rows.append(about | _blank(names[0], method, "") | {"value": float(found["alarm"].mean())})
        excess = detector.excess(found["correlation"].to_numpy(float), level=self.level)
        if excess is None:
            self.rows.append(about | _blank(names[1], "too few calibration patients", "suppressed"))
            return
        method = (
            f"{excess.above} of {excess.n} images above a real match that {excess.expected:.1f} reach by chance; "
            f"{excess.n_calibration} held-out patients; copies of a share of {excess.detectable:.2g} would be noticed"
        )
        flag = "alarm" if excess.p_value < self.level else ""
        self.rows.append(about | _blank(names[1], method, flag) | {"value": excess.p_value})

    def _membership(self, found: Mapping[str, Any], target: str) -> None:
        about = {"attack": "membership", "target": target, "impostors": "held-out real images"}
        self.rows += [about | row for row in found["rows"]]
        self.facts[f"membership: {target}"] = {k: v for k, v in found.items() if k not in ("rows", "rule")}

    def _features(self, manifest: Manifest, cache: PixelCache) -> np.ndarray:
        """Features of the extractor, of pixels brought to its own encoding."""
        pixels = cache.pixels
        if self.extractor.encoding != Encoding(self.settings.size):
            name = "real-features" if manifest is self.real else "synthetic-features"
            pixels = build_cache(manifest, self.work / name, self.extractor.encoding)[1].pixels
        parts = [self.extractor.features(np.asarray(pixels[i : i + 1024])) for i in range(0, len(pixels), 1024)]
        return np.concatenate(parts).astype(np.float32)


def link_rows(real: Manifest, synthetic: Manifest, links: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic rows (m,) that are linked, and the real row (m,) of each.

    Raises :class:`InputError` for missing columns, an image that is not in the real manifest or is another patient's,
    and where no synthetic image is linked.
    """
    for name in LINKS:
        if name not in links:
            raise InputError("links: missing column", column=name, expected=", ".join(LINKS))
    if "prompt_id" not in synthetic.frame:
        raise InputError("the synthetic manifest has no column to link by", file=synthetic.file, column="prompt_id")
    place = {image: i for i, image in enumerate(real.frame["image"])}
    patient, view = real.frame["patient_id"].to_numpy(str), real.frame["view"].to_numpy(str)
    of: dict[str, list[int]] = {}
    for number, (prompt, image, who) in enumerate(
        zip(links["prompt_id"].astype(str), links["image"].astype(str), links["patient_id"].astype(str), strict=True), 2
    ):
        if image not in place:
            raise InputError("links: no such image in the real manifest", row=number, column="image", found=image)
        if patient[place[image]] != who:
            raise InputError("links: the image is another patient's", row=number, column="patient_id", found=who)
        of.setdefault(prompt, []).append(place[image])
    rows, originals = [], []
    for row, (prompt, own) in enumerate(zip(synthetic.frame["prompt_id"], synthetic.frame["view"], strict=True)):
        able = [i for i in of.get(str(prompt), []) if (view[i] == LATERAL) == (own == LATERAL)]
        if able:
            rows.append(row)
            originals.append(next((i for i in able if view[i] == own), able[0]))
    if not rows:
        raise InputError("links: no synthetic image is linked to a real one", file=synthetic.file, column="prompt_id")
    return np.array(rows, int), np.array(originals, int)


def members_of(real: Manifest, sha: np.ndarray, card: Card | None) -> tuple[np.ndarray, str]:
    """Which real rows (n,) a core was trained on, and how that is known.

    By the hashes of images in its card (of patients, where it has none of images), else (no card, or one without
    hashes) by the split train.
    """
    frame = real.frame
    train = (frame["split"] == "train").to_numpy(bool)
    if card is None:
        return train, "rows of the split train"
    seen = card.hashes
    if not (seen.images or seen.patients):  # a core of another program: it may have been trained on anything
        return train, f"rows of the split train: the card of {card.name} does not say what it was trained on"
    if seen.images:
        member = [bool(seen.count_images([one])) for one in sha]
    else:
        patients = frame["patient_id"].astype(str)
        known = {name: bool(seen.count_patients([name])) for name in pd.unique(patients)}
        member = [known[name] for name in patients]
    return np.array(member, bool), f"hashes in the card of {card.name}"


def sentences(answer: Mapping[str, Any]) -> list[str]:
    """The verdict in plain sentences, every AUC with its upper 95 % limit."""
    rows = answer["rows"]

    def find(**wanted: str) -> dict[str, Any] | None:
        return next((row for row in rows if all(row[k] == v for k, v in wanted.items())), None)

    lines = []
    first = find(attack=REIDENTIFICATION, target="real pairs", measure="auc")
    if first is None or first["value"] is None:
        lines.append(
            "The re-identification attack could not be tried on real pairs (too few patients with several images), so "
            "what it does not find in synthetic images proves nothing."
        )
    else:
        lines.append(
            f"On two real images of one patient the attack reaches AUC {_limits(first)} against matched strangers "
            f"({first['n_patients']} patients): {_strength(first)}"
        )
    linked = find(attack=REIDENTIFICATION, target="synthetic to original", measure="auc")
    if linked is not None and linked["value"] is not None:
        lines.append(
            f"From a synthetic image to the patient it stands in for it reaches AUC {_limits(linked)} against matched "
            f"strangers (upper 95 % limit {linked['ci_high']:.3f}, {linked['n_patients']} patients; 0.5 is chance): "
            f"{_verdict(linked)}."
        )
    elif linked is not None:
        lines.append("From synthetic images to their originals there are too few linked patients to say anything.")
    near = find(attack=REIDENTIFICATION, measure="resemble a patient")
    if near is not None and near["value"] is not None:
        lines.append(
            f"{100 * near['value']:.1f} % of the synthetic images resemble some real patient more than 99 % of real "
            "images resemble any stranger (1 % would be chance; no links were given, so no AUC is claimed)."
        )
    if not answer["counts"]["members"]:
        lines.append(
            "Membership, closest record and memorisation: not judged, none of these real images is one that the core "
            f"was trained on ({answer['counts']['members_by']}). Copies of others' images are not looked for."
        )
        return lines
    for target in dict.fromkeys(row["target"] for row in rows if row["attack"] == "membership"):
        row = find(attack="membership", target=target, measure="auc")
        assert row is not None
        if row["value"] is None:
            lines.append(f"Membership ({target}): not judged, {row['method']}.")
        else:
            upper = f"upper 95 % limit {row['ci_high']:.3f}"
            lines.append(f"Membership ({target}): AUC {_limits(row)} ({upper}): {_verdict(row)}.")
    row = find(attack="closest record", measure="closer to train")
    if row is not None and row["value"] is None:
        lines.append(f"Closest record: not judged, {row['method']}.")
    elif row is not None:
        lines.append(
            f"Closest record: a share of {_limits(row)} of the synthetic images is closer to training than to as many "
            f"held-out images (0.5 is chance): {_verdict(row)}."
        )
    share = find(attack="memorisation", measure="share of copies")
    row = find(attack="memorisation", measure="p of more copies than chance")
    missing = next((part for part in (share, row) if part is not None and part["value"] is None), None)
    if missing is not None:
        lines.append(f"Memorisation: not judged, {missing['method']}.")
    if share is not None and share["value"] is not None and row is not None and row["value"] is not None:
        lines.append(
            f"Memorisation: {100 * share['value']:.1f} % of the synthetic images match a training image more closely "
            f"than 99 % of held-out real images do; more than chance, p = {row['value']:.2g}: {_verdict(row)}."
        )
    return lines


def _blank(measure: str, method: str, flag: str) -> dict[str, Any]:
    return {"measure": measure, "value": None, "ci_low": None, "ci_high": None, "method": method, "flag": flag}


def _limits(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


def _verdict(row: Mapping[str, Any]) -> str:
    return "alarm" if "alarm" in row["flag"].split("|") else "no alarm"


def _strength(row: Mapping[str, Any]) -> str:
    if row["ci_low"] <= 0.5:
        return "it is not better than chance, so what it does not find in synthetic images proves nothing."
    if row["value"] < 0.75:
        return "it is weak, so what it does not find in synthetic images proves little."
    return "it recognises patients."


def _without_synthetic(real: Manifest) -> Manifest:
    if "synthetic" not in real.frame:
        return real
    keep = ~real.frame["synthetic"].fillna(False).astype(bool)
    if not keep.any():
        raise InputError("no real rows", file=real.file, column="synthetic", expected="real images to attack")
    return real.take(keep.to_numpy(bool))
