"""Largest differences over all levels of a grouping (max - min, equalised odds), beside what chance alone gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxraug.evaluation.gaps import correlated_normals, correlation_of
from cxraug.evaluation.measured import Array
from cxraug.evaluation.uncertainty import Estimate

DRAWS = 4000
EXTREMES = ("max_min", "equalised_odds")


@dataclass(frozen=True)
class Extreme:
    """A largest difference ``value``, and the same under no gap: its ``mean``, its 95 % ``quantile``, and the p value.

    The value is biased upwards, by about ``mean`` where there is no gap; it means nothing without them.
    """

    value: float
    mean: float
    quantile: float
    p_value: float

    @property
    def null(self) -> str:
        """The null in words."""
        return (
            f"biased upwards; with no gap: mean {self.mean:.4f}, 95 % quantile {self.quantile:.4f}, "
            f"p {self.p_value:.4f}"
        )


def largest_range(blocks: list[list[Estimate]], seed: int, draws: int = DRAWS) -> Extreme:
    """Largest over ``blocks`` of the range (max - min) of their levels' estimates.

    One block of one metric's levels is its max - min. The blocks TPR and FPR give the equalised odds difference
    (Hardt, Price & Srebro 2016; ``fairlearn.metrics.equalized_odds_difference``); 0 is best.

    Parameters
    ----------
    blocks : per metric, the estimates of at least two levels. draws : replicates of the null.

    Notes
    -----
    No gap: the estimates of a block scatter around one value with their own total standard errors and with the
    correlation of their influence values (levels and metrics that share patients); each as t with its own degrees of
    freedom. ``p = (1 + replicates at or above the value) / (draws + 1)``.
    """
    every = [estimate for block in blocks for estimate in block]
    correlation = correlation_of([estimate.influence for estimate in every])
    rng = np.random.default_rng((seed, 1))
    error = np.sqrt([estimate.variance for estimate in every])
    df = np.array([estimate.df for estimate in every])
    normal = correlated_normals(correlation, seed, draws)
    sample = normal * error / np.sqrt(rng.chisquare(df, (draws, len(df))) / df)
    null = _widest(sample, [len(block) for block in blocks])
    value = float(_widest(np.array([[estimate.value for estimate in every]]), [len(block) for block in blocks])[0])
    beyond = int((null >= value).sum())
    return Extreme(value, float(null.mean()), float(np.quantile(null, 0.95)), (1 + beyond) / (draws + 1))


def _widest(sample: Array, sizes: list[int]) -> Array:
    """Largest range over consecutive blocks of columns: (D, G) -> (D,)."""
    parts = np.split(sample, np.cumsum(sizes)[:-1], axis=1)
    return np.max([np.ptp(part, axis=1) for part in parts], axis=0)
