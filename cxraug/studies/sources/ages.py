"""Ages as archives write them: years, DICOM age strings, and the impossible ones."""

from __future__ import annotations

import pandas as pd

from cxraug.studies.columns import MAX_AGE
from cxraug.studies.table import Table

_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def read_ages(table: Table, column: str, called: str, *, least: float = 0) -> tuple[pd.Series, dict[str, int]]:
    """Ages in years (float64), and how many were written as DICOM strings or are impossible.

    ``58``, ``058Y`` (DICOM value representation AS: years, months, weeks or days) and blank are understood. An age
    above 120 years (NIH's first release has 412) or below ``least`` becomes missing and is counted; nothing is
    guessed from it. Text of any other kind is refused.
    """
    text = table.frame[column]
    years = pd.to_numeric(text, errors="coerce").astype("float64")
    rest = text[text.notna() & years.isna()].str.upper()
    parts = rest.str.extract(r"^(\d{1,3})([DWMY])$")
    unreadable = pd.Series(False, index=text.index)
    unreadable[parts.index[parts[0].isna()]] = True
    table.refuse(unreadable, called, "age is not a number", expected="years, or a DICOM age such as 058Y", found=text)
    years[parts.index] = parts[0].astype("float64") * parts[1].map(_YEARS).astype("float64")
    odd = years.notna() & ~years.between(least, MAX_AGE)
    counts = {"ages written as DICOM strings": len(parts), "impossible ages, now missing": int(odd.sum())}
    return years.where(~odd), {what: n for what, n in counts.items() if n}
