"""A trained core with room for new findings, views, sources and races: old weights kept, new ones without effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.linear_gaussian import LinearGaussian
from cxraug.cores.multiprompt.core import empty_denoiser
from cxraug.cores.multiprompt.denoiser import JITTER, MultipromptDenoiser
from cxraug.cores.multiprompt.network import PromptEmbedding
from cxraug.cores.multiprompt.settings import MultipromptSettings
from cxraug.cores.pixel_core import load_weights, vocabulary_of
from cxraug.cores.registry import read_card
from cxraug.cores.steps import compute_dtype
from cxraug.errors import InputError

FIXED = ("channels", "layers", "depth", "grid", "band", "components", "shared_width", "autoencoder")


def grow(init: Path, vocabulary: Vocabulary, settings: MultipromptSettings) -> MultipromptDenoiser:
    """Load the denoiser of ``init`` and give it the entries of ``vocabulary``, which contains its own.

    Asked for nothing new, the grown denoiser computes what the old one did. Raises :class:`InputError` where the
    network of ``settings`` is another one.
    """
    card = read_card(init)
    frozen = MultipromptSettings(**card.settings["multiprompt"])
    for field in FIXED:
        if getattr(frozen, field) != getattr(settings, field):
            raise InputError(
                f"fine-tuning keeps the network: {field} differs from the first core's", file=init,
                found=getattr(settings, field), expected=str(getattr(frozen, field)),
            )  # fmt: skip
    old = vocabulary_of(card)
    weights = {k.removeprefix("denoiser."): v for k, v in load_weights(init, card).items() if k.startswith("denoiser.")}
    first = empty_denoiser(card)
    first.load_state_dict(weights)
    grown = MultipromptDenoiser(
        {s: first._gaussian(s) for s in first.slots}, first.report_gaussian, vocabulary, settings, first.report_shape,
        card.settings["shared"],
    )  # fmt: skip
    entries = torch.from_numpy(old.positions(vocabulary))
    jitter = torch.arange(JITTER)
    entries = torch.cat([entries, len(vocabulary) + jitter])
    groups = group_positions(old, vocabulary)
    state = dict(weights)
    for name, module in grown.network.named_modules():
        if isinstance(module, PromptEmbedding):
            for part, rows in (("known", entries), ("value", entries), ("group", groups)):
                key = f"network.{name}.{part}"
                wider = torch.zeros_like(getattr(module, part))
                wider[rows] = weights[key]
                state[key] = wider
    findings = torch.tensor([vocabulary.findings.index(f) for f in old.findings], dtype=torch.long)
    spatial = torch.zeros_like(grown.spatial.finding)
    spatial[findings] = weights["spatial.finding"][: len(findings)]
    state["spatial.finding"] = spatial
    for prefix, linear in _linear_parts(grown):
        linear.weight = _wider(weights[f"{prefix}.weight"], entries[:-JITTER], len(vocabulary))
        linear.centre = _wider(weights[f"{prefix}.centre"], entries[:-JITTER], len(vocabulary))
        state[f"{prefix}.weight"], state[f"{prefix}.centre"] = linear.weight, linear.centre
    grown.load_state_dict(state)
    grown.dtype = compute_dtype(settings.precision)
    return grown


def group_positions(old: Vocabulary, new: Vocabulary) -> Tensor:
    """Where each group of ``old`` (and the jitter's, the last) stands in ``new``."""
    entries, a, b = old.positions(new), old.groups(), new.groups()
    return torch.tensor([*(int(b[entries[np.flatnonzero(a == g)[0]]]) if (a == g).any() else int(b.max())
                           for g in range(int(a.max()) + 1)), int(b.max()) + 1])  # fmt: skip


def _linear_parts(denoiser: MultipromptDenoiser) -> list[tuple[str, LinearGaussian]]:
    return [(name, module) for name, module in denoiser.named_modules() if isinstance(module, LinearGaussian)]


def _wider(table: Tensor, rows: Tensor, entries: int) -> Tensor:
    wider = torch.zeros(entries, *table.shape[1:])
    wider[rows] = table
    return wider
