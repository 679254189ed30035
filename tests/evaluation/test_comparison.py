import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from cxraug.evaluation.comparison import holm, shared_runs


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
