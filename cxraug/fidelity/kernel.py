"""The kernel distance (KID): an unbiased squared maximum mean discrepancy with a polynomial kernel."""

from __future__ import annotations

import numpy as np


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate of MMD^2 with the kernel ``(a'b / d + 1)^3``.

    0 on average for equal distributions, and therefore also below 0 (Gretton et al. 2012, JMLR 13, lemma 6; kernel of
    Binkowski et al. 2018, arXiv 1801.01401).

    Parameters
    ----------
    x, y : features (n, d) and (m, d) of independent images, n, m >= 2.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    n, m = len(x), len(y)
    xx, yy = _kernel(x, x), _kernel(y, y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * _kernel(x, y).mean())


def block_distances(x: np.ndarray, y: np.ndarray, blocks: int) -> np.ndarray:
    """The kernel distance of each of ``blocks`` disjoint blocks of rows, (blocks,).

    Their mean is unbiased, and as no image is in two blocks their standard deviation over the root of ``blocks`` is an
    honest standard error (the usual 100 overlapping subsets give one that is too small).

    Parameters
    ----------
    x, y : features (n, d) in random order, of independent images, n >= 2 ``blocks``.
    """
    parts = zip(np.array_split(x, blocks), np.array_split(y, blocks), strict=True)
    return np.array([kernel_distance(a, b) for a, b in parts])


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3
