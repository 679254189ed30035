"""A metric with its influence values: the one currency in which intervals, gaps and comparisons are paid.

Every metric of this package is a smooth function of sums over images. Its influence value of a patient is the first
derivative of the metric with respect to the patient's weight, scaled so that the sum of squares over patients is
the patient-clustered sampling variance (infinitesimal jackknife; for AUROC the structural components of DeLong et
al. 1988 with the clusters of Obuchowski 1997, Biometrics 53, 567-578). Because influence values of any two cells,
arms or runs live on the same patients, their products give covariances for free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Patients:
    """Rows sorted by patient: ``starts`` (P,) is the first row of each, ``n`` the number of rows."""

    starts: Array
    n: int

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def of(self) -> Array:
        """Patient number (n,) of each row."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts, append=self.n))

    def sum(self, rows: Array, values: Array) -> Array:
        """Sum of ``values`` (k,) at ``rows`` (k,), any order, per patient: (P,)."""
        return np.bincount(self.of[rows], values, len(self))

    def count(self, rows: Array) -> int:
        """How many patients have one of ``rows`` (k,)."""
        return int(np.count_nonzero(np.bincount(self.of[rows], minlength=len(self))))


@dataclass(frozen=True)
class Measured:
    """A metric in R runs (one classifier each) on the same P patients.

    Attributes
    ----------
    value : (R,).
    influence : (R, P), sum of squares over patients = clustered sampling variance; 0 for patients outside the cell.
    floor : (R,) variance added where the influence values say exactly 0 (see :func:`boundary_variance`).
    df : (R,) degrees of freedom of the clustered variance (see :func:`variance_df`).
    """

    value: Array
    influence: Array
    floor: Array
    df: Array

    @property
    def variance(self) -> Array:
        """Clustered sampling variance (R,)."""
        return np.einsum("rp,rp->r", self.influence, self.influence) + self.floor

    def take(self, runs: Array) -> Measured:
        """The runs at positions ``runs``."""
        return Measured(self.value[runs], self.influence[runs], self.floor[runs], self.df[runs])

    def spread(self, at: Array, n_patients: int) -> Measured:
        """The same among ``n_patients`` patients, of whom only those numbered ``at`` had an influence value here."""
        if len(at) == n_patients:
            return self
        influence = np.zeros((len(self.influence), n_patients))
        influence[:, at] = self.influence
        return Measured(self.value, influence, self.floor, self.df)

    def scaled(self, factor: float) -> Measured:
        """``factor * value``."""
        return Measured(self.value * factor, self.influence * factor, self.floor * factor**2, self.df)

    def complement(self) -> Measured:
        """``1 - value``: FNR from TPR."""
        return Measured(1 - self.value, -self.influence, self.floor, self.df)

    def minus(self, other: Measured, *, paired: bool = False) -> Measured:
        """``self - other`` run by run, with the covariance of patients who are in both.

        ``paired``: both were measured on the same patients (df = the smaller); otherwise Welch's df.
        """
        if paired:
            df = np.minimum(self.df, other.df)
        else:
            a, b = self.variance, other.variance
            df = (a + b) ** 2 / np.maximum(a**2 / self.df + b**2 / other.df, 1e-300)
        return Measured(self.value - other.value, self.influence - other.influence, self.floor + other.floor, df)


def boundary_variance(value: Array, patients: Array) -> Array:
    """Variance that stands in where no patient moves the metric (value 0, 1, or a constant score).

    The stated rule: treat the value as a proportion among the independent ``patients`` that count, with half a
    success and half a failure added: ``v' = (v I + 1/2) / (I + 1)``, variance ``v' (1 - v') / I``.
    """
    shrunk = (value * patients + 0.5) / (patients + 1)
    return shrunk * (1 - shrunk) / np.maximum(patients, 1)


def variance_df(influence: Array, patients: Array) -> Array:
    """Degrees of freedom (R,) of the clustered variance ``sum psi^2``: at most ``patients - 1``.

    Satterthwaite's ``2 V^2 / Var(V)`` with ``Var(V) = sum psi^4 - V^2 / patients`` from the data, so that a few
    patients with many images, or a skewed metric, count as the few independent patients that they are.
    """
    square = np.square(influence)
    variance = square.sum(axis=1)
    scatter = np.einsum("rp,rp->r", square, square) - variance**2 / np.maximum(patients, 1)
    most = np.maximum(patients - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(scatter > 1e-12 * variance**2, 2 * variance**2 / scatter, most)
    return np.clip(df, 1, most)


def measured(value: Array, influence: Array, patients: Array) -> Measured:
    """Assemble a :class:`Measured` that rests on ``patients`` (R,) or scalar; apply the rule for zero variance."""
    patients = np.broadcast_to(np.asarray(patients, dtype=float), value.shape)
    flat = np.einsum("rp,rp->r", influence, influence) <= 1e-20
    floor = np.where(flat, boundary_variance(np.clip(value, 0, 1), patients), 0.0)
    df = np.where(flat, np.maximum(patients - 1, 1), variance_df(influence, patients))
    return Measured(value, influence, floor, df)


def mean_of(parts: list[Measured], weights: Array | None = None) -> Measured:
    """The mean of several metrics on the same runs and patients (a macro mean), plain or with fixed ``weights``."""
    floors = [np.sqrt(part.floor) for part in parts]
    if weights is None:
        floor = np.square(np.sum(floors, axis=0)) / len(parts) ** 2
        value, influence = (np.mean([getattr(part, name) for part in parts], axis=0) for name in ("value", "influence"))
    else:
        share = weights / weights.sum()
        floor = np.square(share @ np.array(floors))
        value = share @ np.array([part.value for part in parts])
        influence = np.tensordot(share, np.array([part.influence for part in parts]), axes=1)
    return Measured(value, influence, floor, np.min([part.df for part in parts], axis=0))
