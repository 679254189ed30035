"""Operating thresholds: one per finding and run, chosen on validation by a named rule, then frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.evaluation.measured import Array
from cxraug.evaluation.predictions import RUN, Predictions, read_table

RULES = "youden, f1, sensitivity=0.9 or fpr=0.1"


def parse_rule(rule: str) -> tuple[str, float]:
    """``"sensitivity=0.9"`` -> ``("sensitivity", 0.9)``; ``youden`` and ``f1`` take no number."""
    name, _, number = rule.partition("=")
    try:
        if name in ("youden", "f1") and not number:
            return name, 0.0
        if name in ("sensitivity", "fpr") and 0 < float(number) < 1:
            return name, float(number)
    except ValueError:
        pass  # not a number: the same message as for an unknown rule
    raise InputError("unknown threshold rule", found=rule, expected=RULES)


def choose_threshold(y: Array, p: Array, rule: str = "youden") -> float:
    """The threshold (positive where ``p >= threshold``) that the rule picks among the scores that occur.

    Youden: largest TPR - FPR; F1: largest F1; ``sensitivity=s``: the highest threshold with TPR >= s; ``fpr=f``: the
    lowest with FPR <= f. Among equals the highest. NaN without both classes (blank y is left out).
    """
    name, number = parse_rule(rule)
    known = ~np.isnan(y)
    y, p = y[known] == 1, p[known]
    positives, negatives = int(y.sum()), int((~y).sum())
    if not positives or not negatives:
        return float("nan")
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    true, false = np.cumsum(y[order])[last], np.cumsum(~y[order])[last]
    candidates = p[order][last]
    if name == "sensitivity":
        return float(candidates[np.argmax(true / positives >= number - 1e-12)])
    if name == "fpr":
        allowed = np.flatnonzero(false / negatives <= number + 1e-12)
        return float(candidates[allowed[-1]]) if len(allowed) else float(np.nextafter(candidates[0], np.inf))
    gain = true / positives - false / negatives if name == "youden" else 2 * true / (true + false + positives)
    return float(candidates[np.argmax(gain)])


def thresholds_from_validation(predictions: Predictions, rule: str) -> tuple[Array, list[str]]:
    """Thresholds (R, F) from each run's own validation rows, NaN where there are none; and what to say about it."""
    chosen = np.full((len(predictions.runs), len(predictions.findings)), np.nan)
    for run, validation in enumerate(predictions.validation):
        for finding in range(len(predictions.findings)):
            chosen[run, finding] = choose_threshold(validation.y[finding], validation.p[finding], rule)
    without = [run for run, validation in enumerate(predictions.validation) if validation.y.shape[1] == 0]
    if without:
        return chosen, [
            "No validation rows and no thresholds: metrics that need a threshold are left out (0.5 is never assumed)."
        ]
    names = [name for i, name in enumerate(predictions.findings) if np.isnan(chosen[:, i]).any()]
    if names:
        return chosen, [f"No threshold for {', '.join(names)}: validation lacks positives or negatives in some run."]
    return chosen, []


def read_thresholds(sources: Sequence[str | Path | pd.DataFrame], predictions: Predictions) -> tuple[Array, list[str]]:
    """Thresholds (R, F) from one table for all runs, or one per prediction file (``finding,threshold`` and
    optionally ``arm,seed,draw``); NaN for findings that are not named."""
    if len(sources) not in (1, predictions.n_files):
        raise InputError(
            "thresholds must be given once, or once per prediction file",
            found=len(sources),
            expected=" or ".join(map(str, sorted({1, predictions.n_files}))),
        )
    chosen = np.full((len(predictions.runs), len(predictions.findings)), np.nan)
    column = {name: i for i, name in enumerate(predictions.findings)}
    for number, source in enumerate(sources):
        frame, name = _threshold_table(source)
        if not set(frame["finding"].astype(str)) & set(column):
            raise InputError("names no finding of the predictions", file=name, expected=", ".join(column))
        used = False
        mine = np.ones(len(predictions.runs), dtype=bool)
        if len(sources) > 1:
            mine = (predictions.runs["file"] == number).to_numpy()
        for row in frame.to_dict("records"):
            finding = str(row["finding"])
            if finding not in column:
                continue
            rows = mine.copy()
            for key in RUN:
                if key in frame.columns:
                    rows &= (predictions.runs[key] == str(row[key])).to_numpy()
            chosen[rows, column[finding]] = float(row["threshold"])
            used = used or bool(rows.any())
        if not used:
            runs = predictions.runs[list(RUN)].drop_duplicates().head(4).agg(" ".join, axis=1)
            raise InputError("names no arm, seed and draw of the predictions", file=name, expected=", ".join(runs))
    missing = [name for name, i in column.items() if np.isnan(chosen[:, i]).any()]
    notes = [f"No threshold given for {', '.join(missing)}: threshold metrics are left out there."] if missing else []
    return chosen, notes


def _threshold_table(source: str | Path | pd.DataFrame) -> tuple[pd.DataFrame, str | None]:
    frame, name = (source, None) if isinstance(source, pd.DataFrame) else (read_table(source), str(source))
    for column in ("finding", "threshold"):
        if column not in frame.columns:
            raise InputError("missing column", file=name, column=column, expected="finding,threshold")
    value = pd.to_numeric(frame["threshold"], errors="coerce")
    if value.isna().any():
        row = int(np.flatnonzero(value.isna())[0])
        raise InputError(
            "not a number", file=name, row=row + 2, column="threshold", found=str(frame["threshold"].iloc[row])
        )
    wrong = np.flatnonzero(
        ~value.between(0, np.nextafter(1, 2))
    )  # just above 1 calls nothing: the rule fpr= may say it
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            "not a probability", file=name, row=row + 2, column="threshold", found=str(frame["threshold"].iloc[row]),
            expected="0 to 1 (of logits too, which become probabilities)",
        )  # fmt: skip
    twice = np.flatnonzero(frame.duplicated([key for key in ("finding", *RUN) if key in frame.columns]))
    if len(twice):
        row = int(twice[0])
        raise InputError(
            "a second threshold of one finding", file=name, row=row + 2, found=str(frame["finding"].iloc[row]),
            expected="one for each finding, arm, seed and draw",
        )  # fmt: skip
    return frame.assign(threshold=value), name
