"""Which rows of a manifest a recipe wants: ``where: {column: value or list}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.studies.labels import label_matrix

_SHOWN = 12


def select_rows(
    frame: pd.DataFrame,
    where: Mapping[str, Any],
    *,
    findings: Sequence[str],
    annotated: Mapping[str, Sequence[str]],
    file: Path | None = None,
) -> np.ndarray:
    """Rows that meet every condition of ``where``, as a mask of shape (n,).

    A condition is a column and a value, or a list of values of which one has to be equal. Numbers compare as numbers,
    anything else as text; ``None`` is a missing value. The key ``labels`` takes findings, and keeps rows in which one
    of them is present.

    Raises
    ------
    InputError
        For an unknown column or finding, a value that no row has (what the file has is listed), a value that is neither
        text, number, true, false nor null, and where no row meets all conditions together.
    """
    keep = np.ones(len(frame), bool)
    for column, wanted in where.items():
        values = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
        met = np.zeros(len(frame), bool)
        if column == "labels":
            _check_known(values, findings, file)
            matrix = label_matrix(frame["labels"], frame["source"], values, annotated)
            met = (matrix == 1).any(axis=1)
        elif column not in frame:
            raise InputError(
                "where: no such column",
                file=file,
                column=str(column),
                expected="one of " + ", ".join(map(str, frame.columns)),
            )
        else:
            for value in values:
                equal = _equals(frame[column], value)
                if not equal.any():
                    raise InputError(
                        "where: no row has this value",
                        file=file,
                        column=column,
                        found=value,
                        expected=_levels(frame[column]),
                    )
                met |= equal
        keep &= met
    if not keep.any():
        raise InputError("where: no row meets all conditions together", file=file, found=dict(where))
    return keep


def _check_known(values: Sequence[object], findings: Sequence[str], file: Path | None) -> None:
    for value in values:
        if value not in findings:
            raise InputError(
                "where: no such finding",
                file=file,
                column="labels",
                found=value,
                expected="one of " + ", ".join(findings),
            )


def _equals(column: pd.Series, value: object) -> np.ndarray:
    if value is None:
        return column.isna().to_numpy(bool)
    if isinstance(value, bool):
        return column.astype("str").str.lower().isin(["true", "1"] if value else ["false", "0"]).to_numpy(bool)
    if isinstance(value, (int, float)):
        return (pd.to_numeric(column, errors="coerce") == value).to_numpy(bool, na_value=False)
    if isinstance(value, str):
        return (column.astype("str") == value).to_numpy(bool, na_value=False)
    raise InputError("where: not a value", found=value, expected="text, a number, true, false, null or a list of these")


def _levels(column: pd.Series) -> str:
    levels = [str(v) for v in pd.unique(column.dropna())]
    more = f", ... ({len(levels)} in all)" if len(levels) > _SHOWN else ""
    return "one of " + ", ".join(sorted(levels)[:_SHOWN]) + more
