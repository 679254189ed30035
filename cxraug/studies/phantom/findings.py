"""Findings as changes of the thorax: what is larger, raised, filled, collapsed or added, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cxraug.studies.phantom.anatomy import Thorax
from cxraug.studies.phantom.patient import LUNG, SIDES, SIGN, SOFT
from cxraug.studies.phantom.solids import Y_GRID, Ellipsoid, Stack, Tubes, ellipsoid, tubes

FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Mass", "Nodule", "Pneumothorax")
FILLED = SOFT - LUNG  # attenuation that airless lung adds to lung
PLEURAL_FLUID = 0.205


@dataclass(frozen=True)
class Collapse:
    """A lung that shrank away from the wall: what is left of it, and how its vessels moved."""

    lung: Stack
    density: float  # attenuation of the lung that is left
    scale: float  # of the distances from ``anchor``
    anchor: np.ndarray


@dataclass
class Lesions:
    """Everything that the findings of one study add to a thorax."""

    dry: dict[str, Stack] = field(default_factory=dict)  # side to the part of the cavity free of pleural fluid
    collapse: dict[str, Collapse] = field(default_factory=dict)  # side to the lung in a cavity with air
    blobs: list[tuple[str, np.ndarray, float, float]] = field(default_factory=list)  # finding, centre, sigma, peak
    solids: list[tuple[str, Ellipsoid, float]] = field(default_factory=list)  # finding, solid, added attenuation
    lines: list[tuple[str, Tubes]] = field(default_factory=list)
    upper_vessels: float = 1.0  # widening of the upper lobes' vessels


def _rng(finding: str, study_seed: int) -> np.random.Generator:
    return np.random.default_rng([study_seed, 100 + FINDINGS.index(finding)])


def finding_side(finding: str, study_seed: int) -> str:
    """The side ("right", "left", "bilateral" or "none") on which ``finding`` is drawn in this study."""
    draw = _rng(finding, study_seed).random()
    if finding == "Cardiomegaly":
        return "none"
    if finding == "Edema":
        return "bilateral"
    if finding == "Effusion" and draw > 0.75:
        return "bilateral"
    return "right" if draw < (0.40 if finding == "Effusion" else 0.53) else "left"


def heart_scale(severity: Mapping[str, float]) -> float:
    """Enlargement of the heart: 1 without cardiomegaly."""
    return 1 + 0.12 + 0.26 * severity["Cardiomegaly"] if "Cardiomegaly" in severity else 1.0


def raised_domes(severity: Mapping[str, float], study_seed: int) -> dict[str, float]:
    """Volume loss: cm by which atelectasis raises the dome of its side."""
    if "Atelectasis" not in severity:
        return {}
    return {finding_side("Atelectasis", study_seed): 0.3 + 1.7 * severity["Atelectasis"]}


def place_lesions(thorax: Thorax, severity: Mapping[str, float], study_seed: int) -> Lesions:
    """Turn ``severity`` (finding to about 0..1.5) into lesions of ``thorax``.

    Each finding draws from its own random stream, so that adding or removing one leaves the others where they are.
    """
    lesions = Lesions()
    builders = {
        "Atelectasis": _atelectasis, "Consolidation": _consolidation, "Edema": _edema, "Effusion": _effusion,
        "Mass": _mass, "Nodule": _nodule, "Pneumothorax": _pneumothorax,
    }  # fmt: skip
    for finding in FINDINGS:
        if finding in severity and finding in builders:
            rng = _rng(finding, study_seed)
            rng.random()  # the draw of the side
            builders[finding](lesions, thorax, finding_side(finding, study_seed), severity[finding], rng)
    return lesions


def lung_point(
    thorax: Thorax, side: str, rng: np.random.Generator, *, low: float, high: float, reach: float, clear: float = 0.0
) -> np.ndarray:
    """A random point in a lung: height between ``low`` and ``high`` (shares of apex to dome), within ``reach`` (0..1)
    of the lung's axis, and ``clear`` cm beside the heart's frontal shadow."""
    lung, dome = thorax.lungs[side], thorax.domes[side]
    top = float(Y_GRID[np.argmax(dome.a > 0)])
    point = np.zeros(3)
    for _ in range(30):
        y = rng.uniform(low, high) * top
        a, b, cx, cz = lung.at(y)
        angle, radius = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.random())
        point = np.array([cx + a * radius * np.cos(angle), y, cz + b * radius * np.sin(angle)])
        if not any(_shadows(solid, point, clear) for solid in thorax.heart):
            break
    return point


def _shadows(solid: Ellipsoid, point: np.ndarray, clear: float) -> bool:
    covariance = solid.axes @ np.diag(solid.radii**2) @ solid.axes.T
    offset = (point - solid.centre)[:2]
    distance = np.sqrt(offset @ np.linalg.solve(covariance[:2, :2], offset))
    return bool(distance < 1 + clear / solid.radii.min())


def _atelectasis(lesions: Lesions, thorax: Thorax, side: str, degree: float, rng: np.random.Generator) -> None:
    top = float(Y_GRID[np.argmax(thorax.domes[side].a > 0)])
    a, _, cx, _ = thorax.lungs[side].at(top)
    for k in range(1 + int(rng.random() < 0.35 + 0.4 * degree)):
        half = min(0.85, 0.5 + 0.35 * degree) * a * rng.uniform(0.85, 1.0) * (1 if k == 0 else 0.6)
        where = [
            cx + SIGN[side] * rng.uniform(-0.1, 0.2) * a,
            top - rng.uniform(0.6, 2.2) - 1.6 * k,
            rng.uniform(-1, 2),
        ]
        thick = 0.32 + 0.55 * degree
        turn = SIGN[side] * rng.uniform(-0.40, 0.25)
        plate = ellipsoid(where, [half, thick, 2.6 + 1.5 * degree], roll=turn, pitch=rng.uniform(-0.12, 0.12))
        lesions.solids.append(("Atelectasis", plate, 0.75 * FILLED))
    base = np.array([cx, top + 0.6, -2.0])
    for _ in range(3):
        lesions.blobs.append(
            ("Atelectasis", base + rng.normal(0, 1, 3) * [0.3 * a, 0.5, 1], 1.6 + 0.7 * degree, 0.04 * degree)
        )


def _consolidation(lesions: Lesions, thorax: Thorax, side: str, degree: float, rng: np.random.Generator) -> None:
    spread = 1.5 + 1.6 * degree
    centre = lung_point(thorax, side, rng, low=0.28, high=0.92, reach=0.5, clear=spread * 0.5)
    for _ in range(int(12 + 12 * degree)):
        offset = rng.normal(0, 1, 3) * spread * np.array([0.75, 0.8, 0.9])
        sigma = rng.uniform(0.6, 1.3) * (0.75 + 0.5 * degree)
        lesions.blobs.append(("Consolidation", centre + offset, sigma, rng.uniform(0.06, 0.14) * (0.6 + 0.5 * degree)))
    hilum = thorax.hila[side]
    for _ in range(4):  # air bronchograms: airways that stay open in airless lung
        far = centre + rng.normal(0, 1, 3) * spread * 0.6
        near = centre + (hilum - centre) * 0.25 + rng.normal(0, 0.4, 3)
        middle = (near + far) / 2 + rng.normal(0, 0.3, 3)
        lesions.lines.append(
            ("Consolidation", tubes(np.array([near, middle, far]), np.array([0.3, 0.24, 0.16]), -SOFT))
        )


def _edema(lesions: Lesions, thorax: Thorax, side: str, degree: float, rng: np.random.Generator) -> None:
    lesions.upper_vessels = 1.25 + 0.25 * degree
    s = thorax.patient.width / 13.9
    for name in SIDES:
        x = SIGN[name]
        for _ in range(16):
            out, angle = rng.gamma(2.2, 1.6) * s, rng.uniform(-1.1, 1.25)
            centre = thorax.hila[name] + [x * out * np.cos(angle), out * np.sin(angle) * 1.3, rng.normal(0, 2)]
            sigma = rng.uniform(1.1, 2.4) * s
            lesions.blobs.append(("Edema", centre, sigma, rng.uniform(0.02, 0.06) * (0.4 + 0.75 * degree)))
        top = float(Y_GRID[np.argmax(thorax.domes[name].a > 0)])
        for _ in range(int(4 + 8 * degree)):  # Kerley B lines: short, level, at the pleura
            y = top + rng.uniform(-5.5, 1.5)
            a, _, cx, cz = thorax.lungs[name].at(y)
            outer = cx + x * a * 0.985
            line = np.array([[outer, y, cz], [outer - x * rng.uniform(1.0, 2.0), y + rng.normal(0, 0.12), cz]])
            lesions.lines.append(("Edema", tubes(line, 0.09 + 0.04 * degree, FILLED * 2.2)))


def _effusion(lesions: Lesions, thorax: Thorax, side: str, degree: float, rng: np.random.Generator) -> None:
    """Fluid with a level surface that climbs the pleura: at height h above the level it fills the part of a slice
    beyond the share (h / meniscus)^(1/4) of its radius, so the dry lung is again a stack."""
    for name in SIDES if side == "bilateral" else (side,):
        share = rng.uniform(0.75, 1.0)
        level = thorax.base - (0.4 + 10.5 * degree**1.4) * share
        meniscus = rng.uniform(3.0, 4.5) + 1.5 * degree
        dry = np.clip((level - Y_GRID) / meniscus, 0, 1) ** 0.25
        lesions.dry[name] = thorax.lungs[name].shrunk(dry)


def _pneumothorax(lesions: Lesions, thorax: Thorax, side: str, degree: float, rng: np.random.Generator) -> None:
    """Air round a lung that shrank towards its hilum and base."""
    scale = float(np.clip(1 - 0.06 - 0.33 * degree, 0.4, 0.95))
    cavity = thorax.lungs[side]
    x = SIGN[side]
    anchor = np.array([x * 2.2 * thorax.patient.width / 13.9, 0.9 * thorax.base, -0.15 * thorax.patient.depth])
    source = anchor[1] + (Y_GRID - anchor[1]) / scale
    slices = {n: np.interp(source, Y_GRID, getattr(cavity, n), left=0, right=0) for n in ("a", "b", "cx", "cz")}
    lung = Stack(
        slices["a"] * scale,
        slices["b"] * (0.7 + 0.3 * scale),
        anchor[0] + (slices["cx"] - anchor[0]) * scale,
        slices["cz"],
        cavity.depth_x,
        cavity.depth_z,
    )
    density = min(LUNG / scale**1.2, 0.13)
    lesions.collapse[side] = Collapse(lung, density, scale, anchor)


def _nodule(lesions: Lesions, thorax: Thorax, side: str, degree: float, rng: np.random.Generator) -> None:
    radius = 0.55 + 0.8 * min(degree, 1.1)
    centre = lung_point(thorax, side, rng, low=0.2, high=0.92, reach=0.7, clear=radius + 0.5)
    radii = radius * rng.uniform(0.88, 1.08, 3)
    lesions.solids.append(("Nodule", ellipsoid(centre, radii, roll=rng.uniform(0, 3)), FILLED * 1.6))


def _mass(lesions: Lesions, thorax: Thorax, side: str, degree: float, rng: np.random.Generator) -> None:
    radius = 1.6 + 1.9 * degree
    centre = lung_point(thorax, side, rng, low=0.22, high=0.85, reach=0.5, clear=radius * 0.6)
    lesions.solids.append(
        ("Mass", ellipsoid(centre, radius * rng.uniform(0.8, 1.0, 3), roll=rng.uniform(0, 3)), FILLED * 0.75)
    )
    for _ in range(5):
        offset = rng.normal(0, 1, 3)
        offset *= 0.62 * radius / np.linalg.norm(offset)
        lobe = ellipsoid(centre + offset, radius * rng.uniform(0.35, 0.6, 3), roll=rng.uniform(0, 3))
        lesions.solids.append(("Mass", lobe, FILLED * 0.3))
    for _ in range(9):  # spicules
        ray = rng.normal(0, 1, 3)
        ray /= np.linalg.norm(ray)
        line = centre + ray * np.array([[0.75], [1.15], [1.5]]) * radius
        lesions.lines.append(("Mass", tubes(line, np.array([0.18, 0.12, 0.05]), FILLED)))
