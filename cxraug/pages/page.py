"""One offline HTML file: the frame of every page, sortable tables and the few blocks that pages are made of.

Everything that goes through these functions is escaped unless it is :class:`markupsafe.Markup`. The page also carries a
content security policy that forbids every request and every script but the page's own, named by its hash, so that a
hostile label cannot act even if it were let through.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment
from markupsafe import Markup, escape

from cxraug import __version__

ABSENT = "–"
MINUS = "−"

Format = str | Callable[[Any], str]


@dataclass(frozen=True)
class Cell:
    """A table cell whose text differs from what it is sorted by. ``sort`` None sorts last."""

    text: str | Markup
    sort: float | str | None = None


def render_page(title: str, body_html: Markup, *, subtitle: str = "", nav: Sequence[tuple[str, str]] = ()) -> str:
    """Return a complete HTML file that needs no network.

    Parameters
    ----------
    title, subtitle : plain text (escaped).
    body_html : the content; must be :class:`Markup`, so that no plain text reaches the page unescaped.
    nav : (anchor, heading) of the sections to list as contents.
    """
    if not isinstance(body_html, Markup):
        raise TypeError("body_html must be Markup; escape plain text first")
    script = _template("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        Environment(autoescape=True)
        .from_string(_template("page.html"))
        .render(
            title=title,
            subtitle=subtitle,
            body=body_html,
            nav=list(nav),
            css=Markup(_template("page.css")),
            script=Markup(script),
            script_hash=Markup(f"sha256-{digest}"),
            version=__version__,
        )
    )


def table(
    frame: pd.DataFrame,
    *,
    caption: str = "",
    formats: Mapping[str, Format] | None = None,
    strong: Sequence[bool] | None = None,
) -> Markup:
    """A sortable table of ``frame`` (its index is not shown).

    Parameters
    ----------
    frame : columns become headings. Cells may be numbers, text or :class:`Cell`; a :class:`Markup` must be inside a
        Cell, because pandas keeps it as plain text otherwise, which is then escaped.
    caption : plain text above the table; it also names the scrolling region for screen readers.
    formats : per column a format specification (``".3f"``, ``"+.3f"``, ``",d"``, ``".1%"``) for numbers or a function
        from value to text. Columns without one show whole numbers as such and others with three decimals.
    strong : rows to set in bold, aligned with ``frame``.
    """
    formats = dict(formats or {})
    numeric = {name: _is_numeric(frame[name]) for name in frame.columns}
    head = Markup("").join(
        Markup('<th scope="col" aria-sort="none"{}><button type="button">{}</button></th>').format(
            _number_class(numeric[name]), str(name)
        )
        for name in frame.columns
    )
    marks = list(strong) if strong is not None else [False] * len(frame)
    columns = [[_cell(v, formats.get(name), numeric[name]) for v in frame[name].tolist()] for name in frame.columns]
    body = Markup("").join(
        Markup("<tr{}>{}</tr>").format(Markup(' class="strong"') if mark else "", Markup("").join(cells))
        for mark, cells in zip(marks, zip(*columns, strict=True), strict=True)
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="sortable">{caption}'
        "<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n"
    ).format(
        label=caption or "Table",
        caption=Markup("<caption>{}</caption>").format(caption) if caption else "",
        head=head,
        body=body,
    )


def section(key: str, heading: str, *parts: str | Markup, lead: str = "") -> Markup:
    """A section with an anchor ``key``; ``lead`` is its opening sentence in plain text."""
    opening = Markup('<p class="lead">{}</p>\n').format(lead) if lead else ""
    return Markup('<section id="{}"><h2>{}</h2>\n{}{}</section>\n').format(key, heading, opening, blocks(parts))


def blocks(parts: Iterable[str | Markup]) -> Markup:
    """Join ``parts``; plain text is escaped."""
    return Markup("").join(escape(part) for part in parts)


def heading(text: str, level: int = 3) -> Markup:
    """A heading of ``level`` 3 or 4."""
    return Markup("<h{level}>{text}</h{level}>\n").format(level=level, text=text)


def paragraph(text: str | Markup) -> Markup:
    """A paragraph of running text."""
    return Markup("<p>{}</p>\n").format(text)


def bullets(items: Iterable[str | Markup]) -> Markup:
    """An unordered list; nothing for no items."""
    lines = Markup("").join(Markup("<li>{}</li>").format(item) for item in items)
    return Markup("<ul>{}</ul>\n").format(lines) if lines else Markup("")


def note(text: str | Markup, kind: str = "") -> Markup:
    """A remark set apart. ``kind`` is empty, ``warning`` or ``bad``."""
    return Markup('<p class="note {}">{}</p>\n').format(kind, text)


def tag(text: str, kind: str = "") -> Markup:
    """A short label in a frame, e.g. the flag of a cell. ``kind`` is empty or ``warning``."""
    return Markup('<span class="tag {}">{}</span>').format(kind, text)


def fold(summary: str, *parts: str | Markup, printed: bool = False, name: str = "", opened: bool = False) -> Markup:
    """A part that opens on a click; on paper it is left out unless it is open or ``printed``.

    Of the parts with one ``name`` a browser keeps one open: a choice without a script.
    """
    kind = Markup(' class="printed"') if printed else Markup("")
    kind += Markup(' name="{}"').format(name) if name else Markup("")
    kind += Markup(" open") if opened else Markup("")
    return Markup("<details{}><summary>{}</summary>{}</details>\n").format(kind, summary, blocks(parts))


def figure(picture: Markup, caption: str = "") -> Markup:
    """A plot with its caption."""
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    return Markup("<figure>{}{}</figure>\n").format(picture, below)


def facts(pairs: Iterable[tuple[str, str | Markup]]) -> Markup:
    """Named values side by side."""
    cells = Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, value) for name, value in pairs)
    return Markup('<dl class="facts">{}</dl>\n').format(cells)


def number(value: Any, spec: str = ".3f") -> str:
    """``value`` by the format ``spec`` with a true minus sign; an en dash where there is none."""
    if not _is_number(value):
        return ABSENT
    if spec.endswith("d"):
        value = round(float(value))
    text = format(value, spec)
    if not text.strip("+-0.,% "):  # what rounds to zero has no sign
        text = text.lstrip("+-")
    return text.replace("-", MINUS).replace("%", "\N{NO-BREAK SPACE}%")


def interval(value: Any, low: Any, high: Any, spec: str = ".3f") -> str:
    """``value [low, high]``, all by ``spec``; a limit that rounds to zero from below keeps its sign (``−0.000``)."""
    if not _is_number(value):
        return ABSENT
    if not (_is_number(low) and _is_number(high)):
        return f"{number(value, spec)} [no interval]"
    lowest, highest = (_limit(limit, spec) for limit in (low, high))
    return f"{number(value, spec)} [{lowest}, {highest}]"


def _limit(value: float, spec: str) -> str:
    """An interval's limit: which side of zero it is on is what it says."""
    text = number(value, spec)
    return f"{MINUS}{text}" if value < 0 and MINUS not in text else text


