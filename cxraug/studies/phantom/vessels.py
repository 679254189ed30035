"""The branching structures of the lungs: airways and blood vessels."""

from __future__ import annotations

import numpy as np

from cxraug.studies.phantom.patient import LUNG, SIGN, SOFT, Patient
from cxraug.studies.phantom.solids import Stack, Tubes, joined, smooth, tubes


def airways_of(patient: Patient, base: float, hila: dict[str, np.ndarray]) -> Tubes:
    s = patient.width / 13.9
    carina = np.array([-0.25 * s, 0.345 * base, -1.8])
    top = np.array([0.0, -16.0, 1.2])
    trachea = np.array([top, [0, -6 * s, 0.8], [-0.15 * s, 0, 0.0], [-0.35 * s, 0.22 * base, -1.0], carina])
    right = np.array([carina, [-2.0 * s, 0.40 * base, -1.6], hila["right"] + [0.2, 0.6, -0.6]])
    left = np.array([carina, [2.2 * s, 0.405 * base, -2.0], hila["left"] + [0.5, 1.4, -0.8]])
    width = (1.0 if patient.sex == "M" else 0.86) * s
    return joined([
        tubes(smooth(trachea, 16), width, -SOFT),
        tubes(smooth(right), np.linspace(0.75, 0.5, 10) * s, -SOFT),
        tubes(smooth(left), np.linspace(0.66, 0.45, 10) * s, -SOFT),
    ])  # fmt: skip


GENERATIONS, CURVED = 6, 3  # the thin branches are straight
VESSEL = 1.25 * (SOFT - LUNG)  # blood, and the walls and sheath that go with it


def vessels_of(
    patient: Patient, side: str, lung: Stack, dome: Stack, hilum: np.ndarray, rng: np.random.Generator
) -> Tubes:
    """Arteries and veins: random binary trees from the hilum, each generation shorter and thinner, inside the lung."""
    s = patient.width / 13.9
    x = SIGN[side]
    angle = np.deg2rad(np.array([-78, -58, -38, -16, 6, 26, 44, 60, 76, 88, -66, 36, 68]) + rng.normal(0, 7, 13))
    n = len(angle)
    direction = np.stack([x * np.cos(angle), np.sin(angle), rng.normal(-0.1, 0.5, n)], 1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    start = hilum + rng.normal(0, 0.5, (n, 3)) * [0.6, 1.6, 1.0] * s
    start[:, 1] += np.clip(np.sin(angle), -1, 1) * 1.2 * s
    radius = rng.uniform(0.24, 0.38, n) * patient.hilum * s * np.interp(np.sin(angle), [-1, 1], [0.85, 1.2])
    length = rng.uniform(2.3, 3.4, n) * s
    alive = np.ones(n, bool)
    starts, ends, radii = [], [], []
    for generation in range(
        GENERATIONS
    ):  # a branch that leaves the lung ends, but draws as if it went on: trees do not
        bend = direction + rng.normal(0, 0.10, direction.shape)  # change with the depth of a breath
        bend /= np.sqrt((bend**2).sum(1, keepdims=True))
        middle = start + direction * length[:, None] * 0.5
        end = middle + bend * length[:, None] * 0.5
        alive = alive & (lung.level(end) < 0.97) & (dome.level(end) > 1.0) & (radius > 0.05)
        if generation < CURVED:
            starts += [start[alive], middle[alive]]
            ends += [middle[alive], end[alive]]
            radii += [radius[alive], radius[alive] * 0.93]
        else:
            starts.append(start[alive])
            ends.append(end[alive])
            radii.append(radius[alive])
        turn = rng.normal(0, 1, bend.shape)
        turn -= (turn * bend).sum(1, keepdims=True) * bend
        turn /= np.sqrt((turn**2).sum(1, keepdims=True))
        one, two = rng.uniform(0.10, 0.35, len(bend))[:, None], rng.uniform(0.35, 0.85, len(bend))[:, None]
        direction = np.concatenate([bend + turn * one, bend - turn * two])
        direction /= np.sqrt((direction**2).sum(1, keepdims=True))
        start, alive = np.concatenate([end, end]), np.concatenate([alive, alive])
        radius = np.concatenate([radius * 0.84, radius * 0.66])
        length = np.concatenate([length, length]) * rng.uniform(0.68, 0.95, len(start))
    begin, finish, width = (np.concatenate(v) for v in (starts, ends, radii))
    tree = Tubes(begin, finish, width, np.full(len(width), VESSEL), 0 * width, 0 * width)
    return joined([tree, _hilar(patient, side, hilum)])


def _hilar(patient: Patient, side: str, hilum: np.ndarray) -> Tubes:
    """The pulmonary artery of one side, from the mediastinum over the hilum downwards."""
    s = patient.width / 13.9
    x = SIGN[side]
    offsets = np.array([[-1.8, 0.2, 0.6], [0, -0.2, 0], [0.9, 1.5, -0.4], [1.0, 4.0, -1.2], [1.6, 6.4, -1.9]])
    arch = hilum + offsets * [x, 1, 1]
    radius = np.linspace(1.05, 0.42, 12) * patient.hilum * s
    upper = hilum + np.array([[0, 0, 0], [0.6, -1.0, 0.3], [1.5, -2.2, 0.5]]) * [x, 1, 1]
    return joined([
        tubes(smooth(arch, 12), radius, SOFT - LUNG),
        tubes(smooth(upper, 8), np.linspace(0.75, 0.2, 8) * patient.hilum * s, SOFT - LUNG),
    ])  # fmt: skip
