"""A gate whose classifier is worse for women: the test of fairness fires, calibration within sex mends it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxraug.gate import reader as module
from cxraug.gate.agreement import Agreement
from cxraug.gate.check import Images
from cxraug.gate.crossfit import FoldModels
from cxraug.gate.fairness import fairness_notes, rejection_by_level
from cxraug.gate.gate import Gate
from cxraug.gate.null import Null, resolved_by
from cxraug.gate.reader import Reader
from cxraug.gate.settings import GateSettings

FINDINGS = ("Mass",)


def unfair(n: int, seed: int, *, within: bool, share: float = 0.3) -> Images:
    """The first pixel shows the finding, for women with twice the noise."""
    rng = np.random.default_rng(seed)
    female = rng.random(n) < share
    y = (rng.random(n) < 0.5).astype(np.float32)
    pixels = np.zeros((n, 4, 4), np.uint8)
    pixels[:, 0, 0] = np.clip(90 + 80 * y + rng.normal(0, np.where(female, 44, 22)), 0, 255)
    sex = np.where(female, "F", "M").astype(object)
    who = np.array([f"{seed}-{i}" for i in range(n)], object)
    return Images(pixels, y[:, None], who, levels=sex if within else None, female=female.astype(float))


def fitted(real: Images, monkeypatch: pytest.MonkeyPatch) -> Gate:
    half = np.arange(len(real)) % 2 == 0
    look = lambda pixels: pixels[:, 0, :1].astype(float)  # noqa: E731
    monkeypatch.setattr(
        module, "fit_folds", lambda *_: FoldModels([look, look], [half, ~half], FINDINGS, "look", ["0", "0"])
    )
    settings = GateSettings(demographics=False)
    check = Agreement(FINDINGS, settings, 0.05, Reader(FINDINGS, settings, 0, Path("unused")))
    return Gate([check], 0.05).fit(real)


def rates(rejected: np.ndarray, images: Images) -> list[dict]:
    sex = np.where(images.female == 1, "F", "M").astype(object)
    return rejection_by_level(rejected, {"sex": sex}, images.patients)


def test_the_unfairness_is_found_and_calibration_within_the_group_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real, new = unfair(1500, 0, within=False), unfair(3000, 1, within=False)
    gate = fitted(real, monkeypatch)
    women, men = rates(gate.real_rejected, real)
    assert women["rate"] > 0.1 > 0.04 > men["rate"]
    assert women["p_adjusted"] < 1e-6
    assert fairness_notes([women, men], "real images")[0].startswith("sex F is rejected more:")
    women, men = rates(np.array([bool(why) for why in gate.judge(new)]), new)
    assert women["rate"] > 4 * men["rate"]

    real, new = unfair(1500, 0, within=True), unfair(3000, 1, within=True)
    gate = fitted(real, monkeypatch)
    assert gate.real["rate"] <= 0.05
    women, men = rates(gate.real_rejected, real)
    assert women["p_adjusted"] > 0.2
    assert fairness_notes([women, men], "real images") == []
    for row in rates(np.array([bool(why) for why in gate.judge(new)]), new):
        assert row["rate"] == pytest.approx(0.05, abs=0.025), row["level"]


def test_a_level_with_too_few_real_images_is_judged_by_all_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = unfair(800, 0, within=True, share=0.01)
    gate = fitted(real, monkeypatch)
    small = gate.describe()["checks"]["agreement"]["small_levels"]
    assert small == {"F": int(real.female.sum())}
    assert 0 < small["F"] < 19


def test_p_values_of_a_level_are_ranks_among_its_own() -> None:
    values = np.r_[np.arange(30.0), 100 + np.arange(30.0), [7.0]]
    levels = np.repeat(np.array(["a", "b", "c"], object), [30, 30, 1])
    null = Null(values, levels, needed=19)
    p = null.p(np.array([29.5, 29.5, 29.5, 29.5]), np.array(["a", "b", "c", "new"], object))
    assert p.tolist() == [1 / 31, 1, 31 / 62, 31 / 62]
    assert null.small == {"c": 1}
    assert null.p(np.array([29.5])).tolist() == [31 / 62]


def test_19_images_resolve_five_percent() -> None:
    assert [resolved_by(rate) for rate in (0.05, 0.01, 0.024)] == [19, 99, 41]
