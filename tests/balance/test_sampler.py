"""The sampler of imbalanced-learn: its own checks, and what a resampled set holds."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import make_pipeline
from imblearn.under_sampling import RandomUnderSampler
from imblearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    parametrize_with_checks,
)
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks as parametrize_with_sklearn_checks
from synthesis.toycore import ToyCore

import cxraug.balance
from cxraug.balance import SyntheticOverSampler
from cxraug.balance.refusal import SamplingError
from cxraug.cores.conditions import Conditions
from cxraug.cores.core import prompts_from_plan
from cxraug.cores.gaussian import fit_gaussian
from cxraug.errors import InputError
from cxraug.studies.images import Encoding, encode, pixel_sha256, read_pixels
from cxraug.studies.manifest import read_manifest
from cxraug.studies.seen import Seen
from cxraug.synthesis.generate import first_draw

SIDE = 16
CORE = ToyCore()
SAMPLER = SyntheticOverSampler(random_state=0)
DO_NOT_APPLY = {
    "check_target_type": "several findings per image are this sampler's purpose: multi-label targets are taken",
    "check_samplers_string": "text is the path of an image: one that is not there is refused",
}


@parametrize_with_checks([SAMPLER], expected_failed_checks=lambda sampler: DO_NOT_APPLY)
def test_checks_of_imbalanced_learn(estimator, check) -> None:  # type: ignore[no-untyped-def]
    check(estimator)


@parametrize_with_sklearn_checks([SAMPLER])
def test_checks_of_scikit_learn(estimator, check) -> None:  # type: ignore[no-untyped-def]
    check(estimator)


@pytest.mark.parametrize("check", [check_param_validation, check_dataframe_column_names_consistency])
def test_checks_that_imbalanced_learn_runs_beside(check) -> None:  # type: ignore[no-untyped-def]
    check("SyntheticOverSampler", SAMPLER)


def test_the_checks_that_do_not_apply_fail_for_the_reason_given() -> None:
    y = np.random.RandomState(42).randint(2, size=(20, 3))
    X, y_new = SAMPLER.fit_resample(np.random.RandomState(0).rand(20, 4), y)
    assert len(X) == len(y_new) >= 20
    with pytest.raises(ValueError, match="X holds paths"):
        SAMPLER.fit_resample(np.array([["A"], ["B"], ["C"]], dtype=object), [0, 1, 1])


def flat_images(paths: list[str]) -> np.ndarray:
    """Images of paths as rows of numbers from 0 to 1."""
    return np.stack([read_pixels(path).ravel() / 255 for path in paths])


def faces(n: int = 60, side: int = SIDE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, side, side) uint8 and labels (n, 2): Effusion is a bright lower half, Mass a bright corner."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 2)) < [0.5, 0.15]).astype(int)
    y[:2] = [[1, 1], [0, 1]]
    X = 90 + 12 * rng.standard_normal((n, side, side))
    X[:, side // 2 :] += 60 * y[:, 0, None, None]
    X[:, : side // 4, : side // 4] += 80 * y[:, 1, None, None]
    return np.clip(X, 0, 255).astype(np.uint8), y


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], np.ndarray]:
    folder = tmp_path_factory.mktemp("real")
    X, y = faces()
    for i, pixels in enumerate(X):
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return [str(folder / f"{i:03d}.png") for i in range(len(X))], y


class TestArrays:
    """X as images or rows of pixels."""

    def test_real_rows_stay_and_synthetic_ones_show_what_they_are_for(self) -> None:
        X, y = faces()
        sampler = SyntheticOverSampler(random_state=0, findings=["Mass"])
        X_new, y_new = sampler.fit_resample(X, y[:, 1])
        n = len(X)
        assert np.array_equal(X_new[:n], X)
        assert np.array_equal(y_new[:n], y[:, 1])
        assert X_new.dtype == np.uint8
        assert X_new.shape == (len(y_new), SIDE, SIDE)
        assert np.bincount(y_new).tolist() == [(y[:, 1] == 0).sum()] * 2
        corner, rest = X_new[n:, :4, :4].mean(), X_new[n:, :4, 8:].mean()
        assert corner - rest > 50
        assert sampler.sample_indices_.tolist() == list(range(n))
        known = {pixel_sha256(image) for image in X}
        assert not known & {pixel_sha256(image) for image in X_new[n:]}

    def test_the_bytes_are_those_of_the_core_asked_directly(self) -> None:
        """A Gaussian core fitted by hand on the same rows, asked for the prompts of the provenance."""
        X, y = faces()
        people = pd.DataFrame({"sex": ["F", "M"] * 30, "age": np.linspace(20, 80, 60)})
        sampler = SyntheticOverSampler(random_state=3, findings=["Mass"])
        X_new, _ = sampler.fit_resample(X, y[:, 1], sensitive_features=people)
        conditions = Conditions.of(["Mass"], y[:, 1:], sex=people["sex"], age=people["age"])
        made = sampler.provenance_
        plan = made.rename(columns={"view": "views"})[["prompt_id", "labels", "sex", "age", "views"]]
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            core = fit_gaussian(X, conditions, Path(folder), seen=Seen.of([], []), training_data={})
        studies = core.generate(prompts_from_plan(plan, core.card.findings), made["seed"].tolist())
        assert set(made["core_sha256"]) == {core.card.sha256}
        assert all(np.array_equal(a, s.images["PA"]) for a, s in zip(X_new[len(X) :], studies, strict=True))
        assert made["sha256"].tolist() == [pixel_sha256(s.images["PA"]) for s in studies]

    def test_equal_states_give_equal_bytes_and_others_do_not(self) -> None:
        X, y = faces()
        first, again, other = (
            SyntheticOverSampler(random_state=seed).fit_resample(X, y)[0].tobytes() for seed in (1, 1, 2)
        )
        assert first == again != other

    def test_donors_are_the_rows_that_random_over_sampling_copies(self) -> None:
        X, y = faces()
        peer = RandomOverSampler(random_state=5)
        peer.fit_resample(X.reshape(len(X), -1), y[:, 1])
        sampler = SyntheticOverSampler(random_state=5)
        sampler.fit_resample(X, y[:, 1])
        assert sampler.provenance_["donor"].tolist() == peer.sample_indices_[len(X) :].tolist()
        assert sampler.sampling_strategy_ == peer.sampling_strategy_

    def test_forms_and_ranges_of_x_carry_the_same_images(self) -> None:
        X, y = faces()
        stack, _ = SyntheticOverSampler(random_state=0).fit_resample(X, y)
        flat, _ = SyntheticOverSampler(random_state=0).fit_resample(X.reshape(60, -1), y)
        unit, _ = SyntheticOverSampler(random_state=0, value_range=(0, 1)).fit_resample(X / np.float32(255), y)
        frame, _ = SyntheticOverSampler(random_state=0).fit_resample(pd.DataFrame(X.reshape(60, -1)), y)
        assert np.array_equal(stack.reshape(len(stack), -1), flat)
        assert unit.dtype == np.float32
        assert np.array_equal(np.rint(unit * 255), stack)
        assert isinstance(frame, pd.DataFrame)
        assert np.array_equal(frame.to_numpy(), flat)

    @pytest.mark.parametrize(
        ("kind", "values", "limits"),
        [
            ("uint16", lambda X: X.astype(np.uint16) * 257, (0, 65535)),
            ("int16", lambda X: X.astype(np.int16) * 8 - 1024, (-1024, 1024)),  # as Hounsfield units
            ("float32", lambda X: ((X - X.mean()) / X.std()).astype(np.float32), None),
        ],
    )
    def test_types_and_real_values_stay(
        self, kind: str, values: Callable[[np.ndarray], np.ndarray], limits: tuple[int, int] | None
    ) -> None:
        X, y = faces()
        given = values(X)
        sampler = SyntheticOverSampler(core=CORE, findings=["Mass"], random_state=0)
        X_new, _ = sampler.fit_resample(given, y[:, 1])
        drawn = clone(sampler).fit_resample(X, y[:, 1])[0][60:]
        assert X_new.dtype == kind
        assert np.array_equal(X_new[:60], given)
        black, white = sampler.value_range_
        assert (black, white) == limits or limits is None
        assert np.allclose(X_new[60:], black + drawn * ((white - black) / 255), atol=0.5 if kind != "float32" else 1e-6)

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            ([np.zeros((9 + i % 2, 9)) for i in range(60)], "X holds images of different shapes; expected one shape"),
            (np.full((60, 64), np.nan), "X contains NaN"),
            (np.zeros((60, 9, 9, 3), np.uint8), "bad X; found 'uint8"),
            (np.zeros((60, 9, 9), bool), "bad X; found 'bool"),
        ],
    )
    def test_images_that_are_refused(self, X: object, message: str) -> None:
        with pytest.raises(SamplingError, match=message):
            SyntheticOverSampler().fit_resample(X, [0, 1, 1] * 20)

    def test_images_that_are_not_square_go_to_the_gaussian_core_alone(self) -> None:
        X, y = faces()
        wide, _ = SyntheticOverSampler(random_state=0).fit_resample(X[:, :12], y)
        assert wide.shape[1:] == (12, SIDE)
        with pytest.raises(SamplingError, match="no square images"):
            SyntheticOverSampler(core=CORE, findings=["Effusion", "Mass"]).fit_resample(X[:, :12], y)

    def test_nothing_missing_draws_nothing(self) -> None:
        X, _ = faces()
        sampler = SyntheticOverSampler()
        sampler.fit_resample(X, [0] * 20 + [1] * 40)
        sampler.set_params(core="no such core")
        X_new, y_new = sampler.fit_resample(X, [0, 1] * 30)
        assert np.array_equal(X_new, X)
        assert X_new is not X
        assert len(y_new) == 60
        assert sampler.provenance_.empty
        assert not hasattr(sampler, "core_")


class TestCores:
    """Cores that are asked through prompts."""

    def test_an_open_core_draws_in_the_size_of_x(self) -> None:
        X, y = faces()
        sampler = SyntheticOverSampler(core=CORE, random_state=0, findings=["Effusion", "Mass"])
        X_new, _ = sampler.fit_resample(X, y)
        made = sampler.provenance_
        plan = made.rename(columns={"view": "views"})[["prompt_id", "labels", "views"]]
        studies = CORE.generate(prompts_from_plan(plan, CORE.card.findings), made["seed"].tolist())
        expected = [encode(s.images["PA"], Encoding(size=SIDE, fit="stretch")) for s in studies]
        assert np.array_equal(X_new[len(X) :], expected)
        assert set(made["core"]) == {"toy"}
        assert set(made["core_sha256"]) == {"a" * 64}
        prompts = [json.loads(text) for text in made["prompt"]]
        assert [p["labels"] for p in prompts] == [
            {"Effusion": int(e), "Mass": int(m)} for e, m in y[made["donor"].to_numpy()]
        ]

    def test_a_core_by_its_folder(self, tmp_path: Path) -> None:
        X, y = faces()
        fit_gaussian(X, Conditions.of(["Effusion", "Mass"], y), tmp_path, seen=Seen.of([], []), training_data={})
        sampler = SyntheticOverSampler(core=tmp_path, random_state=0, findings=["Mass"])
        X_new, y_new = sampler.fit_resample(X, y[:, 1])
        assert len(X_new) == len(y_new) == 2 * (y[:, 1] == 0).sum()
        assert set(sampler.provenance_["labels"]) == {"Mass|?Effusion"}  # not annotated: left to the core
        assert {tuple(json.loads(p)["labels"]) for p in sampler.provenance_["prompt"]} == {("Mass",)}

    def test_what_a_core_does_not_know_is_refused_by_name(self) -> None:
        X, y = faces()
        with pytest.raises(SamplingError, match="does not know a finding of y; found 'Hernia'"):
            SyntheticOverSampler(core=CORE, findings=["Hernia"]).fit_resample(X, y[:, 1])
        with pytest.raises(SamplingError, match="found 'class 1'; expected findings="):
            SyntheticOverSampler(core=CORE).fit_resample(X, y[:, 1])
        with pytest.raises(SamplingError, match="does not know the view 'AP'"):
            SyntheticOverSampler(core=CORE, findings=["Mass"], view="AP").fit_resample(X, y[:, 1])
        with pytest.raises(SamplingError, match="no such core"):
            SyntheticOverSampler(core="nowhere").fit_resample(X, y[:, 1])

    def test_enlarged_images_are_warned_about(self) -> None:
        X, y = faces(20, side=40)
        with pytest.warns(UserWarning, match="draws 32 pixels and X has 40"):
            SyntheticOverSampler(core=CORE, findings=["Mass"]).fit_resample(X, y[:, 1])


class TestManyFindings:
    """Indicator matrices."""

    def test_every_finding_reaches_its_target(self) -> None:
        X, y = faces()
        names = ["Effusion", "Mass"]
        sampler = SyntheticOverSampler(random_state=0, findings=names, sampling_strategy={"Mass": 40})
        _, y_new = sampler.fit_resample(X, y)
        assert y_new.dtype == y.dtype
        assert y_new[:, 1].sum() == 40
        assert sampler.sampling_strategy_ == {"Mass": 40 - y[:, 1].sum()}
        seen = {tuple(row) for row in y.tolist()}
        assert {tuple(row) for row in y_new[60:].tolist()} <= seen
        counts = sampler.counts_
        assert counts.loc["Mass"].tolist() == [y[:, 1].sum(), 40 - y[:, 1].sum(), 40]
        assert counts["after"].tolist() == y_new.sum(axis=0).tolist()

    def test_a_frame_names_its_columns_and_comes_back_as_one(self) -> None:
        X, y = faces()
        frame = pd.DataFrame(y, columns=["Effusion", "Mass"])
        sampler = SyntheticOverSampler(random_state=0, core=CORE, sampling_strategy=lambda y: {"Mass": 30})
        _, y_new = sampler.fit_resample(X, frame)
        assert list(y_new.columns) == ["Effusion", "Mass"]
        assert y_new["Mass"].sum() == 30
        assert set(sampler.provenance_["drawn_for"]) == {"Mass"}

    def test_one_vs_all_columns_are_classes(self) -> None:
        X, y = faces()
        one_hot = np.column_stack([1 - y[:, 1], y[:, 1]])
        by_name = SyntheticOverSampler(findings=["No Finding", "Mass"], sampling_strategy={"Mass": 50}, random_state=0)
        X_new, y_new = by_name.fit_resample(X, one_hot)
        assert y_new.sum(axis=0).tolist() == [one_hot[:, 0].sum(), 50]
        by_class = SyntheticOverSampler(findings=["No Finding", "Mass"], sampling_strategy={1: 50}, random_state=0)
        assert np.array_equal(by_class.fit_resample(X, y[:, 1])[0], X_new)

    @pytest.mark.parametrize(
        "form",
        [
            lambda mass: mass.astype(bool),
            lambda mass: mass.astype(float),
            lambda mass: np.where(mass, "Mass", "No Finding"),
            lambda mass: pd.Series(np.where(mass, "sick", "healthy"), dtype="category"),
            lambda mass: pd.Series(mass).astype("Int64"),
            lambda mass: pd.DataFrame({"Mass": mass}),
            lambda mass: mass.tolist(),
        ],
    )
    def test_forms_of_classes_come_back(self, form: Callable[[np.ndarray], Any]) -> None:
        X, y = faces()
        given = form(y[:, 1])
        _, y_new = SyntheticOverSampler(random_state=0).fit_resample(X, given)
        assert type(y_new) is type(given)
        assert len(y_new) == 96
        kinds = {str(getattr(part, "dtypes", getattr(part, "dtype", ""))) for part in (given, y_new)}
        assert len(kinds) == 1
        assert sorted(pd.Series(np.asarray(y_new).ravel()).value_counts().tolist()) == [48, 48]

    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (np.array([None, "Mass", "No Finding"] * 20), "row 0 of y: no class; found 'None'"),
            (np.zeros(60, int), "more than 1 class"),
            (np.array([[0, 1], [1, -1]] * 30), "row 1 of y, column 1: no 0 or 1; found -1.0"),
            (np.array([[0, 1], [1, np.nan]] * 30), "decide unknown and uncertain labels first"),
            (np.zeros((60, 2), int), "one class only"),
            (np.linspace(0, 1, 60), "Unknown label type"),
            (np.zeros(59, int), "inconsistent numbers"),
        ],
    )
    def test_targets_that_are_refused(self, y: np.ndarray, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SyntheticOverSampler().fit_resample(faces()[0], y)


class TestPaths:
    """X as paths: a generated set is written."""

    def test_the_new_paths_are_the_images_of_a_generated_set(
        self, files: tuple[list[str], np.ndarray], tmp_path: Path
    ) -> None:
        X, y = files
        people = pd.DataFrame({"sex": ["F", "M"] * 30})
        sampler = SyntheticOverSampler(random_state=0, findings=["Mass"], out=tmp_path / "set", image_size=SIDE)
        X_new, y_new = sampler.fit_resample(X, y[:, 1], sensitive_features=people)
        assert isinstance(X_new, list)
        assert X_new[:60] == X
        made = sampler.provenance_
        manifest = read_manifest(tmp_path / "set" / "manifest.parquet")
        assert [Path(p).relative_to(tmp_path / "set").as_posix() for p in X_new[60:]] == list(manifest.frame["image"])
        assert manifest.frame["synthetic"].all()
        assert (
            manifest.frame["sex"].tolist() == made["sex"].tolist() == sampler.sensitive_features_["sex"][60:].tolist()
        )
        assert manifest.y(["Mass"])[:, 0].tolist() == y_new[60:].tolist()
        lines = first_draw(tmp_path / "set")
        assert [line["sha256"] for line in lines] == made["sha256"].tolist()
        assert [line["seed"] for line in lines] == made["seed"].tolist()
        pixels = np.stack([read_pixels(path) for path in X_new[60:]])
        stack = np.stack([read_pixels(path) for path in X])
        arrays = SyntheticOverSampler(random_state=0, findings=["Mass"])
        assert np.array_equal(arrays.fit_resample(stack, y[:, 1], sensitive_features=people)[0][60:], pixels)

    def test_the_same_call_finds_its_set_and_another_one_is_refused(
        self, files: tuple[list[str], np.ndarray], tmp_path: Path
    ) -> None:
        X, y = files
        asked = {"core": CORE, "findings": ["Effusion", "Mass"], "out": tmp_path / "set"}
        first, _ = SyntheticOverSampler(random_state=0, **asked).fit_resample(pd.Series(X, name="image"), y)
        batches = CORE.batches
        again, _ = SyntheticOverSampler(random_state=0, **asked).fit_resample(np.array(X), y)
        assert CORE.batches == batches
        assert isinstance(first, pd.Series)
        assert first.name == "image"
        assert first.tolist() == again.tolist()
        with pytest.raises(SamplingError, match=r"holds a set of other work: plan_sha256 .*\{work\} in its name"):
            SyntheticOverSampler(random_state=1, **asked).fit_resample(X, y)

    def test_pathlib_paths_and_columns_of_paths(self, files: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
        X, y = files
        asked = {"core": CORE, "findings": ["Mass"], "random_state": 0, "out": str(tmp_path / "{work}")}
        sampler = SyntheticOverSampler(**asked)
        listed, _ = sampler.fit_resample([Path(p) for p in X], y[:, 1])
        assert all(isinstance(path, Path) and path.is_file() for path in listed)
        frame, _ = SyntheticOverSampler(**asked).fit_resample(pd.DataFrame({"image": X}), y[:, 1])
        assert frame["image"].tolist() == [str(path) for path in listed]
        assert [f.name for f in tmp_path.iterdir()] == [sampler.set_folder_.name]

    def test_paths_that_cannot_be_read(self, files: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
        X, y = files
        asked = {"out": tmp_path / "set", "core": CORE, "findings": ["Effusion", "Mass"]}
        with pytest.raises(SamplingError, match=r"row 3 of X: no such image; found 'gone.png'"):
            SyntheticOverSampler(**asked).fit_resample([*X[:3], "gone.png", *X[4:]], y)
        with pytest.raises(SamplingError, match="row 3 of X: a path is missing; found 'None'"):
            SyntheticOverSampler(**asked).fit_resample([*X[:3], None, *X[4:]], y)
        (tmp_path / "note.png").write_text("not an image")
        with pytest.raises(SamplingError, match=r"note\.png: not an image"):
            SyntheticOverSampler(out=tmp_path / "set").fit_resample([str(tmp_path / "note.png"), *X[1:]], y)
        with pytest.raises(SamplingError, match="out=FOLDER"):
            SyntheticOverSampler().fit_resample(X, y)
        assert not (tmp_path / "set").exists()
        with pytest.raises(SamplingError, match=r"note\.png: out cannot be written; found 'File exists'"):
            SyntheticOverSampler(**{**asked, "out": tmp_path / "note.png"}).fit_resample(X, y)

    def test_images_of_other_sizes_and_depths_are_brought_to_one(
        self, files: tuple[list[str], np.ndarray], tmp_path: Path
    ) -> None:
        X, y = files
        pixels = read_pixels(X[0])
        Image.fromarray(np.kron(pixels, np.ones((2, 3), np.uint8))).save(tmp_path / "wide.png")
        Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
        Image.fromarray(np.dstack([pixels] * 3)).save(tmp_path / "colour.jpg")
        others = [str(tmp_path / name) for name in ("wide.png", "deep.png", "colour.jpg")]
        sampler = SyntheticOverSampler(random_state=0, out=tmp_path / "set", image_size=SIDE)
        X_new, _ = sampler.fit_resample([*others, *X[3:]], y)
        assert X_new[:3] == others
        assert {read_pixels(path).shape for path in X_new[60:]} == {(SIDE, SIDE)}


class TestSensitiveFeatures:
    """What is carried along, and what is asked for."""

    def test_synthetic_rows_have_what_was_asked_for_and_nothing_else(self) -> None:
        X, y = faces()
        rng = np.random.default_rng(0)
        people = pd.DataFrame(
            {
                "sex": rng.choice(["F", "M", None], 60),
                "age": rng.integers(20, 90, 60),
                "race": "a",
                "insurance": rng.choice(["x", "y"], 60),
                "ward": np.arange(60),
            },
            index=range(100, 160),
        )
        sampler = SyntheticOverSampler(core=CORE, random_state=0, findings=["Mass"])
        with pytest.warns(UserWarning, match="core toy does not take race: blank in synthetic rows"):
            X_new, _ = sampler.fit_resample(X, y[:, 1], sensitive_features=people)
        got, made = sampler.sensitive_features_, sampler.provenance_
        assert len(got) == len(X_new)
        pd.testing.assert_frame_equal(got[:60], people.reset_index(drop=True), check_dtype=False)
        donors = people.iloc[made["donor"]]
        assert got["age"][60:].tolist() == donors["age"].tolist()
        assert got["sex"][60:].fillna("").tolist() == donors["sex"].fillna("").tolist()
        assert got.loc[60:, ["race", "insurance", "ward"]].isna().all(axis=None)
        prompts = [json.loads(text) for text in made["prompt"]]
        assert [p["age"] for p in prompts] == donors["age"].tolist()

    def test_views_the_core_does_not_know_become_the_one_asked_for(self) -> None:
        X, y = faces()
        sampler = SyntheticOverSampler(core=CORE, random_state=0, findings=["Mass"])
        views = pd.Series(["AP", "Lateral"] * 30, name="view")
        with pytest.warns(UserWarning, match="the view 'AP'"):
            sampler.fit_resample(X, y[:, 1], sensitive_features=views)
        donors = sampler.provenance_["donor"].to_numpy()
        expected = np.where(views[donors] == "AP", "PA", "Lateral").tolist()
        assert sampler.provenance_["view"].tolist() == sampler.sensitive_features_["view"][60:].tolist() == expected

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            ({"sex": ["F"] * 59}, "differ in length"),
            ({"sex": ["female"] * 60}, "found 'female'; expected M, F or nothing"),
            ({"age": ["old"] * 60}, "bad age"),
            (np.zeros(60), "found 'ndarray'"),
            (pd.Series(["F"] * 60), "distinct names"),
        ],
    )
    def test_features_that_are_refused(self, features: object, message: str) -> None:
        X, y = faces()
        with pytest.raises(SamplingError, match=message):
            SyntheticOverSampler().fit_resample(X, y, sensitive_features=features)


class TestLibraries:
    """In pipelines and searches."""

    def test_cross_validation_draws_from_training_folds_alone(self) -> None:
        X, y = faces(90)
        flat, mass = X.reshape(90, -1), y[:, 1]
        scaled = FunctionTransformer(lambda pixels: pixels / 255)
        pipe = make_pipeline(SyntheticOverSampler(random_state=0), scaled, LogisticRegression())
        done = cross_validate(pipe, flat, mass, cv=3, scoring="roc_auc", return_estimator=True, return_indices=True)
        assert done["test_score"].min() > 0.8
        for k, fitted in enumerate(done["estimator"]):
            rows, held_out = done["indices"]["train"][k], done["indices"]["test"][k]
            sampler, seen = fitted[0], fitted[0].core_.card.hashes
            assert seen.count_images([pixel_sha256(X[i]) for i in rows]) == len(rows)
            assert seen.count_images([pixel_sha256(X[i]) for i in held_out]) == 0
            assert sampler.sample_indices_.tolist() == list(range(len(rows)))
            assert sampler.counts_["before"].tolist() == np.bincount(mass[rows]).tolist()
            before = sampler.provenance_
            assert len(fitted.predict(flat[held_out])) == len(held_out), "test rows pass as they are"
            assert sampler.provenance_ is before

    def test_a_search_over_strategies_in_two_processes(self) -> None:
        X, y = faces(90)
        pipe = make_pipeline(SyntheticOverSampler(random_state=0), LogisticRegression(max_iter=300))
        grid = {"syntheticoversampler__sampling_strategy": [0.4, 1.0, "minority"]}
        found = [
            GridSearchCV(pipe, grid, cv=3, scoring="roc_auc", n_jobs=jobs, error_score="raise")
            .fit(X.reshape(90, -1), y[:, 1])
            .cv_results_["mean_test_score"]
            for jobs in (1, 2)
        ]
        assert np.array_equal(*found)

    def test_candidates_of_a_search_share_a_set(self, files: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
        X, y = files
        sampler = SyntheticOverSampler(random_state=0, out=tmp_path / "{work}", image_size=SIDE)
        pipe = make_pipeline(sampler, FunctionTransformer(flat_images), LogisticRegression())
        grid = {"logisticregression__C": [0.01, 0.1, 1.0]}
        search = GridSearchCV(pipe, grid, cv=3, n_jobs=2, error_score="raise").fit(np.array(X), y[:, 1])
        assert search.score(X, y[:, 1]) > 0.9
        assert len(list(tmp_path.iterdir())) == 4, "three folds and the refit"

    def test_paths_in_cross_validation_have_a_set_per_fold(
        self, files: tuple[list[str], np.ndarray], tmp_path: Path
    ) -> None:
        X, y = files
        sampler = SyntheticOverSampler(random_state=0, out=tmp_path / "{work}", image_size=SIDE)
        read = FunctionTransformer(flat_images)
        done = cross_validate(make_pipeline(sampler, read, LogisticRegression()), np.array(X), y[:, 1], cv=3)
        assert len(done["test_score"]) == 3
        assert len(list(tmp_path.iterdir())) == 3

    def test_beside_another_sampler(self) -> None:
        X, y = faces()
        flat = X.reshape(60, -1)
        both = make_pipeline(
            SyntheticOverSampler(random_state=0), RandomUnderSampler(random_state=0), LogisticRegression(max_iter=500)
        )
        assert both.fit(flat, y[:, 1]).predict(flat).shape == (60,)

    def test_sensitive_features_are_routed(self) -> None:
        X, y = faces()
        people = pd.DataFrame({"sex": ["F", "M"] * 30})
        with config_context(enable_metadata_routing=True):
            sampler = SyntheticOverSampler(random_state=0).set_fit_resample_request(sensitive_features=True)
            pipe = make_pipeline(sampler, LogisticRegression())
            pipe.fit(X.reshape(60, -1), y[:, 1], sensitive_features=people)
            done = cross_validate(pipe, X.reshape(60, -1), y[:, 1], cv=2, params={"sensitive_features": people})
        assert set(pipe[0].sensitive_features_["sex"]) == {"F", "M"}
        assert len(pipe[0].sensitive_features_) == 60 + len(pipe[0].provenance_)
        assert np.isfinite(done["test_score"]).all()

    def test_clones_parameters_and_pickles(self) -> None:
        X, y = faces()
        sampler = SyntheticOverSampler(core=CORE, findings=["Effusion", "Mass"], sampling_strategy=0.5, random_state=7)
        assert clone(sampler).get_params()["sampling_strategy"] == 0.5
        assert clone(sampler).set_params(view="PA").view == "PA"
        expected = sampler.fit_resample(X, y)[0]
        assert np.array_equal(clone(sampler).fit_resample(X, y)[0], expected)
        plain = SyntheticOverSampler(random_state=0)
        plain.fit_resample(X, y)
        assert np.array_equal(pickle.loads(pickle.dumps(plain)).fit_resample(X, y)[0], plain.fit_resample(X, y)[0])

    def test_errors_are_of_both_worlds(self) -> None:
        with pytest.raises(InputError) as raised:
            SyntheticOverSampler(value_range=(1, 0)).fit_resample(*faces())
        assert isinstance(raised.value, ValueError)
        assert raised.value.exit_code == 2

    def test_the_package_names_its_sampler_and_nothing_else(self) -> None:
        assert cxraug.balance.SyntheticOverSampler is SyntheticOverSampler
        with pytest.raises(AttributeError, match="no attribute 'Sampler'"):
            _ = cxraug.balance.Sampler
