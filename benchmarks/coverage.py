"""Do the printed intervals hold what they promise? Simulated patients, known truth, everything read off the tables.

    python benchmarks/coverage.py --replicates 1000 --jobs 2 --out benchmarks/COVERAGE.md

Every replicate draws patients, runs ``evaluate`` on their predictions and looks whether the limits in its tables hold
the true value. Patients have 3.4 images on average (geometric); labels and scores are latent normals that
correlate 0.4 between the images of a patient. Scores are normal given label, group and view, so every truth is a
closed form or an integral in one dimension (:func:`truths`). Results do not depend on ``--jobs``.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats
from scipy.interpolate import CubicSpline

from cxraug.evaluation.ece import BINS
from cxraug.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate
from cxraug.evaluation.measured import Array, Patients
from cxraug.evaluation.predictions import Predictions, Scored
from cxraug.evaluation.uncertainty import mixed_df

RHO = 0.4
IMAGES = 3.4
THRESHOLD = 1.0  # of the score
SEPARATION = 1.5
BLOCK = 25  # replicates that share one random stream
BAND = (0.93, 0.97)  # of the coverage of a 95 % interval
FAMILY_BAND = (0.04, 0.065)  # of the family-wise error at 5 %
CELL_METRICS = ("auroc", "auprc", "tpr", "fpr", "fnr", "ppv", "npv", "f1", "brier", "ece")
RAW = ("auroc", "tpr", "fpr", "ece")
AT_PREVALENCE = ("auprc", "ppv", "npv", "f1", "brier")


class Seen(NamedTuple):
    """What one replicate says of one quantity: whether its interval held (NaN: suppressed), and the row's flag."""

    name: str
    hit: float
    flag: str = ""
    value: float = np.nan


Replicate = Callable[[np.random.Generator], list[Seen]]


# -- the world ---------------------------------------------------------------------------------------------------------


def patients_of(n_patients: int, rng: np.random.Generator) -> Array:
    """Patient number of every image (n,), rising."""
    return np.repeat(np.arange(n_patients), rng.geometric(1 / IMAGES, n_patients))


def latent(patient_of: Array, rng: np.random.Generator, rho: float = RHO) -> Array:
    """Standard normal per image, correlated ``rho`` within a patient."""
    by_patient = rng.standard_normal(patient_of[-1] + 1)[patient_of]
    return np.sqrt(rho) * by_patient + np.sqrt(1 - rho) * rng.standard_normal(len(patient_of))


def labels(patient_of: Array, prevalence: Array | float, rng: np.random.Generator, rho: float = RHO) -> Array:
    """0 or 1 per image; ``prevalence`` a number or one per image."""
    return (latent(patient_of, rng, rho) > stats.norm.isf(prevalence)).astype(float)


def posterior_line(prevalence: float, separation: float = SEPARATION) -> tuple[float, float]:
    """Intercept and slope that make ``expit(intercept + slope score)`` the probability of the label: calibrated."""
    return float(special.logit(prevalence) - separation**2 / 2), separation


def predictions_of(patient_of: Array, y: Array, p: Array, runs: Any = None, **columns: Array) -> Predictions:
    """What ``read_predictions`` makes of the tables of R runs: finding ``A``, probabilities ``p`` (R, n), no validation
    (built without the tables, which take longer to read than to evaluate). Default runs: R arms."""
    runs = [{"arm": str(k), "seed": "0", "draw": "0", "file": 0} for k in range(len(p))] if runs is None else runs
    nothing = Scored(np.empty((1, 0)), np.empty((1, 0)), pd.DataFrame())
    return Predictions(
        table=pd.DataFrame({"image": np.arange(len(y)), "patient_id": patient_of, **columns}),
        findings=("A",),
        y=y[None],
        p=p[:, None],
        runs=pd.DataFrame(runs),
        validation=(nothing,) * len(p),
        patients=Patients(np.flatnonzero(np.diff(patient_of, prepend=-1)), len(y)),
        sources=({},),
    )


def probability(score: Array, line: Any) -> Array:
    """``expit`` of the ``line`` (intercept, slope) through the score."""
    return special.expit(line[0] + line[1] * score)


def audit(predictions: Predictions, line: tuple[float, float], **settings: Any) -> Evaluation:
    """``evaluate`` at the fixed threshold, probabilities as given."""
    thresholds = pd.DataFrame({"finding": predictions.findings, "threshold": probability(np.array(THRESHOLD), line)})
    chosen: dict[str, Any] = {"bootstrap": 0, "matched": ()} | settings
    return evaluate(predictions, EvaluationSettings(**chosen), thresholds, recalibration="none")


