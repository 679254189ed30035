"""AUPRC (average precision), exact with ties: influence values, and a patient bootstrap on presorted scores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import sparse

from cxraug.evaluation.auroc import class_counts
from cxraug.evaluation.measured import Array, Measured, Patients, measured
from cxraug.evaluation.ranking import Ranking

BLOCK = 250  # replicates at a time: few enough for the memory, many enough for the speed


def auprc(
    scores: Array, order: Sequence[Array], y: Array, patients: Patients, counts: tuple[int, int] | None = None
) -> Measured:
    """Average precision ``sum_k (R_k - R_{k-1}) P_k`` of R runs in one cell; chance is the prevalence, 1 is best.

    Parameters as in :func:`cxraug.evaluation.auroc.auroc`; at least one positive must occur in the cell.

    Notes
    -----
    As a function of image weights ``AP = sum_i w_i T(s_i) / (T(s_i) + F(s_i)) / sum_i w_i`` over positives i, with T
    and F the weights of positives and negatives at or above a score. The influence values are its derivatives at
    ``w = 1`` (they sum to 0 because AP does not depend on the scale of the weights).
    """
    count = (counts or class_counts(order[0], y, patients))[0]
    value, influence = np.empty(len(scores)), np.empty((len(scores), len(patients)))
    for run, (score, rows) in enumerate(zip(scores, order, strict=True)):
        value[run], slope = precision_and_slope(score[rows], y[rows] == 1)
        influence[run] = patients.sum(rows, slope)
    influence *= np.sqrt(count / max(count - 1, 1))
    return measured(value, influence, np.full(len(scores), count))


def precision_and_slope(score: Array, positive: Array, weight: Array | None = None) -> tuple[float, Array]:
    """(Weighted) average precision of ascending scores and its derivative (k,) by the weight of each row."""
    ranking = Ranking.of(score[::-1], positive[::-1], None if weight is None else weight[::-1])
    true = np.cumsum(ranking.hits)
    precision, m = true / ranking.called, true[-1]
    area = float(ranking.hits @ precision) / m
    share = ranking.hits / ranking.called
    gain = np.cumsum((share * (1 - precision))[::-1])[::-1]  # of the positives from here down
    loss = np.cumsum((share * precision)[::-1])[::-1]
    negatives = -ranking.between(loss[0], np.append(loss[1:], 0.0))
    negatives[ranking.at] = -loss  # negatives at the score of a positive lower its precision too
    return area, ranking.rows((precision - area + gain) / m, negatives / m)[::-1]


def patient_weights(n_patients: int, replicates: int, seed: int) -> list[Array]:
    """Multinomial patient weights, blocks (P, b) float32 of at most :data:`BLOCK` replicates.

    A column says how often each patient is drawn in one replicate.
    """
    rng = np.random.default_rng(seed)
    blocks = []
    for start in range(0, replicates, BLOCK):
        blocks.append(np.empty((n_patients, min(BLOCK, replicates - start)), dtype=np.float32))
        for b in range(blocks[-1].shape[1]):
            blocks[-1][:, b] = np.bincount(rng.integers(0, n_patients, n_patients), minlength=n_patients)
    return blocks


def bootstrap_auprc(score: Array, rows: Array, y: Array, patient_of: Array, weights: list[Array]) -> Array:
    """Average precision in every replicate (B,), exact with ties; NaN where a replicate has no positive.

    Only scores of positives matter: negatives are summed (one sparse product) between them.

    Parameters
    ----------
    score, y, patient_of : (n,), one run. rows : (k,) those to judge by ascending score; their y is 1 or 0.
    weights : B replicates from :func:`patient_weights`.
    """
    rows = rows[::-1]
    positive = y[rows] == 1
    first = np.concatenate(([0], np.flatnonzero(np.diff(score[rows])) + 1))
    hits = np.add.reduceat(positive.astype(float), first)
    tie = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(rows))))
    step: Array = np.cumsum(hits > 0) - (hits > 0)  # groups with positives, and how many of them come before each group
    level: Array = step[tie]
    n_steps = int((hits > 0).sum())
    inside: Array = np.asarray(level < n_steps)  # negatives below the last positive never enter
    shape = (n_steps, len(weights[0]))
    ones = np.ones(len(rows), dtype=np.float32)

    def incidence(keep: Array) -> sparse.csr_matrix:
        return sparse.csr_matrix((ones[keep], (level[keep], patient_of[rows[keep]])), shape=shape)

    hit_rows, all_rows = incidence(positive), incidence(inside)
    result = []
    for part in weights:
        gained = hit_rows @ part
        true, called = _cumulate(gained.copy()), _cumulate(all_rows @ part)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.divide(true, called, out=called, where=called > 0)  # 0 where nobody is called
            result.append(np.einsum("kb,kb->b", gained, precision) / true[-1])
    return np.concatenate(result)


def _cumulate(rows: Array) -> Array:
    """``rows`` (k, B) summed down in place; row by row is several times faster than ``cumsum(axis=0)``."""
    for above, below in pairwise(rows):
        np.add(above, below, out=below)
    return rows
