"""Whether a core copies: its images' nearest training images beside those of held-out real images of other patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.measures import table
from cxraug.privacy.nearest import Features, look_up, pairs

LISTED = 20
HOW = (
    "smallest distance to a training image (features of the named extractor, mirrored and shifted too); a generated "
    "image below the closest held-out real image is flagged"
)
ALIGNED = "largest correlation with the nearest training image after alignment, among the 100 closest pairs"


@dataclass(frozen=True)
class Training:
    """Training images uint8 (m, S, S) with their names and patients."""

    pixels: np.ndarray
    images: Sequence[str]
    patients: Sequence[str]


def memorisation(
    generated: np.ndarray, real: np.ndarray, train: Training, features: Features,
    *, images: Sequence[str], real_images: Sequence[str], of: str, extractor: str, prompts: str = "all",
) -> tuple[list[dict[str, Any]], pd.DataFrame]:  # fmt: skip
    """Compare nearest training images of generated and of held-out real images, uint8 (n, S, S) and (k, S, S).

    Returns
    -------
    Rows ``nearest training image`` (flag "copies" if any generated image is closer to a training image than every
    held-out real one is), ``closer than any real`` (how many) and ``aligned correlation``; and the 20 nearest generated
    pairs (all that are flagged, if those are more) with a column ``closer_than_real``. More generated than real images
    make the smallest distance smaller by chance alone: both counts are in ``method``.
    """
    distance, where = look_up(np.concatenate([generated, real]), train.pixels, features)
    n = len(generated)
    own, held = (
        pairs(pixels, train.pixels, distance[part], where[part], images=names, train_images=train.images,
              train_patients=train.patients)
        for pixels, names, part in ((generated, images, slice(n)), (real, real_images, slice(n, None)))
    )  # fmt: skip
    limit = float(held["distance"].min())
    closer = own["distance"].to_numpy() < limit
    counts = f"{HOW}; {len(own)} generated, {len(held)} held-out real, {len(train.images)} training images; {extractor}"
    value = {"real": limit, "generated": float(own["distance"].min())}
    flag = "copies" if closer.any() else ""
    rows = [
        table.row("nearest training image", of, prompts, value | _ratio(value), n=len(own), method=counts, flag=flag),
        table.row("closer than any real", of, prompts, {"real": 0.0, "generated": float(closer.sum())}, n=len(own),
                  method="generated images closer to a training image than every held-out real image", flag=flag),
    ]  # fmt: skip
    best = {"real": float(held["correlation"].max()), "generated": float(own["correlation"].max())}
    rows.append(table.row("aligned correlation", of, prompts, best | _ratio(best), n=len(own), method=ALIGNED,
                          flag="copies" if best["generated"] > best["real"] and closer.any() else ""))  # fmt: skip
    shown = max(LISTED, int(closer.sum()))
    listed = own.head(shown).assign(of=of, closest_real=limit, closer_than_real=closer[:shown])
    return rows, listed


def _ratio(value: dict[str, float]) -> dict[str, float]:
    return {"ratio": value["generated"] / value["real"]} if value["real"] > 0 else {}
