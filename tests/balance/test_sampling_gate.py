"""The gate of a sampler: what it stops, what it says of that, and that it reads the rows it is given alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from imblearn.pipeline import make_pipeline
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_validate
from sklearn.preprocessing import FunctionTransformer
from synthesis.toycore import FINDINGS, ToyCore, draw_chest

from cxraug.balance import SyntheticOverSampler
from cxraug.balance.refusal import SamplingError
from cxraug.balance.sampling_gate import REDRAWS, gate_settings
from cxraug.cores.core import prompts_from_plan
from cxraug.gate.crossfit import folds_seen
from cxraug.gate.settings import GateSettings
from cxraug.storage import read_json
from cxraug.studies.images import pixel_sha256, read_pixels

GATE = GateSettings(model="test_resnet", steps=60, batch_size=16, learning_rate=4e-3, max_redraws=3)
COPIES = GateSettings(agreement=False, demographics=False, realism=False)
SIDE = 32


def chests(n: int = 160, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32) and labels (n, 2) that can be seen in them."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 2)) < [0.5, 0.25]).astype(int)
    return np.stack([draw_chest(dict(zip(FINDINGS, row, strict=True)), rng) for row in y.tolist()]), y


def mass(y: np.ndarray, more: int = 12) -> dict[int, int]:
    """Of the second column as classes: so many more of class 1."""
    return {1: int(y.sum()) + more}


def faulty_core(copied: np.ndarray, *, draws: int = 1) -> ToyCore:
    """The first four prompts give copies, the next four draw no Mass, each in its first ``draws`` draws."""
    order: dict[str, int] = {}
    drawn: dict[str, int] = {}

    def paint(prompt: Any, view: str, seed: int) -> np.ndarray:
        at = order.setdefault(prompt.prompt_id, len(order))
        drawn[prompt.prompt_id] = drawn.get(prompt.prompt_id, 0) + 1
        if drawn[prompt.prompt_id] <= draws and at < 4:
            return copied[at]
        labels = {"Effusion": prompt.labels.get("Effusion", 0)} if at < 8 and drawn[prompt.prompt_id] <= draws else None
        return draw_chest(dict(prompt.labels) if labels is None else labels, np.random.default_rng(seed))

    return ToyCore(paint=paint)


def sampler_of(core: Any, y: np.ndarray, **changes: Any) -> SyntheticOverSampler:
    asked = {"core": core, "findings": ["Mass"], "random_state": 0, "gate": GATE, "sampling_strategy": mass(y)}
    return SyntheticOverSampler(**{**asked, **changes})


@pytest.mark.filterwarnings("ignore:the gate could not check:UserWarning")
class TestVerdicts:
    """Images that the gate stops."""

    def test_copies_and_missed_findings_are_drawn_again(self) -> None:
        X, y = chests()
        sampler = sampler_of(faulty_core(X), y[:, 1])
        X_new, y_new = sampler.fit_resample(X, y[:, 1])
        assert np.array_equal(X_new[:160], X)
        assert y_new[160:].tolist() == [1] * 12
        made, rejected = sampler.provenance_, sampler.rejected_
        first = rejected[rejected["draw"] == 0]
        assert set(range(160, 164)) <= set(first.index[first["reasons"].str.contains("copy of a training image")])
        missed = first.index[first["reasons"].str.contains("agreement: Mass not seen")]
        assert len(set(range(164, 168)) & set(missed)) >= 3, "a gate does not see everything"
        assert (made["draw"] > 0).sum() == len(set(rejected.index))
        assert set(made["seed"]).isdisjoint(rejected["seed"])
        assert set(rejected["drawn_for"]) == {1}
        assert (rejected["donor"] == made.loc[rejected.index, "donor"]).all(), "the same labels are asked for again"
        assert {pixel_sha256(image) for image in X_new[160:]}.isdisjoint(pixel_sha256(image) for image in X)
        assert made["sha256"].is_unique
        assert sampler.gate_["accepted"] == 12
        assert sampler.gate_["real"]["n"] == 160

    def test_the_accepted_images_are_what_their_seeds_draw(self) -> None:
        X, y = chests()
        core = ToyCore()
        sampler = sampler_of(core, y[:, 1])
        X_new, _ = sampler.fit_resample(X, y[:, 1])
        made = sampler.provenance_
        plan = made.rename(columns={"view": "views"})[["prompt_id", "labels", "views"]]
        studies = core.generate(prompts_from_plan(plan, core.card.findings), made["seed"].tolist())
        assert all(np.array_equal(a, s.images["PA"]) for a, s in zip(X_new[160:], studies, strict=True))
        again, _ = clone(sampler).fit_resample(X, y[:, 1])
        assert X_new.tobytes() == again.tobytes()

    def test_a_class_that_cannot_be_filled_is_refused_with_counts_and_reasons(self) -> None:
        X, y = chests()
        sampler = sampler_of(faulty_core(X, draws=99), y[:, 1], gate=COPIES)
        with pytest.raises(SamplingError) as raised:
            sampler.fit_resample(X, y[:, 1])
        line = str(raised.value)
        assert "core toy" in line
        assert "accepted are 8 of 12 asked for 1, of 2 draws of each" in line
        assert "duplicates: copy of a training image (8)" in line
        assert not hasattr(sampler, "provenance_")
        assert sampler.gate_["accepted"] == 8
        assert len(sampler.rejected_) == 8
        assert set(sampler.rejected_["draw"]) == {0, 1}

    def test_the_gate_of_the_gaussian_core_is_fitted_on_the_same_rows(self) -> None:
        X, y = chests()
        frame = pd.DataFrame(y, columns=FINDINGS)
        sampler = SyntheticOverSampler(random_state=0, gate=COPIES, sampling_strategy={"Mass": 50})
        _, y_new = sampler.fit_resample(X, frame)
        assert y_new["Mass"].sum() == 50
        assert sampler.rejected_.empty
        assert list(sampler.rejected_.columns) == [
            "prompt_id", "drawn_for", "donor", "draw", "seed", "sha256", "reasons"
        ]  # fmt: skip
        assert sampler.gate_["settings"]["reports"] is False

    def test_values_of_x_do_not_matter_to_it(self) -> None:
        X, y = chests()
        asked = {"gate": COPIES, "value_range": (0, 1)}
        sampler = sampler_of(faulty_core(X), y[:, 1], **asked)
        X_new, _ = sampler.fit_resample((X / 255).reshape(160, -1), y[:, 1])
        assert set(sampler.rejected_.index) == set(range(160, 164))
        assert X_new.dtype == float


@pytest.mark.filterwarnings("ignore:the gate could not check:UserWarning")
class TestPaths:
    """X as paths: the set has the verdicts."""

    def test_the_set_is_a_gated_one(self, tmp_path: Path) -> None:
        X, y = chests()
        paths = [str(tmp_path / f"{i}.png") for i in range(160)]
        for path, pixels in zip(paths, X, strict=True):
            Image.fromarray(pixels).save(path)
        sampler = sampler_of(faulty_core(X), y[:, 1], gate=COPIES, out=tmp_path / "set", image_size=SIDE)
        X_new, _ = sampler.fit_resample(paths, y[:, 1])
        assert read_json(tmp_path / "set" / "gate.json") == sampler.gate_
        manifest = pd.read_parquet(tmp_path / "set" / "manifest.parquet")
        assert [str(tmp_path / "set" / image) for image in manifest["image"]] == X_new[160:]
        assert set(manifest["gate"]) == {"accept"}
        assert (sampler.provenance_["draw"] == 1).sum() == 4
        known = {pixel_sha256(image) for image in X}
        assert not known & {pixel_sha256(read_pixels(path)) for path in X_new[160:]}
        batches = sampler.core.batches
        assert clone(sampler).set_params(core=sampler.core).fit_resample(paths, y[:, 1])[0] == X_new
        assert sampler.core.batches == batches

    def test_another_gate_has_another_folder_of_work(self, tmp_path: Path) -> None:
        X, y = chests(60)
        for i, pixels in enumerate(X):
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        paths = [str(tmp_path / f"{i}.png") for i in range(60)]
        folders = set()
        for gate in (None, COPIES, COPIES.model_copy(update={"max_redraws": 2})):
            sampler = sampler_of(ToyCore(), y[:, 1], gate=gate, out=tmp_path / "{work}", image_size=SIDE)
            sampler.fit_resample(paths, y[:, 1])
            folders.add(sampler.set_folder_)
        assert len(folders) == 3


class TestWhatItReads:
    """X, y and the features given; nothing else."""

    def test_in_cross_validation_it_has_seen_training_folds_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        X, y = chests(120)
        for i, pixels in enumerate(X):
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        paths = np.array([str(tmp_path / f"{i}.png") for i in range(120)])
        gate = GATE.model_copy(update={"steps": 4, "realism": False})
        sampler = sampler_of(ToyCore(), y[:, 1], gate=gate, sampling_strategy=mass_of, out=tmp_path / "{work}")
        read = FunctionTransformer(lambda some: np.stack([read_pixels(path).ravel() / 255 for path in some]))
        pipe = make_pipeline(sampler.set_params(image_size=SIDE), read, LogisticRegression())
        with pytest.warns(UserWarning, match="gate could not check everything: "):
            done = cross_validate(pipe, paths, y[:, 1], cv=2, return_estimator=True, return_indices=True)
        for k, fitted in enumerate(done["estimator"]):
            seen = folds_seen(next((fitted[0].set_folder_ / "gate").glob("classifier-*")))
            train, test = ([pixel_sha256(X[i]) for i in done["indices"][part][k]] for part in ("train", "test"))
            assert seen.count_images(train) == len(train)
            assert seen.count_images(test) == 0
            assert fitted[0].gate_["real"]["n"] == len(train)

    def test_patients_of_the_sensitive_features_are_kept_together(self) -> None:
        """Two views of a patient look alike: taken for two patients they would excuse copies."""
        X, y = chests(80)
        noise = np.random.default_rng(1).integers(-60, 61, X.shape)
        twice = np.concatenate([X, np.clip(X + noise, 0, 255).astype(np.uint8)])
        patients = pd.DataFrame({"patient_id": [f"p{i % 80}" for i in range(160)]})
        classes = np.tile(y[:, 1], 2)
        cutoffs = []
        for features in (None, patients):
            sampler = sampler_of(ToyCore(), classes, gate=COPIES)
            sampler.fit_resample(twice, classes, sensitive_features=features)
            cutoffs.append(sampler.gate_["checks"]["duplicates"]["null_quantiles"]["0.5"])
        assert cutoffs[0] > 1.5 * cutoffs[1]
        assert sampler.sensitive_features_["patient_id"][160:].isna().all()

    def test_settings_that_would_read_more_are_refused(self, tmp_path: Path) -> None:
        X, y = chests(20)
        for settings, message in (
            (GateSettings(weights=str(tmp_path)), "trained elsewhere; found 'weights'"),
            (GateSettings(xrv_sex="sex.pt"), "trained elsewhere; found 'xrv_sex'"),
            (GateSettings(per_group="insurance"), "per_group of the gate; found 'insurance'"),
        ):
            with pytest.raises(SamplingError, match=message):
                SyntheticOverSampler(gate=settings).fit(X, y[:, 1])
        with pytest.raises(ValueError, match="'gate' parameter"):
            SyntheticOverSampler(gate="strict").fit(X, y[:, 1])
        with pytest.raises(SamplingError, match="no square images"):
            SyntheticOverSampler(gate=True).fit_resample(X[:, :12], y[:, 1])

    def test_true_and_default_are_the_default_settings_with_more_draws(self) -> None:
        expected = GateSettings(max_redraws=REDRAWS, reports=False)
        assert gate_settings(True) == gate_settings("default") == expected
        assert gate_settings(None) is None
        assert gate_settings(False) is None


def mass_of(y: np.ndarray) -> dict[int, int]:
    """As :func:`mass`, for a fold."""
    return mass(np.asarray(y), 6)
