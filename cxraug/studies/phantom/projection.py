"""Studies rendered: a thorax with its lesions, projected, exposed, with exact masks and boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.ndimage import label

from cxraug.studies.phantom.anatomy import Thorax, build_thorax, dome_of
from cxraug.studies.phantom.exposure import Exposure, expose
from cxraug.studies.phantom.findings import (
    FILLED,
    PLEURAL_FLUID,
    Lesions,
    heart_scale,
    place_lesions,
    raised_domes,
)
from cxraug.studies.phantom.patient import FAT, LUNG, SIDES, SOFT, Patient, sample_patient
from cxraug.studies.phantom.solids import Y_GRID, Y_MIN, Y_STEP, Chord, Stack, Tubes, View, joined, tubes

LATERAL = "Lateral"
VISIBLE = 0.02  # smallest change of a line integral that belongs to a lesion's mask
BOX_SHARE = 0.12  # parts smaller than this share of a lesion get no box of their own


@dataclass
class Rendered:
    """A rendered study, everything keyed by view.

    ``images``: uint8 (size, size). ``masks``: ``lung`` (pleural cavities where neither heart nor dome covers most of
    them), ``heart`` and ``lesion``, bool (size, size). ``boxes``: list of {label, x, y, w, h} in pixels.
    ``attenuation``: the noise-free line integrals. ``lesions``: a bool mask per finding.
    """

    images: dict[str, np.ndarray] = field(default_factory=dict)
    masks: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    boxes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    attenuation: dict[str, np.ndarray] = field(default_factory=dict)
    lesions: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def render(
    *,
    sex: str,
    age: float,
    severity: Mapping[str, float],
    views: Sequence[str],
    patient_seed: int,
    study_seed: int,
    size: int,
) -> Rendered:
    """Render one study: anatomy from ``patient_seed``, pose, exposure and lesions from ``study_seed``.

    Pose, exposure and noise do not depend on ``severity``: the same study without a finding differs only by it.
    """
    patient = sample_patient(sex, age, patient_seed)
    inspiration = float(np.clip(np.random.default_rng([study_seed, 1]).normal(0, 0.45), -1, 1))
    rendered = Rendered()
    for number, view_name in enumerate(views):
        lateral = view_name == LATERAL
        breath = inspiration - (0.5 if view_name == "AP" else 0.0)
        raised = raised_domes(severity, study_seed)
        thorax = build_thorax(
            patient,
            inspiration=breath,
            heart_scale=heart_scale(severity),
            raised=raised,
            abduction=0.15 if view_name == "AP" else 0.75,
            arms_up=lateral,
        )
        lesions = place_lesions(thorax, severity, study_seed)
        rng = np.random.default_rng([study_seed, 10 + number])
        view = pose(patient, thorax.base, view_name, size, rng)
        exposure = choose_exposure(patient, view_name, rng)
        scene = _Scene(thorax, lesions, view)
        attenuation, masks, found = scene.integrate()
        if "Cardiomegaly" in severity:
            found["Cardiomegaly"] = masks["heart"]
        if raised:
            usual = {side: dome_of(patient, side, thorax.base, breath) for side in raised}
            found["Atelectasis"] = found["Atelectasis"] | scene.volume_loss(usual)
        masks["lesion"] = np.any(list(found.values()), axis=0) if found else np.zeros_like(masks["lung"])
        shown = attenuation + (0 if lateral else _side_marker(view, rng))
        rendered.images[view_name] = expose(shown, view.pitch, exposure, rng)
        rendered.masks[view_name] = masks
        rendered.boxes[view_name] = [box for name in sorted(found) for box in _boxes(name, found[name])]
        rendered.attenuation[view_name] = attenuation
        rendered.lesions[view_name] = found
    return rendered


def pose(patient: Patient, base: float, view_name: str, size: int, rng: np.random.Generator) -> View:
    """Where patient, tube and detector stand: turned, rolled, shifted and cropped a little differently each time."""
    lateral, ap = view_name == LATERAL, view_name == "AP"
    loose = 1.7 if ap else 1.0
    reach = patient.width * 2.47 + 0.9 * patient.fat if not lateral else base * 1.22
    field_cm = max(reach, base * (1.22 if lateral else 1.32)) * rng.uniform(0.97, 1.16)
    return View(
        size=size,
        pitch=float(field_cm / size),
        angle=float((np.pi / 2 if lateral else 0) + np.deg2rad(np.clip(rng.normal(0, 2.2 * loose), -9, 9))),
        roll=float(np.deg2rad(np.clip(rng.normal(0, 1.3 * loose), -6, 6))),
        tilt=float(np.deg2rad(rng.normal(-4.0 if ap else 0.0, 2.0 * loose))) if not lateral else 0.0,
        u0=float(rng.normal(0.0, 0.6 * loose)) + (0.5 if lateral else 0.0),
        v0=float(base * 0.52 + rng.normal(0, 0.9 * loose)),
        focus=105.0 if ap else -175.0,
    )


def choose_exposure(patient: Patient, view_name: str, rng: np.random.Generator) -> Exposure:
    """Exposure and film for a patient of this thickness, with the spread that real pictures have."""
    ap, lateral = view_name == "AP", view_name == LATERAL
    wall = 3.2 + 1.5 * patient.fat
    if lateral:
        thick, air = 2 * patient.width + wall, 1.22 * patient.width
    else:
        thick, air = 2 * patient.depth + wall, 1.72 * patient.depth
    clear = SOFT * (thick - air) + LUNG * air
    dense = SOFT * thick + 0.3
    scatter = float(np.clip(rng.normal(0.42 if ap else 0.27, 0.06) + 0.02 * (patient.fat - 1.5), 0.1, 0.65))
    span = dense - clear
    # scatter lifts the signal of the dense parts, which caps the attenuation that reaches the film
    cap = -np.log((1 - scatter) * np.exp(-dense) + scatter * 0.35 * np.exp(-clear))
    return Exposure(
        photons=float(np.exp(rng.normal(12.6 if ap else 13.6, 0.5)) * np.exp(0.5 * clear)),
        scatter=scatter,
        low=float(clear - span * rng.uniform(0.25, 0.70)),
        high=float(cap + span * rng.uniform(0.05, 0.40)),
        slope=float(rng.uniform(0.6, 1.25)),
        sharpen=float(rng.uniform(0.0, 0.9)) * (0.7 if ap else 1.0),
        blur=float(rng.uniform(0.06, 0.13)),
    )


class _Scene:
    """The projection of one thorax in one view: chords are computed once and shared."""

    def __init__(self, thorax: Thorax, lesions: Lesions, view: View) -> None:
        self.thorax, self.lesions, self.view = thorax, lesions, view
        self.cavity = {side: thorax.lungs[side].chord(view) for side in SIDES}
        self.dome = {side: thorax.domes[side].chord(view) for side in SIDES}
        heart = [solid.chord(view) for solid in thorax.heart]
        self.heart = heart[0].hull(heart[1])
        windows = [solid.window(view) for solid in thorax.vessels_great]
        self.great = [(s.chord(view, w), w) for s, w in zip(thorax.vessels_great, windows, strict=True)]

    def integrate(self) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Line integrals of the attenuation, masks of lung and heart, and a mask per finding."""
        thorax, view = self.thorax, self.view
        body = self._body()
        total = SOFT * body.length_total
        found: dict[str, np.ndarray] = {}
        aerated = np.zeros_like(total)
        field_mask = np.zeros(total.shape, bool)
        texture = _texture(view, [thorax.patient.seed, 8], (0.45, 1.3), (0.10, 0.07))
        for side in SIDES:
            free, lung, fluid, density = self._fill(side)
            air = free - lung - fluid
            total += (density - SOFT) * lung + (PLEURAL_FLUID - SOFT) * fluid - SOFT * air
            total += density * lung * texture * 0.55
            aerated += lung
            field_mask |= (self.cavity[side].length > 1.0) & (free > 0.55 * self.cavity[side].length)
            if side in self.lesions.dry:
                found["Effusion"] = found.get("Effusion", False) | (fluid > 0.15)
            if side in self.lesions.collapse:
                found["Pneumothorax"] = found.get("Pneumothorax", False) | (air > np.maximum(0.3, lung))
        room = np.clip(aerated / 3, 0, 1)
        total += joined([self._vessels(side) for side in SIDES]).integral(view) * room
        total += thorax.airways.integral(view)
        total += self._bone(body.inside)
        total += self._soft_details(body.inside)
        total += self._lesions(aerated, found)
        masks = {"lung": field_mask & (self.heart.length < 0.5), "heart": self.heart.length > 0.5}
        return np.maximum(total, 0).astype(np.float32), masks, found

    def volume_loss(self, usual: Mapping[str, Stack]) -> np.ndarray:
        """Where a raised dome took at least 1 cm of lung away."""
        lost = np.zeros(self.cavity["right"].half.shape, bool)
        for side, dome in usual.items():
            before = self.cavity[side].overlap(dome.chord(self.view))
            lost |= self.cavity[side].overlap(self.dome[side]) - before > 1.0
        return lost

    def _body(self) -> _Body:
        trunk = self.thorax.trunk.chord(self.view)
        length = trunk.length
        for arm in self.thorax.arms.values():
            chord = arm.chord(self.view)
            length = length + chord.length - trunk.overlap(chord)
        return _Body(length, np.clip(length / 1.5, 0, 1))

    def _fill(self, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Lengths (cm) of a side's free cavity, of its aerated lung and of pleural fluid; the lung's attenuation."""
        cavity = self.cavity[side]
        heart, dome = self.heart, self.dome[side]

        def outside(chord: Chord) -> np.ndarray:
            taken = chord.overlap(heart) + chord.overlap(dome) - chord.overlap(heart, dome)
            for vessel, window in self.great:
                part, within = chord.at(window), vessel
                covered = part.overlap(within, heart.at(window)) + part.overlap(within, dome.at(window))
                taken[window] += np.maximum(part.overlap(within) - covered, 0)
            return np.maximum(chord.length - taken, 0)

        free = outside(cavity)
        lung_chord, density, fluid = cavity, LUNG, np.zeros_like(free)
        if side in self.lesions.dry:
            dry = self.lesions.dry[side].chord(self.view)
            lung_chord = cavity.intersection(dry)
            fluid = np.maximum(free - outside(lung_chord), 0)
        if side in self.lesions.collapse:
            collapse = self.lesions.collapse[side]
            lung_chord = lung_chord.intersection(collapse.lung.chord(self.view))
            density = collapse.density
        lung = np.minimum(outside(lung_chord), free - fluid)
        return free, lung, fluid, density

    def _vessels(self, side: str) -> Tubes:
        vessels = self.thorax.vessels[side]
        if side in self.lesions.collapse:
            collapse = self.lesions.collapse[side]
            moved = [collapse.anchor + (p - collapse.anchor) * collapse.scale for p in (vessels.start, vessels.end)]
            inside = collapse.lung.level((moved[0] + moved[1]) / 2) < 0.95
            radius = vessels.radius * collapse.scale
            vessels = replace(vessels, start=moved[0], end=moved[1], radius=radius).take(inside)
        if side in self.lesions.dry:
            vessels = vessels.take(self.lesions.dry[side].level((vessels.start + vessels.end) / 2) < 1)
        if self.lesions.upper_vessels != 1:
            upper = vessels.end[:, 1] < self.thorax.hila[side][1]
            radius = vessels.radius * np.where(upper, self.lesions.upper_vessels, 1.1)
            vessels = replace(vessels, radius=radius)
        return vessels

    def _bone(self, inside: np.ndarray) -> np.ndarray:
        thorax, view = self.thorax, self.view
        total = thorax.bones.integral(view)
        total += thorax.spine.chord(view).length * _rows(thorax.spine_bone, view)
        for solid, weight in thorax.plates:
            window = solid.window(view)
            total[window] += weight * solid.chord(view, window).length
        return total * inside

    def _soft_details(self, inside: np.ndarray) -> np.ndarray:
        thorax, view = self.thorax, self.view
        total = np.zeros_like(inside)
        for solid in thorax.breasts:
            window = solid.window(view)
            length = solid.chord(view, window).length
            total[window] += FAT * 0.7 * length**2 / max(float(length.max(initial=0)), 1e-3)  # thins out to its rim
        for solid in thorax.gas:
            window = solid.window(view)
            total[window] -= SOFT * 0.8 * solid.chord(view, window).length
        uneven = _texture(view, [thorax.patient.seed, 9], (0.8, 3.5), (0.05, 0.22))
        return total + SOFT * uneven * inside

    def _lesions(self, aerated: np.ndarray, found: dict[str, np.ndarray]) -> np.ndarray:
        """Opacities inside the lung; none can add more than airless lung would."""
        lesions, view = self.lesions, self.view
        total = np.zeros_like(aerated)
        names = {b[0] for b in lesions.blobs} | {s[0] for s in lesions.solids} | {t[0] for t in lesions.lines}
        for name in sorted(names):
            opacity = np.zeros_like(aerated)
            for finding, centre, sigma, peak in lesions.blobs:
                if finding == name:
                    _add_blob(opacity, view, centre, sigma, peak)
            fluffy = 1 + _texture(view, [self.thorax.patient.seed, 11], (0.6, 1.8), (0.25, 0.45))
            limit = 0.85 * FILLED * aerated
            opacity = limit * (1 - np.exp(-opacity * np.clip(fluffy, 0.2, 2) / np.maximum(limit, 1e-3)))
            for finding, solid, weight in lesions.solids:
                if finding == name:
                    window = solid.window(view)
                    length = solid.chord(view, window).length
                    if name == "Atelectasis":  # a plate has no sharp rim
                        length = length**2 / max(float(length.max(initial=0)), 1e-3)
                    length = np.minimum(length, 1.15 * aerated[window])
                    opacity[window] += weight * length
            room = np.clip(aerated / 1.5, 0, 1)
            for finding, pieces in lesions.lines:
                if finding == name:
                    lines = pieces.integral(view)
                    if name == "Consolidation":  # an airway is only seen where the lung round it is airless
                        lines = np.maximum(lines * np.clip(opacity / 0.3, 0, 1), -0.6 * opacity)
                    opacity = opacity + lines * room
            total += opacity
            found[name] = np.abs(opacity) > max(VISIBLE, 0.10 * float(np.abs(opacity).max()))
        return total


@dataclass(frozen=True)
class _Body:
    length_total: np.ndarray
    inside: np.ndarray  # 0 outside the body to 1 where it is at least 1.5 cm thick


LETTERS = {  # strokes in units of the letter's height
    "L": [[(0, 0), (0, 1)], [(0, 1), (0.55, 1)]],
    "R": [
        [(0, 0), (0, 1)],
        [(0, 0), (0.5, 0.1)],
        [(0.5, 0.1), (0.5, 0.4)],
        [(0.5, 0.4), (0, 0.5)],
        [(0.1, 0.5), (0.6, 1)],
    ],
}
LEAD = 4.0  # 1/cm: lead letters let nothing through


def _side_marker(view: View, rng: np.random.Generator) -> np.ndarray:
    """A lead letter near an upper corner, on most pictures; it tells the side and nothing else."""
    draw, across, down, height = rng.random(), rng.uniform(0.38, 0.45), rng.uniform(0.30, 0.46), rng.uniform(1.0, 1.7)
    if draw > 0.7:
        return np.zeros((view.size, view.size), np.float32)
    letter = "L" if draw < 0.5 else "R"
    half = view.pitch * view.size
    corner = np.array([view.u0 + (across if letter == "L" else -across) * half, view.v0 - down * half])
    strokes = np.array(LETTERS[letter], float) * height + corner
    points = np.stack([strokes[..., 0], strokes[..., 1], np.zeros(strokes.shape[:2])], -1)
    upright = replace(view, angle=0.0, tilt=0.0, focus=-1e9)
    return tubes(points, 0.16, LEAD).integral(upright)


def _rows(profile: np.ndarray, view: View) -> np.ndarray:
    every = slice(0, view.size)
    _, v = view.coordinates(0.0, every, every)
    index = np.clip((v - Y_MIN) / Y_STEP + 0.5, 0, len(Y_GRID) - 1).astype(np.int32)
    return profile.astype(np.float32)[index]


def _add_blob(image: np.ndarray, view: View, centre: np.ndarray, sigma: float, peak: float) -> None:
    """Add the line integral of a Gaussian ball: peak x sigma x sqrt(2 pi) x exp(-d^2 / 2 sigma^2)."""
    window = view.window(centre, 2.6 * sigma)
    depth = float(view.depth(centre[0], centre[2]))
    u, v = view.coordinates(depth, *window)
    u = u - np.float32(centre[0] * view.across[0] + centre[2] * view.across[1])
    v = v - np.float32(centre[1])
    image[window] += (peak * sigma * 2.5066) * np.exp((u * u + v * v) * (-0.5 / sigma**2))


def _texture(view: View, seed: list[int], scales: tuple[float, ...], strength: tuple[float, ...]) -> np.ndarray:
    """A smooth random field (size, size): noise on grids of ``scales`` (cm), fixed to the patient by ``seed``."""
    rng = np.random.default_rng(seed)
    field_cm = view.pitch * view.size
    total = np.zeros((view.size, view.size), np.float32)
    for scale, amount in zip(scales, strength, strict=True):
        cells = int(np.clip(field_cm / scale, 3, 160)) + 3
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        step = np.linspace(0, cells - 1.001, view.size)
        total += amount * _bilinear(grid, step)
    return total


def _bilinear(grid: np.ndarray, step: np.ndarray) -> np.ndarray:
    low = step.astype(int)
    part = (step - low).astype(np.float32)
    part = part * part * (3 - 2 * part)
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def _boxes(name: str, mask: np.ndarray) -> list[dict[str, Any]]:
    if not mask.any():
        return []
    if name in ("Edema", "Effusion"):
        parts, count = label(mask)
    else:
        parts, count = mask.astype(int), 1
    boxes = []
    for k in range(1, count + 1):
        part = parts == k
        if part.sum() < BOX_SHARE * mask.sum():
            continue
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        boxes.append(
            {
                "label": name,
                "x": int(columns[0]),
                "y": int(rows[0]),
                "w": int(columns[-1] - columns[0] + 1),
                "h": int(rows[-1] - rows[0] + 1),
            }
        )
    return boxes
