"""Frequencies of images: how fine their detail is, and how much of it."""

from __future__ import annotations

import numpy as np

BANDS = {"low": (0.0, 1 / 16), "middle": (1 / 16, 3 / 16), "high": (3 / 16, 1 / 2)}  # cycles per pixel, (from, to]
SMALLEST = 1e-6  # power, in squared grey levels, that is added before a logarithm
CHUNK = 256


def radial_powers(pixels: np.ndarray) -> np.ndarray:
    """Radially averaged power spectrum of each image, (n, S // 2), for frequencies (1 ... S // 2) / S cycles per pixel.

    Parameters
    ----------
    pixels : uint8 (n, S, S).

    Notes
    -----
    Squared modulus of the discrete Fourier transform over S^2 after the mean grey is taken off and a Hann window put on
    (whose mean square is divided out), averaged over rings one step wide (Durall, Keuper & Keuper 2020, arXiv
    2003.01826, eq. 2). For white noise of variance v every entry is v. Corners beyond the Nyquist frequency are left
    out.
    """
    n, size = len(pixels), pixels.shape[-1]
    ring = np.rint(np.hypot(*np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * 2))).astype(int)
    inside = (ring >= 1) & (ring <= size // 2)
    counts = np.bincount(ring[inside], minlength=size // 2 + 1)[1:]
    hann = np.hanning(size + 1)[:-1]
    window = np.outer(hann, hann)
    window /= np.sqrt((window**2).mean())
    result = np.empty((n, size // 2))
    for start in range(0, n, CHUNK):
        images = np.asarray(pixels[start : start + CHUNK], float)
        images = (images - images.mean(axis=(1, 2), keepdims=True)) * window
        power = np.abs(np.fft.fft2(images)) ** 2 / size**2
        for i, one in enumerate(power, start):
            result[i] = np.bincount(ring[inside], one[inside], minlength=size // 2 + 1)[1:] / counts
    return result


def log_powers(powers: np.ndarray) -> np.ndarray:
    """Decibels (n, S // 2) of radial powers."""
    return np.asarray(10 * np.log10(powers + SMALLEST))


def band_powers(powers: np.ndarray) -> np.ndarray:
    """Decibels (n, 3) of each image's mean power in the bands of :data:`BANDS`, each frequency counting the same."""
    frequency = np.arange(1, powers.shape[1] + 1) / (2 * powers.shape[1])
    bands = [powers[:, (frequency > low) & (frequency <= high)].mean(axis=1) for low, high in BANDS.values()]
    return np.asarray(10 * np.log10(np.stack(bands, axis=1) + SMALLEST))


def spectrum_scores(reference: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Distance of the mean spectra and ratios of power, of (log powers, band powers) of two sets.

    ``spectrum`` is the root mean square, over frequencies, of the difference between the sets' mean decibels: 0 is
    equal. ``power_low``, ``power_middle`` and ``power_high`` are the power of ``other`` over that of ``reference`` in a
    band, geometric means over images: 1 is equal, below 1 is less detail.
    """
    apart = other[0].mean(axis=0) - reference[0].mean(axis=0)
    ratios = 10 ** ((other[1].mean(axis=0) - reference[1].mean(axis=0)) / 10)
    return {
        "spectrum": float(np.sqrt((apart**2).mean())),
        **{f"power_{band}": float(ratio) for band, ratio in zip(BANDS, ratios, strict=True)},
    }
