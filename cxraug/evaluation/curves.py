"""ROC and calibration curves of the cells that may be shown, few enough points to be kept beside the tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxraug.evaluation.assembly import levels_of
from cxraug.evaluation.measured import Array
from cxraug.evaluation.predictions import Predictions
from cxraug.evaluation.subjects import Subject

CURVES = ("arm", "finding", "group", "level", "curve", "x", "y")
NEEDS = {"roc": "auroc", "calibration": "ece"}  # a curve is kept where this metric of its cell is shown
VERTICES = 60
BINS = 10
# Denser where the curve is steep and where a screening threshold lies.
FALSE_POSITIVE_RATES = np.linspace(0, 1, VERTICES - 1) ** 2


def roc(score: Array, positive: Array) -> Array:
    """True positive rate (59,) of one run at :data:`FALSE_POSITIVE_RATES`.

    Parameters
    ----------
    score : (m,), higher means more likely. positive : (m,) bool, both values present.

    Notes
    -----
    Exact on the empirical curve; equal scores are one straight segment (Fawcett 2006, Pattern Recognit Lett 27, 861).
    """
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(positive[order])[last]
    tpr = np.append(0.0, hits / positive.sum())
    fpr = np.append(0.0, (last + 1 - hits) / (~positive).sum())
    at = np.minimum(np.searchsorted(fpr, FALSE_POSITIVE_RATES, side="right") - 1, len(fpr) - 1)
    after = np.minimum(at + 1, len(fpr) - 1)
    width = fpr[after] - fpr[at]
    share = np.divide(FALSE_POSITIVE_RATES - fpr[at], width, out=np.zeros_like(width), where=width > 0)
    return tpr[at] + share * (tpr[after] - tpr[at])


def reliability(probability: Array, positive: Array, patient: Array, least: int) -> tuple[Array, Array, Array]:
    """Mean probability, frequency of positives and patients (bins,) of one run in at most 10 bins of equal mass.

    Parameters
    ----------
    probability, positive, patient : (m,). least : patients that a bin should hold; fewer bins where there are few.
    """
    bins = max(1, min(BINS, len(np.unique(patient)) // max(least, 1)))
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    mean, frequency = (np.array([values[part].mean() for part in parts]) for values in (probability, positive))
    return mean, frequency, np.array([len(np.unique(patient[part])) for part in parts])


def curves_of(
    predictions: Predictions,
    subjects: Sequence[Subject],
    cells: pd.DataFrame,
    *,
    age_bins: tuple[float, ...],
    least: int,
) -> pd.DataFrame:
    """The curves of every cell over all runs whose AUROC (ROC) or ECE (calibration) is shown.

    Parameters
    ----------
    cells : the contract's columns; they say which cells are shown. least : patients that a bin of a calibration curve
        must hold; smaller ones are left out.

    Returns
    -------
    One row per vertex, columns :data:`CURVES`, rounded to four decimals: ``roc`` (x FPR, y TPR) and ``calibration`` (x
    mean probability, y frequency). Several runs are averaged at equal FPR or bin: the mean over draws of the mean over
    seeds.
    """
    whole = cells[(cells["seed"] == "all") & (cells["draw"] == "all") & (cells["flag"] != "suppressed")]
    wanted = {metric: curve for curve, metric in NEEDS.items()}
    whole = whole[whole["metric"].isin(list(wanted))]
    by_name = {subject.name: subject for subject in subjects}
    runs = predictions.runs.reset_index(drop=True)
    weights = {arm: _run_weights(part) for arm, part in runs.groupby("arm", sort=False)}
    masks: dict[tuple[str, str], Array] = {}
    rows: list[tuple] = []
    for group in dict.fromkeys(whole["group"]):
        of_row, levels = levels_of(predictions, group, age_bins)
        masks |= {(group, level): of_row == level for level in levels}
    for cell in whole[["arm", "finding", "group", "level", "metric"]].itertuples(index=False, name=None):
        arm, finding, group, level, metric = cell
        if finding not in by_name:  # a macro mean
            continue
        subject = by_name[finding]
        points = _points(wanted[metric], subject, masks[group, level], weights[arm], predictions.patient_of, least)
        rows += [(arm, finding, group, level, wanted[metric], float(x), float(y)) for x, y in np.round(points, 4)]
    return pd.DataFrame(rows, columns=list(CURVES))


def _points(
    curve: str, subject: Subject, cell: Array, weights: dict[int, float], patient_of: Array, least: int
) -> Array:
    """Vertices (k, 2), the weighted mean over runs; none where no bin holds enough."""
    known = np.flatnonzero(cell & ~np.isnan(subject.y))
    positive = subject.y[known] == 1
    if curve == "roc":
        assert subject.scores is not None
        y = sum(weight * roc(subject.scores[run, known], positive) for run, weight in weights.items())
        return np.vstack([[0.0, 0.0], np.column_stack([FALSE_POSITIVE_RATES, y])])
    assert subject.calibrated is not None
    found = [
        (weight, reliability(subject.calibrated[run, known], positive, patient_of[known], least))
        for run, weight in weights.items()
    ]
    enough = np.min([part[2] for _, part in found], axis=0) >= least
    x, y = (sum(weight * part[i] for weight, part in found) for i in (0, 1))
    return np.column_stack([x, y])[enough]


def _run_weights(runs: pd.DataFrame) -> dict[int, float]:
    """Weight of each run (its row number) in the mean over draws of the mean over seeds."""
    per_draw = runs["draw"].map(runs["draw"].value_counts())
    return {int(run): 1 / (runs["draw"].nunique() * count) for run, count in per_draw.items()}  # type: ignore[call-overload]
