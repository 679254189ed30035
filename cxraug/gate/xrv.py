"""torchxrayvision's networks as readers of findings, sex, age and race, from local files of weights alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cxraug.classifiers.card import seen_parts
from cxraug.classifiers.models import XRV, build_model, read_state
from cxraug.classifiers.prediction import batch_on
from cxraug.classifiers.training import to_unit
from cxraug.errors import InputError
from cxraug.fidelity.extractors import XRV_NAME
from cxraug.gate.attributes import RACE, SEX, YEARS
from cxraug.gate.check import Images
from cxraug.gate.crossfit import FoldModels, rows_seen
from cxraug.gate.settings import GateSettings
from cxraug.storage import file_sha256

SEX_NETWORK, RACE_NETWORK, AGE_NETWORK = "resnet34", "resnet34", "legacy_senet154"
SEX_SIZE, RACE_SIZE, AGE_SIZE = 224, 320, 320
RACES = ("Asian", "Black", "White")
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which race and age networks expect
SAME = {"pleural effusion": "effusion"}  # names of ours that torchxrayvision writes otherwise


def open_xrv(settings: GateSettings, real: Images, findings: Sequence[str], device: str = "auto") -> list[FoldModels]:
    """The readers whose weights are named; nothing is ever downloaded.

    - ``xrv_findings``: a state dict of ``densenet121-res224-all`` (18 outputs). Findings that it does not know are left
      to our own networks.
    - ``xrv_sex``: MIRA's ResNet-34 of CheXpert (Glocker et al. 2023), the checkpoint's state dict.
    - ``xrv_race``: Emory HITI's ResNet-34 of MIMIC-CXR (Gichoya et al. 2022), ``resnet_race_detection...pt``.
    - ``xrv_age``: RIKEN's SENet-154 of NIH (Ieki et al. 2022). Its file is TorchScript, which runs code from the file;
      what is read here is the state dict, saved once by ``torch.save(torch.jit.load(PT).state_dict(), FILE)``.

    Real rows that the card beside a file names do not calibrate it; without a card all rows do.

    Raises
    ------
    InputError : no such file, or weights that do not fit.
    """
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    opened, where = [], torch.device(auto if device == "auto" else device)
    if settings.xrv_findings is not None and findings:
        opened.append(_findings(Path(settings.xrv_findings), real, where, findings))
    if settings.demographics:
        for path, opener in ((settings.xrv_sex, _sex), (settings.xrv_race, _race), (settings.xrv_age, _age)):
            if path is not None:
                opened.append(opener(Path(path), real, where))
    return opened


def _findings(file: Path, real: Images, where: torch.device, findings: Sequence[str]) -> FoldModels:
    from torchxrayvision.datasets import default_pathologies

    _refuse_missing(file)
    with torch.random.fork_rng(devices=[]):
        model = build_model(XRV + XRV_NAME, len(default_pathologies), weights=file)
    if model.notes:
        raise InputError("not the weights of torchxrayvision's classifier", file=file, found=model.notes[0],
                         expected=f"{XRV_NAME}, {len(default_pathologies)} outputs")  # fmt: skip
    known = {_plain(name): i for i, name in enumerate(default_pathologies)}
    at = {finding: known[_plain(finding)] for finding in findings if _plain(finding) in known}
    return _source(file, real, where, tuple(at), model, XRV + XRV_NAME, lambda out: out[:, list(at.values())])


def _sex(file: Path, real: Images, where: torch.device) -> FoldModels:
    network = _torchvision(SEX_NETWORK, 2)
    _load(network, file)
    model = _Colour(network, SEX_SIZE, lambda x: x * 255)
    return _source(
        file, real, where, (SEX,), model, f"{XRV}mira sex {SEX_NETWORK}", lambda out: out[:, 1:] - out[:, :1]
    )


def _race(file: Path, real: Images, where: torch.device) -> FoldModels:
    network = _torchvision(RACE_NETWORK, len(RACES))
    network.fc = nn.Sequential(network.fc, nn.LogSoftmax(dim=1))
    _load(network, file)
    model = _Colour(network, RACE_SIZE, _imagenet)
    names = tuple(RACE + _spelling(race, real) for race in RACES)
    return _source(file, real, where, names, model, f"{XRV}emory_hiti race {RACE_NETWORK}", lambda out: out)


def _age(file: Path, real: Images, where: torch.device) -> FoldModels:
    import timm

    network = timm.create_model(AGE_NETWORK, pretrained=False, num_classes=1)
    _load(network, file)
    model = _Colour(network, AGE_SIZE, _imagenet)
    return _source(file, real, where, (YEARS,), model, f"{XRV}riken age {AGE_NETWORK}", lambda out: out[:, :1])


class _Colour(nn.Module):
    """A network of three channels that sees a grey image (n, 1, S, S) in [0, 1] three times, at its own size."""

    def __init__(self, net: nn.Module, size: int, scale: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.net, self.size, self.scale = net, size, scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = (self.size, self.size)
        if images.shape[-2:] != size:
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        return self.net(self.scale(images.expand(-1, 3, -1, -1)))


def _imagenet(x: torch.Tensor) -> torch.Tensor:
    centre, spread = (torch.tensor(values).view(1, 3, 1, 1).to(x) for values in (MEAN, SPREAD))
    return (x - centre) / spread


def _torchvision(name: str, n_out: int) -> Any:
    import torchvision

    with torch.random.fork_rng(devices=[]):
        return getattr(torchvision.models, name)(weights=None, num_classes=n_out)


def _load(network: nn.Module, file: Path) -> None:
    """Load a state dict whose keys may begin with ``model.`` (PyTorch Lightning); every key and shape must fit."""
    _refuse_missing(file)
    own = network.state_dict()
    given = {key.removeprefix("model."): value for key, value in read_state(file).items()}
    for key in [*own, *given]:
        found = tuple(given[key].shape) if key in given else None
        wanted = tuple(own[key].shape) if key in own else None
        if found != wanted:
            raise InputError(f"weights do not fit at {key!r}", file=file, found=str(found), expected=str(wanted))
    network.load_state_dict(given)


def _source(
    file: Path, real: Images, where: torch.device, names: tuple[str, ...], model: nn.Module, told: str,
    read: Callable[[torch.Tensor], torch.Tensor],
) -> FoldModels:  # fmt: skip
    model = model.to(where).eval()

    def score(pixels: np.ndarray) -> np.ndarray:
        parts, batch = [np.zeros((0, len(names)))], batch_on(where)
        with torch.inference_mode():
            for start in range(0, len(pixels), batch):
                parts.append(read(model(to_unit(pixels[start : start + batch], where))).double().cpu().numpy())
        return np.concatenate(parts)

    used = np.zeros(len(real), bool)
    for part in seen_parts(file):
        used |= rows_seen(part, real)
    return FoldModels([score], [~used], names, told, [file_sha256(file)])


def _refuse_missing(file: Path) -> None:
    if not file.is_file():
        raise InputError("no such weights file, and nothing is downloaded here", file=file)


def _plain(name: str) -> str:
    plain = " ".join(name.replace("_", " ").lower().split())
    return SAME.get(plain, plain)


def _spelling(race: str, real: Images) -> str:
    """A race as the real data write it."""
    known = [] if real.race is None else [str(name) for name in set(real.race) if name]
    return next((name for name in sorted(known) if name.strip().lower() == race.lower()), race)
