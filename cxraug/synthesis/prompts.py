"""A plan made ready for generation: every row checked before any time is spent."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.cores.core import VIEWS, GenerativeCore, Prompt, prompts_from_plan
from cxraug.cores.given import FILES, given_files, given_sha256, read_given, write_files
from cxraug.errors import InputError
from cxraug.storage import digest
from cxraug.studies.columns import path_inside
from cxraug.studies.images import Encoding

TEXT = ("prompt_id", "labels", "views", "report", "mask", "boxes", "reference_image")  # never numbers, in a CSV either
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # prompt ids become file names


@dataclass(frozen=True)
class PromptList:
    """Prompts and their seeds in plan order, files as absolute paths; ``sha256`` identifies the plan by content."""

    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.prompts)


def read_plan(path: str | Path) -> pd.DataFrame:
    """Read a plan: a Parquet file, a CSV with the same columns, or the folder that holds ``plan.parquet``.

    A missing or foreign file is an :class:`InputError`.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "plan.parquet"
    if not path.is_file():
        raise InputError("no such plan", file=path, expected="a .parquet or .csv file, or the folder of a plan")
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=dict.fromkeys(TEXT, "str"))
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as a plan ({error})", file=path, expected="a Parquet or CSV file") from None


def check_plan(
    plan: pd.DataFrame,
    core: GenerativeCore | None = None,
    *,
    file: str | Path | None = None,
    folder: str | Path = ".",
    root: str | Path | None = None,
) -> PromptList:
    """Check every row of ``plan``, and every file that it names, and turn it into prompts.

    Parameters
    ----------
    plan : table with the plan's columns; ``prompt_id`` and ``seed`` are required.
    core : where given, its refusals are asked for every prompt.
    file : named in messages.
    folder : the plan's folder, which the paths of masks and reference images start from; none may lead out of it ...
    root : ... unless this data folder is named: then they start from either of the two and end inside it.

    Raises
    ------
    InputError
        Empty plan, missing column, an id that is blank, repeated or no safe file name, a seed that is no whole number
        in [0, 2**63), bad label grammar or conditions, no view, an unknown or repeated one, a prompt that ``core``
        refuses, a mask or reference image outside the data folder, missing, or that cannot be read as one.
    """
    for column in ("prompt_id", "seed"):
        if column not in plan.columns:
            raise InputError("missing column", file=file, column=column, expected="a plan as `cxraug plan` writes it")
    if plan.empty:
        raise InputError("empty plan: no study to generate", file=file)
    _check_ids(plan["prompt_id"], file)
    seeds = _check_seeds(plan["seed"], file)
    prompts = _read_prompts(plan, () if core is None else core.card.findings, file)
    checked: set[tuple[str | None, str | None]] = set()
    for row, prompt in enumerate(prompts, 2):
        strange = [view for view in prompt.views if view not in VIEWS]
        if strange or len(set(prompt.views)) < len(prompt.views):
            expected = f"distinct views out of {', '.join(VIEWS)}"
            raise InputError(
                "bad views", file=file, row=row, column="views", found=list(prompt.views), expected=expected
            )
        if not prompt.views:
            expected = "at least one: a generated set holds images"
            raise InputError("no view asked for", file=file, row=row, column="views", expected=expected)
        if core is not None:
            try:
                core.refuse(prompt)
            except InputError as error:
                again = "plan again for it: `cxraug plan MANIFEST --core CORE`, with the same CORE"
                raise InputError(f"{error}; {again}", file=file, row=row) from None
        prompts[row - 2] = prompt = _with_whole_paths(prompt, Path(folder), root, file, row)
        if (prompt.mask, prompt.reference_image) not in checked:
            checked.add((prompt.mask, prompt.reference_image))
            try:
                encoding = Encoding() if core is None else core.card.image_encoding
                read_given(replace(prompt, boxes=None), resolution=encoding.size, findings=(), encoding=encoding)
            except InputError as error:
                raise InputError(f"prompt {prompt.prompt_id}: {error}", file=file, row=row) from None
    content = [[prompt_fields(prompt), seed] for prompt, seed in zip(prompts, seeds, strict=True)]
    return PromptList(tuple(prompts), tuple(seeds), digest(content))


def prompt_fields(prompt: Prompt) -> dict[str, object]:
    """Everything that ``prompt`` sets, JSON-ready; what it does not ask for is left out.

    In place of the paths of masks and reference images stand the SHA-256 of their bytes, by view: another content is
    another prompt, wherever the file lies, and a file name (which may be a patient's) does not reach a generated set.
    """
    fields: dict[str, object] = {name: value for name, value in vars(prompt).items() if value is not None}
    for what in FILES:
        if what in fields:
            fields[what] = {view: given_sha256(path) for view, path in given_files(prompt, what).items()}
    if prompt.wants_report:  # the default, and not there in sets of earlier versions
        del fields["wants_report"]
    return {**fields, "labels": dict(prompt.labels), "views": list(prompt.views), "conditions": dict(prompt.conditions)}


def _with_whole_paths(
    prompt: Prompt, folder: Path, root: str | Path | None, file: str | Path | None, row: int
) -> Prompt:
    """``prompt`` with absolute paths of its files, each with its view; a path out of the data folder is refused."""
    start, named = os.path.abspath(folder), root is not None
    base = os.path.abspath(folder if root is None else root)
    whole: dict[str, Any] = {}
    for what in FILES:
        files = {}
        for view, path in given_files(prompt, what).items():
            inside = path_inside(path, base, start, root_named=named)
            if inside is None:
                hint = "" if named else ", or the folder that holds it named by --root"
                raise InputError(
                    "path leads out of the data folder", file=file, row=row, column=what, found=path,
                    expected=f"a path inside {base}{hint}",
                )  # fmt: skip
            files[view] = os.path.join(base, inside)
        if files:
            whole[what] = write_files(files)
    return replace(prompt, **whole)


def _check_ids(ids: pd.Series, file: str | Path | None) -> None:
    bad = ~ids.astype("str").fillna("").map(lambda name: SAFE_ID.fullmatch(name) is not None).to_numpy(bool)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        expected = "letters, digits, '.', '_' and '-', at most 100, starting with a letter or digit"
        raise InputError(
            "bad prompt id", file=file, row=row + 2, column="prompt_id", found=ids.iloc[row], expected=expected
        )
    again = ids.astype("str").duplicated().to_numpy()
    if again.any():
        row = int(np.flatnonzero(again)[0])
        raise InputError("prompt id occurs twice", file=file, row=row + 2, column="prompt_id", found=ids.iloc[row])


def _check_seeds(seeds: pd.Series, file: str | Path | None) -> list[int]:
    numbers = pd.to_numeric(seeds, errors="coerce")
    values = numbers.to_numpy(dtype=float, na_value=np.nan)
    bad = ~np.isfinite(values) | (values < 0) | (values != np.floor(values)) | (values >= 2**63)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        expected = "a whole number from 0 to 2**63 - 1"
        raise InputError("bad seed", file=file, row=row + 2, column="seed", found=seeds.iloc[row], expected=expected)
    return [int(value) for value in numbers.tolist()]


def _read_prompts(plan: pd.DataFrame, findings: Sequence[str], file: str | Path | None) -> list[Prompt]:
    try:
        return prompts_from_plan(plan, findings)
    except ValueError:
        for row in range(len(plan)):  # name the first bad row
            try:
                prompts_from_plan(plan.iloc[[row]])
            except ValueError as error:
                raise InputError(f"not a prompt: {error}", file=file, row=row + 2) from None
        raise
