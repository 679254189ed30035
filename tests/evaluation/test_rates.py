import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame, false_positive_rate, true_positive_rate
from scipy import stats
from simulated import measure_in, scored
from sklearn.metrics import f1_score, precision_score

from cxraug.evaluation.uncertainty import interval, wilson


def test_rates_by_group_are_fairlearns():
    ids, y, scores = scored(150, 1)
    group = np.where(ids % 3 == 0, "a", "b")
    called = scores >= 0.7
    frame = MetricFrame(
        metrics={"tpr": true_positive_rate, "fpr": false_positive_rate},
        y_true=y, y_pred=called[0].astype(float), sensitive_features=pd.Series(group),
    )  # fmt: skip
    for level in ("a", "b"):
        cell = group == level
        tpr = measure_in("tpr", ids, y, decision=called, cell=cell)
        fpr = measure_in("fpr", ids, y, decision=called, cell=cell)
        assert tpr.value[0] == pytest.approx(frame.by_group.loc[level, "tpr"])
        assert fpr.value[0] == pytest.approx(frame.by_group.loc[level, "fpr"])
        assert measure_in("fnr", ids, y, decision=called, cell=cell).value[0] == pytest.approx(1 - tpr.value[0])


def test_predictive_values_and_f1_are_scikit_learns():
    ids, y, scores = scored(100, 2, runs=2)
    called, cell = scores >= 0.5, np.ones(len(y), dtype=bool)
    ppv = measure_in("ppv", ids, y, decision=called, cell=cell)
    npv = measure_in("npv", ids, y, decision=called, cell=cell)
    f1 = measure_in("f1", ids, y, decision=called, cell=cell)
    for run in range(2):
        assert ppv.value[run] == pytest.approx(precision_score(y, called[run]))
        assert npv.value[run] == pytest.approx(precision_score(1 - y, ~called[run]))
        assert f1.value[run] == pytest.approx(f1_score(y, called[run]))


def test_variance_is_the_binomial_one_where_every_patient_has_one_image():
    y = np.ones(50)
    called = (np.arange(50) < 20)[None]
    found = measure_in("tpr", np.arange(50), y, decision=called)
    assert found.variance[0] == pytest.approx(0.4 * 0.6 / 49)
    assert found.df[0] == 49


def test_copies_of_images_within_patients_leave_the_interval():
    ids, y, scores = scored(70, 3)
    called = scores >= 0.5

    def bounds(k):
        m = measure_in("tpr", np.repeat(ids, k), np.repeat(y, k), decision=np.repeat(called, k, axis=1))
        return interval(m.value, m.variance, m.df, "wilson", 0.05)

    np.testing.assert_allclose(bounds(4), bounds(1))


def test_wilson_is_the_textbook_interval():
    low, high = wilson(np.array([0.2]), np.array([50.0]), stats.norm.ppf(0.975))
    reference = stats.binomtest(10, 50).proportion_ci(method="wilson")
    assert (low[0], high[0]) == pytest.approx((reference.low, reference.high))


@pytest.mark.parametrize("all_called", [True, False])
def test_at_zero_and_one_the_patients_count(all_called):
    ids = np.repeat(np.arange(12), 5)
    called = np.full((1, 60), all_called)
    m = measure_in("tpr", ids, np.ones(60), decision=called)
    low, high = interval(m.value, m.variance, m.df, "wilson", 0.05)
    z = stats.t.ppf(0.975, 11)
    far = z**2 / (12 + z**2)
    assert (low[0], high[0]) == pytest.approx((1 - far, 1.0) if all_called else (0.0, far))
