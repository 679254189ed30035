"""Plots as inline SVG that takes its colours from the page and keeps its text size on any screen.

Positions along the horizontal axis are percentages of the plot's width, so that a plot grows with its column while text
and strokes keep their size; labels and numbers stand beside the marks as ordinary text, readable without the picture.
The same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from cxraug.pages.page import interval, number

ROW = 26  # height of a row in CSS pixels
HEAT_STEPS = (0.02, 0.05, 0.1, 0.2)  # where a heat map's colour deepens
FINE = 1000  # steps along a side of a square plot
CLIP = 3.0  # an interval this many times as wide as the 80th percentile is cut off, with an arrow


@dataclass(frozen=True)
class Interval:
    """A value with its interval. Without ``value`` the row is kept and ``note`` says why it is empty."""

    label: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    group: str = ""  # a heading above the first row of each group
    strong: bool = False
    few: bool = False  # drawn open and dotted: too little data for more than a hint


@dataclass(frozen=True)
class Change:
    """A count before and after a plan, and the target if there is one."""

    label: str
    before: float
    after: float
    target: float | None = None
    group: str = ""


@dataclass(frozen=True)
class Heat:
    """A cell of a heat map. Without ``value`` it is empty and ``note`` stands in it."""

    value: float | None = None
    worse: bool = False
    strong: bool = False
    few: bool = False
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A curve of points (x, y); ``faint`` is the one that the others are read against. ``band``: (x, low, high)."""

    label: str
    points: tuple[tuple[float, float], ...]
    faint: bool = False
    band: tuple[tuple[float, float, float], ...] = ()


class Axis:
    """A linear axis over [``low``, ``high``], widened to round ticks."""

    def __init__(self, low: float, high: float, *, steps: int = 5) -> None:
        if high <= low:
            low, high = low - 0.5, high + 0.5
        rough = (high - low) / steps
        power = 10.0 ** math.floor(math.log10(rough))
        self.step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
        first, last = math.floor(low / self.step + 1e-9), math.ceil(high / self.step - 1e-9)
        self.ticks = [round(i * self.step, 10) for i in range(first, last + 1)]
        self.low, self.high = self.ticks[0], self.ticks[-1]
        text = f"{self.step:.10f}".rstrip("0")
        self.decimals = len(text.split(".")[1])

    def at(self, value: float) -> float:
        """Position of ``value`` in per cent of the axis, cut off at its ends."""
        return round(100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low), 3)

    def text(self, tick: float, *, sign: bool = False) -> str:
        """A tick's label."""
        return number(tick, f"{'+' if sign and tick else ''},.{self.decimals}f")


def forest(
    rows: Sequence[Interval],
    *,
    what: str,
    reference: float | None = None,
    sign: bool = False,
    sides: tuple[str, str] | None = None,
    unit_range: tuple[float, float] | None = None,
) -> Markup:
    """Values with their intervals, one per row, on one axis.

    Parameters
    ----------
    rows : in the order shown; rows of one group must follow each other.
    what : name of the axis, with its unit.
    reference : where to draw the reference line (0 for differences).
    sign : show the sign of positive numbers.
    sides : what lies left and right of the reference.
    unit_range : the range that values cannot leave, e.g. (0, 1).
    """
    axis = _interval_axis(rows, reference, unit_range)
    parts = [Markup('<div class="rows{}">').format(Markup(" long") if len(rows) > 12 else "")]
    group = ""
    for row in rows:
        if row.group and row.group != group:
            parts.append(Markup('<div class="group">{}</div>').format(row.group))
        group = row.group
        kind = " ".join(n for n, on in (("strong", row.strong), ("s-few", row.few)) if on)
        parts.append(
            Markup('<div class="row {}"><span class="label">{}</span><span class="plot">{}</span>{}</div>').format(
                kind, row.label, _interval_svg(row, axis, reference), _interval_text(row, sign)
            )
        )
    parts += [_axis_row(axis, what, sign=sign, sides=sides), Markup("</div>")]
    return Markup("").join(parts)


