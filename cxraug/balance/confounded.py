"""What a finding goes with: of source, view and the groups, the level that stands out most.

What belongs to an image (its view, its source) is counted in images, all else equal: a patient with many images is
likelier to have one that was taken AP, and likelier to have one that shows the finding, so that counts of patients tie
the two where there is nothing. What belongs to a patient (sex, race, age) is counted in patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxraug.balance.association import cramers_v, fisher_p, holm, odds_ratio
from cxraug.balance.tally import Tally, group_rows
from cxraug.evaluation.groups import MISSING

OF_IMAGE, OF_PATIENT = ("source", "view"), ("sex", "age", "race")
VARIES = 0.01  # share of the patients with several images in whom a column of an image takes several values


def of_image(column: str, level: np.ndarray, patient: np.ndarray) -> bool:
    """Whether a column says something of an image, not of a patient.

    Source and view do; sex, race and age do not; any other does if it takes several values in over 1 % of the patients
    with several images. ``level, patient`` : (n,) whole numbers.
    """
    if column in OF_IMAGE or column in OF_PATIENT:
        return column in OF_IMAGE
    if len(level) == 0:
        return False
    several = np.bincount(patient) > 1
    _, first = group_rows(patient.astype(np.int64) * (int(level.max()) + 1) + level)
    changing = np.bincount(patient[first], minlength=len(several)) > 1
    return bool(changing.sum() > VARIES * max(several.sum(), 1))


def associations(
    tallies: Mapping[str, Tally],
    images: Mapping[str, bool],
    findings: Sequence[str],
    adjusted: Mapping[tuple[str, str, str], Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The level of each variable in which each finding stands out most.

    Parameters
    ----------
    tallies : variable -> counts in its levels. images : variable -> whether it belongs to the image (:func:`of_image`).
    adjusted : by finding, variable and level, the rows of :func:`cxraug.balance.confounding.adjusted_odds`.

    Returns
    -------
    Rows ``finding, variable, level, unit`` ("images" or "patients", of which are ``n, positive, prevalence,
    rest_prevalence``), ``odds_ratio, ci_low, ci_high, adjusted_for, inseparable_from, crude, crude_low, crude_high,
    all_else_equal`` (of a patient's variable: the adjusted row), ``cramers_v``, ``p_value`` (Bonferroni within the
    variable: the level was picked) and ``p_adjusted`` (Holm over all rows). A variable of the image has its adjusted
    odds ratio; where patients are too few for that, ``adjusted_for`` is empty and the crude one is told, of images over
    their design effect (Rao & Scott 1992, Biometrics 48, 577-585).
    """
    out: list[dict[str, Any]] = []
    for variable, tally in tallies.items():
        real = [i for i, name in enumerate(tally.names) if MISSING not in name.split("*")]
        for f, finding in enumerate(findings):
            at = [i for i in real if tally.known[i, f] > 0]
            if len(at) < 2 or tally.positive[at, f].sum() == 0 or tally.negative[at, f].sum() == 0:
                continue
            rows = [adjusted.get((finding, variable, tally.names[i])) for i in at]
            part = (_of_images if images[variable] else _of_patients)(tally, at, f, rows)
            if part is not None:
                out.append({"finding": finding, "variable": variable, **part})
    for row, p in zip(out, holm([row["p_value"] for row in out]), strict=True):
        row["p_adjusted"] = float(p)
    return out


def _of_patients(
    tally: Tally, at: list[int], f: int, rows: Sequence[Mapping[str, Any] | None]
) -> dict[str, Any] | None:
    a, n = tally.positive[at, f], tally.known[at, f]
    if a.sum() == n.sum():
        return None
    looks = [fisher_p(int(a[k]), int(n[k]), int(a.sum() - a[k]), int(n.sum() - n[k])) for k in range(len(at))]
    k = _standing_out(looks, a / n)
    row = _counts(tally, at, f, k, "patients", a, n)
    odds = odds_ratio(int(a[k]), int(n[k]), int(a.sum() - a[k]), int(n.sum() - n[k]))
    row |= {"odds_ratio": odds.value, "ci_low": odds.low, "ci_high": odds.high, "adjusted_for": ""}
    same = rows[k]
    row |= {"all_else_equal": dict(same) if same is not None and same["odds_ratio"] is not None else None}
    return {**row, "p_value": _picked(looks)}


def _of_images(tally: Tally, at: list[int], f: int, rows: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    a, n = tally.positive_images[at, f], tally.images[at, f]
    told = [row["p_value"] if row is not None and row["p_value"] is not None else 2.0 for row in rows]
    if min(told) <= 1:
        k = _standing_out(told, [_distance(row) for row in rows] if len(at) > 2 else a / n)
        found = rows[k]
        assert found is not None
        keys = ("odds_ratio", "ci_low", "ci_high", "adjusted_for", "inseparable_from", "crude", "crude_low",
                "crude_high")  # fmt: skip
        row = {**_counts(tally, at, f, k, "images", a, n), **{key: found[key] for key in keys}}
        return {**row, "p_value": min(1.0, found["p_value"] * _looks(len(at)))}
    effect = tally.design_effect[at, f]
    a, n = a / effect, n / effect
    pairs = [(a[k], n[k], a.sum() - a[k], n.sum() - n[k]) for k in range(len(at))]
    looks = [fisher_p(*(_whole(*pair[:2]) + _whole(*pair[2:]))) for pair in pairs]
    k = _standing_out(looks, a / n)
    odds = odds_ratio(*pairs[k])
    row = _counts(tally, at, f, k, "images", tally.positive_images[at, f], tally.images[at, f])
    row |= {"odds_ratio": odds.value, "ci_low": odds.low, "ci_high": odds.high, "adjusted_for": ""}
    row |= {"crude": odds.value, "crude_low": odds.low, "crude_high": odds.high}
    return {**row, "p_value": _picked(looks)}


def _counts(
    tally: Tally, at: list[int], f: int, k: int, unit: str, positive: np.ndarray, known: np.ndarray
) -> dict[str, Any]:
    rest = known.sum() - known[k]
    return {
        "level": tally.names[at[k]], "unit": unit, "n": int(known[k]), "positive": int(positive[k]),
        "prevalence": float(positive[k] / known[k]),
        "rest_prevalence": float((positive.sum() - positive[k]) / rest) if rest else None,
        "inseparable_from": "", "crude": None, "crude_low": None, "crude_high": None, "all_else_equal": None,
        "cramers_v": cramers_v(positive, known),
    }  # fmt: skip


def _distance(row: Mapping[str, Any] | None) -> float:
    """How far the odds ratio is from 1."""
    return abs(float(np.log(row["odds_ratio"]))) if row is not None and row["odds_ratio"] is not None else 0.0


def _standing_out(p_values: Sequence[float], rank: Sequence[float] | np.ndarray) -> int:
    """The place of the smallest p value; of equal ones (two levels mirror each other), the highest ``rank``."""
    return max(range(len(p_values)), key=lambda k: (-p_values[k], rank[k]))


def _whole(positive: float, known: float) -> tuple[int, int]:
    """Whole counts, the share kept as near as may be."""
    total = max(round(known), 1)
    return min(round(positive), total), total


def _looks(levels: int) -> int:
    return 1 if levels == 2 else levels


def _picked(p_values: Sequence[float]) -> float:
    """The smallest of ``p_values``, for as many looks; with two levels there is one."""
    return min(1.0, min(p_values) * _looks(len(p_values)))
