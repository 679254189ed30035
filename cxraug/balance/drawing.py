"""The sampler's hand: fits or opens a core, asks it for rows, and says where each came from."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock

from cxraug.balance.image_rows import as_squares
from cxraug.balance.refusal import SamplingError
from cxraug.cores.core import GenerativeCore, Prompt, prompts_from_plan
from cxraug.errors import InputError, WorkError
from cxraug.storage import digest
from cxraug.studies.images import Encoding, encode, pixel_sha256, read_pixels
from cxraug.synthesis.prompts import prompt_fields

if TYPE_CHECKING:
    from cxraug.balance.sampling_gate import Judged, SamplingGate

BATCHES = 8  # of the core's own size, at once: images pass through, and are not all kept twice
LOCK = ".lock"
WORK = "{work}"  # in the name of a folder: stands for the digest of plan and core
PROVENANCE = (
    "prompt_id", "labels", "sex", "age", "race", "source", "view", "seed", "drawn_for", "donor", "draw", "core",
    "core_version", "core_sha256", "sha256", "prompt",
)  # fmt: skip


def fit_on_the_spot(
    pixels: np.ndarray, findings: Sequence[str], y: np.ndarray, columns: dict[str, Any], *, components: int
) -> GenerativeCore:
    """A Gaussian core of ``pixels`` (n, S, S) or (n, D) uint8; nothing of it stays on the disk.

    The model knows no neighbourhood of pixels, so that rows (n, D) that are no squares are padded to one.

    Parameters
    ----------
    findings, y : names (F,) and values (n, F), 1, 0 or NaN.
    columns : sex, age, race, source and view of each image, as far as they are known.
    """
    from cxraug.cores.conditions import Conditions
    from cxraug.cores.gaussian import fit_gaussian
    from cxraug.studies.seen import Seen

    squares = pixels if pixels.ndim == 3 else as_squares(pixels)
    key = hashlib.sha256(np.ascontiguousarray(squares).tobytes()).hexdigest()[
        :32
    ]  # not random: the same call, the same card
    with tempfile.TemporaryDirectory() as folder:
        return fit_gaussian(
            squares,
            Conditions.of(findings, y, **columns),
            Path(folder),
            components=components,
            seen=Seen.of([], [pixel_sha256(image) for image in squares], key=key),
            training_data={"fitted on": "the rows given to SyntheticOverSampler", "images": len(squares)},
        )


def sampling_plan(texts: np.ndarray, asked: pd.DataFrame, wanted: np.ndarray, first_seed: int) -> pd.DataFrame:
    """A plan (:data:`cxraug.cores.core.PLAN_COLUMNS`) of one study and one view per row.

    Parameters
    ----------
    texts : (m,) label text. asked : (m) rows of :func:`cxraug.balance.attributes.asked_attributes`.
    wanted : (m,) the class or finding each row is for.
    first_seed : rows have the seeds from here on, and prompt ids made of them.
    """
    seeds = first_seed + np.arange(len(texts), dtype=np.int64)
    return pd.DataFrame(
        {
            "prompt_id": [f"over-{seed:010d}" for seed in seeds],
            "labels": texts,
            **{name: asked[name].to_numpy() for name in ("sex", "age", "race", "source")},
            "views": asked["view"].to_numpy(),
            "wants_report": False,
            "seed": seeds,
            "reason": [f"over-sampling of {name}" for name in wanted],
        }
    )


def draw_images(
    core: GenerativeCore, plan: pd.DataFrame, side: int | None
) -> tuple[np.ndarray, list[str], list[Prompt]]:
    """The images of ``plan``, the SHA-256 of their pixels as the core made them, and the prompts.

    ``side`` is the side of the images returned, (m, side, side) uint8; None keeps the core's resolution.
    """
    prompts, seeds = prompts_from_plan(plan, core.card.findings), plan["seed"].tolist()
    for prompt in prompts:
        core.refuse(prompt)  # all of them, before time is spent on the first
    size = side or core.card.resolution
    images, digests = np.empty((len(prompts), size, size), np.uint8), []
    step = BATCHES * core.batch_size  # a multiple, so that bytes do not depend on it
    for start in range(0, len(prompts), step):
        part = prompts[start : start + step]
        studies = core.generate(part, seeds[start : start + step])
        for at, (prompt, study) in enumerate(zip(part, studies, strict=True), start):
            pixels = study.images.get(prompt.views[0])
            if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2:
                raise WorkError(f"core {core.card.name} returned no uint8 image for prompt {prompt.prompt_id}")
            digests.append(pixel_sha256(pixels))
            same = pixels.shape == (size, size)
            images[at] = pixels if same else encode(pixels, Encoding(size=size, fit="stretch"))
    return images, digests, prompts


@dataclass(frozen=True)
class WrittenImages:
    """A generated set of a plan: the set's folder, and of each plan row the file, its SHA-256, seed, draw and prompt.

    ``judged`` is what the gate found, where there was one.
    """

    folder: Path
    files: list[Path]
    digests: list[str]
    seeds: list[int]
    draws: list[int]
    prompts: list[Prompt]
    judged: Judged | None

    def pixels(self, size: int) -> np.ndarray:
        """The images, uint8 (m, size, size)."""
        return np.stack([encode(read_pixels(file), Encoding(size=size, fit="stretch")) for file in self.files])


def write_images(core: GenerativeCore, plan: pd.DataFrame, out: str, gate: SamplingGate | None = None) -> WrittenImages:
    """Write the images of ``plan`` as a generated set into ``out``, judged and drawn again by ``gate``.

    ``{work}`` in ``out`` becomes the digest of plan, core and gate, so that each fold of a cross-validation has a
    folder of its own. What an earlier call with the same plan and core finished is not made again.

    Raises :class:`SamplingError` for a folder that cannot be written or holds the work of another call.
    """
    from cxraug.synthesis.generate import first_draw, generate_set
    from cxraug.synthesis.provenance import core_facts

    prompts = prompts_from_plan(plan, core.card.findings)
    content = [core_facts(core), [prompt_fields(prompt) for prompt in prompts], plan["seed"].tolist()]
    if gate is not None:
        content.append(gate.settings.model_dump())
    folder = Path(out.replace(WORK, digest(content)[:16]))
    for prompt in prompts:
        core.refuse(prompt)  # before there is a folder
    with _locked(folder):  # candidates of a search that differ in the classifier alone share a set
        try:
            generate_set(plan, core, folder)
        except InputError as error:
            if error.file != folder or WORK in out:
                raise
            problem = str(error).partition("; expected ")[0]
            raise SamplingError(problem, expected=f"another out, or {WORK} in its name, a folder per fold") from error
        judged = None if gate is None else gate.judge(folder, core)
    lines = first_draw(folder) if judged is None else judged.lines
    return WrittenImages(
        folder, [folder / line["image"] for line in lines], [line["sha256"] for line in lines],
        [line["seed"] for line in lines], [line["draw"] for line in lines], prompts, judged,
    )  # fmt: skip


def _locked(folder: Path) -> AbstractContextManager[object]:
    """The folder of one call at a time; made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / LOCK).acquire()
    except OSError as error:
        raise SamplingError("out cannot be written", file=folder, found=error.strerror, expected="a folder") from error


def provenance_frame(
    core: GenerativeCore, plan: pd.DataFrame, prompts: Sequence[Prompt], digests: Sequence[str], wanted: np.ndarray,
    donors: np.ndarray, first_row: int, draws: Sequence[int] | int = 0,
) -> pd.DataFrame:  # fmt: skip
    """One row per synthetic image, its index the row of the resampled X: columns ``PROVENANCE``."""
    card = core.card
    return pd.DataFrame(
        {
            **{name: plan[name].to_numpy() for name in ("prompt_id", "labels", "sex", "age", "race", "source", "seed")},
            "view": plan["views"].to_numpy(),
            "drawn_for": wanted,
            "donor": donors,
            "draw": draws,
            "core": card.name,
            "core_version": card.version,
            "core_sha256": card.sha256,
            "sha256": list(digests),
            "prompt": [json.dumps(prompt_fields(prompt), sort_keys=True) for prompt in prompts],
        },
        index=pd.RangeIndex(first_row, first_row + len(plan)),
        columns=list(PROVENANCE),
    )
