"""The room for any augmentation: how much more real data would give, read from a learning curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxraug.evaluation.cells import Cell, measure
from cxraug.evaluation.measured import Array, Measured
from cxraug.evaluation.predictions import Predictions
from cxraug.evaluation.subjects import subjects_of
from cxraug.evaluation.uncertainty import combine


@dataclass(frozen=True)
class Room:
    """``value``: what is left to gain, in units of the metric; ``ci_low, ci_high``: its interval.

    ``ceiling`` and ``control``: the two means that it is the difference of.
    """

    value: float
    ci_low: float
    ci_high: float
    ceiling: float
    control: float


def learning_room(
    predictions: Predictions, finding: str, *, control: str, ceiling: str, metric: str = "auroc", alpha: float = 0.05
) -> Room:
    """The metric of arm ``ceiling`` (real data, all patients) minus that of arm ``control`` (what the limit leaves).

    The control of the primary comparison is subtracted, not the real arm: an arm that is judged against a control can
    gain what that control has not gained already. Draws are paired by name, the seeds of a draw averaged; patients
    are shared. The interval is patient-clustered, over draws (:func:`cxraug.evaluation.uncertainty.combine`).

    Raises
    ------
    ValueError : the arms share no draw, or the finding is not predicted.
    """
    empty = np.full((len(predictions.runs), len(predictions.findings)), np.nan)
    subject = next((s for s in subjects_of(predictions, empty, predictions.p) if s.name == finding), None)
    if subject is None:
        raise ValueError(f"no predictions of {finding}")
    found = measure(subject, metric, Cell.whole(predictions.patients))
    arms, draws = (predictions.runs[name].to_numpy(dtype=object) for name in ("arm", "draw"))
    shared = [d for d in dict.fromkeys(draws[arms == ceiling]) if d in set(draws[arms == control])]
    if not shared:
        raise ValueError(f"{ceiling} and {control} share no draw")
    sides = [
        _per_draw(found, [np.flatnonzero((arms == arm) & (draws == d)) for d in shared]) for arm in (ceiling, control)
    ]
    estimate = combine(sides[0].minus(sides[1], paired=True), np.array(shared, dtype=object))
    margin = estimate.margin(alpha)
    return Room(
        estimate.value,
        estimate.value - margin,
        estimate.value + margin,
        float(sides[0].value.mean()),
        float(sides[1].value.mean()),
    )


def _per_draw(found: Measured, runs: list[Array]) -> Measured:
    """The mean over the seeds of each draw."""
    return Measured(
        np.array([found.value[r].mean() for r in runs]),
        np.stack([found.influence[r].mean(axis=0) for r in runs]),
        np.array([np.square(np.sqrt(found.floor[r]).mean()) for r in runs]),
        np.array([found.df[r].min() for r in runs]),
    )
