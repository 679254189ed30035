"""Utility: differences and ratios of AUROC with intervals that hold, and the arms and controls that are compared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxraug.evaluation.predictions import read_predictions
from cxraug.privacy.utility import REAL, SWAPPED, UtilitySettings, _some_patients, compare_arms


def predictions(rng: np.random.Generator, n: int = 300, shift: tuple[float, float] = (1.5, 0.8)) -> list[pd.DataFrame]:
    """Two arms whose scores share the patients' noise; three images of a patient."""
    patient = np.repeat(np.arange(n // 3), 3)
    y = (rng.random(n // 3) < 0.4).astype(float)[patient]
    common = rng.normal(size=n // 3)[patient]
    frames = []
    for arm, mean in zip((REAL, SWAPPED), shift, strict=True):
        p = 1 / (1 + np.exp(-(mean * y + common + rng.normal(size=n))))
        frames.append(pd.DataFrame({
            "image": [f"{i}.png" for i in range(n)], "patient_id": patient.astype(str), "split": "test", "arm": arm,
            "seed": 0, "draw": 0, "sex": np.where(patient % 2, "F", "M"), "y_Mass": y, "p_Mass": p,
        }))  # fmt: skip
    return frames


def test_values_are_those_of_scikit_learn_in_all_and_by_group() -> None:
    frames = predictions(np.random.default_rng(0))
    table = compare_arms(read_predictions(frames), UtilitySettings(groups=("sex",))).set_index(
        ["arm", "group", "level"]
    )
    for rows, key in ((slice(None), ("all", "all")), (frames[0]["sex"] == "F", ("sex", "F"))):
        a, b = (roc_auc_score(f["y_Mass"][rows], f["p_Mass"][rows]) for f in frames)
        row = table.loc[(SWAPPED, *key)]
        assert row["auroc"] == pytest.approx(b)
        assert row["baseline_auroc"] == pytest.approx(a)
        assert row["difference"] == pytest.approx(b - a)
        assert row["ratio"] == pytest.approx(b / a)
        assert row["ratio_low"] < row["ratio"] < row["ratio_high"]
    assert np.isnan(table.loc[(REAL, "all", "all"), "ratio"])


def test_an_intersection_of_groups_is_measured() -> None:
    frames = predictions(np.random.default_rng(3))
    frames = [frame.assign(ward=np.where(np.arange(len(frame)) % 4 < 2, "a", "b")) for frame in frames]
    table = compare_arms(read_predictions(frames), UtilitySettings(groups=("sex*ward", "none*sex")))
    assert set(table.loc[table["group"] == "sex*ward", "level"]) == {"F*a", "F*b", "M*a", "M*b"}
    assert set(table["group"]) == {"all", "sex*ward"}


def test_intervals_of_difference_and_ratio_cover_the_truth() -> None:
    """600 patients three times over as truth by a large sample; 200 repetitions: 95 % +- 4.6 % (three errors)."""
    rng = np.random.default_rng(1)
    truth = compare_arms(read_predictions(predictions(rng, 120_000)), UtilitySettings(groups=())).set_index("arm")
    hits = np.zeros(2)
    for _ in range(200):
        found = compare_arms(read_predictions(predictions(rng, 240)), UtilitySettings(groups=())).set_index("arm")
        for i, name in enumerate(("difference", "ratio")):
            wanted = truth.loc[SWAPPED, name]
            hits[i] += found.loc[SWAPPED, f"{name}_low"] <= wanted <= found.loc[SWAPPED, f"{name}_high"]
    assert (np.abs(hits / 200 - 0.95) < 0.046).all(), hits / 200


def test_cells_with_too_few_patients_have_no_number() -> None:
    frames = [
        f.assign(sex=np.where(np.arange(len(f)) < 12, "F", "M")) for f in predictions(np.random.default_rng(2), 90)
    ]
    table = compare_arms(read_predictions(frames), UtilitySettings(groups=("sex",)))
    few = table[(table["level"] == "F")]
    assert (few["flag"] == "suppressed").all()
    assert few["auroc"].isna().all()


def test_as_many_real_images_are_whole_patients_but_the_last() -> None:
    patients = np.array(["a", "a", "b", "c", "c", "c", "d"])
    for n in range(1, 8):
        rows = _some_patients(patients, n)
        assert len(rows) == n
        torn = [p for p in set(patients) if 0 < (patients[rows] == p).sum() < (patients == p).sum()]
        assert len(torn) <= 1
    assert len(_some_patients(patients, 99)) == 7
