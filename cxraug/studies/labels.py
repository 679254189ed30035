"""The label grammar ``A|-B|?C`` and the step from label text to a matrix of 1, 0 and unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

NO_FINDING = "No Finding"
DEVICES = frozenset({"Support Devices"})  # seen on an image without being a disease: "No Finding" stays possible
PRESENT, ABSENT, UNCERTAIN = 1, 0, -1

_SIGNS = {"-": ABSENT, "?": UNCERTAIN}
_UNNAMED = 9
_FORMULAS = "=+@"


def parse_labels(text: str) -> dict[str, int]:
    """Read ``A|-B|?C`` as ``{"A": 1, "B": 0, "C": -1}`` (present, absent, uncertain), in the order written.

    Blank text names nothing and gives ``{}``. Space around names is dropped.

    Raises
    ------
    ValueError
        If a name is empty (``A||B``, ``-``), begins with ``=``, ``+`` or ``@`` (a spreadsheet would run it) or is
        there twice.
    """
    labels: dict[str, int] = {}
    if not text.strip():
        return labels
    for part in text.split("|"):
        name = part.strip()
        value = _SIGNS.get(name[:1], PRESENT)
        if value != PRESENT:
            name = name[1:].strip()
        if not name:
            raise ValueError(f"empty finding name in {text!r}")
        if name[0] in _SIGNS:
            raise ValueError(f"two signs before a finding in {text!r}")
        if name[0] in _FORMULAS:
            raise ValueError(f"a spreadsheet would run the finding {name!r}")
        if name in labels:
            raise ValueError(f"finding {name!r} named twice in {text!r}")
        labels[name] = value
    return labels


def format_labels(labels: Mapping[str, int]) -> str:
    """Write labels in the grammar; the inverse of :func:`parse_labels`.

    Raises
    ------
    ValueError
        If a value is not 1, 0 or -1, or a name cannot be written (empty, with ``|``, space around it, or starting with
        ``-``, ``?``, ``=``, ``+`` or ``@``).
    """
    parts = []
    for name, value in labels.items():
        if not name or name != name.strip() or "|" in name or name[0] in _SIGNS or name[0] in _FORMULAS:
            raise ValueError(f"finding name {name!r} cannot be written in the label grammar")
        if value not in (PRESENT, ABSENT, UNCERTAIN):
            raise ValueError(f"label of {name!r} is {value!r}, not 1, 0 or -1")
        parts.append({PRESENT: "", ABSENT: "-", UNCERTAIN: "?"}[int(value)] + name)
    return "|".join(parts)


def contradicts(labels: Mapping[str, int]) -> str | None:
    """The finding that is present although ``No Finding`` is, or None. Devices do not contradict it."""
    if labels.get(NO_FINDING) != PRESENT:
        return None
    return next((f for f, v in labels.items() if v == PRESENT and f != NO_FINDING and f not in DEVICES), None)


def named_findings(labels: pd.Series) -> set[str]:
    """Every finding that ``labels`` names, whatever its sign."""
    names: set[str] = set()
    for text in pd.unique(labels.dropna()):
        names.update(parse_labels(text))
    return names


def label_matrix(
    labels: pd.Series, sources: pd.Series | None, findings: Sequence[str], annotated: Mapping[str, Sequence[str]]
) -> np.ndarray:
    """Turn label text into a matrix of 1 (present), 0 (absent) and NaN (unknown), float32 of shape (n, F).

    Parameters
    ----------
    labels : (n,) label text; missing or blank means that nothing is known about the row.
    sources : (n,) source of each row, or None where there is only one (key ``""`` of ``annotated``).
    findings : (F,) the columns of the result.
    annotated : for each source the findings that it annotates. A source without an entry annotates nothing.

    Notes
    -----
    A named finding has its value; an uncertain one is NaN. An unnamed finding is 0 where the row's source annotates it
    and NaN elsewhere. ``No Finding`` means that every annotated finding is absent, therefore

    - named as present it makes every unnamed annotated finding 0;
    - unnamed it is 0 beside any present finding (devices do not count), 1 where every annotated finding is explicitly
      absent, and NaN otherwise (``?A`` alone, or ``-A`` alone where more is annotated: no reading is safe);
    - named as absent, with nothing said to be present, the unnamed findings are NaN: one of them may be what is there.
    """
    label_codes, texts = pd.factorize(labels, use_na_sentinel=True)
    parsed = [parse_labels(str(text)) for text in texts]
    names = sorted(set(findings).union(*(p.keys() for p in parsed), *annotated.values()))
    column = {name: i for i, name in enumerate(names)}
    named = np.full((len(parsed) + 1, len(names)), _UNNAMED, np.int8)  # the last row stands for missing labels
    for row, entries in enumerate(parsed):
        for name, value in entries.items():
            named[row, column[name]] = value
    if sources is None:
        source_codes, levels = np.zeros(len(labels), int), [""]
    else:
        source_codes, unique_sources = pd.factorize(sources.fillna(""))
        levels = [str(s) for s in unique_sources]
    result = np.full((len(labels), len(findings)), np.nan, np.float32)
    wanted = [column[f] for f in findings]
    for code, source in enumerate(levels):
        known = np.array([name in set(annotated.get(source, ())) for name in names], bool)
        values = _resolve(named, known, names)
        rows = source_codes == code
        result[rows] = values[label_codes[rows]][:, wanted]  # code -1 (missing) is the last row
    return result


def _resolve(named: np.ndarray, known: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Apply the rules of :func:`label_matrix` to each distinct label text of one source: (U, V) named -> float32."""
    values = np.select([named == PRESENT, named == ABSENT], [1.0, 0.0], np.nan).astype(np.float32)
    unnamed = named == _UNNAMED
    silent = unnamed.all(axis=1)
    disease = np.array([name != NO_FINDING and name not in DEVICES for name in names], bool)
    present = (named[:, disease] == PRESENT).any(axis=1)
    fill = unnamed & known & ~silent[:, None]
    if NO_FINDING in names:
        at = list(names).index(NO_FINDING)
        fill[(named[:, at] == ABSENT) & ~present] = False
        fill[:, at] = False
        asked = known & disease
        all_absent = (named[:, asked] == ABSENT).all(axis=1) & bool(asked.any())
        values[unnamed[:, at] & all_absent, at] = 1.0
        values[present, at] = 0.0
    values[fill] = 0.0
    return values
