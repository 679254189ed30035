"""Solids and their exact line integrals along the rays of one view.

Patient coordinates in cm: x to the patient's left (right in a frontal picture), y downwards from the lung apex, z to
the front. A view's rays are parallel within one solid; each solid is magnified as a whole by the distance of its
centre from the focus, which is what a mildly diverging beam does to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

Y_MIN, Y_MAX, Y_STEP = -22.0, 58.0, 0.1
Y_GRID = np.arange(Y_MIN, Y_MAX, Y_STEP)


@dataclass(frozen=True)
class View:
    """Geometry of one exposure.

    ``angle`` turns the beam about the patient's long axis (0 frontal, pi/2 lateral; radians), ``roll`` turns the
    picture, ``tilt`` is the cranio-caudal obliquity. ``pitch`` is cm per pixel, ``u0, v0`` the centre of the picture.
    ``focus`` is the signed distance (cm) of the tube from the patient's axis: negative behind (PA), positive in
    front (AP).
    """

    size: int
    pitch: float
    angle: float
    roll: float
    tilt: float
    u0: float
    v0: float
    focus: float

    @property
    def ray(self) -> tuple[float, float]:
        """Direction (x, z) of the rays."""
        return float(np.sin(self.angle)), float(np.cos(self.angle))

    @property
    def across(self) -> tuple[float, float]:
        """Direction (x, z) of the detector's u axis."""
        return float(np.cos(self.angle)), float(-np.sin(self.angle))

    def magnification(self, depth: np.ndarray | float) -> np.ndarray | float:
        """Magnification at ``depth`` (cm along the ray) relative to the patient's axis."""
        return self.focus / (self.focus - depth)

    def depth(self, x: np.ndarray | float, z: np.ndarray | float) -> np.ndarray | float:
        """Depth along the ray of a point."""
        return x * self.ray[0] + z * self.ray[1]

    def coordinates(self, depth: float, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) in cm at ``depth`` for a window of pixels, each of the window's shape, float32."""
        centre = (self.size - 1) / 2
        i = (np.arange(self.size, dtype=np.float32)[rows] - centre)[:, None] * self.pitch
        j = (np.arange(self.size, dtype=np.float32)[columns] - centre)[None, :] * self.pitch
        m = float(self.magnification(depth))
        cos, sin = float(np.cos(self.roll)), float(np.sin(self.roll))
        u = ((cos * j - sin * i) + self.u0) / m
        v = ((sin * j + cos * i) + self.v0) / m + (12 - 12 / m) - depth * float(np.tan(self.tilt))
        return u.astype(np.float32), v.astype(np.float32)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel (column, row) of ``points`` (..., 3)."""
        depth = self.depth(points[..., 0], points[..., 2])
        m = self.magnification(depth)
        u = (points[..., 0] * self.across[0] + points[..., 2] * self.across[1]) * m - self.u0
        v = (points[..., 1] + depth * np.tan(self.tilt) - 12) * m + 12 - self.v0
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        centre = (self.size - 1) / 2
        return (cos * u + sin * v) / self.pitch + centre, (-sin * u + cos * v) / self.pitch + centre

    def window(self, centre: np.ndarray, radius: float) -> tuple[slice, slice]:
        """Rows and columns of pixels within ``radius`` (cm) of a point's projection; may be empty."""
        column, row = self.project(centre)
        reach = radius * 1.15 / self.pitch + 2
        low = [int(np.clip(np.floor(c - reach), 0, self.size)) for c in (row, column)]
        high = [int(np.clip(np.ceil(c + reach) + 1, 0, self.size)) for c in (row, column)]
        return slice(low[0], high[0]), slice(low[1], high[1])