def changes(rows: Sequence[Change], *, what: str) -> Markup:
    """Bars of a count before and after, with a mark at the target."""
    axis = Axis(0, max([1.0, *(max(r.after, r.before, r.target or 0) for r in rows)]))
    parts = [Markup('<div class="rows{}">').format(Markup(" long") if len(rows) > 12 else "")]
    group = ""
    for row in rows:
        if row.group and row.group != group:
            parts.append(Markup('<div class="group">{}</div>').format(row.group))
        group = row.group
        text = f"{number(row.before, ',d')} → {number(row.after, ',d')}"
        parts.append(
            Markup(
                '<div class="row"><span class="label">{}</span><span class="plot">{}</span>'
                '<span class="value">{}</span></div>'
            ).format(row.label, _change_svg(row, axis), text)
        )
    parts += [_axis_row(axis, what), Markup("</div>")]
    keys = [("s-before", "real studies there are"), ("s-added", "asked for by the plan")]
    legend = Markup("").join(
        Markup(
            '<li><svg width="14" height="10" aria-hidden="true"><rect class="{}" width="14" height="10"/></svg>{}</li>'
        ).format(css, text)
        for css, text in keys
    )
    if any(r.target is not None for r in rows):
        legend += Markup(
            '<li><svg width="4" height="12" aria-hidden="true"><line class="s-target" x1="2" x2="2" y1="0" y2="12"/>'
            "</svg>target</li>"
        )
    return Markup("").join(parts) + Markup('<ul class="legend">{}</ul>').format(legend)


def effect(difference: float, low: float, high: float, *, mde: float | None, room: float | None, what: str) -> Markup:
    """The primary difference on one line, with what could have been detected and the room there was."""
    ends = [0.0, difference, low, high, *((mde, -mde) if mde else ()), *((room,) if room else ())]
    axis = Axis(min(ends), max(ends), steps=6)
    zero, left, right = axis.at(0), axis.at(low), axis.at(high)
    shade = room_mark = Markup("")
    keys = [
        Markup(
            '<li><svg width="22" height="8" aria-hidden="true">'
            '<line class="s-line tone" x1="2" x2="20" y1="4" y2="4"/></svg>95 % interval</li>'
        )
    ]
    if mde:
        x, width = axis.at(-mde), axis.at(mde) - axis.at(-mde)
        shade = Markup('<rect class="s-band" x="{}%" width="{}%" y="0" height="46"/>').format(x, round(width, 3))
        keys.append(
            Markup(
                '<li><svg width="22" height="12" aria-hidden="true"><rect class="s-band" width="22" height="12"/></svg>'
                "too small for this experiment to detect (±{})</li>"
            ).format(number(mde))
        )
    if room is not None:
        room_mark = Markup('<line class="s-room" x1="{0}%" x2="{0}%" y1="0" y2="46"/>').format(axis.at(room))
        keys.append(
            Markup(
                '<li><svg width="4" height="12" aria-hidden="true">'
                '<line class="s-room" x1="2" x2="2" y1="0" y2="12"/></svg>'
                "room left by the learning curve ({})</li>"
            ).format(number(room, "+.3f"))
        )
    picture = Markup(
        '<svg width="100%" height="46" role="img" aria-label="{alt}">{shade}'
        '<line class="s-zero" x1="{zero}%" x2="{zero}%" y1="0" y2="46"/>{room}'
        '<line class="s-line tone" x1="{left}%" x2="{right}%" y1="23" y2="23"/>'
        '<circle class="s-dot tone" cx="{x}%" cy="23" r="7"/></svg>'
    ).format(
        alt=f"{what}: {interval(difference, low, high, '+.3f')}",
        shade=shade,
        zero=zero,
        room=room_mark,
        left=left,
        right=right,
        x=axis.at(difference),
    )
    return (
        picture + _axis_svg(axis, what, sign=True) + Markup('<ul class="legend">{}</ul>').format(Markup("").join(keys))
    )


