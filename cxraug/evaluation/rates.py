"""Rates and other ratios of sums (TPR, FPR, PPV, NPV, F1, Brier) with patient-clustered variance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cxraug.evaluation.measured import Array, Measured, measured
from cxraug.evaluation.tally import Tally

# Numerator and denominator (R or 1, u) of each; 1 is best for TPR, PPV, NPV and F1, 0 for FPR and Brier. PPV, NPV, F1
# and Brier depend on prevalence.
RATES: dict[str, Callable[[Tally], tuple[Array, Array]]] = {
    "tpr": lambda t: (t["hits"], t["present"]),
    "fpr": lambda t: (t["alarms"], t["absent"]),
    "ppv": lambda t: (t["hits"], t["hits"] + t["alarms"]),
    "npv": lambda t: (t["absent"] - t["alarms"], t.images - t["hits"] - t["alarms"]),
    "f1": lambda t: (2 * t["hits"], t["hits"] + t["alarms"] + t["present"]),
    "brier": lambda t: (t["error"], t.images[None]),
}


def rate(metric: str, tally: Tally, n_patients: int) -> Measured:
    """``sum(numerator) / sum(denominator)`` over images, per run.

    Parameters
    ----------
    metric : a key of :data:`RATES`. tally : per patient; its denominator must not be 0 in sum.

    Notes
    -----
    Influence of patient i: ``sqrt(I / (I - 1)) (x_i - v n_i) / sum(n)`` with ``I`` patients whose denominator is not 0
    (the ratio estimator of cluster sampling; Rao & Scott 1992, Biometrics 48, 577-585).
    """
    x, size = np.broadcast_arrays(*RATES[metric](tally))
    total = size.sum(axis=1)
    value = x.sum(axis=1) / total
    count = np.count_nonzero(size > 0, axis=1)
    scale = np.sqrt(count / np.maximum(count - 1, 1)) / total
    return measured(value, (x - value[:, None] * size) * scale[:, None], count).spread(tally.at, n_patients)
