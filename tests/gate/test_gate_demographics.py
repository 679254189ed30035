"""The demographics check on readers whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxraug.gate import reader as module
from cxraug.gate.attributes import attribute_targets
from cxraug.gate.check import Images
from cxraug.gate.crossfit import FoldModels
from cxraug.gate.demographics import Demographics
from cxraug.gate.reader import Reader
from cxraug.gate.settings import GateSettings

CUTS = (30.0, 45.0, 60.0, 75.0)
NAMES = ("sex=F", *(f"age>={c:g}" for c in CUTS), "race=Asian", "race=White")


def patients(
    n: int, seed: int = 0, *, shown_sex: np.ndarray | None = None, shown_age: np.ndarray | None = None
) -> Images:
    """Images whose first pixels show sex, age and race with some noise (more of it in the old)."""
    rng = np.random.default_rng(seed)
    female, age = (rng.random(n) < 0.4).astype(float), rng.uniform(20, 90, n)
    race = rng.choice(np.array(["Asian", "White"], object), n)
    years = age if shown_age is None else shown_age
    pixels = np.zeros((n, 8, 8), np.uint8)
    pixels[:, 0, 0] = np.clip(100 + 60 * female + rng.normal(0, 12, n), 0, 255)
    pixels[:, 0, 1] = np.clip(years + rng.normal(0, 1, n) * years / 15, 0, 255)
    pixels[:, 0, 2] = np.clip(100 + 60 * (race == "White") + rng.normal(0, 12, n), 0, 255)
    who = np.array([f"{seed}-{i}" for i in range(n)], object)
    return Images(pixels, np.zeros((n, 0), np.float32), who, female=female, age=age, race=race)


def look(pixels: np.ndarray) -> np.ndarray:
    """Scores (n, O) that read those pixels."""
    x = pixels[:, 0].astype(float)
    ages = [(x[:, 1] - cut) / 5 for cut in CUTS]
    return np.stack([x[:, 0], *ages, 100 - x[:, 2], x[:, 2]], axis=1)


def fit(real: Images, monkeypatch: pytest.MonkeyPatch, scorer=look, rate: float = 0.03, **settings) -> Demographics:
    half = np.arange(len(real)) % 2 == 0
    folds = FoldModels([scorer, scorer], [half, ~half], NAMES, "look", ["0", "0"])
    monkeypatch.setattr(module, "fit_folds", lambda *_: folds)
    chosen = GateSettings(agreement=False, **settings)
    check = Demographics(chosen, rate, Reader((), chosen, 0, Path("unused")))
    check.real_p = check.fit(real).p  # type: ignore[attr-defined]
    return check


def rejected(check: Demographics, batch: Images) -> dict[str, np.ndarray]:
    p = check.score(batch).p
    return {test.name: p[:, j] <= test.rate for j, test in enumerate(check.tests)}


def test_targets_are_what_the_data_say() -> None:
    real = patients(300)
    names, y = attribute_targets(real)
    assert names[0] == "sex=F"
    assert [name for name in names if name.startswith("race=")] == ["race=Asian", "race=White"]
    ages = [name for name in names if name.startswith("age>=")]
    assert len(ages) == 5
    for name in ages:
        assert np.array_equal(y[:, names.index(name)], real.age >= float(name.removeprefix("age>=")))
    assert np.array_equal(y[:, 0], real.female)


def test_a_question_with_few_on_one_side_is_not_asked() -> None:
    real = patients(60)
    female = np.zeros(60)
    female[:9] = 1
    bare = Images(real.pixels, real.y, real.patients, female=female, age=np.full(60, np.nan))
    assert attribute_targets(bare)[0] == ()


def test_wrong_sex_age_and_race_are_found_and_right_ones_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    check = fit(patients(1200), monkeypatch)
    assert [test.name for test in check.tests] == ["sex", "race", "age"]
    assert sum(test.rate for test in check.tests) == pytest.approx(0.03)
    honest = patients(1500, 1)
    for name, rows in rejected(check, honest).items():
        assert rows.mean() == pytest.approx(0.01, abs=0.012), name
    wrong = Images(honest.pixels, honest.y, honest.patients, female=1 - honest.female, age=honest.age,
                   race=np.where(honest.race == "Asian", "White", "Asian").astype(object))  # fmt: skip
    found = rejected(check, wrong)
    assert found["sex"].mean() > 0.95
    assert found["race"].mean() > 0.95
    assert found["age"].mean() < 0.03
    older = patients(800, 2, shown_age=np.full(800, 85.0))
    found = rejected(check, older)["age"]
    assert found[older.age < 45].mean() > 0.9
    assert found[older.age > 80].mean() < 0.1


def test_age_is_judged_by_the_errors_at_that_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors are three times as large in the old: both ends must be rejected at one rate."""
    check = fit(patients(3000), monkeypatch, rate=0.15)
    batch = patients(6000, 3)
    rows = rejected(check, batch)["age"]
    assert rows[batch.age < 40].mean() == pytest.approx(rows[batch.age > 70].mean(), abs=0.03)


def test_what_cannot_be_read_abstains_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0)

    def blind(pixels: np.ndarray) -> np.ndarray:
        return np.concatenate([noise.normal(size=(len(pixels), 5)), look(pixels)[:, 5:]], axis=1)

    check = fit(patients(600), monkeypatch, scorer=blind)
    told = check.describe({})["attributes"]
    assert [test.name for test in check.tests] == ["race"]
    assert told["sex"]["note"].startswith("abstains: AUROC lower bound")
    assert told["age"]["note"].startswith("abstains: correlation with the age")
    assert told["race"]["note"] is None
    assert told["race"]["auroc"]["White"]["auroc_low"] > 0.9


def test_unknown_claims_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    check = fit(patients(600), monkeypatch)
    one = patients(3, 5)
    nobody = Images(one.pixels, one.y, one.patients, female=np.full(3, np.nan), age=np.full(3, np.nan),
                    race=np.array([None, "Martian", None], object))  # fmt: skip
    assert np.isnan(check.score(nobody).p).all()


def test_a_race_with_fewer_than_19_images_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    real = patients(400)
    race = np.full(400, "White", object)
    race[:15] = "Asian"
    pixels = real.pixels.copy()
    pixels[:, 0, 2] = np.where(race == "White", 170, 90)
    check = fit(Images(pixels, real.y, real.patients, female=real.female, age=real.age, race=race), monkeypatch)
    told = check.describe({})["attributes"]["race"]
    assert "Asian: 15 real images of 19 needed, not judged" in told["note"]
    assert told["n_calibration"] == {"White": 385}
