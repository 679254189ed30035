"""What a set looks like without any network: spectra, histograms, and how like its images are to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxraug.fidelity.histogram import grey_scores, histograms
from cxraug.fidelity.spectrum import BANDS, band_powers, log_powers, radial_powers, spectrum_scores

MEASURES = ("spectrum", *(f"power_{band}" for band in BANDS), "wasserstein", "grey_mean", "grey_sd")
PAIRS = 100  # of images of one sample that are compared with each other


@dataclass(frozen=True)
class Look:
    """Per image: ``spectra`` (n, S // 2) and ``bands`` (n, 3) in decibels, ``histograms`` (n, 256) shares."""

    spectra: np.ndarray
    bands: np.ndarray
    histograms: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> Look:
        """Of images uint8 (n, S, S)."""
        powers = radial_powers(pixels)
        return cls(log_powers(powers), band_powers(powers), histograms(pixels))

    def __len__(self) -> int:
        return len(self.spectra)

    def take(self, rows: np.ndarray) -> Look:
        """Some rows, by position."""
        return Look(self.spectra[rows], self.bands[rows], self.histograms[rows])

    def against(self, reference: Look) -> dict[str, float]:
        """The measures (:data:`MEASURES`) of this set against ``reference``."""
        return {
            **spectrum_scores((reference.spectra, reference.bands), (self.spectra, self.bands)),
            **grey_scores(reference.histograms, self.histograms),
        }


def pair_similarities(pixels: np.ndarray, pairs: int) -> np.ndarray:
    """MS-SSIM (pairs,) of images 0 and 1, 2 and 3, ... of ``pixels`` uint8 (n, S, S), n >= 2 ``pairs``.

    In random order these are random pairs, and as no image is in two of them, they are independent. A set that repeats
    itself has a higher mean than real images (Odena, Olah & Shlens 2017, arXiv 1610.09585, section 4.2).
    """
    from cxraug.cores.measures.diversity import ms_ssim

    return ms_ssim(pixels[0 : 2 * pairs : 2], pixels[1 : 2 * pairs : 2])
