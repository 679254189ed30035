"""Copies filed under another patient are found; patients who only look alike are not."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxraug.balance.near_copies import COLUMNS, cut_off, find_near_copies
from cxraug.privacy.structure import cells_of


def recompressed(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=70)
    return np.clip(np.asarray(Image.open(stream)) * 0.9 + 10, 0, 255).astype(np.uint8)


def test_planted_copies_are_found_once(pictures) -> None:
    manifest, pixels, _ = pictures
    frame = manifest.frame
    patients = frame["patient_id"].to_numpy(dtype=object)
    changed, planted = pixels.copy(), set()
    targets = [i for i in range(100, 240) if patients[i] not in set(patients[:8])][:8]
    for source, target in enumerate(targets):
        copy = recompressed(pixels[source])
        changed[target] = copy[:, ::-1] if source % 2 else copy
        planted.add(frozenset((frame["image"][source], frame["image"][target])))
    found = find_near_copies(changed, cells_of(changed), frame)
    assert found is not None
    pairs = [frozenset(p) for p in zip(found.pairs["image"], found.pairs["image_of_copy"], strict=True)]
    assert len(pairs) == len(set(pairs))
    assert len(planted & set(pairs)) >= 6
    assert len(set(pairs) - planted) <= 1
    assert tuple(found.pairs.columns) == COLUMNS
    row = found.pairs.iloc[0]
    assert row["correlation"] > found.cut
    assert row["patient_id"] != row["patient_id_of_copy"]
    told = found.describe()
    assert told["pairs"] == len(pairs)
    assert told["across_splits"] == (found.pairs["split"] != found.pairs["split_of_copy"]).sum()


def test_no_copies_no_pairs(pictures) -> None:
    manifest, pixels, _ = pictures
    found = find_near_copies(pixels, cells_of(pixels), manifest.frame)
    assert found is not None
    assert len(found.pairs) == 0
    assert find_near_copies(pixels[:50], cells_of(pixels[:50]), manifest.frame[:50]) is None
    assert find_near_copies(pixels, cells_of(pixels), manifest.frame.assign(patient_id="one")) is None


def test_the_cut_is_where_chance_ends() -> None:
    rng = np.random.default_rng(0)
    over = [(np.tanh(z) > cut_off(np.tanh(z), 2000)).sum() for z in (rng.normal(0.8, 0.18, 2000) for _ in range(200))]
    assert np.mean(over) == pytest.approx(0.05, abs=0.06)
    copies = np.concatenate([np.tanh(rng.normal(0.8, 0.18, 1900)), np.full(100, 0.999)])
    assert (copies > cut_off(copies, 2000)).sum() == pytest.approx(100, abs=1)
    assert pd.Series(copies).max() < 1
