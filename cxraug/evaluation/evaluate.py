"""The audit of predictions: cells, gaps and comparisons, assembled and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cxraug import __version__
from cxraug.errors import InputError
from cxraug.evaluation.assembly import BOOTSTRAP_BELOW, CELLS, COMPARISON, GAPS, Assembly, levels_of
from cxraug.evaluation.calibration import NAMES, Asked, fit_recalibration, recalibration_method
from cxraug.evaluation.curves import CURVES, curves_of
from cxraug.evaluation.endpoint import Endpoint
from cxraug.evaluation.extremes import EXTREMES
from cxraug.evaluation.groups import AGE_BINS, age_band_names
from cxraug.evaluation.measured import Array
from cxraug.evaluation.metrics import ANY_FINDING, MACRO, METRICS
from cxraug.evaluation.mitigation import mitigate, mitigation_frame
from cxraug.evaluation.predictions import Predictions
from cxraug.evaluation.subjects import subjects_of
from cxraug.evaluation.thresholds import parse_rule, read_thresholds, thresholds_from_validation
from cxraug.evaluation.worst import worst_levels
from cxraug.storage import atomic, read_json, write_json

MATCH_ON = ("sex", "age", "view")  # as far as they are columns
METHODS = [
    "Intervals are patient-clustered: influence values are summed per patient (AUROC: DeLong 1988, Obuchowski 1997); t "
    "quantiles with Satterthwaite degrees of freedom from their fourth moments, at most the patients that count - 1.",
    "Rates: Wilson with effective n = v(1-v)/variance. AUROC, AUPRC, F1, Brier: logit scale. At 0, 1 or without any "
    "variance: Wilson with the number of patients.",
    "ECE: root mean square difference between frequency and recalibrated probability over at most 15 bins of equal "
    "mass, its square debiased by the clustered variance of the bins (Kumar et al. 2019); interval from the squared "
    "error, cut at 0. Gaps and comparisons test the squared errors, each unbiased at its own n, and are printed over "
    "the sum of the two errors, which is their difference.",
    f"AUPRC over all runs with fewer than {BOOTSTRAP_BELOW} positive patients: variance from a patient bootstrap "
    "(multinomial weights); with more, of single runs and in comparisons: influence values.",
    "Several draws or seeds: variance of the draw means over draws plus the clustered variance of the mean, what both "
    "hold counted once, degrees of freedom weighted by variance (Cochran & Cox 1950).",
    "Gaps: limits recovered from those of the two sides (Newcombe 1998, Zou & Donner 2008), simultaneous through one "
    "studentised max-T per metric and grouping; p_value is the unadjusted one. Raw gaps of AUPRC, PPV, NPV, F1, Brier "
    "and calibration slope are left out: they depend on prevalence or case mix.",
    "Matched gaps: overlap weights (Li, Morgan & Zaslavsky 2018) give level and reference one mix: `population` of the "
    "other covariates (sex, age band, view; not of findings, which are what is judged), `prevalence` of the label, "
    "which makes AUPRC, PPV, NPV, F1 and Brier comparable. Weights count as estimated; Kish's effective number of "
    "images and patients decides what is suppressed or flagged, at matched prevalence that of both classes; each kind "
    "is a family of its own.",
    "Comparisons: Holm within a family (metric and grouping); their intervals are marginal. The primary endpoint is a "
    "family of its own.",
    "max_min (its level names the metric) and equalised_odds (the larger of the TPR and FPR ranges) are biased "
    "upwards: `method` gives the mean and the 95 % quantile that levels with equal values would give (4,000 draws with "
    "the levels' errors and their correlation) and the p value; they have no interval and no correction.",
    "Non-inferiority: one-sided t test of a comparison against the margin at alpha / 2, which agrees with the end of "
    "the printed interval; Holm over the tested comparisons, the primary endpoint by itself.",
    "Macro means run over the findings (No Finding aside) that no level of a known group suppresses.",
]


class EvaluationSettings(BaseModel):
    """What to evaluate and how.

    Attributes
    ----------
    groups : columns or intersections (``sex*age``). age_bins : lower bounds in years.
    min_cell, few : suppress below, flag below (images and patients of what a metric needs).
    alpha : two-sided level; intervals are ``1 - alpha``. threshold_rule : youden, f1, sensitivity=s or fpr=f.
    reference : reference level per group; a group that is not named compares with the rest of the set.
    primary : the endpoint named in advance. comparisons : (control, arm) pairs; None = every other arm against each of
        ``controls``.
    matched : gaps to add at matched ``population`` (AUROC, rates) and ``prevalence`` (AUPRC, PPV, NPV, F1, Brier).
    match_on : what the population is matched on: those of them that are columns and not part of the group.
    non_inferiority : margin (metric units) against which comparisons of AUROC on the whole set and of the primary
        endpoint are tested one-sided; the primary endpoint's own margin goes first.
    seed : of the bootstraps. bootstrap : patient-bootstrap replicates (0: influence values instead).
    """

    model_config = ConfigDict(extra="forbid")

    groups: tuple[str, ...] = ("sex", "age")
    age_bins: tuple[float, ...] = AGE_BINS
    min_cell: int = Field(default=10, ge=0)
    few: int = Field(default=50, ge=0)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    threshold_rule: str = "youden"
    reference: dict[str, str] = Field(default_factory=dict)
    metrics: tuple[str, ...] = (*METRICS, *EXTREMES)
    primary: Endpoint | None = None
    comparisons: list[tuple[str, str]] | None = None
    controls: tuple[str, ...] = ()
    non_inferiority: float | None = Field(default=None, gt=0)
    matched: tuple[Literal["population", "prevalence"], ...] = ("population", "prevalence")
    match_on: tuple[str, ...] = MATCH_ON
    seed: int = Field(default=0, ge=0)
    bootstrap: int = Field(default=1000, ge=0)

    @field_validator("metrics")
    @classmethod
    def _metrics_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = (*METRICS, *EXTREMES)
        unknown = [name for name in value if name not in known]
        if unknown or not value:
            raise ValueError(f"unknown metric {', '.join(unknown) or '(none)'}; known are {', '.join(known)}")
        return tuple(dict.fromkeys(value))

    @field_validator("groups")
    @classmethod
    def _groups_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        seen: dict[frozenset[str], str] = {}
        for group in value:
            parts = [part.strip() for part in group.split("*")]
            if len(set(parts)) < len(parts):
                raise ValueError(f"{group} crosses a column with itself")
            if seen.setdefault(frozenset(parts), group) != group:
                raise ValueError(f"{group} and {seen[frozenset(parts)]} are one grouping")
        return value

    @field_validator("threshold_rule")
    @classmethod
    def _rule_known(cls, value: str) -> str:
        try:
            parse_rule(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("age_bins")
    @classmethod
    def _bins_rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not np.isfinite(value).all():
            raise ValueError(f"age bins are finite numbers, found {', '.join(map(str, value))}")
        try:
            age_band_names(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value


@dataclass
class Evaluation:
    """The evaluation of one set of predictions: three tables with the contract's columns, and what they rest on.

    ``curves``: the ROC and calibration curves of :func:`cxraug.evaluation.curves.curves_of`.
    """

    cells: pd.DataFrame
    gaps: pd.DataFrame
    comparison: pd.DataFrame
    info: dict[str, Any] = field(default_factory=dict)
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CURVES)))

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Read what :func:`write_evaluation` wrote."""
        folder = Path(folder)
        tables = {name: _read(folder / f"{name}.csv", columns) for name, columns in _TABLES.items()}
        info = read_json(folder / "evaluation.json")
        return cls(tables["cells"], tables["gaps"], tables["comparison"], info, tables["curves"])


