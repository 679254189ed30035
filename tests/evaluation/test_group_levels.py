import numpy as np
import pandas as pd
import pytest

from cxraug.errors import InputError
from cxraug.evaluation.groups import age_band_names, group_levels, level_order

FRAME = pd.DataFrame({"sex": ["M", "F", None, "F"], "age": [0, 19.9, 80, np.nan], "code": [1.0, 2.0, np.nan, 1.0]})


def test_levels_are_the_contracts_names():
    assert age_band_names() == ["0-19", "20-39", "40-59", "60-79", "80+"]
    assert group_levels(FRAME, "age").tolist() == ["0-19", "0-19", "80+", "missing"]
    assert group_levels(FRAME, "sex*age").tolist() == ["M*0-19", "F*0-19", "missing*80+", "F*missing"]
    assert group_levels(FRAME, "code").tolist() == ["1", "2", "missing", "1"]
    assert group_levels(FRAME, "all").tolist() == ["all"] * 4


def test_ages_below_the_first_bin_have_a_level_of_their_own():
    assert group_levels(FRAME, "age", (18, 65)).tolist() == ["<18", "18-64", "65+", "missing"]


def test_order_is_by_age_then_name_and_missing_is_last():
    levels = pd.Series(["missing", "80+", "0-19", "40-59"])
    assert level_order(levels) == ["0-19", "40-59", "80+", "missing"]


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"race.*one of sex, age, code"):
        group_levels(FRAME, "sex*race")
    with pytest.raises(InputError, match=r"row 3.*'old'"):
        group_levels(pd.DataFrame({"age": ["3", "old"]}), "age")
    with pytest.raises(InputError, match="must rise"):
        age_band_names((0, 20, 20))


def test_empty_frames_have_no_levels():
    assert group_levels(FRAME.iloc[:0], "sex*age").empty


def test_bands_that_are_not_whole_years_say_where_they_end():
    assert age_band_names((0, 0.5, 2, 18)) == ["0-<0.5", "0.5-<2", "2-17", "18+"]
