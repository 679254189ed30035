"""Images and patients counted per group level, for all findings at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from cxraug.balance.clustered_share import clustered_interval, design_effect, telling

BLOCK = 32  # findings that are summed at once; keeps a table of 200,000 patients within some 100 MB


@dataclass(frozen=True)
class Tally:
    """Sums per level of a group, each (L, F) for F findings unless it says otherwise.

    Attributes
    ----------
    names : the L levels. patients : (L,) patients with an image there, whatever is known of it.
    images, positive_images : images whose label is known, and those that show the finding.
    known, positive, negative : patients with an image that is known, that shows it, that does not.
    prevalence : share of positive among known images, NaN where none is known.
    low, high : its 95 % interval, clustered by patient. design_effect : its variance over that of as many independent
        images, as the interval takes it (see :mod:`cxraug.balance.clustered_share`).
    """

    names: list[str]
    patients: np.ndarray
    images: np.ndarray
    positive_images: np.ndarray
    known: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    prevalence: np.ndarray
    low: np.ndarray
    high: np.ndarray
    design_effect: np.ndarray

    def take(self, names: list[str]) -> Tally:
        """Some of the levels."""
        at = [self.names.index(name) for name in names]
        counts = (getattr(self, field.name)[at] for field in fields(self)[1:])
        return Tally(list(names), *counts)


def tally_levels(y: np.ndarray, patient: np.ndarray, level: np.ndarray, names: list[str]) -> Tally:
    """Count findings per level, with patient-clustered intervals of their prevalence among images.

    Parameters
    ----------
    y : (n, F) 1 present, 0 absent, NaN unknown. patient : (n,) whole numbers. level : (n,) places in ``names``.
    """
    units = Units.of(patient, level, len(names))
    shape = (len(names), y.shape[1])
    whole = [np.zeros(shape, np.int64) for _ in range(5)]
    parts = [np.full(shape, np.nan) for _ in range(4)]
    for start in range(0, y.shape[1], BLOCK):
        columns = slice(start, start + BLOCK)
        for total, found in zip((*whole, *parts), _count(y[:, columns], units), strict=True):
            total[:, columns] = found
    return Tally(list(names), units.per_level, *whole, *parts)


@dataclass(frozen=True)
class Units:
    """Patients within levels, U of them: ``rows`` (U, n) and ``levels`` (L, U) sum rows and units by a product.

    ``level`` (U,) of each unit; ``per_level`` (L,) counts them.
    """

    rows: csr_array
    levels: csr_array
    level: np.ndarray
    per_level: np.ndarray

    @classmethod
    def of(cls, patient: np.ndarray, level: np.ndarray, levels: int) -> Units:
        """Units of rows (n,)."""
        number, first = group_rows(level.astype(np.int64) * (int(patient.max(initial=0)) + 1) + patient)
        of = level[first].astype(np.int64)
        return cls(summing(number, len(first)), summing(of, levels), of, np.bincount(of, minlength=levels))


def group_rows(code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of equal ``code`` (n,) numbered by rising code: number (n,) of each row, and a first row (U,) of each."""
    order = np.argsort(code, kind="stable")
    new = np.diff(code[order], prepend=-1) != 0
    number = np.empty(len(code), np.int64)
    number[order] = np.cumsum(new) - 1
    return number, order[new]


def summing(number: np.ndarray, groups: int) -> csr_array:
    """(groups, n) matrix that sums the rows of each ``number`` (n,): its product with (n, F) is faster than a loop."""
    order = np.argsort(number, kind="stable").astype(np.int32)
    ends = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=groups))]).astype(np.int32)
    return csr_array((np.ones(len(number), np.float32), order, ends), shape=(groups, len(number)))


def patient_numbers(frame: pd.DataFrame) -> np.ndarray:
    """(n,) whole numbers of the patients of ``frame``."""
    return pd.factorize(frame["patient_id"])[0].astype(np.int64)


def _count(y: np.ndarray, units: Units) -> tuple[np.ndarray, ...]:
    seen, hits = (units.rows @ part.astype(np.float32) for part in (~np.isnan(y), y == 1))

    def per(values: np.ndarray) -> np.ndarray:
        return units.levels @ values.astype(float)

    known, positive, negative = (per(part > 0).astype(np.int64) for part in (seen, hits, hits < seen))
    images, found = per(seen), per(hits)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = found / images
        size = per(seen * seen) / images
    sides = hits > 0, hits < seen
    sums, squares = (np.stack([per(side * seen**power) for side in sides], axis=1) for power in (1, 2))
    square = per(np.square(hits - np.nan_to_num(value, nan=0.0)[units.level] * seen))
    effect, excess = design_effect(images, value, square, size, known, telling(sums, squares))
    low, high = np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    at = images > 0
    low[at], high[at] = clustered_interval(value[at], images[at] / (1 + excess[at]))
    effect = np.where(at, effect, np.nan)
    return images.astype(np.int64), found.astype(np.int64), known, positive, negative, value, low, high, effect
