"""Cores by name: the shipped ones, and folders of trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cxraug.cores.core import Card, GenerativeCore
from cxraug.errors import InputError, first_problem
from cxraug.storage import read_json, write_json

SHIPPED = Path(__file__).with_name("weights")
CARD, WEIGHTS = "card.json", "model.safetensors"


def list_cores() -> list[Card]:
    """The cards of the shipped cores, by name."""
    return [read_card(folder.name) for folder in sorted(SHIPPED.iterdir()) if (folder / CARD).is_file()]


def find_core(name: str | Path) -> Path:
    """The folder of a core: a shipped one by its name, or a folder with a ``card.json``.

    Raises
    ------
    InputError
        If there is no such core; it lists the known names.
    """
    if str(name) in {folder.name for folder in SHIPPED.iterdir() if (folder / CARD).is_file()}:
        return SHIPPED / str(name)
    if (Path(name) / CARD).is_file():
        return Path(name)
    known = [card.name for card in list_cores()]
    raise InputError("no such core", found=str(name), expected=f"one of {', '.join(known)}, or a folder with {CARD}")


def read_card(name: str | Path) -> Card:
    """Read a core's card without loading its weights."""
    path = find_core(name) / CARD
    try:
        return Card.model_validate(read_json(path))
    except ValidationError as error:
        raise InputError(f"not a core's card: {': '.join(first_problem(error))}", file=path) from None


def write_sampler(name: str | Path, **settings: Any) -> None:
    """Make sampler settings the default of the core in folder ``name``; its weights and their hash stay."""
    folder, card = find_core(name), read_card(name)
    kind = card.kind
    changed = card.model_copy(update={"settings": {**card.settings, kind: {**card.settings[kind], **settings}}})
    write_json(folder / CARD, changed.model_dump(mode="json"))


def open_core(name: str | Path, *, device: str = "cpu", overrides: dict[str, Any] | None = None) -> GenerativeCore:
    """Open a core for generation.

    Parameters
    ----------
    name : a shipped core's name, or the folder of a trained one.
    device : where to compute, e.g. ``cuda``.
    overrides : sampler settings in place of the card's, e.g. ``{"guidance": 2.0, "sampler_steps": 20}``.
    """
    folder, card = find_core(name), read_card(name)
    if card.kind == "gaussian":
        from cxraug.cores.gaussian import load_gaussian

        core: GenerativeCore = load_gaussian(folder, card, device=device)
    elif card.kind == "diffusion":
        from cxraug.cores.diffusion.core import load_diffusion

        core = load_diffusion(folder, card, device=device)
    elif card.kind == "multiprompt":
        from cxraug.cores.multiprompt.core import load_multiprompt

        core = load_multiprompt(folder, card, device=device)
    else:
        expected = "gaussian, diffusion or multiprompt"
        raise InputError("unknown kind of core", file=folder / CARD, found=card.kind, expected=expected)
    core.configure(**(overrides or {}))
    return core
