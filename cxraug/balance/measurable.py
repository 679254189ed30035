"""Which gaps between groups the test patients can show at all, and how many more patients each cell would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxraug.balance.sample_size import (
    Question,
    detectable_gap,
    growth_needed,
    patients_needed,
    positives_needed,
    power_of,
)
from cxraug.balance.tally import Tally, patient_numbers, tally_levels
from cxraug.evaluation.groups import AGE_BINS, MISSING, level_order

if TYPE_CHECKING:
    from cxraug.studies.manifest import Manifest


def measurable_gaps(
    manifest: Manifest,
    y: np.ndarray,
    levels: Mapping[str, pd.Series],
    question: Question,
    age_bins: Sequence[float] = AGE_BINS,
    train: Mapping[str, Tally] | None = None,
) -> dict[str, Any]:
    """The sample size question for every finding and group level.

    Parameters
    ----------
    y : (n, F) labels of the manifest. levels : group -> level (n,) of every row. train : group -> counts in train.

    Returns
    -------
    ``rows`` (``test``, or ``all rows`` where there are no test rows), ``question``, and ``cells``: per finding, group
    and level ``positive, negative, rest_positive, rest_negative`` (patients), ``power``, ``detectable`` (the smallest
    gap found with the power asked for), ``positives_needed`` and ``positives_missing`` (negatives and rest as they
    are), ``patients_needed`` (positives at the cell's prevalence; the finding's where the cell has none) and
    ``patients_missing``, ``growth`` (the factor for level and rest together), ``positives_needed_corrected`` (at
    ``alpha`` over the looks of the group, as the corrected gaps of an evaluation need), ``positive_in_train``
    (patients, where they are counted). None: no number is enough, because the other side is the bottleneck.

    Notes
    -----
    A patient counts once: with an image that shows the finding as positive, with one that does not as negative.
    Several images of a patient add something, so that this is careful.
    """
    test = (manifest.frame["split"] == "test").to_numpy()
    rows = test if test.any() else np.ones(len(test), bool)
    patient = patient_numbers(manifest.frame)
    cells: list[dict[str, Any]] = []
    for group, level in levels.items():
        names = [n for n in level_order(level, age_bins) if MISSING not in n.split("*")]
        code = pd.Categorical(level, categories=names).codes.astype(np.int64)
        if len(names) < 2:
            continue
        at = rows & (code >= 0)
        inside = tally_levels(y[at], patient[at], code[at], names)
        counts = np.stack([inside.positive, inside.negative], axis=-1)
        rest = counts.sum(axis=0) - counts
        share = _share(counts)
        looks = max(counts.shape[1] * (1 if len(names) == 2 else len(names)), 1)
        few = {
            "power": power_of(question, counts, rest),
            "detectable": detectable_gap(question, counts, rest),
            "positives_needed": positives_needed(question, counts, rest),
            "patients_needed": patients_needed(question, counts, rest, share),
            "growth": growth_needed(question, counts, rest),
            "positives_needed_corrected": positives_needed(question, counts, rest, question.alpha / looks),
        }
        for f, finding in enumerate(manifest.findings):
            for k, name in enumerate(names):
                (m, n), (others_m, others_n) = counts[k, f].tolist(), rest[k, f].tolist()
                row = {"finding": finding, "group": group, "level": name, "positive": m, "negative": n}
                row |= {"rest_positive": others_m, "rest_negative": others_n}
                row |= {key: _number(values[k, f]) for key, values in few.items()}
                row["positives_missing"] = _missing(row["positives_needed"], m)
                row["patients_missing"] = _missing(row["patients_needed"], int(inside.known[k, f]))
                row["positive_in_train"] = _in_train((train or {}).get(group), name, f)
                cells.append(row)
    return {"rows": "test" if test.any() else "all rows", "question": vars(question), "cells": cells}


def _share(counts: np.ndarray) -> np.ndarray:
    """(L, F) share of positive patients, of all levels where a level has none (or nothing else)."""
    total = counts.sum(axis=-1)
    pooled = counts.sum(axis=0)
    own = counts[..., 0] / np.maximum(total, 1)
    common = pooled[..., 0] / np.maximum(pooled.sum(axis=-1), 1)
    return np.where((own > 0) & (own < 1), own, common[None])


def _in_train(tally: Tally | None, level: str, finding: int) -> int | None:
    return int(tally.positive[tally.names.index(level), finding]) if tally and level in tally.names else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _missing(needed: float | None, have: int) -> int | None:
    return None if needed is None else max(0, int(needed) - have)
