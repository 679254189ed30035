"""What is known about a generated or swapped set, read from its folder and checked; nothing of the real data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from cxraug.cores.core import Card
from cxraug.cores.registry import list_cores
from cxraug.errors import InputError, first_problem
from cxraug.progress import track
from cxraug.storage import digest, file_sha256, read_json
from cxraug.studies.cache import refuse_missing
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.synthesis.assembly import MANIFEST, PROVENANCE
from cxraug.synthesis.generate import CARD, GATE

SWAP = Path("report") / "swap.json"
LEFT_OUT = "left_out.csv"
PRIVACY = "privacy.json"
GIVEN = ("report", "reference_image", "mask", "boxes")  # of a prompt: what may come from a real patient
STATED = ("core", "core_version", "core_sha256", "device", "dtype", "deterministic")
_WORD = re.compile(r"[A-Za-z0-9 +._-]{1,60}")  # of a sampler's settings: anything else may be a path


@dataclass(frozen=True, eq=False)
class SetFacts:
    """A synthetic set as far as a card tells of it.

    Attributes
    ----------
    manifest : its rows, all of them synthetic.
    swapped : whether its studies stand in for those of a private set.
    core : ``name, version, sha256, licence`` (None: not recorded), ``sampler, device, dtype, deterministic, versions``;
        of the last three every value that occurs in the set.
    gate, swap, privacy : ``gate.json``, ``report/swap.json`` and ``privacy.json``; None where there is none.
    given : how many studies had a report, reference image, mask or boxes in their prompt.
    hashes : file -> SHA-256 (hex) of ``manifest.parquet`` and ``provenance.jsonl``; ``images`` is the digest of all
        images' SHA-256, in the order of the manifest.
    notes : what a reader has to know about the facts themselves.
    """

    manifest: Manifest
    swapped: bool
    core: dict[str, Any]
    gate: dict[str, Any] | None
    swap: dict[str, Any] | None
    privacy: dict[str, Any] | None
    given: dict[str, int]
    hashes: dict[str, str]
    notes: list[str] = field(default_factory=list)


def read_set_facts(
    folder: str | Path, *, privacy: str | Path | None = None, core: Card | None = None
) -> SetFacts:  # fmt: skip
    """Read a finished set and check it: rows synthetic, every image the one that its provenance names.

    Parameters
    ----------
    folder : the set. privacy : ``privacy.json`` or its folder; default one in ``folder`` or ``folder/privacy``.
    core : the card of the core that made the set, where the set itself has none (a swapped set).

    Raises
    ------
    InputError
        No finished set, a row that is not synthetic, an image that is missing, leads elsewhere or is not the one that
        was made, a core, gate or audit of another set.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file() or not (folder / PROVENANCE).is_file():
        raise InputError("not a finished generated or swapped set", file=folder,
                         expected=f"a folder with {MANIFEST} and {PROVENANCE}")  # fmt: skip
    manifest = read_manifest(folder / MANIFEST)
    _refuse_real(manifest)
    lines = _lines(manifest, folder / PROVENANCE)
    images = _checked_images(manifest, lines)
    swapped = (folder / LEFT_OUT).is_file()
    notes: list[str] = []
    hashes = {name: file_sha256(folder / name) for name in (MANIFEST, PROVENANCE)}
    return SetFacts(
        manifest, swapped, _core(lines, folder, core), _gate(manifest, folder),
        _swap(manifest, lines, folder) if swapped else None, _privacy(manifest, folder, privacy, notes),
        _given(lines), {**hashes, "images": digest(images)}, notes,
    )  # fmt: skip


def accepted_rows(manifest: Manifest) -> np.ndarray:
    """(n,) bool: the rows that the gate did not reject; all of them where there was no gate."""
    if "gate" not in manifest.frame:
        return np.ones(len(manifest), bool)
    return (manifest.frame["gate"] != "reject").to_numpy(bool)


def _refuse_real(manifest: Manifest) -> None:
    frame = manifest.frame
    synthetic = frame["synthetic"].to_numpy(bool) if "synthetic" in frame else np.zeros(len(frame), bool)
    if not synthetic.all():
        raise InputError("a row that is not synthetic: cards are for generated and swapped sets", file=manifest.file,
                         row=int(np.flatnonzero(~synthetic)[0]) + 2, column="synthetic", expected="True")  # fmt: skip


def _lines(manifest: Manifest, path: Path) -> list[dict[str, Any]]:
    """The provenance of each row, in the order of the manifest."""
    found: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            line = json.loads(text)
            found[str(line["image"])] = line
        except (ValueError, RecursionError, KeyError, TypeError):
            raise InputError("not a line of provenance", file=path, row=number) from None
    missing = [image for image in manifest.frame["image"] if image not in found]
    if missing:
        raise InputError("an image without provenance", file=path, found=missing[0], expected="a line for every image")
    return [found[image] for image in manifest.frame["image"]]


