"""How different the images of one prompt are from each other: structural similarity of pairs, beside real pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cxraug.cores.measures import table
from cxraug.cores.measures.paired import paired_mean

SIDE, WINDOW, SIGMA = 128, 7, 0.8  # a window so small that five scales fit 128 pixels
YEARS = 5.0
HOW = (
    f"mean MS-SSIM of two images of one prompt at {SIDE} px; real: two patients with the same findings and sex, age "
    f"within {YEARS:g} years; lower is more diverse"
)


def ms_ssim(a: np.ndarray, b: np.ndarray, batch: int = 64) -> np.ndarray:
    """Multi-scale structural similarity (n,) of images uint8 (n, S, S), pair by pair; 1 for equal ones.

    Wang, Simoncelli & Bovik 2003 (torchmetrics' implementation) at 128 x 128 pixels, five scales, Gaussian window of
    7 pixels (sigma 0.8).
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as similarity

    found = []
    for i in range(0, len(a), batch):
        x, y = (_sized(side[i : i + batch]) for side in (a, b))
        found.append(
            similarity(
                x, y, kernel_size=WINDOW, sigma=SIGMA, data_range=1.0, reduction="none", normalize="relu"
            ).reshape(-1)
        )
    return torch.cat(found).double().numpy() if found else np.empty(0)


def twins(
    labels: np.ndarray, sex: np.ndarray, age: np.ndarray, view: np.ndarray, patients: np.ndarray
) -> list[tuple[int, int]]:
    """Pairs of rows of two patients with the same labels (n, F), sex and view, the ages within 5 years.

    Each row is in one pair at most; the nearest in age come first. Rows with an unknown age or sex have none.
    """
    text = ["|".join(map(str, y)) for y in np.nan_to_num(labels, nan=-1).astype(int)]
    key = np.array([f"{t}/{s}/{v}" for t, s, v in zip(text, sex, view, strict=True)])
    pairs: list[tuple[int, int]] = []
    for value in np.unique(key):
        rows = np.flatnonzero((key == value) & np.isfinite(age) & (sex != ""))
        rows = rows[np.argsort(age[rows], kind="stable")]
        at = 0
        while at + 1 < len(rows):
            i, j = int(rows[at]), int(rows[at + 1])
            if age[j] - age[i] <= YEARS and patients[i] != patients[j]:
                pairs.append((i, j))
                at += 2
            else:
                at += 1
    return sorted(pairs)


def diversity(
    real: tuple[np.ndarray, np.ndarray], generated: tuple[np.ndarray, np.ndarray], patients: np.ndarray,
    *, prompts: str, of: str,
) -> dict[str, Any]:  # fmt: skip
    """The row: mean similarity of the generated pairs (two images per prompt) beside the real pairs, both (n, S, S)."""
    values = np.stack([ms_ssim(*real), ms_ssim(*generated)]) if len(patients) else np.empty((2, 0))
    found = paired_mean(values, patients) if len(patients) else None
    return table.row("ms-ssim", of, prompts, found, n=len(patients), method=HOW)


def _sized(pixels: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(np.array(pixels))[:, None].float() / 255
    return x if x.shape[-1] == SIDE else functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
