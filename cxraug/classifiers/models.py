"""Classifier networks from timm and torchxrayvision, from scratch or from a weights file; never from a download."""

from __future__ import annotations

import difflib
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cxraug.classifiers.card import SeenTogether, card_beside, seen_parts, weights_file
from cxraug.errors import InputError
from cxraug.storage import read_json
from cxraug.studies.seen import Seen

XRV = "xrv:"
XRV_SIZE = 224
# What torch.load raises at a file that is broken or that holds more than tensors.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError)
NESTED = ("state_dict", "model_state_dict", "model")


class Classifier(nn.Module):
    """A network ``net`` with one logit per finding, and the scaling of pixels it expects.

    Takes images (n, 1, S, S) with values in [0, 1] and gives logits (n, F). ``head`` names the last layer in ``net``;
    ``notes`` say what of the initial weights was not used.
    """

    def __init__(self, net: nn.Module, head: str, *, centre: float, spread: float, size: int | None = None) -> None:
        super().__init__()
        self.net, self.head, self.centre, self.spread, self.size = net, head, centre, spread, size
        self.notes: list[str] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, F) of ``images`` (n, 1, S, S) in [0, 1]."""
        return self.net(self._scaled(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the last layer is given (n, D) for ``images`` (n, 1, S, S) in [0, 1], by the network's own methods."""
        net: Any = self.net
        x = self._scaled(images)
        if hasattr(net, "forward_head"):  # timm
            return net.forward_head(net.forward_features(x), pre_logits=True)
        return net.features2(x)  # torchxrayvision

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (n, F) that the last layer makes of ``features`` (n, D)."""
        head = self.net.get_submodule(self.head)
        if isinstance(head, nn.Conv2d):  # a 1 x 1 convolution, in some timm networks
            return head(features[:, :, None, None]).flatten(1)
        return head(features)

    def _scaled(self, images: torch.Tensor) -> torch.Tensor:
        if self.size is not None and images.shape[-1] != self.size:
            images = nn.functional.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return (images - self.centre) / self.spread


def build_model(
    name: str,
    n_out: int,
    *,
    weights: Path | None = None,
    size: int | None = None,
    findings: Sequence[str] | None = None,
) -> Classifier:
    """Build a classifier of grey images with ``n_out`` logits.

    Parameters
    ----------
    name : a timm model name, or ``xrv:densenet121-res224-...`` (torchxrayvision; resizes to 224 px itself).
    n_out : number of findings.
    weights : a safetensors file, a state dict saved by torch, or the folder of a classifier trained here. A head of
        another size (or, by its card, of other findings) starts anew, which ``notes`` say; every other difference is
        an error.
    size : side of the images in pixels, for networks that are built for one size.
    findings : what the logits mean, to be compared with the weights' card.

    Raises
    ------
    InputError
        An unknown name, a name that stands for weights of a hub without a file, weights that do not fit.
    """
    check_model(name, weights)
    model = _xrv(n_out) if name.startswith(XRV) else _timm(name, n_out, size)
    if weights is not None:
        _load(model, weights_file(weights), findings)
    return model


def check_model(name: str, weights: Path | None = None) -> None:
    """Refuse a name or weights that :func:`build_model` could not use; nothing is built and no weights are read.

    Raises
    ------
    InputError
        No such weights file, an unknown name, a name that stands for weights of a hub without a file.
    """
    if weights is not None and not weights_file(weights).is_file():
        raise InputError("no such weights file", file=weights_file(weights))
    source = _xrv_source(name) if name.startswith(XRV) else _timm_source(name)
    if source is not None and weights is None:
        raise InputError(
            f"model {name!r} stands for pretrained weights, and nothing is downloaded here", expected=source
        )


def weights_seen(file: Path) -> Seen | None:
    """What the weights in ``file`` (or a trained classifier's folder) have seen, by the card beside them.

    The card is ``FILE.card.json`` or ``card.json``. None without a card: then nothing is known about the weights.
    """
    parts = seen_parts(Path(file))
    return SeenTogether.join(parts) if parts else None


def _timm_source(name: str) -> str | None:
    """Where to get the weights that a timm name stands for; None if it names an architecture alone."""
    import timm

    if ":" in name or "/" in name or not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f" (near this one: {', '.join(near)})" if near else ""
        raise InputError("no such timm model", found=name, expected=f"any timm model name, such as resnet10t{hint}")
    architecture, _, tag = name.partition(".")
    if not tag:
        return None
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    source = (config and (config.hf_hub_id or config.url)) or name
    return f"{source} in a local file named by train.weights, or {architecture!r} from scratch"


def _timm(name: str, n_out: int, size: int | None) -> Classifier:
    import timm

    architecture = name.partition(".")[0]
    config = timm.get_pretrained_cfg(architecture)
    fixed: dict[str, Any] = (
        {"img_size": size} if size is not None and config is not None and config.fixed_input_size else {}
    )
    try:
        net = timm.create_model(architecture, pretrained=False, in_chans=1, num_classes=n_out, **fixed)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"timm cannot build {name!r} for one grey channel at {size} px: {error}") from None
    head = getattr(net, "pretrained_cfg", {}).get("classifier") or "fc"
    return Classifier(net, head if isinstance(head, str) else head[0], centre=0.5, spread=0.25)


def _xrv_source(name: str) -> str:
    """Where to get the weights that a torchxrayvision name stands for; every one of them stands for some."""
    from torchxrayvision.models import model_urls

    key = name.removeprefix(XRV)
    known = sorted(k for k in model_urls if k.startswith("densenet121-res224-"))
    if key not in known:
        raise InputError("no such torchxrayvision model", found=name, expected=", ".join(XRV + k for k in known))
    return f"{model_urls[key]['weights_url']}, its state dict saved in a local file named by train.weights"


def _xrv(n_out: int) -> Classifier:
    from torchxrayvision.models import DenseNet

    # These networks were trained on pixels in [-1024, 1024].
    return Classifier(DenseNet(num_classes=n_out), "classifier", centre=0.5, spread=1 / 2048, size=XRV_SIZE)


def _load(model: Classifier, file: Path, findings: Sequence[str] | None) -> None:
    given, own = read_state(file), model.net.state_dict()
    given.pop("op_threshs", None)  # torchxrayvision's operating points: no weights
    head = [key for key in own if key.startswith(model.head + ".")]
    reason = _other_head(given, own, head, file, findings)
    if reason:
        note = f"{file.name}: the head starts anew ({reason})"
        model.notes.append(note)
        print(f"note: {note}", file=sys.stderr, flush=True)
        given = {k: v for k, v in given.items() if not k.startswith(model.head + ".")} | {k: own[k] for k in head}
    for key in own:
        if key not in given:
            raise InputError(f"the weights lack {key!r}", file=file, expected=f"shape {tuple(own[key].shape)}")
        if given[key].shape != own[key].shape:
            raise InputError(
                f"the weights have another shape at {key!r}",
                file=file,
                found=tuple(given[key].shape),
                expected=str(tuple(own[key].shape)),
            )
        if not torch.isfinite(given[key]).all():
            raise InputError(f"the weights are not finite at {key!r}", file=file)
    unknown = [key for key in given if key not in own]
    if unknown:
        raise InputError(f"the weights hold {unknown[0]!r}, which the model does not have", file=file)
    model.net.load_state_dict(given)


def _other_head(
    given: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    head: list[str],
    file: Path,
    findings: Sequence[str] | None,
) -> str:
    """Why the head cannot be taken over; empty if it can."""
    missing = [key for key in head if key not in given]
    if missing and len(missing) == len(head):
        return "the file has none"
    for key in head:
        if key in given and given[key].shape[:1] != own[key].shape[:1]:
            return f"{given[key].shape[0]} outputs in the file, {own[key].shape[0]} wanted"
    card = card_beside(file)
    if findings is not None and card is not None:
        named = read_json(card).get("findings")
        if named is not None and list(named) != list(findings):
            return f"the file is about {', '.join(map(str, named))}"
    return ""


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file: safetensors, or a state dict saved by torch, read without running code from it.

    Raises :class:`InputError` for anything else.
    """
    if file.suffix == ".safetensors":
        import safetensors
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (safetensors.SafetensorError, ValueError) as error:
            raise InputError(f"not a safetensors file ({error})", file=file) from None
    try:
        value = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE:
        raise InputError(
            "cannot be read without running code from the file",
            file=file,
            expected="safetensors, or a state dict: torch.save(model.state_dict(), FILE)",
        ) from None
    while isinstance(value, Mapping) and (nested := next((k for k in NESTED if k in value), None)):
        value = value[nested]
    if not isinstance(value, Mapping) or not value or not all(isinstance(v, torch.Tensor) for v in value.values()):
        raise InputError("not a state dict", file=file, expected="a dictionary of tensors")
    return {str(key).removeprefix("module."): tensor for key, tensor in value.items()}
