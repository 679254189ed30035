"""Feature extractors: what a fidelity score is a score of. Each has a name and a hash of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cxraug.classifiers.card import WEIGHTS, read_classifier_card
from cxraug.classifiers.models import XRV, XRV_SIZE, Classifier, build_model
from cxraug.classifiers.probe import arm_features, refuse_unprobed
from cxraug.classifiers.training import to_unit
from cxraug.errors import InputError
from cxraug.storage import file_sha256
from cxraug.studies.images import Encoding

RANDOM = "conv-random"
RANDOM_SIZE = 64
RANDOM_CHANNELS = (16, 32, 64)
CELLS = 2  # each stage is averaged over a grid of CELLS x CELLS
OFFSET = 0.01
XRV_NAME = "densenet121-res224-all"
BATCH = 256


@dataclass(frozen=True)
class Extractor:
    """Turns pixels uint8 (n, S, S), brought to ``encoding``, into features float32 (n, d).

    ``sha256`` is that of the weights; ``note`` says what the features can and cannot see.
    """

    name: str
    sha256: str
    encoding: Encoding
    note: str
    features: Callable[[np.ndarray], np.ndarray]

    def describe(self) -> dict[str, Any]:
        """JSON-ready, without the function."""
        return {"name": self.name, "sha256": self.sha256, "encoding": vars(self.encoding), "note": self.note}


def open_extractor(name: str) -> Extractor:
    """The extractor that ``name`` stands for; nothing is ever downloaded.

    Parameters
    ----------
    name : ``conv-random``; the folder (or its ``model.safetensors``) of a classifier trained by ``cxraug train``;
        ``xrv:FILE`` for a state dict of torchxrayvision's DenseNet-121 at 224 px.

    Raises
    ------
    InputError : an unknown name, a missing file, weights that do not fit.
    """
    if name == RANDOM:
        return conv_random()
    if name.startswith(XRV):
        return _xrv(Path(name.removeprefix(XRV)))
    path = Path(name)
    if not path.exists():
        raise InputError(
            "no such extractor", found=name, expected=f"{RANDOM}, the folder of a trained classifier, or {XRV}FILE"
        )
    return _classifier(path if path.is_dir() else path.parent, path)


def conv_random() -> Extractor:
    """Three 3 x 3 convolutions of stride 2 with fixed random weights, 64 px, 448 features.

    Weights are normal with He's variance, from numpy's PCG64 with seed 0, so that they are the same under every version
    of torch (``sha256`` covers their bytes). Half of the first stage's filters have mean 0: without them brightness
    drowns sharpness and noise. Each stage's activations are averaged over a 2 x 2 grid; features are the logarithms of
    these averages (plus 0.01), so that weak channels count as much as strong ones.
    """
    rng = np.random.default_rng(0)
    state, stages, before = hashlib.sha256(f"{RANDOM} {RANDOM_SIZE} {CELLS} {OFFSET}".encode()), [], 1
    for number, channels in enumerate(RANDOM_CHANNELS):
        values = rng.normal(0, np.sqrt(2 / (9 * before)), (channels, before, 3, 3))
        if number == 0:
            values[channels // 2 :] -= values[channels // 2 :].mean(axis=(2, 3), keepdims=True)
        state.update(values.astype("<f4").tobytes())
        stages.append(torch.from_numpy(values.astype(np.float32)))
        before = channels

    def forward(images: torch.Tensor) -> torch.Tensor:
        x, found = (images - 0.5) / 0.25, []
        for stage in stages:
            x = torch.relu(nn.functional.conv2d(x, stage, stride=2, padding=1))
            found.append(torch.log(nn.functional.adaptive_avg_pool2d(x, CELLS).flatten(1) + OFFSET))
        return torch.cat(found, dim=1)

    return Extractor(
        RANDOM,
        state.hexdigest(),
        Encoding(RANDOM_SIZE),
        "a random network: sees brightness, contrast, sharpness, noise, texture and coarse layout at 64 px; knows no "
        "anatomy and no findings, so that an image with the wrong finding, or mirrored, costs next to nothing",
        lambda pixels: _in_batches(forward, pixels, torch.device("cpu")),
    )


def _classifier(folder: Path, given: Path) -> Extractor:
    if given.is_file() and given.name != WEIGHTS:
        raise InputError("not the weights of a trained classifier", file=given, expected=f"a folder or its {WEIGHTS}")
    card = read_classifier_card(folder)
    refuse_unprobed(card.model, card.size)
    return Extractor(
        f"classifier {card.model}",
        card.sha256,
        Encoding(**(card.info.get("encoding") or {"size": card.size})),
        f"a classifier trained here: sees what its findings ({', '.join(card.findings)}) need; blind to what they do "
        "not, and optimistic about images like those it was trained on",
        lambda pixels: arm_features(folder, pixels),
    )


def _xrv(file: Path) -> Extractor:
    if not file.is_file():
        from torchxrayvision.models import model_urls

        raise InputError(
            "no such weights file, and nothing is downloaded here",
            file=file,
            expected=f"{model_urls[XRV_NAME]['weights_url']}, its state dict saved there: "
            f"torch.save(torch.load(PT, weights_only=False).state_dict(), {str(file)!r})",
        )
    with torch.random.fork_rng(devices=[]):
        model: Classifier = build_model(XRV + XRV_NAME, 18, weights=file).eval()
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(where)
    return Extractor(
        f"{XRV}{file.name}",
        file_sha256(file),
        Encoding(XRV_SIZE),
        "torchxrayvision's DenseNet-121 (Cohen et al. 2022, arXiv 2111.00595): sees what chest X-ray findings need",
        lambda pixels: _in_batches(model.features, pixels, where, batch=32),
    )


def _in_batches(
    forward: Callable[[torch.Tensor], torch.Tensor], pixels: np.ndarray, device: torch.device, batch: int = BATCH
) -> np.ndarray:
    with torch.inference_mode():
        parts = [forward(to_unit(pixels[i : i + batch], device)) for i in range(0, len(pixels), batch)]
    return np.concatenate([part.float().cpu().numpy() for part in parts])
