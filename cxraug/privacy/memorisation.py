"""Is a synthetic image a copy of a training image? Its best match among them, beside that of real images never seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cxraug.errors import InputError
from cxraug.gate.check import conformal_high
from cxraug.privacy.alignment import align
from cxraug.privacy.excess import Excess, excess
from cxraug.privacy.nearest import nearest
from cxraug.privacy.structure import LOOKS, Look, Whitening, cells, cells_of, chunks, fine, orientations
from cxraug.progress import track

CANDIDATES = 5  # training images that are aligned with each synthetic one
SAME = 0.985  # real images of two patients that agree better than this are one picture filed twice
FOLDS = 4
CALIBRATING = "calibrating copies"
CALIBRATION = 2000  # real images at most whose best match is the null
LEAST = 19  # fewer calibration images would not allow a false-alarm rate of 5 %
STATISTIC = (
    "correlation with the best of the five nearest training images (whitened histograms of gradients, mirrored, "
    "scaled and shifted), after alignment"
)
COLUMNS = ("nearest", "correlation", "mirrored", "scale", "angle", "shift_x", "shift_y")
Index = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class CopyDetector:
    """Training images to search among and the null that says what is too close to them.

    ``pixels`` uint8 (m, S, S), ``patients`` (m,) where those that share a picture are one, ``vectors`` float32 (m, d).
    ``null`` (k,): the statistic of real images that are not in training (NaN: no other patient, or a picture that is
    filed twice), ``clusters`` (k,) the patients it came from, ``rows`` (k,) their place among the calibration images,
    ``matches`` their best matches. ``filed_twice`` calibration images that are the picture of another
    patient. ``rate``: the false-alarm rate asked for. ``held_out``: the null is of held-out images, not of the
    training images themselves.
    """

    pixels: np.ndarray
    patients: np.ndarray
    vectors: np.ndarray
    whitening: Whitening
    null: np.ndarray
    clusters: np.ndarray
    rows: np.ndarray
    matches: pd.DataFrame = field(repr=False)
    filed_twice: int
    rate: float
    held_out: bool
    device: str = "cpu"

    @classmethod
    def fit(
        cls,
        train: np.ndarray,
        patients: np.ndarray,
        held: np.ndarray | None = None,
        held_patients: np.ndarray | None = None,
        *,
        rate: float = 0.01,
        sha: np.ndarray | None = None,
        calibration: int = CALIBRATION,
        seed: int = 0,
        device: str = "cpu",
    ) -> CopyDetector:
        """Index the training images and calibrate on real images.

        Parameters
        ----------
        train : uint8 (m, S, S); a memory map is read in parts. patients : (m,).
        held, held_patients : real images (k, S, S) that were not trained on, and their patients (default: one each).
            Without them each training image is compared with the training images of all other patients.
        rate : of false alarms on real images. sha : (m,) digests of native pixels: patients who share a picture are
            one patient. calibration : real images that are used at most. seed : of their choice.

        Notes
        -----
        What is calibrated is the statistic of :data:`STATISTIC`; a real image of two patients that agrees with a
        training image by more than 0.985 is the same picture filed twice, a fault of the data, and left out.
        """
        if train.ndim != 3 or not len(train) or len(train) != len(patients):
            raise InputError(
                "training images and patients do not fit", found=f"{train.shape} and {len(patients)}",
                expected="at least one image (m, S, S) and m patients",
            )  # fmt: skip
        found = cells_of(train)
        whitening = Whitening.fit(found, seed)
        vectors = whitening(found)
        joined = np.asarray(patients).astype(str) if sha is None else _join_equal(np.asarray(patients), np.asarray(sha))
        rows = np.sort(np.random.default_rng(seed).permutation(len(train if held is None else held))[:calibration])
        if held is None:
            matches = _cross_matched(train, found, joined, rows, seed, device)
            clusters = _join_mutual(rows, matches["nearest"].to_numpy(), joined)
        else:
            alone = np.array([f"held-out image {i}" for i in range(len(held))])
            clusters = (alone if held_patients is None else np.asarray(held_patients).astype(str))[rows]
            matches = _matches(held[rows], train, vectors, whitening, (clusters, joined), device, CALIBRATING)
        null = matches["correlation"].to_numpy(float)
        twice = null >= SAME
        return cls(
            train, joined, vectors, whitening, np.where(twice, np.nan, null), clusters, rows, matches,
            int(twice.sum()), rate, held is not None, device,
        )  # fmt: skip

    @property
    def n(self) -> int:
        """Calibration images that count."""
        return int(np.isfinite(self.null).sum())

    @property
    def finest(self) -> float:
        """The smallest p-value, and so false-alarm rate, that this calibration allows: 1 / (n + 1)."""
        return 1 / (self.n + 1)

    @property
    def abstains(self) -> str:
        """Why single images are not judged at the stated rate; empty where they are."""
        if self.rate >= self.finest:
            return ""
        return f"{self.n} calibration images allow a false-alarm rate of {self.finest:.2g} at the finest"

    def match(self, pixels: np.ndarray) -> pd.DataFrame:
        """The best match of each image uint8 (n, S, S) among the training images (:data:`COLUMNS`).

        ``nearest`` is its row, -1 for none; the image is the training image mirrored or not, magnified by ``scale``,
        turned by ``angle`` degrees and shifted by pixels of 64.
        """
        return _matches(pixels, self.pixels, self.vectors, self.whitening, None, self.device, "looking for copies")

    def judge(self, pixels: np.ndarray) -> pd.DataFrame:
        """:meth:`match` with ``p_value`` and ``alarm`` per image.

        The p-value is conformal (Vovk et al. 2005): the share of calibration images that match as well. NaN, and no
        alarm, where the calibration is too small for the rate; but what agrees with a training image by 0.985 or more
        is an alarm always, by the rule that makes two such real images one picture.
        """
        found = self.match(pixels)
        correlation = found["correlation"].to_numpy(float)
        same = correlation >= SAME
        p = np.full(len(found), np.nan) if self.abstains else conformal_high(self.null, correlation)
        return found.assign(p_value=p, alarm=same | (p <= self.rate))

    def excess(self, correlation: np.ndarray, level: float = 0.05) -> Excess | None:
        """Whether images with these correlations (n,) hold more copies than real images would seem to."""
        return excess(self.null, correlation, clusters=self.clusters, level=level)


def _cross_matched(
    train: np.ndarray, found: np.ndarray, patients: np.ndarray, rows: np.ndarray, seed: int, device: str
) -> pd.DataFrame:
    """Best matches of training ``rows`` among all other patients, looked up by whitenings that did not see them."""
    names, of = np.unique(patients, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(names)) % FOLDS)[of]
    parts = []
    for k in range(FOLDS):
        mine = rows[fold[rows] == k]
        others = fold != k
        if len(mine):
            whitening = Whitening.fit(found[others if others.any() else slice(None)], seed)
            near = (patients[mine], patients)
            parts.append(
                _matches(train[mine], train, whitening(found), whitening, near, device, CALIBRATING).assign(row=mine)
            )
    return pd.concat(parts).sort_values("row", ignore_index=True)[list(COLUMNS)]


def _matches(
    asked: np.ndarray, train: np.ndarray, vectors: np.ndarray, whitening: Whitening,
    patients: Index | None, device: str, what: str,
) -> pd.DataFrame:  # fmt: skip
    """Best match of each image: five candidates by look-up, the best of them after alignment."""
    parts = []
    codes = None
    if patients is not None:
        both = np.unique(np.concatenate(patients), return_inverse=True)[1]
        codes = both[: len(patients[0])], both[len(patients[0]) :]
    for rows in track(list(chunks(np.arange(len(asked)))), what):
        pixels = asked[rows]
        groups = None if codes is None else (codes[0][rows], codes[1])
        value, where = _look_up(pixels, vectors, whitening, groups, device)
        of, look = _candidates(value, where)
        pair_rows = np.repeat(np.arange(len(rows)), CANDIDATES)
        real = look.ravel() >= 0
        pair_rows, at, looks = pair_rows[real], of.ravel()[real], [LOOKS[i] for i in look.ravel()[real].tolist()]
        best = _best(fine(pixels), pair_rows, train, at, looks)
        parts.append(best.assign(row=rows[best["row"].to_numpy()]))
    table = pd.concat(parts) if parts else pd.DataFrame(columns=["row", *COLUMNS])
    whole = table.set_index("row").reindex(np.arange(len(asked)))
    return whole.assign(
        nearest=whole["nearest"].fillna(-1).astype(int), mirrored=whole["mirrored"].fillna(0).astype(bool)
    )[list(COLUMNS)].reset_index(drop=True)


def _look_up(
    pixels: np.ndarray, vectors: np.ndarray, whitening: Whitening, groups: Index | None, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest training image (n, looks) under each look, and how near it is."""
    maps = orientations(pixels)
    found = [nearest(whitening(cells(maps, look)), vectors, groups=groups, device=device) for look in LOOKS]
    return np.stack([value for value, _ in found], axis=1), np.stack([where for _, where in found], axis=1)