_TABLES = {"cells": CELLS, "gaps": GAPS, "comparison": COMPARISON, "curves": CURVES}
_TEXT = {"arm", "baseline", "seed", "draw", "finding", "group", "level", "reference", "metric", "matched", "method",
         "family", "flag", "curve"}  # fmt: skip


def evaluate(
    predictions: Predictions,
    settings: EvaluationSettings | None = None,
    thresholds: Sequence[str | Path | pd.DataFrame] | pd.DataFrame | None = None,
    *,
    recalibration: Asked = "platt",
    mitigation: tuple[str, str] | None = None,
) -> Evaluation:
    """Measure every cell, gap and comparison.

    Parameters
    ----------
    predictions : from :func:`cxraug.evaluation.predictions.read_predictions`.
    thresholds : tables ``finding,threshold``, one for all files or one per file; default: chosen on validation rows by
        ``settings.threshold_rule``.
    recalibration : on validation rows, before Brier score, ECE and calibration slope; see
        :func:`cxraug.evaluation.calibration.fit_recalibration`.
    mitigation : (group, constraint) of thresholds by group to show before and after; nothing else changes. See
        :func:`cxraug.evaluation.mitigation.mitigate`.

    Raises
    ------
    InputError : a group column, reference level, arm or finding that is not there; an unknown recalibration; a
        mitigation that cannot be made.
    """
    settings = settings or EvaluationSettings()
    _check_names(predictions, settings, mitigation[0] if mitigation else None)
    if recalibration not in NAMES:
        raise InputError("unknown recalibration", found=recalibration, expected=", ".join(NAMES))
    if thresholds is None:
        cuts, notes = thresholds_from_validation(predictions, settings.threshold_rule)
        source = settings.threshold_rule if not np.isnan(cuts).all() else "none"
    else:
        given = [thresholds] if isinstance(thresholds, pd.DataFrame) else list(thresholds)
        (cuts, notes), source = read_thresholds(given, predictions), "given"
    mitigated = mitigate(predictions, settings, cuts, *mitigation) if mitigation else None
    calibrated, methods = recalibrate(predictions, recalibration)
    subjects = subjects_of(predictions, cuts, calibrated)
    assembly = Assembly(predictions, settings, subjects, methods)
    groups = list(dict.fromkeys(["all", *settings.groups]))
    if settings.primary is not None and settings.primary.group not in groups:
        groups.append(settings.primary.group)
    for group in groups:
        assembly.add_group(group)
    cells, gaps, comparison = assembly.tables()
    curves = curves_of(
        predictions, subjects, cells, age_bins=settings.age_bins, least=settings.min_cell, alpha=settings.alpha
    )
    info = {
        "settings": settings.model_dump(mode="json"),
        "primary": settings.primary.model_dump() if settings.primary else None,
        "versions": {"cxraug": __version__} | {name: version(name) for name in ("numpy", "scipy", "pandas")},
        "files": list(predictions.sources),
        "judged": predictions.judged,
        "findings": list(predictions.findings),
        "n_images": len(predictions.table),
        "n_patients": len(predictions.patients),
        "runs": predictions.runs.to_dict("records"),
        "threshold_source": source,
        "thresholds": _threshold_records(predictions, cuts),
        "recalibration": methods,
        "matching": assembly.matching,
        "extremes": assembly.extremes,
        "worst_levels": worst_levels(cells),
        "macro_weighted_by_positives": assembly.weighted_macro,
        "non_inferiority": assembly.non_inferiority,
        "methods": METHODS,
        "notes": [*predictions.notes, *notes, *assembly.notes],
    }
    if mitigated is not None:
        info["mitigation"] = mitigated
    return Evaluation(cells, gaps, comparison, info, curves)