def curve(
    names: Sequence[str],
    means: Sequence[float],
    low: Sequence[float | None],
    high: Sequence[float | None],
    *,
    points: Sequence[tuple[int, float]] = (),
    x_name: str,
    y_name: str,
) -> Markup:
    """Means over named, equally spaced steps with a band where there is one.

    ``points`` are the single runs behind the means: (index of the step, value).
    """
    height = 220
    ends = [v for v in (*low, *high, *means, *(p[1] for p in points)) if v is not None]
    upright = Axis(min(ends), max(ends), steps=4)

    def across(i: int) -> float:
        return round(8 + 84 * i / (len(names) - 1), 3) if len(names) > 1 else 50.0

    def up(value: float) -> float:
        return round(height * (1 - upright.at(value) / 100), 2)

    grid = Markup("").join(
        Markup('<line class="s-grid" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(up(t)) for t in upright.ticks
    )
    scale = Markup("").join(
        Markup('<text x="40" y="{}" text-anchor="end">{}</text>').format(up(t) + 4, upright.text(t))
        for t in upright.ticks
    )
    ribs = [
        (across(i), up(a), up(b))
        for i, (a, b) in enumerate(zip(low, high, strict=True))
        if a is not None and b is not None
    ]
    outline = " ".join(f"{x},{y}" for x, y in [(x, t) for x, _, t in ribs] + [(x, b) for x, b, _ in reversed(ribs)])
    # The band alone is stretched with the width: a polygon takes no percentages.
    band = Markup(
        '<svg width="100%" height="{0}" viewBox="0 0 100 {0}" preserveAspectRatio="none">'
        '<polygon class="s-area" points="{1}"/></svg>'
    ).format(height, outline)
    marks = [
        Markup('<line class="s-line accent" x1="{}%" y1="{}" x2="{}%" y2="{}"/>').format(
            across(i), up(means[i]), across(i + 1), up(means[i + 1])
        )
        for i in range(len(means) - 1)
    ]
    marks += [Markup('<circle class="s-faint" cx="{}%" cy="{}" r="2.5"/>').format(across(i), up(v)) for i, v in points]
    marks += [
        Markup('<circle class="s-dot accent" cx="{}%" cy="{}" r="5"/>').format(across(i), up(v))
        for i, v in enumerate(means)
    ]
    marks += [
        Markup('<text x="{}%" y="{}" text-anchor="middle">{}</text>').format(across(i), height + 18, name)
        for i, name in enumerate(names)
    ]
    alt = f"{y_name} by {x_name}: " + ", ".join(f"{number(v)} at {n}" for n, v in zip(names, means, strict=True))
    return Markup(
        '<p class="axis-name">{y_name}</p><div class="curve"><svg height="{full}" aria-hidden="true">{scale}</svg>'
        '<svg height="{full}" role="img" aria-label="{alt}">{grid}{band}{marks}'
        '<text x="50%" y="{base}" text-anchor="middle">{x_name}</text></svg></div>'
    ).format(
        full=height + 44,
        scale=scale,
        alt=alt,
        grid=grid,
        band=band if len(ribs) > 1 else "",
        marks=Markup("").join(marks),
        base=height + 40,
        x_name=x_name,
        y_name=y_name,
    )


def square(lines: Sequence[Line], *, x_name: str, y_name: str, most: float = 1.0, dots: bool = False) -> Markup:
    """Curves over [0, ``most``] x [0, ``most``] with the diagonal, for ROC and calibration.

    Parameters
    ----------
    lines : coloured in their order as :func:`line_keys` names them, over their bands. dots : mark the points.
    """
    axis, size, left = Axis(0, most, steps=2 if most == 1 else 3), 230, 44

    def x(value: float) -> float:
        return round(left + size * axis.at(value) / 100, 1)

    def y(value: float) -> float:
        return round(8 + size * (1 - axis.at(value) / 100), 1)

    curves: list[Markup] = []
    marks = [
        Markup('<line class="s-grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x(0), y(0), x(axis.high), y(axis.high))
    ]
    for tick in axis.ticks:
        at, up = x(tick), y(tick)
        marks.append(Markup('<line class="s-grid" x1="{0}" x2="{0}" y1="8" y2="{1}"/>').format(at, 8 + size))
        marks.append(Markup('<line class="s-grid" x1="{1}" x2="{2}" y1="{0}" y2="{0}"/>').format(up, left, left + size))
        text = axis.text(tick)
        marks.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(at, size + 24, text))
        marks.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 6, up + 4, text))
    named = list(zip(lines, _line_classes(lines), strict=True))
    for line, css in named:
        if len(line.band) > 1:
            ends = [(x, high) for x, _, high in line.band] + [(x, low) for x, low, _ in reversed(line.band)]
            curves.append(Markup('<path class="{} band" d="{}"/>').format(css, _path(ends, axis)))
    for line, css in named:
        if line.points:
            curves.append(Markup('<path class="{}" d="{}"/>').format(css, _path(line.points, axis)))
        if dots and line.points:
            curves.append(Markup('<path class="{} dot" d="{}"/>').format(css, _path(line.points, axis, dots=True)))
    marks.append(
        Markup('<svg x="{0}" y="8" width="{1}" height="{1}" viewBox="0 0 {2} {2}">{3}</svg>').format(
            left, size, FINE, Markup("").join(curves)
        )
    )
    return Markup(
        '<svg width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" aria-label="{2}">{3}'
        '<text x="{4}" y="{5}" text-anchor="middle">{6}</text>'
        '<text x="10" y="{7}" text-anchor="middle" transform="rotate(-90 10 {7})">{8}</text></svg>'
    ).format(
        left + size + 14, size + 48, f"{y_name} by {x_name}: {', '.join(line.label for line in lines)}",
        Markup("").join(marks), left + size / 2, size + 42, x_name, 8 + size / 2, y_name,
    )  # fmt: skip


