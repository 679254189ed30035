"""A toy problem that any classifier learns: a bright square on noise is the finding."""

from __future__ import annotations

import numpy as np

from cxraug.classifiers.arms import Images

SIZE = 32
FINDINGS = ("Square", "Bar")


def toy(n: int, seed: int, *, size: int = SIZE) -> Images:
    """Half of the images have a bright square in the middle, a third a bright bar at the bottom."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(60, 120, (n, size, size)).astype(np.uint8)
    y = np.stack([rng.permutation(n) % 2, rng.permutation(n) % 3 == 0], 1).astype(np.float32)
    third = size // 3
    pixels[y[:, 0] == 1, third : 2 * third, third : 2 * third] += 60
    pixels[y[:, 1] == 1, -4:, :] += 60
    return Images(pixels, y)
