"""Ages as archives write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxraug.errors import InputError
from cxraug.studies.sources.ages import read_ages
from cxraug.studies.table import Table


def ages(values: list[str | None], **options: float):  # type: ignore[no-untyped-def]
    frame = pd.DataFrame({"age": pd.Series(values, dtype="str")})
    return read_ages(Table(frame, Path("t.csv"), np.arange(len(frame)) + 2), "age", "Patient Age", **options)


def test_years_dicom_strings_and_impossible_ones() -> None:
    years, counts = ages(["57", "058Y", "006M", "002W", "010d", "412", None, "-3", "0"])
    nan = np.nan
    np.testing.assert_allclose(years, [57, 58, 0.5, 14 / 365.25, 10 / 365.25, nan, nan, nan, 0])
    assert counts == {"ages written as DICOM strings": 4, "impossible ages, now missing": 2}
    assert ages(["0", "18"], least=1)[1] == {"impossible ages, now missing": 1}
    assert ages(["60", "61"])[1] == {}


def test_text_is_refused_by_row() -> None:
    with pytest.raises(
        InputError, match=r"t\.csv, row 3, column 'Patient Age': age is not a number.*found 'old'.*058Y"
    ):
        ages(["57", "old"])


@given(st.lists(st.integers(0, 999), min_size=1, max_size=20))
def test_dicom_years_are_the_plain_years(numbers: list[int]) -> None:
    plain, _ = ages([str(n) for n in numbers])
    dicom, _ = ages([f"{n:03d}Y" for n in numbers])
    np.testing.assert_array_equal(plain, dicom)
    np.testing.assert_array_equal(plain.isna(), np.array(numbers) > 120)
