"""What is judged: a finding, or "any finding", in every run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cxraug.evaluation.measured import Array
from cxraug.evaluation.metrics import ANY_FINDING, METRICS, NO_FINDING
from cxraug.evaluation.predictions import Predictions

DERIVED = ("underdiagnosis", "overdiagnosis")


@dataclass(frozen=True, eq=False)
class Subject:
    """A finding (or "any finding") in R runs.

    ``y`` (n,) 1, 0, NaN. ``scores``, ``calibrated`` (R, n) or None where there is no probability; ``decision`` (R, n)
    bool or None where there is no threshold.
    """

    name: str
    y: Array
    scores: Array | None
    calibrated: Array | None
    decision: Array | None

    @cached_property
    def known(self) -> Array:
        """Rows (n,) bool whose label is not blank."""
        return ~np.isnan(self.y)

    @cached_property
    def order(self) -> Array:
        """Rows (R, n) by ascending score."""
        assert self.scores is not None
        return np.argsort(self.scores, axis=1)

    @cached_property
    def calibrated_order(self) -> Array:
        """Rows (R, n) by ascending calibrated probability: that of the scores, unless recalibration turned it round."""
        assert self.calibrated is not None
        sorted_by_score = np.take_along_axis(self.calibrated, self.order, axis=1)
        return self.order if (np.diff(sorted_by_score) >= 0).all() else np.argsort(self.calibrated, axis=1)

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
        subjects.append(Subject(name, predictions.y[i], scores, calibrated[:, i], decision))
    if NO_FINDING not in predictions.findings and len(subjects) > 1:
        present = (predictions.y == 1).any(axis=0)
        known = present | ~np.isnan(predictions.y).any(axis=0)
        y = np.where(known, present.astype(float), np.nan)
        called = None
        if all(decision is not None for decision in decisions):
            called = np.any([decision for decision in decisions if decision is not None], axis=0)
        subjects.append(Subject(ANY_FINDING, y, None, None, called))
    return subjects
