"""The condition image of the control variant: masks and boxes drawn in RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cxraug.cores.given import Box

WHITE = (255, 255, 255)
COLOURS = {"lung": (0, 0, 255), "heart": (0, 255, 0), "lesion": (255, 0, 0)}  # later ones are drawn over earlier ones


def draw_condition(masks: Mapping[str, np.ndarray], boxes: Sequence[Box], size: int) -> np.ndarray:
    """uint8 (R, R, 3) of ``masks`` (part -> bool (R, R)) and ``boxes`` (in fractions of the side), on black.

    What is of one kind is white, as in the published masks. Boxes are filled and of the kind "lesion". Several kinds
    have a colour each, a convention of this program that weights must have been trained with.
    """
    drawn = dict(masks)
    if boxes:
        lesion = drawn.get("lesion", np.zeros((size, size), bool)).copy()
        for _, x, y, w, h in boxes:
            left, top, right, bottom = (round(side * size) for side in (x, y, x + w, y + h))
            lesion[top : max(bottom, top + 1), left : max(right, left + 1)] = True
        drawn["lesion"] = lesion
    image = np.zeros((size, size, 3), np.uint8)
    for part, colour in COLOURS.items():
        if part in drawn:
            image[drawn[part]] = colour if len(drawn) > 1 else WHITE
    return image
