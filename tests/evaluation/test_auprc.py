import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import measure_in, scored
from sklearn.metrics import average_precision_score

from cxraug.evaluation.auprc import bootstrap_auprc, patient_weights


def run(ids, y, scores):
    return measure_in("auprc", ids, y, scores=scores)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=3, max_size=40))
def test_exact_with_ties_from_few_levels(pairs):
    score = np.array([[float(s) for s, _ in pairs]])
    y = np.array([float(label) for _, label in pairs])
    y[0] = 1
    found = run(np.arange(len(y)), y, score)
    assert found.value[0] == pytest.approx(average_precision_score(y, score[0]), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 6])
def test_influence_is_the_derivative_by_patient_weight(levels):
    ids, y, scores = scored(40, 5, levels=levels)
    found = run(ids, y, scores)
    count = len(set(ids[y == 1]))
    for patient in range(5):
        change = []
        for step in (-1e-5, 1e-5):
            weight = np.where(ids == patient, 1 + step, 1.0)
            change.append(average_precision_score(y, scores[0], sample_weight=weight))
        slope = (change[1] - change[0]) / 2e-5
        assert found.influence[0, patient] == pytest.approx(slope * np.sqrt(count / (count - 1)), abs=1e-6)


@pytest.mark.parametrize("levels", [None, 6])
def test_bootstrap_is_a_plain_resampling_loop(levels):
    ids, y, scores = scored(60, 6, levels=levels)
    weights = patient_weights(60, 260, seed=1)
    drawn = np.hstack(weights)
    assert drawn.shape == (60, 260)
    assert (drawn.sum(axis=0) == 60).all()
    order = np.argsort(scores[0])
    fast = bootstrap_auprc(scores[0], order, y, ids, weights)
    slow = [average_precision_score(y, scores[0], sample_weight=drawn[ids, b]) for b in range(260)]
    np.testing.assert_allclose(fast, slow, atol=2e-6)


def test_bootstrap_and_influence_agree():
    ids, y, scores = scored(400, 7)
    boot = bootstrap_auprc(scores[0], np.argsort(scores[0]), y, ids, patient_weights(400, 800, seed=0))
    assert np.sqrt(run(ids, y, scores).variance[0]) == pytest.approx(boot.std(ddof=1), rel=0.1)


def test_replicates_without_positives_are_not_numbers():
    y = np.array([1.0, 0, 0])
    weights = [np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float32)]
    score = np.array([0.5, 0.9, 0.1])
    found = bootstrap_auprc(score, np.argsort(score), y, np.arange(3), weights)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(0.5)
