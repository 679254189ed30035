"""One attribute changed at the same seed: what the reader sees change, and what it should not see change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.measures import table
from cxraug.cores.measures.reader import Reading
from cxraug.studies.labels import format_labels, parse_labels

LEAST_UNIT = 0.2  # real groups must differ by so much (in probability, or years) for a share of it to mean anything
YEARS = 30.0  # by which an age is changed: up below 55, down from there
HOW = (
    "same seed, this attribute changed: mean change of the reader's output in units of the difference between real "
    "groups (present and absent, F and M, 30 years apart); 1 is as large as real"
)
REST = "largest mean change of any other output when this attribute is swapped, either way, in units of its real groups"


def swap_plan(plan: pd.DataFrame, findings: Sequence[str], conditions: Sequence[str], most: int) -> pd.DataFrame:
    """The first ``most`` prompts of ``plan``, as they are (``...-base``) and with each attribute changed in turn.

    Columns beyond the plan's: ``base`` (the prompt), ``swapped`` (the attribute, "" for the base), ``direction`` (+1
    where the finding was added, the sex became F or the age higher, else -1). A label that the prompt leaves open, and
    an unknown sex or age, is not swapped.
    """
    lines = []
    for row in plan.head(most).to_dict("records"):
        name = row["prompt_id"]
        about = {"base": name, "reason": "evaluation: swaps"}
        lines.append(row | about | {"prompt_id": f"{name}-base", "swapped": "", "direction": 0})
        labels = parse_labels(row["labels"]) if isinstance(row["labels"], str) else {}
        for at, finding in enumerate(findings):
            if labels.get(finding) in (0, 1):
                now = 1 - labels[finding]
                changed = {"labels": format_labels(labels | {finding: now}), "swapped": finding}
                lines.append(row | about | changed | {"prompt_id": f"{name}-f{at}", "direction": 2 * now - 1})
        if "sex" in conditions and row["sex"] in ("F", "M"):
            to = "M" if row["sex"] == "F" else "F"
            changed = {"sex": to, "swapped": "sex", "prompt_id": f"{name}-sex"}
            lines.append(row | about | changed | {"direction": 1 if to == "F" else -1})
        if "age" in conditions and row["age"] == row["age"]:
            up = row["age"] < 55
            changed = {"age": row["age"] + (YEARS if up else -YEARS), "swapped": "age", "prompt_id": f"{name}-age"}
            lines.append(row | about | changed | {"direction": 1 if up else -1})
    return pd.DataFrame(lines).reset_index(drop=True)


def real_units(reading: Reading, y: np.ndarray, sex: np.ndarray, age: np.ndarray) -> np.ndarray:
    """By how much the reader's outputs (findings, sex, age) differ between real groups: (F + 2,), NaN where unknown.

    Findings and sex: mean probability of the present (F) minus that of the absent (M). Age: the slope of the reader's
    age on the true one, times 30 years.
    """
    units = []
    for said, told in zip([*reading.findings.T, reading.female], [*y.T, sex], strict=True):
        both = (told == 1).any() and (told == 0).any()
        units.append(float(said[told == 1].mean() - said[told == 0].mean()) if both else np.nan)
    known = np.isfinite(age)
    wide = known.sum() >= 2 and float(age[known].std()) > 0
    slope = float(np.polyfit(age[known], reading.age[known], 1)[0]) if wide else np.nan
    return np.array([*units, slope * YEARS])


def swap_matrix(reading: Reading, swaps: pd.DataFrame, findings: Sequence[str], units: np.ndarray) -> pd.DataFrame:
    """The mean change of every output (``read``) for every attribute that was swapped (``swapped``), in real units.

    ``reading`` is of the images of ``swaps``, row by row. Columns ``swapped, read, change, error, n``; ``error`` is the
    standard error over prompts.
    """
    outputs = np.column_stack([reading.findings, reading.female, reading.age]) / units
    base = {str(swaps["base"].iloc[i]): i for i in np.flatnonzero((swaps["swapped"] == "").to_numpy())}
    names, lines = [*findings, "sex", "age"], []
    for swapped in dict.fromkeys(name for name in swaps["swapped"] if name):
        at = np.flatnonzero((swaps["swapped"] == swapped).to_numpy())
        from_ = np.array([base[str(swaps["base"].iloc[i])] for i in at])
        change = (outputs[at] - outputs[from_]) * swaps["direction"].to_numpy(float)[at, None]
        for column, read in enumerate(names):
            values = change[:, column]
            error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
            lines.append(
                {"swapped": swapped, "read": read, "change": float(values.mean()), "error": error, "n": len(at)}
            )
    return pd.DataFrame(lines, columns=["swapped", "read", "change", "error", "n"])


def swap_rows(
    matrix: pd.DataFrame, weak: Sequence[str], *, prompts: str = "swaps", of: str = ""
) -> list[dict[str, Any]]:
    """Two rows per swapped attribute: what it changed of itself, and the largest of what it changed of the others.

    ``weak`` outputs, which the reader cannot tell on real images, are left out of the others.
    """
    from scipy.stats import t

    rows = []
    for swapped, part in matrix.groupby("swapped", sort=False):
        n = int(part["n"].iloc[0])
        own = part[part["read"] == swapped].iloc[0]
        rest = part[(part["read"] != swapped) & ~part["read"].isin(list(weak))]
        reach = float(t.ppf(0.975, max(n - 1, 1)))
        flag = table.WEAK if swapped in weak else ""
        rows.append(
            table.row(
                "swap: own change", str(swapped) + of, prompts, _beside(own, reach, 1.0), n=n, method=HOW, flag=flag
            )
        )
        if len(rest):
            worst = rest.iloc[int(rest["change"].abs().to_numpy().argmax())]
            rows.append(
                table.row("swap: other change", str(swapped) + of, prompts, _beside(worst, reach, 0.0), n=n,
                          method=f"{REST}; here {worst['read']}", flag=flag)
            )  # fmt: skip
    return rows


def _beside(cell: pd.Series, reach: float, real: float) -> dict[str, float]:
    change, half = float(cell["change"]), reach * float(cell["error"])
    values = {"real": real, "generated": change, "difference": change - real}
    values |= {"difference_low": change - real - half, "difference_high": change - real + half}
    return values | ({"ratio": change, "ci_low": change - half, "ci_high": change + half} if real else {})
