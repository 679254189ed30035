"""From measured cells to the rows of ``cells.csv``, ``gaps.csv`` and ``comparison.csv``."""

from __future__ import annotations

import sys
from collections import defaultdict
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.evaluation.auprc import patient_weights
from cxraug.evaluation.cells import Cell, Support, bootstrap_variance, measure, support
from cxraug.evaluation.comparison import holm, non_inferiority, shared_runs
from cxraug.evaluation.ece import BINS, commensurate
from cxraug.evaluation.extremes import largest_range
from cxraug.evaluation.gaps import Gaps, max_t
from cxraug.evaluation.groups import MISSING, group_levels, level_order
from cxraug.evaluation.matched import matched_flag, measure_matched, overlap
from cxraug.evaluation.measured import Array, Measured, mean_of
from cxraug.evaluation.metrics import ANY_FINDING, MACRO, METRICS, NO_FINDING
from cxraug.evaluation.predictions import Predictions
from cxraug.evaluation.subjects import Subject
from cxraug.evaluation.tally import Units
from cxraug.evaluation.uncertainty import Estimate, combine, interval, shown
from cxraug.evaluation.workers import available, forked_map

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
HELD = 5  # families of influence values that one metric holds at a time
COSTLY = ("auroc", "auprc", "ece")
WORTH_A_FORK = 2e7  # rows x runs x findings x levels of a grouping: some seconds
BOOTSTRAP_BELOW = 500  # positive patients; influence values agree with a bootstrap of more (tests, benchmarks)
CALIBRATED = ("brier", "ece", "calibration_slope")
RANGED = ("auroc", "tpr", "fpr", "underdiagnosis", "overdiagnosis")  # what max_min is given of
NAN = float("nan")
NOTHING = np.empty(0)  # influence values that nobody will read


@dataclass(frozen=True)
class Place:
    """Where a number stands: finding, group, level, metric; and how much there is of it."""

    finding: str
    group: str
    level: str
    metric: str
    support: Support

    @property
    def missing(self) -> bool:
        """The level is that of rows whose group is not known."""
        return MISSING in self.level.split("*")


@dataclass(frozen=True)
class Gap:
    """One member of a family of gaps: the gap, its level and its reference (None: suppressed) at a place."""

    place: Place
    reference: str
    flag: str
    estimates: tuple[Estimate, Estimate, Estimate] | None


@dataclass(frozen=True)
class Grouping:
    """A group's cells by level, the reference (name and cell) of each, and the strata of matched populations."""

    group: str
    cells: dict[str, Cell]
    references: dict[str, tuple[str, Cell]]
    strata: Units | None


def levels_of(predictions: Predictions, group: str, age_bins: tuple[float, ...]) -> tuple[Array, list[str]]:
    """Level of every row (n,), and the levels in order."""
    levels = group_levels(predictions.table, group, age_bins)
    order = level_order(levels, age_bins)
    if len(order) > MOST_LEVELS:
        raise InputError(
            "too many levels for a group", column=group, found=len(order), expected=f"at most {MOST_LEVELS}"
        )
    if REST in order:
        raise InputError("a level with the name of the reference", column=group, found=REST, expected="another name")
    return levels.to_numpy(dtype=object), order


