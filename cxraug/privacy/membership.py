"""Was an image among those a core was trained on? Members against non-members, from distances or from a core's loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from cxraug.evaluation.auroc import auroc
from cxraug.evaluation.measured import Patients
from cxraug.evaluation.uncertainty import interval
from cxraug.privacy.nearest import nearest
from cxraug.seeds import derive_seed

FPRS = (0.01, 0.001)
LEAST, FEW = 10, 50  # patients on either side: fewer are suppressed, flagged
TOP_SHARE = 0.05  # of the patients: those with the highest scores, among whom members are counted
RULE = (
    "alarm if the AUC is above 0.5 at half the level (every member a little closer), or if members are too many among "
    f"the {100 * TOP_SHARE:g} % of patients with the highest scores at half the level (a few members very close; exact "
    "hypergeometric test)"
)


def membership(
    score: np.ndarray, member: np.ndarray, patient: np.ndarray, stratum: np.ndarray | None = None,
    *, level: float = 0.05, fprs: Sequence[float] = FPRS, replicates: int = 400, seed: int = 0, alpha: float = 0.05,
    method: str = "",
) -> dict[str, Any]:  # fmt: skip
    """How well ``score`` tells members from non-members, and whether that is an alarm.

    Parameters
    ----------
    score : (n,) higher for "member". member : (n,) bool. patient : (n,) names; no patient is on both sides.
    stratum : (n,) names (a source); scores are compared as ranks within their stratum, and strata that lie on one side
        only are left out, so that a difference between sources is no sign of membership.
    level : chance of a false alarm, shared by the two tests of :data:`RULE`.
    fprs : false-positive rates at which the TPR is asked. With k non-members of different patients none below 1 / k can
        be resolved, and such a row has no value.

    Returns
    -------
    ``rows`` (``measure, value, ci_low, ci_high, n_pairs, n_patients, method, flag``; n_pairs counts images, members
    and non-members), ``alarm`` (None where suppressed), ``p_top``, ``members``, ``non_members`` (patients each),
    ``left_out`` (images of one-sided strata), ``rule``.

    Notes
    -----
    AUC: Obuchowski's clustered variance, logit interval. TPR: threshold is the (floor(f k) + 1)-th highest non-member,
    its variance that of a bootstrap of patients, interval Wilson's with the effective n. Where members and non-members
    are patients drawn from one population, patients are exchangeable under a sound core whatever the score is; so the
    count of members among the patients with the highest (largest image) scores is hypergeometric, exactly.
    """
    score, member, patient = np.asarray(score, float), np.asarray(member, bool), np.asarray(patient)
    keep = np.isfinite(score)
    if stratum is not None:
        names, code = np.unique(np.asarray(stratum), return_inverse=True)
        both = [bool((member & keep & (code == i)).any() and (~member & keep & (code == i)).any())
                for i in range(len(names))]  # fmt: skip
        keep &= np.array(both, bool)[code]
        score = _ranks(score, code, keep)
    left_out = int((~keep).sum())
    score, member, patient = score[keep], member[keep], patient[keep]
    order = np.argsort(patient, kind="stable")
    score, member, patient = score[order], member[order], patient[order]
    starts = np.flatnonzero(np.append(True, patient[1:] != patient[:-1])) if len(patient) else np.zeros(0, int)
    patients = Patients(starts, len(patient))
    side = member[starts] if len(starts) else np.zeros(0, bool)
    inside, outside = int(side.sum()), int((~side).sum())
    about = {"n_pairs": len(score), "n_patients": inside + outside}
    answer: dict[str, Any] = {"members": inside, "non_members": outside, "left_out": left_out, "rule": RULE}
    names_of = ["auc", *(f"tpr at fpr {f:g}" for f in fprs), "top"]
    if min(inside, outside) < LEAST:
        why = f"{inside} patients that are members and {outside} that are not; {LEAST} of each are needed"
        rows = [_row(name, None, None, None, method=why, flag="suppressed", **about) for name in names_of]
        return answer | {"rows": rows, "alarm": None, "p_top": None}
    few = "few" if min(inside, outside) < FEW else ""
    area = auroc(score[None], [np.argsort(score)], member.astype(float), patients)
    low, high = interval(area.value, area.variance, area.df, "logit", alpha)
    p_top, caught, top = top_test(score, member, patients)
    strict, _ = interval(area.value, area.variance, area.df, "logit", level)
    alarm = bool(strict[0] > 0.5 or p_top < level / 2)
    flag = "|".join(part for part in (few, "alarm" if alarm else "") if part)
    counts = f"{inside} members, {outside} non-members (patients)"
    told = f"{method}; {counts}" if method else counts
    rows = [_row("auc", float(area.value[0]), float(low[0]), float(high[0]), method=told, flag=flag, **about)]
    spread = _bootstrap(score, member, patients, side, fprs, replicates, seed)
    for f, variance in zip(fprs, spread, strict=True):
        name = f"tpr at fpr {f:g}"
        if f * outside < 1:
            why = f"not resolved: {outside} patients are no members, and the smallest rate is 1 / {outside}"
            rows.append(_row(name, None, None, None, method=why, flag="unresolved", **about))
            continue
        value = _tpr(score, member, np.ones(len(score)), f)
        df = np.array([min(inside, outside) - 1.0])
        a, b = interval(np.array([value]), np.array([variance]), df, "wilson", alpha)
        rows.append(_row(name, value, float(a[0]), float(b[0]), method=f"{told}; bootstrap", flag=flag, **about))
    expected = top * inside / (inside + outside)
    why = (
        f"members among the {top} patients with the highest scores, {expected:.1f} expected, p = {p_top:.2g}; {counts}"
    )
    rows.append(_row("top", caught / top, None, None, method=why, flag=flag, **about))
    return answer | {"rows": rows, "alarm": alarm, "p_top": p_top}


def top_test(score: np.ndarray, member: np.ndarray, patients: Patients) -> tuple[float, int, int]:
    """One-sided p of the members among the top patients, how many members those are, and how many the top are.

    A patient's score is that of its highest image; ties are broken against members.
    """
    highest = np.maximum.reduceat(score, patients.starts)
    side = member[patients.starts]
    top = max(int(np.ceil(TOP_SHARE * len(highest))), 5)
    order = np.lexsort((side, -highest))
    caught = int(side[order[:top]].sum())
    return float(hypergeom.sf(caught - 1, len(side), int(side.sum()), top)), caught, top


def distance_scores(
    real: np.ndarray, synthetic: np.ndarray, patient: np.ndarray | None = None, *, device: str = "cpu"
) -> np.ndarray:
    """Scores (n,) of real images: minus the log distance to the nearest synthetic image.

    Parameters
    ----------
    real, synthetic : features float32 (n, d) and (m, d). patient : (n,); where it is given the log distance to the
        nearest real image of another patient is added: how far images lie from each other where this one lies. An
        image of a rare kind is far from everything, and without this calibration (the idea of Watson et al. 2022,
        arXiv 2111.08440) its membership would drown.
    """
    real = np.ascontiguousarray(real, np.float32)
    distance, _ = nearest(real, np.ascontiguousarray(synthetic, np.float32), euclidean=True, device=device)
    score = -np.log(np.maximum(distance, 1e-12))
    if patient is not None:
        code = np.unique(patient, return_inverse=True)[1]
        around, _ = nearest(real, real, groups=(code, code), euclidean=True, device=device)
        score = score + np.log(np.maximum(around, 1e-12))
    return score


def _ranks(score: np.ndarray, stratum: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Mid-ranks within strata, in (0, 1)."""
    from scipy.stats import rankdata

    found = np.full(len(score), np.nan)
    for value in np.unique(stratum[keep]):
        rows = np.flatnonzero(keep & (stratum == value))
        found[rows] = (rankdata(score[rows]) - 0.5) / len(rows)
    return found