# -- the truth ---------------------------------------------------------------------------------------------------------


def truths(positive: Array, negative: Array, prevalence: float, line: tuple[float, float]) -> dict[str, float]:
    """Every metric of scores that are mixtures of unit normals.

    Parameters
    ----------
    positive, negative : (K, 2), share and mean of each normal. line : see :func:`probability`.
    """
    positive, negative = (np.array(part, dtype=float).reshape(-1, 2) for part in (positive, negative))
    for part in (positive, negative):
        part[:, 0] /= part[:, 0].sum()
    (w1, m1), (w0, m0) = positive.T, negative.T
    auroc = float(w1 @ stats.norm.cdf((m1[:, None] - m0) / np.sqrt(2)) @ w0)
    tpr, fpr = (float(w @ stats.norm.sf(THRESHOLD - m)) for w, m in ((w1, m1), (w0, m0)))
    t = np.linspace(-9, 14, 23001)
    step = t[1] - t[0]
    density1, density0 = (w @ stats.norm.pdf(t - m[:, None]) for w, m in ((w1, m1), (w0, m0)))
    tail1, tail0 = (w @ stats.norm.sf(t - m[:, None]) for w, m in ((w1, m1), (w0, m0)))
    called = prevalence * tail1 + (1 - prevalence) * tail0
    auprc = float(step * density1 @ (prevalence * tail1 / called))
    p = probability(t, line)
    mass1, mass0 = step * prevalence * density1, step * (1 - prevalence) * density0
    bins = np.minimum((BINS * np.cumsum(mass1 + mass0)).astype(int), BINS - 1)
    miss, size = np.bincount(bins, mass1 * (1 - p) - mass0 * p), np.bincount(bins, mass1 + mass0)
    true, false = prevalence * tpr, (1 - prevalence) * fpr
    return {
        "auroc": auroc, "auprc": auprc, "tpr": tpr, "fpr": fpr, "fnr": 1 - tpr, "ppv": true / (true + false),
        "npv": (1 - prevalence - false) / (1 - true - false), "f1": 2 * true / (prevalence + true + false),
        "brier": float(mass1 @ (1 - p) ** 2 + mass0 @ p**2), "ece": float(np.sqrt(np.sum(miss**2 / size))),
    }  # fmt: skip


@cache
def plain_truths(prevalence: float, line: tuple[float, float]) -> dict[str, float]:
    """One normal per class, ``SEPARATION`` apart."""
    return truths(np.array([1, SEPARATION]), np.array([1, 0]), prevalence, line)


# -- one classifier ----------------------------------------------------------------------------------------------------


def row_seen(name: str, row: Any, value: str, truth: float) -> Seen:
    """Whether the limits of a printed row hold ``truth``."""
    hit = np.nan if row.flag == "suppressed" else float(row.ci_low <= truth <= row.ci_high)
    return Seen(name, hit, row.flag, getattr(row, value))


def rows_of(frame: pd.DataFrame, **where: str) -> dict[Any, Any]:
    """Rows over all runs that hold these values, by metric."""
    keep = np.logical_and.reduce([frame[key].to_numpy() == wanted for key, wanted in {"seed": "all", **where}.items()])
    return {row.metric: row for row in frame[keep].itertuples(index=False)}


def one_classifier(
    rng: np.random.Generator, positives: int, prevalence: float, label_rho: float = RHO, by_image: bool = False
) -> list[Seen]:
    """All metrics on the whole set, and gaps between two halves of the patients (none in truth).

    ``by_image``: what comes out if every image is (wrongly) called a patient of its own.
    """
    patient_of = patients_of(round(positives / IMAGES / prevalence), rng)
    y = labels(patient_of, prevalence, rng, label_rho)
    score = SEPARATION * y + latent(patient_of, rng)
    half = rng.integers(0, 2, patient_of[-1] + 1)[patient_of]
    line = posterior_line(prevalence)
    units = np.arange(len(y)) if by_image else patient_of
    found = audit(
        predictions_of(units, y, probability(score, line)[None], half=half), line,
        groups=("half",), metrics=CELL_METRICS, matched=("prevalence",), bootstrap=200,
    )  # fmt: skip
    truth = plain_truths(prevalence, line)
    cells = rows_of(found.cells, group="all")
    seen = [row_seen(name, cells[name], "value", truth[name]) for name in CELL_METRICS]
    for matched, names in (("", RAW), ("prevalence", AT_PREVALENCE)):
        gaps = rows_of(found.gaps, level="0", matched=matched)
        label = "gap of {}" + (", matched prevalence" if matched else "")
        seen += [row_seen(label.format(name), gaps[name], "gap", 0.0) for name in names]
    counts = (len(y), len(np.unique(patient_of)), y.sum(), len(np.unique(patient_of[y == 1])))
    names = ("images", "patients", "positives", "positive patients")
    return [*seen, *(Seen(name, np.nan, value=float(n)) for name, n in zip(names, counts, strict=True))]


