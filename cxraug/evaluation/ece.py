"""Expected calibration error, debiased, in squared units; how it is shown and compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxraug.evaluation.auroc import class_counts
from cxraug.evaluation.measured import Array, Measured, Patients, measured

BINS = 15
PER_BIN = 10  # patients that a bin should hold


def squared_ece(
    p: Array, order: Sequence[Array], y: Array, patients: Patients, counts: tuple[int, int] | None = None
) -> Measured:
    """Debiased squared calibration error of R runs: its root is the ECE; 0 is best, below 0 nothing is seen.

    Parameters
    ----------
    p : (R, n) probabilities. order : R times (k,), the rows to judge by ascending p of each run (any order among ties).
    y : (n,) 1 or 0 at those rows. counts : patients with a positive, with a negative, where known.

    Notes
    -----
    Bins b of equal mass (15, fewer below 150 patients; equal p stay in one bin) with weight ``w_b`` and mean residual
    ``m_b = mean(y - p)``. The plug-in error is above 0 for a perfectly calibrated classifier, and the more so the
    smaller the cell, so ``sum w_b (m_b^2 - S_bb)`` is measured: unbiased at any size (Bröcker 2012, Clim Dyn 39, 655;
    Kumar, Liang & Ma 2019, NeurIPS, with the patient-clustered covariance ``S`` of the bin means in place of the
    binomial one; its residuals are divided by ``sqrt(1 - h)``, h a patient's share of the bin: CR2 of Bell & McCaffrey
    2002). The root bounds the mean absolute error over the same bins from above (Jensen).

    A quadratic form in the bin means has variance ``4 m'WSWm + 2 tr(WSWS)``, which does not vanish where ``m = 0``. The
    influence values ``2 w_b m_b psi_b`` at the observed m give the first term and, on average, ``4 tr(WSWS)``: wide
    enough everywhere; where they give less than ``2 tr(WSWS)`` they are scaled up to it. Squared errors may be
    averaged, subtracted and compared like any other metric; roots near 0 may not.
    """
    held, place = _numbered(patients.of[order[0]], len(patients))
    total, most = len(order[0]), min(BINS, max(2, len(held) // PER_BIN))
    begins = -(-np.arange(1, most) * total // most)  # rank at which each further bin begins
    value, influence = np.empty(len(p)), np.zeros((len(p), len(patients)))
    for run, rows in enumerate(order):
        probability, patient = p[run, rows], place[patients.of[rows]]
        # Equal p stay in one bin: a bin ends behind the last p that equals the one before its end.
        ends = np.unique(np.append(np.searchsorted(probability, probability[begins - 1], side="right"), total))
        size = np.diff(ends, prepend=0)
        residual = y[rows] - probability
        miss = np.add.reduceat(residual, ends - size) / size
        residual -= np.repeat(miss, size)
        psi, alone = np.empty((len(size), len(held))), np.empty(len(size), dtype=bool)
        for b, (end, count) in enumerate(zip(ends, size, strict=True)):
            inside = slice(end - count, end)
            images = np.bincount(patient[inside], minlength=len(held))
            alone[b] = images.max() == count
            # A bin holds few patients, some with many images: 1 - share, times the count squared, under the root.
            left = np.sqrt(np.maximum(1 - images / count, 1e-9)) * count
            np.divide(np.bincount(patient[inside], residual[inside], len(held)), left, out=psi[b])
        covariance, weight = psi @ psi.T, size / total
        noise = np.where(alone, miss**2, np.diag(covariance))  # one patient says nothing about its own noise
        value[run] = weight @ (miss**2 - noise)
        own = 2 * (weight * miss) @ psi
        least = 2 * float(np.sum(np.outer(weight, weight) * covariance**2))
        observed = float(own @ own)
        influence[run, held] = own * np.sqrt(max(least / observed, 1.0)) if observed > 0 else own
    return measured(value, influence, np.full(len(p), min(counts or class_counts(order[0], y, patients))))


def _numbered(patient: Array, n_patients: int) -> tuple[Array, Array]:
    """The patients (I,) that occur in ``patient`` (k,), and the place of each among them (n_patients,)."""
    held = np.flatnonzero(np.bincount(patient, minlength=n_patients))
    place = np.zeros(n_patients, dtype=np.intp)
    place[held] = np.arange(len(held))
    return held, place


def commensurate(left: Measured, right: Measured) -> tuple[Measured, Measured]:
    """Both squared errors over the sum of the two errors, so that their difference is that of the errors.

    ``(a^2 - b^2) / (a + b) = a - b``: sign and p value are those of the squared errors, the unit that of the ECE. The
    sum is kept above the noise of the difference (the fourth root of its variance).
    """
    errors = sum(np.sqrt(max(float(side.value.mean()), 0.0)) for side in (left, right))
    noise = float(np.square((left.influence - right.influence).mean(axis=0)).sum()) ** 0.25
    scale = 1 / max(errors, noise, 1e-9)
    return left.scaled(scale), right.scaled(scale)
