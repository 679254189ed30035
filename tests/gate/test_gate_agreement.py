"""The agreement check on classifiers whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cohort import toy_images
from toycore import FINDINGS

from cxraug.gate import reader as module
from cxraug.gate.agreement import Agreement
from cxraug.gate.check import Images
from cxraug.gate.crossfit import FoldModels, _folds
from cxraug.gate.reader import Reader
from cxraug.gate.settings import GateSettings


def corner(pixels: np.ndarray) -> np.ndarray:
    """Scores (n, 2) that read the brightness where the toy findings are drawn."""
    x = pixels.astype(float)
    return np.stack([x[:, -8:, :16].mean((1, 2)), x[:, 8:14, 16:22].mean((1, 2))], axis=1)


def fit(real: Images, monkeypatch: pytest.MonkeyPatch, scorer=corner, rate: float = 0.04, **settings) -> Agreement:
    half = np.arange(len(real)) % 2 == 0
    folds = FoldModels([scorer, scorer], [half, ~half], tuple(FINDINGS), "corner", ["0", "0"])
    monkeypatch.setattr(module, "fit_folds", lambda *_: folds)
    chosen = GateSettings(demographics=False, **settings)
    check = Agreement(tuple(FINDINGS), chosen, rate, Reader(FINDINGS, chosen, 0, Path("unused")))
    check.real_p = check.fit(real).p  # type: ignore[attr-defined]
    return check


def reject(check: Agreement, batch: Images) -> dict[str, np.ndarray]:
    p = check.score(batch).p
    return {test.name: p[:, j] <= test.rate for j, test in enumerate(check.tests)}


def test_what_is_claimed_must_be_seen_and_what_is_not_must_not(monkeypatch: pytest.MonkeyPatch) -> None:
    check = fit(toy_images(400), monkeypatch)
    honest, blank = toy_images(200, seed=5), toy_images(200, seed=6, blind=True)
    assert [test.name for test in check.tests] == [f"{f} {s}" for f in FINDINGS for s in ("present", "absent")]
    told, seen = reject(check, honest), reject(check, blank)
    for f, finding in enumerate(FINDINGS):
        assert told[f"{finding} present"].mean() < 0.04
        assert told[f"{finding} absent"].mean() < 0.06
        claimed = blank.y[:, f] == 1
        assert seen[f"{finding} present"][claimed].mean() > 0.95
        assert not seen[f"{finding} present"][~claimed].any()
    lying = Images(honest.pixels, 1 - honest.y, honest.patients)
    hidden = reject(check, lying)["Effusion absent"]
    assert hidden[honest.y[:, 0] == 1].mean() > 0.95


def test_unknown_labels_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    check = fit(toy_images(200), monkeypatch)
    batch = toy_images(4, seed=3)
    unknown = Images(batch.pixels, np.full_like(batch.y, np.nan), batch.patients)
    assert np.isnan(check.score(unknown).p).all()


def test_a_blind_classifier_abstains_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0)
    check = fit(toy_images(300), monkeypatch, scorer=lambda pixels: noise.normal(size=(len(pixels), 2)))
    assert check.tests == ()
    assert check.score(toy_images(5)).p.shape == (5, 0)
    for part in check.describe({})["findings"].values():
        assert "AUROC lower bound" in part["note"]
        assert part["auroc"] == pytest.approx(0.5, abs=0.1)


def test_one_sighted_finding_is_judged_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_blind(pixels: np.ndarray) -> np.ndarray:
        return np.stack([corner(pixels)[:, 0], np.zeros(len(pixels))], axis=1)

    check = fit(toy_images(300), monkeypatch, scorer=half_blind)
    assert {test.name for test in check.tests} == {"Effusion present", "Effusion absent"}
    assert check.notes["Mass"].startswith("abstains: AUROC lower bound")


def test_few_positives_use_the_pooled_cut_off_and_never_reject_what_beats_one_of_their_own(monkeypatch) -> None:
    real = toy_images(400)
    y = real.y.copy()
    y[np.flatnonzero(y[:, 1] == 1)[10:], 1] = np.nan  # ten known masses are left
    check = fit(Images(real.pixels, y, real.patients), monkeypatch)
    described = check.describe({test.name: test.rate for test in check.tests})["findings"]
    assert described["Mass"]["pooled"]
    assert "10 real positives" in described["Mass"]["note"]
    assert not described["Effusion"]["pooled"]
    own = np.flatnonzero(y[:, 1] == 1)
    assert described["Mass"]["present_cutoff"] >= check.own[1, 1].values.max()
    blank = toy_images(100, seed=6, blind=True)
    claims = blank.y[:, 1] == 1
    assert reject(check, blank)["Mass present"][claims].mean() > 0.9
    assert (check.real_p[own, 2] == 1).all()  # type: ignore[attr-defined]


def test_too_few_positives_in_all_abstain(monkeypatch: pytest.MonkeyPatch) -> None:
    real = toy_images(300)
    y = real.y.copy()
    for f in range(2):
        y[np.flatnonzero(y[:, f] == 1)[9:], f] = np.nan
    check = fit(Images(real.pixels, y, real.patients), monkeypatch)
    assert {test.name for test in check.tests} == {"Effusion absent", "Mass absent"}
    assert "the test for positives abstains" in check.notes["Mass"]


def test_a_claim_is_rejected_at_the_cut_off_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = toy_images(400)
    check = fit(real, monkeypatch)
    told = check.describe({test.name: 0.04 for test in check.tests})["findings"]["Effusion"]
    assert (told["n_positives"], told["n_negatives"]) == ((real.y[:, 0] == 1).sum(), (real.y[:, 0] == 0).sum())
    assert told["auroc"] > 0.95
    assert 0.9 < told["auroc_low"] < told["auroc"] <= told["auroc_high"]
    batch = toy_images(300, seed=8)
    evidence = check._evidence(check._scores(check.reader.score(batch)), batch.y)[:, 0]
    for side, word in ((1, "present"), (0, "absent")):
        claims = batch.y[:, 0] == side
        rejected = reject(check, batch)[f"Effusion {word}"][claims]
        assert np.array_equal(rejected, evidence[claims] > told[f"{word}_cutoff"])


def test_all_tests_together_reject_at_the_rate_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1)

    def dim(pixels: np.ndarray) -> np.ndarray:
        return corner(pixels) + noise.normal(0, 40, (len(pixels), 2))

    check = fit(toy_images(400), monkeypatch, scorer=dim, rate=0.05)
    rejected = check.real_p <= np.array([test.rate for test in check.tests])  # type: ignore[attr-defined]
    assert 0.03 < rejected.any(axis=1).mean() <= 0.05
    new = [np.any(list(reject(check, toy_images(400, seed=20 + i)).values()), axis=0).mean() for i in range(5)]
    assert 0.005 < np.mean(new) <= 0.065  # the mean of both folds' scores errs less than the one that calibrates


def test_nothing_is_rejected_while_its_label_is_the_likelier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier without error leaves a budget of 30 % unused."""
    check = fit(toy_images(400), monkeypatch, rate=0.3)
    batch = toy_images(400, seed=31)
    evidence = check._evidence(check._scores(check.reader.score(batch)), batch.y)
    rejected = np.any(list(reject(check, batch).values()), axis=0)
    assert not rejected[(evidence <= 0).all(axis=1)].any()
    assert rejected.mean() < 0.05