OVERCONFIDENT = (-0.5, 1.5)  # intercept and slope on the logit of a calibrated probability


def calibration(rng: np.random.Generator, positives: int, prevalence: float) -> list[Seen]:
    """Half of the patients get calibrated probabilities, the other half overconfident ones."""
    patient_of = patients_of(round(positives / IMAGES / prevalence), rng)
    y = labels(patient_of, prevalence, rng)
    score = SEPARATION * y + latent(patient_of, rng)
    half = rng.integers(0, 2, patient_of[-1] + 1)[patient_of]
    intercept, slope = posterior_line(prevalence)
    wrong = (OVERCONFIDENT[0] + OVERCONFIDENT[1] * intercept, OVERCONFIDENT[1] * slope)
    line = np.where(half, *np.array([wrong, (intercept, slope)])[:, :, None])
    metrics = ("brier", "ece", "calibration_slope")
    found = audit(
        predictions_of(patient_of, y, probability(score, line)[None], half=half), (intercept, slope),
        groups=("half",), metrics=metrics, matched=("prevalence",),
    )  # fmt: skip
    truth = [
        plain_truths(prevalence, (intercept, slope)) | {"calibration_slope": 1.0},
        plain_truths(prevalence, wrong) | {"calibration_slope": 1 / OVERCONFIDENT[1]},
    ]
    seen = []
    for level, name in enumerate(("calibrated", "overconfident")):
        cells = rows_of(found.cells, group="half", level=str(level))
        seen += [row_seen(f"{metric}, {name}", cells[metric], "value", truth[level][metric]) for metric in metrics]
    for metric, matched in (("ece", ""), ("brier", "prevalence")):
        gap = rows_of(found.gaps, level="1", matched=matched)[metric]
        label = f"gap of {metric}" + (", matched prevalence" if matched else "")
        seen.append(row_seen(label, gap, "gap", truth[1][metric] - truth[0][metric]))
    return seen


# -- matched gaps ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CaseMix:
    """Men and women (as many of either) in two views, PA and AP.

    ``portable`` : share of AP images, of men and of women. ``prevalence``, ``separation`` (of the classes) and
    ``shift`` (of both): ((men PA, men AP), (women PA, women AP)).
    """

    portable: tuple[float, float]
    prevalence: tuple[tuple[float, float], tuple[float, float]]
    separation: tuple[tuple[float, float], tuple[float, float]]
    shift: tuple[tuple[float, float], tuple[float, float]]

    @property
    def views(self) -> Array:
        """Share of each view (columns) in each group (rows)."""
        portable = np.array(self.portable)
        return np.stack([1 - portable, portable], axis=1)

    @property
    def overall(self) -> float:
        """Prevalence of the whole set."""
        return float((self.views * self.prevalence).sum() / 2)

    def simulate(self, n_patients: int, rng: np.random.Generator) -> Predictions:
        """Predictions with ``sex`` and ``view``."""
        patient_of = patients_of(n_patients, rng)
        woman = rng.integers(0, 2, n_patients)[patient_of]
        portable = (rng.random(len(patient_of)) < np.array(self.portable)[woman]).astype(int)
        prevalence, separation, shift = (
            np.array(part)[woman, portable] for part in (self.prevalence, self.separation, self.shift)
        )
        y = labels(patient_of, prevalence, rng)
        score = shift + separation * y + latent(patient_of, rng)
        columns = {"sex": np.where(woman, "F", "M"), "view": np.where(portable, "AP", "PA")}
        return predictions_of(patient_of, y, probability(score, posterior_line(self.overall))[None], **columns)

    def gaps(self, matched: str) -> dict[str, float]:
        """True gaps, women minus men: raw, or at the product of the shares over their sum (overlap weights)."""
        views, prevalence = self.views, np.array(self.prevalence)
        if matched == "population":
            common = views.prod(axis=0) / views.sum(axis=0)
            views = np.stack([common / common.sum()] * 2)
        present, absent = views * prevalence, views * (1 - prevalence)
        share = present.sum(axis=1)
        if matched == "prevalence":
            left = [part.prod() / part.sum() for part in (share, 1 - share)]
            share = np.full(2, left[0] / sum(left))
        found = []
        for group in range(2):
            mean = np.array(self.shift[group])
            positive = np.stack([present[group], mean + self.separation[group]], axis=1)
            negative = np.stack([absent[group], mean], axis=1)
            found.append(truths(positive, negative, float(share[group]), posterior_line(self.overall)))
        return {name: found[1][name] - found[0][name] for name in CELL_METRICS}


