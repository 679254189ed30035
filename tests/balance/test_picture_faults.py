"""Planted faults are found, and images as they should be are left alone."""

from __future__ import annotations

import numpy as np
import pytest

from cxraug.balance.picture_faults import FAULTS, MIRRORED, blank, find_faults, listed, plant, small


@pytest.fixture(scope="module")
def flawed(pictures):
    manifest, pixels, _ = pictures
    changed, truth = pixels.copy(), np.full(len(pixels), "", dtype=object)
    for k, kind in enumerate(("inverted", "turned", "upside down", "blank", "partly blank")):
        rows = np.arange(5 * k, 5 * k + 5)
        truth[rows] = kind
        for i in rows:
            image = pixels[i]
            changed[i] = {
                "inverted": 255 - image, "turned": np.rot90(image), "upside down": image[::-1],
                "blank": np.full_like(image, 90),
                "partly blank": np.concatenate([image[:32], np.full_like(image[32:], 3)]),
            }[kind]  # fmt: skip
    frame = manifest.frame
    views = frame["view"].to_numpy(dtype=object)
    return find_faults(changed, frame["patient_id"].to_numpy(dtype=object), views), truth, manifest


def test_planted_faults_are_named(flawed) -> None:
    found, truth, _ = flawed
    for kind in ("inverted", "turned", "upside down", "blank", "partly blank"):
        assert (found.fault[truth == kind] == kind).mean() >= 0.6, kind
    assert (found.fault[truth == ""] != "").mean() <= 0.03
    assert found.found["inverted"] > 0.9
    assert set(found.found) == {*FAULTS, MIRRORED}


def test_the_answer_bounds_its_false_alarms(flawed) -> None:
    found, truth, manifest = flawed
    told = found.describe()
    assert told["judged"] == len(truth) - 10  # what is blank is not compared
    assert told["counts"]["blank"] == 5
    assert 0 < told["most_false_alarms"] < 0.1
    table = listed(found, manifest.frame)
    assert len(table) == sum(told["counts"].values())
    assert set(table["image"]) == set(manifest.frame["image"][found.fault != ""])


def test_few_images_are_not_judged(pictures) -> None:
    _, pixels, _ = pictures
    found = find_faults(pixels[:30], np.arange(30), np.full(30, "PA", dtype=object))
    assert (found.judged, found.found, found.describe()["most_false_alarms"]) == (0, {}, None)
    assert (found.fault == "").all()


def test_what_is_planted_is_what_it_says(pictures) -> None:
    _, pixels, _ = pictures
    some = pixels[:20]
    assert plant(some, "inverted", 0) == pytest.approx(-small(some), abs=1e-3)
    for kind in FAULTS:
        assert plant(some, kind, 3).shape == (20, 256)
        assert np.array_equal(plant(some, kind, 3), plant(some, kind, 3))
    assert blank(some).tolist() == [""] * 20