def recalibrate(predictions: Predictions, asked: Asked = "platt") -> tuple[Array, dict[str, str]]:
    """Probabilities (R, F, n) recalibrated on each run's own validation rows, and the method per finding.

    One method per finding for all runs (that of the run with the fewest validation labels), so that arms compare.
    """
    rank = ("none", "intercept", NAMES[asked])
    calibrated, methods = np.empty_like(predictions.p), {}
    for i, finding in enumerate(predictions.findings):
        possible = [recalibration_method(validation.y[i], asked) for validation in predictions.validation]
        methods[finding] = method = min(possible, key=rank.index)
        for run, validation in enumerate(predictions.validation):
            fitted = fit_recalibration(validation.y[i], validation.p[i], method)
            calibrated[run, i] = fitted.apply(predictions.p[run, i])
    return calibrated, methods


def write_evaluation(evaluation: Evaluation, folder: str | Path) -> None:
    """Write ``cells``, ``gaps``, ``comparison``, ``curves``, ``thresholds`` and ``mitigation`` where one was asked for
    (CSV), and ``evaluation.json`` last."""
    folder = Path(folder)
    for name, columns in _TABLES.items():
        with atomic(folder / f"{name}.csv") as path:
            getattr(evaluation, name)[list(columns)].to_csv(path, index=False)
    with atomic(folder / "thresholds.csv") as path:
        chosen = evaluation.info.get("thresholds", [])
        pd.DataFrame(chosen, columns=["finding", "threshold", "arm", "seed", "draw"]).to_csv(path, index=False)
    if "mitigation" in evaluation.info:
        with atomic(folder / "mitigation.csv") as path:
            mitigation_frame(evaluation.info["mitigation"]).to_csv(path, index=False)
    else:
        (folder / "mitigation.csv").unlink(missing_ok=True)  # of an earlier evaluation
    write_json(folder / "evaluation.json", evaluation.info)


