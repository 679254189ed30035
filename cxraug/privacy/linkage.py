"""Can an image be led back to its patient? Pairs of one patient against matched impostors, with clustered intervals.

A trial is a probe image, its target (the genuine pair) and impostors: one image of each of several other patients, in
the matched attack like the target in every attribute. So what a score says about attributes helps the genuine pair as
much as its impostors, and only the person is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammaln

from cxraug.evaluation.measured import Measured, measured
from cxraug.evaluation.uncertainty import interval
from cxraug.seeds import derive_seed
from cxraug.studies.labels import parse_labels

AGE_BAND = 5.0  # years that a matched impostor may be younger or older than the target
MATCHED_ON = "source, view, sex, age within 5 years and labels"
FMRS = (0.01, 0.001)
PER_FMR = 10  # impostor pairs (effective) that have to lie above a threshold on average for its rate to be printed
GALLERIES = (1000, 500, 200, 100, 50, 20, 10, 5, 2)
GALLERY_SHARE = 0.9  # of the trials have enough impostors for the stated gallery
LEAST, FEW = 10, 50  # genuine patients: fewer are suppressed, flagged


@dataclass(frozen=True)
class Attributes:
    """What impostors are matched on: ``key`` (n,) int, equal where source, view, sex and label set are; ``age`` (n,)
    years or NaN. What is missing matches what is missing."""

    key: np.ndarray
    age: np.ndarray

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Attributes:
        """Of a manifest's rows."""
        text = [frame[name].astype("str").fillna("").to_numpy(str) for name in ("source", "view", "sex")]
        codes = {label: _label_set(label) for label in pd.unique(frame["labels"].dropna())}
        labels = np.array([codes.get(label, "") for label in frame["labels"]], dtype=str)
        joined = ["\0".join(parts) for parts in zip(*text, labels, strict=True)]
        return cls(np.unique(joined, return_inverse=True)[1], frame["age"].to_numpy(float))


@dataclass(frozen=True)
class Trials:
    """Who is compared with whom.

    Attributes
    ----------
    probe, target : (g,) rows of the probes' and the targets' tables. other : (k,) rows of impostors in the targets'
        table, those of trial i at ``start[i]:start[i + 1]``. patient : (g,) of the genuine pairs; other_patient (k,) of
        the impostors; one numbering of patients for both.
    """

    probe: np.ndarray
    target: np.ndarray
    start: np.ndarray
    other: np.ndarray
    patient: np.ndarray
    other_patient: np.ndarray

    def __len__(self) -> int:
        return len(self.probe)

    @property
    def counts(self) -> np.ndarray:
        """Impostors of each trial (g,)."""
        return np.diff(self.start)

    def take(self, rows: np.ndarray) -> Trials:
        """The trials at ``rows`` (mask or positions)."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, int)
        at = np.concatenate([np.arange(self.start[i], self.start[i + 1]) for i in rows] or [np.zeros(0, int)])
        start = np.concatenate([[0], np.cumsum(self.counts[rows])])
        return Trials(self.probe[rows], self.target[rows], start, self.other[at], self.patient[rows],
                      self.other_patient[at])  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """Trials with scores, higher for more alike: ``genuine`` (g,), ``impostor`` (k,)."""

    trials: Trials
    genuine: np.ndarray
    impostor: np.ndarray


def genuine_pairs(
    patient: np.ndarray, kind: np.ndarray, identity: np.ndarray, *, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Probe and target rows (g,) of pairs of images of one patient, at most ``most`` of a patient, drawn at random.

    Parameters
    ----------
    patient : (n,). kind : (n,) only images of one kind (a projection) are paired. identity : (n,) two rows that are the
        same picture are no pair, for that is found without knowing anything about patients.

    Returns
    -------
    probe, target, and how many pairs were left out because both are the same picture.
    """
    rng = np.random.default_rng(derive_seed(seed, "genuine pairs"))
    probes, targets, same = [], [], 0
    groups = pd.DataFrame({"patient": patient, "kind": kind}).groupby(["patient", "kind"], sort=True).indices
    of_patient: dict[Any, list[tuple[int, int]]] = {}
    for name, rows in groups.items():
        assert isinstance(name, tuple)
        if len(rows) < 2:
            continue
        i, j = np.triu_indices(len(rows), 1)
        pairs = np.stack([rows[i], rows[j]], 1)
        copies = identity[pairs[:, 0]] == identity[pairs[:, 1]]
        same += int(copies.sum())
        of_patient.setdefault(name[0], []).extend(map(tuple, pairs[~copies].tolist()))
    for pairs_of in of_patient.values():
        for at in rng.permutation(len(pairs_of))[:most]:
            pair = pairs_of[at]
            turned = rng.random() < 0.5
            probes.append(pair[turned])
            targets.append(pair[not turned])
    return np.array(probes, int), np.array(targets, int), same


