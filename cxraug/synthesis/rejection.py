"""The two controls of a gate: a set as its core drew it, and the set with as many studies thrown out at random.

Both are images of the same prompts by the same core that no verdict has chosen, so an arm of them differs from the
gated one in the choice alone. They are listed in a manifest of their own; only what random rejection draws anew is
generated.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.core import GenerativeCore
from cxraug.storage import atomic
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import read_manifest
from cxraug.synthesis.assembly import MANIFEST, PROVENANCE, set_frame
from cxraug.synthesis.generate import CACHE, first_draw, generate_set, redraw_seed

LEFT_OUT = -1  # in place of a draw: the study is in no arm
FRESH = "fresh"
NOT_OURS = ("gate", "gate_reasons", "mask", "boxes")  # verdicts on later draws, and paths inside the core's set


def list_first_draws(set_folder: Path, out: Path) -> dict[str, Any]:
    """Write ``out/manifest.parquet``: every study's first draw, in plan order, whatever the gate said of it.

    Parameters
    ----------
    set_folder : a gated set. out : a folder beside or above which the set lies (both inside ``out``'s parent).

    Returns
    -------
    Counts: ``images`` and ``studies``.
    """
    frame = _paths(set_frame(first_draw(set_folder)), set_folder, out.parent)
    return _write(frame, out)


def list_random_rejection(
    set_folder: Path, plan: pd.DataFrame, core: GenerativeCore, out: Path, *, cells: Sequence[str], seed: int
) -> dict[str, Any]:
    """Write ``out/manifest.parquet``: the set with the gate's numbers of rejections dealt out at random.

    Parameters
    ----------
    set_folder : a gated set of ``core``. plan : what it was generated from, a row per study.
    cells : the cell of each plan row; rejections stay in their cell. seed : of the choice.

    Studies that are rejected at random are drawn anew under the seeds that the gate's re-draws of them have (or would
    have), into ``out/fresh``. Intermediate draws that would be rejected again are not made: nobody would see them.

    Returns
    -------
    Counts: ``images``, ``studies``, ``drawn_again`` and ``left_out``, the last two equal to the gate's.
    """
    ids = plan["prompt_id"].astype(str).tolist()
    taken = gated_draws(set_folder)
    draws = reject_at_random([taken[name] for name in ids], cells, seed)
    first = set_frame(first_draw(set_folder))
    kept = {name for name, draw in zip(ids, draws, strict=True) if draw == 0}
    parts = [_paths(first[first["prompt_id"].isin(kept)], set_folder, out.parent)]
    again = np.array([draw > 0 for draw in draws], bool)
    if again.any():
        seeds = [redraw_seed(int(s), d) for s, d in zip(plan["seed"], draws, strict=True) if d > 0]
        fresh = generate_set(plan[again].assign(seed=seeds), core, out / FRESH)
        parts.append(_paths(set_frame(first_draw(fresh)), fresh, out.parent))
    place = {name: i for i, name in enumerate(ids)}
    frame = pd.concat(parts, ignore_index=True)
    frame = frame.sort_values("prompt_id", key=lambda names: names.map(place), kind="stable", ignore_index=True)
    return {**_write(frame, out), "drawn_again": int(again.sum()), "left_out": draws.count(LEFT_OUT)}


def load_listed(folder: Path, encoding: Encoding) -> tuple[pd.DataFrame, np.ndarray]:
    """Manifest rows in plan order and uint8 pixels (n, size, size) of what one of the functions above listed."""
    manifest, cache = build_cache(read_manifest(folder / MANIFEST, root=folder.parent), folder / CACHE, encoding)
    return manifest.frame, cache.pixels


def gated_draws(set_folder: Path) -> dict[str, int]:
    """For every prompt of a gated set the draw that was accepted, or :data:`LEFT_OUT`."""
    frame = pd.read_parquet(set_folder / MANIFEST)
    accepted = set(frame.loc[frame["gate"] == "accept", "prompt_id"])
    last: dict[str, int] = {}
    for line in map(json.loads, (set_folder / PROVENANCE).read_text().splitlines()):
        last[line["prompt_id"]] = max(line["draw"], last.get(line["prompt_id"], 0))
    return {name: draw if name in accepted else LEFT_OUT for name, draw in last.items()}


def reject_at_random(draws: Sequence[int], cells: Sequence[str], seed: int) -> list[int]:
    """Deal the gate's outcomes ``draws`` out again, inside each cell and in every order with equal probability.

    As many studies of a cell keep their first draw (0), get draw 1, 2, ... or are left out as the gate decided. Which
    ones does not depend on which ones the gate chose: only its counts enter.
    """
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for i, cell in enumerate(cells):
        members.setdefault(cell, []).append(i)
    dealt = [0] * len(draws)
    for rows in members.values():
        outcomes = sorted(draws[i] for i in rows)  # sorted: the counts alone, not the gate's order
        for i, k in zip(rows, rng.permutation(len(rows)), strict=True):
            dealt[i] = outcomes[k]
    return dealt


def match_cells(
    keys: Sequence[str], cells: Sequence[str], other_keys: Sequence[str], other_cells: Sequence[str]
) -> np.ndarray:
    """Rows of ``other`` with exactly the cells of an arm, image by image, none twice.

    Of each cell the first rows of ``other`` are taken, as many as the arm has, so that the arm's own choice among its
    images plays no part. One of the same key stands where the arm has it (arms then share most of a batch); the
    others follow in order.

    Raises
    ------
    ValueError : ``other`` has fewer images of a cell.
    """
    left: dict[str, list[int]] = {}
    for row, cell in enumerate(other_cells):
        left.setdefault(cell, []).append(row)
    wanted: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        wanted.setdefault(cell, []).append(place)
    rows = np.empty(len(cells), dtype=np.int64)
    for cell, places in wanted.items():
        chosen = left.get(cell, [])[: len(places)]
        if len(chosen) < len(places):
            raise ValueError(f"cell {cell!r}: {len(chosen)} images for {len(places)}")
        by_key = {other_keys[row]: row for row in chosen}
        own = {place: by_key.pop(keys[place]) for place in places if keys[place] in by_key}
        rest = iter(by_key.values())
        for place in places:
            rows[place] = own[place] if place in own else next(rest)
    return rows


def _paths(frame: pd.DataFrame, folder: Path, root: Path) -> pd.DataFrame:
    """Rows of a set with image paths that start from ``root``."""
    where = folder.relative_to(root).as_posix()
    frame = frame.drop(columns=[name for name in NOT_OURS if name in frame])
    return frame.assign(image=[f"{where}/{name}" for name in frame["image"]])


def _write(frame: pd.DataFrame, out: Path) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    with atomic(out / MANIFEST) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return {"images": len(frame), "studies": int(frame["prompt_id"].nunique())}
