"""Bones: ribs, spine, clavicles, scapulae, sternum and humeri of one patient."""

from __future__ import annotations

import numpy as np

from cxraug.studies.phantom.patient import CORTEX, MARROW, SOFT, Patient, outer_wall
from cxraug.studies.phantom.solids import Y_GRID, Ellipsoid, Stack, Tubes, ellipsoid, joined, smooth, tubes


def spine_of(patient: Patient, base: float) -> tuple[Stack, np.ndarray]:
    s = patient.width / 13.9
    step = 0.098 * base
    phase = ((Y_GRID + 0.2 * step) / step) % 1
    body = np.clip((0.42 - np.abs(phase - 0.5)) / 0.04, 0, 1)
    plate = np.exp(-(((np.abs(phase - 0.5) - 0.385) / 0.035) ** 2))
    rng = np.random.default_rng([patient.seed, 3])
    scoliosis = rng.normal(0, 0.35) * np.sin((Y_GRID - 2) / base * np.pi + rng.uniform(-0.5, 0.5))
    waist = 1 - 0.10 * np.sin(np.pi * phase)
    a = np.interp(Y_GRID, [-15, 0, base, 45], np.array([1.15, 1.5, 2.0, 2.4]) * s) * waist
    b = np.interp(Y_GRID, [-15, 0, base, 45], np.array([1.0, 1.4, 1.9, 2.1]) * s) * waist
    density = patient.bone * ((MARROW - SOFT) * 1.35 * body + 0.10 * plate)
    return Stack(a, b, scoliosis, _spine_depth(patient, base, Y_GRID), 0, -0.5 * patient.depth, power=3), density


def _spine_depth(patient: Patient, base: float, y: np.ndarray) -> np.ndarray:
    """z of the vertebral bodies at ``y``: the thoracic curve, more bent with kyphosis."""
    bend = np.sin(np.clip((y + 3) / (base + 8), -0.6, 1.5) * np.pi)
    return -0.47 * patient.depth - (0.5 + 0.5 * patient.kyphosis) * bend


def plates_of(patient: Patient, abduction: float, arms_up: bool) -> list[tuple[Ellipsoid, float]]:
    s = patient.width / 13.9
    mineral = patient.bone * 0.16
    out = (11.9 + 3.0 * abduction) * s + 0.2 * patient.fat
    plates = []
    for x in (-1, 1):
        if not arms_up:
            plates.append(
                (
                    ellipsoid([x * out, 8.4 * s, -8.0 * s], [3.3 * s, 6.6 * s, 0.45], roll=x * 0.20, yaw=-x * 0.6),
                    mineral,
                )
            )
            head = ellipsoid([x * (17.3 * s + 0.5 * patient.fat), 3.2 * s, -1.0], [2.4 * s, 2.5 * s, 2.4 * s])
            plates.append((head, 0.35 * mineral))
    sternum = ellipsoid([0, 0.45 * 24.5 * s, 0.97 * patient.depth - 0.6], [1.8 * s, 8.5 * s, 0.55], pitch=0.16)
    plates.append((sternum, 0.6 * mineral))
    return plates


def bones_of(patient: Patient, base: float, abduction: float, arms_up: bool) -> Tubes:
    s = patient.width / 13.9
    cortex, marrow = (CORTEX - SOFT) * patient.bone, (MARROW - SOFT) * patient.bone
    knots = np.array([[1.7, 3.5, 6.0], [5.5, 3.3, 5.6], [9.5, 2.0, 3.6], [13.0, 0.9, 1.0], [16.2, 0.9, -1.5]]) * s
    knots[:, 1] += (0.6 * abduction - 0.5 * patient.shoulder) * np.linspace(0, 1, 5) * s
    clavicle = smooth(knots, 16)
    parts = [_ribs(patient, base), _vertebral_arches(patient, base, cortex)]
    parts.append(
        _pair(
            clavicle,
            np.interp(np.linspace(0, 1, 16), [0, 0.12, 0.5, 1], np.array([0.95, 0.62, 0.55, 0.75]) * s),
            0.14,
            cortex,
            marrow,
        )
    )
    if arms_up:
        return joined(parts)
    out = 3.0 * abduction * s + 0.2 * patient.fat
    lateral = np.array(
        [[14.6 * s + 0.7 * out, 4.6 * s, -4.5], [13.6 * s + out, 10 * s, -7], [11.6 * s + out, 15.2 * s, -9]]
    )
    medial = np.array([[8.8 * s + out, 4.4 * s, -9.5], [9.4 * s + out, 10 * s, -10], [11.6 * s + out, 15.2 * s, -9]])
    spine = np.array([[8.8 * s + out, 6.2 * s, -10], [13 * s + 0.8 * out, 3.4 * s, -8], [17.4 * s, 0.9 * s, -3]])
    coracoid = np.array([[14.8 * s, 3.6 * s, -2], [14.2 * s, 2.4 * s, 1.0]])
    y = np.linspace(4.5 * s, 40, 14)
    shaft = np.stack([17.6 * s + 0.55 * patient.fat + (y - 3 * s) * (0.08 + 0.20 * abduction), y, 0 * y - 1], 1)
    parts += [
        _pair(smooth(lateral), 0.5 * s, 0.17, cortex, marrow),
        _pair(smooth(medial), 0.22 * s, 0.12, 0.7 * cortex, marrow),
        _pair(smooth(spine), 0.45 * s, 0.17, cortex, marrow),
        _pair(smooth(coracoid), 0.55 * s, 0.15, cortex, marrow),
        _pair(shaft, 1.2 * s, 0.42 * s, cortex, marrow * 0.6),
    ]
    return joined(parts)