def draw_trials(
    probe: np.ndarray, target: np.ndarray, patient: np.ndarray, within: np.ndarray,
    attributes: Attributes | None, *, most: int, seed: int,
) -> tuple[Trials, int]:  # fmt: skip
    """Give each genuine pair its impostors.

    Parameters
    ----------
    probe, target : (g,) rows; those of targets count in the arrays below. patient : (n,) int. within : (n,) int, only
        rows with the target's value may be impostors (fold and projection).
    attributes : impostors are matched to the target; None takes any.
    most : impostors of a trial, of different patients, drawn at random.

    Returns
    -------
    The trials that have an impostor, and how many pairs have none.
    """
    rng = np.random.default_rng(derive_seed(seed, "impostors", attributes is None))
    key = within if attributes is None else within * (int(attributes.key.max(initial=0)) + 1) + attributes.key
    age = np.full(len(patient), np.nan) if attributes is None else attributes.age
    order = np.lexsort((age, key))  # ages unknown stand last in their key
    bounds = {int(k): (a, b) for k, a, b in _runs(key[order])}
    kept, others, counts = [], [], []
    for at, row in enumerate(target.tolist()):
        low, high = bounds[int(key[row])]
        rows = order[low:high]
        if attributes is not None:
            known = int(np.isfinite(age[rows]).sum())
            if np.isnan(age[row]):
                rows = rows[known:]
            else:
                a, b = np.searchsorted(age[rows[:known]], (age[row] - AGE_BAND, age[row] + AGE_BAND + 1e-9))
                rows = rows[a:b]
        rows = rows[patient[rows] != patient[row]]
        if not len(rows):
            continue
        rows = rows[rng.permutation(len(rows))]
        rows = rows[np.sort(np.unique(patient[rows], return_index=True)[1])][:most]
        kept.append(at)
        others.append(rows)
        counts.append(len(rows))
    at_kept = np.array(kept, int)
    flat = np.concatenate(others) if others else np.zeros(0, int)
    start = np.concatenate([[0], np.cumsum(np.array(counts, int))])
    trials = Trials(probe[at_kept], target[at_kept], start, flat, patient[target[at_kept]], patient[flat])
    return trials, len(target) - len(at_kept)


def score_trials(trials: Trials, probes: Callable[[int], np.ndarray], targets: np.ndarray) -> Scored:
    """Compare: the largest dot product of any of a probe's vectors (s, d), ``probes(row)``, with ``targets`` (n, d)."""
    genuine, impostor = np.empty(len(trials)), np.empty(len(trials.other))
    for i, (row, target) in enumerate(zip(trials.probe.tolist(), trials.target.tolist(), strict=True)):
        part = slice(trials.start[i], trials.start[i + 1])
        rows = np.concatenate([[target], trials.other[part]])
        scores = (targets[rows] @ probes(row).T).max(axis=1)
        genuine[i], impostor[part] = scores[0], scores[1:]
    return Scored(trials, genuine, impostor)


