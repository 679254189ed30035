"""Turned labels are found, right ones mostly left alone, and what cannot be judged is not."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from cxraug.balance import label_noise
from cxraug.balance.label_noise import calibrated, find_label_noise, out_of_fold, plant_wrong, suspicious
from cxraug.balance.picture_faults import small
from cxraug.privacy.structure import cells_of


def test_turned_labels_of_phantoms_are_listed(pictures) -> None:
    manifest, pixels, _ = pictures
    features = np.concatenate([cells_of(pixels), small(pixels)], axis=1)
    y, findings = manifest.y(), list(manifest.findings)
    f = findings.index("Cardiomegaly")
    rng, wrong = np.random.default_rng(1), np.zeros(len(y), bool)
    for value in (0, 1):
        wrong[rng.choice(np.flatnonzero(y[:, f] == value), 3, replace=False)] = True
    y[wrong, f] = 1 - y[wrong, f]
    found = find_label_noise(features, y, manifest.frame, findings)
    facts = {row["finding"]: row for row in found.findings}
    assert set(facts) == set(findings)
    assert facts["Cardiomegaly"]["judged"]
    assert facts["Cardiomegaly"]["ci_low"] > label_noise.MIN_AUROC
    mine = found.candidates[found.candidates["finding"] == "Cardiomegaly"]
    hit = mine["image"].isin(manifest.frame["image"][wrong])
    assert hit.sum() >= 2
    labels = {given: np.count_nonzero(y[:, f] == given) for given in (0, 1)}
    for given, number in labels.items():
        assert (mine["given"] == given).sum() <= label_noise.FALSE_ALARMS * number
    table = found.candidates
    of_given = np.where(table["given"] == 1, table["probability"], 1 - table["probability"])
    assert (np.diff(of_given) >= -1e-4).all()  # the least likely label first
    assert (found.candidates["likelihood_ratio"] > 1).all()
    told = found.describe()
    assert 5 <= told["first"] <= label_noise.FIRST
    assert told["first_low"] <= told["first_turned"] / told["first"] <= told["first_high"]
    assert told["first_turned"] >= 3  # of five or more that were turned
    assert not facts["Mass"]["judged"]
    assert facts["Mass"]["why"]


def test_nothing_is_judged_where_labels_are_chance() -> None:
    import pandas as pd

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 20)).astype(np.float32), rng.integers(0, 2, (300, 2)).astype(np.float32)
    frame = pd.DataFrame({"image": [f"{i}" for i in range(300)], "patient_id": np.arange(300) // 2, "split": "train"})
    found = find_label_noise(x, y, frame, ["A", "B"])
    assert len(found.candidates) == 0
    assert [row["judged"] for row in found.findings] == [False, False]
    assert list(found.candidates.columns)[:4] == ["image", "patient_id", "split", "finding"]


def test_ridge_is_ridge_and_never_sees_the_fold() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 12)).astype(np.float32)
    x -= x.mean(axis=0)
    y = (rng.random((400, 1)) < 1 / (1 + np.exp(-2 * x[:, :1]))).astype(np.float32)
    fold = np.arange(400) % label_noise.FOLDS
    score = out_of_fold(x, y, fold)
    assert roc_auc_score(y[:, 0], score[:, 0]) > 0.75
    strengths = [r * np.trace(x.T @ x) / 12 / 10 for r in label_noise.RIDGES]
    train = fold != 0
    oracle = [Ridge(a, fit_intercept=False).fit(x[train], y[train, 0] - y.mean()).predict(x[~train]) for a in strengths]
    assert min(np.abs(score[~train, 0] - one).max() for one in oracle) < 1e-3
    turned = y.copy()
    turned[~train] = 1 - turned[~train]
    again = out_of_fold(x, turned, fold)
    assert np.corrcoef(again[~train, 0], score[~train, 0])[0, 1] > 0.99


def test_calibration_is_logistic_regression() -> None:
    rng = np.random.default_rng(3)
    score = rng.normal(size=2000).astype(np.float32)
    y = (rng.random(2000) < 1 / (1 + np.exp(-(1.5 * score - 1)))).astype(float)
    fold = np.arange(2000) % label_noise.FOLDS
    p = calibrated(score, y, fold)
    rest = fold != 1
    model = LogisticRegression(C=np.inf, tol=1e-8).fit(score[rest, None], y[rest])
    assert p[fold == 1] == pytest.approx(model.predict_proba(score[fold == 1, None])[:, 1], abs=2e-3)


def test_false_alarms_are_capped_and_planting_is_balanced() -> None:
    rng = np.random.default_rng(4)
    y = (rng.random(5000) < 0.2).astype(float)
    score = (y + rng.normal(0, 0.7, 5000)).astype(np.float32)
    wrong = plant_wrong(y[:, None], 0)[:, 0]
    assert y[wrong].sum() * 2 == wrong.sum() == 2 * round(label_noise.PLANTED * y.sum())
    given = np.where(wrong, 1 - y, y)
    listed, p, ratio = suspicious(score, given, np.arange(5000) % label_noise.FOLDS, right=~wrong)
    for value in (0, 1):
        mine = (given == value) & ~wrong
        assert listed[mine].sum() <= label_noise.FALSE_ALARMS * mine.sum()
    assert (ratio[listed] > 1).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert listed[wrong].mean() > 5 * listed[~wrong].mean()


def test_what_is_doubtful_is_what_cleanlab_says(monkeypatch: pytest.MonkeyPatch) -> None:
    cleanlab = pytest.importorskip("cleanlab.filter", reason="needs cleanlab")
    rng = np.random.default_rng(6)
    y = (rng.random(3000) < 0.4).astype(float)
    score = (y + rng.normal(0, 0.6, 3000)).astype(np.float32)
    y = np.where(rng.random(3000) < 0.03, 1 - y, y)
    monkeypatch.setattr(label_noise, "FALSE_ALARMS", 1.0)  # the whole of it, not the 2 % that are listed
    listed, p, _ = suspicious(score, y, np.arange(3000) % label_noise.FOLDS)
    told = cleanlab.find_label_issues(
        y.astype(int), np.stack([1 - p, p], axis=1), filter_by="confident_learning", n_jobs=1
    )
    assert (listed == told).mean() > 0.995
