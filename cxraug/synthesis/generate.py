"""A plan and a core in, a generated set out: resumable, and the same bytes however the work was cut."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from cxraug.cores.core import GenerativeCore
from cxraug.cores.given import FILES, given_files, read_mask
from cxraug.errors import InputError
from cxraug.progress import track
from cxraug.seeds import derive_seed
from cxraug.storage import atomic, read_json, write_json
from cxraug.studies.cache import build_cache
from cxraug.studies.images import MASK_BITS, Encoding
from cxraug.studies.manifest import read_manifest
from cxraug.synthesis.assembly import MANIFEST, MASKS, PROVENANCE, mask_path, remove_strays, write_set
from cxraug.synthesis.prompts import PromptList, check_plan
from cxraug.synthesis.provenance import core_facts
from cxraug.synthesis.unit import IMAGES, UNITS, Unit, cut, disk_full_is_work_error, make_unit, read_record, write_png

SET, PLAN, CARD, CACHE, GATE = "set.json", "plan.parquet", "core_card.json", "cache", "gate.json"
UNIT = 32
OWN = (
    GATE,
    "gate.html",
    MANIFEST,
    PROVENANCE,
    CACHE,
    "gate",
    UNITS,
    IMAGES,
    MASKS,
    PLAN,
    CARD,
    SET,
)  # set.json goes last


def generate_set(
    plan: pd.DataFrame,
    core: GenerativeCore,
    out: str | Path,
    *,
    unit: int | None = None,
    shard: tuple[int, int] = (0, 1),
    fresh: bool = False,
    folder: str | Path = ".",
    root: str | Path | None = None,
    keep_masks: bool = False,
) -> Path:
    """Generate every study of ``plan`` into the folder ``out``; go on where an earlier call stopped.

    Parameters
    ----------
    plan : rows of the plan contract (see :data:`cxraug.cores.core.PLAN_COLUMNS`).
    core : any generative core.
    out : the generated set: ``images/``, ``manifest.parquet``, ``provenance.jsonl`` and what resuming needs.
    unit : prompts per unit of work, a multiple of the core's batch size; by default the smallest of at least 32.
    shard : ``(i, n)`` does every n-th unit from the i-th on; the call that finds all units done assembles the set.
    fresh : throw away what an earlier call with another plan, core or settings made in ``out``.
    folder, root : where the paths of masks and reference images start (:func:`cxraug.synthesis.prompts.check_plan`).
    keep_masks : copy the masks asked for, on the core's grid, to ``masks/`` and name them in the manifest. A mask that
        was drawn on a real patient is that patient's anatomy, so this is not the default. Reference images are never
        copied.

    Returns
    -------
    ``out`` as a path.

    Raises
    ------
    InputError
        A bad plan, a prompt that the core refuses, a folder that holds something else or the work of another plan, core
        or settings.
    WorkError
        Disk full: the units that were finished stay.
    """
    out = Path(out)
    prompts = check_plan(plan, core, folder=folder, root=root)
    size = _unit_size(unit, core)
    index, count = shard
    if not 0 <= index < count:
        raise InputError("bad shard", found=f"{index}/{count}", expected="i/n with 0 <= i < n")
    _claim(out, plan, prompts, core, size, fresh, keep_masks)
    units = cut(prompts.prompts, prompts.seeds, size)
    mine = units[index::count]
    _finish_units(mine, core, out, what=f"generate {out.name}")
    done = [read_record(u, core, out) for u in units] if count > 1 else []
    if count > 1 and any(lines is None for lines in done):
        return out
    if not _is_assembled(out):
        lines = _all_lines(units, core, out)
        if keep_masks:
            _copy_masks(prompts, core, out)
        write_set(out, lines)
        remove_strays(out, lines, [u.record for u in units])
    return out


def redraw(folder: str | Path, core: GenerativeCore, prompt_ids: Sequence[str], draw: int) -> list[dict[str, Any]]:
    """Generate the given prompts of a finished set once more under new seeds; returns their provenance lines.

    The seeds derive from each prompt's seed and ``draw`` (1, 2, ...). Images lie beside those of earlier draws; the
    manifest is not touched. Re-draws that are there already are reused.
    """
    folder = Path(folder)
    settings = set_settings(folder)
    refuse_other_core(folder, core)
    prompts = check_plan(pd.read_parquet(folder / PLAN), core, file=folder / PLAN, root="/")
    if prompts.sha256 != settings["plan_sha256"]:
        raise InputError("the plan, or a file that it names, is not what the set was made from", file=folder / PLAN)
    wanted = set(prompt_ids)
    places = [i for i, prompt in enumerate(prompts.prompts) if prompt.prompt_id in wanted]
    units = cut(
        [prompts.prompts[i] for i in places],
        [redraw_seed(prompts.seeds[i], draw) for i in places],
        settings["unit"],
        draw=draw,
        places=places,
    )
    _finish_units(units, core, folder, what=f"re-draw {draw}")
    return _all_lines(units, core, folder)


def refuse_other_core(folder: str | Path, core: GenerativeCore) -> None:
    """Raise :class:`InputError` if ``core`` is not the one that made the set in ``folder``."""
    settings = set_settings(folder)
    if settings["core_sha256"] != core.card.sha256:
        raise InputError(
            "re-draws need the core that made the set", file=folder, found=f"{core.card.name} {core.card.sha256[:12]}",
            expected=f"{settings['core']} {settings['core_sha256'][:12]}",
        )  # fmt: skip


def redraw_seed(seed: int, draw: int) -> int:
    """The seed of a prompt's draw 1, 2, ... from the seed that its first draw had."""
    return derive_seed("redraw", seed, draw)


