"""Predictions of a trained classifier, in the form of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxraug.classifiers.card import WEIGHTS, ClassifierCard, read_classifier_card
from cxraug.classifiers.models import Classifier, build_model
from cxraug.classifiers.training import to_unit
from cxraug.errors import InputError
from cxraug.storage import atomic

KEYS = ("image", "patient_id", "split")
# Columns of a manifest that describe the image or its files and are no groups.
NO_GROUPS = {
    *KEYS, "study_id", "labels", "report", "mask", "boxes", "license", "synthetic", "prompt_id", "core", "core_sha256",
    "seed", "gate", "gate_reasons", "arm", "draw", "original_name", "mask_source",
}  # fmt: skip


def predict_arm(folder: Path, pixels: np.ndarray, *, batch: int | None = None, device: str = "auto") -> np.ndarray:
    """Probabilities float32 (n, F) of a trained classifier, in the order of its card's findings.

    Parameters
    ----------
    folder : of a trained classifier. pixels : uint8 (n, S, S), encoded as its training images were.
    batch : images at once; default :func:`batch_on` the device. device : ``auto`` is CUDA where there is one.

    Raises
    ------
    InputError : no classifier in ``folder``, or images of another size than it was trained on.
    """
    card, model, where = open_classifier(folder, pixels, device=device)
    batch = batch or batch_on(where)
    result = np.empty((len(pixels), len(card.findings)), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(pixels), batch):
            logits = model(to_unit(pixels[start : start + batch], where))
            result[start : start + batch] = torch.sigmoid(logits.double()).cpu().numpy()
    return result


def batch_on(device: torch.device) -> int:
    """Images at once: few on the CPU, where the activations of more leave its cache."""
    return 16 if device.type == "cpu" else 256


def open_classifier(
    folder: Path, pixels: np.ndarray, *, device: str = "auto"
) -> tuple[ClassifierCard, Classifier, torch.device]:
    """A trained classifier's card, its network ready for ``pixels`` uint8 (n, S, S), and the device that is on.

    Raises
    ------
    InputError : no classifier in ``folder``, or images of another size than it was trained on.
    """
    card = read_classifier_card(folder)
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.shape[1:] != (card.size, card.size):
        raise InputError(
            f"classifier {folder} cannot take these images",
            found=f"{pixels.dtype} {pixels.shape}",
            expected=f"uint8 (n, {card.size}, {card.size})",
        )
    where = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    model = build_model(
        card.model, len(card.findings), weights=Path(folder) / WEIGHTS, size=card.size, findings=card.findings
    )
    return card, model.to(where).eval(), where


def write_predictions(
    path: Path,
    rows: pd.DataFrame,
    y: np.ndarray,
    p: np.ndarray,
    findings: Sequence[str],
    arm: str | None = None,
    seed: int | None = None,
    draw: int | None = None,
) -> Path:
    """Write predictions (CSV or Parquet, by suffix) with the columns of the contract.

    Parameters
    ----------
    rows : the manifest's rows; their group columns (sex, age, view, source, race and any column that is no description
        of the image) are kept.
    y, p : labels (n, F): 1, 0, NaN (unknown, written as blank), and probabilities (n, F). findings : their names.
    arm, seed, draw : written where given.

    Raises
    ------
    InputError : arrays that do not fit, or probabilities outside [0, 1].
    """
    shape = (len(rows), len(findings))
    if y.shape != shape or p.shape != shape:
        raise InputError("rows, labels and probabilities differ", found=f"{y.shape}, {p.shape}", expected=str(shape))
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError("probabilities must lie in [0, 1]", file=path)
    groups = [c for c in rows.columns if c not in NO_GROUPS and not str(c).startswith(("_", "y_", "p_"))]
    table = rows[[*(key for key in KEYS if key in rows.columns), *groups]].reset_index(drop=True)
    values = {f"y_{f}": y[:, i].astype(np.float32) for i, f in enumerate(findings)}
    values |= {f"p_{f}": p[:, i].astype(np.float32) for i, f in enumerate(findings)}
    table = pd.concat([table, pd.DataFrame(values)], axis=1)
    table = table.assign(**{k: v for k, v in (("arm", arm), ("seed", seed), ("draw", draw)) if v is not None})
    path = Path(path)
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)
    return path
