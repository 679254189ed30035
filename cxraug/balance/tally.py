"""Images and patients counted per group level, for all findings at once: the sums that every table of the audit is of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from cxraug.evaluation.uncertainty import bounds

BLOCK = 32  # findings that are summed at once; keeps a table of 200,000 patients within some 100 MB
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Tally:
    """Sums per level of a group, each (L, F) for F findings unless it says otherwise.

    Attributes
    ----------
    names : the L levels. patients : (L,) patients with an image there, whatever is known of it.
    images, positive_images : images whose label is known, and those that show the finding.
    known, positive, negative : patients with an image that is known, that shows it, that does not.
    prevalence : share of positive among known images, NaN where none is known.
    low, high : its 95 % interval (see :func:`tally_levels`). design_effect : its variance over that of as many
        independent images; NaN where the share is 0 or 1.
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


def tally_levels(y: np.ndarray, patient: np.ndarray, level: np.ndarray, names: list[str]) -> Tally:
    """Count findings per level, with patient-clustered intervals of their prevalence among images.

    Parameters
    ----------
    y : (n, F) 1 present, 0 absent, NaN unknown. patient : (n,) whole numbers. level : (n,) places in ``names``.

    Notes
    -----
    Prevalence is a ratio of sums over patients. Its variance is that of the ratio estimator of cluster sampling (Rao &
    Scott 1992, Biometrics 48, 577-585), degrees of freedom from the scatter of the squared residuals, and the interval
    Wilson's with n over the design effect, as for every rate of an evaluation. A share of 0 or 1 has Wilson's interval
    with n = patients.
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
    """Rows in the order of level and patient: ``order`` (n,), ``starts`` (U,) of each patient in a level, ``level`` (U,).

    ``per_level`` (L,) counts the units of each level.
    """

    order: np.ndarray
    starts: np.ndarray
    level: np.ndarray
    per_level: np.ndarray

    @classmethod
    def of(cls, patient: np.ndarray, level: np.ndarray, levels: int) -> Units:
        """Units of rows (n,)."""
        code = level.astype(np.int64) * (int(patient.max(initial=0)) + 1) + patient
        order = np.argsort(code, kind="stable")
        starts = np.flatnonzero(np.diff(code[order], prepend=-1))
        of = level[order[starts]].astype(np.int64)
        return cls(order, starts, of, np.bincount(of, minlength=levels))

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums (F, U) of the rows' ``values`` (F, n), per unit."""
        return np.add.reduceat(values[:, self.order], self.starts, axis=1) if len(self.starts) else values[:, :0]

    def per(self, values: np.ndarray) -> np.ndarray:
        """Sums (F, L) of the units' ``values`` (F, U), per level."""
        out = np.zeros((len(values), len(self.per_level)))
        here = np.flatnonzero(self.per_level)
        if len(here):
            starts = np.concatenate([[0], np.cumsum(self.per_level)])[here]
            out[:, here] = np.add.reduceat(values, starts, axis=1, dtype=float)
        return out


def patient_numbers(frame: pd.DataFrame) -> np.ndarray:
    """(n,) whole numbers of the patients of ``frame``."""
    return pd.factorize(frame["patient_id"])[0].astype(np.int64)


def _count(y: np.ndarray, units: Units) -> tuple[np.ndarray, ...]:
    y = np.ascontiguousarray(y.T)
    seen, hits = units.sum((~np.isnan(y)).astype(np.float32)), units.sum((y == 1).astype(np.float32))
    known, positive, negative = (units.per(part > 0).astype(np.int64) for part in (seen, hits, seen - hits))
    images, found = units.per(seen), units.per(hits)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = found / images
        residual = np.square(hits - np.nan_to_num(value, nan=0.0)[:, units.level] * seen)
        square = units.per(residual)
        variance = known / np.maximum(known - 1, 1) * square / images**2
        scatter = units.per(residual * residual) - square**2 / np.maximum(known, 1)
        df = np.where(scatter > 1e-12 * square**2, 2 * square**2 / scatter, np.maximum(known - 1, 1))
        effect = variance / (value * (1 - value) / images)
    df = np.clip(df, 1, np.maximum(known - 1, 1))
    low, high = np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    at = images > 0
    quantile = special.stdtrit(df[at], (1 + CONFIDENCE) / 2)
    low[at], high[at] = bounds(value[at], variance[at], known[at].astype(float), "wilson", quantile)
    counts = (images.astype(np.int64), found.astype(np.int64), known, positive, negative)
    return tuple(part.T for part in (*counts, value, low, high, effect))
