"""The copy check: planted copies are caught, other patients are not."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from cohort import toy_images
from PIL import Image

from cxraug.gate.check import Images
from cxraug.gate.duplicates import COPY, TWIN, Duplicates, standardise

REAL = toy_images(400)


def through_jpeg(pixels: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=50)
    return np.asarray(Image.open(stream))


def noisy(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(scale=8, size=pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda x: x,
    "brighter": lambda x: np.clip(x.astype(int) + 25, 0, 255).astype(np.uint8),
    "less contrast": lambda x: (x * 0.6 + 40).astype(np.uint8),
    "jpeg": through_jpeg,
    "noise": noisy,
    "mirrored": lambda x: x[:, ::-1],
    "shifted": lambda x: np.roll(x, (1, -2), axis=(0, 1)),
    "cropped": lambda x: np.asarray(Image.fromarray(x[1:30, 2:31]).resize((32, 32), Image.Resampling.BICUBIC)),
}


def as_batch(pixels: np.ndarray, patients: list[str] | None = None) -> Images:
    n = len(pixels)
    names = patients or [f"syn-{i}" for i in range(n)]
    return Images(pixels, np.full((n, 2), np.nan, np.float32), np.array(names, dtype=object))


def fitted(real: Images = REAL, rate: float = 0.01) -> Duplicates:
    check = Duplicates(rate)
    check.fit(real)
    return check


@pytest.fixture
def check() -> Duplicates:
    """Fitted on :data:`REAL`, and as if nothing had been judged yet."""
    return copy.copy(_once())


_once = lru_cache(fitted)


def rejected(check: Duplicates, batch: Images) -> np.ndarray:
    return check.score(batch).p <= np.array([test.rate for test in check.tests])


@pytest.mark.parametrize("kind", COPIES)
def test_planted_copies_are_caught(check: Duplicates, kind: str) -> None:
    copies = np.stack([COPIES[kind](pixels) for pixels in REAL.pixels[::40]])
    assert rejected(check, as_batch(copies))[:, 0].all()
    assert (check.correlations > 0.8).all()


def test_new_patients_are_not_called_copies(check: Duplicates) -> None:
    fresh = toy_images(300, seed=7)
    assert rejected(check, fresh)[:, 0].mean() <= 0.03


def test_real_false_alarms_keep_the_stated_rate() -> None:
    check = Duplicates(0.05)
    p = check.fit(REAL).p[:, 0]
    assert (p <= check.tests[0].rate).sum() == 20  # 5 % of 400
    assert [test.name for test in check.tests] == [COPY, TWIN]


def test_fewreal_images_coarsen_the_rate_and_still_catch_copies() -> None:
    real = REAL.take(np.arange(21))
    check = fitted(real)
    assert check.tests[0].rate == pytest.approx(1 / 22)
    assert rejected(check, as_batch(real.pixels[:5]))[:, 0].all()


def test_one_patient_alone_abstains() -> None:
    real = Images(REAL.pixels[:5], REAL.y[:5], np.array(["same"] * 5, dtype=object))
    check = fitted(real)
    assert not rejected(check, toy_images(20, seed=5)).any()
    assert rejected(check, as_batch(real.pixels))[:, 0].all()  # the same picture needs no calibration
    assert "abstains" in check.describe({COPY: 1.0, TWIN: 1.0})["note"]


def test_too_few_real_images_abstain_but_for_the_same_picture() -> None:
    real = REAL.take(np.arange(12))
    check = fitted(real)
    fresh = toy_images(30, seed=7).pixels
    assert rejected(check, as_batch(np.concatenate([real.pixels[3:4], fresh])))[:, 0].tolist() == [True] + [False] * 30


def test_a_set_full_of_copies_is_named_as_a_whole(check: Duplicates) -> None:
    check.score(toy_images(100, seed=8))
    assert check.describe({COPY: 0.01, TWIN: 0.01})["note"] is None
    check.first = None
    copies = np.stack([through_jpeg(x) for x in REAL.pixels[:10]])
    check.score(as_batch(np.concatenate([copies, toy_images(90, seed=8).pixels])))
    said = check.describe({COPY: 0.01, TWIN: 0.01})
    assert said["set"]["p_value"] < 0.001
    assert said["set"]["above"] >= 10
    assert "as a whole" in said["note"]


def test_the_same_image_under_two_patients_does_not_blunt_the_check() -> None:
    twice = np.concatenate([np.arange(400), np.arange(0, 400, 8)])
    patients = np.concatenate([REAL.patients, np.array([f"again-{i}" for i in range(50)], dtype=object)])
    for sha in (REAL.sha[twice], None):  # known by its digest, or by its looks
        real = Images(REAL.pixels[twice], REAL.y[twice], patients, sha)
        check = fitted(real)
        assert check.cutoff is not None
        assert check.cutoff < 0.97
        assert rejected(check, as_batch(np.stack([through_jpeg(x) for x in REAL.pixels[:10]])))[:, 0].all()


def test_copies_among_the_synthetic_keep_the_first(check: Duplicates) -> None:
    fresh = toy_images(6, seed=11).pixels
    batch = as_batch(np.stack([fresh[0], fresh[1], through_jpeg(fresh[0]), fresh[2], fresh[0]]))
    assert rejected(check, batch)[:, 1].tolist() == [False, False, True, False, True]
    check.remember(batch.take(np.array([0, 1, 3])))
    again = as_batch(np.stack([fresh[1], fresh[4]]), ["syn-8", "syn-9"])
    assert rejected(check, again)[:, 1].tolist() == [True, False]


def test_views_of_one_study_may_resemble_each_other(check: Duplicates) -> None:
    one = toy_images(1, seed=12).pixels[0]
    batch = as_batch(np.stack([one, one]), ["syn-1", "syn-1"])
    assert not rejected(check, batch)[:, 1].any()


def test_standardised_images_do_not_know_brightness_or_contrast() -> None:
    x = REAL.pixels[:3] // 2
    assert np.allclose(standardise(x), standardise(x + 60), atol=1e-5)
    assert np.allclose(np.linalg.norm(standardise(x), axis=1), 1, atol=1e-5)
    assert not standardise(np.full((1, 32, 32), 7, np.uint8)).any()
