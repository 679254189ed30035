"""Mirrored images are told by what changes when they are mirrored: the algebra, planted ones, and real ones."""

from __future__ import annotations

import numpy as np
import pytest

from cxraug.balance.mirrored import find_mirrored, mirrored_cells
from cxraug.privacy.structure import cells_of


def lopsided(n: int, seed: int = 0) -> np.ndarray:
    """Noise with a bright disc, left of the middle at heights of its own: images (n, 64, 64) with one right way."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    images = rng.normal(100, 12, (n, 64, 64))
    for image in images:
        row, column = rng.uniform(28, 46), rng.uniform(18, 30)
        image[(y - row) ** 2 + (x - column) ** 2 < rng.uniform(6, 11) ** 2] += 60
    return np.clip(images, 0, 255).astype(np.uint8)


def test_cells_of_the_mirror_image_are_the_cells_put_elsewhere() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64)).astype(np.uint8)
    found = cells_of(images)
    assert mirrored_cells(found) == pytest.approx(cells_of(np.ascontiguousarray(images[:, :, ::-1])), abs=1e-5)
    assert np.array_equal(mirrored_cells(mirrored_cells(found)), found)


def test_planted_ones_are_found_and_the_promise_is_kept() -> None:
    images, patients = lopsided(600), np.arange(600) // 2
    images[:12] = images[:12, :, ::-1]
    found = find_mirrored(cells_of(images), patients, 0.005, 0.5)
    assert found is not None
    assert (found.probability[:12] > 0.5).mean() == pytest.approx(found.found, abs=0.25)
    assert found.found > 0.7
    assert found.found_at_one_percent > 0.9
    assert (found.probability[12:] > 0.5).mean() < 0.01


def test_a_mirrored_set_scores_the_same_and_images_without_sides_are_left_alone() -> None:
    structure, patients = cells_of(lopsided(200)), np.arange(200)
    one = find_mirrored(structure, patients, 0.005, 0.5)
    other = find_mirrored(mirrored_cells(structure), patients, 0.005, 0.5)
    assert one is not None
    assert other is not None
    assert other.side == pytest.approx(one.side, abs=1e-2)  # which side is the right one is what most images say
    noise = np.random.default_rng(1).integers(0, 256, (200, 64, 64)).astype(np.uint8)
    none = find_mirrored(cells_of(noise), patients, 0.005, 0.5)
    assert none is not None
    assert (none.probability > 0.5).sum() == 0
    assert none.found_at_one_percent < 0.1
    assert find_mirrored(structure[:30], patients[:30], 0.005, 0.5) is None
    assert find_mirrored(structure, np.zeros(200, int), 0.005, 0.5) is None
