"""Linear probes: can an attribute of the patient be read off what a classifier gives to its last layer?

Encoding is not use: that a probe finds an attribute does not say that the findings are predicted from it (Glocker et
al. 2023, eBioMedicine 89, 104467).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cxraug.classifiers.models import XRV, build_model
from cxraug.classifiers.prediction import batch_on, open_classifier
from cxraug.classifiers.settings import TrainSettings
from cxraug.classifiers.training import initial_model, to_unit
from cxraug.errors import InputError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse regularisation, strongest first


def arm_features(
    folder: Path, pixels: np.ndarray, *, trained: bool = True, batch: int | None = None, device: str = "auto"
) -> np.ndarray:
    """What a classifier's last layer is given, float32 (n, D).

    Parameters
    ----------
    folder : of a trained classifier. pixels : uint8 (n, S, S), encoded as its training images were, n >= 1.
    trained : False takes the network as it was before its training: random, or the weights that it began with.
    batch : images at once; default :func:`cxraug.classifiers.prediction.batch_on` the device.
    device : ``auto`` is CUDA where there is one.

    Raises
    ------
    InputError : no classifier in ``folder``, or images of another size than it was trained on.
    """
    card, model, where = open_classifier(folder, pixels, device=device)
    if not trained:
        settings = TrainSettings.model_validate(card.settings)
        weights = Path(settings.weights) if settings.weights else None
        with torch.random.fork_rng(devices=[]):
            model = initial_model(settings, card.findings, card.size, card.seed, weights).to(where).eval()
    parts, batch = [], batch or batch_on(where)
    with torch.inference_mode():
        for start in range(0, len(pixels), batch):
            parts.append(model.features(to_unit(pixels[start : start + batch], where)).float().cpu().numpy())
    return np.concatenate(parts)


def refuse_unprobed(name: str, size: int) -> None:
    """Refuse a network whose features are not what its one last layer makes the logits of.

    Parameters
    ----------
    name : as of :func:`cxraug.classifiers.models.build_model`. size : side of the images in pixels.

    Raises
    ------
    InputError : e.g. two heads that are averaged (distilled transformers), or a step between features and head.
    """
    if name.startswith(XRV):
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(name.partition(".")[0], 2, size=size).eval()
        images = torch.rand(2, 1, size, size)
    with torch.inference_mode():
        try:
            features = model.features(images)
            same = features.ndim == 2 and torch.allclose(model.logits(features), model(images), rtol=1e-4, atol=1e-6)
        except (RuntimeError, AttributeError, TypeError):
            same = False
    if not same:
        raise InputError(
            "a probe needs a network with one linear last layer", found=name, expected="e.g. resnet10t, or no probes"
        )


def probe(
    train: np.ndarray, y_train: np.ndarray, val: np.ndarray, y_val: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, float]:
    """Fit a logistic regression on ``train``, choose its regularisation on ``val``, and score ``test``.

    Parameters
    ----------
    train, val, test : features (n, D); the splits share no patient.
    y_train, y_val : 1, 0, or NaN (unknown: left out). ``y_train`` must hold both classes.

    Returns
    -------
    Probabilities (n_test,) and the chosen inverse regularisation, one of :data:`STRENGTHS`.

    Notes
    -----
    Features are standardised by mean and standard deviation of the known training rows. The choice is by the sum of
    the log loss over the known validation rows (defined also where they hold one class); ties take the strongest.
    """
    from scipy.special import expit
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    known, known_val = ~np.isnan(y_train), ~np.isnan(y_val)
    with threadpool_limits(1):  # as a training: the same numbers whatever the number of workers
        scaler = StandardScaler().fit(train[known].astype(np.float64))
        x, x_test = (scaler.transform(part.astype(np.float64)) for part in (train[known], test))
        x_val = scaler.transform(val[known_val].astype(np.float64)) if known_val.any() else None
        sign = 2 * y_val[known_val] - 1
        model = LogisticRegression(max_iter=2000, warm_start=True)
        best, loss, scores = STRENGTHS[0], np.inf, np.empty(0)
        for strength in STRENGTHS:
            model.set_params(C=strength).fit(x, y_train[known])
            own = 0.0 if x_val is None else float(np.logaddexp(0, -sign * model.decision_function(x_val)).sum())
            if own < loss:
                best, loss, scores = strength, own, model.decision_function(x_test)
    return expit(scores), best
