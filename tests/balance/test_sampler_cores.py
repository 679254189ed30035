"""The sampler with the cores of the package and with one of another program."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from cores.tinypipelines import save_tiny
from PIL import Image

from cxraug.balance import SyntheticOverSampler
from cxraug.balance.refusal import SamplingError
from cxraug.cores.core import GenerativeCore
from cxraug.cores.registry import open_core
from cxraug.studies.images import read_pixels
from cxraug.studies.phantom.cohort import PhantomSettings, render_study, sample_cohort


def two_more(y: np.ndarray) -> dict[int, int]:
    return {1: int(np.sum(np.asarray(y) == 1)) + 2}


@pytest.fixture(scope="module")
def phantoms() -> tuple[np.ndarray, np.ndarray]:
    """30 images (n, 48, 48) and whether they show an Effusion."""
    settings = PhantomSettings(n=30, size=48, seed=2, prevalence={"Effusion": 0.3})
    cohort = sample_cohort(settings)
    X = np.stack([render_study(study, settings).images["PA"] for study in cohort.to_dict("records")])
    return X, cohort["labels"].str.contains("Effusion").to_numpy(int)


@pytest.fixture(scope="module", params=["phantom-nano", "cxr-nano"])
def core(request: pytest.FixtureRequest) -> GenerativeCore:
    return open_core(request.param, overrides={"sampler_steps": 2})


def sampler_of(core: object, **changes: object) -> SyntheticOverSampler:
    asked = {"core": core, "findings": ["Effusion"], "sampling_strategy": two_more, "random_state": 0}
    return SyntheticOverSampler(**{**asked, **changes})


class TestShippedCores:
    """phantom-nano and cxr-nano, of 128 pixels."""

    def test_they_draw_in_size_range_and_type_of_x(
        self, core: GenerativeCore, phantoms: tuple[np.ndarray, np.ndarray]
    ) -> None:
        X, y = phantoms
        sampler = sampler_of(core)
        X_new, y_new = sampler.fit_resample(X, y)
        assert X_new.shape == (32, 48, 48)
        assert y_new[30:].tolist() == [1, 1]
        assert set(sampler.provenance_["core"]) == {core.card.name}
        assert X_new[30:].std() > 5, "pictures"
        unit, _ = sampler_of(core).fit_resample((X / 255).astype(np.float32), y)
        assert np.array_equal(np.rint(unit[30:] * 255), X_new[30:])
        flat, _ = sampler_of(core).fit_resample(X.reshape(30, -1), y)
        assert np.array_equal(flat[30:], X_new[30:].reshape(2, -1))

    def test_views_and_findings_they_do_not_know_are_refused(
        self, core: GenerativeCore, phantoms: tuple[np.ndarray, np.ndarray]
    ) -> None:
        X, y = phantoms
        with pytest.raises(
            SamplingError, match=f"core {core.card.name} does not know a finding of y; found 'Fracture'"
        ):
            sampler_of(core, findings=["Fracture"]).fit_resample(X, y)
        with pytest.raises(SamplingError, match="does not know the view 'oblique'"):
            sampler_of(core, view="oblique").fit_resample(X, y)
        with pytest.raises(SamplingError, match="no square images"):
            sampler_of(core).fit_resample(X[:, :40], y)
        assert sampler_of(core, view=core.card.views[0]).fit_resample(X, y)[0].shape == (32, 48, 48)

    def test_files_are_written_in_the_size_of_the_core(
        self, core: GenerativeCore, phantoms: tuple[np.ndarray, np.ndarray], tmp_path: Path
    ) -> None:
        X, y = phantoms
        paths = [str(tmp_path / f"{i}.png") for i in range(30)]
        for path, pixels in zip(paths, X, strict=True):
            Image.fromarray(pixels).save(path)
        X_new, _ = sampler_of(core, out=tmp_path / "set").fit_resample(paths, y)
        assert {read_pixels(path).shape for path in X_new[30:]} == {(128, 128)}

    def test_they_can_be_pickled(self, core: GenerativeCore, phantoms: tuple[np.ndarray, np.ndarray]) -> None:
        X, y = phantoms
        expected = sampler_of(core).fit_resample(X, y)[0]
        again = pickle.loads(pickle.dumps(sampler_of(core)))
        assert np.array_equal(again.fit_resample(X, y)[0], expected)


def test_a_name_opens_a_shipped_core(phantoms: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = phantoms
    sampler = sampler_of("phantom-nano")
    X_new, _ = sampler.fit_resample(X, y)
    assert sampler.core_.card.name == "phantom-nano"
    with pytest.warns(UserWarning, match="draws 128 pixels and X has 144"):
        sampler.fit_resample(np.kron(X, np.ones((1, 3, 3), np.uint8)), y)
    assert len(X_new) == 32


def test_a_pipeline_of_another_program_is_asked_by_caption(
    phantoms: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    X, y = phantoms
    spec = f"diffusers:{save_tiny('sd1', tmp_path / 'tiny')}"
    core = open_core(spec, overrides={"steps": 2})
    with pytest.warns(UserWarning, match="draws 32 pixels and X has 48"):
        X_new, _ = sampler_of(core).fit_resample(X, y)
    small = sampler_of(core)
    X_small, _ = small.fit_resample(X[:, ::2, ::2], y)
    assert X_new.shape == (32, 48, 48)
    assert X_small.shape == (32, 24, 24)
    assert set(small.provenance_["core_sha256"]) == {core.card.sha256}
    with pytest.raises(SamplingError, match="does not know a finding of y; found 'Gout'"):
        sampler_of(spec, findings=["Gout"]).fit_resample(X, y)
    with pytest.raises(SamplingError, match="/nowhere: no such pipeline"):
        sampler_of("diffusers:/nowhere").fit_resample(X, y)