SAME = ((2.0, 0.6), (2.0, 0.6)), ((0.0, 0.7), (0.0, 0.7))
CASE_MIXES = {
    "women have more AP images, which are harder": CaseMix((0.2, 0.8), ((0.15, 0.15), (0.15, 0.15)), *SAME),
    "women have less disease": CaseMix((0.5, 0.5), ((0.25, 0.25), (0.08, 0.08)), ((1.5, 1.5),) * 2, ((0.0, 0.0),) * 2),
    "both, and the classifier is worse for women": CaseMix(
        (0.2, 0.8), ((0.15, 0.25), (0.10, 0.20)), ((2.0, 1.5), (1.5, 1.0)), ((0.0, 0.7), (0.0, 0.9))
    ),
}
MATCHED = {"population": ("auroc", "tpr", "fpr"), "prevalence": AT_PREVALENCE}


@cache
def case_mix_gaps(world: str, matched: str) -> dict[str, float]:
    """:meth:`CaseMix.gaps` of a named world."""
    return CASE_MIXES[world].gaps(matched)


def matched_gaps(rng: np.random.Generator, world: str, positives: int) -> list[Seen]:
    """Raw and matched gaps between women and men against their truth and against 0."""
    mix = CASE_MIXES[world]
    predictions = mix.simulate(round(positives / IMAGES / mix.overall), rng)
    names = tuple(name for names in MATCHED.values() for name in names)
    found = audit(
        predictions, posterior_line(mix.overall),
        groups=("sex",), metrics=names, matched=tuple(MATCHED), match_on=("view",),
    )  # fmt: skip
    seen = []
    for matched in ("", *MATCHED):
        truth = case_mix_gaps(world, matched)
        for metric, row in rows_of(found.gaps, level="F", matched=matched).items():
            seen.append(row_seen(f"{matched or 'raw'} {metric}", row, "gap", truth[metric]))
            seen.append(row_seen(f"{matched or 'raw'} {metric} holds 0", row, "gap", 0.0))
    return seen


# -- comparisons over draws and seeds ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """How classifiers scatter: noise shared by all, per arm and draw, per run (sum 1); sd of the separation of the
    classes and of the offset of both."""

    shared: float = 0.7
    per_draw: float = 0.2
    per_seed: float = 0.1
    sd_common: float = 0.0  # a draw's effect on both arms
    sd_draw: float = 0.0  # a draw's effect on one arm
    sd_seed: float = 0.0


WORLDS = {
    "draws matter": Runs(0.8, 0.15, 0.05, 0.2, 0.2, 0.1),
    "seeds matter most": Runs(0.9, 0.05, 0.05, 0.0, 0.0, 0.3),
}
ARMS = {"control": 1.2, "arm": 1.3}  # mean separation
COMPARED = ("auroc", "auprc", "tpr", "fpr")


@cache
def _auprc_curve(prevalence: float) -> CubicSpline:
    at = np.linspace(-1, 4, 51)
    line = posterior_line(prevalence)
    values = [truths(np.array([1, mean]), np.array([1, 0]), prevalence, line)["auprc"] for mean in at]
    return CubicSpline(at, values)


def expected(prevalence: float, mean: float, offset: float, variance: float) -> dict[str, float]:
    """Metrics on average over classifiers whose separation (by ``mean``) and ``offset`` scatter with ``variance``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    auprc = weights @ _auprc_curve(prevalence)(mean + np.sqrt(variance) * nodes) / weights.sum()
    return {
        "auroc": float(stats.norm.cdf(mean / np.sqrt(2 + variance))),
        "auprc": float(auprc),
        "tpr": float(stats.norm.sf((THRESHOLD - mean - offset) / np.sqrt(1 + 2 * variance))),
        "fpr": float(stats.norm.sf((THRESHOLD - offset) / np.sqrt(1 + variance))),
    }


