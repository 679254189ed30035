"""The one table of an evaluation: a row per measure, what it is of, and the prompts it was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.measures.paired import compare
from cxraug.evaluation.measured import Measured

COLUMNS = (
    "measure", "of", "prompts", "real", "generated", "chance", "ratio", "ci_low", "ci_high",
    "difference", "difference_low", "difference_high", "n", "method", "flag",
)  # fmt: skip
MIN_CELL, FEW = 10, 50  # of what a measure needs (for AUROC positives, and negatives): below, suppressed or flagged
UNKNOWN = "not known to this core"
WEAK = "weak probe"  # on real images the probe is so poor that it says nothing about generated ones


def row(
    measure: str,
    of: str,
    prompts: str,
    values: Measured | Mapping[str, float] | None = None,
    *,
    n: int = 0,
    needed: int | None = None,
    method: str = "",
    flag: str = "",
    weak_below: float | None = None,
) -> dict[str, Any]:
    """A row of the table.

    Parameters
    ----------
    measure, of, prompts : what was measured, of which finding, view or attribute, on which prompts.
    values : real and generated (:func:`cxraug.cores.measures.paired.compare`), or columns; None for none.
    n : pairs of a real and a generated row (or images). needed : the count that decides about ``suppressed`` and
        ``few``; default n. weak_below : a real value under this flags the row as of a weak probe.
    """
    found = compare(values) if isinstance(values, Measured) else dict(values or {})
    needed = n if needed is None else needed
    if not flag and needed < MIN_CELL:
        found, flag = {}, "suppressed"
    if not flag and weak_below is not None and not found.get("real", np.nan) >= weak_below:
        flag = WEAK
    if not flag and needed < FEW:
        flag = "few"
    about = {"measure": measure, "of": of, "prompts": prompts, "n": n, "method": method, "flag": flag}
    return {column: (about | found).get(column, np.nan) for column in COLUMNS}


def unknown(measure: str, of: str, prompts: str, why: str = UNKNOWN, method: str = "") -> dict[str, Any]:
    """A row for what could not be measured; ``why`` becomes its flag."""
    return row(measure, of, prompts, method=method, flag=why)


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table, columns in order."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS))
