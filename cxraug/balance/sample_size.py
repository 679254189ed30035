"""How many patients a gap of AUROC takes to be seen: power of a difference between a group's level and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

GAP, AUROC, POWER, ALPHA = 0.05, 0.8, 0.8, 0.05
ENOUGH = 1e-12
WIDEST = 0.5  # a gap of more cannot be: the level would be worse than chance at an AUROC of 1


@dataclass(frozen=True)
class Question:
    """What is to be seen: a ``gap`` between a level and the rest, whose AUROC is ``auroc``, at ``power`` and ``alpha``.

    The level is taken to be the worse of the two, whose variance is the larger.
    """

    gap: float = GAP
    auroc: float = AUROC
    power: float = POWER
    alpha: float = ALPHA

    def __post_init__(self) -> None:
        if not 0.5 < self.auroc < 1 or not 0 < self.gap < self.auroc - 0.5 + ENOUGH:
            raise ValueError(f"a gap of {self.gap:g} below an AUROC of {self.auroc:g} is not above chance")
        if not 0 < self.alpha < self.power < 1:
            raise ValueError(f"power {self.power:g} and alpha {self.alpha:g} must be shares, alpha the smaller")

    def variance(self, alpha: float | None = None) -> float:
        """The largest variance of the difference at which ``gap`` is found with the power asked for."""
        z = special.ndtri(1 - (alpha or self.alpha) / 2) + special.ndtri(self.power)
        return float((self.gap / z) ** 2)


def auroc_moments(area: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """``A (1 - A)`` and ``Q - A^2`` of normal scores of equal variance, where Q is P(X > Y1, X > Y2).

    With d the difference of means in standard deviations, ``A = Phi(d / sqrt 2)`` and Q is the bivariate normal
    probability at (d / sqrt 2, d / sqrt 2) with correlation 1/2, ``A - 2 T(d / sqrt 2, 1 / sqrt 3)`` with Owen's T
    (1956); P(X1 > Y, X2 > Y) is the same by symmetry.
    """
    area = np.asarray(area, dtype=float)
    both = area - 2 * special.owens_t(special.ndtri(area), 1 / np.sqrt(3))
    return area * (1 - area), both - area**2


def auroc_variance(area: np.ndarray | float, positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Variance of the AUROC of independent patients with normal scores; infinite without positives or negatives.

    ``[A (1 - A) + (m + n - 2) (Q - A^2)] / (m n)`` (Hanley & McNeil 1982, Radiology 143, 29-36, with the Q of normal
    scores of equal variance in place of that of exponential ones, under which it is up to half as much again). DeLong's
    estimate has this expectation.
    """
    own, shared = auroc_moments(area)
    m, n = np.asarray(positives, dtype=float), np.asarray(negatives, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (own + (m + n - 2) * shared) / (m * n)
    return np.where((m > 0) & (n > 0), found, np.inf)


def power_of(question: Question, level: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Power to find the gap; ``level``, ``rest`` (..., 2): positive and negative patients."""
    error = np.sqrt(_variance(question, question.gap, level, rest))
    return special.ndtr(question.gap / error - special.ndtri(1 - question.alpha / 2))


def detectable_gap(question: Question, level: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The smallest gap that is found with the power asked for; NaN where none below chance is."""
    z = special.ndtri(1 - question.alpha / 2) + special.ndtri(question.power)
    most = question.auroc - 0.5
    low, high = np.zeros(level.shape[:-1]), np.full(level.shape[:-1], most)
    found = most >= z * np.sqrt(_variance(question, most, level, rest))
    for _ in range(40):
        middle = (low + high) / 2
        enough = middle >= z * np.sqrt(_variance(question, middle, level, rest))
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(found, high, np.nan)


def positives_needed(question: Question, level: np.ndarray, rest: np.ndarray, alpha: float | None = None) -> np.ndarray:
    """Positive patients that the level has to have, all else as it is; NaN if no number is enough."""
    room = question.variance(alpha) - auroc_variance(question.auroc, rest[..., 0], rest[..., 1])
    own, shared = auroc_moments(question.auroc - question.gap)
    n = level[..., 1].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = room * n - shared
        m = np.ceil((own + (n - 2) * shared) / slope - 1e-9)
    return np.where((slope > 0) & (room > 0), m, np.nan)


def patients_needed(
    question: Question, level: np.ndarray, rest: np.ndarray, share: np.ndarray, alpha: float | None = None
) -> np.ndarray:
    """Patients that the level has to have, a ``share`` of them positive, the rest as it is; NaN if none are enough."""
    room = question.variance(alpha) - auroc_variance(question.auroc, rest[..., 0], rest[..., 1])
    own, shared = auroc_moments(question.auroc - question.gap)
    return np.where(
        room > 0, _quadratic(np.maximum(room, ENOUGH), own - 2 * shared, shared, share * (1 - share)), np.nan
    )


def growth_needed(question: Question, level: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The factor by which level and rest have to grow together; infinite where one of the four counts is 0."""
    square = np.zeros(level.shape[:-1])
    linear = np.zeros(level.shape[:-1])
    for counts, area in ((level, question.auroc - question.gap), (rest, question.auroc)):
        own, shared = auroc_moments(area)
        m, n = counts[..., 0].astype(float), counts[..., 1].astype(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            square += np.where(m * n > 0, (own - 2 * shared) / (m * n), np.inf)
            linear += np.where(m * n > 0, (m + n) * shared / (m * n), np.inf)
    target = question.variance()
    with np.errstate(invalid="ignore"):
        factor = (linear + np.sqrt(linear**2 + 4 * target * square)) / (2 * target)
    return np.where(np.isfinite(factor), factor, np.inf)


def _quadratic(room: np.ndarray, fixed: np.ndarray, shared: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The smallest whole N with ``(fixed + shared N) / (spread N^2) <= room``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (shared + np.sqrt(shared**2 + 4 * room * spread * fixed)) / (2 * room * spread)
    return np.where(spread > 0, np.ceil(found - 1e-9), np.nan)


def _variance(question: Question, gap: np.ndarray | float, level: np.ndarray, rest: np.ndarray) -> np.ndarray:
    worse = auroc_variance(question.auroc - gap, level[..., 0], level[..., 1])
    return worse + auroc_variance(question.auroc, rest[..., 0], rest[..., 1])
