import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import measure_in, scored
from sklearn.metrics import roc_auc_score


def run(ids, y, scores, cell=None):
    return measure_in("auroc", ids, y, scores=scores, cell=cell)


def delong(y, score):
    """Variance of DeLong, DeLong & Clarke-Pearson 1988, written out pair by pair."""
    x, z = score[y == 1], score[y == 0]
    psi = (x[:, None] > z[None]) + 0.5 * (x[:, None] == z[None])
    return psi.mean(axis=1).var(ddof=1) / len(x) + psi.mean(axis=0).var(ddof=1) / len(z)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=4, max_size=40))
def test_exact_with_ties_from_few_levels(pairs):
    score = np.array([[float(s) for s, _ in pairs]])
    y = np.array([float(label) for _, label in pairs])
    y[:2] = (0, 1)
    found = run(np.arange(len(y)), y, score)
    assert found.value[0] == pytest.approx(roc_auc_score(y, score[0]), abs=1e-12)
    assert abs(found.influence.sum()) < 1e-9


@pytest.mark.parametrize("levels", [None, 5])
def test_one_image_per_patient_is_delong(levels):
    _, y, scores = scored(200, 1, runs=3, levels=levels)
    found = run(np.arange(len(y)), y, scores)
    for r in range(3):
        assert found.variance[r] == pytest.approx(delong(y, scores[r]), rel=1e-10)


def test_copies_of_images_within_patients_change_nothing():
    ids, y, scores = scored(80, 2)
    once, twice = run(ids, y, scores), run(np.repeat(ids, 3), np.repeat(y, 3), np.repeat(scores, 3, axis=1))
    np.testing.assert_allclose(twice.value, once.value)
    np.testing.assert_allclose(twice.influence, once.influence, atol=1e-14)
    image_level = run(np.arange(3 * len(y)), np.repeat(y, 3), np.repeat(scores, 3, axis=1))
    assert image_level.variance[0] < twice.variance[0] / 2


def test_clustered_variance_matches_obuchowski_written_out():
    ids, y, scores = scored(60, 3)
    score, n_patients = scores[0], ids.max() + 1
    x, z = score[y == 1], score[y == 0]
    area = roc_auc_score(y, score)
    psi = (x[:, None] > z[None]) + 0.5 * (x[:, None] == z[None])
    a = np.bincount(ids[y == 1], psi.mean(axis=1) - area, n_patients)
    b = np.bincount(ids[y == 0], psi.mean(axis=0) - area, n_patients)
    i10, i01 = len(set(ids[y == 1])), len(set(ids[y == 0]))
    s10, s01 = i10 / (i10 - 1) * (a @ a) / len(x) ** 2, i01 / (i01 - 1) * (b @ b) / len(z) ** 2
    cross = n_patients / (n_patients - 1) * 2 * (a @ b) / (len(x) * len(z))
    assert run(ids, y, scores).variance[0] == pytest.approx(s10 + s01 + cross, rel=0.01)


def test_blank_labels_and_other_cells_are_left_out():
    ids, y, scores = scored(80, 4)
    cell = np.arange(len(y)) % 3 != 0
    blank = np.where(np.arange(len(y)) % 5 == 0, np.nan, y)
    keep = cell & ~np.isnan(blank)
    assert run(ids, blank, scores, cell).value[0] == pytest.approx(roc_auc_score(y[keep], scores[0, keep]))


def test_perfect_and_constant_scores_get_the_stated_variance():
    ids = np.arange(40)
    y = (ids % 2).astype(float)
    perfect, constant = run(ids, y, y[None] * 1.0), run(ids, y, np.zeros((1, 40)))
    assert perfect.value[0] == 1
    assert constant.value[0] == 0.5
    assert perfect.variance[0] == pytest.approx((20.5 / 21) * (0.5 / 21) / 20)
    assert constant.variance[0] == pytest.approx(0.25 / 20)
