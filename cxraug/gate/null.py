"""How strange real images look in one test: the distribution that p-values are read from, in all or level by level."""

from __future__ import annotations

import math

import numpy as np

from cxraug.gate.check import conformal_high, highest_accepted


def resolved_by(rate: float) -> int:
    """The fewest calibration images whose smallest p-value, 1 / (n + 1), does not exceed ``rate``."""
    return math.ceil(1 / rate - 1e-9) - 1


class Null:
    """Values of real images in one test; larger is stranger.

    With ``levels`` the p-values of a level come from its own real images (Mondrian conformal prediction: Vovk,
    Gammerman & Shafer 2005, section 4.5), so that each level has the stated false-reject rate, not only all of them
    together. A level with fewer than ``needed`` values is judged by all.

    Parameters
    ----------
    values : (n,), NaN is left out. levels : (n,) level of each, or None.
    """

    def __init__(self, values: np.ndarray, levels: np.ndarray | None = None, needed: int = 19) -> None:
        known = ~np.isnan(values)
        self.values, self.needed = values[known], needed
        self.by_level: dict[str, np.ndarray] = {}
        self.small: dict[str, int] = {}  # levels that are judged by all, with their counts
        if levels is not None:
            mine = levels[known]
            for level in sorted(set(levels.astype(str))):
                part = self.values[mine == level]
                if len(part) >= needed:
                    self.by_level[level] = part
                else:
                    self.small[level] = len(part)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def finest(self) -> float:
        """The smallest p-value of an image that is not among them."""
        return 1 / (len(self) + 1)

    def p(self, x: np.ndarray, levels: np.ndarray | None = None, *, member: bool = False) -> np.ndarray:
        """Conformal p-values of being as strange as ``x`` (m,), of ``levels`` (m,); see :func:`conformal_high`."""
        p = conformal_high(self.values, x, member=member)
        if levels is not None:
            for level, part in self.by_level.items():
                rows = levels == level
                p[rows] = conformal_high(part, x[rows], member=member)
        return p

    def cutoff(self, level: float) -> float | None:
        """The largest value that is accepted at ``level`` where no group level has its own; None: none is rejected."""
        return highest_accepted(self.values, level)
