"""Precision, recall, density and coverage: who lies in whose neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

NEAREST = 3  # k of precision and recall (Kynkäänniemi et al.)
DENSE = 5  # k of density and coverage (Naeem et al.)
SHARES = ("precision", "recall", "coverage")  # shares of images, in [0, 1]; density is a mean that may exceed 1


@dataclass(frozen=True)
class Distances:
    """Euclidean distances of n real and m synthetic images: ``real`` (n, n), ``synthetic`` (m, m), ``cross`` (n, m).

    They are taken from differences of features in double precision (not by the expansion of the square), so that a
    copy is at 0 and ties are ties.
    """

    real: np.ndarray
    synthetic: np.ndarray
    cross: np.ndarray

    @classmethod
    def of(cls, real: np.ndarray, synthetic: np.ndarray) -> Distances:
        """Of features (n, d) and (m, d)."""
        return cls(cdist(real, real), cdist(synthetic, synthetic), cdist(real, synthetic))

    def take(self, rows: np.ndarray) -> Distances:
        """Only these positions, of the real and of the synthetic images."""
        at = np.ix_(rows, rows)
        return Distances(self.real[at], self.synthetic[at], self.cross[at])


def neighbourhood_scores(distances: Distances, *, nearest: int = NEAREST, dense: int = DENSE) -> dict[str, float]:
    """Precision, recall, density and coverage of synthetic images against real ones.

    With NND_k(x) the distance of an image to its k-th nearest other image of its own set:

    - precision: share of synthetic images closer to some real image than that one's NND_k; recall: the same with the
      sets exchanged (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 to 3, k = ``nearest``). 1 is good, 0 is bad. One
      outlier with a large neighbourhood raises them.
    - density: for how many real images' neighbourhoods a synthetic image lies in, over k, on average; about 1 for equal
      distributions, above 1 where the synthetic images crowd where real ones are dense. coverage: share of real images
      with a synthetic one in their neighbourhood (Naeem et al. 2020, arXiv 2002.09797, eq. 4 and 5, k = ``dense``).

    "Closer" is strict, as in Naeem's code: the four of identical sets are exactly 1 (without ties).

    Raises
    ------
    ValueError : sets of at most k images.
    """
    if min(distances.cross.shape) <= max(nearest, dense):
        raise ValueError(f"{min(distances.cross.shape)} images are too few for {max(nearest, dense)} neighbours")
    cross = distances.cross
    inside = cross < _radius(distances.real, dense)[:, None]
    return {
        "precision": float((cross < _radius(distances.real, nearest)[:, None]).any(axis=0).mean()),
        "recall": float((cross < _radius(distances.synthetic, nearest)[None]).any(axis=1).mean()),
        "density": float(inside.sum(axis=0).mean() / dense),
        "coverage": float(inside.any(axis=1).mean()),
    }


def _radius(own: np.ndarray, k: int) -> np.ndarray:
    """Distance of each image to its k-th nearest other one (the nearest of all is itself, at 0)."""
    return np.partition(own, k, axis=1)[:, k]