def _tpr(score: np.ndarray, member: np.ndarray, weight: np.ndarray, f: float) -> float:
    """Weighted share of members above the strictest score that at most a share ``f`` of non-members exceeds."""
    order = np.argsort(-score, kind="stable")
    own, other = (weight * member)[order], (weight * ~member)[order]
    false = np.cumsum(other) / max(other.sum(), 1e-12)
    ends = np.append(np.diff(score[order]) != 0, True)
    allowed = np.flatnonzero(ends & (false <= f + 1e-12))
    return round(float(np.cumsum(own)[allowed[-1]] / max(own.sum(), 1e-12)), 12) if len(allowed) else 0.0


def _bootstrap(
    score: np.ndarray, member: np.ndarray, patients: Patients, side: np.ndarray, fprs: Sequence[float],
    replicates: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """Variance of the TPR at each rate, over bootstraps of members and of non-members, by patient."""
    rng = np.random.default_rng(derive_seed(seed, "membership"))
    found = np.zeros((replicates, len(fprs)))
    sides = [np.flatnonzero(side), np.flatnonzero(~side)]
    for r in range(replicates):
        times = np.zeros(len(patients))
        for rows in sides:
            times[rows] = np.bincount(rng.integers(0, len(rows), len(rows)), minlength=len(rows))
        weight = times[patients.of]
        found[r] = [_tpr(score, member, weight, f) for f in fprs]
    return found.var(axis=0, ddof=1)


def _row(measure: str, value: float | None, low: float | None, high: float | None, **rest: Any) -> dict[str, Any]:
    return {"measure": measure, "value": value, "ci_low": low, "ci_high": high, **rest}
