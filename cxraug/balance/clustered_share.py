"""The interval of a share of images when patients have several: exact, for as many images as they are worth.

How much alike a patient's images are is seen in the patients with the finding. Where those are few, what is seen is
held together with what the other levels of the group show, and with the most careful guess, that they are all alike.
"""

from __future__ import annotations

import numpy as np
from scipy import special

PRIOR = 10.0  # patients' worth of what is supposed of a cell before it is looked at
ALIKE = 1.0  # supposed where no other level says otherwise: a patient's images all show the finding, or none does
CONFIDENCE = 0.95


def design_effect(
    images: np.ndarray,
    share: np.ndarray,
    square: np.ndarray,
    size: np.ndarray,
    patients: np.ndarray,
    witnesses: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Design effect (L, F), and its excess over 1 as an interval has to take it.

    Parameters
    ----------
    images : (L, F) known. share : (L, F) of them positive. square : (L, F) sum over patients of ``(positive - share *
        known)^2``. size : (L, F) mean number of images of the patient of an image, ``sum m^2 / sum m``.
    patients : (L, F) known. witnesses : (L, F) patients who tell how much alike images are (:func:`telling`).

    Notes
    -----
    ``square`` over its value for independent images is 1 plus ``r (size - 1)``, with r how much alike a patient's
    images are (1: all the same; more, where patients with many images differ from the others). r is the mean of that of
    the cell, which weighs as much as its witnesses, and that of the other levels, which weighs as much as 10; theirs is
    shrunk in the same way towards 1. It is not less than 0. So a cell with no positive has the design effect that is to
    be expected there, and one with a single positive nearly the same. The excess is widened by the square of the t
    over the normal quantile, because it is estimated.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        alike = (square / (images * share * (1 - share)) - 1) / (size - 1)
    seen = np.isfinite(alike) & (size > 1 + 1e-9) & (witnesses > 0)
    weight = np.where(seen, witnesses, 0.0)
    alike = np.where(seen, alike, 0.0)
    total = (weight * alike).sum(axis=0) - weight * alike
    prior = (total + PRIOR * ALIKE) / (weight.sum(axis=0) - weight + PRIOR)
    r = np.maximum((weight * alike + PRIOR * prior) / (weight + PRIOR), 0.0)
    excess = r * np.maximum(size - 1, 0.0)
    df = np.minimum(weight + PRIOR - 1, np.maximum(patients - 1, 1))
    ratio = special.stdtrit(df, (1 + CONFIDENCE) / 2) / special.ndtri((1 + CONFIDENCE) / 2)
    return 1 + excess, excess * ratio**2


def telling(sums: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """How many patients (L, F) tell how much alike images are: those with the finding, or without it, the fewer.

    A few patients with a hundred images each count as few: ``(sum m)^2 / sum m^2`` of the images m of a patient, given
    the sums (L, 2, F) over either.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(sums**2 / squares, nan=0.0).min(axis=1)


def clustered_interval(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clopper & Pearson's 95 % interval (1934) of a ``share`` of ``n``, a number that need not be whole.

    With n the images over their design effect this is the interval of Korn & Graubard 1998 (Survey Methodology 24,
    193-201), among the methods to be trusted in clustered surveys (Dean & Pagano 2015, Journal of Survey Statistics and
    Methodology 3, 484-503; Franco et al. 2019, same journal 7, 334-364). With one image per patient it is that of
    Clopper and Pearson itself, and grows with the count.
    """
    positive, negative = share * n, (1 - share) * n
    tail = (1 - CONFIDENCE) / 2
    low, high = np.zeros(share.shape), np.ones(share.shape)
    some, others = positive > 1e-9, negative > 1e-9
    low[some] = special.betaincinv(positive[some], negative[some] + 1, tail)
    high[others] = special.betaincinv(positive[others] + 1, negative[others], 1 - tail)
    return low, high
