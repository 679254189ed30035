"""Patients follow sex and age, and no two are alike."""

import numpy as np

from cxraug.studies.phantom.anatomy import build_thorax
from cxraug.studies.phantom.patient import SIDES, sample_patient
from cxraug.studies.phantom.solids import Y_GRID

SEEDS = range(150)


def mean(sex, age, name):
    return np.mean([getattr(sample_patient(sex, age, s), name) for s in SEEDS])


def test_sex_and_age_shape_the_body():
    assert mean("F", 50, "width") < 0.95 * mean("M", 50, "width")
    assert mean("F", 50, "breast") > 3
    assert mean("M", 50, "breast") == 0
    assert mean("M", 85, "heart") > mean("M", 40, "heart")
    assert mean("F", 85, "bone") < mean("F", 40, "bone") - 0.15
    assert mean("M", 85, "unfolding") > mean("M", 40, "unfolding") + 0.3
    assert mean("M", 5, "width") < 0.7 * mean("M", 30, "width")


def test_patients_differ_and_repeat():
    one, two = sample_patient("F", 60, 1), sample_patient("F", 60, 2)
    assert one != two
    assert one == sample_patient("F", 60, 1)


def test_vessels_lie_in_their_lung():
    thorax = build_thorax(sample_patient("M", 50, 3))
    for side in SIDES:
        tree = thorax.vessels[side]
        assert len(tree) > 200
        assert (thorax.lungs[side].level(tree.end) < 1.0).mean() > 0.9
        assert np.all(np.sign(np.median(tree.end[:, 0])) == {"right": -1, "left": 1}[side])


def test_breath_moves_the_domes_not_the_vessels():
    patient = sample_patient("M", 50, 3)
    deep, poor = build_thorax(patient, inspiration=1.0), build_thorax(patient, inspiration=-1.0)

    def top(thorax):
        return Y_GRID[np.argmax(thorax.domes["right"].a > 0)]

    assert top(deep) > top(poor) + 1.5
    # the first branches draw the same numbers and only start from a hilum that moved a little
    assert np.allclose(deep.vessels["right"].radius[:5], poor.vessels["right"].radius[:5])


def test_raised_dome_and_larger_heart():
    patient = sample_patient("F", 50, 4)
    usual = build_thorax(patient)
    changed = build_thorax(patient, heart_scale=1.3, raised={"left": 2.0})
    assert np.argmax(changed.domes["left"].a > 0) == np.argmax(usual.domes["left"].a > 0) - 20
    assert np.array_equal(changed.domes["right"].a, usual.domes["right"].a)
    assert np.allclose(changed.heart[0].radii, usual.heart[0].radii * 1.3)
