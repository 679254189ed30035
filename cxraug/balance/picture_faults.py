"""Images that are not as X-rays should lie: inverted, turned, mirrored, cropped, blank. No weights, no template.

Each fault is planted in the data set's own images; a small classifier learns to tell the planted ones from the images
as they are, and is asked about images of patients that it did not see. So the share of planted faults that it finds is
measured on these very images, and the share of images that it flags bounds its false alarms. Mirrored images are so
like sound ones that they have a classifier of their own (:mod:`cxraug.balance.mirrored`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special
from sklearn.linear_model import LogisticRegression

from cxraug.balance.mirrored import find_mirrored
from cxraug.privacy.structure import cells_of
from cxraug.seeds import derive_seed

SIDE = 16  # of the picture that is judged
FAULTS = ("inverted", "turned", "upside down", "cropped")
MIRRORED = "mirrored"  # no fault of a side view: both sides are taken
STRENGTHS = (0.001, 0.01, 0.3)  # inverse regularisation, round by round
PRIOR = 0.005  # share of the images that each fault is taken to have
CUT = 0.5  # probability of a fault above which an image is flagged
FOLDS = 2
LEAST, SAMPLE = 60, 1500  # images of one kind of view: fewer are not judged, more are not learnt from
CROP = (0.5, 0.75)  # share of the side that a planted crop keeps
FLAT = 6.0  # standard deviation in grey levels below which nothing can be seen
STUCK = 0.35  # share of the lines at one edge, all of one grey level, that says that part of the image is missing


@dataclass(frozen=True)
class PictureFaults:
    """What is wrong with the images.

    ``fault`` (n,) text, "" where nothing is; ``probability`` (n,) of it, NaN where not judged. ``found``: fault ->
    share of planted ones found, among patients that the classifier did not see. ``judged``: images that were compared.
    ``mirrored_found_at_one_percent``: the share of mirrored ones found if 1 % of the images were flagged for it.
    """

    fault: np.ndarray
    probability: np.ndarray
    found: dict[str, float]
    judged: int
    mirrored_found_at_one_percent: float | None = None

    def describe(self) -> dict[str, Any]:
        """Counts, and what is known about false alarms: they are at most all of what is flagged."""
        names, counts = np.unique(self.fault[self.fault != ""], return_counts=True)
        flagged = int((np.nan_to_num(self.probability) > CUT).sum())
        return {
            "judged": self.judged,
            "counts": {str(n): int(c) for n, c in zip(names, counts, strict=True)},
            "planted_found": self.found,
            "mirrored_found_at_one_percent": self.mirrored_found_at_one_percent,
            "most_false_alarms": flagged / self.judged if self.judged else None,
        }


def find_faults(
    pixels: np.ndarray, patients: np.ndarray, views: np.ndarray, seed: int = 0, structure: np.ndarray | None = None
) -> PictureFaults:
    """Look for faults in images.

    Parameters
    ----------
    pixels : uint8 (n, S, S), S a multiple of 16. patients, views : (n,) of each image; side views are judged apart, and
        for them mirrored is no fault. structure : (n, 512) of :func:`cxraug.privacy.structure.cells_of`, where it is at
        hand.

    Notes
    -----
    Faults are equally frequent where the classifier (multinomial logistic regression on 16 x 16 grey values,
    standardised per image) learns; for its verdict each is taken to be there in 0.5 % of the images.
    """
    fault, probability = np.full(len(pixels), "", dtype=object), np.full(len(pixels), np.nan)
    shares: dict[str, list[tuple[float, int]]] = {}
    flat = blank(pixels)
    side = np.array([str(view) == "Lateral" for view in views], bool)
    for lateral in (False, True):
        rows = np.flatnonzero((side == lateral) & (flat == ""))
        if len(rows) < LEAST:
            continue
        of = np.unique(patients[rows].astype(str), return_inverse=True)[1]
        fold = (np.random.default_rng(derive_seed(seed, "faults")).permutation(of.max() + 1) % FOLDS)[of]
        for k in range(FOLDS):
            if not (0 < (fold == k).sum() < len(rows)):
                continue
            model = _fit(pixels, rows[fold != k], derive_seed(seed, "plant", int(lateral), k))
            mine = rows[fold == k]
            p = _probabilities(model, small(pixels[mine]))
            worst = p[:, 1:].argmax(axis=1)
            probability[mine] = 1 - p[:, 0]
            fault[mine] = np.where(1 - p[:, 0] > CUT, np.array(FAULTS, dtype=object)[worst], "")
            test = mine[:SAMPLE]
            for j, kind in enumerate(FAULTS):
                planted = _probabilities(model, plant(pixels[test], kind, derive_seed(seed, kind, k)))
                hit = (1 - planted[:, 0] > CUT) & (planted[:, 1:].argmax(axis=1) == j)
                shares.setdefault(kind, []).append((float(hit.sum()), len(test)))
    found = {kind: sum(h for h, _ in parts) / sum(n for _, n in parts) for kind, parts in shares.items()}
    at_one_percent = None
    rows = np.flatnonzero(~side & (flat == "") & (fault == ""))
    mirrored = (
        find_mirrored(
            cells_of(pixels[rows]) if structure is None else structure[rows], patients[rows], PRIOR, CUT, seed
        )
        if len(rows)
        else None
    )
    if mirrored is not None:
        higher = mirrored.probability > np.nan_to_num(probability[rows], nan=-1.0)
        probability[rows] = np.where(higher, mirrored.probability, probability[rows])
        fault[rows] = np.where(mirrored.probability > CUT, MIRRORED, "")
        found[MIRRORED], at_one_percent = mirrored.found, mirrored.found_at_one_percent
    fault = np.where(flat != "", flat, fault)
    return PictureFaults(fault, probability, found, int(np.isfinite(probability).sum()), at_one_percent)


def blank(pixels: np.ndarray) -> np.ndarray:
    """(n,) "blank" where nothing can be seen, "partly blank" where lines at an edge are one grey level, else ""."""
    out = np.full(len(pixels), "", dtype=object)
    for i, image in enumerate(pixels):
        if image.std() < FLAT:
            out[i] = "blank"
        elif max(_stuck(image, axis, end) for axis in (0, 1) for end in (0, 1)) >= STUCK:
            out[i] = "partly blank"
    return out


def plant(pixels: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Grey values (n, 256) of images uint8 (n, S, S) with the fault ``kind`` of :data:`FAULTS`."""
    rng = np.random.default_rng(seed)
    if kind == "inverted":
        return small(255 - pixels)
    if kind == "turned":
        return small(
            np.where(
                (rng.random(len(pixels)) < 0.5)[:, None, None], np.rot90(pixels, 1, (1, 2)), np.rot90(pixels, 3, (1, 2))
            )
        )
    if kind == "upside down":
        turned = rng.random(len(pixels)) < 0.5  # half turned by 180 degrees, half flipped
        return small(np.where(turned[:, None, None], pixels[:, ::-1, ::-1], pixels[:, ::-1]))
    size = pixels.shape[1]
    cut = np.empty((len(pixels), size, size), np.uint8)
    for i, image in enumerate(pixels):
        side = int(size * rng.uniform(*CROP))
        y, x = rng.integers(0, size - side + 1, 2)
        at = np.arange(size) * side // size
        cut[i] = image[y : y + side, x : x + side][np.ix_(at, at)]
    return small(cut)


