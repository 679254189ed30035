"""Is the gate fair? Rejection by group level, on real images (the gate's own unfairness) and on synthetic studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special
from scipy.stats import hypergeom

from cxraug.cores.measures.paired import paired_mean
from cxraug.evaluation.comparison import holm
from cxraug.evaluation.groups import MISSING
from cxraug.evaluation.measured import Patients
from cxraug.evaluation.uncertainty import interval

ALPHA = 0.05
FEW = 10  # images or studies of a level: fewer are counted but not tested


def rejection_by_level(
    rejected: np.ndarray,
    levels: Mapping[str, np.ndarray],
    patients: np.ndarray,
    strata: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Rate of rejection of each level of each group, and a test of the level against the rest.

    Parameters
    ----------
    rejected : (n,) bool, one row per image or study. levels : group -> (n,) level of each row.
    patients : (n,) whose rows belong together. strata : (n,) what was asked for; rows are compared within it.

    Returns
    -------
    One row per group and level: ``n, n_patients, rejected, rate, ci_low, ci_high`` (Wilson, clustered by patient),
    ``rest_rate, p_value`` (:func:`level_test`), ``p_adjusted`` (Holm over all rows), ``flag`` (``few``: not tested).
    A group of two levels is tested once: both of its rows have that p value, which counts once in Holm's correction.
    """
    rows: list[dict[str, Any]] = []
    for group, level in levels.items():
        names = sorted(set(level.astype(str)))
        for name in names:
            mine = level == name
            n, n_patients = int(mine.sum()), len(set(patients[mine].astype(str)))
            enough = min(n, (~mine).sum(), n_patients) >= FEW and name != MISSING
            twin = len(names) == 2 and name == names[1] and rows[-1]["group"] == group and not rows[-1]["flag"]
            p = rows[-1]["p_value"] if twin else level_test(rejected, mine, patients, strata) if enough else np.nan
            found = paired_mean(rejected[None, mine].astype(float), patients[mine])
            low, high = interval(found.value, found.variance, found.df, "wilson", ALPHA)
            rows.append(
                {"group": group, "level": name, "n": n, "n_patients": n_patients, "rejected": int(rejected[mine].sum()),
                 "rate": float(rejected[mine].mean()), "ci_low": float(low[0]), "ci_high": float(high[0]),
                 "rest_rate": float(rejected[~mine].mean()) if (~mine).any() else None, "p_value": p,
                 "flag": "" if np.isfinite(p) else "few", "_twin": twin}
            )  # fmt: skip
    own = np.array([np.nan if row["_twin"] else row["p_value"] for row in rows])
    for i, (row, adjusted) in enumerate(zip(rows, holm(own) if len(own) else own, strict=True)):
        row["p_adjusted"] = rows[i - 1]["p_adjusted"] if row.pop("_twin") else float(adjusted)
    return rows


def level_test(rejected: np.ndarray, mine: np.ndarray, patients: np.ndarray, strata: np.ndarray | None = None) -> float:
    """Two-sided p value of "rows of ``mine`` (n,) are rejected as often as others", the larger of two.

    The exact one (Fisher's; within ``strata``, see :func:`exact_test`) holds at small counts but takes rows for
    independent; the clustered one, a score test with ``z = sum U / sqrt(sum U_i^2)`` over the sums ``U_i`` of
    ``(level - mean level)(rejected - mean rejection)`` of each patient i and t with patients - 1 degrees of freedom,
    holds for several rows per patient but not at small counts. It is left out where every patient has one row.
    """
    strata = np.zeros(len(mine), int) if strata is None else np.unique(strata.astype(str), return_inverse=True)[1]
    exact = exact_test(rejected, mine, strata)
    code = np.unique(patients.astype(str), return_inverse=True)[1]
    if code.max(initial=-1) + 1 == len(code):
        return exact
    each = _centred(mine, strata) * _centred(rejected, strata)
    order = np.argsort(code, kind="stable")
    clusters = Patients(np.flatnonzero(np.diff(code[order], prepend=-1)), len(code))
    u = clusters.sum(np.arange(len(code)), each[order])
    n = len(u)
    spread = np.sqrt(np.square(u).sum() * n / max(n - 1, 1))
    clustered = 1.0 if spread <= 0 else float(2 * special.stdtr(n - 1, -abs(u.sum()) / spread))
    return max(exact, clustered)


def exact_test(rejected: np.ndarray, mine: np.ndarray, strata: np.ndarray) -> float:
    """Exact conditional test of independence of two binary variables within ``strata`` (n,) int from 0.

    The number of rejected rows of the level, given the margins of every stratum's table, is a sum of independent
    hypergeometric variables; p is the probability of all sums that are at most as probable as the observed one
    (Cox 1970; with one stratum Fisher's exact test).
    """
    law, least = np.ones(1), 0
    for stratum in range(int(strata.max(initial=-1)) + 1):
        rows = strata == stratum
        n, of_level, bad = int(rows.sum()), int((rows & mine).sum()), int((rows & rejected).sum())
        low, high = max(0, of_level + bad - n), min(of_level, bad)
        law = np.convolve(law, hypergeom.pmf(np.arange(low, high + 1), n, of_level, bad))
        least += low
    observed = law[int((mine & rejected).sum()) - least]
    return float(min(law[law <= observed * (1 + 1e-7)].sum() / law.sum(), 1.0))


def fairness_notes(rows: list[dict[str, Any]], what: str) -> list[str]:
    """One sentence for each level that is rejected more than the rest after Holm's correction."""
    return [
        f"{row['group']} {row['level']} is rejected more: {row['rate']:.1%} [{row['ci_low']:.1%}, {row['ci_high']:.1%}]"
        f" of {row['n']} {what}, and {row['rest_rate']:.1%} of the others (adjusted p {row['p_adjusted']:.2g})"
        for row in rows
        if row["p_adjusted"] < ALPHA and row["rate"] > (row["rest_rate"] or 0)
    ]


def _centred(values: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Minus the mean of the stratum."""
    return values - (np.bincount(strata, values.astype(float)) / np.bincount(strata))[strata]
