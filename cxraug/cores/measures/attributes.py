"""Whether generated images show what was asked for: findings, sex and age, as an independent reader sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cxraug.cores.measures import table
from cxraug.cores.measures.paired import paired_auroc, paired_correlation, paired_mean
from cxraug.evaluation.measured import Measured, mean_of

WEAK_AUROC, WEAK_CORRELATION = 0.7, 0.3
LABELS = "AUROC of the reader (trained on other patients' real images) for the label asked for; clustered DeLong"


def label_adherence(
    real: np.ndarray, generated: np.ndarray, y: np.ndarray, findings: Sequence[str], patients: np.ndarray,
    *, prompts: str, of: str = "", unknown: Sequence[str] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """AUROC per finding and their macro mean of the reader's probabilities (n, F) for the labels asked (n, F).

    ``unknown`` findings are not known to the core: rows without a value. The macro mean is over the findings with
    enough positives and negatives.
    """
    rows: list[dict[str, Any]] = []
    parts: list[Measured] = []
    for at, finding in enumerate(findings):
        if finding in unknown:
            rows.append(table.unknown("label auroc", finding + of, prompts, method=LABELS))
            continue
        fewest = int(min((y[:, at] == 1).sum(), (y[:, at] == 0).sum()))
        enough = fewest >= table.MIN_CELL
        found = paired_auroc(np.stack([real[:, at], generated[:, at]]), y[:, at], patients) if enough else None
        n = int(np.isfinite(y[:, at]).sum())
        rows.append(
            table.row("label auroc", finding + of, prompts, found, n=n, needed=fewest, method=LABELS,
                      weak_below=WEAK_AUROC)
        )  # fmt: skip
        if found is not None:
            parts.append(_on_all(found, y[:, at], patients))
    if parts:
        how = f"mean over {len(parts)} findings of: {LABELS}"
        rows.append(table.row("label auroc", "macro" + of, prompts, mean_of(parts), n=len(y), method=how,
                              weak_below=WEAK_AUROC))  # fmt: skip
    return rows


def sex_adherence(
    real: np.ndarray, generated: np.ndarray, female: np.ndarray, patients: np.ndarray, *, prompts: str, of: str
) -> list[dict[str, Any]]:
    """AUROC, and accuracy at probability 0.5, of the reader's probability of F (n,) for the sex asked (1 F, 0 M)."""
    known = np.isfinite(female)
    fewest = int(min((female == 1).sum(), (female == 0).sum()))
    scores = np.stack([real, generated])[:, known]
    told, who, n = female[known], patients[known], int(known.sum())
    found = paired_auroc(scores, told, who) if fewest >= table.MIN_CELL else None
    right = paired_mean((scores >= 0.5) == (told == 1), who) if found is not None else None
    about: dict[str, Any] = {"n": n, "needed": fewest, "weak_below": WEAK_AUROC}
    return [
        table.row("sex auroc", "sex" + of, prompts, found, method="AUROC of the reader for the sex asked", **about),
        table.row("sex accuracy", "sex" + of, prompts, right, method="reader's probability of F >= 0.5", **about),
    ]


def age_adherence(
    real: np.ndarray, generated: np.ndarray, age: np.ndarray, patients: np.ndarray, *, prompts: str, of: str
) -> list[dict[str, Any]]:
    """Pearson's correlation, and mean absolute error in years, of the reader's age (n,) with the age asked (n,)."""
    known = np.isfinite(age)
    n = int(known.sum())
    said, asked, who = np.stack([real, generated])[:, known], age[known], patients[known]
    enough = n >= table.MIN_CELL and float(asked.std()) > 0
    together = paired_correlation(said, asked, who) if enough else None
    error = paired_mean(np.abs(said - asked), who) if enough else None
    rows = [
        table.row("age correlation", "age" + of, prompts, together, n=n, weak_below=WEAK_CORRELATION,
                  method="Pearson's r of the reader's age and the age asked"),
        table.row("age error", "age" + of, prompts, error, n=n, method="mean absolute error, years; lower is better"),
    ]  # fmt: skip
    if rows[0]["flag"] == table.WEAK:
        rows[1]["flag"] = table.WEAK
    return rows


def _on_all(found: Measured, y: np.ndarray, patients: np.ndarray) -> Measured:
    """The same with influence values on all patients, of whom only some have a known label."""
    every = np.unique(patients.astype(str))
    mine = np.unique(patients[np.isfinite(y)].astype(str))
    return found.spread(np.searchsorted(every, mine), len(every))
