"""One patient: the numbers that stay the same over all studies, drawn from the patient's own seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxraug.studies.phantom.solids import Y_GRID

# linear attenuation at the effective energy of a chest exposure (about 70 keV), 1/cm
SOFT, FAT, LUNG, CORTEX, MARROW = 0.20, 0.18, 0.052, 0.50, 0.27
SIDES = ("right", "left")
SIGN = {"right": -1.0, "left": 1.0}


@dataclass(frozen=True)
class Patient:
    """What stays the same over all studies of a patient. Lengths in cm."""

    sex: str
    age: float
    seed: int
    width: float  # largest half-width of the thoracic cavity
    depth: float  # half-depth of the cavity
    height: float  # from apex to costophrenic angle at full inspiration
    fat: float  # thickness of the chest wall's fat
    heart: float  # size factor, 1 is average
    bone: float  # mineral density factor
    breast: float  # radius, 0 for none
    kyphosis: float
    dome: tuple[float, float]  # height of the right and left dome
    unfolding: float  # of the aorta
    hilum: float  # size factor of the vessels
    shoulder: float  # slope


def sample_patient(sex: str, age: float, seed: int) -> Patient:
    """Draw a patient. Women are smaller with larger breasts; age brings a wider heart and aorta, thinner bone,
    kyphosis and a deeper chest; children scale down."""
    rng = np.random.default_rng([seed, 1])
    woman = sex == "F"
    growth = float(np.interp(age, [0, 2, 6, 12, 17], [0.38, 0.52, 0.66, 0.85, 1.0]))
    stature = growth * (0.915 if woman else 1.0) * rng.normal(1, 0.04)
    obesity = float(np.exp(rng.normal(0, 0.45))) * float(np.interp(age, [18, 50, 70, 95], [0.8, 1.15, 1.1, 0.8]))
    late = max(0.0, age - 50) / 40
    breast = rng.uniform(0.75, 1.35) * (4.6 + 1.1 * np.log(obesity + 0.3)) if woman and age > 13 else 0.0
    return Patient(
        sex=sex,
        age=age,
        seed=seed,
        width=13.9 * stature * rng.normal(1, 0.045),
        depth=8.7 * stature * rng.normal(1, 0.05) * (1 + 0.10 * late),
        height=24.5 * stature * rng.normal(1, 0.05) * (1 - 0.03 * late),
        fat=float(np.clip(1.5 * obesity * growth, 0.5, 6.0)),
        heart=float(rng.normal(1, 0.045) * (1 + 0.07 * late) * (1.0 if not woman else 0.98)),
        bone=float(
            np.clip(rng.normal(1.0 if not woman else 0.93, 0.07) * (1 - (0.30 if woman else 0.18) * late), 0.4, 1.3)
        ),
        breast=float(breast),
        kyphosis=float(np.clip(rng.normal(1.0 + 1.6 * late, 0.4), 0, 4)),
        dome=(float(rng.normal(5.3, 0.6)) * stature, float(rng.normal(4.8, 0.6)) * stature),
        unfolding=float(np.clip(rng.normal(0.15 + 0.75 * late, 0.2), 0, 1.4)),
        hilum=float(rng.normal(1, 0.1)),
        shoulder=float(rng.normal(0, 1)),
    )


def profile(y: list[float], value: list[float]) -> np.ndarray:
    """A smooth profile through (y, value) on Y_GRID, constant beyond the ends: cubic Hermite, slopes by differences."""
    knots, heights = np.asarray(y, float), np.asarray(value, float)
    steps = np.diff(knots)
    chords = np.diff(heights) / steps
    slopes = np.zeros(len(knots))
    slopes[1:-1] = (chords[:-1] * steps[1:] + chords[1:] * steps[:-1]) / (steps[:-1] + steps[1:])
    at = np.clip(Y_GRID, knots[0], knots[-1])
    left = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(steps) - 1)
    h = steps[left]
    t = (at - knots[left]) / h
    return (
        heights[left] * (1 + 2 * t) * (1 - t) ** 2
        + heights[left + 1] * t**2 * (3 - 2 * t)
        + h * (slopes[left] * t * (1 - t) ** 2 - slopes[left + 1] * t**2 * (1 - t))
    )


def outer_wall(patient: Patient, base: float) -> np.ndarray:
    """Half-width of the thoracic cavity along Y_GRID."""
    t = np.array([0, 0.015, 0.05, 0.11, 0.2, 0.32, 0.46, 0.62, 0.78, 0.92, 1.0, 1.3])
    w = np.array([0.40, 0.47, 0.55, 0.64, 0.75, 0.85, 0.925, 0.975, 1.0, 1.0, 0.985, 0.97])
    return profile(list(t * base), list(w * patient.width))
