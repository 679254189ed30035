"""A generated set's ``manifest.parquet`` and ``provenance.jsonl``, put together from unit records in plan order."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxraug.cores.core import frontal_view
from cxraug.storage import atomic
from cxraug.studies.labels import format_labels
from cxraug.synthesis.unit import IMAGES, UNITS, disk_full_is_work_error, write_lines

MANIFEST, PROVENANCE, MASKS = "manifest.parquet", "provenance.jsonl", "masks"
CARD_FILES = ("README.md", "croissant.json")  # of `cxraug card`
TEXT_COLUMNS = (
    "image", "patient_id", "study_id", "view", "sex", "race", "labels", "report", "source", "split", "prompt_id",
    "core", "core_sha256", "gate", "gate_reasons",
)  # fmt: skip


def set_frame(
    lines: Sequence[dict[str, Any]],
    verdicts: Mapping[str, Sequence[str]] | None = None,
    masks: Collection[str] = (),
) -> pd.DataFrame:
    """The manifest rows of a set: for every prompt the images of its last draw, in plan order.

    Parameters
    ----------
    lines : provenance lines of all draws.
    verdicts : image -> reasons for rejection (empty: accepted); an image that is not named has no verdict yet.
    masks : paths of the masks that the set keeps (:func:`mask_path`).

    The columns ``boxes`` (asked for, or chosen by the core, in pixels of the image) and ``mask`` are there only if a
    row has one.
    """
    last: dict[str, int] = {}
    for line in lines:
        last[line["prompt_id"]] = max(line["draw"], last.get(line["prompt_id"], 0))
    rows = [_row(line, verdicts or {}, masks) for line in in_order(lines) if line["draw"] == last[line["prompt_id"]]]
    frame = pd.DataFrame(rows)
    frame = frame.drop(columns=[name for name in ("boxes", "mask") if frame[name].isna().all()])
    text = [name for name in (*TEXT_COLUMNS, "boxes", "mask") if name in frame]
    types = {**dict.fromkeys(text, "str"), "age": "float64", "seed": "int64", "synthetic": "bool"}
    return frame.astype(types)


def in_order(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines by place in the plan, then draw, then the prompt's own order of views."""
    return sorted(lines, key=lambda line: (line["index"], line["draw"], line["prompt"]["views"].index(line["view"])))


def write_set(
    folder: Path, lines: Sequence[dict[str, Any]], verdicts: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """Write ``provenance.jsonl``, then ``manifest.parquet``, each whole or not at all; returns the manifest's rows."""
    frame = set_frame(lines, verdicts, {f"{MASKS}/{path.name}" for path in (folder / MASKS).glob("*.png")})
    with disk_full_is_work_error(folder):
        write_lines(folder / PROVENANCE, in_order(lines))
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        with atomic(folder / MANIFEST) as temporary:
            temporary.write_bytes(buffer.getvalue())
    return frame


def mask_path(prompt_id: str, view: str) -> str:
    """Where the mask of a prompt's view lies inside a set that keeps masks."""
    return f"{MASKS}/{prompt_id}-{view.replace(' ', '_')}.png"


def remove_strays(folder: Path, lines: Sequence[dict[str, Any]], records: Sequence[str]) -> None:
    """Delete images and records that no finished draw names (left by a kill, or by re-draws of other settings)."""
    wanted = {line["image"] for line in lines} | set(records)
    for part in (IMAGES, UNITS):
        for path in (folder / part).iterdir():
            if path.is_file() and f"{part}/{path.name}" not in wanted:
                path.unlink()


def _boxes(prompt: Mapping[str, Any], view: str) -> str | None:
    """The boxes asked for in ``view`` as a manifest has them; None where nothing was said about it."""
    if "boxes" not in prompt:
        return None
    frontal, boxes = frontal_view(prompt["views"]), json.loads(prompt["boxes"])
    mine = [{k: v for k, v in box.items() if k != "view"} for box in boxes if box.get("view", frontal) == view]
    return json.dumps(mine) if mine or (not boxes and view == frontal) else None


def _row(line: dict[str, Any], verdicts: Mapping[str, Sequence[str]], masks: Collection[str]) -> dict[str, Any]:
    prompt = line["prompt"]
    mask = mask_path(line["prompt_id"], line["view"])
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
        "boxes": json.dumps(line["boxes"]) if "boxes" in line else _boxes(prompt, line["view"]),
        "mask": mask if mask in masks else None,
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
