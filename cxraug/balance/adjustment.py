"""How a finding goes with a group when age, sex, view and source are the same: logistic regression, patients clustered.

Rows that share group level and covariates are one pattern, and there are some hundred patterns however many images. The
regression runs on patterns; only its variance goes back to patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from cxraug.balance.tally import group_rows, summing
from cxraug.evaluation.measured import variance_df
from cxraug.evaluation.uncertainty import Estimate

COVARIATES = ("age", "sex", "view", "source")
PERSON = ("age", "sex")  # of these; the others are of the image
KNOTS = (0.05, 0.35, 0.65, 0.95)  # quantiles of the age at which the spline bends (Harrell 2015, section 2.4.6)
RARE_LEVEL = 0.01  # share of the images under which levels of a covariate are put together
MIN_PATIENTS = 10  # positive, and negative, in the level and outside it, below which nothing is estimated
RIDGE = 1e-6  # precision of a covariate's coefficient before the data: keeps one that separates perfectly finite
TOLERANCE = 0.01  # of a level's variance that the covariates must leave; less, and the two cannot be told apart
STEPS, CLOSE = 50, 1e-9
Z_FAR = 15.0  # of a logit


@dataclass(frozen=True)
class Covariates:
    """What is adjusted for.

    Attributes
    ----------
    of : (n,) pattern of each row. design : (K, c) its columns, the first of them 1. names : the variables in it.
    columns : (c,) the variable of each column, the first of them "".
    """

    of: np.ndarray
    design: np.ndarray
    names: tuple[str, ...]
    columns: tuple[str, ...]

    def of_person(self) -> np.ndarray:
        """(c,) bool: the columns that say nothing of how an image was taken."""
        return np.array([name in ("", *PERSON) for name in self.columns], bool)


@dataclass(frozen=True)
class Sums:
    """Images per patient and pattern (U of them): known (F, U) and positive (F, U).

    ``pattern`` (U,) and ``owner`` (U,), its patient's number, of each; ``patterns`` how many patterns there are.
    """

    seen: np.ndarray
    hits: np.ndarray
    pattern: np.ndarray
    owner: np.ndarray
    patterns: int

    @classmethod
    def of(cls, y: np.ndarray, patient: np.ndarray, pattern: np.ndarray) -> Sums:
        """Sums of rows: ``y`` (n, F) 1, 0 or NaN; ``patient``, ``pattern`` (n,)."""
        patterns = int(pattern.max(initial=0)) + 1
        number, first = group_rows(patient.astype(np.int64) * patterns + pattern)
        rows = summing(number, len(first))
        seen, hits = (np.ascontiguousarray((rows @ part.astype(np.float32)).T) for part in (~np.isnan(y), y == 1))
        owner = np.cumsum(np.diff(patient[first], prepend=patient[first][:1]) != 0)
        return cls(seen, hits, pattern[first], owner, patterns)

    def finding(self, f: int) -> FindingSums:
        """The sums of one finding."""
        seen, hits = self.seen[f], self.hits[f]
        images, found = (np.bincount(self.pattern, part, self.patterns) for part in (seen, hits))
        counts = (int(np.count_nonzero(np.bincount(self.owner, part))) for part in (seen, hits, seen - hits))
        return FindingSums(self, seen, hits, images, found, *counts)


@dataclass(frozen=True)
class FindingSums:
    """One finding: ``seen, hits`` (U,), ``images, found`` (K,) per pattern, patients with it known, present, absent."""

    sums: Sums
    seen: np.ndarray
    hits: np.ndarray
    images: np.ndarray
    found: np.ndarray
    known: int
    positive: int
    negative: int

    def per_patient(self, values: np.ndarray) -> np.ndarray:
        """Sums (P,) of ``values`` (U,)."""
        return np.bincount(self.sums.owner, values)


@dataclass(frozen=True)
class OddsRatio:
    """A log odds ratio with its patient-clustered variance and degrees of freedom; patients that it rests on.

    ``left``: share of the level's variance that the covariates do not explain.
    """

    log: float
    variance: float
    df: float
    patients: int
    left: float = 1.0

    @property
    def p_value(self) -> float:
        """Two-sided t test of no association."""
        return Estimate(self.log, self.variance, self.df, self.variance, np.zeros(0), 1, 1).p_value

    def limits(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the odds ratio."""
        half = special.stdtrit(self.df, (1 + level) / 2) * np.sqrt(self.variance)
        return float(np.exp(self.log - half)), float(np.exp(self.log + half))


