"""Small cohorts with scores for the tests of the evaluation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cxraug.evaluation.cells import Cell, measure
from cxraug.evaluation.measured import Array, Measured, Patients
from cxraug.evaluation.subjects import Subject


def patients_of(ids: Array) -> Patients:
    """Rows must be sorted by patient."""
    return Patients(np.flatnonzero(np.diff(ids, prepend=-1)), len(ids))


def measure_in(
    metric: str,
    ids: Array,
    y: Array,
    *,
    scores: Array | None = None,
    p: Array | None = None,
    decision: Array | None = None,
    cell: Array | None = None,
) -> Measured:
    """``metric`` of a finding in the rows of ``cell`` (all)."""
    whole = Cell.whole(patients_of(ids))
    return measure(Subject("A", y, scores, p, decision), metric, whole if cell is None else whole.part(cell))


def scored(n_patients: int, seed: int, *, runs: int = 1, levels: int | None = None, images: float = 3.0):
    """Patient ids (n,), y (n,), scores (R, n) correlated within patients; ``levels``: scores from few levels."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n_patients), rng.geometric(1 / images, n_patients))
    y = (rng.standard_normal(n_patients)[ids] + rng.standard_normal(len(ids)) > 0.5).astype(float)
    y[:2] = (0, 1)
    common = rng.standard_normal(n_patients)[ids]
    scores = 1.2 * y + 0.6 * common + 0.8 * rng.standard_normal((runs, len(ids)))
    if levels:
        edges = np.quantile(scores, np.linspace(0, 1, levels + 1)[1:-1])
        scores = np.digitize(scores, edges).astype(float)
    return ids, y, scores


def table(
    n_patients: int = 120,
    seed: int = 0,
    *,
    findings: tuple[str, ...] = ("A", "B"),
    boost: float = 0.0,
    validation: int = 0,
    run: int = 0,
) -> pd.DataFrame:
    """A predictions table: labels, patients and groups depend on ``seed``, noise of the scores also on ``run``."""
    rng, noise = np.random.default_rng(seed), np.random.default_rng((seed, run, 1))
    total = n_patients + validation
    ids = np.repeat(np.arange(total), rng.geometric(0.4, total))
    frame = pd.DataFrame(
        {
            "image": [f"i{k:05d}.png" for k in range(len(ids))],
            "patient_id": [f"p{k:04d}" for k in ids],
            "split": np.where(ids < n_patients, "test", "val"),
            "sex": rng.choice(["M", "F"], total)[ids],
            "age": rng.integers(1, 95, total)[ids],
        }
    )
    for finding in findings:
        y = (rng.random(len(ids)) < 0.35).astype(float)
        latent = y * (1.0 + boost) + rng.standard_normal(total)[ids] * 0.6 + noise.standard_normal(len(ids)) * 0.8
        frame[f"y_{finding}"], frame[f"p_{finding}"] = y, 1 / (1 + np.exp(-(latent - 1)))
    return frame