# -- measures ----------------------------------------------------------------------------------------------------------


def linkage(
    scored: Scored, *, replicates: int = 400, seed: int = 0, alpha: float = 0.05, fmrs: Sequence[float] = FMRS
) -> list[dict[str, Any]]:
    """AUC, rank-1, TPR at fixed false-match rates and equal error rate, each with its interval.

    ``auc``: mean over genuine pairs of the share of their own impostors that score lower (ties one half); 0.5 is
    chance. ``rank-1 of m``: chance that a genuine pair is the best match in a gallery of its target and m - 1 of its
    impostors, each of another patient, exact over all draws; chance is 1 / m. ``tpr at fmr f``: share of genuine pairs
    above the score that a share f of impostors exceeds, where every trial's impostors weigh the same together; not
    given with fewer than 10 / f effective impostor pairs. ``eer``: the rate at which both errors are equal.

    Returns
    -------
    Rows ``measure, value, ci_low, ci_high, n_pairs, n_patients, method, flag``; ``value`` is None where it cannot be
    resolved or fewer than 10 patients have a genuine pair (``suppressed``).

    Notes
    -----
    The patient is the unit, wherever it stands in a pair. For AUC and rank-1 influence values of a patient add up what
    it does as genuine and as impostor (a two-sample U statistic, whose first-order projection this is), and intervals
    are on the logit scale; for rates at a threshold, whose threshold is estimated too, the variance is that of a
    bootstrap of patients, and intervals are Wilson's with its effective n. Both use t quantiles.
    """
    trials = scored.trials
    genuine_patients = len(np.unique(trials.patient))
    about = {"n_pairs": len(trials), "n_patients": genuine_patients}
    flag = "suppressed" if genuine_patients < LEAST else "few" if genuine_patients < FEW else ""
    gallery = gallery_size(trials.counts)
    names = ["auc", *([f"rank-1 of {gallery}"] if gallery else []), *(f"tpr at fmr {f:g}" for f in fmrs), "eer"]
    if flag == "suppressed":
        why = f"fewer than {LEAST} patients with a genuine pair"
        return [_row(name, None, None, None, **about, method=why, flag=flag) for name in names]
    rows = [_smooth_row("auc", auc(scored), about, "own impostors only; influence of patients", flag, alpha)]
    if gallery:
        large = scored if trials.counts.min() >= gallery - 1 else _take(scored, trials.counts >= gallery - 1)
        found = {"n_pairs": len(large.trials), "n_patients": len(np.unique(large.trials.patient))}
        method = f"chance {1 / gallery:.3g}; influence of patients"
        if found["n_patients"] >= LEAST:
            rows.append(_smooth_row(names[1], rank_one(large, gallery), found, method, flag, alpha))
    effective = effective_pairs(trials)
    curve = Curve.of(scored)
    values = {name: curve.tpr(f) for name, f in zip(names[-1 - len(fmrs) : -1], fmrs, strict=True)}
    values["eer"] = curve.eer()
    spread = _bootstrap(scored, curve, fmrs, replicates, seed)
    for (name, value), variance in zip(values.items(), spread, strict=True):
        f = None if name == "eer" else fmrs[list(values).index(name)]
        if f is not None and effective < PER_FMR / f:
            method = f"not resolved: {effective:.0f} effective impostor pairs, {PER_FMR / f:.0f} are needed"
            rows.append(_row(name, None, None, None, **about, method=method, flag="unresolved"))
            continue
        low, high = interval(
            np.array([value]), np.array([variance]), np.array([genuine_patients - 1.0]), "wilson", alpha
        )
        method = f"bootstrap of patients; {effective:.0f} effective impostor pairs"
        rows.append(_row(name, value, float(low[0]), float(high[0]), **about, method=method, flag=flag))
    return rows


