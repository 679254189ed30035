"""Retrieval in a core's shared space: does a report find its own image among all, and an image its report?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cxraug.cores.measures import table
from cxraug.cores.measures.paired import paired_mean

NO_SPACE = "core has no shared space"
TOP = (1, 10)


def hits(queries: np.ndarray, gallery: np.ndarray, same: Sequence[str], k: int) -> np.ndarray:
    """Whether the ``k`` nearest of ``gallery`` by cosine answer each of ``queries``, both (n, d): bool (n,).

    ``same`` (n,) names what counts as the right answer: entries of equal text (two reports that read the same) are each
    other's right answers.
    """
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (queries, gallery))
    code = np.unique(np.asarray(same, dtype=str), return_inverse=True)[1]
    near = np.argsort(-(a @ b.T), axis=1, kind="stable")[:, :k]
    return (code[near] == code[:, None]).any(axis=1)


def retrieval(
    real: np.ndarray, generated: np.ndarray, reports: np.ndarray, texts: Sequence[str], patients: np.ndarray,
    *, prompts: str, of: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Recall at 1 and 10 of report to image and image to report; vectors (n, d) of images and reports, row by row.

    Chance is k equal answers' share: ``k / n`` for distinct reports, more where reports repeat.
    """
    rows, n = [], len(texts)
    again = np.unique(np.asarray(texts, dtype=str), return_inverse=True, return_counts=True)
    twice = again[2][again[1]]
    for name, towards in (("report to image", True), ("image to report", False)):
        for k in TOP:
            found = [hits(reports, x, texts, k) if towards else hits(x, reports, texts, k) for x in (real, generated)]
            luck = 1 - np.array([_miss(n, int(m), k) for m in twice])
            values = np.stack([*found, luck]).astype(float)
            rows.append(
                table.row(f"recall@{k}", f"{name}{of}", prompts, paired_mean(values, patients), n=n,
                          method=f"queries with a right answer among the {k} nearest of {n} in the core's space")
            )  # fmt: skip
    return rows


def _miss(n: int, right: int, k: int) -> float:
    """Probability that ``k`` of ``n`` drawn without replacement hold none of the ``right`` ones."""
    p = 1.0
    for i in range(min(k, n)):
        p *= max(n - right - i, 0) / (n - i)
    return p
