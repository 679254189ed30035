"""Spectra, grey levels and diversity against known answers, and torchmetrics as a second opinion on the distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from cxraug.fidelity.frechet import frechet_distance
from cxraug.fidelity.histogram import grey_scores, histograms
from cxraug.fidelity.kernel import kernel_distance
from cxraug.fidelity.look import MEASURES, Look, pair_similarities
from cxraug.fidelity.score import BLOCKS, over_halves, plain_values, score_features, score_look, score_pairs
from cxraug.fidelity.spectrum import BANDS, radial_powers

SIDE = 32


def fields(n: int, rng: np.random.Generator, side: int = SIDE, gain: np.ndarray | None = None) -> np.ndarray:
    """Random images whose power falls with frequency, of random brightness and contrast; ``gain`` is on amplitudes."""
    radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side, 1 / side)] * 2))
    shape = 1 / np.maximum(radius, 1) * (1 if gain is None else gain)
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, side, side))) * shape).real
    noise /= np.sqrt((1 / np.maximum(radius, 1) ** 2).mean())
    pixels = rng.normal(120, 10, (n, 1, 1)) + rng.uniform(15, 25, (n, 1, 1)) * noise
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def test_white_noise_has_its_variance_at_every_frequency() -> None:
    noise = np.random.default_rng(0).normal(128, 20, (400, 64, 64))
    powers = radial_powers(np.clip(np.rint(noise), 0, 255).astype(np.uint8))
    assert powers.shape == (400, 32)
    assert powers[:, 1:].mean(axis=0) == pytest.approx(np.full(31, 400), rel=0.05)


def test_a_wave_stands_at_its_frequency() -> None:
    x = np.arange(64)
    wave = np.rint(128 + 50 * np.cos(2 * np.pi * 12 * x / 64)).astype(np.uint8)
    powers = radial_powers(np.tile(wave, (1, 64, 1)))
    assert powers[0].argmax() + 1 == 12
    assert powers[0][[10, 11, 12]].sum() / powers[0].sum() > 0.95  # the Hann window widens it by one step


def test_a_blurred_set_loses_the_analytic_share_of_its_high_band() -> None:
    """A Gaussian of deviation s turns white noise into noise of power exp(-(2 pi s f)^2)."""
    side, s = 64, 0.7
    rng = np.random.default_rng(1)
    noise = rng.normal(128, 30, (200, side, side))
    f = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2))
    blurred = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-((2 * np.pi * s * f) ** 2) / 2)).real
    sharp, soft = (Look.of(np.clip(np.rint(x), 0, 255).astype(np.uint8)) for x in (noise, blurred))
    found = soft.against(sharp)
    steps = np.arange(1, side // 2 + 1) / side
    for band, (low, high) in BANDS.items():
        inside = steps[(steps > low) & (steps <= high)]
        expected = np.exp(-((2 * np.pi * s * inside) ** 2)).mean()
        assert found[f"power_{band}"] == pytest.approx(expected, rel=0.04), band
    decibels = -10 * np.log10(np.e) * (2 * np.pi * s * steps) ** 2
    assert found["spectrum"] == pytest.approx(np.sqrt((decibels**2).mean()), rel=0.1)
    assert sharp.against(sharp) == {m: (1 if m.startswith("power") else 0) for m in MEASURES}


@pytest.mark.parametrize("shift", [-7, 4, 30])
def test_a_brightness_shift_is_its_wasserstein_distance(shift: int) -> None:
    pixels = np.random.default_rng(2).integers(40, 200, (30, 16, 16), np.uint8)
    found = grey_scores(histograms(pixels), histograms((pixels.astype(int) + shift).astype(np.uint8)))
    assert found["wasserstein"] == pytest.approx(abs(shift))
    assert found["grey_mean"] == pytest.approx(shift)
    assert found["grey_sd"] == pytest.approx(0, abs=1e-9)


def test_grey_levels_against_scipy_and_numpy() -> None:
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 256, (12, 8, 8), np.uint8), rng.integers(0, 90, (9, 8, 8), np.uint8)
    found = grey_scores(histograms(a), histograms(b))
    assert found["wasserstein"] == pytest.approx(wasserstein_distance(a.ravel(), b.ravel()))
    assert found["grey_mean"] == pytest.approx(b.mean() - a.mean())
    assert found["grey_sd"] == pytest.approx(b.std(axis=(1, 2)).mean() - a.std(axis=(1, 2)).mean())


def test_a_collapsed_set_is_less_diverse() -> None:
    rng = np.random.default_rng(4)
    real = fields(40, rng, side=64)
    collapsed = np.clip(real[:1].astype(int) + rng.normal(0, 2, real.shape), 0, 255).astype(np.uint8)
    same = score_pairs(pair_similarities(fields(40, rng, side=64), 20), pair_similarities(real, 20))
    bad = score_pairs(pair_similarities(collapsed, 20), pair_similarities(real, 20))
    assert same.difference_low < 0 < same.difference_high
    assert same.floor_low < same.score < same.floor_high
    assert bad.difference_low > 0.2
    assert bad.score > bad.floor_high
    assert pair_similarities(np.repeat(real[:3], 2, axis=0), 3) == pytest.approx(np.ones(3), abs=1e-4)


class _Given(nn.Module):
    """Features as they come."""

    num_features = 12

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_distances_are_those_of_torchmetrics() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(80, 12)), 0.8 * rng.normal(size=(70, 12)) + 0.3
    fid = FrechetInceptionDistance(feature=_Given(), input_img_size=(12,)).set_dtype(torch.float64)
    kid = KernelInceptionDistance(feature=_Given(), subsets=1, subset_size=70)
    for side, is_real in ((x, True), (y, False)):
        fid.update(torch.from_numpy(side), real=is_real)
        kid.update(torch.from_numpy(side[:70]), real=is_real)
    assert frechet_distance(x, y) == pytest.approx(float(fid.compute()), rel=1e-6)
    assert kernel_distance(x[:70], y) == pytest.approx(float(kid.compute()[0]), rel=1e-6)


def one_world(seed: int, n: int = 36, halves: int = 8, gain: float = 1.0) -> dict[str, bool]:
    """Whether each measure of a synthetic set lies within the spread of real against real; equal in law at gain 1."""
    rng = np.random.default_rng([7, seed])
    shape = np.ones((SIDE, SIDE))
    shape[np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE)] * 2)) > 0.15] = gain
    looks = Look.of(fields(2 * n, rng)), Look.of(fields(n, rng, gain=shape))
    features = rng.normal(size=(2 * n, 10)), gain * rng.normal(size=(n, 10))
    first, others = None, []
    for half in range(halves):
        a, b = np.split(np.arange(2 * n) if half == 0 else rng.permutation(2 * n), 2)
        parts = [looks[0].take(a), looks[0].take(b)]
        if half == 0:
            first = [*score_features(features[0][a], features[0][b], features[1]), *score_look(*parts, looks[1])]
        else:
            others.append(plain_values(features[0][a], features[0][b], features[1], [*parts, looks[1]]))
    assert first is not None
    pairs = score_pairs(rng.normal(0.3, 0.1, n // 2), rng.normal(0.3, 0.1, n // 2))
    found = [*over_halves(first, others), pairs]
    return {s.measure: s.floor_low <= s.score <= s.floor_high for s in found}


def test_a_set_equal_in_law_stays_within_the_floor() -> None:
    """In 60 worlds: at least 90 %, all measures; a set with half of the detail leaves it."""
    worlds = [one_world(seed) for seed in range(60)]
    held = {name: np.mean([world[name] for world in worlds]) for name in worlds[0]}
    assert min(held.values()) >= 0.9, held
    duller = [one_world(seed, gain=0.5) for seed in range(10)]
    for name in ("spectrum", "power_high", "frechet"):
        assert sum(world[name] for world in duller) <= 1, name


def test_one_half_gives_no_spread_and_several_average() -> None:
    rng = np.random.default_rng(6)
    x = [rng.normal(size=(40, 6)) for _ in range(3)]
    first = score_features(*x)
    alone = over_halves(first, [])
    assert np.isnan(alone[0].floor_sd)
    assert alone[0].score == first[0].score
    other = {s.measure: (s.score + 2, s.floor + 1) for s in first}
    two = over_halves(first, [other])
    assert two[0].score == pytest.approx(first[0].score + 1)
    assert two[0].floor == pytest.approx(first[0].floor + 0.5)
    assert two[0].floor_sd == pytest.approx(np.sqrt(0.5))
    assert two[0].high - two[0].score == pytest.approx(first[0].high - first[0].score)
    assert two[0].difference == pytest.approx(first[0].difference + 0.5)
    assert BLOCKS == 10