def lines_plot(lines: Sequence[Line], *, x_name: str, y_name: str) -> Markup:
    """Curves over axes that hold all of their points; :func:`line_keys` is their legend."""
    points = [point for line in lines for point in line.points]
    across, up = (Axis(min(p[i] for p in points), max(p[i] for p in points)) for i in (0, 1))
    width, height, left = 420, 230, 52
    marks: list[Markup] = []
    for tick in across.ticks:
        x = round(left + width * across.at(tick) / 100, 1)
        marks.append(Markup('<line class="s-grid" x1="{0}" x2="{0}" y1="8" y2="{1}"/>').format(x, 8 + height))
        text = across.text(tick)
        marks.append(Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x, height + 24, text))
    for tick in up.ticks:
        y = round(8 + height * (1 - up.at(tick) / 100), 1)
        marks.append(Markup('<line class="s-grid" x1="{1}" x2="{2}" y1="{0}" y2="{0}"/>').format(y, left, left + width))
        marks.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 6, y + 4, up.text(tick)))
    for line, css in zip(lines, _line_classes(lines), strict=True):
        places = " ".join(
            f"{left + width * across.at(x) / 100:.1f},{8 + height * (1 - up.at(y) / 100):.1f}" for x, y in line.points
        )
        marks.append(Markup('<polyline class="{}" points="{}"/>').format(css, places))
    return Markup(
        '<svg width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" aria-label="{2}">{3}'
        '<text x="{4}" y="{5}" text-anchor="middle">{6}</text>'
        '<text x="10" y="{7}" text-anchor="middle" transform="rotate(-90 10 {7})">{8}</text></svg>'
    ).format(
        left + width + 20, height + 48, f"{y_name} by {x_name}: {', '.join(line.label for line in lines)}",
        Markup("").join(marks), left + width / 2, height + 42, x_name, 8 + height / 2, y_name,
    )  # fmt: skip


def _path(points: Sequence[tuple[float, float]], axis: Axis, *, dots: bool = False) -> str:
    """Path through ``points`` over a square of side :data:`FINE`, short because its steps are whole and relative."""
    whole = [(round(FINE * axis.at(x) / 100), round(FINE * (1 - axis.at(y) / 100))) for x, y in points]
    steps = [f"M{whole[0][0]} {whole[0][1]}"]
    for (x0, y0), (x1, y1) in pairwise(whole):
        if (x0, y0) != (x1, y1) or dots:
            steps.append(f"{'h0m' if dots else 'l'}{x1 - x0}{'' if y1 < y0 else ' '}{y1 - y0}")
    return "".join(steps) + ("h0" if dots else "")


def line_keys(lines: Sequence[Line]) -> Markup:
    """The legend of :func:`square`."""
    keys = Markup("").join(
        Markup('<li><svg width="24" height="8" aria-hidden="true"><path class="{}" d="M1 4h22"/></svg>{}</li>').format(
            css, line.label
        )
        for line, css in zip(lines, _line_classes(lines), strict=True)
    )
    return Markup('<ul class="legend">{}</ul>').format(keys)


def _line_classes(lines: Sequence[Line]) -> list[str]:
    """Eight colours, then the same again dashed, dotted, ..."""
    names, k = [], 0
    for line in lines:
        names.append("s-curve faint" if line.faint else f"s-curve c{k % 8} d{k // 8 % 4}")
        k += not line.faint
    return names


def heat_map(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Heat]]], *, caption: str, corner: str
) -> Markup:
    """Signed numbers as a table whose colour says how much worse or better; :class:`Heat` per cell."""
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in columns)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(name, Markup("").join(map(_heat_cell, cells)))
        for name, cells in rows
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{0}"><table class="heat"><caption>{0}</caption>'
        '<thead><tr><th scope="col">{1}</th>{2}</tr></thead><tbody>{3}</tbody></table></div>\n'
    ).format(caption, corner, head, body)


def _heat_cell(cell: Heat) -> Markup:
    if cell.value is None:
        return Markup('<td class="none">{}</td>').format(cell.note)
    step = sum(abs(cell.value) >= bound for bound in HEAT_STEPS)
    kind = f"{'worse' if cell.worse else 'better'}-{step}" + (" strong" if cell.strong else "")
    return Markup('<td class="{}">{}{}</td>').format(kind, number(cell.value, "+.2f"), "°" if cell.few else "")