def test_no_finding_is_rejected_wholesale_in_a_set_that_asks_for_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the masses cannot be seen: of all real images few are rejected for it, of the masses never over 5 %."""
    real = toy_images(1200, positives=0.15)
    dim = np.random.default_rng(0).random(1200) < 0.5
    blank = toy_images(1200, seed=9, blind=True)
    pixels = np.where((dim & (real.y[:, 1] == 1))[:, None, None], blank.pixels, real.pixels)
    check = fit(Images(pixels, real.y, real.patients), monkeypatch, rate=0.3)
    claimed = real.y[:, 1] == 1
    column = [test.name for test in check.tests].index("Mass present")
    assert (check.real_p[claimed, column] <= 0.3).mean() <= 0.05  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("error")
def test_folds_take_findings_of_one_row_without_a_warning() -> None:
    y = np.zeros((12, 3), np.float32)
    y[0, 0], y[1:7, 1], y[7, 2] = 1, 1, 1
    patients = np.array([f"p{i // 2}" for i in range(12)], dtype=object)
    masks = _folds(Images(np.zeros((12, 4, 4), np.uint8), y, patients), 2, seed=0)
    assert (np.sum(masks, axis=0) == 1).all()
    for mask in masks:
        assert not set(patients[mask]) & set(patients[~mask])
        assert mask.any()
