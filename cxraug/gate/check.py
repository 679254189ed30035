"""The contract of every check of the gate, and the conformal numbers that make checks comparable.

A check is fitted on real training images and turns an image into one p-value per test: the share of comparable held-out
real images that look at least as strange. The gate alone decides at which p-value an image is rejected, so that one
budget of falsely rejected real images covers all checks together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Images:
    """Images with what is known, or claimed, about them.

    pixels : uint8 (n, S, S). y : float32 (n, F): 1 present, 0 absent, NaN unknown. patients : (n,) ids.
    sha : (n,) digests of the native pixels, where known.
    female : (n,) 1 F, 0 M, NaN unknown. age : (n,) years, NaN unknown. race, reports : (n,) texts, None unknown.
    levels : (n,) level of the group within which the gate is calibrated; None: one calibration for all.
    """

    pixels: np.ndarray
    y: np.ndarray
    patients: np.ndarray
    sha: np.ndarray | None = None
    female: np.ndarray | None = None
    age: np.ndarray | None = None
    race: np.ndarray | None = None
    reports: np.ndarray | None = None
    levels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> Images:
        """The given rows."""
        known = {part.name: values for part in fields(self) if (values := getattr(self, part.name)) is not None}
        return Images(**{name: values[rows] for name, values in known.items()})


@dataclass(frozen=True)
class Test:
    """One question that a check asks.

    ``rate`` is the false-reject rate at which it is asked. ``scales`` allows the gate to raise the rate where the
    union of all tests leaves budget. ``reason`` is what a rejected image is told. ``finest`` is the smallest p-value
    that its calibration images allow: at a level below it nothing is rejected.
    """

    __test__ = False  # not a test class for pytest
    name: str
    reason: str
    rate: float
    scales: bool = True
    finest: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """p-values (n, T) of n images in T tests; NaN where a test does not apply."""

    p: np.ndarray


class Check(ABC):
    """One way to tell that a synthetic image is not what it should be."""

    name: str
    tests: tuple[Test, ...]  # known once fitted

    @abstractmethod
    def fit(self, real: Images) -> Evidence:
        """Learn from real training images; return their own p-values, each from parts that have not seen them."""

    @abstractmethod
    def score(self, batch: Images) -> Evidence:
        """p-values of synthetic images."""

    def remember(self, accepted: Images) -> None:
        """Be told which synthetic images were accepted (later ones may be compared with them)."""
        return

    @abstractmethod
    def describe(self, levels: dict[str, float]) -> dict[str, Any]:
        """What was fitted, JSON-ready; ``levels`` maps each test to the p-value at which the gate rejects."""


def conformal_low(null: np.ndarray, x: np.ndarray, *, member: bool = False) -> np.ndarray:
    """p-value of being as low as ``x``: (1 + #{null <= x}) / (n + 1) (Vovk et al. 2005).

    ``member`` says that each x is itself in ``null`` and is counted once: #{null <= x} / n. NaN stays NaN.
    """
    ordered = np.sort(null[~np.isnan(null)])
    extra = 0 if member else 1
    p = (extra + np.searchsorted(ordered, x, side="right")) / max(len(ordered) + extra, 1)
    return np.where(np.isnan(x), np.nan, p)


def conformal_high(null: np.ndarray, x: np.ndarray, *, member: bool = False) -> np.ndarray:
    """p-value of being as high as ``x``; see :func:`conformal_low`."""
    return conformal_low(-null, -x, member=member)


def lowest_accepted(null: np.ndarray, level: float) -> float | None:
    """The smallest value that :func:`conformal_low` at ``level`` accepts; None where nothing can be rejected."""
    ordered = np.sort(null[~np.isnan(null)])
    rank = int(np.floor(level * (len(ordered) + 1) + 1e-9)) - 1
    return float(ordered[min(rank, len(ordered) - 1)]) if rank >= 0 and len(ordered) else None


def highest_accepted(null: np.ndarray, level: float) -> float | None:
    """The largest value that :func:`conformal_high` at ``level`` accepts; None where nothing can be rejected."""
    lowest = lowest_accepted(-null, level)
    return None if lowest is None else -lowest