@dataclass(frozen=True)
class Chord:
    """The part of every ray inside a convex solid: an interval ``middle +- half`` (cm), half <= 0 where it misses."""

    middle: np.ndarray
    half: np.ndarray

    @property
    def length(self) -> np.ndarray:
        """Path length in cm."""
        return 2 * np.maximum(self.half, 0)

    def overlap(self, *others: Chord) -> np.ndarray:
        """Length in cm of the part common to this and all ``others``."""
        low, high = self.middle - self.half, self.middle + self.half
        for other in others:
            low = np.maximum(low, other.middle - other.half)
            high = np.minimum(high, other.middle + other.half)
        return np.maximum(high - low, 0)

    def at(self, window: tuple[slice, slice]) -> Chord:
        """The rays of ``window`` only."""
        return Chord(self.middle[window], self.half[window])

    def intersection(self, other: Chord) -> Chord:
        """The common part."""
        low = np.maximum(self.middle - self.half, other.middle - other.half)
        high = np.minimum(self.middle + self.half, other.middle + other.half)
        return Chord((low + high) / 2, (high - low) / 2)

    def hull(self, other: Chord) -> Chord:
        """The smallest interval that holds both (for solids that touch or do not share rays)."""
        low = np.minimum(_low(self), _low(other))
        high = np.maximum(_high(self), _high(other))
        hit = high > low
        return Chord(
            np.where(hit, (low + high) / 2, 0).astype(np.float32),
            np.where(hit, (high - low) / 2, -1).astype(np.float32),
        )


def _pasted(part: Chord, window: tuple[slice, slice], size: int) -> Chord:
    """A chord of a window as one of the whole picture, empty elsewhere."""
    middle, half = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    middle[window], half[window] = part.middle, part.half
    return Chord(middle, half)


def _low(chord: Chord) -> np.ndarray:
    return np.where(chord.half > 0, chord.middle - chord.half, 1e6).astype(np.float32)


def _high(chord: Chord) -> np.ndarray:
    return np.where(chord.half > 0, chord.middle + chord.half, -1e6).astype(np.float32)