@cache
def _template(name: str) -> str:
    return files("cxraug.pages").joinpath("templates", name).read_text(encoding="utf-8")


def _number_class(numeric: bool) -> Markup:
    return Markup(' class="number"') if numeric else Markup("")


def _is_number(value: Any) -> bool:
    if value is None or isinstance(value, (bool, str)):
        return False
    try:
        return math.isfinite(value)
    except TypeError:
        return False


def _is_numeric(column: pd.Series) -> bool:
    """Whether every present value is a number (or sorts as one); an all-missing column is not."""
    present = [v.sort if isinstance(v, Cell) else v for v in column.tolist()]
    present = [v for v in present if not _is_missing(v)]
    return bool(present) and all(_is_number(v) for v in present)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _cell(value: Any, form: Format | None, numeric: bool) -> Markup:
    sort: Any = value
    if isinstance(value, Cell):
        text: str | Markup = value.text
        sort = value.sort
    elif _is_missing(value):
        text, sort = ABSENT, None
    elif callable(form):
        text = form(value)
    elif _is_number(value):
        text = number(value, form or (",d" if float(value).is_integer() else ".3f"))
    else:
        text = value if isinstance(value, Markup) else str(value)
    key = "" if _is_missing(sort) else Markup(sort).striptags() if isinstance(sort, Markup) else str(sort)
    return Markup('<td data-sort="{}"{}>{}</td>').format(key, _number_class(numeric), text)
