"""Samples of one prompt: a plan of n equal rows made into a set, a contact sheet, and reports alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cxraug.cores.core import GenerativeCore, prompts_from_plan
from cxraug.errors import InputError, WorkError
from cxraug.progress import track
from cxraug.storage import atomic, digest, read_json, write_json
from cxraug.synthesis.assembly import MANIFEST
from cxraug.synthesis.generate import SET, generate_set
from cxraug.synthesis.prompts import prompt_fields
from cxraug.synthesis.provenance import core_facts

SHEET, REPORTS, ALONE = "sheet.png", "reports.csv", "reports.json"
MOST_ON_A_SHEET = 400  # images


def sample_plan(prompt: Mapping[str, Any], n: int, seed: int) -> pd.DataFrame:
    """A plan of ``n`` rows of one ``prompt`` (a plan's columns): ids from ``s00000`` on, seeds from ``seed`` on."""
    asked = {name: value for name, value in prompt.items() if value is not None and value != ""}
    ids = [f"s{i:05d}" for i in range(n)]
    return pd.DataFrame({"prompt_id": ids, **{k: [v] * n for k, v in asked.items()}, "seed": range(seed, seed + n)})


def sample_set(
    core: GenerativeCore, prompt: Mapping[str, Any], out: Path, *, n: int, seed: int, fresh: bool, keep_masks: bool
) -> dict[str, Any]:
    """Make the set ``out`` of ``n`` studies of ``prompt`` (a plan's columns, absolute paths), a sheet and the reports.

    Returns the paths written and the number of images. Goes on where an earlier call stopped. Raises
    :class:`InputError` for a prompt the core refuses and a folder of other work.
    """
    plan = sample_plan(prompt, n, seed)
    core.refuse(prompts_from_plan(plan.head(1), core.card.findings)[0])  # as a prompt: a plan's messages name its rows
    if (out / ALONE).is_file() and fresh:
        for name in (REPORTS, ALONE):
            (out / name).unlink(missing_ok=True)
    if not (out / SET).is_file() and any((out / name).exists() for name in (ALONE, SHEET, REPORTS)):
        raise InputError("this folder holds other work", file=out, expected="an empty or new folder")
    generate_set(plan, core, out, folder="/", root="/", fresh=fresh, keep_masks=keep_masks)
    frame = pd.read_parquet(out / MANIFEST)
    shown = frame.head(MOST_ON_A_SHEET)
    images = [np.asarray(Image.open(out / name)) for name in shown["image"]]
    with atomic(out / SHEET) as temporary:
        Image.fromarray(contact_sheet(images, together=frame["view"].nunique())).save(temporary)
    reports = frame.drop_duplicates("prompt_id")[["prompt_id", "image", "seed", "report"]].dropna(subset="report")
    return {
        "folder": out,
        "images": len(frame),
        "manifest": out / MANIFEST,
        "sheet": out / SHEET,
        "reports": _write_reports(out, reports),
    }


def sample_reports(
    core: GenerativeCore, prompt: Mapping[str, Any], out: Path, *, n: int, seed: int, fresh: bool
) -> dict[str, Any]:
    """Write ``reports.csv`` with ``n`` reports of a ``prompt`` that wants no view; the same call again does nothing."""
    plan = sample_plan(prompt, n, seed)
    prompts = prompts_from_plan(plan, core.card.findings)
    core.refuse(prompts[0])
    if (out / SET).is_file() or ((out / REPORTS).exists() and not (out / ALONE).is_file()):
        raise InputError("this folder holds other work", file=out, expected="an empty or new folder")
    work = digest([core_facts(core), [prompt_fields(one) for one in prompts], seed])
    done = {"folder": out, "images": 0, "manifest": None, "sheet": None, "reports": out / REPORTS}
    if (out / ALONE).is_file() and not fresh:
        if read_json(out / ALONE) != {"work": work}:
            raise InputError("this folder holds reports of another prompt, core or settings", file=out,
                             expected="the same, another folder, or --fresh to start over")  # fmt: skip
        if (out / REPORTS).is_file():
            return done
    rows = []
    for start in track(range(0, n, core.batch_size), "reports"):
        part = prompts[start : start + core.batch_size]
        seeds = [seed + start + i for i in range(len(part))]
        studies = core.generate(part, seeds)
        for one, number, study in zip(part, seeds, studies, strict=True):
            if not study.report:
                raise WorkError(f"core {core.card.name} returned no report for prompt {one.prompt_id}")
            rows.append({"prompt_id": one.prompt_id, "seed": number, "report": study.report})
    write_json(out / ALONE, {"work": work})  # first: a folder with reports and without it is somebody else's
    _write_reports(out, pd.DataFrame(rows))
    return done


def contact_sheet(images: list[np.ndarray], *, together: int = 1) -> np.ndarray:
    """Images (S, S) uint8 in a grid about as wide as high, ``together`` of them (a study's views) side by side."""
    columns = -(-int(np.ceil(np.sqrt(len(images)))) // together) * together
    size = max(max(pixels.shape) for pixels in images) + 2
    sheet = np.zeros((size * -(-len(images) // columns), size * columns), np.uint8)
    for i, pixels in enumerate(images):
        row, column = (at * size for at in divmod(i, columns))
        sheet[row : row + pixels.shape[0], column : column + pixels.shape[1]] = pixels
    return sheet


def _write_reports(out: Path, reports: pd.DataFrame) -> Path | None:
    if reports.empty:
        (out / REPORTS).unlink(missing_ok=True)
        return None
    with atomic(out / REPORTS) as temporary:
        reports.to_csv(temporary, index=False)
    return out / REPORTS