def _interval_axis(rows: Sequence[Interval], reference: float | None, bounds: tuple[float, float] | None) -> Axis:
    ends = [reference] if reference is not None else []
    shown = [r for r in rows if r.value is not None]
    widths = [
        (r.high if r.high is not None else r.value or 0) - (r.low if r.low is not None else r.value or 0) for r in shown
    ]
    usual = float(np.quantile(widths, 0.8)) if widths else 0.0
    for row, width in zip(shown, widths, strict=True):
        assert row.value is not None
        ends.append(row.value)
        if width <= CLIP * usual or row.strong:
            ends += [e for e in (row.low, row.high) if e is not None]
        else:
            ends += [row.value - usual, row.value + usual]
    if not ends:
        ends = [0.0, 1.0]
    low, high = min(ends), max(ends)
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Axis(low, high)


def _interval_svg(row: Interval, axis: Axis, reference: float | None) -> Markup:
    marks = [
        Markup('<line class="s-grid" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>').format(axis.at(t)) for t in axis.ticks
    ]
    if reference is not None:
        marks.append(Markup('<line class="s-zero" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>').format(axis.at(reference)))
    if row.value is not None:
        if row.low is not None and row.high is not None:
            left, right = axis.at(row.low), axis.at(row.high)
            marks.append(Markup('<line class="s-line" x1="{}%" x2="{}%" y1="50%" y2="50%"/>').format(left, right))
            for cut, end, arrow in ((row.low < axis.low, 0, "◂"), (row.high > axis.high, 100, "▸")):
                if cut:
                    marks.append(
                        Markup('<text x="{}%" y="50%" dy="4" text-anchor="middle">{}</text>').format(end, arrow)
                    )
        radius = 5.5 if row.strong else 4.5
        marks.append(Markup('<circle class="s-dot" cx="{}%" cy="50%" r="{}"/>').format(axis.at(row.value), radius))
    return Markup('<svg height="{}" aria-hidden="true">{}</svg>').format(ROW, Markup("").join(marks))


def _interval_text(row: Interval, sign: bool) -> Markup:
    if row.value is None:
        return Markup('<span class="value absent">{}</span>').format(row.note or "not available")
    text = interval(row.value, row.low, row.high, "+.3f" if sign else ".3f")
    extra = Markup(' <span class="tag warning">{}</span>').format(row.note) if row.note else Markup("")
    return Markup('<span class="value">{}{}</span>').format(text, extra)


def _change_svg(row: Change, axis: Axis) -> Markup:
    marks = [
        Markup('<line class="s-grid" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>').format(axis.at(t)) for t in axis.ticks
    ]
    before, after = axis.at(row.before), axis.at(row.after)
    marks.append(Markup('<rect class="s-before" x="0" width="{}%" y="6" height="14"/>').format(before))
    if after > before:
        width = round(after - before, 3)
        marks.append(Markup('<rect class="s-added" x="{}%" width="{}%" y="6" height="14"/>').format(before, width))
    if row.target is not None:
        marks.append(Markup('<line class="s-target" x1="{0}%" x2="{0}%" y1="2" y2="24"/>').format(axis.at(row.target)))
    return Markup('<svg height="{}" aria-hidden="true">{}</svg>').format(ROW, Markup("").join(marks))


def _axis_row(axis: Axis, what: str, *, sign: bool = False, sides: tuple[str, str] | None = None) -> Markup:
    return Markup('<div class="axis">{}</div>').format(_axis_svg(axis, what, sign=sign, sides=sides))


def _axis_svg(axis: Axis, what: str, *, sign: bool = False, sides: tuple[str, str] | None = None) -> Markup:
    # At most seven labels fit beside each other on a phone.
    every = 1 + (len(axis.ticks) - 1) // 7
    ticks = Markup("").join(
        Markup('<text x="{}%" y="16" text-anchor="middle">{}</text>').format(axis.at(t), axis.text(t, sign=sign))
        for i, t in enumerate(axis.ticks)
        if i % every == 0
    )
    label = f"← {sides[0]} · {what} · {sides[1]} →" if sides else what
    return Markup(
        '<svg width="100%" height="38"><line class="s-grid" x1="0" x2="100%" y1="0.5" y2="0.5"/>{}'
        '<text x="50%" y="34" text-anchor="middle">{}</text></svg>'
    ).format(ticks, label)
