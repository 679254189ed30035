"""Images that are mirrored, left for right: what of an image changes when it is mirrored tells which way round it is.

The heart, the diaphragm and the aortic arch lie on one side. No weights and no template: the data set's own images and
their mirror images teach which side that is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special
from sklearn.linear_model import LogisticRegression

from cxraug.privacy.structure import CELLS, ORIENTATIONS
from cxraug.seeds import derive_seed

FOLDS = 5
STRENGTH = 0.01  # inverse regularisation
LEAST, SAMPLE = 60, 5000  # images: fewer are not judged, more are not learnt from
ROUNDS = 2
MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
ONE_IN = 0.01  # share of false alarms at which the share found is told


@dataclass(frozen=True)
class Mirrored:
    """Which images are mirrored.

    ``probability`` (n,), and ``mirror_probability`` (n,) of each image's mirror image. ``side`` (n,): positive where
    the image lies as most do, and minus that of its mirror image. ``found``: share of images that would be flagged if
    they were mirrored; ``found_at_one_percent``: that share if the likeliest 1 % of the images that are not were
    flagged too.
    """

    probability: np.ndarray
    mirror_probability: np.ndarray
    side: np.ndarray
    found: float
    found_at_one_percent: float


def find_mirrored(
    structure: np.ndarray, patients: np.ndarray, prior: float, cut: float, seed: int = 0
) -> Mirrored | None:
    """Look for mirrored images among frontal ones; None with fewer than 60, or one patient.

    Parameters
    ----------
    structure : float32 (n, 512) of :func:`cxraug.privacy.structure.cells_of`. patients : (n,). prior : share of the
        images that is taken to be mirrored. cut : probability from which one would be flagged.

    Notes
    -----
    Logistic regression without intercept on the antisymmetric part of the structure (the image's minus its mirror
    image's), so that an image and its mirror image have opposite scores: every image tells what it would score if it
    were mirrored. Scores are of patients that were not learnt from. The likelihood ratio is that of two normal
    distributions of one variance, mirror images of each other; the logistic model's own is too timid far out.
    """
    of = np.unique(patients.astype(str), return_inverse=True)[1]
    if len(structure) < LEAST or of.max() == 0:
        return None
    rng = np.random.default_rng(derive_seed(seed, "mirrored"))
    fold = (rng.permutation(of.max() + 1) % min(FOLDS, of.max() + 1))[of]
    x = structure - mirrored_cells(structure)
    x /= max(float(x.std()), 1e-9)
    offset, sound = special.logit(prior), np.ones(len(x), bool)
    for _ in range(ROUNDS):  # what looks mirrored is left out of the next round: it would be learnt as sound
        side = np.zeros(len(x))
        for k in range(fold.max() + 1):
            rest = np.flatnonzero((fold != k) & sound)
            learnt = x[np.sort(rng.permutation(rest)[:SAMPLE])]
            model = LogisticRegression(C=STRENGTH, fit_intercept=False, max_iter=200, tol=1e-3)
            model.fit(np.concatenate([learnt, -learnt]), np.repeat([1, 0], len(learnt)))
            side[fold == k] = model.decision_function(x[fold == k])
        slope = _slope(side[sound])
        sound = special.expit(offset - slope * side) <= cut
    slope = _slope(side[sound])
    probability = special.expit(offset - slope * side)
    limit = np.quantile(-side[probability <= cut], 1 - ONE_IN)
    turned = special.expit(offset + slope * side)
    return Mirrored(probability, turned, side, float((turned > cut).mean()), float((side > limit).mean()))


def _slope(side: np.ndarray) -> float:
    """Of the log odds of two normal distributions, of ``side`` and its mirror image; a few odd images do no harm."""
    centre = float(np.median(side))
    spread = MAD * float(np.median(np.abs(side - centre)))
    return 2 * max(centre, 0.0) / max(spread**2, 1e-9)


def mirrored_cells(structure: np.ndarray) -> np.ndarray:
    """The structure (n, 512) of the mirror images: columns in reverse, directions turned over."""
    cells = structure.reshape(-1, ORIENTATIONS, CELLS, CELLS)
    turned = [(ORIENTATIONS // 2 - k) % ORIENTATIONS for k in range(ORIENTATIONS)]
    return np.ascontiguousarray(cells[:, turned, :, ::-1]).reshape(structure.shape)
