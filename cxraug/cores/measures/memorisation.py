"""Whether a core copies: its images' best matches among its training images, beside those of held-out real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.measures import table
from cxraug.gate.check import conformal_high
from cxraug.privacy.memorisation import SAME, STATISTIC, CopyDetector

LISTED = 20
RATE = 0.01  # of false alarms on real images
LEVEL = 0.01  # of the test of all images together
SHOWN = ("image", "nearest_image", "nearest_patient_id", "distance", "correlation", "mirrored", "scale", "angle",
         "shift_x", "shift_y", "p_value")  # fmt: skip


@dataclass(frozen=True)
class Training:
    """Training images uint8 (m, S, S) with their names and patients."""

    pixels: np.ndarray
    images: Sequence[str]
    patients: Sequence[str]


def memorisation(
    generated: np.ndarray, real: np.ndarray, train: Training,
    *, images: Sequence[str], real_patients: Sequence[str] | None = None, of: str, prompts: str = "all",
) -> tuple[list[dict[str, Any]], pd.DataFrame]:  # fmt: skip
    """Compare best matches in training of generated and of held-out real images, uint8 (n, S, S) and (k, S, S).

    Parameters
    ----------
    images : (n,) names of the generated ones. real_patients : (k,) of the real ones; default one each.

    Returns
    -------
    Rows ``nearest training image`` (distance of standardised pixels, ``sqrt(2 - 2 correlation)``), ``closer than any
    real`` (how many), ``aligned correlation`` (the largest), ``called a copy`` (share of images, at 1 % false alarms
    or the finest rate that the real images allow) and ``more copies than chance`` (p-value of all images together:
    :mod:`cxraug.privacy.excess`); and the 20 nearest generated pairs (all that are closer than any real one, if those
    are more). All rows are flagged ``copies`` where that p-value is at most 0.01, or an image is the same picture as a
    training image (correlation of 0.985 or more): a single image closer than any real one may be chance.
    """
    detector = CopyDetector.fit(
        train.pixels, np.asarray(train.patients), real, None if real_patients is None else np.asarray(real_patients),
        rate=RATE, calibration=len(real),
    )  # fmt: skip
    found = detector.match(generated)
    correlation = found["correlation"].fillna(0).to_numpy(float)
    null = detector.null[np.isfinite(detector.null)]
    rate = max(RATE, detector.finest)
    p = conformal_high(null, correlation)
    whole = detector.excess(correlation)
    highest = float(null.max(initial=-1.0))
    closer = correlation > highest
    copies = bool((correlation >= SAME).any() or (whole is not None and whole.p_value <= LEVEL))
    counts = f"{len(generated)} generated, {len(null)} held-out real, {len(train.images)} training images"
    if detector.filed_twice:
        counts += f", {detector.filed_twice} real ones left out that are a training image filed twice"
    flag = "copies" if copies else ""
    distance = np.sqrt(np.maximum(2 - 2 * correlation, 0))
    nearest = {"real": float(np.sqrt(max(2 - 2 * highest, 0))), "generated": float(distance.min())}
    largest = {"real": highest, "generated": float(correlation.max())}
    called = {"real": rate, "generated": float((p <= rate).mean())}
    told = "not enough of either" if whole is None else (
        f"p-value: {whole.above} images match better than the real patient of rank {whole.rank}, {whole.expected:.1f} "
        f"expected; {whole.n_calibration} real patients; copies of {min(whole.detectable, 1):.1%} would be seen"
    )  # fmt: skip

    def row(measure: str, values: dict[str, float], method: str) -> dict[str, Any]:
        return table.row(measure, of, prompts, values, n=len(generated), method=method, flag=flag)

    rows = [
        row("nearest training image", nearest | _ratio(nearest), f"sqrt(2 - 2 c), c: {STATISTIC}; {counts}"),
        row("closer than any real", {"real": 0.0, "generated": float(closer.sum())},
            "generated images that match a training image better than every held-out real image does"),
        row("aligned correlation", largest | _ratio(largest), f"largest {STATISTIC}"),
        row("called a copy", called | {"chance": rate}, f"share of images, calibrated to {rate:.2g} of real images"),
        row("more copies than chance", {} if whole is None else {"generated": whole.p_value}, told),
    ]  # fmt: skip
    at = found["nearest"].to_numpy()
    listed = found.assign(
        image=list(images), nearest_image=np.asarray(train.images, object)[at],
        nearest_patient_id=np.asarray(train.patients, object)[at], distance=distance, p_value=p,
    )[list(SHOWN)].assign(of=of, closest_real=nearest["real"], closer_than_real=closer)  # fmt: skip
    listed = listed.sort_values("distance", kind="stable", ignore_index=True)
    return rows, listed.head(max(LISTED, int(closer.sum())))


def _ratio(value: dict[str, float]) -> dict[str, float]:
    return {"ratio": value["generated"] / value["real"]} if value["real"] > 0 else {}