def _checked_images(manifest: Manifest, lines: list[dict[str, Any]]) -> list[str]:
    """The SHA-256 of each image, which must be the one that provenance has."""
    refuse_missing(manifest)
    found = []
    for path, line in track(list(zip(manifest.paths(), lines, strict=True)), "checking images"):
        sha256 = file_sha256(path)
        if sha256 != line.get("sha256"):
            raise InputError("this image is not the one that was made", file=path, found=sha256[:12],
                             expected=str(line.get("sha256"))[:12])  # fmt: skip
        found.append(sha256)
    return found


def _core(lines: list[dict[str, Any]], folder: Path, given: Card | None) -> dict[str, Any]:
    first = lines[0]
    for name in ("core", "core_sha256"):
        if any(line.get(name) != first.get(name) for line in lines):
            raise InputError(f"several values of {name} in one set", file=folder / PROVENANCE, expected="one core")
    sha256 = str(first.get("core_sha256"))
    card = given or _card_of(folder) or next((card for card in list_cores() if card.sha256 == sha256), None)
    if card is not None and card.sha256 != sha256:
        raise InputError(f"core {card.name} is not the one that made this set", file=folder, found=card.sha256[:12],
                         expected=sha256[:12])  # fmt: skip
    return {
        "name": Path(str(first.get("core"))).name, "version": str(first.get("core_version", "")), "sha256": sha256,
        "licence": None if card is None else card.licence,
        "sampler": {str(k): v for k, v in dict(first.get("sampler") or {}).items() if _harmless(v)},
        **{name: _values(lines, name) for name in ("device", "dtype", "deterministic")},
        "versions": {str(k): str(v) for k, v in dict(first.get("versions") or {}).items()},
    }  # fmt: skip


def _card_of(folder: Path) -> Card | None:
    if not (folder / CARD).is_file():
        return None
    try:
        return Card.model_validate(read_json(folder / CARD))
    except ValidationError as error:
        raise InputError(f"not a core's card: {': '.join(first_problem(error))}", file=folder / CARD) from None


def _values(lines: list[dict[str, Any]], name: str) -> list[Any]:
    return sorted({str(line.get(name)) for line in lines})


def _harmless(value: object) -> bool:
    """Whether a sampler's setting is a number or a word, and so no path of the machine."""
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and _WORD.fullmatch(value) is not None)


def _gate(manifest: Manifest, folder: Path) -> dict[str, Any] | None:
    if not (folder / GATE).is_file():
        return None
    gate = read_json(folder / GATE)
    here = {"total": len(manifest), "accepted": int(accepted_rows(manifest).sum())}
    if not isinstance(gate, dict) or any(gate.get(name) != count for name, count in here.items()):
        raise InputError("gate.json is about other rows than the manifest's", file=folder / GATE, expected=str(here))
    return gate


def _swap(manifest: Manifest, lines: list[dict[str, Any]], folder: Path) -> dict[str, Any] | None:
    if not (folder / SWAP).is_file():
        return None
    swap = read_json(folder / SWAP)
    core = swap.get("core") if isinstance(swap, dict) else None
    if not isinstance(core, dict) or (swap.get("images"), core.get("core_sha256")) != (
        len(manifest), lines[0].get("core_sha256"),
    ):  # fmt: skip
        raise InputError("swap.json is about another set", file=folder / SWAP, expected="the report of this swap")
    return swap


def _privacy(manifest: Manifest, folder: Path, named: str | Path | None, notes: list[str]) -> dict[str, Any] | None:
    """The audit of this very set; one of another state of it is refused where it was named, and told of otherwise."""
    places = (
        [Path(named), Path(named) / PRIVACY] if named is not None else [folder / PRIVACY, folder / "privacy" / PRIVACY]
    )
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        if named is not None:
            raise InputError("no audit of privacy here", file=named, expected=f"{PRIVACY} of `cxraug privacy`")
        return None
    found = read_json(path)
    states = {manifest.digest(), manifest.take(accepted_rows(manifest)).digest()}
    digests = found.get("digests") if isinstance(found, dict) else None
    if not isinstance(digests, dict):
        raise InputError("not an audit of privacy", file=path, expected=f"{PRIVACY} of `cxraug privacy`")
    if digests.get("synthetic") in states:
        return dict(found)
    if named is not None:
        raise InputError("this audit is about other rows", file=path, expected="`cxraug privacy` of the set as it is")
    notes.append("An audit of another state of this set was found and is not shown: attack the set as it is.")
    return None


def _given(lines: list[dict[str, Any]]) -> dict[str, int]:
    prompts: Mapping[str, dict[str, Any]] = {str(line["prompt_id"]): dict(line.get("prompt") or {}) for line in lines}
    return {name: count for name in GIVEN if (count := sum(bool(prompt.get(name)) for prompt in prompts.values()))}
