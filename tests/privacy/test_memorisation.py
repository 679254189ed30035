"""Planted copies of phantoms are caught however they were altered, at a stated rate on held-out phantoms."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import softmax

from cxraug.cores.conditions import Conditions
from cxraug.cores.core import Prompt
from cxraug.cores.gaussian import fit_gaussian
from cxraug.errors import InputError
from cxraug.privacy.memorisation import COLUMNS, CopyDetector
from cxraug.studies.phantom.cohort import PhantomSettings, render_study, sample_cohort
from cxraug.studies.seen import Seen

SIDE = 64
TRAIN, HELD, FRESH = 160, 120, 60


def phantoms(n: int, seed: int) -> np.ndarray:
    settings = PhantomSettings(n=n, seed=seed, size=SIDE, studies_per_patient=1)
    return np.stack([render_study(s, settings).images["PA"] for s in sample_cohort(settings).to_dict("records")])


def names(what: str, n: int) -> np.ndarray:
    return np.array([f"{what}{i}" for i in range(n)])


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    return phantoms(TRAIN, 0)


@pytest.fixture(scope="module")
def held() -> np.ndarray:
    return phantoms(HELD, 1)


@pytest.fixture(scope="module")
def detector(train: np.ndarray, held: np.ndarray) -> CopyDetector:
    return CopyDetector.fit(train, names("t", TRAIN), held)


def cropped(pixels: np.ndarray) -> np.ndarray:
    """90 % of each side, from a corner, brought back to its size."""
    keep = round(0.9 * SIDE)
    part = Image.fromarray(pixels[5 : 5 + keep, 1 : 1 + keep])
    return np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def through_jpeg(pixels: np.ndarray, quality: int = 30) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda x: x,
    "mirrored": lambda x: x[:, ::-1],
    "cropped": cropped,
    "shifted": lambda x: np.pad(x, 4, mode="edge")[7 : 7 + SIDE, 1 : 1 + SIDE],
    "brighter": lambda x: np.clip(x * 0.7 + 40, 0, 255).astype(np.uint8),
    "jpeg": through_jpeg,
    "blurred": lambda x: gaussian_filter(x.astype(float), 1).astype(np.uint8),
    "turned": lambda x: np.asarray(Image.fromarray(x).rotate(3, Image.Resampling.BICUBIC)),
    "mirrored, cropped, jpeg": lambda x: through_jpeg(cropped(x[:, ::-1])),
}

REPORTED = {"turned": 0.8, "mirrored, cropped, jpeg": 0.7}  # phantoms are more alike than patients


@pytest.mark.parametrize("kind", COPIES)
def test_planted_copies_are_caught(detector: CopyDetector, train: np.ndarray, kind: str) -> None:
    planted = np.arange(0, TRAIN, 8)
    found = detector.judge(np.stack([COPIES[kind](train[i]) for i in planted]))
    if kind == "exact":
        assert found["alarm"].all()
        assert found["correlation"].min() == pytest.approx(1, abs=1e-4)
    assert found["alarm"].mean() >= REPORTED.get(kind, 0.95)
    caught = found["alarm"].to_numpy()
    assert (found["nearest"].to_numpy() == planted)[caught].all()
    assert (found["mirrored"] == kind.startswith("mirrored"))[caught].mean() >= 0.95
    assert found["p_value"][caught].max() <= 0.01


def test_how_a_copy_was_altered_is_named(detector: CopyDetector, train: np.ndarray) -> None:
    kinds = ("cropped", "shifted", "turned")
    found = detector.match(np.stack([COPIES[kind](train[16]) for kind in kinds])).set_axis(kinds)
    assert found.loc["cropped", "scale"] == pytest.approx(SIDE / 58, abs=0.01)
    assert tuple(found.loc["shifted", ["shift_x", "shift_y"]]) == pytest.approx((3, -3), abs=0.3)
    assert abs(found.loc["turned", "angle"]) == pytest.approx(3, abs=0.5)
    assert tuple(found.columns) == COLUMNS


def test_other_patients_are_not_called_copies(detector: CopyDetector) -> None:
    fresh = detector.judge(phantoms(FRESH, 2))
    assert fresh["alarm"].sum() <= 3
    result = detector.excess(fresh["correlation"].to_numpy())
    assert result is not None
    assert result.p_value > 0.05


def test_a_set_with_some_copies_is_called_as_a_whole(detector: CopyDetector, train: np.ndarray) -> None:
    planted = np.stack([through_jpeg(train[i]) for i in range(9)])
    result = detector.excess(detector.match(np.concatenate([planted, phantoms(FRESH, 2)]))["correlation"].to_numpy())
    assert result is not None
    assert result.p_value <= 0.01
    assert result.above >= 9
    assert result.detectable <= 9 / 69


def remembered(train: np.ndarray, n: int) -> np.ndarray:
    """Samples of the denoiser that a diffusion core trained for ever on ``train`` ends as: the posterior mean over it.

    x_t = (1 - t) x + t e; the minimiser of the loss is D(x_t) = sum_i w_i x_i with w_i proportional to
    exp(-|x_t - (1 - t) x_i|^2 / 2 t^2) (Karras et al. 2022, appendix B.3).
    """
    x = train.reshape(len(train), -1) / 127.5 - 1
    times = np.linspace(0.99, 0.01, 40)
    z = np.random.default_rng(0).normal(size=(n, x.shape[1]))
    for t, lower in itertools.pairwise(times):
        apart = np.square(z).sum(1)[:, None] - 2 * (1 - t) * z @ x.T + (1 - t) ** 2 * np.square(x).sum(1)
        clean = softmax(-apart / (2 * t**2), axis=1) @ x
        z = clean + (z - (1 - t) * clean) / t * lower - lower * clean
    return np.clip((z + 1) * 127.5, 0, 255).reshape(n, *train.shape[1:]).astype(np.uint8)


def test_an_overfitted_core_is_caught(train: np.ndarray, held: np.ndarray) -> None:
    detector = CopyDetector.fit(train[:50], names("t", 50), held)
    made = detector.judge(remembered(train[:50], 40))
    assert made["alarm"].mean() > 0.9
    result = detector.excess(made["correlation"].to_numpy())
    assert result is not None
    assert result.p_value < 1e-4


def test_a_sound_core_is_not(detector: CopyDetector, train: np.ndarray, tmp_path: Path) -> None:
    conditions = Conditions.of((), np.zeros((TRAIN, 0), np.float32))
    core = fit_gaussian(train, conditions, tmp_path, components=24, seen=Seen.of(["-"], ["-"]), training_data={})
    studies = core.generate([Prompt(f"g{i}") for i in range(FRESH)], list(range(FRESH)))
    made = detector.judge(np.stack([study.images["PA"] for study in studies]))
    assert not made["alarm"].any()
    result = detector.excess(made["correlation"].to_numpy())
    assert result is not None
    assert result.p_value > 0.05


def test_too_small_a_calibration_abstains_but_for_the_same_picture(train: np.ndarray, held: np.ndarray) -> None:
    few = CopyDetector.fit(train[:40], names("t", 40), held[:30])
    assert few.finest == pytest.approx(1 / 31)
    assert "30 calibration images" in few.abstains
    found = few.judge(np.stack([train[3], through_jpeg(cropped(train[4]))]))
    assert found["alarm"].tolist() == [True, False]
    assert found["p_value"].isna().all()
    assert CopyDetector.fit(train[:40], names("t", 40), held[:30], rate=0.05).abstains == ""


def test_without_held_out_images_other_patients_are_the_null(train: np.ndarray) -> None:
    """The same picture under two ids, by its digest or by its looks, does not enter the null."""
    twice = np.concatenate([train[:60], train[:6], np.stack([through_jpeg(x, 90) for x in train[6:8]])])
    patients, sha = names("p", 68), np.r_[names("s", 60), names("s", 6), names("j", 2)]
    plain = CopyDetector.fit(train[:60], names("p", 60), rate=0.05)
    for told in (sha, None):
        both = CopyDetector.fit(twice, patients, rate=0.05, sha=told)
        assert np.nanmax(both.null) < 0.985
        assert both.filed_twice == (4 if told is not None else 16)
        assert both.n + both.filed_twice == 68
        assert both.judge(cropped(train[20])[None])["correlation"].item() > np.nanmax(both.null)
    views = CopyDetector.fit(twice[:60], np.repeat(names("p", 30), 2), rate=0.05)
    assert (views.matches["nearest"].to_numpy() // 2 != views.rows // 2).all()
    mutual = plain.matches["nearest"].to_numpy()
    pairs = mutual[mutual] == np.arange(60)
    assert (plain.clusters[pairs] == plain.clusters[mutual[pairs]]).all()
    assert len(set(plain.clusters)) == 60 - pairs.sum() // 2


def test_one_patient_alone_has_no_null(train: np.ndarray) -> None:
    alone = CopyDetector.fit(train[:4], np.array(["p"] * 4))
    assert (alone.n, alone.finest) == (0, 1)
    assert alone.judge(train[10:12])["alarm"].tolist() == [False, False]
    assert alone.judge(train[:1])["alarm"].all()
    assert alone.excess(np.ones(3)) is None
    with pytest.raises(InputError, match="do not fit"):
        CopyDetector.fit(train[:4], np.array(["p"] * 3))


def test_a_blank_image_matches_nothing(detector: CopyDetector) -> None:
    found = detector.judge(np.full((2, SIDE, SIDE), 7, np.uint8))
    assert (found["correlation"] == 0).all()
    assert not found["alarm"].any()
