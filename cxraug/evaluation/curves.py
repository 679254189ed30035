"""ROC and calibration curves of the cells that may be shown, few enough points to be kept beside the tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxraug.evaluation.assembly import levels_of
from cxraug.evaluation.bands import Reliability, Roc, Rows, band, roc_band
from cxraug.evaluation.measured import Array
from cxraug.evaluation.predictions import Predictions
from cxraug.evaluation.subjects import Subject

CURVES = ("arm", "finding", "group", "level", "curve", "x", "y", "low", "high")
NEEDS = {"roc": "auroc", "calibration": "ece"}  # a curve is kept where this metric of its cell is shown
BINS = 10


def curves_of(
    predictions: Predictions,
    subjects: Sequence[Subject],
    cells: pd.DataFrame,
    *,
    age_bins: tuple[float, ...],
    least: int,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """The curves of every cell over all runs whose AUROC (ROC) or ECE (calibration) is shown.

    Parameters
    ----------
    cells : the contract's columns; they say which cells are shown. least : patients that a bin of a calibration curve
        must hold; smaller ones are left out. alpha : the bands are pointwise ``1 - alpha``.

    Returns
    -------
    One row per vertex, columns :data:`CURVES`, rounded to four decimals: ``roc`` (x FPR, y TPR; 60 vertices) and
    ``calibration`` (x mean probability, y frequency; at most 10). Several runs are averaged at equal FPR or bin: the
    mean over draws of the mean over seeds. ``low, high``: see :func:`cxraug.evaluation.bands.band`; blank where there
    are too few patients for a band.
    """
    whole = cells[(cells["seed"] == "all") & (cells["draw"] == "all") & (cells["flag"] != "suppressed")]
    wanted = {metric: curve for curve, metric in NEEDS.items()}
    whole = whole[whole["metric"].isin(list(wanted))]
    by_name = {subject.name: subject for subject in subjects}
    units = {arm: _units(part) for arm, part in predictions.runs.reset_index(drop=True).groupby("arm", sort=False)}
    rows_of: dict[tuple[str, str], Array] = {}
    for group in dict.fromkeys(whole["group"]):
        of_row = levels_of(predictions, group, age_bins)[0]
        codes, names = pd.factorize(of_row)
        by_level = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
        rows_of |= {(group, str(name)): rows for name, rows in zip(names, by_level, strict=True)}
    places, points = [], []
    for arm, finding, group, level, metric in zip(*(whole[name] for name in (*CURVES[:4], "metric")), strict=True):
        if finding not in by_name:  # a macro mean
            continue
        subject, rows = by_name[finding], rows_of[group, level]
        rows = rows[~np.isnan(subject.y[rows])]
        found = _points(wanted[metric], subject, rows, units[arm], predictions.patients.of[rows], least, alpha)
        places += [(arm, finding, group, level, wanted[metric])] * len(found)
        points.append(found)
    table = pd.DataFrame(places, columns=list(CURVES[:5]))
    table[list(CURVES[5:])] = np.round(np.concatenate(points), 4) if points else np.empty((0, 4))
    return table


def _points(
    curve: str, subject: Subject, rows: Array, units: list[list[int]], patient_of: Array, least: int, alpha: float
) -> Array:
    """Vertices (k, 4) of x, y, low, high; none where no bin holds enough patients."""
    cell = Rows(subject.y[rows] == 1, np.cumsum(np.diff(patient_of, prepend=patient_of[:1]) != 0))
    n_patients = cell.n_patients
    if curve == "roc":
        scores = subject.scores
        assert scores is not None
        rocs = [[Roc(scores[run, rows], cell) for run in unit] for unit in units]
        return np.vstack([[0.0, 0.0, np.nan, np.nan], roc_band(rocs, n_patients, alpha)])
    calibrated = subject.calibrated
    assert calibrated is not None
    bins = max(1, min(BINS, n_patients // max(least, 1)))
    lines = [[Reliability(calibrated[run, rows], cell, bins) for run in unit] for unit in units]
    found = band(lines, n_patients, alpha)
    return found[found[:, 4] >= max(least, 1), :4]


def _units(runs: pd.DataFrame) -> list[list[int]]:
    """The runs (row numbers) of each draw; with one draw each seed is a unit of its own."""
    draws = [[int(run) for run in part.index] for _, part in runs.groupby("draw", sort=False)]
    return draws if len(draws) > 1 else [[run] for run in draws[0]]