def comparison(
    rng: np.random.Generator, world: str, draws: int, seeds: int, positives: int, prevalence: float = 0.3
) -> list[Seen]:
    """Paired differences of two arms. With one draw the truth is that draw's: draws are not assessed."""
    runs = WORLDS[world]
    patient_of = patients_of(round(positives / IMAGES / prevalence), rng)
    y = labels(patient_of, prevalence, rng)
    common, both = latent(patient_of, rng), rng.standard_normal((draws, 2)) * runs.sd_common
    scores, names, truth = [], [], []
    for arm, mean in ARMS.items():
        for d in range(draws):
            own = np.sqrt(runs.shared) * common + np.sqrt(runs.per_draw) * latent(patient_of, rng)
            centre = (mean, 0) + both[d] + rng.standard_normal(2) * runs.sd_draw
            for s in range(seeds):
                separation, offset = centre + rng.standard_normal(2) * runs.sd_seed
                noise = own + np.sqrt(runs.per_seed) * latent(patient_of, rng)
                scores.append(separation * y + offset + noise)
                names.append({"arm": arm, "seed": str(s), "draw": str(d), "file": 0})
        if draws > 1:
            variance = runs.sd_common**2 + runs.sd_draw**2 + runs.sd_seed**2
            truth.append(expected(prevalence, mean, 0.0, variance))
        else:
            truth.append(expected(prevalence, centre[0], centre[1], runs.sd_seed**2))
    line = posterior_line(prevalence)
    predictions = predictions_of(patient_of, y, probability(np.stack(scores), line), names)
    found = audit(predictions, line, groups=(), metrics=COMPARED, controls=("control",)).comparison
    rows = {row.metric: row for row in found.itertuples(index=False)}
    return [row_seen(name, rows[name], "difference", truth[1][name] - truth[0][name]) for name in COMPARED]


def squared(parts: tuple[Array, Array], dfs: tuple[float, float]) -> Array | float:
    """Satterthwaite's degrees of freedom, which ``mixed_df`` is compared with."""
    return sum(parts) ** 2 / sum(part**2 / df for part, df in zip(parts, dfs, strict=True))


def coverage_of_df(formula: Callable, units: int, ratio: float, draws: int = 200_000) -> float:
    """Coverage of ``combine`` if all were normal: variance of ``units`` runs ``ratio`` times that of the patients.

    ``formula``: :func:`cxraug.evaluation.uncertainty.mixed_df` or :func:`squared`. The patients' variance (1) is
    estimated with 500 degrees of freedom, the runs' with ``units - 1``.
    """
    rng = np.random.default_rng([units, round(100 * ratio)])
    between = ratio * rng.chisquare(units - 1, draws) / (units - 1)
    patients = rng.chisquare(500, draws) / 500
    variance = between + patients
    df = formula((between, patients), (units - 1, 500))
    error = np.sqrt(ratio + 1) * rng.standard_normal(draws)
    return float(np.mean(np.abs(error) <= special.stdtrit(df, 0.975) * np.sqrt(variance)))


# -- families where there is no gap ------------------------------------------------------------------------------------

FAMILIES = ("auroc", "tpr", "fpr")
EXTREMES_SEEN = (*(f"max_min {metric}" for metric in FAMILIES), "equalised_odds")


AT_ONCE = 4
GROUPINGS = {f"{levels} groups{', shared patients' if shared else ''}": (levels, shared)
             for levels in (2, 5, 12) for shared in (False, True)}  # fmt: skip


def no_gap(rng: np.random.Generator) -> list[Seen]:
    """For each of ``GROUPINGS`` whether any adjusted p is at most 0.05, and p of ``max_min`` and ``equalised_odds``.

    Shared: one image in five lies in another group than its patient's other images. ``AT_ONCE`` classifiers, whose
    scores have nothing in common, are judged on the same patients: as many replicates in a fraction of the time.
    """
    prevalence = 0.3
    patient_of = patients_of(1200, rng)
    y = labels(patient_of, prevalence, rng)
    columns = {}
    for name, (levels, shared) in GROUPINGS.items():
        level = rng.integers(0, levels, patient_of[-1] + 1)[patient_of]
        if shared:
            level = np.where(rng.random(len(level)) < 0.2, rng.integers(0, levels, len(level)), level)
        columns[name] = level
    line = posterior_line(prevalence)
    p = probability(np.stack([SEPARATION * y + latent(patient_of, rng) for _ in range(AT_ONCE)]), line)
    metrics = (*FAMILIES, "max_min", "equalised_odds")
    found = audit(predictions_of(patient_of, y, p, **columns), line, groups=tuple(GROUPINGS), metrics=metrics)
    gaps = found.gaps
    rejected = (gaps["p_adjusted"] <= 0.05).groupby([gaps["group"], gaps["metric"], gaps["arm"]]).any()
    rows = rejected.reset_index().itertuples(index=False, name=None)
    seen = [Seen(f"{group}: {metric}", float(any_)) for group, metric, _, any_ in rows]
    for extreme in found.info["extremes"]:
        name = extreme["metric"] if extreme["of"] == "all" else f"{extreme['metric']} {extreme['of']}"
        p_value = extreme["p_value"]
        seen.append(Seen(f"{extreme['group']}: {name}", float(p_value < 0.05), extreme["flag"], p_value))
    return seen


