"""Group thresholds as a named mitigation: fitted on validation, shown before and after, never applied to anything else.

The rule is fairlearn's ``ThresholdOptimizer`` (Hardt, Price & Srebro 2016), an optional package.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.evaluation.assembly import NOTHING, REST, levels_of
from cxraug.evaluation.cells import Cell, Support, measure, support
from cxraug.evaluation.gaps import Gaps, max_t
from cxraug.evaluation.groups import MISSING, group_levels
from cxraug.evaluation.measured import Array, Measured
from cxraug.evaluation.predictions import Predictions
from cxraug.evaluation.subjects import Subject
from cxraug.evaluation.uncertainty import Estimate, combine, interval
from cxraug.seeds import derive_seed

if TYPE_CHECKING:
    from cxraug.evaluation.evaluate import EvaluationSettings

CONSTRAINTS = ("equalized_odds", "true_positive_rate_parity", "false_positive_rate_parity")
RATES = ("tpr", "fpr")
STATES = ("before", "after")
_ENDS = ("", "_low", "_high")
MITIGATION = (
    "arm", "finding", "group", "level", "reference", "metric",
    *(f"{name}{end}" for name in STATES for end in _ENDS),
    *(f"gap_{name}{end}" for name in (*STATES, "change") for end in _ENDS),
    "n", "n_pos", "n_patients", "threshold", "flag",
)  # fmt: skip
OWN, KEPT = "group", "kept"
NAN = float("nan")


@dataclass
class _Row:
    """A level (or the whole set) of one finding and rate in one arm: its numbers, and its gaps (None: no gap)."""

    values: dict[str, Any]
    gaps: dict[str, tuple[Estimate, Estimate, Estimate]] | None


def mitigate(
    predictions: Predictions, settings: EvaluationSettings, thresholds: Array, group: str, constraint: str
) -> dict[str, Any]:
    """TPR and FPR of every level of ``group`` before and after thresholds by group.

    Parameters
    ----------
    thresholds : (R, F), one frozen threshold per run and finding: "before". Findings without one are left out.
    group : a column or an intersection. constraint : what fairlearn makes equal on each run's own validation rows; the
        objective is balanced accuracy.

    Returns
    -------
    dict for ``evaluation.json``; its ``rows`` have the columns :data:`MITIGATION`.

    Notes
    -----
    Levels with fewer than ``min_cell`` present or absent validation images in some run, or of unknown group, keep the
    one threshold (``threshold`` is ``kept``). The rule draws at random between two thresholds for some images; the
    draws come from ``settings.seed``, and ``redrawn`` is the share of test decisions that another draw would change.
    Intervals are patient-clustered and take the fitted rule as given. Those of gaps are simultaneous (max-T) over
    findings x levels per arm and rate, before, after and for the change each.

    Raises
    ------
    InputError : no fairlearn, an unknown constraint or column, no validation rows, or nothing that could be fitted.
    """
    require_fairlearn()
    if constraint not in CONSTRAINTS:
        raise InputError("unknown mitigation", found=constraint, expected=", ".join(CONSTRAINTS))
    if any(not len(validation.table) for validation in predictions.validation):
        raise InputError("a mitigation is fitted on validation rows", found="none", expected="rows with split val")
    levels, names = levels_of(predictions, group, settings.age_bins)
    masks = {name: levels == name for name in names}
    known = [group_levels(v.table, group, settings.age_bins).to_numpy(dtype=object) for v in predictions.validation]
    least = max(settings.min_cell, 1)
    notes, rows, redrawn = [], [], {}
    for i, finding in enumerate(predictions.findings):
        if np.isnan(thresholds[:, i]).any():
            notes.append(f"{finding}: no threshold to start from, not mitigated.")
            continue
        own = [
            name
            for name in names
            if MISSING not in name.split("*")
            and all(_enough(v.y[i][at == name], least) for v, at in zip(predictions.validation, known, strict=True))
        ]
        if len(own) < 2:
            notes.append(f"{finding}: fewer than two levels hold {least} positives and negatives on validation.")
            continue
        before = predictions.p[:, i] >= thresholds[:, i, None]
        after, other = _decisions(predictions, i, before, levels, known, own, constraint, settings.seed)
        redrawn[finding] = float((after != other).mean())
        subjects = {
            name: Subject(finding, predictions.y[i], None, None, decision)
            for name, decision in zip(STATES, (before, after), strict=True)
        }
        for metric in RATES:
            rows += _rows(predictions, settings, subjects, metric, group, masks, own)
    if not rows:
        raise InputError("nothing to mitigate", column=group, found=" ".join(notes), expected="more validation rows")
    _add_gaps(rows, settings)
    rows.sort(key=lambda row: predictions.arms.index(row.values["arm"]))
    return {
        "method": "fairlearn ThresholdOptimizer, objective balanced_accuracy_score",
        "fairlearn": version("fairlearn"),
        "group": group,
        "constraint": constraint,
        "seed": settings.seed,
        "redrawn": redrawn,
        "notes": notes,
        "rows": [{name: row.values[name] for name in MITIGATION} for row in rows],
    }


def require_fairlearn() -> None:
    """Raise :class:`InputError` where the optional package is not installed."""
    try:
        import fairlearn.postprocessing  # noqa: F401
    except ImportError:
        raise InputError(
            "--mitigate needs fairlearn, which is not installed", expected="pip install 'cxraug[fairlearn]'"
        ) from None


def _enough(y: Array, least: int) -> bool:
    return min(int((y == 1).sum()), int((y == 0).sum())) >= least


def _decisions(
    predictions: Predictions,
    i: int,
    before: Array,
    levels: Array,
    known: list[Array],
    own: list[str],
    constraint: str,
    seed: int,
) -> tuple[Array, Array]:
    """Decisions (R, n) on finding ``i`` by each run's own rule, drawn twice; levels not ``own`` stay ``before``."""
    after, other = before.copy(), before.copy()
    cell = np.isin(levels, own)
    for run, (validation, at) in enumerate(zip(predictions.validation, known, strict=True)):
        use = np.isin(at, own) & ~np.isnan(validation.y[i])
        rule = _fit(validation.p[i][use], validation.y[i][use], at[use], constraint)
        where = [predictions.findings[i], *(predictions.runs[key].iloc[run] for key in ("arm", "seed", "draw"))]
        for draw, decision in enumerate((after, other)):
            state = derive_seed(seed, "mitigation", *where, draw)
            score, level = predictions.p[run, i][cell], levels[cell]
            decision[run, cell] = rule.predict(score[:, None], sensitive_features=level, random_state=state) == 1
    return after, other


