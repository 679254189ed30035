"""What findings go with beside disease: the group with all else equal, the projection, the source, and shortcuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cxraug.balance.adjustment import (
    COVARIATES,
    MIN_PATIENTS,
    PERSON,
    TOLERANCE,
    Covariates,
    FindingSums,
    OddsRatio,
    Sums,
    covariates,
    crude_odds,
    level_odds,
)
from cxraug.balance.association import holm
from cxraug.balance.shortcut import deal, projection, shortcut
from cxraug.balance.tally import Tally, tally_levels
from cxraug.evaluation.groups import MISSING

MOST_LEVELS = 12  # of a variable; more (a hundred hospitals) are not looked at one by one
SHORTCUTS = (("view",), ("source",), ("view", "source"))


@dataclass(frozen=True)
class Variable:
    """A column to hold findings against: ``level`` (n,) place in ``names`` of each row (-1: missing, left out).

    ``parts`` are the columns it is made of, which are not adjusted for; ``tally`` of its levels.
    """

    name: str
    names: list[str]
    level: np.ndarray
    parts: tuple[str, ...]


def variable_of(name: str, levels: pd.Series | np.ndarray, names: Sequence[str], parts: Sequence[str]) -> Variable:
    """A variable from the levels of each row; levels that miss a part are left out."""
    real = [n for n in names if MISSING not in n.split("*")]
    return Variable(name, real, pd.Categorical(levels, categories=real).codes.astype(np.int64), tuple(parts))


def adjusted_odds(
    variable: Variable,
    frame: pd.DataFrame,
    y: np.ndarray,
    patient: np.ndarray,
    findings: Sequence[str],
    tally: Tally | None = None,
) -> list[dict[str, Any]]:
    """Odds of each finding in each level against all others, crude and with age, sex, view and source the same.

    Parameters
    ----------
    frame : (n) rows with the covariates. y : (n, F). patient : (n,) whole numbers. tally : of the variable's levels,
        where it is at hand.

    Returns
    -------
    A row per finding and level: ``finding, group, level, adjusted_for, inseparable_from, crude, crude_low, crude_high,
    odds_ratio, ci_low, ci_high, p_value, p_adjusted`` (Holm over the findings and levels of this variable; of two
    levels, which mirror each other, one is counted). Numbers are None where a level or the rest has fewer than 10
    patients with, or without, the finding. Where view or source go with the level so closely that the two cannot be
    told apart (they leave under 1 % of its variance), ``inseparable_from`` names them and they are not adjusted for.
    """
    rows = np.flatnonzero(variable.level >= 0)
    names = variable.names
    if len(names) < 2 or len(names) > MOST_LEVELS or not len(rows):
        return []
    y, patient, level = y[rows], patient[rows], variable.level[rows]
    others = covariates(frame[[c for c in COVARIATES if c in frame.columns]].iloc[rows], variable.parts)
    joint, pattern = np.unique(others.of * len(names) + level, return_inverse=True)
    sums, at = Sums.of(y, patient, pattern), joint % len(names)
    design = others.design[joint // len(names)]
    tally = tally_levels(y, patient, level, names) if tally is None else tally.take(names)
    person = others.of_person()
    out: list[dict[str, Any]] = []
    for f, finding in enumerate(findings):
        enough = _enough(tally, f)
        mine = sums.finding(f) if enough.any() else None
        found: dict[int, tuple[OddsRatio, OddsRatio, bool]] = {}
        for k in np.flatnonzero(enough)[: 1 if len(names) == 2 else None]:
            assert mine is not None
            found[int(k)] = (crude_odds(mine, at == k), *_adjusted(mine, at == k, design, person))
        if len(names) == 2 and found:
            crude, adjusted, whole = found[0]
            found[1] = _mirror(crude), _mirror(adjusted), whole
        for k, name in enumerate(names):
            out.append({"finding": finding, "group": variable.name, "level": name, **_row(found.get(k), others)})
    _correct(out, mirrored=len(names) == 2)
    return out


def shortcuts(frame: pd.DataFrame, y: np.ndarray, patient: np.ndarray, findings: Sequence[str]) -> list[dict[str, Any]]:
    """AUROC of each finding told from view, source, or both: rows ``finding, from, auroc, ci_low, ci_high, images``."""
    out = []
    columns = [c for c in ("view", "source") if len(pd.unique(frame[c])) > 1]
    for told_by in SHORTCUTS:
        if any(column not in columns for column in told_by):
            continue
        pattern = pd.factorize(pd.MultiIndex.from_frame(frame[list(told_by)]))[0]
        sums = Sums.of(y, patient, pattern)
        folds = deal(sums)
        for f, finding in enumerate(findings):
            found = shortcut(sums.finding(f), folds)
            if found is not None:
                row = {"finding": finding, "from": " and ".join(told_by), "auroc": found.auroc, "ci_low": found.low}
                row |= {"ci_high": found.high, "images": found.images, "patients_positive": found.patients_positive}
                out.append(row)
    return out


def acquisition(variables: Sequence[Variable], frame: pd.DataFrame, patient: np.ndarray) -> list[dict[str, Any]]:
    """How many of the frontal images of each level are AP, with patient-clustered intervals."""
    taken = projection(frame["view"])
    y = np.select([taken == "AP", taken == "PA"], [1.0, 0.0], np.nan).astype(np.float32)[:, None]
    if not (y == 1).any() or not (y == 0).any():
        return []
    out = []
    for variable in variables:
        rows = variable.level >= 0
        tally = tally_levels(y[rows], patient[rows], variable.level[rows], variable.names)
        for k, name in enumerate(variable.names):
            if tally.images[k, 0]:
                counts = {"images": int(tally.images[k, 0]), "ap": int(tally.positive_images[k, 0])}
                share = {"share": tally.prevalence[k, 0], "ci_low": tally.low[k, 0], "ci_high": tally.high[k, 0]}
                out.append({"group": variable.name, "level": name, **counts, **share})
    return out


def projection_variable(frame: pd.DataFrame) -> Variable:
    """AP and AP Supine against PA; other views are left out."""
    return variable_of("projection", projection(frame["view"]), ["AP", "PA"], ("view",))


def by_cell(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """The rows of :func:`adjusted_odds` by finding, group and level."""
    return {(row["finding"], row["group"], row["level"]): row for row in rows}


def _enough(tally: Tally, f: int) -> np.ndarray:
    """(L,) whether 10 patients are positive, and 10 negative, in each level and outside it."""
    ok = np.ones(len(tally.names), bool)
    for counts in (tally.positive[:, f], tally.negative[:, f]):
        ok &= (counts >= MIN_PATIENTS) & (counts.sum() - counts >= MIN_PATIENTS)
    return ok


def _adjusted(sums: FindingSums, inside: np.ndarray, design: np.ndarray, person: np.ndarray) -> tuple[OddsRatio, bool]:
    """With all columns of ``design``, or those of the ``person`` alone where the others leave nothing to compare."""
    whole = level_odds(sums, inside, design)
    if whole.left >= TOLERANCE or person.all():
        return whole, True
    return level_odds(sums, inside, design[:, person]), False


def _mirror(odds: OddsRatio) -> OddsRatio:
    return replace(odds, log=-odds.log)


def _row(found: tuple[OddsRatio, OddsRatio, bool] | None, others: Covariates) -> dict[str, Any]:
    keys = ("crude", "crude_low", "crude_high", "odds_ratio", "ci_low", "ci_high", "p_value", "p_adjusted")
    empty: dict[str, Any] = {"adjusted_for": ", ".join(others.names) or "nothing", "inseparable_from": ""}
    empty |= dict.fromkeys(keys)
    if found is None:
        return empty
    crude, adjusted, whole = found
    if not whole:
        empty["adjusted_for"] = ", ".join(n for n in others.names if n in PERSON) or "nothing"
        empty["inseparable_from"] = " and ".join(n for n in others.names if n not in PERSON)
    values = [np.exp(crude.log), *crude.limits(), np.exp(adjusted.log), *adjusted.limits(), adjusted.p_value]
    return {**empty, **dict(zip(keys, (float(v) for v in values), strict=False))}


def _correct(rows: list[dict[str, Any]], *, mirrored: bool) -> None:
    looks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["p_value"] is not None:
            looks.setdefault((row["finding"], "" if mirrored else row["level"]), []).append(row)
    for same, p in zip(looks.values(), holm([same[0]["p_value"] for same in looks.values()]), strict=True):
        for row in same:
            row["p_adjusted"] = float(p)
