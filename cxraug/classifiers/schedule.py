"""The schedule that all arms share: learning rates and batches as functions of the step and the seed alone."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from cxraug.classifiers.settings import TrainSettings
from cxraug.seeds import derive_seed

FINAL_SHARE = 0.01  # of the learning rate, at the last step


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Learning rate of 0-based ``step``: a linear rise over ``warmup``, then half a cosine down to 1 %."""
    rise = settings.warmup * settings.steps
    if step + 1 <= rise:
        return settings.lr * (step + 1) / rise
    share = (step + 1 - rise) / max(settings.steps - rise, 1)
    return settings.lr * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * share)))


def batch_positions(step: int, size: int, n: int, seed: int) -> np.ndarray:
    """Positions of batch ``step``: a window on an endless row of permutations of ``n``, one per epoch."""
    places = np.arange(step * size, (step + 1) * size)
    return np.array([_permutation(int(place // n), n, seed)[place % n] for place in places])


@lru_cache(maxsize=4)
def _permutation(epoch: int, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(n)
