"""A small classifier per patient-grouped fold of the training split: every real row has a score from a model that has
not seen it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from cxraug.classifiers.arms import ArmData
from cxraug.classifiers.arms import Images as LabelledImages
from cxraug.classifiers.card import CARD, SeenTogether, read_classifier_card, seen_parts
from cxraug.classifiers.prediction import predict_arm
from cxraug.classifiers.settings import TrainSettings
from cxraug.classifiers.training import train_arm
from cxraug.errors import InputError
from cxraug.gate.attributes import AGE
from cxraug.gate.check import Images
from cxraug.gate.settings import GateSettings
from cxraug.machine import Device
from cxraug.seeds import derive_seed
from cxraug.storage import digest, read_json, write_json
from cxraug.studies.seen import Seen

KIND = "gate"
FARTHEST = 16.0  # of a logit: probabilities in single precision say nothing beyond it
Scorer = Callable[[np.ndarray], np.ndarray]  # uint8 (n, S, S) -> scores (n, O), larger where an output is likelier


@dataclass(frozen=True)
class FoldModels:
    """Networks of one kind with the real rows that calibrate each.

    ``held_out[k]`` marks the rows that scorer k has not seen and that calibrate it; the masks are disjoint. ``names``
    (O,) are the outputs, ``model`` and ``sha256`` say what network it is.
    """

    scorers: list[Scorer]
    held_out: list[np.ndarray]
    names: tuple[str, ...]
    model: str
    sha256: list[str]


def fit_folds(
    real: Images, y: np.ndarray, names: Sequence[str], settings: GateSettings, seed: int, folder: Path,
    device: Device = "auto",
) -> FoldModels:  # fmt: skip
    """Train one classifier per fold on the other folds, or take what an earlier call made.

    ``names`` (O,) are its outputs and ``y`` float32 (n, O) their values, 1, 0 or NaN. The classifiers lie in a folder
    of ``folder`` that is named after everything they depend on: ``fold-<k>/`` each with ``model.safetensors`` and a
    card, and a ``card.json`` for all of them with the hashes of what they have seen.
    """
    key = _key(real, y, names, settings, seed, device)
    home = folder / f"classifier-{key[:12]}"
    train = TrainSettings(
        model=settings.model, steps=settings.steps, batch_size=settings.batch_size, lr=settings.learning_rate,
        eval_every=settings.steps, device=device,
    )  # fmt: skip
    nothing = LabelledImages(real.pixels[:0], y[:0])  # nothing is chosen: the last step's weights are kept
    folds = _folds(real, settings.folds, seed)
    scorers = []
    for k, held_out in enumerate(folds):
        rows = np.flatnonzero(~held_out)
        shown = _balanced(real.y, rows, settings.steps * settings.batch_size, derive_seed(seed, "gate rows", k))
        train_arm(
            ArmData(LabelledImages(real.pixels, y, shown)), nothing, home / f"fold-{k}", train,
            findings=names, seed=derive_seed(seed, "gate", k), seen=_seen(real.take(rows), key), progress=True,
        )  # fmt: skip
        scorers.append(_scorer(home / f"fold-{k}", names, device))
    card = {
        "kind": KIND, "key": key, "findings": list(names), "size": int(real.pixels.shape[1]), "seed": seed,
        "folds": [f"fold-{k}" for k in range(len(folds))], "settings": settings.model_dump(mode="json"),
        "seen": _seen(real, key).to_json(),
    }  # fmt: skip
    write_json(home / CARD, card)
    return _fold_models(scorers, folds, names, [home / f"fold-{k}" for k in range(len(folds))])


def load_folds(
    folder: Path, real: Images, findings: Sequence[str], attributes: Sequence[str] = (), device: Device = "auto"
) -> FoldModels:
    """Classifiers trained before: a trained classifier's folder, or one that :func:`fit_folds` wrote.

    All ``findings`` must be known to them; of ``attributes`` (sex, age, race) those that are known are read.

    Real rows whose patient or image they have seen do not calibrate; the others are dealt out by patient, since every
    classifier may score all of them.

    Raises
    ------
    InputError : no such classifier, or one of other findings or another image size.
    """
    card = read_json(folder / CARD)
    kind = card.get("kind") if isinstance(card, dict) else None
    if kind not in (KIND, "classifier"):
        raise InputError(
            "not the card of a classifier", file=folder / CARD, found=kind, expected=f"{KIND} or classifier"
        )
    homes = [folder / Path(str(name)).name for name in card["folds"]] if kind == KIND else [folder]
    cards = [read_classifier_card(home) for home in homes]
    in_all = [set(card.findings) for card in cards]
    ages = [name for name in cards[0].findings if name.startswith(AGE)]  # asked at other years than these data would
    wanted = [*(name for name in attributes if not name.startswith(AGE)), *(ages if attributes else [])]
    names = (*findings, *(name for name in wanted if all(name in known for known in in_all)))
    scorers = []
    for home, known in zip(homes, cards, strict=True):
        missing = [finding for finding in findings if finding not in known.findings]
        if missing:
            expected = f"one trained on {', '.join(findings)}"
            raise InputError(
                "the gate's classifier does not know a finding", file=home, found=missing[0], expected=expected
            )
        if known.size != real.pixels.shape[1]:
            expected = f"{real.pixels.shape[1]} pixels"
            raise InputError(
                "the gate's classifier takes another image size", file=home, found=known.size, expected=expected
            )
        scorers.append(_scorer(home, names, device))
    used = rows_seen(folds_seen(folder), real)
    number = np.unique(real.patients.astype(str), return_inverse=True)[1] % len(scorers)
    return _fold_models(scorers, [(number == k) & ~used for k in range(len(scorers))], names, homes)


def rows_seen(seen: Seen, real: Images) -> np.ndarray:
    """Which real rows (n,) have a patient or an image among what was ``seen``."""
    used = np.array([seen.count_patients([p]) > 0 for p in real.patients.astype(str)], bool)
    if real.sha is not None:
        used |= np.array([seen.count_images([s]) > 0 for s in real.sha.astype(str)], bool)
    return used


def folds_seen(folder: Path) -> Seen:
    """Keyed hashes of what the classifiers in ``folder`` (and weights they started from) have seen."""
    parts = seen_parts(folder)
    if not parts:
        raise InputError("no card that says what the gate's classifier has seen", file=folder, expected=CARD)
    return SeenTogether.join(parts)


def _fold_models(
    scorers: list[Scorer], held_out: list[np.ndarray], names: Sequence[str], homes: Sequence[Path]
) -> FoldModels:
    cards = [read_classifier_card(home) for home in homes]
    return FoldModels(scorers, held_out, tuple(names), cards[0].model, [card.sha256 for card in cards])


def _scorer(folder: Path, names: Sequence[str], device: Device) -> Scorer:
    known = read_classifier_card(folder).findings
    columns = [known.index(name) for name in names]

    def score(pixels: np.ndarray) -> np.ndarray:
        p = predict_arm(folder, pixels, device=device)[:, columns].astype(float)
        with np.errstate(divide="ignore"):
            return np.clip(np.log(p) - np.log1p(-p), -FARTHEST, FARTHEST)

    return score


def _folds(real: Images, folds: int, seed: int) -> list[np.ndarray]:
    """Masks (n,) of the held-out rows: patients whole, the rarest finding of each row spread evenly where it can be."""
    groups = np.unique(real.patients.astype(str), return_inverse=True)[1]
    if groups.max() + 1 < folds:
        n = int(groups.max()) + 1
        raise InputError("too few training patients to cross-fit the gate", found=n, expected=f"at least {folds}")
    positive = np.concatenate([real.y == 1, np.zeros((len(real), 1), bool)], axis=1)  # one more, for no findings at all
    counts = np.where(positive, positive.sum(axis=0), len(real) + 1)
    stratum = np.where(positive.any(axis=1), counts.argmin(axis=1), positive.shape[1])
    # a stratum of fewer rows than folds cannot be spread over them: it joins the rows without a finding
    rest, sizes = positive.shape[1], np.bincount(stratum)
    stratum = np.where(sizes[stratum] < folds, rest, stratum)
    if (stratum == rest).sum() < folds:
        stratum[stratum == rest] = sizes.argmax()
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    masks = []
    for _, held_out in splitter.split(stratum, stratum, groups):
        mask = np.zeros(len(real), bool)
        mask[held_out] = True
        masks.append(mask)
    return masks


def _balanced(y: np.ndarray, rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """``n`` of ``rows`` (repeats allowed): half as they come, half balanced over findings (a finding, then one of its
    positives), so that rare findings are seen often enough in a fixed number of steps."""
    rng = np.random.default_rng(seed)
    shown = rng.choice(rows, n)
    positives = [rows[y[rows, f] == 1] for f in range(y.shape[1])]
    positives = [part for part in positives if len(part)]
    for i in range(0, n if positives else 0, 2):
        shown[i] = rng.choice(positives[rng.integers(len(positives))])
    return shown


def _seen(real: Images, key: str) -> Seen:
    sha = [] if real.sha is None else real.sha.astype(str).tolist()
    return Seen.of(real.patients.astype(str).tolist(), sha, key=key[:32])


def _key(real: Images, y: np.ndarray, names: Sequence[str], settings: GateSettings, seed: int, device: Device) -> str:
    """Digest of everything that the classifiers depend on."""
    pixels = hashlib.sha256(np.ascontiguousarray(real.pixels).data).hexdigest()
    labels = hashlib.sha256(np.ascontiguousarray(y, dtype=np.float32).data).hexdigest()
    chosen = {name: getattr(settings, name) for name in ("folds", "model", "steps", "batch_size", "learning_rate")}
    chosen |= {} if device == "auto" else {"device": device}
    return digest([pixels, labels, real.patients.astype(str).tolist(), list(names), chosen, seed])
