"""Group levels: sex, age bands, any column, and their intersections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.studies.table import is_formula

MISSING = "missing"
AGE_BINS = (0, 20, 40, 60, 80)


def age_band_names(age_bins: Sequence[float] = AGE_BINS) -> list[str]:
    """Names of the bands that ``age_bins`` (lower bounds in years, rising) make: ``0-19, 20-39, ..., 80+``."""
    bins = list(age_bins)
    if not bins or any(b < 0 for b in bins) or any(a >= b for a, b in pairwise(bins)):
        raise InputError("age bins must rise", found=str(bins), expected="lower bounds in years such as 0,20,40,60,80")
    names = [
        f"{low:g}-{high - 1:g}" if float(low).is_integer() and float(high).is_integer() else f"{low:g}-<{high:g}"
        for low, high in pairwise(bins)
    ]
    return [*names, f"{bins[-1]:g}+"]


def group_levels(frame: pd.DataFrame, group: str, age_bins: Sequence[float] = AGE_BINS) -> pd.Series:
    """The level of every row in ``group``.

    Parameters
    ----------
    frame : any table with the group columns.
    group : a column, or columns joined by ``*`` (an intersection). ``age`` (years) is cut into bands.
    age_bins : lower bounds of the age bands in years; the last one is open. Ages below the first make ``<first``.

    Returns
    -------
    Series of strings with the index of ``frame``. Missing values are the level ``missing``; the level of an
    intersection joins the levels with ``*`` (``F*20-39``).

    Raises
    ------
    InputError : a column that is not there, an age that is not a number.
    """
    if group == "all":
        return pd.Series("all", index=frame.index, dtype="str")
    parts = [part.strip() for part in group.split("*")]
    levels = [_column_levels(frame, part, age_bins) for part in parts]
    joined = levels[0]
    for level in levels[1:]:
        joined = joined + "*" + level
    return joined.rename(group)


def level_order(levels: pd.Series, age_bins: Sequence[float] = AGE_BINS) -> list[str]:
    """The distinct ``levels`` sorted for people: age bands by age, others by name, ``missing`` last."""
    rank = {name: i for i, name in enumerate(age_band_names(age_bins))}

    def key(level: str) -> list[tuple[int, int, str]]:
        return [(part == MISSING, rank.get(part, -1), part) for part in level.split("*")]

    return sorted((str(level) for level in pd.unique(levels)), key=key)


def _column_levels(frame: pd.DataFrame, column: str, age_bins: Sequence[float]) -> pd.Series:
    if column not in frame.columns:
        raise InputError("no such group column", column=column, expected="one of " + ", ".join(map(str, frame.columns)))
    values = frame[column]
    if column == "age":
        return _age_bands(values, age_bins)
    codes, uniques = pd.factorize(values, use_na_sentinel=True)
    formula = next((i for i, value in enumerate(uniques) if isinstance(value, str) and is_formula(value)), None)
    if formula is not None:
        raise InputError("a spreadsheet would run this", row=int((codes == formula).argmax()) + 2, column=column,
                         found=uniques[formula], expected="no =, @ or the like at the start")  # fmt: skip
    names = np.array([*(_level_name(value) for value in uniques), MISSING], dtype=object)
    return pd.Series(names[codes], index=frame.index, dtype="str")


def _level_name(value: object) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip() or MISSING


def _age_bands(values: pd.Series, age_bins: Sequence[float]) -> pd.Series:
    bins = np.asarray(age_bins, dtype=float)
    names = np.array([f"<{bins[0]:g}", *age_band_names(age_bins), MISSING], dtype=object)
    years = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    bad = np.isnan(years) & values.notna().to_numpy() & (values.astype(str).str.strip() != "").to_numpy()
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise InputError(
            "not an age", row=first + 2, column="age", found=str(values.iloc[first]), expected="years or blank"
        )
    band = np.searchsorted(bins, years, side="right")
    band[np.isnan(years)] = len(names) - 1
    return pd.Series(names[band], index=values.index, dtype="str")