def _fit(p: Array, y: Array, levels: Array, constraint: str) -> Any:
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.base import BaseEstimator

    class Scores(BaseEstimator):
        """Passes the scores on: the classifier was trained elsewhere."""

        def fit(self, X: Array, y: Array) -> Scores:
            return self

        def predict(self, X: Array) -> Array:
            return np.asarray(X)[:, 0]

        def __sklearn_is_fitted__(self) -> bool:
            return True

    rule = ThresholdOptimizer(
        estimator=Scores(), constraints=constraint, objective="balanced_accuracy_score", prefit=True,
        predict_method="predict",
    )  # fmt: skip
    return rule.fit(p[:, None], y.astype(int), sensitive_features=levels)


def _rows(
    predictions: Predictions,
    settings: EvaluationSettings,
    subjects: dict[str, Subject],
    metric: str,
    group: str,
    masks: dict[str, Array],
    own: list[str],
) -> list[_Row]:
    """One row per arm for the whole set and for every level."""
    draws = predictions.runs["draw"].to_numpy(dtype=object)
    arms = predictions.runs["arm"].to_numpy(dtype=object)
    subject = subjects["before"]

    def held(cell: Cell) -> Support:
        return support(subject, metric, cell, min_cell=settings.min_cell, few=settings.few)

    def found(cell: Cell) -> dict[str, Measured]:
        return {name: measure(subjects[name], metric, cell) for name in STATES}

    rows = []
    whole = Cell.whole(predictions.patients)
    cells = {level: whole.part(mask) for level, mask in masks.items()}
    for level, cell in {"all": whole, **cells}.items():
        mine = held(cell)
        ours = found(cell) if mine.shown else None
        reference, other = "", None
        if level != "all":
            reference = settings.reference.get(group, REST)
            if reference != level and len(masks) > 1:
                other = whole.rest(cell) if reference == REST else cells[reference]
        rest = held(other) if other is not None else None
        theirs = found(other) if other is not None and rest is not None and rest.shown else None
        flags = {mine.flag} | ({rest.flag} if rest is not None else set())
        for arm in predictions.arms:
            runs = np.flatnonzero(arms == arm)
            threshold = "" if level == "all" else OWN if level in own else KEPT
            values: dict[str, Any] = dict.fromkeys(MITIGATION, NAN) | {
                "arm": arm, "finding": subject.name, "group": group, "level": level, "reference": reference,
                "metric": metric, "n": mine.n, "n_pos": mine.n_pos, "n_patients": mine.n_patients,
                "threshold": threshold, "flag": next((f for f in ("suppressed", "few") if f in flags), ""),
            }  # fmt: skip
            gaps = None
            if ours is not None:
                for name in STATES:
                    estimate = combine(ours[name].take(runs), draws[runs])
                    value, variance, df = (np.array([x]) for x in (estimate.value, estimate.variance, estimate.df))
                    low, high = interval(value, variance, df, "wilson", settings.alpha)
                    values |= {name: estimate.value, f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}
            if ours is not None and theirs is not None:
                left, right = ({name: side[name].take(runs) for name in STATES} for side in (ours, theirs))
                gaps = {name: _gap(left[name], right[name], draws[runs]) for name in STATES}
                ours_moved, theirs_moved = (side["after"].minus(side["before"], paired=True) for side in (left, right))
                gaps["change"] = _gap(ours_moved, theirs_moved, draws[runs])
            rows.append(_Row(values, gaps))
    return rows


