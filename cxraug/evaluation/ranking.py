"""Sorted scores seen from their positives: what AUROC and average precision are sums over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxraug.evaluation.measured import Array


@dataclass(frozen=True)
class Ranking:
    """Rows in the order of their scores, equal scores put together, seen from the A places that hold positives.

    Positives are few where a finding is rare: sums along the ranking are made over them alone.

    Attributes
    ----------
    positive : (k,) bool, of the rows in order. at : (A,) which of the G distinct scores have positives.
    hits, every : (A,) weight of the positives, and of all rows, at those scores. called : (A,) of all rows up to and
        including them. total : of all rows. sizes : (G,) rows at each distinct score; None where no two are equal.
    """

    positive: Array
    at: Array
    hits: Array
    every: Array
    called: Array
    total: float
    sizes: Array | None

    @classmethod
    def of(cls, score: Array, positive: Array, weight: Array | None = None) -> Ranking:
        """From rows in order (ascending or descending): ``score``, ``positive`` (k,), ``weight`` (k,) or 1."""
        differs = score[1:] != score[:-1]
        if differs.all():
            at = np.flatnonzero(positive)
            if weight is None:
                ones = np.ones(len(at))
                return cls(positive, at, ones, ones, at + 1.0, float(len(score)), None)
            called = np.cumsum(weight)
            return cls(positive, at, weight[at], weight[at], called[at], float(called[-1]), None)
        first = np.concatenate(([0], np.flatnonzero(differs) + 1))
        weight = np.ones(len(score)) if weight is None else weight
        hits, every = np.add.reduceat(positive * weight, first), np.add.reduceat(weight, first)
        at, called = np.flatnonzero(np.logical_or.reduceat(positive, first)), np.cumsum(every)
        sizes = np.diff(first, append=len(score))
        return cls(positive, at, hits[at], every[at], called[at], float(called[-1]), sizes)

    def between(self, before: float, values: Array) -> Array:
        """``before`` up to the first place, then each of ``values`` (A,) from its place to the next: (G,)."""
        last = len(self.positive) if self.sizes is None else len(self.sizes)
        return np.repeat(np.append(before, values), np.diff(self.at, prepend=0, append=last))

    def rows(self, positives: Array, negatives: Array) -> Array:
        """Values (k,) of the rows from those of positives (A,) and of negatives (G,)."""
        if self.sizes is None:
            negatives[self.at] = positives
            return negatives
        spread = np.zeros(len(self.sizes))
        spread[self.at] = positives
        return np.where(self.positive, np.repeat(spread, self.sizes), np.repeat(negatives, self.sizes))