def small(pixels: np.ndarray) -> np.ndarray:
    """float32 (n, 256): means of blocks, to mean 0 and standard deviation 1 per image."""
    block = pixels.shape[1] // SIDE
    grey = (
        pixels.reshape(len(pixels), SIDE, block, SIDE, block)
        .mean(axis=(2, 4), dtype=np.float32)
        .reshape(len(pixels), -1)
    )
    spread = grey.std(axis=1, keepdims=True)
    return ((grey - grey.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-3)).astype(np.float32)


def listed(faults: PictureFaults, frame: pd.DataFrame) -> pd.DataFrame:
    """The images with a fault, the surest first: ``image, patient_id, split, source, view, fault, probability``."""
    rows = np.flatnonzero(faults.fault != "")
    table = frame.iloc[rows][["image", "patient_id", "split", "source", "view"]].reset_index(drop=True)
    table = table.assign(fault=faults.fault[rows], probability=np.round(faults.probability[rows], 4))
    return table.sort_values("probability", ascending=False, kind="stable", ignore_index=True)


def _fit(pixels: np.ndarray, rows: np.ndarray, seed: int) -> LogisticRegression:
    """The classifier, taught without images that look faulty to a stiffer one: it would learn to accept them."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(rows)[:SAMPLE])
    parts = [small(pixels[rows]), *(plant(pixels[rows], kind, derive_seed(seed, kind)) for kind in FAULTS)]
    kept = np.ones(len(rows), bool)
    for strength in STRENGTHS:
        x = np.concatenate([part[kept] for part in parts])
        model = LogisticRegression(C=strength, max_iter=200, tol=1e-3)
        model.fit(x, np.repeat(np.arange(len(FAULTS) + 1), int(kept.sum())))
        sound = model.decision_function(parts[0]).argmax(axis=1) == 0
        if sound.sum() >= LEAST // FOLDS:
            kept = sound
    return model


def _probabilities(model: LogisticRegression, x: np.ndarray) -> np.ndarray:
    """(n, 1 + faults) with each fault as rare as :data:`PRIOR` says."""
    logit = model.decision_function(x)
    weight = np.log([1 - len(FAULTS) * PRIOR, *[PRIOR] * len(FAULTS)])
    return special.softmax(logit + weight, axis=1)


def _stuck(image: np.ndarray, axis: int, end: int) -> float:
    """Share of lines, from one edge on, that are one grey level."""
    lines = image if axis == 0 else image.T
    lines = lines if end == 0 else lines[::-1]
    same = (np.ptp(lines.astype(np.int16), axis=1) <= 1) & (np.abs(lines[:, 0].astype(int) - int(lines[0, 0])) <= 1)
    return float((same.argmin() if not same.all() else len(same)) / len(same))
