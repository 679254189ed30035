"""What is given is made square as the core's training images were: the card says how."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toystudies import toy_settings, toy_studies, train_toy

from cxraug.cores.core import Prompt
from cxraug.cores.given import read_given
from cxraug.cores.multiprompt.studyset import read_studies
from cxraug.cores.registry import open_core, read_card
from cxraug.errors import InputError
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import read_manifest


@pytest.fixture
def wide(tmp_path: Path) -> str:
    """A picture of 16 x 32 pixels, white in its leftmost quarter."""
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, :8] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    return str(tmp_path / "wide.png")


def test_images_and_masks_follow_the_encoding(wide: str) -> None:
    prompt = Prompt("p", views=("Lateral",), reference_image=wide, mask=json.dumps({"PA": wide}))

    def read(fit: str):
        given = read_given(prompt, resolution=16, findings=(), encoding=Encoding(16, fit))  # type: ignore[arg-type]
        return given.images["PA"] > 127, given.masks["PA"]["lung"]

    padded = np.zeros((16, 16), bool)
    padded[4:12, :4] = True
    stretched = np.zeros((16, 16), bool)
    stretched[:, :4] = True
    for fit, expected in (("pad", padded), ("stretch", stretched)):
        image, mask = read(fit)
        assert np.array_equal(image, expected)
        assert np.array_equal(mask, expected)
    with pytest.raises(InputError, match="empty"):  # the central square of the picture has nothing
        read("crop")


def test_a_core_reads_what_is_given_as_its_card_says(tmp_path: Path, wide: str) -> None:
    settings = toy_settings(steps=1)
    folder = train_toy(toy_studies(20), tmp_path / "core", settings, report=None, encoding=Encoding(16, "pad"))
    card = read_card(folder)
    assert card.encoding == {"size": 16, "fit": "pad", "jpeg_quality": None}
    assert card.image_encoding == Encoding(16, "pad")
    open_core(folder).generate([Prompt("p", mask=wide)], [1])
    assert card.model_copy(update={"encoding": {}}).image_encoding == Encoding(16, "crop"), "as cores before it said so"
    core = open_core(folder)
    core.card = card.model_copy(update={"encoding": {}})
    with pytest.raises(InputError, match="empty"):
        core.generate([Prompt("p", mask=wide)], [1])


@pytest.mark.parametrize(
    ("fit", "box"),
    [("crop", (0.0, 0.25, 0.5, 0.5)), ("pad", (0.25, 0.375, 0.25, 0.25)), ("stretch", (0.25, 0.25, 0.25, 0.5))],
)
def test_boxes_of_training_images_follow_the_encoding(tmp_path: Path, fit: str, box: tuple[float, ...]) -> None:
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "patient_id": "p", "labels": "Mass", "view": "PA",
             "boxes": json.dumps([{"label": "Mass", "x": 8, "y": 4, "w": 8, "h": 8}])}]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    manifest = read_manifest(tmp_path / "m.csv")
    studies = read_studies(manifest, np.zeros((1, 16, 16), np.uint8), ["Mass"], grid=8, fit=fit)  # type: ignore[arg-type]
    assert studies.boxes[0, 0].tolist() == [0.0, *box]
