"""One measure on real and on generated images of the same prompts: both values, their ratio and their difference.

Real and generated images stand row by row beside each other (a prompt has the attributes of one real row), so that the
influence values of both live on the same patients and what they share drops out of ratio and difference.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from cxraug.evaluation.auroc import auroc
from cxraug.evaluation.measured import Array, Measured, Patients, measured

REAL, GENERATED, CHANCE = 0, 1, 2  # the runs of a Measured of this package; the third is optional
ALPHA = 0.05


def paired_auroc(scores: Array, y: Array, patients: Array) -> Measured | None:
    """AUROC of R runs of scores (R, n) against one label (n,) of 1, 0 or NaN (left out); None without both classes."""
    known = np.isfinite(y)
    if not (y[known] == 1).any() or not (y[known] == 0).any():
        return None
    order, clusters = _by_patient(patients[known])
    scores, y = np.asarray(scores, float)[:, known][:, order], y[known][order]
    return auroc(scores, list(np.argsort(scores, axis=1, kind="stable")), y, clusters)


def paired_mean(values: Array, patients: Array) -> Measured:
    """Mean over n rows of R runs of values (R, n), n >= 1, with patient-clustered variance."""
    values = np.asarray(values, float)
    return paired_ratio(values, np.ones_like(values), patients)


def paired_ratio(values: Array, sizes: Array, patients: Array) -> Measured:
    """``sum(values) / sum(sizes)`` of R runs, both (R, n), no sum of sizes 0: the ratio estimator of cluster sampling.

    A share, a mean (sizes 1), or F1 (twice the hits over what was said and what was asked).
    """
    order, clusters = _by_patient(patients)
    x, n = np.asarray(values, float)[:, order], np.asarray(sizes, float)[:, order]
    total = n.sum(axis=1)
    value = x.sum(axis=1) / total
    apart = (x - value[:, None] * n) / total[:, None]
    influence = np.stack([clusters.sum(np.arange(clusters.n), run) for run in apart]) * _small(len(clusters))
    return measured(value, influence, np.full(len(value), len(clusters)))


def paired_correlation(x: Array, z: Array, patients: Array) -> Measured:
    """Pearson's correlation of R runs of values (R, n) with ``z`` (n,), n >= 2, 0 where a run does not vary.

    Influence of a row with standardised values a and b: ``(a b - r (a^2 + b^2) / 2) / n`` (Devlin, Gnanadesikan &
    Kettenring 1975, Biometrika 62, 531, eq. 3.1).
    """
    order, clusters = _by_patient(patients)
    runs, known = np.asarray(x, float)[:, order], _standard(np.asarray(z, float)[order])
    value, influence = [], []
    for run in runs:
        a = _standard(run)
        r = float(np.mean(a * known))
        each = (a * known - r * (a * a + known * known) / 2) / len(known)
        value.append(r)
        influence.append(clusters.sum(np.arange(clusters.n), each) * _small(len(clusters)))
    return measured(np.array(value), np.array(influence), np.full(len(value), len(clusters)))


def compare(found: Measured) -> dict[str, float]:
    """Real and generated values (runs 0 and 1; run 2, if there is one, is ``chance``), their ratio and difference.

    ``ci_low, ci_high`` are the 95 % interval of the ratio generated / real (on the log scale, by the delta method),
    ``difference_low, difference_high`` that of generated minus real. The ratio is NaN where a value is not positive.
    """
    real, generated = found.take(np.array([REAL])), found.take(np.array([GENERATED]))
    apart = generated.minus(real, paired=True)
    reach = float(special.stdtrit(apart.df[0], 1 - ALPHA / 2))
    half = reach * float(np.sqrt(apart.variance[0]))
    a, b, d = float(real.value[0]), float(generated.value[0]), float(apart.value[0])
    row = {"real": a, "generated": b, "difference": d, "difference_low": d - half, "difference_high": d + half}
    if len(found.value) > CHANCE:
        row["chance"] = float(found.value[CHANCE])
    if a > 0 and b > 0:
        relative = generated.scaled(1 / b).minus(real.scaled(1 / a), paired=True)
        error = reach * float(np.sqrt(relative.variance[0]))
        row |= {"ratio": b / a, "ci_low": b / a * np.exp(-error), "ci_high": b / a * np.exp(error)}
    return row


def bounds(found: Measured, run: int) -> tuple[float, float]:
    """The 95 % interval of one run's value, symmetric."""
    one = found.take(np.array([run]))
    half = float(special.stdtrit(one.df[0], 1 - ALPHA / 2) * np.sqrt(one.variance[0]))
    return float(one.value[0]) - half, float(one.value[0]) + half


def _by_patient(patients: Array) -> tuple[Array, Patients]:
    """Positions of the rows sorted by patient, and the patients of the sorted rows."""
    code = np.unique(patients.astype(str), return_inverse=True)[1]
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    return order, Patients(starts, len(code))


def _standard(x: Array) -> Array:
    spread = float(x.std())
    return (x - x.mean()) / spread if spread > 1e-12 else np.zeros_like(x)


def _small(patients: int) -> float:
    return float(np.sqrt(patients / max(patients - 1, 1)))
