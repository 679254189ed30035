import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cxraug.evaluation.comparison import holm, non_inferiority, shared_runs
from cxraug.evaluation.uncertainty import Estimate


def test_holm_known_answer():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, np.nan])), [0.03, 0.06, 0.06, np.nan])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_order_and_lies_between_p_and_bonferroni(values):
    p = np.array(values)
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(p * len(p), 1) + 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_runs_pair_on_draw_and_seed():
    runs = pd.DataFrame(
        [("a", "0", "0"), ("b", "1", "0"), ("a", "1", "0"), ("b", "0", "0"), ("b", "0", "1")],
        columns=["arm", "seed", "draw"],
    )
    left, right = shared_runs(runs, "a", "b")
    assert left.tolist() == [0, 2]
    assert right.tolist() == [3, 1]


def estimate(value, error=0.01, df=20.0):
    return Estimate(value, error**2, df, error**2, np.array([error]), 3, 1)


def test_non_inferiority_is_the_one_sided_t_test_and_agrees_with_the_interval():
    for value in (-0.02, -0.005, 0.0, 0.01):
        found = non_inferiority(estimate(value), "auroc", 0.02, 0.05)
        assert found["p_value"] == pytest.approx(stats.t.sf((value + 0.02) / 0.01, 20))
        assert found["bound"] == pytest.approx(value - stats.t.ppf(0.975, 20) * 0.01)
        assert found["shown"] == (found["bound"] > -0.02)
    assert non_inferiority(estimate(-0.02), "auroc", 0.02, 0.05)["p_value"] == pytest.approx(0.5)


def test_where_lower_is_better_more_is_inferior():
    found = non_inferiority(estimate(0.015), "fnr", 0.02, 0.05)
    mirrored = non_inferiority(estimate(-0.015), "tpr", 0.02, 0.05)
    assert found["p_value"] == pytest.approx(mirrored["p_value"])
    assert found["bound"] == pytest.approx(-mirrored["bound"])
