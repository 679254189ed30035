"""The thorax of one patient in one study: solids ready to be projected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxraug.studies.phantom.patient import SIDES, SIGN, Patient, outer_wall, profile
from cxraug.studies.phantom.skeleton import bones_of, plates_of, spine_of
from cxraug.studies.phantom.solids import Y_GRID, Ellipsoid, Stack, Tubes, ellipsoid
from cxraug.studies.phantom.vessels import airways_of, vessels_of


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
    vessels = {side: vessels_of(patient, side, lungs[side], domes[side], hila[side], rng) for side in SIDES}
    spine, spine_bone = spine_of(patient, base)
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
        plates=plates_of(patient, abduction, arms_up),
        bones=bones_of(patient, base, abduction, arms_up),
        airways=airways_of(patient, base, hila),
        vessels=vessels,
        hila=hila,
    )


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
    cz = profile([-10, 0, 8, 50], [0.5, -1.6, -0.5 - 0.2 * patient.kyphosis, 0.0])
    return Stack(profile(y, half), profile(y, depth), np.zeros_like(Y_GRID), cz, power=3)


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