def first_draw(folder: str | Path) -> list[dict[str, Any]]:
    """The provenance lines of a finished set's first draw, in plan order."""
    path = Path(folder) / PROVENANCE
    if not path.is_file():
        raise InputError("not a finished generated set", file=folder, expected=f"a folder with {PROVENANCE}")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["draw"] == 0]


def set_settings(folder: str | Path) -> dict[str, Any]:
    """What a set was made from (``set.json``): hashes of plan and core, sampler, unit."""
    path = Path(folder) / SET
    if not path.is_file():
        raise InputError("not a generated set", file=folder, expected=f"a folder with {SET}")
    return read_json(path)


def count_done(folder: str | Path) -> tuple[int, int]:
    """How many units of work of a set's first draw have a record, and how many there are."""
    settings = set_settings(folder)
    total = -(-settings["prompts"] // settings["unit"])
    return len(list((Path(folder) / UNITS).glob("draw-0-*.jsonl"))), total


def load_set(folder: str | Path, encoding: Encoding) -> tuple[pd.DataFrame, np.ndarray]:
    """A set's manifest rows and pixels, ready for training; rejected images are among them (column ``gate``).

    Parameters
    ----------
    folder : a finished set.
    encoding : the real data's encoding, so that real and synthetic share resolution and compression.

    Returns
    -------
    (frame, pixels) : the rows in plan order and their uint8 pixels (n, size, size).
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError("not a finished generated set", file=folder, expected=f"a folder with {MANIFEST}")
    manifest, cache = build_cache(read_manifest(folder / MANIFEST, root=folder), folder / CACHE, encoding)
    return manifest.frame, cache.pixels


def _unit_size(unit: int | None, core: GenerativeCore) -> int:
    batch = core.batch_size
    if unit is None:
        return -(-UNIT // batch) * batch
    if unit < 1 or unit % batch:
        expected = f"a multiple of the core's batch size {batch}"
        raise InputError("bad unit of work", found=unit, expected=expected)
    return unit


def _claim(
    out: Path, plan: pd.DataFrame, prompts: PromptList, core: GenerativeCore, size: int, fresh: bool, keep_masks: bool
) -> None:
    """Make ``out`` the folder of exactly this work, or refuse."""
    settings = {"format": 1, "plan_sha256": prompts.sha256, "prompts": len(prompts), "unit": size, **core_facts(core)}
    if keep_masks:
        settings["keep_masks"] = True
    path = out / SET
    if path.is_file() and fresh:
        with disk_full_is_work_error(out):
            for name in OWN:
                shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
    if path.is_file():
        old = read_json(path)
        changed = [name for name in dict.fromkeys([*settings, "keep_masks"]) if old.get(name) != settings.get(name)]
        if changed:
            raise InputError(
                f"this folder holds a set of other work: {', '.join(changed)} changed", file=out,
                expected="the same plan, core and settings, another folder, or --fresh to start over",
            )  # fmt: skip
        _make_folders(out)
        return
    if any((out / name).exists() for name in OWN if name not in (PLAN, CARD)):
        raise InputError(
            "this folder holds something that is no generated set", file=out, expected="an empty or new folder"
        )
    with disk_full_is_work_error(out):
        out.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        _with_whole_paths(plan, prompts).to_parquet(buffer, index=False)
        with atomic(out / PLAN) as temporary:
            temporary.write_bytes(buffer.getvalue())
        write_json(out / CARD, core.card.model_dump(mode="json"))
        write_json(path, settings)
    _make_folders(out)


def _make_folders(out: Path) -> None:
    """After ``set.json``: folders without it are nobody's set, and a kill in between must not leave such."""
    with disk_full_is_work_error(out):
        (out / IMAGES).mkdir(exist_ok=True)
        (out / UNITS).mkdir(exist_ok=True)


def _with_whole_paths(plan: pd.DataFrame, prompts: PromptList) -> pd.DataFrame:
    """``plan`` with the paths of its files as they were found, so that re-draws find them from the set's folder too."""
    found = {what: [getattr(prompt, what) for prompt in prompts.prompts] for what in FILES if what in plan}
    return plan.assign(**{what: paths for what, paths in found.items() if any(paths)})


def _copy_masks(prompts: PromptList, core: GenerativeCore, out: Path) -> None:
    for prompt in prompts.prompts:
        size = core.card.resolution
        for view, path in given_files(prompt, "mask").items():
            if view in prompt.views:
                parts = read_mask(path, size, core.card.image_encoding.fit)
                bits = np.zeros((size, size), np.uint8)
                for part, pixels in parts.items():
                    bits |= pixels * np.uint8(MASK_BITS[part])
                write_png(out / mask_path(prompt.prompt_id, view), bits)


def _finish_units(units: Sequence[Unit], core: GenerativeCore, folder: Path, *, what: str) -> None:
    missing = [unit for unit in units if read_record(unit, core, folder) is None]
    for unit in track(missing, what, total=len(units), done=len(units) - len(missing)):
        make_unit(unit, core, folder)


def _all_lines(units: Sequence[Unit], core: GenerativeCore, folder: Path) -> list[dict[str, Any]]:
    lines = []
    for unit in units:
        record = read_record(unit, core, folder)
        if record is None:
            raise InputError("images changed while the set was assembled", file=folder / unit.record)
        lines += record
    return lines


def _is_assembled(folder: Path) -> bool:
    """Whether manifest and provenance are there; both are written whole, the manifest last (it may carry verdicts)."""
    try:
        return (folder / PROVENANCE).is_file() and pyarrow.parquet.read_metadata(folder / MANIFEST).num_rows > 0
    except (OSError, ValueError):
        return False
