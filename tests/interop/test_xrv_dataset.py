"""The data set class against torchxrayvision's own classes, functions and transforms."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torchxrayvision as xrv
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from interop.clinic import SIZE, read_study
from PIL import Image
from synthesis.toycore import ToyCore, toy_plan

import cxraug.interop
from cxraug.errors import InputError
from cxraug.interop.xrv import XRVDataset, grey_values, xrv_name
from cxraug.synthesis.generate import generate_set


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return read_study(tmp_path_factory.mktemp("xrv") / "clinic")


def test_it_has_the_interface_of_their_data_sets(real, capsys):
    data = cxraug.interop.XRVDataset(real)
    assert isinstance(data, xrv.datasets.Dataset)
    assert data.pathologies == ["Effusion", "Mass"]
    assert data.labels.dtype == np.float32
    np.testing.assert_array_equal(data.labels, real.y(["Effusion", "Mass"]))
    assert len(data) == len(data.csv) == 12
    counted = pd.DataFrame(data.labels, columns=data.pathologies)
    totals = data.totals()
    for name in data.pathologies:
        assert totals[name] == counted[name].value_counts().to_dict()
    assert "num_samples=12" in repr(data)
    assert data.csv["sex_female"].tolist() == (real.frame["sex"] == "F").tolist()
    assert data.csv["patientid"].tolist() == real.frame["patient_id"].tolist()


def test_grey_values_are_theirs(real):
    data = XRVDataset(real)
    for idx in range(len(data)):
        item = data[idx]
        assert item["idx"] == idx
        assert item["img"].shape == (1, *SIZE)
        assert item["img"].dtype == np.float32
        assert np.abs(item["img"]).max() <= 1024
        np.testing.assert_array_equal(item["lab"], data.labels[idx])
    with Image.open(data.manifest.paths()[0]) as image:
        theirs = xrv.datasets.normalize(np.asarray(image), maxval=255, reshape=True)
    np.testing.assert_allclose(data[0]["img"], theirs, atol=1e-3)


@given(arrays.arrays(st.sampled_from([np.uint8, np.uint16]), (3, 4)))
def test_grey_values_keep_order_and_range(pixels):
    found = grey_values(pixels)
    assert found.shape == (1, 3, 4)
    assert np.isfinite(found).all()
    assert found.min() >= -1024
    assert found.max() <= 1024
    order = np.argsort(pixels.ravel(), kind="stable")
    assert (np.diff(found.ravel()[order]) >= 0).all()


def test_it_works_with_their_relabelling_merging_and_transforms(real, capsys):
    transform = lambda image: xrv.datasets.XRayResizer(16)(xrv.datasets.XRayCenterCrop()(image))  # noqa: E731
    one, two = XRVDataset(real, transform=transform), XRVDataset(real, views=["PA", "AP"], transform=transform)
    before = one.labels.copy()
    for data in (one, two):
        xrv.datasets.relabel_dataset(xrv.datasets.default_pathologies, data, silent=True)
    theirs = xrv.datasets.default_pathologies
    np.testing.assert_array_equal(one.labels[:, theirs.index("Mass")], before[:, 1])
    assert np.isnan(one.labels[:, theirs.index("Hernia")]).all()
    merged = xrv.datasets.MergeDataset([one, two])
    assert len(merged) == len(one) + len(two)
    item = merged[len(one)]
    assert item["img"].shape == (1, 16, 16)
    assert item["source"] == 1
    np.testing.assert_array_equal(merged.labels[len(one) :], two.labels)
    subset = xrv.datasets.SubsetDataset(one, np.flatnonzero(one.csv["sex_female"]))
    assert len(subset) == int((real.frame["sex"] == "F").sum())
    assert len(xrv.datasets.FilterDataset(one, ["Mass"])) == int((before[:, 1] == 1).sum())


def test_boxes_and_masks_turn_with_the_image(real):
    data = XRVDataset(real, pathology_masks=True, semantic_masks=True, transform=lambda image: image[:, :, ::-1].copy())
    boxes = json.loads(real.frame["boxes"][4])
    item = data[4]
    mask = item["pathology_masks"][data.pathologies.index("Mass")]
    expected = np.zeros((1, *SIZE), np.float32)
    expected[0, : boxes[0]["h"], : boxes[0]["w"]] = 1
    np.testing.assert_array_equal(mask[:, :, ::-1], expected)
    with Image.open(real.root / real.frame["mask"][0]) as image:
        values = np.asarray(image)
    for bit, name in ((1, "Lungs"), (2, "Heart"), (4, "Lesion")):
        np.testing.assert_array_equal(data[0]["semantic_masks"][name][0, :, ::-1], (values & bit) > 0)
    assert data[1]["semantic_masks"] == {}
    xrv.datasets.relabel_dataset(["Nodule", "Mass"], data, silent=True)
    assert list(data[4]["pathology_masks"]) == [1]


def test_a_synthetic_set_opens_by_its_folder_without_what_the_gate_rejected(tmp_path):
    made = generate_set(toy_plan(8), ToyCore(), tmp_path / "set")
    frame = pd.read_parquet(made / "manifest.parquet")
    frame.loc[:, "gate"] = ["reject"] + ["accept"] * 7
    frame.to_parquet(made / "manifest.parquet", index=False)
    data = XRVDataset(made)
    assert len(data) == 7
    assert data.csv["synthetic"].all()
    assert len(XRVDataset(made, with_rejected=True)) == 8


def test_rows_and_findings_can_be_chosen(real):
    assert set(XRVDataset(real, views=["PA"]).csv["view"]) == {"PA"}
    assert XRVDataset(real, unique_patients=True).csv["patientid"].is_unique
    assert XRVDataset(real, findings=["Mass"]).labels.shape == (12, 1)
    with pytest.raises(InputError, match="unknown finding"):
        XRVDataset(real, findings=["Edema"])
    with pytest.raises(InputError, match="no row is left"):
        XRVDataset(real, views=["AP Supine"])
    with pytest.raises(IndexError):
        XRVDataset(real)[12]


def test_findings_get_their_spelling():
    assert xrv_name("Pleural Thickening") == "Pleural_Thickening"
    assert xrv_name("pleural effusion") == "Effusion"
    assert xrv_name("COVID-19") == "COVID-19"
    assert all(xrv_name(name) == name for name in xrv.datasets.default_pathologies)