@dataclass(frozen=True)
class Stack:
    """A solid whose every horizontal slice is an ellipse: semi-axes ``a`` (x) and ``b`` (z), centre ``cx, cz``.

    Each is sampled on ``Y_GRID`` (cm); a slice with ``a <= 0`` is empty. ``power`` above 2 flattens the slices: the
    path through one is longest x sqrt(1 - |t|^power) at the share t of its shadow, in every view alike.
    """

    a: np.ndarray
    b: np.ndarray
    cx: np.ndarray
    cz: np.ndarray
    depth_x: float = 0.0
    depth_z: float = 0.0
    power: float = 2.0

    def chord(self, view: View) -> Chord:
        """The closed-form interval of every ray, (size, size).

        A ray at offset t from the centre of an ellipse has half length (ab/h) sqrt(1 - t^2/h^2), where h is the
        half-width of the ellipse's shadow, and a middle that is linear in t.
        """
        dx, dz = view.ray
        ex, ez = view.across
        a, b = np.maximum(self.a, 1e-3), np.maximum(self.b, 1e-3)
        shadow = np.sqrt((a * ex) ** 2 + (b * ez) ** 2)
        slope = -(dx * ex / a**2 + dz * ez / b**2) * (a * b / shadow) ** 2
        longest = np.where((self.a > 0) & (self.b > 0), a * b / shadow, 0)
        depth = float(view.depth(self.depth_x, self.depth_z))
        window = self._window(view, self.cx * ex + self.cz * ez, shadow, depth)
        u, v = view.coordinates(depth, *window)
        index = np.minimum(np.maximum((v - Y_MIN) * (1 / Y_STEP) + 0.5, 0), len(Y_GRID) - 1).astype(np.int32)
        table = np.stack(
            [self.cx * ex + self.cz * ez, self.cx * dx + self.cz * dz, slope, 1 / shadow, longest], axis=1
        ).astype(np.float32)[index]
        t = u - table[..., 0]
        room = (t * table[..., 3]) ** 2
        if self.power == 3:
            room *= np.sqrt(room)
        elif self.power != 2:
            room **= np.float32(self.power / 2)
        half = table[..., 4] * np.sqrt(np.maximum(1 - room, 0))
        return _pasted(Chord(table[..., 1] + table[..., 2] * t, half), window, view.size)

    def _window(self, view: View, centre: np.ndarray, shadow: np.ndarray, depth: float) -> tuple[slice, slice]:
        """The pixels that the stack can touch."""
        filled = np.flatnonzero((self.a > 0) & (self.b > 0))
        if not len(filled):
            return slice(0, 0), slice(0, 0)
        left, right = float((centre - shadow)[filled].min()), float((centre + shadow)[filled].max())
        top, bottom = float(Y_GRID[filled[0]]), float(Y_GRID[filled[-1]])
        ex, ez = view.across
        dx, dz = view.ray
        u, y = np.array([left, right, left, right]), np.array([top, top, bottom, bottom])
        column, row = view.project(np.stack([u * ex + depth * dx, y, u * ez + depth * dz], -1))
        limits = [
            np.clip([np.floor(c.min()) - 1, np.ceil(c.max()) + 2], 0, view.size).astype(int) for c in (row, column)
        ]
        return slice(*map(int, limits[0])), slice(*map(int, limits[1]))

    def level(self, point: np.ndarray) -> np.ndarray:
        """Where ``point`` (..., 3) lies: 0 on the axis, 1 on the surface, above 1 outside."""
        index = np.clip(np.rint((point[..., 1] - Y_MIN) / Y_STEP), 0, len(Y_GRID) - 1).astype(int)
        a, b = np.maximum(self.a[index], 1e-3), np.maximum(self.b[index], 1e-3)
        return np.sqrt(((point[..., 0] - self.cx[index]) / a) ** 2 + ((point[..., 2] - self.cz[index]) / b) ** 2)

    def at(self, y: float) -> tuple[float, float, float, float]:
        """(a, b, cx, cz) of the slice at ``y``."""
        index = int(np.clip(np.rint((y - Y_MIN) / Y_STEP), 0, len(Y_GRID) - 1))
        return float(self.a[index]), float(self.b[index]), float(self.cx[index]), float(self.cz[index])

    def shrunk(self, scale: np.ndarray | float) -> Stack:
        """The same stack with its slices scaled about their centres."""
        return replace(self, a=self.a * scale, b=self.b * scale)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid: ``centre`` (3,), ``radii`` (3,) and ``axes`` (3, 3), in columns the directions of the radii."""

    centre: np.ndarray
    radii: np.ndarray
    axes: np.ndarray

    def window(self, view: View) -> tuple[slice, slice]:
        """The pixels that it can touch."""
        return view.window(self.centre, float(self.radii.max()))

    def chord(self, view: View, window: tuple[slice, slice] | None = None) -> Chord:
        """The closed-form interval of the rays of ``window`` (default: the whole picture)."""
        if window is None:
            window = self.window(view)
            return _pasted(self.chord(view, window), window, view.size)
        rows, columns = window
        depth = float(view.depth(self.centre[0], self.centre[2]))
        u, v = view.coordinates(depth, rows, columns)
        d = np.array([view.ray[0], 0, view.ray[1]])
        e = np.array([view.across[0], 0, view.across[1]])
        form = self.axes @ np.diag(1 / self.radii**2) @ self.axes.T
        u = u - np.float32(self.centre @ e)
        v = v - np.float32(self.centre[1])
        y = np.array([0.0, 1.0, 0.0])
        dd, du, dv = (float(d @ form @ w) for w in (d, e, y))
        uu, uv, vv = float(e @ form @ e), float(e @ form @ y), float(y @ form @ y)
        linear = (du * u + dv * v) / dd
        rest = (uu * u * u + 2 * uv * u * v + vv * v * v - 1) / dd
        room = linear * linear - rest
        return Chord(depth - linear, np.sqrt(np.maximum(room, 0)))


def ellipsoid(centre: object, radii: object, *, roll: float = 0, yaw: float = 0, pitch: float = 0) -> Ellipsoid:
    """An ellipsoid turned by ``roll`` (about z), then ``yaw`` (about y), then ``pitch`` (about x), radians."""
    cr, sr, cy, sy, cp, sp = np.cos(roll), np.sin(roll), np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return Ellipsoid(np.asarray(centre, float), np.asarray(radii, float), about_x @ about_y @ about_z)


@dataclass(frozen=True)
class Tubes:
    """Straight pieces of tubes, n of them; lengths in cm.

    ``start, end`` (n, 3); ``radius`` (n,) and ``weight`` (n,): the attenuation (1/cm) that the tube adds to what it
    lies in. A hollow tube has an ``inner`` radius above 0 (n,), within which ``core`` (n,) is added to ``weight``.
    """

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    weight: np.ndarray
    inner: np.ndarray
    core: np.ndarray

    def __len__(self) -> int:
        return len(self.radius)

    def take(self, rows: np.ndarray) -> Tubes:
        """The pieces at ``rows`` (mask or indices)."""
        return Tubes(*(getattr(self, f)[rows] for f in _FIELDS))

    def integral(self, view: View) -> np.ndarray:
        """Sum of attenuation x path length over the pieces, (size, size) float32.

        Across the tube the chord 2 sqrt(r^2 - d^2) divided by the sine of the angle between tube and ray; along
        it a window with ramps as long as the end caps' shadows, so that neighbours join without a seam and the
        integral over the picture is weight x volume exactly. A tube thinner than a pixel is spread over the
        detector element, its integral unchanged.
        """
        image = np.zeros(view.size * view.size)
        pieces = _project(self, view)
        for rows, steps in _patches(pieces, view.size):
            offset = np.arange(-steps, steps + 1, dtype=np.float32)
            column, row = np.rint(pieces["x"][rows]), np.rint(pieces["y"][rows])
            ox = (offset + (column - pieces["x"][rows])[:, None])[:, None, :]
            oy = (offset + (row - pieces["y"][rows])[:, None])[:, :, None]
            tx, ty, half, cap = (pieces[k][rows, None, None] for k in ("tx", "ty", "half", "cap"))
            along, aside = ox * tx + oy * ty, ox * ty - oy * tx
            scale = 0.5 / cap
            window = _ramp((along + half) * scale + 0.5) - _ramp((along - half) * scale + 0.5)
            value = _profile(aside, pieces["radius"][rows], pieces["weight"][rows])
            if pieces["inner"][rows].any():
                value += _profile(aside, pieces["inner"][rows], pieces["core"][rows])
            value *= window * pieces["gain"][rows, None, None]
            px = (column[:, None] + offset).astype(np.int64)
            py = (row[:, None] + offset).astype(np.int64)
            value *= ((px >= 0) & (px < view.size))[:, None, :]
            value *= ((py >= 0) & (py < view.size))[:, :, None]
            flat = np.clip(py, 0, view.size - 1)[:, :, None] * view.size + np.clip(px, 0, view.size - 1)[:, None, :]
            image += np.bincount(flat.ravel(), weights=value.ravel(), minlength=image.size)
        return image.reshape(view.size, view.size).astype(np.float32)


_FIELDS = ("start", "end", "radius", "weight", "inner", "core")
THIN = 1.5  # pixels: below this radius a tube gets the smooth profile of a detector element
_STEPS = np.array([2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 19, 24, 36, 54, 80, 120, 180, 400, 1000, 3000])


def _project(pieces: Tubes, view: View) -> dict[str, np.ndarray]:
    """Shadows of the pieces in pixels: middle ``x, y``, direction ``tx, ty``, half length, radii and ramps, (n,)."""
    x0, y0 = view.project(pieces.start)
    x1, y1 = view.project(pieces.end)
    middle = (pieces.start + pieces.end) / 2
    scale = view.magnification(view.depth(middle[:, 0], middle[:, 2])) / view.pitch
    axis = pieces.end - pieces.start
    length = np.maximum(np.sqrt((axis**2).sum(1)), 1e-6)
    cosine = np.abs(axis[:, 0] * view.ray[0] + axis[:, 2] * view.ray[1]) / length
    shadow = np.hypot(x1 - x0, y1 - y0)
    seen_end_on = shadow < 1e-3
    shadow = np.maximum(shadow, 1e-3)
    projected = {
        "x": (x0 + x1) / 2,
        "y": (y0 + y1) / 2,
        "tx": np.where(seen_end_on, 1.0, (x1 - x0) / shadow),
        "ty": np.where(seen_end_on, 0.0, (y1 - y0) / shadow),
        "half": shadow / 2,
        "radius": pieces.radius * scale,
        "inner": pieces.inner * scale,
        "cap": np.maximum(0.5, pieces.radius * scale * cosine),
        "weight": pieces.weight / scale,
        "core": pieces.core / scale,
        "gain": length * scale / shadow,
    }
    return {k: v.astype(np.float32) for k, v in projected.items()}


def _patches(pieces: dict[str, np.ndarray], size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Groups of pieces that fit into one patch of 2 steps + 1 pixels; pieces outside the picture are left out."""
    wide = np.maximum(pieces["radius"], np.sqrt(pieces["radius"] ** 2 + 0.57) * (pieces["radius"] < THIN))
    reach = np.ceil(np.hypot(pieces["half"] + pieces["cap"], wide) + 0.5)
    x, y = pieces["x"], pieces["y"]
    seen = (x > -reach) & (y > -reach) & (x < size + reach) & (y < size + reach)
    group = np.searchsorted(_STEPS, reach)
    for g in np.unique(group[seen]):
        yield np.flatnonzero(seen & (group == g)), int(_STEPS[g])


