"""The chain from attenuation to grey values."""

from dataclasses import replace

import numpy as np
import pytest

from cxraug.studies.phantom.exposure import Exposure, expose

PLAIN = Exposure(photons=1e7, scatter=0.0, low=1.0, high=5.0, slope=1.0, sharpen=0.0, blur=0.0)


def flat(value):
    return np.full((64, 64), value, np.float32)


def test_more_attenuation_is_whiter():
    rng = np.random.default_rng(0)
    grey = [expose(flat(p), 0.3, PLAIN, rng).mean() for p in (0, 1, 2, 3, 4, 5, 6)]
    assert np.all(np.diff(grey) > 0)
    assert grey[0] < 15
    assert grey[-1] > 235


def test_noise_follows_the_photons():
    """In the straight part of the curve the noise goes as 1/sqrt(photons x signal)."""
    few = expose(flat(3.0), 0.3, replace(PLAIN, photons=4e4), np.random.default_rng(1)).std()
    many = expose(flat(3.0), 0.3, replace(PLAIN, photons=1e4), np.random.default_rng(1)).std()
    assert many / few == pytest.approx(2, rel=0.1)
    thick = expose(flat(3.0), 0.3, replace(PLAIN, photons=4e4, low=2.0, high=6.0), np.random.default_rng(1)).std()
    thin = expose(flat(4.0), 0.3, replace(PLAIN, photons=4e4 * np.e, low=3.0, high=7.0), np.random.default_rng(1)).std()
    assert thick == pytest.approx(thin, rel=0.05)


def test_scatter_takes_contrast_from_thick_parts():
    step = flat(2.0)
    step[:, 32:] = 5.0
    clean = expose(step, 0.5, PLAIN, np.random.default_rng(2))
    foggy = expose(step, 0.5, replace(PLAIN, scatter=0.4), np.random.default_rng(2))
    assert foggy[:, 34:40].mean() < clean[:, 34:40].mean() - 5


def test_same_generator_state_gives_same_bytes():
    noise = np.random.default_rng(3).uniform(0, 5, (50, 50)).astype(np.float32)
    pictures = [expose(noise, 0.3, replace(PLAIN, scatter=0.3), np.random.default_rng(4)) for _ in range(2)]
    assert pictures[0].dtype == np.uint8
    np.testing.assert_array_equal(*pictures)
