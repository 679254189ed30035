"""What the gate decided, counted: per finding, per group, per draw, with reasons, notes and the closest images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cxraug.evaluation.groups import group_levels, level_order
from cxraug.evaluation.uncertainty import wilson
from cxraug.gate.fairness import fairness_notes, rejection_by_level
from cxraug.gate.settings import GateSettings

CLOSEST = 20
NORMAL = 1.959964
UNCHECKED = {
    "agreement": "label agreement was not checked",
    "demographics": "sex, age and race were not checked",
    "realism": "realism was not checked",
    "reports": "reports were not checked",
    "duplicates": "copies of training images were not looked for",
}


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
        checks = Counter(name for why in reasons for name in {check_of(reason) for reason in why} if name)
        self.draws.append(
            {"draw": draw, "images": len(images), "rejected": rejected, "reasons": dict(counts), "checks": dict(checks)}
        )


def check_of(reason: str) -> str:
    """The check that a reason is of; empty for another view's."""
    return reason.partition(":")[0].removesuffix(" (not calibrated)") if ":" in reason else ""


def acceptance(
    frame: pd.DataFrame, verdicts: Verdicts, groups: Sequence[str], age_bins: Sequence[float]
) -> dict[str, Any]:
    """The counting part of ``gate.json``. ``frame``: the set's manifest rows with verdicts.

    ``total`` and ``accepted`` count images, everything below ``studies`` counts studies: in the first draw (with
    Wilson's 95 % interval) and at the end, in all, per claimed finding and per group level. ``redrawn`` counts prompts
    that were generated again.
    """
    refused_first = _refused_first(verdicts)
    studies = frame.drop_duplicates("prompt_id").reset_index(drop=True)
    accepted = (studies["gate"] == "accept").to_numpy(bool)
    at_once = ~studies["prompt_id"].isin(refused_first).to_numpy(bool)

    def count(rows: np.ndarray) -> dict[str, Any]:
        n, final = int(rows.sum()), int(accepted[rows].sum())
        first = int(at_once[rows].sum())
        low, high = wilson(np.array(first / n), np.array(n), NORMAL) if n else (None, None)
        return {"n": n, "accepted_first": first, "first_low": low, "first_high": high, "accepted": final,
                "rate": final / n if n else None}  # fmt: skip

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


def rejected_studies(
    frame: pd.DataFrame, verdicts: Verdicts, groups: Sequence[str], age_bins: Sequence[float]
) -> list[dict[str, Any]]:
    """Rejection at the first draw per level of ``groups``, tested among studies that were asked for the same labels."""
    refused = _refused_first(verdicts)
    studies = frame.drop_duplicates("prompt_id").reset_index(drop=True)
    levels = {
        group: group_levels(studies, group, age_bins).to_numpy(dtype=object)
        for group in groups
        if all(part.strip() in studies for part in group.split("*"))
    }
    rejected = studies["prompt_id"].isin(refused).to_numpy(bool)
    asked = studies["labels"].fillna("").to_numpy(dtype=object)
    return rejection_by_level(rejected, levels, studies["prompt_id"].to_numpy(dtype=object), asked)


def gate_notes(
    fitted: dict[str, Any],
    settings: GateSettings,
    fairness: dict[str, Any],
    counted: dict[str, Any],
    *,
    redraws: bool,
) -> list[str]:
    """What a reader has to know to judge the gate, in sentences; ``fitted`` is :meth:`Gate.describe`, ``counted``
    :func:`acceptance`."""
    notes = []
    real, checks = fitted["real"], fitted["checks"]
    notes.append(
        f"all checks together reject {real['rejected']} of {real['n']} held-out real training images "
        f"(budget {settings.false_reject:.1%})"
    )
    notes += fairness_notes(fairness["real"], "held-out real images: the gate itself is unfair to them")
    notes += fairness_notes(fairness["synthetic"], "synthetic studies at the first draw, among equal requests")
    for name, told in UNCHECKED.items():
        if name not in checks:
            notes.append(told)
    for finding, part in checks.get("agreement", {}).get("findings", {}).items():
        if part["note"]:
            notes.append(f"{finding}: {part['note']}")
    for attribute, part in checks.get("demographics", {}).get("attributes", {}).items():
        if part["note"]:
            notes.append(f"{attribute}: {part['note']}")
    notes += [f"{name}: {part['note']}" for name, part in checks.items() if part.get("note")]
    notes += [
        f"{name}: rejects nothing, {round(1 / part['finest']) - 1} real images do not resolve its level of "
        f"{part['level']:.2%}"
        for name, part in real["tests"].items()
        if 0 < part["level"] < part["finest"]
    ]
    notes += small_level_notes(checks, settings.per_group)
    if not checks.get("reports", {}).get("calibrated", True):
        apart = sum(
            n for why, n in counted["draws"][0]["reasons"].items() if why.startswith("reports (not calibrated)")
        )
        notes.append(f"reports: {apart} uncalibrated contradictions at the first draw are outside the budget")
    same = checks.get("duplicates", {}).get("n_same_image_of_two_patients", 0)
    if same:
        notes.append(f"{same} real training images occur under two patient ids and do not calibrate the copy check")
    if not redraws and settings.max_redraws:
        notes.append("no core was given, so rejected prompts were not drawn again")
    return notes


def small_level_notes(checks: dict[str, Any], per_group: str | None) -> list[str]:
    """Levels with too few real images for a calibration of their own."""
    notes = []
    for name, part in checks.items():
        small = dict(part.get("small_levels") or {})
        for attribute in part.get("attributes", {}).values():
            small |= attribute.get("small_levels") or {}
        if small:
            told = ", ".join(f"{level} ({n})" for level, n in small.items())
            notes.append(
                f"{name}: too few real images for a calibration of their own, judged by all: {per_group} {told}"
            )
    return notes


def _refused_first(verdicts: Verdicts) -> set[str]:
    return {line["prompt_id"] for line in verdicts.lines if line["draw"] == 0 and verdicts.reasons[line["image"]]}


def _closest(frame: pd.DataFrame, verdicts: Verdicts) -> list[dict[str, Any]]:
    """The images of the set nearest to a training image (which one is not said: no real image is named)."""
    known = frame.assign(correlation=frame["image"].map(verdicts.nearest).astype(float))
    known = known[known["correlation"].notna()].sort_values("correlation", ascending=False, kind="stable")
    return known.head(CLOSEST)[["prompt_id", "view", "correlation", "gate"]].to_dict("records")  # type: ignore[return-value]