# -- running -----------------------------------------------------------------------------------------------------------


def _block(replicate: Replicate, key: int, block: int, size: int) -> list[Seen]:
    rng = np.random.default_rng([key, block])
    return [seen for _ in range(size) for seen in replicate(rng)]


def simulate(replicate: Replicate, title: str, replicates: int, pool: Executor | None = None) -> pd.DataFrame:
    """Every :class:`Seen` of ``replicates`` replicates; each block of them draws from (``title``, its number)."""
    sizes = [min(BLOCK, replicates - start) for start in range(0, replicates, BLOCK)]
    key = zlib.crc32(title.encode())
    arguments = ([replicate] * len(sizes), [key] * len(sizes), range(len(sizes)), sizes)
    done: Iterable[list[Seen]] = pool.map(_block, *arguments) if pool else map(_block, *arguments)
    return pd.DataFrame([seen for block in done for seen in block], columns=list(Seen._fields))


def summary(seen: pd.DataFrame) -> pd.DataFrame:
    """Per name: ``share`` of hits among what was shown, mean ``value``, share ``shown``, the ``flag`` that most
    replicates carry, and how many ``replicates`` there are."""
    return seen.groupby("name", sort=False).agg(
        share=("hit", "mean"),
        value=("value", "mean"),
        shown=("flag", lambda flags: float((flags != "suppressed").mean())),
        flag=("flag", lambda flags: flags.value_counts().index[0]),
        replicates=("flag", "size"),
    )


def outside(share: float, replicates: int, band: tuple[float, float] = BAND, errors: float = 0.0) -> bool:
    """Whether a share lies outside a band widened by so many standard errors."""
    low, high = band
    slack = [errors * np.sqrt(edge * (1 - edge) / replicates) for edge in band]
    return not low - slack[0] <= share <= high + slack[1]


# -- the table ---------------------------------------------------------------------------------------------------------

ENOUGH = 500  # positives from which on the intervals are held to the band
WHY = (
    "ECE above the band is by construction: it is measured as a squared error whose interval is wide enough for every "
    "true error, and where the truth is 0 its variance counts the noise term twice (`squared_ece`) and its lower limit "
    "is cut at 0. It never claims an error that is not there. Where the probabilities are wrong it covers as "
    "promised.\n\n"
    "Single numbers within two standard errors of a band say nothing. Family-wise errors below theirs are on the safe "
    "side; four classifiers at a time share their patients, so that those numbers scatter a little more than their "
    "standard error says."
)


@dataclass
class Page:
    """Collects sections of Markdown, and what lies outside its band."""

    replicates: int
    pool: Executor | None
    parts: list[str]
    misses: list[str]

    def seen(self, replicate: Replicate, title: str, factor: float = 1) -> pd.DataFrame:
        """:func:`summary` of ``factor`` times the replicates (2: what the bands are about)."""
        found = summary(simulate(replicate, title, round(factor * self.replicates), self.pool))
        print(f"# {title}", found.to_string(), "", sep="\n", flush=True)
        return found

    def number(self, row: Any, where: str, judged: bool, band: tuple[float, float] = BAND) -> str:
        """A share in percent and, in words, what the reader must know: the product's own flag, outside the band."""
        if not row.shown:
            return "suppressed"
        words = [f"{100 * row.share:.1f}"]
        if row.flag:
            words.append(row.flag)
        if row.shown < 0.995:
            words.append(f"({100 * row.shown:.0f} % shown)")
        if judged and not row.flag and outside(row.share, row.replicates, band):
            words.append("above" if row.share > band[1] else "below")
            error = np.sqrt(row.share * (1 - row.share) / row.replicates)
            self.misses.append(f"{where}: {100 * row.share:.1f} % (standard error {100 * error:.1f} %)")
        return " ".join(words)

    def section(self, title: str, text: str, rows: list[dict[str, Any]]) -> None:
        """A heading, what it shows, and a table."""
        names = list(rows[0])
        lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows]
        self.parts.append("\n".join([f"## {title}", "", text, "", *lines]))


