"""Where a synthetic image comes from: everything needed to make the same bytes again."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch

from cxraug import __version__
from cxraug.cores.core import GenerativeCore, Prompt
from cxraug.storage import plain
from cxraug.synthesis.prompts import prompt_fields

PACKAGES = ("torch", "diffusers", "numpy", "pillow")


def core_facts(core: GenerativeCore) -> dict[str, Any]:
    """What decides a core's output: its name, version, weights hash and sampler settings. JSON-ready."""
    card = core.card
    facts = {"core": card.name, "core_version": card.version, "core_sha256": card.sha256, "sampler": dict(core.sampler)}
    return {**plain(facts), "batch_size": int(core.batch_size)}


def environment(core: GenerativeCore) -> dict[str, Any]:
    """Versions, threads, device and dtype. ``deterministic`` is false where equal bytes are not promised.

    The CPU is deterministic at one thread count on one kind of machine; CUDA only with torch's deterministic
    algorithms switched on.
    """
    device = str(getattr(core, "device", "cpu"))
    versions = {"cxraug": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "threads": torch.get_num_threads(),
        "device": device,
        "dtype": str(getattr(core, "dtype", "float32")).removeprefix("torch."),
        "deterministic": device == "cpu" or torch.are_deterministic_algorithms_enabled(),
    }


def provenance_line(
    *, index: int, prompt: Prompt, view: str, seed: int, draw: int, image: str, sha256: str, report: str | None,
    boxes: list[dict[str, Any]] | None, facts: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """One line of ``provenance.jsonl``.

    ``index`` is the prompt's place in the plan, ``draw`` 0 for the first try and more for re-draws, ``sha256`` that of
    the image file's bytes, ``boxes`` where the core itself put findings in it (:class:`Study`), ``facts`` the union of
    :func:`core_facts` and :func:`environment`.
    """
    placed = {} if boxes is None else {"boxes": boxes}
    return {
        "prompt_id": prompt.prompt_id, "index": index, "draw": draw, "view": view, "seed": seed, "image": image,
        "sha256": sha256, "report": report or None, "prompt": prompt_fields(prompt), **placed, **facts,
    }  # fmt: skip
