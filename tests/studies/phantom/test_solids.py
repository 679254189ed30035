"""Line integrals against volumes, which projection keeps in every view."""

from dataclasses import replace

import numpy as np
import pytest

from cxraug.studies.phantom.solids import Y_GRID, Chord, Stack, View, ellipsoid, joined, tubes

FRONTAL = View(size=200, pitch=0.2, angle=0.0, roll=0.0, tilt=0.0, u0=0.0, v0=12.0, focus=-1e9)
VIEWS = [FRONTAL, replace(FRONTAL, angle=np.pi / 2), replace(FRONTAL, angle=0.4, roll=0.15)]


def volume(image: np.ndarray, view: View) -> float:
    return float(image.sum()) * view.pitch**2


@pytest.mark.parametrize("view", VIEWS)
def test_ellipsoid_projects_to_its_volume(view):
    solid = ellipsoid([1.0, 12.0, 2.0], [3.0, 5.0, 2.0], roll=0.5, yaw=0.3, pitch=-0.4)
    assert volume(solid.chord(view).length, view) == pytest.approx(4 / 3 * np.pi * 30, rel=5e-3)


def test_ellipsoid_chord_through_its_centre_is_its_diameter():
    view = replace(FRONTAL, size=201)
    chord = ellipsoid([0, 12.0, 3.0], [2.0, 3.0, 4.0]).chord(view)
    assert chord.length[100, 100] == pytest.approx(8.0, rel=1e-4)
    assert chord.middle[100, 100] == pytest.approx(3.0, abs=1e-4)


@pytest.mark.parametrize("view", VIEWS)
def test_stack_projects_to_its_volume(view):
    inside = np.abs(Y_GRID - 12) <= 5
    zero = np.zeros_like(Y_GRID)
    stack = Stack(np.where(inside, 4.0, 0), np.where(inside, 2.5, 0), zero + 1, zero - 2)
    slices = inside.sum() * 0.1
    assert volume(stack.chord(view).length, view) == pytest.approx(np.pi * 10 * slices, rel=0.02)


def test_stack_knows_inside_from_outside():
    zero = np.zeros_like(Y_GRID)
    stack = Stack(zero + 4, zero + 2, zero + 1, zero)
    level = stack.level(np.array([[1.0, 5, 0], [5.0, 5, 0], [1.0, 5, 4]]))
    assert level == pytest.approx([0, 1, 2])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("radius", [0.05, 0.2, 0.6])
def test_tube_projects_to_weight_times_volume(view, radius):
    line = np.array([[-4.0, 9, -3], [0, 12, 0], [3.0, 16, 5.0]])
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    image = tubes(line, radius, 0.5).integral(view)
    assert volume(image, view) == pytest.approx(0.5 * np.pi * radius**2 * length, rel=0.06)


def test_tube_along_the_ray_keeps_its_volume():
    line = np.array([[0, 12.0, -3], [0, 12.0, 3]])
    image = tubes(line, 1.0, 1.0).integral(FRONTAL)
    assert volume(image, FRONTAL) == pytest.approx(np.pi * 6, rel=0.05)
    assert image.max() == pytest.approx(6.0, rel=0.5)


def test_hollow_tube_is_outer_minus_inner():
    line = np.array([[-5.0, 12, 0], [5.0, 12, 0]])
    hollow = tubes(line, 1.0, 0.5, wall=0.2, core=0.1).integral(FRONTAL)
    expected = np.pi * 10 * (0.5 * (1 - 0.8**2) + 0.1 * 0.8**2)
    assert volume(hollow, FRONTAL) == pytest.approx(expected, rel=0.03)
    middle = hollow[:, 100]
    assert middle.argmax() not in (99, 100)  # the wall is brightest at the rim


def test_tubes_add_up():
    one, two = np.array([[-5.0, 8, 0], [5.0, 9, 0]]), np.array([[-5.0, 14, 3], [5.0, 9, 1]])
    parts = [tubes(one, 0.5, 1.0), tubes(two, 0.1, -0.3)]
    total = sum(p.integral(FRONTAL) for p in parts)
    np.testing.assert_allclose(joined(parts).integral(FRONTAL), total, atol=1e-5)


def test_tubes_outside_the_picture_are_ignored():
    far = tubes(np.array([[500.0, 12, 0], [510.0, 12, 0]]), 0.5, 1.0)
    assert far.integral(FRONTAL).sum() == 0


def test_chord_overlaps_as_intervals():
    def chord(low, high):
        return Chord(np.array([[(low + high) / 2]]), np.array([[(high - low) / 2]]))

    a, b, c = chord(0.0, 4.0), chord(3.0, 9.0), chord(5.0, 6.0)
    assert a.overlap(b)[0, 0] == 1
    assert a.overlap(c)[0, 0] == 0
    assert a.overlap(b, c)[0, 0] == 0
    assert a.intersection(b).length[0, 0] == 1
    assert a.hull(c).length[0, 0] == 6


def test_near_the_tube_is_larger():
    """PA: the tube stands behind, so what lies in front is magnified less; AP the other way round."""
    pa, ap = replace(FRONTAL, focus=-175.0), replace(FRONTAL, focus=105.0)
    front = ellipsoid([0, 12.0, 6.0], [3.0, 3.0, 3.0])
    area = {n: (front.chord(v).length > 0).sum() for n, v in {"pa": pa, "ap": ap, "flat": FRONTAL}.items()}
    assert area["pa"] < area["flat"] < area["ap"]
    assert pa.magnification(6.0) == pytest.approx(175 / 181)


@pytest.mark.parametrize("view", [*VIEWS, replace(FRONTAL, focus=105.0, tilt=0.1, roll=-0.1, angle=0.2)])
def test_projection_and_coordinates_are_inverse(view):
    point = np.array([3.0, 8.0, -4.0])
    column, row = view.project(point)
    depth = float(view.depth(point[0], point[2]))
    every = slice(0, view.size)
    u, v = view.coordinates(depth, every, every)
    i, j = int(np.rint(row)), int(np.rint(column))
    assert u[i, j] == pytest.approx(point[0] * view.across[0] + point[2] * view.across[1], abs=view.pitch)
    assert v[i, j] == pytest.approx(point[1], abs=view.pitch)
