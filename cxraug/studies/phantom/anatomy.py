"""One patient's thorax: solids whose sizes follow sex, age and habitus, drawn from the patient's own seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cxraug.studies.phantom.solids import Y_GRID, Ellipsoid, Stack, Tubes, ellipsoid, joined, tubes

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


@dataclass(frozen=True)
class Thorax:
    """A patient in one study: solids ready to be projected. Dictionaries are keyed by side."""

    patient: Patient
    base: float  # y of the costophrenic angles
    trunk: Stack
    arms: dict[str, Stack]
    lungs: dict[str, Stack]  # the pleural cavities
    domes: dict[str, Stack]
    heart: list[Ellipsoid]
    vessels_great: list[Ellipsoid]  # aortic knob, pulmonary trunk
    breasts: list[Ellipsoid]
    gas: list[Ellipsoid]  # stomach and colon
    spine: Stack
    spine_bone: np.ndarray  # attenuation added by the spine along Y_GRID
    plates: list[tuple[Ellipsoid, float]]  # flat bones and their attenuation
    bones: Tubes
    airways: Tubes
    vessels: dict[str, Tubes]
    hila: dict[str, np.ndarray]


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


def build_thorax(
    patient: Patient,
    *,
    inspiration: float = 0.0,
    heart_scale: float = 1.0,
    raised: dict[str, float] | None = None,
    abduction: float = 0.0,
    arms_up: bool = False,
) -> Thorax:
    """Build the solids of one study.

    ``inspiration``: -1 (poor) to 1 (deep) moves the domes and turns the heart. ``heart_scale``: enlargement beyond
    the patient's own size. ``raised``: cm by which a dome stands higher. ``abduction``: 0 arms down (AP) to 1
    shoulders rolled forward (PA), which moves the scapulae out of the lungs. ``arms_up``: lateral view.
    """
    raised = raised or {}
    s = patient.width / 13.9
    base = patient.height * (1 + 0.055 * inspiration)
    lungs = {side: _pleura(patient, side, base) for side in SIDES}
    domes = {side: dome_of(patient, side, base, inspiration, raised.get(side, 0.0)) for side in SIDES}
    heart = _heart(patient, base, inspiration, heart_scale)
    hila = {
        "right": np.array([-3.9 * s, 0.435 * base, -0.6]),
        "left": np.array([3.9 * s, 0.40 * base, -0.8]),
    }
    rng = np.random.default_rng([patient.seed, 2])
    vessels = {side: _vessels(patient, side, lungs[side], domes[side], hila[side], rng) for side in SIDES}
    spine, spine_bone = _spine(patient, base)
    return Thorax(
        patient=patient,
        base=base,
        trunk=_trunk(patient, base),
        arms={side: _raised_arm(patient, side) if arms_up else _arm(patient, side, abduction) for side in SIDES},
        lungs=lungs,
        domes=domes,
        heart=heart,
        vessels_great=_great_vessels(patient, base),
        breasts=_breasts(patient, base),
        gas=_gas(patient, dome_of(patient, "left", base, inspiration)),
        spine=spine,
        spine_bone=spine_bone,
        plates=_plates(patient, abduction, arms_up),
        bones=_bones(patient, base, abduction, arms_up),
        airways=_airways(patient, base, hila),
        vessels=vessels,
        hila=hila,
    )


def _curve(y: list[float], value: list[float]) -> np.ndarray:
    """A smooth profile (cubic Hermite, finite-difference slopes) through (y, value) on Y_GRID, constant beyond the ends."""
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
    return _curve(list(t * base), list(w * patient.width))


def _pleura(patient: Patient, side: str, base: float) -> Stack:
    t = Y_GRID / base
    outer = outer_wall(patient, base)
    s = patient.width / 13.9
    medial = np.interp(t, [0, 0.08, 0.25, 0.42, 0.6, 1.0], np.array([2.3, 2.5, 2.6, 2.4, 1.5, 1.4]) * s)
    # the apex closes like a dome about x = 0.36 width
    apex = np.sqrt(np.clip(1 - (1 - np.clip(t / 0.13, 0, 1)) ** 2, 0, 1))
    centre = 0.345 * patient.width
    low, high = centre + (medial - centre) * apex, centre + (outer - centre) * apex
    a = np.where((t > 0) & (t < 1.02), (high - low) / 2, 0)
    # below the xiphoid the front wall recedes, so that the gutter is deepest behind
    recede = np.clip((t - 0.78) / 0.24, 0, 1) ** 1.5
    front_top = np.interp(t, [0, 0.05, 0.2, 0.4, 0.7, 1.2], [0.45, 0.55, 0.78, 0.95, 1.0, 1.0])
    closing = np.sqrt(np.clip(1 - (np.clip(t - 0.84, 0, 1) / 0.18) ** 2, 0, 1))
    b = patient.depth * 0.90 * (front_top * apex - 0.32 * recede) * closing
    cz = patient.depth * (-0.35 * (1 - front_top) - 0.32 * recede - 0.02)
    centre_x = SIGN[side] * (low + high) / 2
    return Stack(a, np.maximum(b, 0), centre_x, cz, SIGN[side] * patient.width / 2, 0, power=3)


def dome_of(patient: Patient, side: str, base: float, inspiration: float, raised: float = 0.0) -> Stack:
    """The half of the diaphragm on one side with what lies below it, ``raised`` by so many cm."""
    height = patient.dome[0 if side == "right" else 1] * (1 - 0.18 * inspiration) + raised
    drop = 0.0 if side == "right" else 0.9 * patient.width / 13.9
    y = base + drop
    f = np.sqrt(np.clip(1 - np.clip((y - Y_GRID) / height, 0, 1) ** 2, 0, 1))
    outer = float(outer_wall(patient, base)[int(np.argmin(np.abs(Y_GRID - base)))])
    reach = 0.53 * outer
    a = np.where(y - Y_GRID < height, reach * f, 0)
    b = a / reach * patient.depth * 0.98
    cz = patient.depth * (0.10 - 0.30 * np.clip((Y_GRID - base + height) / height, 0, 1.2) ** 2)
    return Stack(a, b, np.full_like(a, SIGN[side] * (outer - reach)), cz, SIGN[side] * outer / 2, 0)


def _heart(patient: Patient, base: float, inspiration: float, scale: float) -> list[Ellipsoid]:
    s = patient.width / 13.9 * patient.heart
    size = s * scale
    roll = 0.72 + 0.10 * inspiration - 0.25 * (scale - 1) * 2  # poor inspiration and enlargement lay it flat
    widen = 1 - 0.05 * inspiration
    y = 0.70 * base
    ventricles = ellipsoid(
        [2.35 * s + 2.6 * s * (scale - 1), y + 0.4 * s, 2.6],
        np.array([6.9 * widen, 5.0, 4.7]) * size,
        roll=roll,
        yaw=-0.35,
    )
    atrium = ellipsoid([-1.05 * s, y - 1.0 * s, 1.2], np.array([3.3 * widen, 4.6, 3.9]) * size, roll=-0.12)
    return [ventricles, atrium]


def _great_vessels(patient: Patient, base: float) -> list[Ellipsoid]:
    s = patient.width / 13.9
    u = patient.unfolding
    knob = ellipsoid([(1.75 + 0.9 * u) * s, 0.265 * base, -1.2], np.array([1.75 + 0.35 * u, 1.8 + 0.4 * u, 3.0]) * s)
    trunk = ellipsoid([1.7 * s, 0.41 * base, 1.2], np.array([2.15, 3.2, 3.0]) * s, roll=-0.25)
    descending = ellipsoid([(1.1 + 1.0 * u) * s, 0.62 * base, -5.4 * s], np.array([1.45, 10.5, 1.4]) * s, roll=0.03)
    ascending = ellipsoid([-(1.0 + 0.7 * u) * s, 0.36 * base, 1.5], np.array([2.1, 4.6, 2.2]) * s, roll=0.1)
    return [knob, trunk, descending, ascending]


def _trunk(patient: Patient, base: float) -> Stack:
    s = patient.width / 13.9
    w, f = patient.width, patient.fat
    sh = patient.shoulder
    y = [-22, -11 * s, -6.5 * s, -4.0 * s, -1.8 * s, 0.4 * s, 3.2 * s, 7 * s, 11 * s, 0.75 * base, base, 1.3 * base, 55]
    half = [
        7.4 * s, 5.6 * s + 0.3 * f, 6.2 * s + 0.4 * f, (8.6 + 0.3 * sh) * s + 0.6 * f, (13 + 0.5 * sh) * s + 0.7 * f,
        16.6 * s + 0.6 * f, 18.2 * s + 0.4 * f, 17.0 * s + 0.5 * f, w + 2.6 * s + 0.8 * f, w + 1.5 * s + f,
        w + 0.8 * s + 1.1 * f, w - 0.3 + 1.3 * f, w + 0.5 + 1.3 * f,
    ]  # fmt: skip
    d = patient.depth
    depth = [
        7.0 * s, 5.6 * s + 0.2 * f, 5.4 * s + 0.3 * f, 5.2 * s + 0.4 * f, 5.4 * s + 0.5 * f, 6.2 * s + 0.6 * f,
        7.6 * s + 0.6 * f, d + 0.4 * s + 0.6 * f, d + 1.0 * s + 0.7 * f, d + 1.1 * s + 0.8 * f, d + 1.1 * s + 1.0 * f,
        d + 1.2 * s + 1.4 * f, d + 1.2 * s + 1.4 * f,
    ]  # fmt: skip
    cz = _curve([-10, 0, 8, 50], [0.5, -1.6, -0.5 - 0.2 * patient.kyphosis, 0.0])
    return Stack(_curve(y, half), _curve(y, depth), np.zeros_like(Y_GRID), cz, power=3)


def _arm(patient: Patient, side: str, abduction: float) -> Stack:
    s = patient.width / 13.9
    thick = (4.4 if patient.sex == "M" else 3.9) * s + 0.35 * patient.fat
    out = 17.6 * s + 0.55 * patient.fat + np.clip(Y_GRID - 3 * s, 0, None) * (0.08 + 0.20 * abduction)
    top = -1.0 * s - 0.5 * patient.shoulder * s
    cap = np.sqrt(np.clip(1 - (1 - np.clip((Y_GRID - top) / (5.0 * s), 0, 1)) ** 2, 0, 1))
    a = np.where(top < Y_GRID, thick * cap * np.interp(Y_GRID, [6 * s, 22 * s], [1.0, 0.85]), 0)
    return Stack(a, a * 1.05, SIGN[side] * (out - 0.4), np.full_like(a, -1.0), SIGN[side] * 20 * s, 0, power=3)


def _raised_arm(patient: Patient, side: str) -> Stack:
    """An arm held up and forward for the lateral view."""
    s = patient.width / 13.9
    thick = (4.4 if patient.sex == "M" else 3.9) * s + 0.4 * patient.fat
    bottom = 4.5 * s
    cap = np.sqrt(np.clip(1 - (1 - np.clip((bottom - Y_GRID) / (6.0 * s), 0, 1)) ** 2, 0, 1))
    forward = np.interp(Y_GRID, [-16 * s, 3 * s], [7.5 * s, -0.5 * s])
    a = np.where(bottom > Y_GRID, thick * cap, 0)
    return Stack(a, a * 1.15, np.full_like(a, SIGN[side] * 15.5 * s), forward, SIGN[side] * 15.5 * s, 0, power=3)


def _spine(patient: Patient, base: float) -> tuple[Stack, np.ndarray]:
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


def _breasts(patient: Patient, base: float) -> list[Ellipsoid]:
    if patient.breast <= 0:
        r = 4.5 * patient.width / 13.9  # the pectoral muscle
        wide = [r * 1.3, r, 1.6]
        return [
            ellipsoid([x * 0.52 * patient.width, 0.36 * base, patient.depth - 0.6], wide, roll=-x * 0.5)
            for x in (-1, 1)
        ]
    r = patient.breast * patient.width / 12.7
    sag = 0.60 + 0.0020 * (patient.age - 20)
    rng = np.random.default_rng([patient.seed, 6])
    uneven = rng.normal(0, 0.25, 2)
    where = [
        (x * 0.57 * patient.width, sag * base + 0.25 * r + d, patient.depth + 0.3)
        for x, d in zip((-1, 1), uneven, strict=True)
    ]
    return [ellipsoid(c, [r * 1.25, r * 1.12, 0.70 * r], roll=np.sign(c[0]) * -0.25) for c in where]


def _gas(patient: Patient, dome: Stack) -> list[Ellipsoid]:
    rng = np.random.default_rng([patient.seed, 4])
    s = patient.width / 13.9
    top = float(Y_GRID[np.argmax(dome.a > 0)])
    r = rng.uniform(1.0, 3.0) * s
    bubbles = [
        ellipsoid(
            [5.2 * s + rng.normal(0, 0.8), top + 1.1 + 0.75 * r, 1.0],
            [r * 1.35, r * 0.75, r],
            roll=rng.normal(0.2, 0.2),
        )
    ]
    for _ in range(int(rng.integers(0, 5))):
        q = rng.uniform(0.6, 1.6) * s
        where = [rng.uniform(3, 11) * s, top + rng.uniform(4.5, 9), rng.uniform(-1, 4)]
        bubbles.append(ellipsoid(where, [q * rng.uniform(0.8, 1.5), q * 0.8, q], roll=rng.normal(0, 0.5)))
    return bubbles


def _plates(patient: Patient, abduction: float, arms_up: bool) -> list[tuple[Ellipsoid, float]]:
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


def _bones(patient: Patient, base: float, abduction: float, arms_up: bool) -> Tubes:
    s = patient.width / 13.9
    cortex, marrow = (CORTEX - SOFT) * patient.bone, (MARROW - SOFT) * patient.bone
    knots = np.array([[1.7, 3.5, 6.0], [5.5, 3.3, 5.6], [9.5, 2.0, 3.6], [13.0, 0.9, 1.0], [16.2, 0.9, -1.5]]) * s
    knots[:, 1] += (0.6 * abduction - 0.5 * patient.shoulder) * np.linspace(0, 1, 5) * s
    clavicle = _smooth(knots, 16)
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
        _pair(_smooth(lateral), 0.5 * s, 0.17, cortex, marrow),
        _pair(_smooth(medial), 0.22 * s, 0.12, 0.7 * cortex, marrow),
        _pair(_smooth(spine), 0.45 * s, 0.17, cortex, marrow),
        _pair(_smooth(coracoid), 0.55 * s, 0.15, cortex, marrow),
        _pair(shaft, 1.2 * s, 0.42 * s, cortex, marrow * 0.6),
    ]
    return joined(parts)


def _pair(points: np.ndarray, radius: object, wall: float, cortex: float, marrow: float) -> Tubes:
    """A hollow bone on the left and its mirror image on the right."""
    both = np.stack([points, points * [-1, 1, 1]])
    return tubes(both, radius, cortex, wall=wall, core=marrow)


def _smooth(points: np.ndarray, n: int = 10) -> np.ndarray:
    """``n`` points on a Catmull-Rom curve through ``points`` (k, 3)."""
    return _catmull_rom(len(points), n) @ points


@lru_cache(maxsize=64)
def _catmull_rom(k: int, n: int) -> np.ndarray:
    """The matrix (n, k) from knots to points on the curve; the ends are continued straight."""
    extended = np.zeros((k + 2, k))
    extended[1:-1] = np.eye(k)
    extended[0, :2] = 2, -1
    extended[-1, -2:] = -1, 2
    at = np.linspace(0, k - 1, n)
    left = np.minimum(at.astype(int), k - 2)
    t = (at - left)[:, None]
    p0, p1, p2, p3 = (extended[left + i] for i in range(4))
    return 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)


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


def _airways(patient: Patient, base: float, hila: dict[str, np.ndarray]) -> Tubes:
    s = patient.width / 13.9
    carina = np.array([-0.25 * s, 0.345 * base, -1.8])
    top = np.array([0.0, -16.0, 1.2])
    trachea = np.array([top, [0, -6 * s, 0.8], [-0.15 * s, 0, 0.0], [-0.35 * s, 0.22 * base, -1.0], carina])
    right = np.array([carina, [-2.0 * s, 0.40 * base, -1.6], hila["right"] + [0.2, 0.6, -0.6]])
    left = np.array([carina, [2.2 * s, 0.405 * base, -2.0], hila["left"] + [0.5, 1.4, -0.8]])
    width = (1.0 if patient.sex == "M" else 0.86) * s
    return joined([
        tubes(_smooth(trachea, 16), width, -SOFT),
        tubes(_smooth(right), np.linspace(0.75, 0.5, 10) * s, -SOFT),
        tubes(_smooth(left), np.linspace(0.66, 0.45, 10) * s, -SOFT),
    ])  # fmt: skip


GENERATIONS, CURVED = 6, 3  # the thin branches are straight
VESSEL = 1.25 * (SOFT - LUNG)  # blood, and the walls and sheath that go with it


def _vessels(
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
    arch = np.array([
        hilum + [-x * 1.8, 0.2, 0.6], hilum + [0, -0.2, 0], hilum + [x * 0.9, 1.5, -0.4], hilum + [x * 1.0, 4.0, -1.2],
        hilum + [x * 1.6, 6.4, -1.9],
    ])  # fmt: skip
    radius = np.linspace(1.05, 0.42, 12) * patient.hilum * s
    upper = np.array([hilum, hilum + [x * 0.5, -1.5, 0.3], hilum + [x * 1.3, -3.5, 0.5]])
    return joined([
        tubes(_smooth(arch, 12), radius, SOFT - LUNG),
        tubes(_smooth(upper, 8), np.linspace(0.7, 0.3, 8) * patient.hilum * s, SOFT - LUNG),
    ])  # fmt: skip