def auc(scored: Scored) -> Measured:
    """Within-trial AUC of one run, with the influence of every patient."""
    return _within(scored, lambda beaten, n: 1 - beaten / n, lambda beaten, n: -np.ones(len(n)))


def rank_one(scored: Scored, gallery: int) -> Measured:
    """Chance to be first among ``gallery``, with the influence of every patient; each trial has enough impostors."""

    def value(beaten: np.ndarray, n: np.ndarray) -> np.ndarray:
        left = n - beaten - (gallery - 1)
        log = gammaln(n - beaten + 1) - gammaln(np.maximum(left, 0) + 1) - gammaln(n + 1) + gammaln(n - gallery + 2)
        return np.where(left > -1e-9, np.exp(log), 0.0)

    def slope(beaten: np.ndarray, n: np.ndarray) -> np.ndarray:
        return -(gallery - 1) * (1 - beaten / n) ** (gallery - 2)

    return _within(scored, value, slope)


def gallery_size(counts: np.ndarray) -> int | None:
    """The largest of 1000, 500, ..., 5, 2 for which 90 % of the trials have enough impostors; None where none is."""
    for size in GALLERIES:
        if len(counts) and (counts >= size - 1).mean() >= GALLERY_SHARE:
            return size
    return None


def effective_pairs(trials: Trials) -> float:
    """Kish's effective number of impostor pairs, where every trial weighs the same."""
    n = trials.counts.astype(float)
    return float(len(n) ** 2 / (1 / n).sum()) if len(n) else 0.0


@dataclass(frozen=True)
class Curve:
    """All scores in falling order: ``genuine`` (m,) bool, ``at`` (m,) position of each in its own table, ``ends`` (e,)
    the last position of each group of equal scores; weights of genuine pairs and impostors sum to 1 each."""

    genuine: np.ndarray
    at: np.ndarray
    ends: np.ndarray
    weight: np.ndarray
    impostor_weight: np.ndarray

    @classmethod
    def of(cls, scored: Scored) -> Curve:
        """Order the scores."""
        g = len(scored.genuine)
        score = np.concatenate([scored.genuine, scored.impostor])
        order = np.argsort(-score, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
        counts = scored.trials.counts
        weight = np.repeat(1 / np.maximum(counts, 1), counts) / g
        return cls(order < g, np.where(order < g, order, order - g), ends, np.full(g, 1 / g), weight)

    def with_weights(self, weight: np.ndarray, impostor_weight: np.ndarray) -> Curve:
        """The same order with other weights, scaled to sum to 1."""
        return Curve(self.genuine, self.at, self.ends, weight / weight.sum(), impostor_weight / impostor_weight.sum())

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """True and false match rate at every threshold, from the strictest (e,)."""
        hit, false = np.zeros(len(self.genuine)), np.zeros(len(self.genuine))
        hit[self.genuine] = self.weight[self.at[self.genuine]]
        false[~self.genuine] = self.impostor_weight[self.at[~self.genuine]]
        return np.cumsum(hit)[self.ends], np.cumsum(false)[self.ends]

    def tpr(self, fmr: float, rates: tuple[np.ndarray, np.ndarray] | None = None) -> float:
        """Share of genuine pairs accepted at the loosest threshold with a false-match rate of at most ``fmr``."""
        hit, false = rates or self.rates()
        place = int(np.searchsorted(false, fmr + 1e-12, side="right")) - 1
        return round(float(hit[place]), 12) if place >= 0 else 0.0  # what sums to 1 is 1

    def eer(self, rates: tuple[np.ndarray, np.ndarray] | None = None) -> float:
        """Mean of both error rates where they are closest."""
        hit, false = rates or self.rates()
        place = int(np.argmin(np.abs(1 - hit - false)))
        return round(float(np.clip((1 - hit[place] + false[place]) / 2, 0, 1)), 12)


def _bootstrap(
    scored: Scored, curve: Curve, fmrs: Sequence[float], replicates: int, seed: int
) -> np.ndarray:  # fmt: skip
    """Variance of TPR at each rate and of the EER over bootstraps of patients, (len(fmrs) + 1,)."""
    trials = scored.trials
    names, code = np.unique(np.concatenate([trials.patient, trials.other_patient]), return_inverse=True)
    own, other = code[: len(trials)], code[len(trials) :]
    of = np.repeat(np.arange(len(trials)), trials.counts)
    rng = np.random.default_rng(derive_seed(seed, "bootstrap of patients"))
    found = np.full((replicates, len(fmrs) + 1), np.nan)
    for r in range(replicates):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)).astype(float)
        impostor = times[other]
        total = np.add.reduceat(impostor, trials.start[:-1])
        weight = times[own] * (total > 0)
        if weight.sum() <= 0:
            continue
        drawn = curve.with_weights(weight, impostor * (weight / np.maximum(total, 1e-12))[of])
        rates = drawn.rates()
        found[r] = [*(drawn.tpr(f, rates) for f in fmrs), drawn.eer(rates)]
    return np.nanvar(found, axis=0, ddof=1)


