"""The unit of work: a fixed run of consecutive prompts, whole or absent.

A unit's images are written first and its record last, by renaming. A unit counts as done when its record is that of the
same work and every image it lists has the recorded bytes, so a run that was killed anywhere goes on without trace.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxraug.cores.core import GenerativeCore, Prompt, Study
from cxraug.errors import WorkError
from cxraug.storage import atomic, digest, file_sha256
from cxraug.synthesis.prompts import prompt_fields
from cxraug.synthesis.provenance import core_facts, environment, provenance_line

IMAGES, UNITS = "images", "units"


@dataclass(frozen=True)
class Unit:
    """Prompts of one unit with their places in the plan; ``draw`` 0 is the first try, more are re-draws."""

    number: int
    draw: int
    places: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]

    @property
    def record(self) -> str:
        """The record's path inside the set."""
        return f"{UNITS}/draw-{self.draw}-{self.number:06d}.jsonl"

    def key(self, core: GenerativeCore) -> str:
        """Digest of everything that decides the bytes: prompts, seeds, draw, core and sampler."""
        prompts = [prompt_fields(prompt) for prompt in self.prompts]
        return digest([core_facts(core), self.draw, list(self.places), prompts, list(self.seeds)])


def cut(
    prompts: Sequence[Prompt], seeds: Sequence[int], size: int, *, draw: int = 0, places: Sequence[int] | None = None
) -> list[Unit]:
    """Cut prompts into units of ``size`` (the last may be shorter; the core pads it to its batch shape)."""
    places = range(len(prompts)) if places is None else places
    return [
        Unit(
            number,
            draw,
            tuple(places[start : start + size]),
            tuple(prompts[start : start + size]),
            tuple(seeds[start : start + size]),
        )
        for number, start in enumerate(range(0, len(prompts), size))
    ]


def read_record(unit: Unit, core: GenerativeCore, folder: Path) -> list[dict[str, Any]] | None:
    """The provenance lines of a finished unit, or None where it has to be (re)made."""
    try:
        head, *lines = [json.loads(line) for line in (folder / unit.record).read_text().splitlines()]
        if head["key"] != unit.key(core) or head["lines"] != len(lines):
            return None
        whole = all(file_sha256(folder / line["image"]) == line["sha256"] for line in lines)
    except (OSError, ValueError, KeyError, TypeError):  # absent, torn or foreign: make it again
        return None
    return lines if whole else None


def make_unit(unit: Unit, core: GenerativeCore, folder: Path) -> list[dict[str, Any]]:
    """Generate a unit, write its images and then its record; returns the provenance lines.

    Raises
    ------
    WorkError : disk full, or a core that does not return the views asked for as uint8 pixels.
    """
    facts = {**core_facts(core), **environment(core)}
    lines = []
    with disk_full_is_work_error(folder):
        studies = core.generate(unit.prompts, unit.seeds)
        for place, prompt, seed, study in zip(unit.places, unit.prompts, unit.seeds, studies, strict=True):
            _check_study(study, prompt, core)
            for view in prompt.views:
                image = image_path(prompt.prompt_id, view, unit.draw)
                lines.append(
                    provenance_line(
                        index=place,
                        prompt=prompt,
                        view=view,
                        seed=seed,
                        draw=unit.draw,
                        image=image,
                        sha256=write_png(folder / image, study.images[view]),
                        report=study.report,
                        boxes=study.boxes.get(view),
                        facts=facts,
                    )
                )
        head = {"key": unit.key(core), "lines": len(lines)}
        write_lines(folder / unit.record, [head, *lines])
    return lines


def image_path(prompt_id: str, view: str, draw: int) -> str:
    """Where an image lies inside the set; a re-draw never overwrites an earlier draw."""
    again = f"-draw{draw}" if draw else ""
    return f"{IMAGES}/{prompt_id}-{view.replace(' ', '_')}{again}.png"


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write JSON lines with sorted keys, atomically."""
    with atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


@contextmanager
def disk_full_is_work_error(folder: Path) -> Iterator[None]:
    """Turn "no space left" from any file operation inside into a :class:`WorkError` (exit code 1)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkError(f"{folder}: disk full; what was finished stays, run again to go on") from error
        raise


def write_png(path: Path, pixels: np.ndarray) -> str:
    """Write 8-bit grey pixels without any metadata; returns the SHA-256 of the file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _check_study(study: Study, prompt: Prompt, core: GenerativeCore) -> None:
    if set(study.images) != set(prompt.views):
        raise WorkError(
            f"core {core.card.name} returned the views {sorted(study.images)} for prompt {prompt.prompt_id}, "
            f"which asks for {sorted(prompt.views)}"
        )
    for view, pixels in study.images.items():
        if pixels.dtype != np.uint8 or pixels.ndim != 2:
            raise WorkError(
                f"core {core.card.name} returned {view} as {pixels.dtype} of shape {pixels.shape} for prompt "
                f"{prompt.prompt_id}; the contract is uint8 (H, W)"
            )
