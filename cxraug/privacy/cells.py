"""Cells of kept attributes: no combination that is published may have fewer than k real patients behind it.

Attributes that a swap keeps link a stand-in to its patient as well as a face would, if only one patient has them. So
studies whose combination is too rare are coarsened, in a stated order and each no further than it needs, or left out
(k-anonymity by local recoding: Samarati 2001, IEEE TKDE 13:1010; Xu et al. 2006, KDD: 785).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxraug.cores.core import frontal_view
from cxraug.errors import InputError
from cxraug.studies.labels import DEVICES, NO_FINDING, format_labels, parse_labels

PUBLISHED = ("labels", "sex", "race", "age_band", "source", "views")  # a cell is one combination of these
WIDTHS = (10, 20)  # years of an age band, fine and coarse
TOP_AGE = 90  # years; ages from here on are one band, printed as this
UNKNOWN = ""

# Demographics go before findings, which are what a swapped set is trained on; race goes first, since fewest cores know
# it. Every step includes the earlier ones. After a finding is dropped they are tried again from none.
STEPS: tuple[tuple[str, str], ...] = (
    ("nothing", "as it is (ages in bands of 10 years)"),
    ("race", "race blank"),
    ("wide age", "and ages in bands of 20 years"),
    ("age", "and age blank"),
    ("sex", "and sex blank"),
    ("source", "and source blank"),
    ("views", "and one view alone"),
)
LEFT_OUT_CELL = "fewer than k patients share its attributes"


@dataclass(frozen=True)
class Coarsened:
    """What may be published of each study.

    Attributes
    ----------
    published : the columns :data:`PUBLISHED` of the studies that are kept, with the index of ``studies``.
    step : (kept,) which of :data:`STEPS` each needed. dropped : (kept,) findings that became absent, ``A|B``.
    kept : (n,) bool, aligned with ``studies``.
    """

    published: pd.DataFrame
    step: pd.Series
    dropped: pd.Series
    kept: np.ndarray


def coarsen(studies: pd.DataFrame, k: int) -> Coarsened:
    """Coarsen rare combinations until every one has at least ``k`` patients behind it; leave out what cannot be.

    Parameters
    ----------
    studies : one row per study: ``patient``, ``labels`` (label text that names every finding in play), ``sex``,
        ``race``, ``source`` (text, blank: unknown), ``age`` (years or NaN) and ``views`` ("PA|Lateral").
    k : patients, not studies or images.

    Notes
    -----
    All studies start as they are. Those in a combination of fewer than k patients, counted together with what is
    settled already, take the next of :data:`STEPS`; the others are settled. When the steps are used up, the rarest
    finding (by patients in ``studies``) of a label set with more than one becomes absent and the steps begin again; a
    study's only finding is never dropped, since that would make a sick patient healthy. What is still open at the end
    is left out. The result depends on the set of studies alone, never on their order.
    """
    if k < 1:
        raise InputError("bad k", found=k, expected="at least 1")
    patient = pd.factorize(studies["patient"])[0]
    patients = _patients_of_findings(studies)
    sets = [_dropping(labels, patients) for labels in studies["labels"]]
    most = max((len(options) for options in sets), default=1)
    fine, coarse = (age_bands(studies["age"], width) for width in WIDTHS)
    base = {
        name: studies[name].fillna(UNKNOWN).astype(str).to_numpy(dtype=object) for name in ("sex", "race", "source")
    }
    views = studies["views"].astype(str).to_numpy(dtype=object)
    one = np.array([frontal_first(text) for text in views], dtype=object)
    n = len(studies)
    blank = np.full(n, UNKNOWN, dtype=object)
    result = {name: np.full(n, None, dtype=object) for name in PUBLISHED}
    taken, gone = np.full(n, "", dtype=object), np.full(n, "", dtype=object)
    kept = np.zeros(n, bool)
    for drops in range(most):
        labels = np.array([options[min(drops, len(options) - 1)][0] for options in sets], dtype=object)
        lost = np.array([options[min(drops, len(options) - 1)][1] for options in sets], dtype=object)
        able = np.array([drops < len(options) for options in sets], bool)
        for step in range(len(STEPS)):
            now = {
                "labels": labels,
                "race": base["race"] if step < 1 else blank,
                "age_band": fine if step < 2 else coarse if step < 3 else blank,
                "sex": base["sex"] if step < 4 else blank,
                "source": base["source"] if step < 5 else blank,
                "views": views if step < 6 else one,
            }
            trying = ~kept & able
            if not trying.any():
                break
            both = {name: np.where(kept, result[name], now[name]) for name in PUBLISHED}
            settled = _reaches_k(both, patient, kept | trying, k) & trying
            for name in PUBLISHED:
                result[name][settled] = now[name][settled]
            taken[settled], gone[settled] = STEPS[step][0], lost[settled]
            kept |= settled
    index = studies.index[kept]
    frame = pd.DataFrame({name: result[name][kept] for name in PUBLISHED}, index=index, dtype="str")
    return Coarsened(frame, pd.Series(taken[kept], index, dtype="str"), pd.Series(gone[kept], index, dtype="str"), kept)


def smallest_cell(published: pd.DataFrame, patients: Sequence[object] | pd.Series) -> int:
    """The fewest distinct ``patients`` behind any combination of the columns of ``published``; 0 without rows."""
    counts = cell_patients(published, patients)
    return int(counts.min()) if len(counts) else 0


def cell_patients(published: pd.DataFrame, patients: Sequence[object] | pd.Series | np.ndarray) -> np.ndarray:
    """For each row the number (n,) of distinct ``patients`` who share its combination of the columns."""
    if not len(published):
        return np.zeros(0, int)
    text = published.astype("str").fillna(UNKNOWN)
    cell = text.groupby(list(text.columns), sort=False).ngroup().to_numpy()
    patient = pd.factorize(np.asarray(patients, dtype=object))[0]
    pairs = np.unique(np.stack([cell, patient]), axis=1)
    return np.bincount(pairs[0], minlength=cell.max() + 1)[cell]


def age_bands(age: pd.Series, width: int) -> np.ndarray:
    """(n,) names of bands of ``width`` years (``20-29``), top-coded ``90+`` (``80+`` for wide ones), or blank."""
    years = age.to_numpy(dtype=float)
    top = TOP_AGE - TOP_AGE % width
    names = np.full(len(years), UNKNOWN, dtype=object)
    for row in np.flatnonzero(np.isfinite(years)):
        low = min(int(years[row] // width) * width, top)
        names[row] = f"{low}+" if low == top else f"{low}-{low + width - 1}"
    return names


def band_age(band: str) -> float:
    """The age in years that is published for a band: its middle, 90 for ``90+``, NaN for blank.

    Never an exact age, and none drawn at random within the band either: then every age would look exact, and nobody
    could count from the published file that k holds.
    """
    if band == UNKNOWN:
        return float("nan")
    if band.endswith("+"):
        low = int(band[:-1])
        return float(low if low >= TOP_AGE else (low + TOP_AGE) / 2)
    low, high = (int(part) for part in band.split("-"))
    return (low + high + 1) / 2


def frontal_first(views: str) -> str:
    """One of ``views``: the first frontal one, else the first."""
    names = views.split("|")
    first = frontal_view(names)
    return first if first in names else names[0]


def losses(studies: pd.DataFrame, coarsened: Coarsened, k: int) -> dict[str, object]:
    """What coarsening cost, in counts that may be published: below ``k`` they are given as ``<k``."""
    steps = {name: shown(int((coarsened.step == name).sum()), k) for name, _ in STEPS}
    dropped = [name for text in coarsened.dropped for name in text.split("|") if name]
    return {
        "studies": len(studies),
        "kept": int(coarsened.kept.sum()),
        "left_out": shown(int((~coarsened.kept).sum()), k),
        "steps": steps,
        "findings_made_absent": {name: shown(dropped.count(name), k) for name in sorted(set(dropped))},
    }


def shown(count: int, k: int) -> int | str:
    return count if count == 0 or count >= k else f"<{k}"


def _reaches_k(columns: Mapping[str, np.ndarray], patient: np.ndarray, counted: np.ndarray, k: int) -> np.ndarray:
    """Which of the ``counted`` rows share their combination with at least ``k`` patients among them."""
    rows = np.flatnonzero(counted)
    frame = pd.DataFrame({name: values[rows] for name, values in columns.items()})
    enough = np.zeros(len(counted), bool)
    enough[rows] = cell_patients(frame, patient[rows]) >= k
    return enough


def _patients_of_findings(studies: pd.DataFrame) -> Counter[str]:
    """How many patients have each finding."""
    pairs = {
        (name, patient)
        for labels, patient in zip(studies["labels"], studies["patient"], strict=True)
        for name, value in parse_labels(labels).items()
        if value == 1
    }
    return Counter(name for name, _ in pairs)


def _dropping(labels: str, patients: Mapping[str, int]) -> list[tuple[str, str]]:
    """``labels`` with no, one, two, ... of its rarest findings absent, and which those are.

    The last disease is never dropped; a device may always be.
    """
    named = parse_labels(labels)
    present = sorted((f for f, v in named.items() if v == 1 and f != NO_FINDING), key=lambda f: (patients[f], f))
    diseases = [f for f in present if f not in DEVICES]
    options, gone = [(labels, "")], []
    for name in present:
        if diseases and name == diseases[-1]:
            continue
        named[name] = 0
        gone.append(name)
        options.append((format_labels(named), "|".join(gone)))
    return options