def _within(
    scored: Scored,
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Measured:
    """Mean over trials of ``value(beaten, n)``: ``beaten`` of n impostors score higher than the genuine pair.

    ``slope`` is the derivative of value by the share beaten. Influence of a patient: ``sqrt(I / (I - 1))`` times (its
    trials' values less the mean + what its images change as impostors of other trials) / g.
    """
    trials = scored.trials
    n = trials.counts.astype(float)
    of = np.repeat(np.arange(len(trials)), trials.counts)
    against = scored.genuine[of]
    beats = (scored.impostor > against) + 0.5 * (scored.impostor == against)
    beaten = np.bincount(of, beats, len(trials))
    each = value(beaten, n)
    mean = float(each.mean())
    names, code = np.unique(np.concatenate([trials.patient, trials.other_patient]), return_inverse=True)
    own, other = code[: len(trials)], code[len(trials) :]
    influence = np.bincount(own, each - mean, len(names))
    change = (slope(beaten, n) / n)[of] * (beats - (beaten / n)[of])
    influence += np.bincount(other, change, len(names))
    count = len(np.unique(trials.patient))
    influence *= np.sqrt(count / max(count - 1, 1)) / len(trials)
    return measured(np.array([mean]), influence[None], np.array([float(count)]))


def _smooth_row(
    name: str, found: Measured, about: dict[str, int], method: str, flag: str, alpha: float
) -> dict[str, Any]:
    low, high = interval(found.value, found.variance, found.df, "logit", alpha)
    return _row(name, float(found.value[0]), float(low[0]), float(high[0]), **about, method=method, flag=flag)


def _row(measure: str, value: float | None, low: float | None, high: float | None, **rest: Any) -> dict[str, Any]:
    return {"measure": measure, "value": value, "ci_low": low, "ci_high": high, **rest}


def _take(scored: Scored, keep: np.ndarray) -> Scored:
    of = np.repeat(np.arange(len(scored.trials)), scored.trials.counts)
    return Scored(scored.trials.take(keep), scored.genuine[keep], scored.impostor[keep[of]])


def _label_set(text: str) -> str:
    """The findings that are present or uncertain, whatever their order; absent and unnamed ones count the same."""
    named = parse_labels(text)
    return "|".join(sorted(f"{'?' if value < 0 else ''}{name}" for name, value in named.items() if value != 0))


def _runs(sorted_values: np.ndarray) -> list[tuple[Any, int, int]]:
    if not len(sorted_values):
        return []
    starts = np.flatnonzero(np.append(True, sorted_values[1:] != sorted_values[:-1])).tolist()
    return [(sorted_values[a], a, b) for a, b in zip(starts, [*starts[1:], len(sorted_values)], strict=True)]
