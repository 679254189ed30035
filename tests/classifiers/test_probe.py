"""Linear probes: features are what the last layer is given, and a probe finds what is planted and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchxrayvision.models import DenseNet

from cxraug.classifiers.models import Classifier, build_model
from cxraug.classifiers.probe import STRENGTHS, probe, refuse_unprobed
from cxraug.errors import InputError
from cxraug.evaluation.auroc import auroc
from cxraug.evaluation.measured import Patients
from cxraug.evaluation.uncertainty import interval

IMAGES_EACH = 3


def network(name: str) -> Classifier:
    torch.manual_seed(0)
    if name == "xrv":
        return Classifier(DenseNet(num_classes=3), "classifier", centre=0.5, spread=1 / 2048, size=224).eval()
    return build_model(name, 3, size=64).eval()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "dla46_c", "xrv"])
def test_the_head_makes_the_logits_of_the_features_exactly(name: str) -> None:
    model, images = network(name), torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        features = model.features(images)
        assert features.ndim == 2
        assert torch.equal(model.logits(features), model(images))


def test_a_network_with_two_heads_is_refused_by_name() -> None:
    refuse_unprobed("test_resnet", 64)
    with pytest.raises(InputError, match=r"one linear last layer; found 'deit_tiny_distilled_patch16_224'"):
        refuse_unprobed("deit_tiny_distilled_patch16_224", 64)


def cohort(strength: float, patients: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 20) of patients with three images each; the attribute shifts three of them by ``strength``."""
    rng = np.random.default_rng(seed)
    y = np.repeat(rng.integers(0, 2, patients), IMAGES_EACH).astype(float)
    features = rng.normal(size=(patients, 20)).repeat(IMAGES_EACH, axis=0) + 0.5 * rng.normal(size=(len(y), 20))
    features[:, :3] += strength * (2 * y[:, None] - 1)
    return 50 + 10 * features.astype(np.float32), y  # far from standardised


def measured(strength: float) -> tuple[float, float, float]:
    (train, y_train), (val, y_val), (test, y) = (cohort(strength, n, s) for n, s in ((150, 0), (60, 1), (150, 2)))
    y_train[:IMAGES_EACH] = np.nan
    scores, _ = probe(train, y_train, val, y_val, test)
    patients = Patients(np.arange(0, len(y), IMAGES_EACH), len(y))
    found = auroc(scores[None], np.argsort(scores)[None], y, patients)
    low, high = interval(found.value, found.variance, found.df, "logit", 0.05)
    return float(found.value[0]), float(low[0]), float(high[0])


def test_a_planted_attribute_is_found_and_an_absent_one_is_not() -> None:
    value, low, _ = measured(2.0)
    assert value > 0.98
    assert low > 0.9
    value, low, high = measured(0.0)
    assert low < 0.5 < high
    assert 0.35 < value < 0.65


def test_a_probe_does_not_depend_on_the_scale_of_a_feature() -> None:
    (train, y_train), (val, y_val), (test, _) = (cohort(0.3, n, s) for n, s in ((60, 0), (30, 1), (40, 2)))
    scale = np.logspace(-3, 3, 20)
    plain, strength = probe(train, y_train, val, y_val, test)
    scaled, same = probe(train * scale, y_train, val * scale, y_val, test * scale)
    assert strength == same
    assert np.allclose(plain, scaled, atol=1e-3)


def test_noise_takes_the_strongest_regularisation() -> None:
    (train, y_train), (val, y_val), (test, _) = (cohort(0.0, n, s) for n, s in ((40, 0), (300, 1), (40, 2)))
    assert probe(train, y_train, val, y_val, test)[1] == STRENGTHS[0]
    assert probe(train, y_train, val, np.full(len(val), np.nan), test)[1] == STRENGTHS[0]
