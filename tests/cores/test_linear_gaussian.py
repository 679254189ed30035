"""The linear-Gaussian model against the textbook: moments recovered, exact posterior mean, exact sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import seen

from cxraug.cores.conditions import Conditions, Vocabulary
from cxraug.cores.core import Prompt
from cxraug.cores.diffusion.sampling import guided, sample
from cxraug.cores.gaussian import fit_gaussian
from cxraug.cores.linear_gaussian import ConditionBatch, GaussianModel, LinearGaussian, fit_gaussian_model
from cxraug.cores.settings import DiffusionSettings
from cxraug.errors import InputError

SIZE, D = 6, 36
MEANS = {0.0: 100.0, 1.0: 140.0}  # grey level of the two classes


def known_gaussian(n: int, rng: np.random.Generator) -> tuple[np.ndarray, Conditions, np.ndarray]:
    """Two classes with means 100 and 140, one covariance: two directions of sd 60 and 30 grey levels and white 5."""
    basis = np.linalg.qr(rng.normal(size=(D, 2)))[0]
    covariance = basis @ np.diag([60.0**2, 30.0**2]) @ basis.T + 25 * (np.eye(D) - basis @ basis.T)
    y = (np.arange(n) % 2).astype(np.float32)[:, None]
    noise = rng.multivariate_normal(np.zeros(D), covariance, n)
    images = np.array([MEANS[float(v)] for v in y[:, 0]])[:, None] + noise
    return np.clip(images.round(), 0, 255).astype(np.uint8).reshape(n, SIZE, SIZE), Conditions.of(("A",), y), covariance


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory):
    pixels, conditions, covariance = known_gaussian(6000, np.random.default_rng(0))
    folder = tmp_path_factory.mktemp("known")
    return fit_gaussian(pixels, conditions, folder, components=2, seen=seen(), training_data={}), covariance


def draws(core, label: int, n: int) -> np.ndarray:
    prompts = [Prompt(f"p{i}", {"A": label}) for i in range(n)]
    return np.stack([s.images["PA"] for s in core.generate(prompts, list(range(n)))]).reshape(n, D).astype(float)


def test_class_means_and_covariance_are_reproduced(fitted) -> None:
    core, covariance = fitted
    n = 3000
    for label in (0, 1):
        x = draws(core, label, n)
        assert np.abs(x.mean(0) - MEANS[float(label)]).max() < 4 * 25 / np.sqrt(n) + 1
        found = np.cov(x.T)
        assert np.linalg.norm(found - covariance) / np.linalg.norm(covariance) < 0.08


def test_parameters_are_those_of_the_known_gaussian(fitted) -> None:
    core, covariance = fitted
    part = core.model.parts["frontal"]
    scale = 127.5**2
    assert part.variance * scale == pytest.approx([3600, 900], rel=0.08)
    assert float(part.remainder) * scale == pytest.approx(25, rel=0.05)
    assert float(part.pixel_variance) * scale * D == pytest.approx(np.trace(covariance), rel=0.05)


def test_an_unlabelled_prompt_gives_the_pooled_mean(fitted) -> None:
    core, _ = fitted
    batch = ConditionBatch.of(core.vocabulary, Conditions.from_prompts([Prompt("p")], ["PA"], ["A"]))
    assert ((core.model.class_mean(batch) + 1) * 127.5).numpy() == pytest.approx(np.full((1, D), 120), abs=2.5)


def test_a_rare_class_is_shrunk_to_the_pooled_mean() -> None:
    rng = np.random.default_rng(1)
    pixels = np.clip(rng.normal(120, 40, (400, SIZE, SIZE)), 0, 255).astype(np.uint8)
    y = np.zeros((400, 1), np.float32)
    y[:3] = 1  # three positives without any signal
    conditions = Conditions.of(("A",), y)
    vocabulary = Vocabulary.of(conditions)
    model = fit_gaussian_model(pixels, conditions, vocabulary, components=4)
    batch = ConditionBatch.of(vocabulary, conditions.take(np.arange(1)))
    pooled = pixels.reshape(400, -1).mean(0)
    raw = np.abs(pixels[:3].reshape(3, -1).mean(0) - pooled).mean()
    shrunk = np.abs(((model.class_mean(batch) + 1) * 127.5).numpy() - pooled).mean()
    assert shrunk < 0.2 * raw


def dense(part: LinearGaussian) -> torch.Tensor:
    d, _ = part.basis.shape
    outside = torch.eye(d, dtype=torch.float64) - (part.basis @ part.basis.T).double()
    return (part.basis * part.variance @ part.basis.T).double() + part.remainder.double() * outside


@pytest.fixture
def part() -> LinearGaussian:
    part = LinearGaussian(12, 1, 3)
    generator = torch.Generator().manual_seed(0)
    part.basis = torch.linalg.qr(torch.randn(12, 3, generator=generator)).Q
    part.variance, part.remainder = torch.tensor([4.0, 1.0, 0.3]), torch.tensor(0.05)
    part.mean = torch.linspace(-0.5, 0.5, 12)
    return part


@pytest.mark.parametrize("t", [0.02, 0.3, 0.7, 0.98])
def test_wiener_is_the_exact_posterior(part: LinearGaussian, t: float) -> None:
    """Against E[x | z] = m + a C (a^2 C + t^2 I)^-1 (z - a m) and its covariance, with dense matrices."""
    z, a, cov = torch.randn(5, 12, generator=torch.Generator().manual_seed(1)), 1 - t, dense(part)
    gain = a * cov @ torch.linalg.inv(a**2 * cov + t**2 * torch.eye(12, dtype=torch.float64))
    expected = part.mean + (z - a * part.mean).double() @ gain.T
    estimate, variance = part.wiener(z, torch.full((5, 1), t), part.mean.expand(5, -1))
    assert torch.allclose(estimate.double(), expected, atol=1e-5)
    posterior = cov - a * gain @ cov
    assert variance[:, 0].tolist() == pytest.approx([float(torch.trace(posterior)) / 12] * 5, rel=1e-4)


@pytest.mark.parametrize("solver", ["dpmsolver++", "sde-dpmsolver++"])
def test_the_sampler_with_the_exact_denoiser_draws_the_gaussian(part: LinearGaussian, solver: str) -> None:
    model = GaussianModel({"frontal": part})
    n = 4000
    batch = ConditionBatch(torch.zeros(n, 1), torch.zeros(n, 1), torch.zeros(n, dtype=torch.long))
    settings = DiffusionSettings(sampler_steps=60, solver=solver)
    streams = [torch.Generator().manual_seed(i) for i in range(n)]
    x = sample(guided(lambda z, t, b: model.wiener(z, t, b)[0], batch, 1.0), settings, 12, streams)
    assert (x.mean(0) - part.mean).abs().max() < 0.1
    found, cov = torch.cov(x.T).double(), dense(part)
    assert float(torch.linalg.norm(found - cov) / torch.linalg.norm(cov)) < 0.1


def test_projections_do_not_mix() -> None:
    rng = np.random.default_rng(2)
    pixels = np.where(np.arange(200)[:, None, None] % 2 == 0, 60, 180) + rng.normal(0, 5, (200, SIZE, SIZE))
    view = np.where(np.arange(200) % 2 == 0, "PA", "Lateral")
    conditions = Conditions.of((), np.zeros((200, 0)), view=list(view))
    vocabulary = Vocabulary.of(conditions)
    model = fit_gaussian_model(pixels.astype(np.uint8), conditions, vocabulary, components=2)
    assert set(model.components) == {"frontal", "lateral"}
    mean = (model.class_mean(ConditionBatch.of(vocabulary, conditions.take(np.arange(4)))) + 1) * 127.5
    assert mean.mean(1).tolist() == pytest.approx([60, 180, 60, 180], abs=2)
    null = ConditionBatch.of(vocabulary, conditions.take(np.arange(4))).null()
    assert ((model.class_mean(null) + 1) * 127.5).mean(1).tolist() == pytest.approx([60, 180, 60, 180], abs=2)


def test_wrong_shapes_are_refused(tmp_path) -> None:
    conditions = Conditions.of((), np.zeros((3, 0)))
    for pixels in (np.zeros((3, 4, 5), np.uint8), np.zeros((3, 4, 4)), np.zeros((2, 4, 4), np.uint8)):
        with pytest.raises(InputError):
            fit_gaussian(pixels, conditions, tmp_path, seen=seen(), training_data={})
    with pytest.raises(InputError, match="few"):
        fit_gaussian(np.zeros((1, 4, 4), np.uint8), conditions.take(np.arange(1)), tmp_path, seen=seen(),
                     training_data={})  # fmt: skip


def test_few_images_are_enough(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 8, 8)).astype(np.uint8)
    core = fit_gaussian(pixels, Conditions.of(("A",), np.array([[1], [0]])), tmp_path, seen=seen(), training_data={})
    assert core.generate([Prompt("p", {"A": 1})], [0])[0].images["PA"].shape == (8, 8)
