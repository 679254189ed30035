"""The realism check: what is strange to real images is rejected, and real patients at the stated rate."""

from __future__ import annotations

import numpy as np
import pytest
from cohort import toy_images

from cxraug.gate.check import Images
from cxraug.gate.realism import REALISM, Realism
from cxraug.gate.settings import GateSettings


@pytest.fixture(scope="module")
def check() -> Realism:
    made = Realism(GateSettings(), 0.03)
    made.real_p = made.fit(toy_images(600)).p  # type: ignore[attr-defined]
    return made


def rate(check: Realism, pixels: np.ndarray) -> float:
    batch = toy_images(len(pixels), seed=7)
    p = check.score(Images(pixels, batch.y, batch.patients)).p
    return float((p <= 0.03).mean())


def test_real_images_are_rejected_at_the_rate(check: Realism) -> None:
    assert (check.real_p <= 0.03).mean() <= 0.03  # type: ignore[attr-defined]
    assert rate(check, toy_images(600, seed=3).pixels) == pytest.approx(0.03, abs=0.02)
    assert check.tests[0].reason == REALISM


def test_strangers_are_rejected(check: Realism) -> None:
    real = toy_images(200, seed=4).pixels
    noise = np.random.default_rng(0).integers(0, 256, real.shape).astype(np.uint8)
    assert rate(check, noise) > 0.95
    assert rate(check, np.zeros_like(real)) > 0.95
    assert rate(check, 255 - real) > 0.5


def test_it_says_in_which_features_and_what_they_cannot_see(check: Realism) -> None:
    told = check.describe({"realism": 0.02})
    assert told["features"]["name"] == "conv-random"
    assert len(told["features"]["sha256"]) == 64
    assert "knows no anatomy" in told["features"]["note"]
    assert told["cutoff"] > told["null_quantiles"]["0.9"]
    assert told["n_calibration"] == 600


def test_few_real_images_abstain() -> None:
    few = Realism(GateSettings(), 0.03)
    assert few.fit(toy_images(18)).p.shape == (18, 0)
    assert few.tests == ()
    assert few.score(toy_images(4)).p.shape == (4, 0)
    assert few.describe({})["note"] == "18 real images of 19 needed: the check abstains"
