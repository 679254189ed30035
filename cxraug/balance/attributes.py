"""Sensitive features beside a sampler's rows: what of them a prompt can ask for, and what synthetic rows then have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxraug.balance.refusal import SamplingError

if TYPE_CHECKING:
    from cxraug.cores.core import Card

ASKED = ("sex", "age", "race", "source", "view")  # columns that a prompt can ask for


def sensitive_frame(sensitive: Any, n: int) -> pd.DataFrame:
    """Sensitive features as a frame of ``n`` rows without an index of its own; no columns for ``None``.

    Parameters
    ----------
    sensitive : a DataFrame, a named Series, a dict of columns, or None. Rows are those of X, in its order.

    Raises
    ------
    SamplingError
        Another type or number of rows, columns without a name, a sex that is not M, F or blank, an age that is no
        number.
    """
    if sensitive is None:
        return pd.DataFrame(index=range(n))
    if isinstance(sensitive, pd.Series):
        frame = sensitive.to_frame()
    elif isinstance(sensitive, (pd.DataFrame, Mapping)):
        frame = pd.DataFrame(sensitive)
    else:
        raise SamplingError("bad sensitive_features", found=type(sensitive).__name__,
                            expected="a DataFrame, a named Series or a dict of columns")  # fmt: skip
    if len(frame) != n:
        raise SamplingError("sensitive_features and X differ in length", found=len(frame), expected=str(n))
    if not all(isinstance(name, str) for name in frame.columns) or frame.columns.has_duplicates:
        raise SamplingError("bad columns of sensitive_features", found=list(frame.columns), expected="distinct names")
    frame = frame.reset_index(drop=True)
    if "sex" in frame:
        strange = sorted(set(_text(frame["sex"])) - {"M", "F", ""})
        if strange:
            raise SamplingError("bad sex in sensitive_features", found=strange[0], expected="M, F or nothing")
    if "age" in frame:
        numbers = pd.to_numeric(frame["age"], errors="coerce")
        bad = np.flatnonzero((numbers.isna() & frame["age"].notna()).to_numpy())
        if len(bad):
            raise SamplingError("bad age in sensitive_features", found=frame["age"].iloc[bad[0]], expected="years")
    return frame


def real_attributes(frame: pd.DataFrame, view: str | None) -> dict[str, Any]:
    """The columns of ``frame`` that condition a core, for the rows it is fitted on; ``view`` where there is none."""
    columns: dict[str, Any] = {n: _text(frame[n]).tolist() for n in ("sex", "race", "source") if n in frame}
    if "age" in frame:
        columns["age"] = pd.to_numeric(frame["age"]).to_numpy(dtype=float, na_value=np.nan)
    fallback = view or "PA"
    views = _text(frame["view"]).replace("", fallback) if "view" in frame else [fallback] * len(frame)
    return {**columns, "view": list(views)}


def asked_attributes(frame: pd.DataFrame, card: Card, view: str | None) -> tuple[pd.DataFrame, list[str]]:
    """What prompts ask for of each row of ``frame``: columns sex, age, race, source (blank where not asked) and view.

    ``view`` is asked for where ``frame`` has none or one the core does not know (None: PA, or else the core's first).
    Also returns, in words, what ``frame`` has and the core does not take.
    """
    n, left_out = len(frame), []
    fallback = view or ("PA" if "PA" in card.views else card.views[0])
    asked = pd.DataFrame({"sex": None, "age": np.nan, "race": None, "source": None, "view": fallback}, index=range(n))
    known = {"race": set(card.races), "source": set(card.sources), "view": set(card.views)}
    for name in ASKED:
        if name not in frame:
            continue
        if name != "view" and name not in card.conditions:
            left_out.append(name)
            continue
        if name == "age":
            asked["age"] = pd.to_numeric(frame["age"]).to_numpy(dtype=float, na_value=np.nan)
            continue
        text = _text(frame[name])
        strange = sorted(set(text) - known.get(name, set(text)) - {""})
        left_out += [f"the {name} {value!r}" for value in strange]
        text = text.where(~text.isin(["", *strange]))
        asked[name] = text.fillna(fallback) if name == "view" else text
    return asked, left_out


def resampled_attributes(frame: pd.DataFrame, donors: np.ndarray, asked: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with a row behind it for each synthetic image, that has what was asked for and is blank elsewhere.

    Of a column that no prompt can ask for nothing is known of a synthetic image, whatever its donor was.
    """
    added = frame.iloc[donors].reset_index(drop=True)
    for name in frame.columns:
        known = asked[name].notna() if name in ASKED else pd.Series(False, index=added.index)
        added[name] = added[name].where(known.to_numpy())
        if name == "view":
            added[name] = asked["view"].to_numpy()
    return pd.concat([frame, added], ignore_index=True) if len(added) else frame.copy()


def _text(column: pd.Series) -> pd.Series:
    blank = column.isna().to_numpy()
    return column.astype(object).where(~blank, "").astype(str)
