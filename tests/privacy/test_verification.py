"""The verification network: its loss by hand, what augmentation keeps, and that it learns to know people."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from cxraug.errors import InputError
from cxraug.privacy.verification import (
    SHIFTS,
    TEMPERATURE,
    WIDTH,
    Embedder,
    Lessons,
    augment,
    contrastive_loss,
    embed,
    pixel_vectors,
    teachable,
    train_embedder,
)


def people(n: int, per: int, seed: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of ``n`` people, each ``per`` times: a smooth pattern of one's own, shifted, exposed and noisy."""
    rng = np.random.default_rng(seed)
    pixels = []
    for _ in range(n):
        own = np.kron(rng.normal(0, 25, (10, 10)), np.ones((4, 4)))
        for _ in range(per):
            y, x = rng.integers(2, 7, 2)
            shown = 120 + rng.normal(0, 15) + rng.uniform(0.6, 1.4) * own[y : y + side, x : x + side]
            pixels.append(shown + rng.normal(0, 6, (side, side)))
    return np.clip(pixels, 0, 255).astype(np.uint8), np.repeat(np.arange(n), per)


def test_the_loss_is_the_papers() -> None:
    vectors = functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    identity = torch.tensor([0, 0, 0, 1, 2])
    products = np.exp((vectors @ vectors.T).numpy() / TEMPERATURE)
    terms = []
    for i in range(3):  # the others have no second image
        own = [j for j in range(3) if j != i]
        all_others = sum(products[i, j] for j in range(5) if j != i)
        terms.append(-np.mean([np.log(products[i, j] / all_others) for j in own]))
    assert float(contrastive_loss(vectors, identity)) == pytest.approx(np.mean(terms), rel=1e-4)


def test_augmentation_moves_a_little_and_never_mirrors() -> None:
    image = torch.zeros(200, 1, 32, 32)
    image[:, :, 8:24, 4:10] = 1  # everything is on the left
    moved = augment(image, np.random.default_rng(0))[:, 0]
    assert (moved[:, :, :16].sum((1, 2)) > 3 * moved[:, :, 16:].sum((1, 2))).all()
    assert moved.std(0).max() > 0.1
    assert torch.equal(moved[:, None], augment(image, np.random.default_rng(0)))


def test_exposure_does_not_reach_the_vectors() -> None:
    torch.manual_seed(0)
    pixels = people(4, 1, 0)[0] // 2
    model = Embedder().eval()
    np.testing.assert_allclose(embed(model, pixels), embed(model, pixels + 40), atol=1e-3)
    assert embed(model, pixels).shape == (4, WIDTH)
    assert embed(model, pixels[:0]).shape == (0, WIDTH)


def test_training_tells_unseen_people_apart_and_is_repeatable() -> None:
    pixels, who = people(60, 3, 1)
    lessons = Lessons(pixels, who, who % 2)
    other, names = people(25, 2, 2)
    model = train_embedder(lessons, steps=40, seed=0)
    vectors = embed(model, other)
    products = vectors @ vectors.T
    same = (names[:, None] == names[None]) & ~np.eye(len(names), dtype=bool)
    strange = names[:, None] != names[None]
    better = (products[same][:, None] > products[strange][None]).mean()
    assert better > 0.9
    few = [train_embedder(lessons, steps=2, seed=0) for _ in range(2)]
    assert np.array_equal(embed(few[0], other), embed(few[1], other))


def test_too_few_people_are_refused() -> None:
    pixels, who = people(19, 2, 3)
    assert teachable(Lessons(pixels, who, who * 0)) == 19
    with pytest.raises(InputError, match="found 19; expected at least 20"):
        train_embedder(Lessons(pixels, who, who * 0), steps=1, seed=0)


def test_groups_of_one_patient_learn_together() -> None:
    pixels, who = people(24, 2, 4)
    train_embedder(Lessons(pixels, who, who), steps=1, seed=0)  # each a group of its own: no impostors of its own


def test_pixels_are_compared_whatever_their_exposure_at_the_best_shift() -> None:
    rng = np.random.default_rng(5)
    image = np.kron(rng.normal(0, 20, (17, 17)), np.ones((4, 4)))
    a = (120 + image[:64, :64]).astype(np.uint8)[None]
    b = (90 + 0.5 * image[2:66, 2:66]).astype(np.uint8)[None]  # one of 32 pixels down and right
    scores = {shift: float((pixel_vectors(a, shift) * pixel_vectors(b)).sum()) for shift in SHIFTS}
    assert max(scores, key=lambda s: scores[s]) == (1, 1)
    assert scores[1, 1] > 0.95
    assert np.linalg.norm(pixel_vectors(a), axis=1) == pytest.approx(1)
