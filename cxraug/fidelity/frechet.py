"""The Fréchet distance of two sets of features, as if each were a normal distribution."""

from __future__ import annotations

import numpy as np


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Fréchet (2-Wasserstein) distance of the normal distributions with the moments of ``x`` and ``y``.

    ``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))``, >= 0, in squared units of the features (Dowson & Landau 1982,
    J. Multivariate Anal. 12, 450; as a score of images Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    Parameters
    ----------
    x, y : features (n, d) and (m, d), n, m >= 2; covariances are divided by n - 1 and m - 1.

    Notes
    -----
    With centred and scaled rows A and B (C_x = A'A, C_y = B'B) the trace of the root is the sum of the singular values
    of A B', so that no root of a matrix is taken and nothing is added to a diagonal. It is exact for n < d too, where
    the covariances are singular: no direction is left out, as it would be by projecting on the real images' principal
    components. The value is biased upwards, by more the smaller n is against d: compare only at one n.
    """
    a, b = _scaled(x), _scaled(y)
    root = np.linalg.svd(_triangle(a) @ _triangle(b).T, compute_uv=False).sum()
    apart = np.asarray(x, float).mean(axis=0) - np.asarray(y, float).mean(axis=0)
    return max(float(apart @ apart + (a * a).sum() + (b * b).sum() - 2 * root), 0.0)


def _scaled(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, float)
    return (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)


def _triangle(a: np.ndarray) -> np.ndarray:
    """A matrix R of at most d rows with R'R = A'A."""
    return np.asarray(np.linalg.qr(a, mode="r")) if len(a) > a.shape[1] else a
