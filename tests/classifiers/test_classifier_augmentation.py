"""Augmentation: repeatable, within range, and no mirror images."""

from __future__ import annotations

import pytest
import torch

from cxraug.classifiers.augmentation import augment
from cxraug.errors import InputError


def left_bright(n: int = 16) -> torch.Tensor:
    images = torch.full((n, 1, 32, 32), 0.2)
    images[..., 4:12] = 0.8
    return images


def test_none_is_the_identity():
    images = left_bright()
    assert torch.equal(augment(images, "none", 1), images)


@pytest.mark.parametrize("name", ["base", "strong"])
def test_one_seed_one_result_within_range_and_each_image_its_own(name):
    images = left_bright()
    a, b, other = (augment(images, name, seed) for seed in (5, 5, 6))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert not torch.equal(a[0], a[1])
    assert a.min() >= 0
    assert a.max() <= 1
    assert a.shape == images.shape


@pytest.mark.parametrize("name", ["base", "strong"])
def test_the_left_stays_left(name):
    out = augment(left_bright(64), name, 0)
    assert (out[..., :16].mean((1, 2, 3)) > out[..., 16:].mean((1, 2, 3))).all()


def test_strong_changes_more_than_base():
    images = left_bright(64)
    change = {name: float((augment(images, name, 0) - images).abs().mean()) for name in ("base", "strong")}
    assert 0 < change["base"] < change["strong"]


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="no such augmentation"):
        augment(left_bright(1), "wild", 0)