def _ramp(t: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(t, np.float32(0)), np.float32(1))


def _profile(aside: np.ndarray, radius: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Chord of a tube at the distance ``aside`` (n, k, k) from its axis x ``weight``, all in pixels."""
    thin = radius < THIN
    wide = np.where(thin, np.sqrt(radius**2 + 0.5625), radius).astype(np.float32)
    peak = (np.where(thin, 8 / 3 * radius**2 / wide, 2 * radius) * weight).astype(np.float32)
    room = np.maximum(1 - (aside / wide[:, None, None]) ** 2, 0)
    chord = np.sqrt(room)
    if thin.any():
        chord *= np.where(thin[:, None, None], room, np.float32(1))
    return chord * peak[:, None, None]


def tubes(points: np.ndarray, radius: object, weight: float, *, wall: float = 0.0, core: float = 0.0) -> Tubes:
    """Tubes along polylines ``points`` (..., n, 3), ``radius`` a number or (n,) values at the points.

    With a ``wall`` (cm) the tube is hollow: ``weight`` in the wall and ``core`` within it, both absolute.
    """
    r = np.broadcast_to(np.asarray(radius, float), points.shape[:-1])
    start, end = points[..., :-1, :].reshape(-1, 3), points[..., 1:, :].reshape(-1, 3)
    r = ((r[..., :-1] + r[..., 1:]) / 2).ravel()
    n = len(r)
    inner = np.maximum(r - wall, 0.02) if wall else np.zeros(n)
    return Tubes(start, end, r, np.full(n, float(weight)), inner, np.full(n, float(core - weight) if wall else 0.0))


def smooth(points: np.ndarray, n: int = 10) -> np.ndarray:
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


def joined(parts: Sequence[Tubes]) -> Tubes:
    """All pieces of several tubes."""
    return Tubes(*(np.concatenate([getattr(p, f) for p in parts]) for f in _FIELDS))
