"""What a core that draws in colour has drawn, as an X-ray: checked, then grey."""

from __future__ import annotations

import numpy as np

from cxraug.errors import WorkError

COLOUR = 0.05  # mean absolute difference of a channel from grey, on the scale 0 to 1, above which it is no X-ray


def grey_pixels(image: np.ndarray, where: str, colour: float = COLOUR) -> np.ndarray:
    """uint8 (H, W): the mean of the channels of ``image`` (H, W, 3), about [0, 1].

    Raises :class:`WorkError` that begins with ``where`` for an image that is not finite (half precision overflows in
    many decoders), of one colour, or coloured: black images are errors, not outputs.
    """
    if not np.isfinite(image).all():
        raise WorkError(f"{where}: the image is not a number; do the weights fit, and their precision?")
    image = image.clip(0, 1)
    grey = image.mean(-1)
    pixels = (grey * 255).round().astype(np.uint8)
    if pixels.min() == pixels.max():
        raise WorkError(f"{where}: the image is {pixels.max()} everywhere, no X-ray; do the weights fit, "
                        "and their precision?")  # fmt: skip
    off = float(np.abs(image - grey[..., None]).mean())
    if off > colour:
        raise WorkError(f"{where}: the image is in colour, no X-ray: its channels are {off:.3f} from grey, "
                        f"expected at most {colour:g}")  # fmt: skip
    return pixels  # type: ignore[no-any-return]
