"""Training of the small probe networks, and their folders: weights, and what they were trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from cxraug.errors import InputError, WorkError
from cxraug.progress import track
from cxraug.storage import atomic, digest, file_sha256, read_json, write_json

WEIGHTS, FACTS = "model.safetensors", "probe.json"
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Fit:
    """A fixed number of AdamW steps: the rate rises over a tenth of them and falls along half a cosine to 0."""

    steps: int
    lr: float
    weight_decay: float = 0.02


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, int, np.random.Generator], torch.Tensor],
    how: Fit,
    *,
    seed: int,
    what: str,
) -> None:
    """Minimise ``loss(model, step, rng)``; the random numbers of a step follow from ``seed`` and the step alone.

    Raises :class:`WorkError` where the loss is not finite.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    rise = max(how.steps // 10, 1)
    model.train()
    for step in track(range(how.steps), what, total=how.steps):
        share = (step - rise) / max(how.steps - rise, 1)
        rate = (step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * share))
        for group in optimiser.param_groups:
            group["lr"] = how.lr * rate
        optimiser.zero_grad()
        value = loss(model, step, np.random.default_rng([seed, step]))
        if not torch.isfinite(value):
            raise WorkError(f"{what}: the loss is not finite at step {step}")
        value.backward()
        optimiser.step()
    model.eval()


def kept(
    folder: Path, about: Mapping[str, Any], train: Callable[[], Model], empty: Callable[[], Model]
) -> tuple[Model, dict[str, Any]]:
    """The probe of ``folder``: trained and kept there the first time, opened afterwards.

    Parameters
    ----------
    about : everything that decides the weights (settings, digests of data); JSON-ready. train : makes the trained
        network. empty : makes one to load weights into.

    Returns
    -------
    The network, and its facts (``about`` and ``sha256`` of the weights).

    Raises
    ------
    InputError : the folder holds a probe of something else, or a broken one.
    """
    wanted = digest(about)
    if (folder / FACTS).is_file():
        facts = read_json(folder / FACTS)
        if facts.get("digest") != wanted:
            changed = [k for k in about if facts.get("about", {}).get(k) != digest(about[k])]
            raise InputError(
                "this folder holds a probe of other data or settings", file=folder, found=", ".join(changed) or None,
                expected="the same train rows and settings, --fresh, or another folder: --out, --probes of core "
                "evaluate, --networks of privacy",
            )  # fmt: skip
        if not (folder / WEIGHTS).is_file() or file_sha256(folder / WEIGHTS) != facts["sha256"]:
            raise InputError("these weights are not the ones probe.json describes", file=folder / WEIGHTS)
        model = empty()
        try:
            model.load_state_dict(load_file(str(folder / WEIGHTS)))
        except (SafetensorError, RuntimeError) as error:
            raise InputError(f"cannot be read as this probe ({error})", file=folder / WEIGHTS) from None
        return model.eval(), facts
    model = train()
    state = {name: value.detach().cpu().contiguous() for name, value in sorted(model.state_dict().items())}
    with atomic(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(state))
    facts = {
        "digest": wanted,
        "sha256": file_sha256(folder / WEIGHTS),
        "about": {name: digest(value) for name, value in about.items()},
        "settings": {name: value for name, value in about.items() if isinstance(value, (int, float, str))},
    }
    write_json(folder / FACTS, facts)
    return model, facts
