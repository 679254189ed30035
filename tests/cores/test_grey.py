"""Pictures in colour as X-rays."""

from __future__ import annotations

import numpy as np
import pytest

from cxraug.cores.grey import grey_pixels
from cxraug.errors import WorkError

RAMP = np.linspace(-0.1, 1.1, 30)[None, :, None].repeat(20, 0).repeat(3, 2)


def test_grey_pictures_keep_their_values_and_are_clipped() -> None:
    found = grey_pixels(RAMP, "here")
    assert found.shape == (20, 30)
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], np.rint(RAMP[0, :, 0].clip(0, 1) * 255))
    tinted = RAMP + np.array([0.02, 0, -0.02])
    assert np.abs(grey_pixels(tinted, "here").astype(int) - found).max() <= 3


@pytest.mark.parametrize(
    ("image", "said"),
    [(np.zeros((4, 4, 3)), "is 0 everywhere"), (np.full((4, 4, 3), 7.0), "is 255 everywhere"),
     (np.where(np.arange(30)[None, :, None] == 3, np.nan, RAMP), "not a number"),
     (np.where(np.arange(30)[None, :, None] == 3, np.inf, RAMP), "not a number"),
     (RAMP * np.array([1.0, 0.6, 0.2]), r"in colour.*from grey, expected at most 0\.05")],
)  # fmt: skip
def test_others_are_errors_that_say_where(image: np.ndarray, said: str) -> None:
    with pytest.raises(WorkError, match=f"core x, prompt p: the image .*{said}|core x, prompt p: the image {said}"):
        grey_pixels(image, "core x, prompt p")
