"""What is measured in a cell (finding x group level), and whether there is enough of it to be shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxraug.evaluation.auprc import auprc, bootstrap_auprc
from cxraug.evaluation.auroc import auroc
from cxraug.evaluation.calibration import brier, calibration_slope
from cxraug.evaluation.ece import squared_ece
from cxraug.evaluation.measured import Array, Measured, Patients
from cxraug.evaluation.metrics import ANY_FINDING, METRICS, NO_FINDING, base_metric
from cxraug.evaluation.predictions import Predictions
from cxraug.evaluation.rates import (
    f1_score,
    false_positive_rate,
    negative_predictive_value,
    positive_predictive_value,
    true_positive_rate,
)

CALIBRATION = {"brier": brier, "ece": squared_ece, "calibration_slope": calibration_slope}
DERIVED = ("underdiagnosis", "overdiagnosis")


@dataclass(frozen=True)
class Subject:
    """A finding (or "any finding") in R runs.

    ``y`` (n,) 1, 0, NaN. ``scores``, ``order`` (its argsort), ``calibrated`` (R, n) or None where there is no
    probability; ``decision`` (R, n) bool or None where there is no threshold.
    """

    name: str
    y: Array
    scores: Array | None
    order: Array | None
    calibrated: Array | None
    decision: Array | None

    def metrics(self, wanted: tuple[str, ...]) -> list[str]:
        """Which of the ``wanted`` metrics exist for this subject."""
        names = []
        for name in wanted:
            if METRICS[name].threshold and self.decision is None:
                continue
            if name in DERIVED and self.name not in (NO_FINDING, ANY_FINDING):
                continue
            if name not in DERIVED and self.name == ANY_FINDING:
                continue
            names.append(name)
        return names


@dataclass(frozen=True)
class Support:
    """How much a metric's cell holds of what it needs: the smaller of images and patients; and its flag."""

    n: int
    n_pos: int
    n_patients: int
    enough: int
    flag: str

    @property
    def shown(self) -> bool:
        """Not suppressed."""
        return self.flag != "suppressed"


def subjects_of(predictions: Predictions, thresholds: Array, calibrated: Array) -> list[Subject]:
    """One subject per finding, and "any finding" where "No Finding" is not predicted.

    The stated rule of "any finding": present where any finding is present, absent where every finding is known to be
    absent, blank otherwise; called where any finding reaches its own frozen threshold.
    """
    subjects = []
    decisions: list[Array | None] = []
    for i, name in enumerate(predictions.findings):
        scores = np.ascontiguousarray(predictions.p[:, i])
        cut = thresholds[:, i]
        decision = None if np.isnan(cut).any() else scores >= cut[:, None]
        decisions.append(decision)
        order = np.argsort(scores, axis=1, kind="stable")
        subjects.append(Subject(name, predictions.y[i], scores, order, calibrated[:, i], decision))
    if NO_FINDING not in predictions.findings and len(subjects) > 1:
        present = (predictions.y == 1).any(axis=0)
        known = present | ~np.isnan(predictions.y).any(axis=0)
        y = np.where(known, present.astype(float), np.nan)
        called = None
        if all(decision is not None for decision in decisions):
            called = np.any([decision for decision in decisions if decision is not None], axis=0)
        subjects.append(Subject(ANY_FINDING, y, None, None, None, called))
    return subjects


def measure(subject: Subject, metric: str, cell: Array, patients: Patients) -> Measured:
    """``metric`` of ``subject`` in ``cell`` (n,) bool, in every run."""
    metric = base_metric(metric, subject.name)
    y = subject.y
    if metric in ("auroc", "auprc"):
        assert subject.scores is not None
        assert subject.order is not None
        return (auroc if metric == "auroc" else auprc)(subject.scores, subject.order, y, cell, patients)
    if metric in CALIBRATION:
        assert subject.calibrated is not None
        return CALIBRATION[metric](subject.calibrated, y, cell, patients)
    assert subject.decision is not None
    if metric == "fnr":
        return true_positive_rate(subject.decision, y, cell, patients).complement()
    function = {
        "tpr": true_positive_rate,
        "fpr": false_positive_rate,
        "ppv": positive_predictive_value,
        "npv": negative_predictive_value,
        "f1": f1_score,
    }[metric]
    return function(subject.decision, y, cell, patients)


def support(
    subject: Subject,
    metric: str,
    cell: Array,
    patients: Patients,
    *,
    min_cell: int,
    few: int,
    weight: Array | None = None,
) -> Support:
    """Count what ``metric`` needs in ``cell`` (rule 8 of the evidence rules).

    Suppressed below ``min_cell`` images or patients of what is needed (and always where it is undefined); flagged
    ``few`` below ``few``. For PPV and NPV the run that calls (clears) the fewest counts.
    With ``weight`` (n,) images and patients are Kish's effective numbers.
    """
    known = cell & ~np.isnan(subject.y)
    if weight is not None:
        known &= weight > 0
    positive, negative = known & (subject.y == 1), known & (subject.y == 0)
    n_pos = int(positive.sum())
    needs = METRICS[base_metric(metric, subject.name)].needs
    if needs in ("called", "cleared"):
        assert subject.decision is not None
        enough = min(
            _smaller(known & (run if needs == "called" else ~run), patients, weight) for run in subject.decision
        )
    elif needs == "both":
        enough = min(_smaller(positive, patients, weight), _smaller(negative, patients, weight))
    else:
        enough = _smaller({"positive": positive, "negative": negative, "any": known}[needs], patients, weight)
    undefined = enough < 1 or (metric in ("auroc", "auprc") and n_pos in (0, int(known.sum())))
    flag = "suppressed" if undefined or enough < min_cell else "few" if enough < few else ""
    return Support(int(known.sum()), n_pos, patients.count(known), enough, flag)


def bootstrap_variance(
    subject: Subject, runs: Array, weights_of_runs: Array, cell: Array, patient_of: Array, weights: Array
) -> float:
    """Patient-bootstrap variance of the weighted mean AUPRC over ``runs`` (positions); NaN replicates left out."""
    assert subject.scores is not None
    assert subject.order is not None
    total = np.zeros(weights.shape[1])
    for run, share in zip(runs, weights_of_runs, strict=True):
        total += share * bootstrap_auprc(subject.scores[run], subject.order[run], subject.y, cell, patient_of, weights)
    return float(np.nanvar(total, ddof=1))


def effective(mask: Array, weight: Array, patients: Patients) -> tuple[float, float]:
    """Kish's effective number ``(sum w)^2 / sum w^2`` of images and of patients in ``mask`` (n,)."""
    inside = np.where(mask, weight, 0.0)
    numbers = []
    for one in (inside, patients.sum(inside)):
        square = float(one @ one)
        numbers.append(float(one.sum()) ** 2 / square if square > 0 else 0.0)
    return numbers[0], numbers[1]


def _smaller(mask: Array, patients: Patients, weight: Array | None) -> int:
    if weight is not None:
        return int(min(effective(mask, weight, patients)) + 1e-9)
    images = int(mask.sum())
    return min(images, patients.count(mask)) if images else 0
