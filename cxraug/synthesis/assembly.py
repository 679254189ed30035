"""A generated set's ``manifest.parquet`` and ``provenance.jsonl``, put together from unit records in plan order."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxraug.storage import atomic
from cxraug.studies.labels import format_labels
from cxraug.synthesis.unit import IMAGES, UNITS, disk_full_is_work_error, write_lines

MANIFEST, PROVENANCE = "manifest.parquet", "provenance.jsonl"
TEXT_COLUMNS = (
    "image", "patient_id", "study_id", "view", "sex", "race", "labels", "report", "source", "split", "prompt_id",
    "core", "core_sha256", "gate", "gate_reasons",
)  # fmt: skip


def set_frame(lines: Sequence[dict[str, Any]], verdicts: Mapping[str, Sequence[str]] | None = None) -> pd.DataFrame:
    """The manifest rows of a set: for every prompt the images of its last draw, in plan order.

    Parameters
    ----------
    lines : provenance lines of all draws.
    verdicts : image -> reasons for rejection (empty: accepted); an image that is not named has no verdict yet.
    """
    last: dict[str, int] = {}
    for line in lines:
        last[line["prompt_id"]] = max(line["draw"], last.get(line["prompt_id"], 0))
    rows = [_row(line, verdicts or {}) for line in in_order(lines) if line["draw"] == last[line["prompt_id"]]]
    frame = pd.DataFrame(rows)
    types = {**dict.fromkeys(TEXT_COLUMNS, "str"), "age": "float64", "seed": "int64", "synthetic": "bool"}
    return frame.astype(types)


def in_order(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines by place in the plan, then draw, then the prompt's own order of views."""
    return sorted(lines, key=lambda line: (line["index"], line["draw"], line["prompt"]["views"].index(line["view"])))


def write_set(
    folder: Path, lines: Sequence[dict[str, Any]], verdicts: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """Write ``provenance.jsonl``, then ``manifest.parquet``, each whole or not at all; returns the manifest's rows."""
    frame = set_frame(lines, verdicts)
    with disk_full_is_work_error(folder):
        write_lines(folder / PROVENANCE, in_order(lines))
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        with atomic(folder / MANIFEST) as temporary:
            temporary.write_bytes(buffer.getvalue())
    return frame


def remove_strays(folder: Path, lines: Sequence[dict[str, Any]], records: Sequence[str]) -> None:
    """Delete images and records that no finished draw names (left by a kill, or by re-draws of other settings)."""
    wanted = {line["image"] for line in lines} | set(records)
    for part in (IMAGES, UNITS):
        for path in (folder / part).iterdir():
            if path.is_file() and f"{part}/{path.name}" not in wanted:
                path.unlink()


def _row(line: dict[str, Any], verdicts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    prompt = line["prompt"]
    reasons = verdicts.get(line["image"])
    return {
        "image": line["image"],
        "patient_id": f"syn-{line['prompt_id']}",
        "study_id": line["prompt_id"],
        "view": line["view"],
        "sex": prompt.get("sex"),
        "age": prompt.get("age", float("nan")),
        "race": prompt.get("race"),
        "labels": format_labels(prompt["labels"]) or None,
        "report": line["report"],
        "source": prompt.get("source", ""),
        "split": "train",
        "synthetic": True,
        "prompt_id": line["prompt_id"],
        "core": line["core"],
        "core_sha256": line["core_sha256"],
        "seed": line["seed"],
        "gate": None if reasons is None else ("reject" if reasons else "accept"),
        "gate_reasons": "|".join(reasons) if reasons else None,
    }