def say_one_classifier(page: Page) -> None:
    """The whole set, and two halves without a gap."""
    columns: dict[str, dict[str, Any]] = {
        "20 positives": {"positives": 20, "prevalence": 0.1},
        "50": {"positives": 50, "prevalence": 0.1},
        "500": {"positives": 500, "prevalence": 0.1},
        "500, lasting finding": {"positives": 500, "prevalence": 0.1, "label_rho": 1.0},
        "500, images taken for patients": {"positives": 500, "prevalence": 0.1, "by_image": True},
    }
    judged = {name for name, given in columns.items() if given["positives"] >= ENOUGH and "by_image" not in given}
    found = {
        name: page.seen(partial(one_classifier, **given), name, 2 if name in judged else 1)
        for name, given in columns.items()
    }
    counts = ("images", "patients", "positives", "positive patients")
    rows = [{"": "replicates", **{name: numbers["replicates"].iloc[0] for name, numbers in found.items()}}]
    rows += [{"": count, **{n: f"{numbers.loc[count].value:,.0f}" for n, numbers in found.items()}} for count in counts]
    for quantity in next(iter(found.values())).index.drop(list(counts)):
        told = {n: page.number(one.loc[quantity], f"{n}, {quantity}", n in judged) for n, one in found.items()}
        rows.append({"": quantity, **told})
    page.section(
        "One classifier, and a gap between two halves of the patients",
        "Prevalence 10 %. A lasting finding is present in all images of a patient or in none (label correlation 1 "
        "instead of 0.4): the fewest positive patients for as many positives. The last column shows what clustering is "
        "for: every image taken for a patient of its own. The gaps are 0 in truth, and each half holds half of the "
        "positives. AUPRC of the whole set by patient bootstrap (200).",
        rows,
    )


def say_calibration(page: Page) -> None:
    """Calibrated and overconfident probabilities."""
    found = {n: page.seen(partial(calibration, positives=n, prevalence=0.1), f"calibration {n}") for n in (50, 500)}
    intercept, slope = posterior_line(0.1)
    wrong = plain_truths(0.1, (OVERCONFIDENT[0] + OVERCONFIDENT[1] * intercept, OVERCONFIDENT[1] * slope))
    rows = [
        {
            "": quantity,
            **{
                f"{n} positives": page.number(numbers.loc[quantity], f"calibration, {quantity}", n >= ENOUGH)
                for n, numbers in found.items()
            },
        }
        for quantity in found[ENOUGH].index
    ]
    page.section(
        "Calibration",
        "Half of the patients get calibrated probabilities (ECE 0, slope 1), the other half overconfident ones (ECE "
        f"{wrong['ece']:.3f}, slope {1 / OVERCONFIDENT[1]:.3f}); the gap is between the halves. Prevalence 10 %.",
        rows,
    )


def say_matched(page: Page) -> None:
    """Gaps of case mix."""
    rows = []
    first = next(iter(CASE_MIXES))
    for world in CASE_MIXES:
        found = page.seen(partial(matched_gaps, world=world, positives=500), world, 2 if world == first else 1)
        for matched, names in MATCHED.items():
            for metric in names:
                name, raw = f"{matched} {metric}", f"raw {metric}"
                printed = raw in found.index
                rows.append({
                    "world": world, "replicates": found["replicates"].iloc[0], "metric": metric, "matched": matched,
                    "true raw gap": f"{case_mix_gaps(world, '')[metric]:+.3f}",
                    "raw holds 0": f"{100 * found.loc[f'{raw} holds 0'].share:.1f}" if printed else "not printed",
                    "raw covers its truth": page.number(found.loc[raw], f"{world}, {raw}", True) if printed else "",
                    "true matched gap": f"{case_mix_gaps(world, matched)[metric]:+.3f}",
                    "matched holds 0": f"{100 * found.loc[f'{name} holds 0'].share:.1f}",
                    "matched covers its truth": page.number(found.loc[name], f"{world}, {name}", True),
                })  # fmt: skip
    page.section(
        "Matched gaps",
        "Women against men, 500 positives. Where only the case mix differs, the raw interval leaves 0 out and the "
        "matched one holds it as often as promised. Raw gaps of what depends on prevalence are never printed.",
        rows,
    )


def say_comparisons(page: Page) -> None:
    """Paired differences over draws and seeds."""
    cases = [(world, 500) for world in WORLDS] + [("draws matter", n) for n in (20, 50)]
    rows = []
    for world, positives in cases:
        for draws in (1, 8):
            where = f"{world}, {positives} positives, D={draws}, K=3"
            replicate = partial(comparison, world=world, draws=draws, seeds=3, positives=positives)
            found = page.seen(replicate, where, 2 if (world, positives) == cases[0] else 1)
            numbers = {m: page.number(found.loc[m], f"{where}, {m}", positives >= ENOUGH) for m in COMPARED}
            head = {"world": world, "replicates": found["replicates"].iloc[0], "positives": positives}
            rows.append({**head, "draws": draws, "seeds": 3, **numbers})
    page.section(
        "Paired difference of two arms",
        "Prevalence 30 %, mean separations 1.2 and 1.3. With one draw the truth is that draw's own difference (draws "
        "are not assessed, and the product says so); with eight it is the mean over all draws that there could be.",
        rows,
    )


