"""Whether generated reports say what was asked for, as a negation-aware labeller reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cxraug.cores.measures import table
from cxraug.cores.measures.paired import bounds, paired_ratio
from cxraug.evaluation.report_labels import report_labels

HOW = "F1 of findings that the report's labels call present against the findings asked for"


def report_agreement_rows(
    real: Sequence[str] | None, generated: Sequence[str], y: np.ndarray, findings: Sequence[str], patients: np.ndarray,
    *, prompts: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """F1 per finding and over all (``micro``) of generated reports, beside the real reports of the same studies.

    ``y`` (n, F) is 1, 0 or NaN (not asked, left out). Without ``real`` reports the real value stays empty.
    """
    said = np.stack([_said(texts, findings) for texts in ([real, generated] if real is not None else [generated])])
    known = np.isfinite(y)
    asked = (y == 1) & known
    hits, size = 2.0 * (said & asked), (said & known) * 1.0 + asked
    rows = []
    for at, name in enumerate([*findings, "micro"]):
        part = slice(at, at + 1) if name != "micro" else slice(None)
        x, total = hits[:, :, part].sum(axis=2), size[:, :, part].sum(axis=2)
        fewest = int(asked[:, part].sum())
        if not total.sum(axis=1).all() or fewest < table.MIN_CELL:
            rows.append(table.row("report agreement", name, prompts, n=len(y), needed=min(fewest, 1), method=HOW))
            continue
        found = paired_ratio(x, total, patients)
        about: dict[str, Any] = {"n": len(y), "needed": fewest, "method": HOW}
        if real is None:
            low, high = bounds(found, 0)
            about["method"] += f"; 95 % interval {low:.3f} to {high:.3f}, no real reports beside"
            rows.append(table.row("report agreement", name, prompts, {"generated": float(found.value[0])}, **about))
            continue
        rows.append(table.row("report agreement", name, prompts, found, **about))
    return rows


def _said(reports: Sequence[str], findings: Sequence[str]) -> np.ndarray:
    labels = [report_labels(text, findings) for text in reports]
    return np.array([[own.get(finding) == 1 for finding in findings] for own in labels], bool)
