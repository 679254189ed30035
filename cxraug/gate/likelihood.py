"""From a score to evidence: how much likelier it is among images with a finding than among images without it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

POINTS = 512  # of the grid on which densities are compared
WIDE = 2.0  # spread of the pseudo-image, in standard deviations of all scores
TILT = 1e-3  # per standard deviation: orders images where the ratio is flat


Ratio = Callable[[np.ndarray], np.ndarray]


def log_likelihood_ratio(score: np.ndarray, y: np.ndarray) -> Ratio:
    """The function ``log p(score | present) - log p(score | absent)``, rising in the score.

    Densities are Gaussian kernel estimates with Silverman's bandwidth (1986, eq. 3.31), each with one pseudo-image
    spread widely over all scores, so that the ratio of images never seen is bounded by the number that was; their ratio
    is made monotone by isotonic regression. A logistic regression of the same scores is overconfident where mild
    findings give one class a long tail, and then spends the budget there.

    Parameters
    ----------
    score, y : (n,), y 1 or 0, others are left out; both must occur.

    Returns
    -------
    A function from scores (m,) to natural logarithms (m,); NaN stays NaN.
    """
    from sklearn.isotonic import IsotonicRegression

    known = np.isfinite(score) & ((y == 1) | (y == 0))
    score, present = score[known], y[known] == 1
    centre, spread = float(score.mean()), max(float(score.std()), 1e-9)
    grid = np.linspace(score.min() - spread, score.max() + spread, POINTS)
    pseudo = _normal((grid - centre) / (WIDE * spread)) / (WIDE * spread)

    def density(part: np.ndarray) -> np.ndarray:
        quartiles = np.subtract(*np.quantile(part, [0.75, 0.25])) / 1.349
        width = min(float(part.std()), quartiles) or float(part.std())
        h = 0.9 * max(width, 0.01 * spread) * len(part) ** -0.2
        # counted into the grid's cells first: 512 x 512 kernels, however many images
        count, _ = np.histogram(part, np.append(grid, 2 * grid[-1] - grid[-2]) - (grid[1] - grid[0]) / 2)
        kernel = _normal((grid[:, None] - grid[None]) / max(h, grid[1] - grid[0])) / max(h, grid[1] - grid[0])
        return (kernel @ count + pseudo) / (len(part) + 1)

    with_it, without = density(score[present]), density(score[~present])
    # weighted by the images: where there are none, the ratio is that of the pseudo-images and says nothing
    rising = IsotonicRegression().fit(grid, np.log(with_it) - np.log(without), sample_weight=with_it + without)
    ratio = rising.predict(grid) + TILT * (grid - centre) / spread
    outside = TILT / spread

    def evidence(x: np.ndarray) -> np.ndarray:
        beyond = np.maximum(x - grid[-1], 0) - np.maximum(grid[0] - x, 0)
        return np.interp(x, grid, ratio) + outside * beyond

    return evidence


def _normal(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * np.square(x)) / np.sqrt(2 * np.pi)
