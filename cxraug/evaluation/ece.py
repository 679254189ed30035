"""Expected calibration error, debiased, in squared units; how it is shown and compared."""

from __future__ import annotations

import numpy as np

from cxraug.evaluation.measured import Array, Measured, Patients, measured

BINS = 15
PER_BIN = 10  # patients that a bin should hold


def squared_ece(p: Array, y: Array, cell: Array, patients: Patients) -> Measured:
    """Debiased squared calibration error of R runs: its root is the ECE; 0 is best, below 0 nothing is seen.

    Parameters
    ----------
    p : (R, n) probabilities. y : (n,) 1, 0 or NaN (left out). cell : (n,) bool.

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
    known = np.flatnonzero(cell & ~np.isnan(y))
    patient = np.repeat(np.arange(len(patients)), np.diff(patients.starts, append=patients.n))[known]
    total, label = len(known), y[known]
    most = min(BINS, max(2, (1 + int(np.count_nonzero(np.diff(patient)))) // PER_BIN))
    begins = -(-np.arange(1, most) * total // most)  # rank at which each further bin begins
    value, influence = np.empty(len(p)), np.zeros((len(p), len(patients)))
    for run, probability in enumerate(p[:, known]):
        bins = np.searchsorted(np.sort(probability)[begins - 1], probability, side="left")  # equal p: by the first one
        filled = np.bincount(bins, minlength=most) > 0
        bins = (np.cumsum(filled) - 1)[bins]
        size = np.bincount(bins)
        miss = np.bincount(bins, label - probability) / size
        at, shape = bins * len(patients) + patient, (len(size), len(patients))
        residual = label - probability - miss[bins]
        psi = np.bincount(at, residual, minlength=len(size) * len(patients)).reshape(shape) / size[:, None]
        share = np.bincount(at, minlength=psi.size).reshape(shape) / size[:, None]
        psi /= np.sqrt(np.maximum(1 - share, 1e-9))  # a bin holds few patients, some with many images
        covariance, weight = psi @ psi.T, size / total
        alone = share.max(axis=1) == 1
        noise = np.where(alone, miss**2, np.diag(covariance))  # one patient says nothing about its own noise
        value[run] = weight @ (miss**2 - noise)
        influence[run] = 2 * (weight * miss) @ psi
        least = 2 * float(np.sum(np.outer(weight, weight) * covariance**2))
        observed = float(influence[run] @ influence[run])
        if observed > 0:
            influence[run] *= np.sqrt(max(least / observed, 1.0))
    count = min(patients.count(cell & (y == 1)), patients.count(cell & (y == 0)))
    return measured(value, influence, np.full(len(p), count))


def commensurate(left: Measured, right: Measured) -> tuple[Measured, Measured]:
    """Both squared errors over the sum of the two errors, so that their difference is that of the errors.

    ``(a^2 - b^2) / (a + b) = a - b``: sign and p value are those of the squared errors, the unit that of the ECE. The
    sum is kept above the noise of the difference (the fourth root of its variance).
    """
    errors = sum(np.sqrt(max(float(side.value.mean()), 0.0)) for side in (left, right))
    noise = float(np.square((left.influence - right.influence).mean(axis=0)).sum()) ** 0.25
    scale = 1 / max(errors, noise, 1e-9)
    return left.scaled(scale), right.scaled(scale)
