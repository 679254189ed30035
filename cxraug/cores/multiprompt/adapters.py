"""Fine-tuning a few weights: low-rank adapters beside frozen layers (LoRA, Hu et al. 2022), merged at the end.

A layer's weight W becomes W + B A with B zero at first. Trained beside them are the rows of what the vocabulary has
gained; every other weight stays as it was, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.multiprompt.denoiser import MultipromptDenoiser
from cxraug.cores.multiprompt.growth import group_positions
from cxraug.cores.multiprompt.network import PromptEmbedding
from cxraug.cores.peft import need_peft


@dataclass
class Adapters:
    """Adapters in a denoiser. ``parameters``: groups of an optimiser; rows of the vocabulary are not decayed."""

    tuner: Any
    parameters: list[dict[str, Any]]

    def merge(self) -> None:
        """Add the adapters to the weights they stand beside and take them out: an ordinary denoiser again."""
        self.tuner.merge_and_unload()


def add_adapters(
    denoiser: MultipromptDenoiser, rank: int, old: Vocabulary, vocabulary: Vocabulary, *, seed: int
) -> Adapters:
    """Freeze ``denoiser`` and put adapters of ``rank`` into it: it computes what it did, until they are trained.

    They stand beside the linear layers of the transformer blocks, the convolutions and their coarse counterparts.
    ``vocabulary`` is the denoiser's, grown from ``old``: its new rows are trained too.
    """
    need_peft()
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    network = denoiser.network
    beside = [
        name for name, module in network.named_modules()
        if (isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size in ((1, 1), (3, 3)))
        or (isinstance(module, nn.Linear) and name.startswith(("blocks.", "coarse_")))
    ]  # fmt: skip
    denoiser.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=beside, lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuner = LoraModel(network, config, "default")
    adapters = [p for p in network.parameters() if p.requires_grad]
    return Adapters(
        tuner, [{"params": adapters}, {"params": _new_rows(denoiser, old, vocabulary), "weight_decay": 0.0}]
    )


def _new_rows(denoiser: MultipromptDenoiser, old: Vocabulary, new: Vocabulary) -> list[nn.Parameter]:
    """The tables with rows that ``old`` lacks; gradients reach those rows only."""
    entries = _others(len(new), torch.from_numpy(old.positions(new)))
    count = int(new.groups().max()) + 1
    groups = _others(count, group_positions(old, new)[:-1])
    findings = _others(len(new.findings), torch.tensor([new.findings.index(f) for f in old.findings]))
    tables = [(denoiser.spatial.finding, findings)]
    for module in denoiser.network.modules():
        if isinstance(module, PromptEmbedding):
            tables += [(module.known, entries), (module.value, entries), (module.group, groups)]
    trained = []
    for table, rows in tables:
        if len(rows):
            mask = torch.zeros(len(table), 1)
            mask[rows] = 1
            table.requires_grad_(True)
            table.register_hook(lambda gradient, mask=mask: gradient * mask.to(gradient.device))
            trained.append(table)
    return trained


def _others(n: int, taken: Tensor) -> Tensor:
    """Those of 0 ... n - 1 that are not in ``taken``."""
    free = torch.ones(n, dtype=torch.bool)
    free[taken.long()] = False
    return free.nonzero()[:, 0]