def _pair(points: np.ndarray, radius: object, wall: float, cortex: float, marrow: float) -> Tubes:
    """A hollow bone on the left and its mirror image on the right."""
    both = np.stack([points, points * [-1, 1, 1]])
    return tubes(both, radius, cortex, wall=wall, core=marrow)


RIB_END = (140, 142, 140, 138, 135, 131, 126, 119, 110, 100, 72, 48)  # degrees round from the spine
RIB_DROP = (3.2, 5.0, 6.4, 7.4, 8.2, 8.8, 9.2, 9.4, 9.2, 8.6, 7.0, 5.0)  # cm from back to front


def _ribs(patient: Patient, base: float) -> Tubes:
    """Oblique elliptic rings, 12 pairs: level and high behind, falling to the front."""
    s = patient.width / 13.9
    wall = outer_wall(patient, base)
    rng = np.random.default_rng([patient.seed, 5])
    slope = rng.normal(1.0, 0.08)
    number = np.arange(12)[:, None]
    drop = np.array(RIB_DROP)[:, None] * s * slope
    top = base * (-0.015 + 0.0905 * number) + rng.normal(0, 0.08, (12, 1))
    out = np.interp(top + drop / 2, Y_GRID, wall) + 0.35
    deep = patient.depth * np.interp(number, [0, 2, 5, 11], [0.62, 0.82, 1.0, 0.96])
    phi = np.deg2rad(8 + np.linspace(0, 1, 21) * (np.array(RIB_END)[:, None] - 8))
    y = top + drop * (1 - np.cos(phi)) / 2 - 0.35 * s * np.sin(np.clip(phi * 2.2, 0, np.pi))
    z = -deep * np.cos(phi) - (patient.depth - deep) * 0.35 - 0.35 * np.exp(-phi * 4)
    x = out * np.sin(phi)
    sides = np.array([-1.0, 1.0])[:, None, None]
    wobble = rng.normal(0, 0.05, (2, 12, 1))
    points = np.stack(np.broadcast_arrays(sides * x, y + wobble, z[None]), -1)
    radius = np.interp(phi, [0.1, 0.5, 1.6, 2.4], np.array([0.5, 0.58, 0.60, 0.68]) * s)
    radius = radius * np.where((number == 0) | (number == 11), 0.85, 1.0)
    cortex, marrow = (CORTEX - SOFT) * patient.bone, (MARROW - SOFT) * patient.bone
    return tubes(points, np.broadcast_to(radius, points.shape[:-1]), cortex, wall=0.15 * s, core=marrow)


def _vertebral_arches(patient: Patient, base: float, cortex: float) -> Tubes:
    """Spinous and transverse processes and pedicles of 17 vertebrae."""
    s = patient.width / 13.9
    y = 0.098 * base * np.arange(-3, 14) + 0.3 * s
    z = _spine_depth(patient, base, y) - 1.9 * s
    zero = np.zeros_like(y)

    def line(*ends: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        return np.stack([np.stack(e, -1) for e in ends], 1)

    process = line((zero, y, z - 0.8 * s), (zero, y + 2.0 * s, z - 2.6 * s))
    pedicle = line((zero + 1.2 * s, y, z + 0.7), (zero + 1.2 * s, y, z - 1.0))
    transverse = line((zero + 1.3 * s, y, z - 0.6), (zero + 3.0 * s, y - 0.4 * s, z - 1.3))
    mirror = np.array([-1.0, 1.0, 1.0])
    return joined([
        tubes(process, 0.40 * s, cortex * 0.35),
        tubes(np.concatenate([pedicle, pedicle * mirror]), 0.5 * s, cortex * 0.45, wall=0.2, core=0.0),
        tubes(np.concatenate([transverse, transverse * mirror]), 0.42 * s, cortex * 0.25),
    ])  # fmt: skip
