"""What the gate decided, counted: per finding, per group, per draw, with reasons, notes and the closest images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cxraug.evaluation.groups import group_levels, level_order
from cxraug.gate.settings import GateSettings

CLOSEST = 20


@dataclass
class Verdicts:
    """What was found out about every image of every draw.

    lines : provenance lines. reasons : image -> why it was rejected (empty: accepted). draws : counts per draw.
    nearest : image -> correlation with the nearest training image.
    """

    lines: list[dict[str, Any]] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    draws: list[dict[str, Any]] = field(default_factory=list)
    nearest: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        draw: int,
        lines: Sequence[dict[str, Any]],
        images: Sequence[str],
        reasons: Sequence[list[str]],
        nearest: np.ndarray | None,
    ) -> None:
        """Add one draw: its provenance lines, and for each of its images the reasons and the nearest correlation."""
        self.lines += lines
        self.reasons.update(zip(images, reasons, strict=True))
        if nearest is not None:
            self.nearest.update(zip(images, nearest.tolist(), strict=True))
        counts = Counter(reason for why in reasons for reason in why)
        rejected = sum(bool(why) for why in reasons)
        self.draws.append({"draw": draw, "images": len(images), "rejected": rejected, "reasons": dict(counts)})


def acceptance(
    frame: pd.DataFrame, verdicts: Verdicts, groups: Sequence[str], age_bins: Sequence[float]
) -> dict[str, Any]:
    """The counting part of ``gate.json``. ``frame``: the set's manifest rows with verdicts.

    ``total`` and ``accepted`` count images, everything below ``studies`` counts studies: in the first draw and at the
    end, in all, per claimed finding and per group level. ``redrawn`` counts prompts that were generated again.
    """
    refused_first = {
        line["prompt_id"] for line in verdicts.lines if line["draw"] == 0 and verdicts.reasons[line["image"]]
    }
    studies = frame.drop_duplicates("prompt_id").reset_index(drop=True)
    accepted = (studies["gate"] == "accept").to_numpy(bool)
    at_once = ~studies["prompt_id"].isin(refused_first).to_numpy(bool)

    def count(rows: np.ndarray) -> dict[str, Any]:
        n, final = int(rows.sum()), int(accepted[rows].sum())
        return {"n": n, "accepted_first": int(at_once[rows].sum()), "accepted": final, "rate": final / n if n else None}

    claimed = [
        {name for name in text.split("|") if name and name[0] not in "-?"} for text in studies["labels"].fillna("")
    ]
    by_group = {}
    for group in groups:
        levels = group_levels(studies, group, age_bins)
        order = level_order(levels, age_bins)
        by_group[group] = {level: count((levels == level).to_numpy(bool)) for level in order}
    return {
        "total": len(frame),
        "accepted": int((frame["gate"] == "accept").sum()),
        "redrawn": len({line["prompt_id"] for line in verdicts.lines if line["draw"]}),
        "reasons": dict(Counter(why for text in frame["gate_reasons"].dropna() for why in text.split("|"))),
        "studies": {
            "all": count(np.ones(len(studies), bool)),
            "findings": {
                name: count(np.array([name in names for names in claimed])) for name in sorted(set().union(*claimed))
            },
            "groups": by_group,
        },
        "draws": verdicts.draws,
        "closest": _closest(frame, verdicts),
    }


def gate_notes(fitted: dict[str, Any], settings: GateSettings, *, redraws: bool) -> list[str]:
    """What a reader has to know to judge the gate, in sentences; ``fitted`` is :meth:`Gate.describe`."""
    notes = []
    real = fitted["real"]
    notes.append(
        f"all checks together reject {real['rejected']} of {real['n']} held-out real training images "
        f"(budget {settings.false_reject:.1%})"
    )
    agreement = fitted["checks"].get("agreement")
    if agreement is None:
        notes.append("label agreement was not checked")
    else:
        notes += [f"{finding}: {part['note']}" for finding, part in agreement["findings"].items() if part["note"]]
    duplicates = fitted["checks"].get("duplicates")
    if duplicates is None:
        notes.append("copies of training images were not looked for")
    else:
        if duplicates["note"]:
            notes.append(f"duplicates: {duplicates['note']}")
        if duplicates["n_same_image_of_two_patients"]:
            n = duplicates["n_same_image_of_two_patients"]
            notes.append(f"{n} real training images occur under two patient ids and do not calibrate the copy check")
    if not redraws and settings.max_redraws:
        notes.append("no core was given, so rejected prompts were not drawn again")
    return notes


def _closest(frame: pd.DataFrame, verdicts: Verdicts) -> list[dict[str, Any]]:
    """The images of the set nearest to a training image (which one is not said: no real image is named)."""
    known = frame.assign(correlation=frame["image"].map(verdicts.nearest).astype(float))
    known = known[known["correlation"].notna()].sort_values("correlation", ascending=False, kind="stable")
    return known.head(CLOSEST)[["prompt_id", "view", "correlation", "gate"]].to_dict("records")  # type: ignore[return-value]
