"""What training minimises and what picks its weights, both over known labels only."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional


def masked_loss(logits: torch.Tensor, y: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross-entropy averaged over the known labels; unknown ones (NaN) have no gradient.

    ``logits`` and ``y`` are (n, F); ``weights`` (F,) multiply the loss of positives. 0 if nothing is known.
    """
    known = ~torch.isnan(y)
    loss = functional.binary_cross_entropy_with_logits(
        logits, torch.nan_to_num(y), pos_weight=weights, reduction="none"
    )
    return torch.where(known, loss, 0.0).sum() / known.sum().clamp(min=1)


def validation_aurocs(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """AUROC (F,) of each finding over its known labels; NaN where positives or negatives are missing."""
    from torchmetrics.functional.classification import binary_auroc, multilabel_auroc

    usable = ((y == 1).any(axis=0)) & ((y == 0).any(axis=0))
    result = np.full(y.shape[1], np.nan)
    target = torch.from_numpy(np.nan_to_num(y[:, usable], nan=-1).astype(np.int64))
    scores = torch.from_numpy(np.ascontiguousarray(probabilities[:, usable]))
    if usable.sum() == 1:
        result[usable] = float(binary_auroc(scores[:, 0], target[:, 0], ignore_index=-1, validate_args=False))
    elif usable.sum() > 1:
        values = multilabel_auroc(
            scores, target, num_labels=int(usable.sum()), average="none", ignore_index=-1, validate_args=False
        )
        result[usable] = values.numpy()
    return result