def _gap(left: Measured, right: Measured, draws: Array) -> tuple[Estimate, Estimate, Estimate]:
    """The gap and its two sides, the runs as given."""
    sides = (replace(combine(side, draws, spread=False), influence=NOTHING) for side in (left, right))
    return (combine(left.minus(right), draws), *sides)  # type: ignore[return-value]


def _add_gaps(rows: list[_Row], settings: EvaluationSettings) -> None:
    """Simultaneous intervals per arm and rate over findings x levels: as in ``gaps.csv`` for the rates themselves."""
    families: dict[tuple[str, str, str], list[tuple[_Row, tuple[Estimate, Estimate, Estimate]]]] = defaultdict(list)
    for row in rows:
        for name, estimates in (row.gaps or {}).items():
            families[row.values["arm"], row.values["metric"], name].append((row, estimates))
    for (_, _, name), members in families.items():
        difference, left, right = (list(part) for part in zip(*(found for _, found in members), strict=True))
        gaps = Gaps.of(difference, left, right, "linear" if name == "change" else "wilson")
        influence = [estimate.influence for estimate in difference]
        low, high = gaps.interval(max_t(influence, gaps.p_values(), settings.alpha, settings.seed).alpha)
        for (row, _), value, lower, upper in zip(members, gaps.value, low, high, strict=True):
            row.values |= {f"gap_{name}": float(value), f"gap_{name}_low": float(lower),
                           f"gap_{name}_high": float(upper)}  # fmt: skip


def mitigation_frame(found: dict[str, Any]) -> pd.DataFrame:
    """The rows as a table with the columns :data:`MITIGATION`."""
    return pd.DataFrame(found["rows"], columns=list(MITIGATION))