class Assembly:
    """Collects rows group by group; :meth:`tables` finishes the families."""

    def __init__(
        self, predictions: Predictions, settings: EvaluationSettings, subjects: list[Subject], methods: dict[str, str]
    ) -> None:
        self.predictions, self.settings, self.subjects, self.methods = predictions, settings, subjects, methods
        self.patients = predictions.patients
        self.whole = Cell.whole(self.patients)
        self.by_label: dict[Subject, Units] = {}
        runs = predictions.runs
        self.arms = {arm: np.flatnonzero((runs["arm"] == arm).to_numpy()) for arm in predictions.arms}
        self.draw_names = runs["draw"].to_numpy(dtype=object)
        self.draws = pd.factorize(self.draw_names)[0]
        self.seeds = runs["seed"].to_numpy(dtype=object)
        self.cells: list[tuple] = []
        self.gaps: list[tuple] = []
        self.comparison: list[dict] = []
        self.notes: list[str] = []
        self.matching: dict[str, dict] = {}
        self.extremes: list[dict] = []
        self.non_inferiority: list[dict] = []
        self.weighted_macro: list[dict] = []
        self.pairs = self._pairs()
        self.weights = None
        if settings.bootstrap and "auprc" in settings.metrics:
            self.weights = patient_weights(len(self.patients), settings.bootstrap, settings.seed)

    # -- rows of one grouping ------------------------------------------------------------------------------------------

    def add_group(self, group: str) -> None:
        """Measure every finding, level and metric of one grouping."""
        settings = self.settings
        of_row, levels = levels_of(self.predictions, group, settings.age_bins)
        code = pd.Categorical(of_row, categories=levels).codes
        cells = {"all": self.whole}
        if group != "all":
            cells = {level: self.whole.part(code == k) for k, level in enumerate(levels)}
        references = self._references(group, cells)
        strata = self._strata(group, cells, references) if "population" in settings.matched and group != "all" else None
        grouping = Grouping(group, cells, references, strata)
        names = [name for name in settings.metrics if name in METRICS]
        if "equalised_odds" in settings.metrics and group != "all":
            names.append("equalised_odds")
        work = len(cells) * len(self.subjects) * self.predictions.p.shape[0] * self.patients.n
        family = 8 * len(self.patients) * len(self.subjects) * len(cells)  # bytes of one number per patient and gap
        workers = available(HELD * family * self.predictions.p.shape[0]) if work > WORTH_A_FORK else 1
        if work > WORTH_A_FORK:  # a plain line: the thread of a moving bar must not live where processes are forked
            print(f"measuring by {group} ({len(cells)} levels)", file=sys.stderr, flush=True)
        by_cost = sorted(names, key=lambda name: name not in COSTLY)  # so that no worker is left alone with the last
        found = dict(zip(by_cost, forked_map(partial(self._rows_of, grouping), by_cost, workers), strict=True))
        for metric in names:
            for name, rows in found[metric].items():
                getattr(self, name).extend(rows)

    def _rows_of(self, grouping: Grouping, metric: str) -> dict[str, list]:
        """What one metric adds to each of the lists."""
        part = copy(self)
        part.cells, part.gaps, part.comparison, part.extremes, part.weighted_macro = [], [], [], [], []
        if metric == "equalised_odds":
            part._add_equalised_odds(grouping)
        else:
            part._add_metric(grouping, metric)
        return {name: getattr(part, name) for name in ("cells", "gaps", "comparison", "extremes", "weighted_macro")}

    def _add_metric(self, grouping: Grouping, metric: str) -> None:
        group, cells, references = grouping.group, grouping.cells, grouping.references
        families: dict[tuple[str, str, str], list[Gap]] = defaultdict(list)
        matched: dict[tuple[str, str, str], list[Gap]] = defaultdict(list)
        mode = METRICS[metric].matched if METRICS[metric].matched in self.settings.matched else ""
        complete = self._macro_findings(metric, cells)
        macro: dict[str, list[Measured]] = defaultdict(list)
        positives: dict[str, list[int]] = defaultdict(list)
        for subject in self.subjects:
            if metric not in subject.metrics((metric,)):
                continue
            strata = self._labels(subject) if mode == "prevalence" else grouping.strata if mode else None
            known: dict[Cell, Measured] = {}
            shown_levels: dict[str, tuple[Place, Measured]] = {}
            for level, cell in cells.items():
                place = Place(subject.name, group, level, metric, self._support(subject, metric, cell))
                found = self._measure(subject, metric, cell, known) if place.support.shown else None
                if found is not None and np.isnan(found.value).any():  # undefined: the slope of separated scores
                    place, found = replace(place, support=replace(place.support, flag="suppressed")), None
                self._add_cell(place, found, subject, cell)
                self._compare(place, found)
                if found is not None and not place.missing:
                    shown_levels[level] = place, found
                if found is not None and subject.name in complete:
                    macro[level].append(found)
                    positives[level].append(place.support.n_pos)
                if level in references and METRICS[metric].gap:
                    self._add_gaps(families, place, found, subject, references[level], known)
                if level in references and strata is not None:
                    self._add_matched(matched, place, subject, cell, references[level], strata)
            if "max_min" in self.settings.metrics and group != "all" and metric in RANGED:
                self._add_extreme("max_min", metric, group, subject, cells, [shown_levels])
        for level, parts in macro.items():
            if len(parts) > 1 and len(parts) == len(complete):
                self._add_macro(group, level, metric, parts, cells[level])
                self._weigh_macro(group, level, metric, parts, positives[level])
        self._finish_families(metric, group, families)
        families.clear()  # their influence values are the bulk of the memory
        self._finish_families(metric, group, matched, mode)

    def _add_equalised_odds(self, grouping: Grouping) -> None:
        for subject in self.subjects:
            if subject.metrics(("tpr",)):
                rates = [self._shown_levels(subject, rate, grouping.group, grouping.cells) for rate in ("tpr", "fpr")]
                self._add_extreme("equalised_odds", "all", grouping.group, subject, grouping.cells, rates)

    def _shown_levels(
        self, subject: Subject, metric: str, group: str, cells: dict[str, Cell]
    ) -> dict[str, tuple[Place, Measured]]:
        found = {}
        for level, cell in cells.items():
            place = Place(subject.name, group, level, metric, self._support(subject, metric, cell))
            if place.support.shown and not place.missing:
                found[level] = place, self._measure(subject, metric, cell, {})
        return found

    def _add_extreme(
        self,
        name: str,
        level: str,
        group: str,
        subject: Subject,
        cells: dict[str, Cell],
        blocks: list[dict[str, tuple[Place, Measured]]],
    ) -> None:
        """A row of ``max_min`` (its level is the metric) or ``equalised_odds`` over the levels that every block shows.

        Levels without a known group (``missing``) are no group and left out.
        """
        every = [key for key in cells if MISSING not in key.split("*")]
        names = [key for key in every if all(key in block for block in blocks)]
        mask = np.zeros(self.patients.n, dtype=bool)
        for key in names:
            mask |= cells[key].mask
        held = self._support(subject, "brier", self.whole.part(mask))
        flag = "suppressed"
        if len(names) > 1:
            flag = _worse(*(block[key][0].support.flag for block in blocks for key in names))
        what = "max - min" if name == "max_min" else "larger of the TPR and FPR ranges"
        what += f" over {len(names)}" + (f" of {len(every)}" if len(names) < len(every) else "") + " levels"
        for arm, runs in self.arms.items():
            for (seed, draw), chosen in self._run_sets(runs):
                where = (arm, seed, draw, subject.name, group, level, name)
                counts = (held.n, held.n_pos, held.n_patients)
                if flag == "suppressed":
                    self.cells.append((*where, NAN, NAN, NAN, *counts, "suppressed", flag))
                    continue
                draws = self.draws[chosen]
                parts = [[combine(block[key][1].take(chosen), draws) for key in names] for block in blocks]
                found = largest_range(parts, self.settings.seed)
                self.cells.append((*where, found.value, NAN, NAN, *counts, f"{what}; {found.null}", flag))
                if seed == "all":
                    self.extremes.append(
                        {"arm": arm, "finding": subject.name, "group": group, "metric": name, "of": level,
                         "levels": names, "value": found.value, "null_mean": found.mean,
                         "null_q95": found.quantile, "p_value": found.p_value, "flag": flag}
                    )  # fmt: skip

    def _run_sets(self, runs: Array) -> list[tuple[tuple[str, str], Array]]:
        """All runs of an arm together, then each alone where there are several."""
        single = [((self.seeds[run], self.draw_names[run]), np.array([run])) for run in runs]
        return [(("all", "all"), runs), *(single if len(runs) > 1 else [])]

    def _support(self, subject: Subject, metric: str, cell: Cell) -> Support:
        return support(subject, metric, cell, min_cell=self.settings.min_cell, few=self.settings.few)

    def _measure(self, subject: Subject, metric: str, cell: Cell, known: dict[Cell, Measured]) -> Measured:
        """Measure once per cell: one may be the reference of several levels."""
        if cell not in known:
            known[cell] = measure(subject, metric, cell)
        return known[cell]

    def _labels(self, subject: Subject) -> Units:
        """Patients within the label, for matched prevalence."""
        if subject not in self.by_label:
            self.by_label[subject] = Units.within(self.patients, (subject.y == 1).astype(np.intp))
        return self.by_label[subject]

    def _macro_findings(self, metric: str, cells: dict[str, Cell]) -> set[str]:
        """Findings that no known level suppresses; a level in which everything is suppressed does not count."""
        named = [level for level in cells if MISSING not in level.split("*")]
        shown = {
            subject.name: {level: self._support(subject, metric, cells[level]).shown for level in named}
            for subject in self.subjects
            if subject.name not in (NO_FINDING, ANY_FINDING) and subject.metrics((metric,))
        }
        levels = [level for level in named if any(row[level] for row in shown.values())]
        return {name for name, row in shown.items() if levels and all(row[level] for level in levels)}

    def _add_macro(self, group: str, level: str, metric: str, parts: list[Measured], cell: Cell) -> None:
        n_patients = self.patients.count(cell.rows)
        whole = Support(len(cell.rows), 0, n_patients, n_patients, "few" if n_patients < self.settings.few else "")
        place = Place(MACRO, group, level, metric, whole)
        found = mean_of(parts)
        self._add_cell(place, found, None, cell, suffix=f", mean of {len(parts)} findings")
        self._compare(place, found)

    def _weigh_macro(self, group: str, level: str, metric: str, parts: list[Measured], positives: list[int]) -> None:
        """The mean over findings weighted by their positives in the level (the weights count as given)."""
        if not sum(positives):
            return
        found = mean_of(parts, np.array(positives, dtype=float))
        for arm, runs in self.arms.items():
            estimate = combine(found.take(runs), self.draws[runs])
            value, low, high = self._shown(estimate, metric)
            where = {"arm": arm, "group": group, "level": level, "metric": metric, "findings": len(parts)}
            self.weighted_macro.append({**where, "value": value, "ci_low": low, "ci_high": high})

    # -- cells ---------------------------------------------------------------------------------------------------------

    def _add_cell(
        self, place: Place, found: Measured | None, subject: Subject | None, cell: Cell, suffix: str = ""
    ) -> None:
        metric = METRICS[place.metric]
        count = place.support
        counts = (count.n, NAN if place.finding == MACRO else count.n_pos, count.n_patients)
        for arm, runs in self.arms.items():
            single = [(self.seeds[run], self.draw_names[run]) for run in runs]
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
            few_positives = metric.name == "auprc" and count.enough < BOOTSTRAP_BELOW
            if few_positives and self.weights is not None and subject is not None:
                own, method = self._bootstrapped(own, runs, subject, cell), "patient bootstrap, logit"
            estimate = combine(own, self.draws[runs])
            where = (arm, "all", "all", place.finding, place.group, place.level, place.metric)
            numbers = self._shown(estimate, place.metric)
            method += _runs_text(estimate, len(runs))
            self.cells.append((*where, *numbers, *counts, method, count.flag))

    def _interval(self, found: Measured, scale: str) -> tuple[Array, Array, Array]:
        low, high = interval(found.value, found.variance, found.df, scale, self.settings.alpha)
        return shown(found.value, scale), low, high

    def _shown(self, estimate: Estimate, metric: str) -> tuple[float, float, float]:
        """Value and limits as they are printed."""
        scale = METRICS[metric].scale
        value, variance, df = (np.array([number]) for number in (estimate.value, estimate.variance, estimate.df))
        low, high = interval(value, variance, df, scale, self.settings.alpha)
        return float(shown(value, scale)[0]), float(low[0]), float(high[0])

    def _bootstrapped(self, own: Measured, runs: Array, subject: Subject, cell: Cell) -> Measured:
        """Scale the influence values so that their mean has the patient bootstrap's variance."""
        share = _run_weights(self.draws[runs])
        assert self.weights is not None
        wanted = bootstrap_variance(subject, runs, share, cell, self.weights)
        now = float(np.square(share @ own.influence).sum())
        if not wanted > 0 or not now > 0:
            return own
        return Measured(own.value, own.influence * np.sqrt(wanted / now), own.floor, own.df)

    def _method(self, place: Place, subject: Subject | None) -> str:
        metric = METRICS[place.metric]
        root = f"clustered, root mean square over at most {BINS} bins of equal mass, debiased"
        name = {"wilson": "clustered Wilson", "logit": "clustered logit", "linear": "clustered", "root": root}[
            metric.scale
        ]
        if place.metric in CALIBRATED and subject is not None:
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
        against_cell: tuple[str, Cell],
        known: dict[Cell, Measured],
    ) -> None:
        reference, other = against_cell
        theirs = self._support(subject, place.metric, other)
        flag = _worse(place.support.flag, theirs.flag)
        against = None
        if found is not None and theirs.shown:
            against = self._measure(subject, place.metric, other, known)
            if np.isnan(against.value).any():
                against, flag = None, "suppressed"
        self._add_members(families, place, reference, flag, found, against)

    def _references(self, group: str, cells: dict[str, Cell]) -> dict[str, tuple[str, Cell]]:
        """The reference of every level: its name and cell; none where the level is the reference, or all there is."""
        named = self.settings.reference.get(group, REST)
        if named != REST:
            return {level: (named, cells[named]) for level in cells if level != named}
        if len(cells) == 2:  # the rest of one is the other
            return {level: (REST, other) for level, other in zip(cells, reversed(list(cells.values())), strict=True)}
        return {level: (REST, self.whole.rest(cell)) for level, cell in cells.items() if len(cells) > 1}

    def _strata(self, group: str, cells: dict[str, Cell], references: dict[str, tuple[str, Cell]]) -> Units | None:
        """Patients within the strata of the covariates that the grouping leaves; notes what was matched on."""
        table, parts = self.predictions.table, group.split("*")
        left = [name for name in self.settings.match_on if name in table.columns and name not in parts]
        share: dict[str, float] = {}
        strata = None
        if left:
            stratum = pd.factorize(group_levels(table, "*".join(left), self.settings.age_bins))[0]
            strata = Units.within(self.patients, stratum)
            for level, (_, other) in references.items():
                theirs = np.bincount(stratum[other.rows], minlength=strata.kinds)
                share[level] = float((theirs[stratum[cells[level].rows]] > 0).mean())
        self.matching[group] = {"matched_on": left, "share_of_images_with_a_counterpart": share}
        return strata

    def _add_matched(
        self,
        families: dict[tuple[str, str, str], list[Gap]],
        place: Place,
        subject: Subject,
        cell: Cell,
        against_cell: tuple[str, Cell],
        strata: Units,
    ) -> None:
        """The gap with both sides weighted to a common mix of ``strata``."""
        settings, metric = self.settings, place.metric
        reference, other = against_cell
        found, against, flag = None, None, "suppressed"
        if place.support.shown:  # the effective numbers are never larger
            matching = overlap(subject, cell, other, strata)
            both = matching, matching.mirrored
            flag = _worse(*(matched_flag(metric, side, min_cell=settings.min_cell, few=settings.few) for side in both))
        if flag != "suppressed":
            found, against = (measure_matched(metric, side) for side in both)
        self._add_members(families, place, reference, flag, found, against)

    def _add_members(
        self,
        families: dict[tuple[str, str, str], list[Gap]],
        place: Place,
        reference: str,
        flag: str,
        found: Measured | None,
        against: Measured | None,
    ) -> None:
        """One member per arm, and per run where there are several."""
        for arm, runs in self.arms.items():
            for label, chosen in self._run_sets(runs):
                estimates = None
                if found is not None and against is not None:
                    left, right, draws = found.take(chosen), against.take(chosen), self.draws[chosen]
                    if METRICS[place.metric].scale == "root":
                        left, right = commensurate(left, right)
                    sides = (replace(combine(s, draws, spread=False), influence=NOTHING) for s in (left, right))
                    estimates = (combine(left.minus(right), draws), *sides)
                families[(arm, *label)].append(Gap(place, reference, flag, estimates))  # type: ignore[arg-type]

    def _finish_families(
        self, metric: str, group: str, families: dict[tuple[str, str, str], list[Gap]], matched: str = ""
    ) -> None:
        """Max-T over the shown gaps of each family (arm, seed, draw); suppressed gaps stay as rows.

        Limits and p values of all families are computed in one go, the correction family by family.
        """
        shown = [gap.estimates for family in families.values() for gap in family if gap.estimates is not None]
        rows: list[tuple[float, ...]] = []
        if shown:
            difference, left, right = (list(part) for part in zip(*shown, strict=True))
            scale = METRICS[metric].scale
            gaps = Gaps.of(difference, left, right, "linear" if scale == "root" else scale)
            p_values = gaps.p_values()
            adjusted, level = np.empty_like(p_values), np.empty_like(p_values)
            start = 0
            for family in families.values():
                stop = start + sum(gap.estimates is not None for gap in family)
                if stop > start:
                    influence = [estimate.influence for estimate in difference[start:stop]]
                    joint = max_t(influence, p_values[start:stop], self.settings.alpha, self.settings.seed)
                    adjusted[start:stop], level[start:stop] = joint.p_adjusted, joint.alpha
                start = stop
            mdg = [estimate.detectable(alpha) for estimate, alpha in zip(difference, level, strict=True)]
            columns = (gaps.value, *gaps.interval(level), p_values, adjusted, np.array(mdg))
            rows = list(zip(*(column.tolist() for column in columns), strict=True))
        numbers = iter(rows)
        for label, family in families.items():
            for gap in family:
                where = (*label, gap.place.finding, group, gap.place.level, gap.reference, metric, matched)
                *found, mdg_of = next(numbers) if gap.estimates is not None else (NAN,) * 6
                family_name = f"{metric} x {group}" + (f", {matched} matched" if matched else "")
                self.gaps.append((*where, *found, family_name, mdg_of, gap.flag))

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
                ours, theirs = found.take(right), found.take(left)
                if METRICS[place.metric].scale == "root":
                    ours, theirs = commensurate(ours, theirs)
                estimate = combine(ours.minus(theirs, paired=True), draws)
                margin = estimate.margin(self.settings.alpha)
                row |= {
                    "difference": estimate.value, "ci_low": estimate.value - margin, "ci_high": estimate.value + margin,
                    "p_value": estimate.p_value, "_estimate": replace(estimate, influence=NOTHING),
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
        self._add_non_inferiority()
        self.comparison.sort(key=lambda row: row["family"] != "primary")
        comparison = pd.DataFrame(self.comparison, columns=list(COMPARISON))
        cells = pd.DataFrame(self.cells, columns=list(CELLS)).astype({"n_pos": "Int64"})
        return cells, pd.DataFrame(self.gaps, columns=list(GAPS)), comparison

    def _add_non_inferiority(self) -> None:
        """Test the primary endpoint and AUROC on the whole set against the margin; Holm over those that are not it."""
        settings, rows = self.settings, []
        for row in self.comparison:
            primary = row["family"] == "primary"
            margin = settings.non_inferiority
            if primary and settings.primary is not None:
                margin = settings.primary.margin or margin
            chosen = primary or (row["metric"] == "auroc" and row["group"] == "all" and settings.non_inferiority)
            if margin is None or not chosen or row["_estimate"] is None:
                continue
            where = {key: row[key] for key in ("baseline", "arm", "finding", "group", "level", "metric", "flag")}
            tested = non_inferiority(row["_estimate"], row["metric"], margin, settings.alpha)
            numbers = {key: row[key] for key in ("difference", "n_draws", "n_seeds")}
            rows.append({**where, "primary": primary, **numbers, **tested, "p_adjusted": tested["p_value"]})
        others = [row for row in rows if not row["primary"]]
        for row, p in zip(others, holm(np.array([row["p_value"] for row in others])), strict=True):
            row |= {"p_adjusted": float(p), "shown": bool(p <= settings.alpha / 2)}
        self.non_inferiority = sorted(rows, key=lambda row: not row["primary"])


def _worse(*flags: str) -> str:
    return next((flag for flag in ("suppressed", "few") if flag in flags), "")


def _run_weights(draws: Array) -> Array:
    """Weight of each run (R,) in the mean over draws of the mean over seeds."""
    names, unit = np.unique(draws, return_inverse=True)
    return 1.0 / (len(names) * np.bincount(unit)[unit])


def _runs_text(estimate: Estimate, runs: int) -> str:
    if runs == 1:
        return ""
    return f", over {estimate.n_draws} draw{'s' if estimate.n_draws > 1 else ''} x {estimate.n_seeds} seeds"
