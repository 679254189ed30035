"""Rendered studies: masks, boxes, and findings that can be seen where they are said to be."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from cxraug.studies.phantom.findings import FINDINGS, finding_side
from cxraug.studies.phantom.projection import render

SIZE = 96
STUDIES = [("M", 35.0, 11, 901), ("F", 62.0, 12, 902), ("F", 80.0, 13, 903)]


def study(severity, views=("PA",), sex="M", age=35.0, patient=11, seed=901, size=SIZE):
    return render(sex=sex, age=age, severity=severity, views=views, patient_seed=patient, study_seed=seed, size=size)


@pytest.fixture(scope="module")
def clear():
    views = ("PA", "AP", "Lateral")
    return [study({}, views, sex, age, patient, seed) for sex, age, patient, seed in STUDIES]


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("k", range(len(STUDIES)))
def test_finding_changes_its_region_and_little_else(clear, finding, k):
    sex, age, patient, seed = STUDIES[k]
    with_it = study({finding: 0.6}, ("PA", "AP", "Lateral"), sex, age, patient, seed)
    for view in ("PA", "AP", "Lateral"):
        mask = with_it.lesions[view][finding]
        assert mask.any()
        change = with_it.images[view].astype(float) - clear[k].images[view]
        far = ~binary_dilation(mask, iterations=4)
        sign = -1 if finding == "Pneumothorax" else 1
        assert sign * change[mask].mean() > 8
        assert np.abs(change[far]).mean() < 0.12 * np.abs(change[mask]).mean()


@pytest.mark.parametrize("finding", FINDINGS)
def test_severity_makes_it_plainer(clear, finding):
    changes = []
    for degree in (0.3, 0.6, 1.0):
        after = study({finding: degree})
        changes.append(np.abs(after.images["PA"].astype(float) - clear[0].images["PA"]).sum())
    assert changes[0] < changes[1] < changes[2]


def test_masks_are_where_anatomy_is(clear):
    for rendered in clear:
        lung, heart = rendered.masks["PA"]["lung"], rendered.masks["PA"]["heart"]
        columns = np.arange(SIZE)
        middle = SIZE / 2
        assert 0.12 < lung.mean() < 0.45
        assert 0.03 < heart.mean() < 0.2
        assert not (lung & heart).any()
        assert not rendered.masks["PA"]["lesion"].any()
        assert (heart.any(0) * columns).sum() / heart.any(0).sum() > middle - 2  # the heart lies to the left
        picture = rendered.images["PA"]
        assert picture[lung].mean() < picture[heart].mean() - 30


def test_cardiothoracic_ratio_tells_cardiomegaly(clear):
    def ratio(rendered):
        heart, lung = (rendered.masks["PA"][n].any(0) for n in ("heart", "lung"))
        return np.ptp(np.flatnonzero(heart)) / np.ptp(np.flatnonzero(lung))

    assert 0.36 < ratio(clear[0]) < 0.55
    assert ratio(study({"Cardiomegaly": 0.8})) > ratio(clear[0]) + 0.08


def test_ap_magnifies_the_heart():
    """Parallel comparison at one breath: the heart takes a larger share of the chest in AP than in PA."""

    def share(view):
        masks = [study({}, (view,), seed=s).masks[view] for s in range(30, 36)]
        return np.mean(
            [np.ptp(np.flatnonzero(m["heart"].any(0))) / np.ptp(np.flatnonzero(m["lung"].any(0))) for m in masks]
        )

    assert share("AP") > 1.03 * share("PA")


@pytest.mark.parametrize("finding", FINDINGS)
def test_boxes_hold_the_lesion(finding):
    rendered = study({finding: 0.8}, ("PA", "Lateral"))
    for view in ("PA", "Lateral"):
        boxes = rendered.boxes[view]
        assert boxes
        covered = np.zeros((SIZE, SIZE), bool)
        for box in boxes:
            assert set(box) == {"label", "x", "y", "w", "h"}
            assert box["label"] == finding
            assert box["x"] >= 0
            assert box["y"] >= 0
            assert box["x"] + box["w"] <= SIZE
            assert box["y"] + box["h"] <= SIZE
            covered[box["y"] : box["y"] + box["h"], box["x"] : box["x"] + box["w"]] = True
        mask = rendered.lesions[view][finding]
        assert (covered & mask).sum() > 0.85 * mask.sum()


def test_nodules_stay_below_3_cm_and_masses_above():
    for degree, finding in ((1.0, "Nodule"), (0.3, "Mass")):
        lesion = study({finding: degree}, size=192).lesions["PA"][finding]
        # a patient of average build spans about 37 cm at the detector
        diameter = 2 * np.sqrt(lesion.sum() / np.pi) * 40 / 192
        assert (diameter < 3.2) if finding == "Nodule" else (diameter > 2.6)


def test_sides_are_those_of_the_report():
    for seed in range(40, 52):
        for finding in ("Pneumothorax", "Effusion", "Nodule"):
            side = finding_side(finding, seed)
            if side == "bilateral":
                continue
            lesion = study({finding: 0.7}, seed=seed).lesions["PA"][finding]
            column = (lesion.sum(0) * np.arange(SIZE)).sum() / lesion.sum()
            assert (column > SIZE / 2) == (side == "left")  # the patient's left is on the picture's right


def test_patients_keep_their_anatomy_and_studies_differ():
    first, again, later = study({}, seed=1), study({}, seed=1), study({}, seed=2)
    other = study({}, patient=12, seed=1)
    np.testing.assert_array_equal(first.images["PA"], again.images["PA"])
    assert (first.images["PA"] != later.images["PA"]).mean() > 0.5
    assert (first.images["PA"] != other.images["PA"]).mean() > 0.5


def test_air_and_fluid_on_one_side():
    seed = next(s for s in range(1000) if finding_side("Effusion", s) == finding_side("Pneumothorax", s) == "left")
    both = study({"Effusion": 0.7, "Pneumothorax": 0.8}, seed=seed)
    for finding in ("Effusion", "Pneumothorax"):
        assert both.lesions["PA"][finding].any()
    rows = [np.flatnonzero(both.lesions["PA"][f].any(1)).mean() for f in ("Pneumothorax", "Effusion")]
    assert rows[0] < rows[1]  # air above, fluid below
    assert np.isfinite(both.attenuation["PA"]).all()