def say_degrees_of_freedom(page: Page) -> None:
    """What the degrees of freedom in use cover by themselves, beside Satterthwaite's."""
    rows = [
        {"units": what, "degrees of freedom": name}
        | {f"{ratio:g}": f"{100 * coverage_of_df(formula, units, ratio):.1f}" for ratio in (0, 0.5, 1, 2, 4, 10)}
        for what, units in (("one draw, 3 seeds", 3), ("one draw, 5 seeds", 5), ("8 draws", 8))
        for name, formula in (("in use", mixed_df), ("Satterthwaite's", squared))
    ]
    page.section(
        "Degrees of freedom",
        "Coverage of the t interval of `combine` where all errors are normal, by the variance that runs cause in the "
        "mean over runs, in units of the variance that patients cause (200,000 draws each).",
        rows,
    )


def say_families(page: Page) -> None:
    """Family-wise error, and the null of the extremes."""
    found = page.seen(no_gap, "no gap", factor=8 / AT_ONCE)
    families, extremes = [], []
    for grouping, (levels, shared) in GROUPINGS.items():
        head: dict[str, Any] = {"groups": levels, "patients in two groups": "yes" if shared else "no"}
        rates = {
            metric: page.number(
                found.loc[f"{grouping}: {metric}"], f"family-wise error, {grouping}, {metric}", True, FAMILY_BAND
            )
            for metric in FAMILIES
        }
        families.append(head | rates)
        null: dict[str, str] = {}
        for name in EXTREMES_SEEN:
            one = found.loc[f"{grouping}: {name}"]
            null |= {f"{name}: p < 0.05": f"{100 * one.share:.1f}", f"{name}: mean p": f"{one.value:.2f}"}
        extremes.append(head | null)
    page.section(
        "Family-wise error of gaps where there is none",
        f"Percent of {found['replicates'].iloc[0]:,} replicates in which any adjusted p is at most 0.05 (nominal 5; "
        "band 4 to 6.5). Every group against the rest; 1,200 patients with 1,224 positives. Where patients are in two "
        "groups, one image in five lies in another group.",
        families,
    )
    page.section(
        "max_min and equalised_odds where there is no gap",
        "Their p should be uniform: below 0.05 in 5 % of replicates, 0.5 on average. Same patients as above. Where "
        "groups are many and small it errs on the safe side: the null draws a t factor for every group by itself "
        "(`largest_range`), and the largest range picks the wildest of them, although the errors of the estimated "
        "variances of many groups average out. A gap is missed sooner than invented.",
        extremes,
    )


SECTIONS = (
    say_one_classifier, say_calibration, say_matched, say_comparisons, say_degrees_of_freedom, say_families,
)  # fmt: skip


def main() -> None:
    """Print every summary as it comes; ``--out`` writes the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", help="Markdown file")
    options = parser.parse_args()
    n = options.replicates
    out = f" --out {options.out}" if options.out else ""
    head = (
        f"# Coverage by simulation\n\n"
        f"Written by `python benchmarks/coverage.py --replicates {n} --jobs {options.jobs}{out}` "
        "(any number of jobs gives the same table).\n\n"
        "Percent of replicates in which a nominal 95 % interval of the printed tables holds the truth. The standard "
        f"error of a coverage of 95 % is {100 * np.sqrt(0.0475 / n):.1f} % with {n:,} replicates and "
        f"{100 * np.sqrt(0.0475 / n / 2):.1f} % with {2 * n:,}. Patients have 3.4 images on average; labels and scores "
        "are latent normals that correlate 0.4 within a patient. `few` and `suppressed` are the product's own flags of "
        "most replicates (the number is over the replicates that showed one); `above` and `below` mark what lies "
        "outside 93 to 97 % from 500 positives up without a flag."
    )
    page = Page(n, None, [head], [])
    with ProcessPoolExecutor(options.jobs) as pool:
        page.pool = pool if options.jobs > 1 else None
        for say in SECTIONS:
            say(page)
    listed = "\n".join(f"- {miss}" for miss in page.misses) or "Nothing."
    page.parts.insert(1, f"## Outside the bands from 500 positives up\n\n{listed}\n\n{WHY}")
    text = "\n\n".join(page.parts) + "\n"
    if options.out:
        Path(options.out).write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