def _check_names(predictions: Predictions, settings: EvaluationSettings, mitigated: str | None) -> None:
    arms = predictions.arms
    for name in (ANY_FINDING, MACRO):
        if name in predictions.findings:
            raise InputError("a name that the tables use themselves", column=f"p_{name}", expected="another name")
    for group in settings.groups:
        levels = levels_of(predictions, group, settings.age_bins)[1]  # raises for a column that is not there
        if settings.reference.get(group, levels[0]) not in levels:
            raise InputError(
                f"no such reference level of {group}",
                found=settings.reference[group],
                expected=", ".join(levels[:20]),
            )
    for group in settings.reference:
        if group not in settings.groups:
            raise InputError("a reference for a group that is not asked for", found=group)
    used = [*settings.groups, *([mitigated] if mitigated else [])]
    for column in dict.fromkeys([*(part.strip() for g in used for part in g.split("*")), *settings.match_on]):
        if column in predictions.unequal:
            raise InputError(
                "the runs disagree on a group", column=column, found=predictions.unequal[column], expected="one value"
            )
    for column in settings.match_on:
        if column not in MATCH_ON and column not in predictions.table.columns:
            have = ", ".join(map(str, predictions.table.columns))
            raise InputError("no such column to match on", column=column, expected=f"one of {have}")
    wanted = [*settings.controls, *(name for pair in settings.comparisons or [] for name in pair)]
    if settings.primary is not None:
        wanted += [settings.primary.arm, settings.primary.control]
        known = [*predictions.findings, "any finding", "macro"]
        if settings.primary.finding not in known:
            raise InputError(
                "the primary endpoint's finding was not predicted",
                found=settings.primary.finding,
                expected=", ".join(known),
            )
    for name in wanted:
        if name not in arms:
            raise InputError("no such arm in the predictions", found=name, expected=", ".join(arms))


def _threshold_records(predictions: Predictions, cuts: Array) -> list[dict[str, Any]]:
    runs = predictions.runs.to_dict("records")
    return [
        {"finding": name, "threshold": float(cuts[r, i]), **{key: run[key] for key in ("arm", "seed", "draw")}}
        for i, name in enumerate(predictions.findings)
        for r, run in enumerate(runs)
        if not np.isnan(cuts[r, i])
    ]


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    if not path.is_file():
        raise InputError("no such file", file=path, expected="the folder that cxraug evaluate wrote (--out)")
    text = [column for column in columns if column in _TEXT]
    frame = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values={
        column: [""] for column in columns if column not in _TEXT
    })  # fmt: skip
    return frame[list(columns)].astype({"n_pos": "Int64"} if "n_pos" in columns else {})
