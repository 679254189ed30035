"""From measured cells to the rows of ``cells.csv``, ``gaps.csv`` and ``comparison.csv``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.evaluation.auprc import patient_weights
from cxraug.evaluation.cells import Subject, Support, bootstrap_variance, measure, support
from cxraug.evaluation.comparison import holm, shared_runs
from cxraug.evaluation.gaps import Gaps, max_t
from cxraug.evaluation.groups import group_levels, level_order
from cxraug.evaluation.measured import Array, Measured, mean_of
from cxraug.evaluation.metrics import ANY_FINDING, MACRO, METRICS, NO_FINDING
from cxraug.evaluation.predictions import Predictions
from cxraug.evaluation.uncertainty import Estimate, combine, interval

if TYPE_CHECKING:
    from cxraug.evaluation.evaluate import EvaluationSettings

CELLS = ("arm", "seed", "draw", "finding", "group", "level", "metric", "value", "ci_low", "ci_high", "n", "n_pos",
         "n_patients", "method", "flag")  # fmt: skip
GAPS = ("arm", "seed", "draw", "finding", "group", "level", "reference", "metric", "matched", "gap", "ci_low",
        "ci_high", "p_value", "p_adjusted", "family", "mdg", "flag")  # fmt: skip
COMPARISON = ("baseline", "arm", "finding", "group", "level", "metric", "difference", "ci_low", "ci_high", "p_value",
              "p_adjusted", "family", "n_seeds", "n_draws", "n_patients", "mde", "flag")  # fmt: skip
REST = "rest"
MOST_LEVELS = 500
NAN = float("nan")


@dataclass(frozen=True)
class Place:
    """Where a number stands: finding, group, level, metric; and how much there is of it."""

    finding: str
    group: str
    level: str
    metric: str
    support: Support


@dataclass(frozen=True)
class Gap:
    """One member of a family of gaps: the gap, its level and its reference (None: suppressed) at a place."""

    place: Place
    reference: str
    flag: str
    estimates: tuple[Estimate, Estimate, Estimate] | None


def levels_of(predictions: Predictions, group: str, age_bins: tuple[float, ...]) -> tuple[Array, list[str]]:
    """Level of every row (n,), and the levels in order."""
    levels = group_levels(predictions.table, group, age_bins)
    order = level_order(levels, age_bins)
    if len(order) > MOST_LEVELS:
        raise InputError(
            "too many levels for a group", column=group, found=len(order), expected=f"at most {MOST_LEVELS}"
        )
    return levels.to_numpy(dtype=object), order


class Assembly:
    """Collects rows group by group; :meth:`tables` finishes the families."""

    def __init__(
        self, predictions: Predictions, settings: EvaluationSettings, subjects: list[Subject], methods: dict[str, str]
    ) -> None:
        self.predictions, self.settings, self.subjects, self.methods = predictions, settings, subjects, methods
        self.patients = predictions.patients
        runs = predictions.runs
        self.arms = {arm: np.flatnonzero((runs["arm"] == arm).to_numpy()) for arm in predictions.arms}
        self.draws = runs["draw"].to_numpy(dtype=object)
        self.seeds = runs["seed"].to_numpy(dtype=object)
        self.cells: list[tuple] = []
        self.gaps: list[tuple] = []
        self.comparison: list[dict] = []
        self.notes: list[str] = []
        self.pairs = self._pairs()
        self.weights = None
        if settings.bootstrap and "auprc" in settings.metrics:
            self.weights = patient_weights(len(self.patients), settings.bootstrap, settings.seed)

    # -- rows of one grouping ------------------------------------------------------------------------------------------

    def add_group(self, group: str) -> None:
        """Measure every finding, level and metric of one grouping."""
        settings = self.settings
        of_row, levels = levels_of(self.predictions, group, settings.age_bins)
        masks = {level: of_row == level for level in levels}
        for metric in settings.metrics:
            families: dict[tuple[str, str, str], list[Gap]] = defaultdict(list)
            complete = self._macro_findings(metric, masks)
            macro: dict[str, list[Measured]] = defaultdict(list)
            for subject in self.subjects:
                if metric not in subject.metrics((metric,)):
                    continue
                known: dict[bytes, Measured] = {}
                for level in levels:
                    place = Place(subject.name, group, level, metric, self._support(subject, metric, masks[level]))
                    found = self._measure(subject, metric, masks[level], known) if place.support.shown else None
                    if found is not None and np.isnan(found.value).any():  # undefined: the slope of separated scores
                        place, found = replace(place, support=replace(place.support, flag="suppressed")), None
                    self._add_cell(place, found, subject, masks[level])
                    self._compare(place, found)
                    if found is not None and subject.name in complete:
                        macro[level].append(found)
                    if group != "all" and METRICS[metric].gap:
                        self._add_gaps(families, place, found, subject, masks, known)
            for level, parts in macro.items():
                if len(parts) > 1 and len(parts) == len(complete):
                    self._add_macro(group, level, metric, parts, masks[level])
            self._finish_families(metric, group, families)

    def _support(self, subject: Subject, metric: str, cell: Array) -> Support:
        settings = self.settings
        return support(subject, metric, cell, self.patients, min_cell=settings.min_cell, few=settings.few)

    def _measure(self, subject: Subject, metric: str, cell: Array, known: dict[bytes, Measured]) -> Measured:
        """Measure once per set of rows: the rest of one of two levels is the other."""
        key = np.packbits(cell).tobytes()
        if key not in known:
            known[key] = measure(subject, metric, cell, self.patients)
        return known[key]

    def _macro_findings(self, metric: str, masks: dict[str, Array]) -> set[str]:
        """Findings that no level suppresses; a level in which everything is suppressed does not count."""
        shown = {
            subject.name: {level: self._support(subject, metric, mask).shown for level, mask in masks.items()}
            for subject in self.subjects
            if subject.name not in (NO_FINDING, ANY_FINDING) and subject.metrics((metric,))
        }
        levels = [level for level in masks if any(row[level] for row in shown.values())]
        return {name for name, row in shown.items() if levels and all(row[level] for level in levels)}

    def _add_macro(self, group: str, level: str, metric: str, parts: list[Measured], cell: Array) -> None:
        n_patients = self.patients.count(cell)
        whole = Support(int(cell.sum()), 0, n_patients, n_patients, "few" if n_patients < self.settings.few else "")
        place = Place(MACRO, group, level, metric, whole)
        found = mean_of(parts)
        self._add_cell(place, found, None, cell, suffix=f", mean of {len(parts)} findings")
        self._compare(place, found)

    # -- cells ---------------------------------------------------------------------------------------------------------

    def _add_cell(
        self, place: Place, found: Measured | None, subject: Subject | None, cell: Array, suffix: str = ""
    ) -> None:
        metric = METRICS[place.metric]
        count = place.support
        counts = (count.n, NAN if place.finding == MACRO else count.n_pos, count.n_patients)
        for arm, runs in self.arms.items():
            single = [(self.seeds[run], self.draws[run]) for run in runs]
            if found is None:
                for seed, draw in [("all", "all"), *(single if len(runs) > 1 else [])]:
                    where = (arm, seed, draw, place.finding, place.group, place.level, place.metric)
                    self.cells.append((*where, NAN, NAN, NAN, *counts, "suppressed", count.flag))
                continue
            own = found.take(runs)
            method = self._method(place, subject) + suffix
            value, low, high = self._interval(own, metric.scale)
            if len(runs) > 1:
                for (seed, draw), v, a, b in zip(single, value, low, high, strict=True):
                    where = (arm, seed, draw, place.finding, place.group, place.level, place.metric)
                    self.cells.append((*where, v, a, b, *counts, method, count.flag))
            if metric.name == "auprc" and self.weights is not None and subject is not None:
                own, method = self._bootstrapped(own, runs, subject, cell), "patient bootstrap, logit"
            estimate = combine(own, self.draws[runs])
            bounds = interval(
                np.array([estimate.value]), np.array([estimate.variance]), np.array([estimate.df]), metric.scale,
                self.settings.alpha,
            )  # fmt: skip
            where = (arm, "all", "all", place.finding, place.group, place.level, place.metric)
            numbers = (estimate.value, float(bounds[0][0]), float(bounds[1][0]))
            method += _runs_text(estimate, len(runs))
            self.cells.append((*where, *numbers, *counts, method, count.flag))

    def _interval(self, found: Measured, scale: str) -> tuple[Array, Array, Array]:
        low, high = interval(found.value, found.variance, found.df, scale, self.settings.alpha)
        return found.value, low, high

    def _bootstrapped(self, own: Measured, runs: Array, subject: Subject, cell: Array) -> Measured:
        """Scale the influence values so that their mean has the patient bootstrap's variance."""
        share = _run_weights(self.draws[runs])
        assert self.weights is not None
        wanted = bootstrap_variance(subject, runs, share, cell, self.predictions.patient_of, self.weights)
        now = float(np.square(share @ own.influence).sum())
        if not wanted > 0 or not now > 0:
            return own
        return Measured(own.value, own.influence * np.sqrt(wanted / now), own.floor, own.df)

    def _method(self, place: Place, subject: Subject | None) -> str:
        metric = METRICS[place.metric]
        name = {"wilson": "clustered Wilson", "logit": "clustered logit", "linear": "clustered"}[metric.scale]
        if place.metric in ("brier", "calibration_slope") and subject is not None:
            done = self.methods[subject.name]
            name += ", p as given" if done == "none" else f", p recalibrated on validation ({done})"
        return name

    # -- gaps ----------------------------------------------------------------------------------------------------------

    def _add_gaps(
        self,
        families: dict[tuple[str, str, str], list[Gap]],
        place: Place,
        found: Measured | None,
        subject: Subject,
        masks: dict[str, Array],
        known: dict[bytes, Measured],
    ) -> None:
        reference = self.settings.reference.get(place.group, REST)
        if reference == place.level or (reference == REST and len(masks) < 2):
            return
        other = ~masks[place.level] if reference == REST else masks[reference]
        theirs = self._support(subject, place.metric, other)
        flags = {place.support.flag, theirs.flag}
        flag = "suppressed" if "suppressed" in flags else "few" if "few" in flags else ""
        against = None
        if found is not None and theirs.shown:
            against = self._measure(subject, place.metric, other, known)
            if np.isnan(against.value).any():
                against, flag = None, "suppressed"
        for arm, runs in self.arms.items():
            sets = [(("all", "all"), runs)]
            if len(runs) > 1:
                sets += [((self.seeds[run], self.draws[run]), np.array([run])) for run in runs]
            for label, chosen in sets:
                estimates = None
                if found is not None and against is not None:
                    left, right, draws = found.take(chosen), against.take(chosen), self.draws[chosen]
                    sides = (combine(side, draws, spread=False) for side in (left, right))
                    estimates = (combine(left.minus(right), draws), *sides)
                families[(arm, *label)].append(Gap(place, reference, flag, estimates))  # type: ignore[arg-type]

    def _finish_families(self, metric: str, group: str, families: dict[tuple[str, str, str], list[Gap]]) -> None:
        """Max-T over the shown gaps of each family (arm, seed, draw); suppressed gaps stay as rows.

        Limits and p values of all families are computed in one go, the correction family by family.
        """
        shown = [gap.estimates for family in families.values() for gap in family if gap.estimates is not None]
        rows: list[tuple[float, ...]] = []
        if shown:
            difference, left, right = (list(part) for part in zip(*shown, strict=True))
            gaps = Gaps.of(difference, left, right, METRICS[metric].scale)
            p_values = gaps.p_values()
            adjusted, level = np.empty_like(p_values), np.empty_like(p_values)
            start = 0
            for family in families.values():
                stop = start + sum(gap.estimates is not None for gap in family)
                if stop > start:
                    influence = np.stack([estimate.influence for estimate in difference[start:stop]], axis=1)
                    joint = max_t(influence, p_values[start:stop], self.settings.alpha, self.settings.seed)
                    adjusted[start:stop], level[start:stop] = joint.p_adjusted, joint.alpha
                start = stop
            mdg = [estimate.detectable(alpha) for estimate, alpha in zip(difference, level, strict=True)]
            columns = (gaps.value, *gaps.interval(level), p_values, adjusted, np.array(mdg))
            rows = list(zip(*(column.tolist() for column in columns), strict=True))
        numbers = iter(rows)
        for label, family in families.items():
            for gap in family:
                where = (*label, gap.place.finding, group, gap.place.level, gap.reference, metric, "")
                *found, mdg_of = next(numbers) if gap.estimates is not None else (NAN,) * 6
                self.gaps.append((*where, *found, f"{metric} x {group}", mdg_of, gap.flag))

    # -- comparisons ---------------------------------------------------------------------------------------------------

    def _pairs(self) -> list[tuple[str, str, Array, Array]]:
        settings = self.settings
        named = settings.comparisons
        if named is None:
            named = [
                (control, arm) for control in settings.controls for arm in self.arms if arm not in settings.controls
            ]
        if settings.primary is not None:
            named = [(settings.primary.control, settings.primary.arm), *named]
        pairs = []
        for control, arm in dict.fromkeys(named):
            left, right = shared_runs(self.predictions.runs, control, arm)
            if not len(left):
                self.notes.append(f"{arm} and {control} share no draw and seed: not compared.")
                continue
            total = max(len(self.arms[control]), len(self.arms[arm]))
            if len(left) < total:
                self.notes.append(f"{arm} against {control}: paired on the {len(left)} of {total} runs that both have.")
            pairs.append((control, arm, left, right))
        return pairs

    def _compare(self, place: Place, found: Measured | None) -> None:
        for control, arm, left, right in self.pairs:
            draws = self.draws[left]
            n_draws, per_draw = len(np.unique(draws)), np.unique(draws, return_counts=True)[1]
            row = {
                "baseline": control, "arm": arm, "finding": place.finding, "group": place.group, "level": place.level,
                "metric": place.metric, "difference": NAN, "ci_low": NAN, "ci_high": NAN, "p_value": NAN,
                "p_adjusted": NAN, "family": f"{place.metric} x {place.group}", "n_seeds": int(per_draw.min()),
                "n_draws": n_draws, "n_patients": place.support.n_patients, "mde": NAN, "flag": place.support.flag,
                "_estimate": None,
            }  # fmt: skip
            if self._is_primary(row):
                row["family"] = "primary"
            if found is not None:
                estimate = combine(found.take(right).minus(found.take(left), paired=True), draws)
                margin = estimate.margin(self.settings.alpha)
                row |= {
                    "difference": estimate.value, "ci_low": estimate.value - margin, "ci_high": estimate.value + margin,
                    "p_value": estimate.p_value, "_estimate": estimate,
                }  # fmt: skip
            self.comparison.append(row)

    def _is_primary(self, row: dict) -> bool:
        primary = self.settings.primary
        return primary is not None and all(
            row[key] == wanted
            for key, wanted in {
                "baseline": primary.control, "arm": primary.arm, "finding": primary.finding, "group": primary.group,
                "level": primary.level, "metric": primary.metric,
            }.items()
        )  # fmt: skip

    # -- tables --------------------------------------------------------------------------------------------------------

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """``cells``, ``gaps`` and ``comparison`` with the contract's columns, the primary endpoint first."""
        families: dict[str, list[dict]] = defaultdict(list)
        for row in self.comparison:
            families[row["family"]].append(row)
        for rows in families.values():
            adjusted = holm(np.array([row["p_value"] for row in rows]))
            shown = sum(row["_estimate"] is not None for row in rows)
            for row, p in zip(rows, adjusted, strict=True):
                if row["_estimate"] is not None:
                    row["p_adjusted"] = float(p)
                    row["mde"] = row["_estimate"].detectable(self.settings.alpha / shown)
        self.comparison.sort(key=lambda row: row["family"] != "primary")
        comparison = pd.DataFrame(self.comparison, columns=list(COMPARISON))
        cells = pd.DataFrame(self.cells, columns=list(CELLS)).astype({"n_pos": "Int64"})
        return cells, pd.DataFrame(self.gaps, columns=list(GAPS)), comparison


def _run_weights(draws: Array) -> Array:
    """Weight of each run (R,) in the mean over draws of the mean over seeds."""
    names, unit = np.unique(draws, return_inverse=True)
    return 1.0 / (len(names) * np.bincount(unit)[unit])


def _runs_text(estimate: Estimate, runs: int) -> str:
    if runs == 1:
        return ""
    return f", over {estimate.n_draws} draw{'s' if estimate.n_draws > 1 else ''} x {estimate.n_seeds} seeds"