def covariates(frame: pd.DataFrame, without: Sequence[str] = ()) -> Covariates:
    """The patterns of age, sex, view and source in ``frame``, but for the columns ``without``.

    Age enters as a natural cubic spline of whole years with four knots and an indicator of missing ages; the others
    by an indicator per level. Missing is a level; levels with under 1 % of the images are put together. A variable
    with one level drops out.
    """
    n = len(frame)
    of, blocks, names = np.zeros(n, np.int64), [np.ones((1, 1))], []
    index = np.zeros((1, 0), np.int64)
    for column in COVARIATES:
        if column in without or column not in frame.columns:
            continue
        code, block = _spline(frame[column]) if column == "age" else _indicators(frame[column])
        if block.shape[1] == 0:
            continue
        names.append(column)
        blocks.append(block)
        joint = of * len(block) + code
        values, of = np.unique(joint, return_inverse=True)
        index = np.concatenate([index[values // len(block)], (values % len(block))[:, None]], axis=1)
    columns = [block[index[:, i]] for i, block in enumerate(blocks[1:])]
    design = np.concatenate([np.ones((len(index), 1)), *columns], axis=1)
    column_names = [name for name, block in zip(names, blocks[1:], strict=True) for _ in range(block.shape[1])]
    return Covariates(of, design, tuple(names), ("", *column_names))


def crude_odds(sums: FindingSums, inside: np.ndarray) -> OddsRatio:
    """Odds of a finding in a level against those outside it; arguments and variance as of :func:`level_odds`."""
    slope, expected, log = np.zeros(len(inside)), np.zeros(len(inside)), 0.0
    for part, sign in ((inside, 1.0), (~inside, -1.0)):
        images, found = sums.images[part].sum(), sums.found[part].sum()
        share = np.clip(found / max(images, 1), 1e-12, 1 - 1e-12)
        log += sign * float(special.logit(share))
        slope[part], expected[part] = sign / (max(images, 1) * share * (1 - share)), share
    return _clustered(sums, log, slope, expected)


def level_odds(sums: FindingSums, inside: np.ndarray, design: np.ndarray) -> OddsRatio:
    """Odds of a finding in a level against those outside it, by logistic regression on ``design``.

    Parameters
    ----------
    sums : of the rows that are in the level or outside it. inside : (K,) bool, patterns of the level.
    design : (K, c) of the patterns; its first column is 1.

    Notes
    -----
    Maximum likelihood by Newton steps. Influence of patient i on the log odds ratio: the row of the inverse information
    times the sum of the scores of i's images; its sum of squares, times G / (G - 1) for G patients, is the sandwich
    variance with patients as clusters (Liang & Zeger 1986, Biometrika 73, 13-22).
    """
    used = sums.images > 0
    x = np.column_stack([design[used], inside[used].astype(float)])
    x = x[:, [j for j in range(x.shape[1]) if j in (0, x.shape[1] - 1) or np.ptp(x[:, j]) > 0]]
    p, information, beta = _fit(x, sums.images[used], sums.found[used])
    slope, expected = np.zeros(len(design)), np.zeros(len(design))
    inverse = np.linalg.solve(information, np.eye(x.shape[1])[-1])
    slope[used] = x @ inverse
    expected[used] = p
    spread = information[-1, -1] - information[0, -1] ** 2 / information[0, 0]
    left = 1 / max(inverse[-1] * spread, 1e-300)
    return _clustered(sums, float(beta[-1]), slope, expected, float(left))


def _clustered(sums: FindingSums, log: float, slope: np.ndarray, expected: np.ndarray, left: float = 1.0) -> OddsRatio:
    """An odds ratio that moves by ``slope`` (K,) for every finding beyond the ``expected`` share (K,)."""
    pattern = sums.sums.pattern
    psi = sums.per_patient(sums.hits * slope[pattern] - sums.seen * (expected * slope)[pattern])
    psi *= np.sqrt(sums.known / max(sums.known - 1, 1))
    df = variance_df(psi[None], np.array([sums.known]))[0]
    return OddsRatio(log, float(psi @ psi), float(df), sums.known, left)


def _fit(x: np.ndarray, images: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (K,), information (c, c) and coefficients (c,) at the maximum of the likelihood."""
    ridge = np.full(x.shape[1], RIDGE)
    ridge[[0, -1]] = 0.0
    beta = np.zeros(x.shape[1])
    share = (found.sum() + 0.5) / (images.sum() + 1)
    beta[0] = special.logit(share)
    likelihood = -np.inf
    step = np.zeros_like(beta)
    for _ in range(STEPS):
        logit = np.clip(x @ beta, -Z_FAR * 2, Z_FAR * 2)
        now = float(found @ logit - images @ np.logaddexp(0, logit) - 0.5 * ridge @ beta**2)
        if now < likelihood - 1e-7 * abs(likelihood):  # too far: half the step back
            step /= 2
            beta = beta - step
            continue
        p = special.expit(logit)
        information = (x.T * (images * p * (1 - p))) @ x + np.diag(ridge)
        if abs(now - likelihood) < CLOSE * (1 + abs(now)):
            break
        likelihood = now
        step = np.linalg.lstsq(information, x.T @ (found - images * p) - ridge * beta, rcond=None)[0]
        beta = beta + step
    return p, information + 1e-12 * np.eye(len(beta)), beta


def _indicators(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Code (n,) of each row and indicators (L, L - 1) of the levels; the first level is the most frequent."""
    text = values.astype("str").where(values.notna(), "").to_numpy(dtype=object)
    code, names = pd.factorize(text)
    counts = np.bincount(code, minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    kept = [int(i) for i in order if counts[i] >= RARE_LEVEL * len(text)]
    place = np.full(len(names), len(kept))
    place[kept] = np.arange(len(kept))
    levels = len(kept) + (len(kept) < len(names))
    return place[code], np.eye(levels)[:, 1:]


def _spline(ages: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Code (n,) of each row's age in whole years and the columns (A, c) of the ages; unknown ages are their own."""
    years = np.floor(ages.to_numpy(dtype=float))
    known = np.isfinite(years)
    if not known.any():
        return np.zeros(len(years), np.int64), np.zeros((1, 0))
    values, code = np.unique(years[known], return_inverse=True)
    of = np.full(len(years), len(values), np.int64)
    of[known] = code
    knots = np.unique(np.quantile(years[known], KNOTS))
    columns = [values] if len(values) > 1 else []
    if len(knots) >= 3:
        last, before = knots[-1], knots[-2]

        def cube(knot: float) -> np.ndarray:
            return np.maximum(values - knot, 0) ** 3

        for knot in knots[:-2]:
            bend = cube(knot) - cube(before) * (last - knot) / (last - before)
            columns.append(bend + cube(last) * (before - knot) / (last - before))
    block = (
        np.stack([(c - c.mean()) / max(c.std(), 1e-9) for c in columns], axis=1)
        if columns
        else np.zeros((len(values), 0))
    )
    if known.all():
        return of, block
    block = np.concatenate([block, np.zeros((1, block.shape[1]))])
    return of, np.column_stack([block, np.arange(len(block)) == len(values)])