def _candidates(value: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest different training images (n, 5) over all looks, and the look that found each (-1: none is left)."""
    left = np.where(where >= 0, value, -np.inf)
    of, look = np.full((len(value), CANDIDATES), -1), np.full((len(value), CANDIDATES), -1)
    for k in range(CANDIDATES):
        top = left.argmax(axis=1)
        any_left = np.isfinite(left[np.arange(len(left)), top])
        of[:, k] = np.where(any_left, where[np.arange(len(left)), top], -1)
        look[:, k] = np.where(any_left, top, -1)
        left = np.where(where == of[:, k, None], -np.inf, left)
    return of, look


def _best(moving: torch.Tensor, row: np.ndarray, train: np.ndarray, at: np.ndarray, looks: list[Look]) -> pd.DataFrame:
    """The best aligned pair of each image."""
    needed, place = np.unique(at, return_inverse=True)
    fixed = fine(train[needed]) if len(needed) else torch.zeros(0, *moving.shape[1:])
    best, alignment = align(moving[row], fixed[place], looks, row)
    return pd.DataFrame({"row": row[best], "nearest": at[best], **vars(alignment)})


def _join_equal(patients: np.ndarray, sha: np.ndarray) -> np.ndarray:
    """Patients (m,) in which those that share identical pixels have one name."""
    names = patients.astype(str)
    label = _components(np.unique(names, return_inverse=True)[1], sha.astype(str))
    first, of = np.unique(label, return_index=True, return_inverse=True)[1:]
    return names[first][of]


def _join_mutual(rows: np.ndarray, found: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Patients (k,) of calibration ``rows``, in which those with images nearest to each other are one.

    Such a pair has one correlation, which counts once.
    """
    partner = np.full(len(patients), -2)
    partner[rows] = found
    mutual = (found >= 0) & (partner[found] == rows)
    pair = np.where(mutual, np.minimum(rows, found), rows)
    return _components(np.unique(patients[rows], return_inverse=True)[1], pair)


def _components(patient: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Integer labels (n,) of connected patients: those with an equal value of ``shared`` (n,)."""
    value = np.unique(shared, return_inverse=True)[1] + patient.max(initial=0) + 1
    size = int(value.max(initial=0)) + 1
    graph = coo_matrix((np.ones(len(patient)), (patient, value)), shape=(size, size))
    return connected_components(graph, directed=False)[1][patient]
