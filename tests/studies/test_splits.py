import hashlib

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.errors import InputError
from cxraug.studies.splits import patient_hash, split_by_patient


def test_the_split_is_the_hash_of_the_name():
    expected = int(hashlib.sha256(b"00123").hexdigest()[:16], 16) / 2**64
    assert patient_hash("00123") == expected
    assert split_by_patient(pd.Series(["00123"]), (expected + 1e-9, 0.0, 1 - expected - 1e-9)).item() == "train"
    assert split_by_patient(pd.Series(["00123"]), (expected - 1e-9, 0.0, 1 - expected + 1e-9)).item() == "test"


def test_shares_are_about_right_and_order_does_not_matter():
    patients = pd.Series([f"p{i}" for i in range(4000)] * 2)
    split = split_by_patient(patients)
    shares = split.value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.7, abs=0.03)
    assert shares["val"] == pytest.approx(0.1, abs=0.03)
    backwards = split_by_patient(patients[::-1])
    assert backwards.sort_index().equals(split)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abc019", min_size=1, max_size=5), min_size=1, max_size=30))
def test_one_split_per_patient_whatever_else_is_there(patients):
    split = split_by_patient(pd.Series(patients))
    assert pd.DataFrame({"p": patients, "s": split}).groupby("p")["s"].nunique().max() == 1
    assert split.iloc[0] == split_by_patient(pd.Series(patients[:1])).iloc[0]


def test_empty_shares_get_nobody():
    assert set(split_by_patient(pd.Series([str(i) for i in range(500)]), (1, 0, 0))) == {"train"}


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_wrong_shares(fractions):
    with pytest.raises(InputError, match="split fractions"):
        split_by_patient(pd.Series(["a"]), fractions)
