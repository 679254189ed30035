"""Cores by name: the shipped ones, and folders of trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cxraug.cores.core import Card, GenerativeCore
from cxraug.cores.spec import OPTIONS, CoreSpec, parse_spec
from cxraug.errors import InputError, first_problem
from cxraug.storage import read_json, write_json

SHIPPED = Path(__file__).with_name("weights")
CARD, WEIGHTS = "card.json", "model.safetensors"
CAPTIONS = {"chexgen": "chexgen", "xgem": "{impression}"}  # how captions are written unless +prompt: says


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
    if parse_spec(str(name)) is not None:
        raise InputError("a core of another program has no folder of its own", found=str(name),
                         expected="a shipped core's name, or a folder of `cxraug core train`")  # fmt: skip
    if str(name) in {folder.name for folder in SHIPPED.iterdir() if (folder / CARD).is_file()}:
        return SHIPPED / str(name)
    if (Path(name) / CARD).is_file():
        return Path(name)
    known = [card.name for card in list_cores()]
    kinds = ", ".join(f"{kind}:PATH" for kind in OPTIONS)
    expected = f"one of {', '.join(known)}, a folder with {CARD}, or {kinds}"
    if str(name) == "gaussian":  # a recipe of `cxraug run` may say so
        expected += "; gaussian is fitted to data, by `cxraug run` or by `cxraug core train` (core: {kind: gaussian})"
    raise InputError("no such core", found=str(name), expected=expected)


def read_card(name: str | Path) -> Card:
    """Read a core's card without loading its weights."""
    spec = parse_spec(str(name))
    if spec is not None:
        return _read_foreign_card(spec)
    path = find_core(name) / CARD
    try:
        return Card.model_validate(read_json(path))
    except ValidationError as error:
        raise InputError(f"not a core's card: {': '.join(first_problem(error))}", file=path) from None


def write_sampler(name: str | Path, **settings: Any) -> None:
    """Make sampler settings the default of the core in folder ``name``; its weights and their hash stay."""
    folder, card = find_core(name), read_card(name)
    kind = "diffusers" if card.kind == "lora" else card.kind  # adapters are asked as the pipeline below them
    changed = card.model_copy(update={"settings": {**card.settings, kind: {**card.settings[kind], **settings}}})
    write_json(folder / CARD, changed.model_dump(mode="json"))


def open_core(name: str | Path, *, device: str = "cpu", overrides: dict[str, Any] | None = None) -> GenerativeCore:
    """Open a core for generation.

    Parameters
    ----------
    name : a shipped core's name, the folder of a trained one, or KIND:PATH of a core of another program
        (:mod:`cxraug.cores.spec`).
    device : where to compute, e.g. ``cuda``.
    overrides : sampler settings in place of the card's, e.g. ``{"guidance": 2.0, "sampler_steps": 20}``.
    """
    spec = parse_spec(str(name))
    if spec is not None:
        core = _open_foreign(spec, device)
        core.configure(**(overrides or {}))
        return core
    folder, card = find_core(name), read_card(name)
    if card.kind == "gaussian":
        from cxraug.cores.gaussian import load_gaussian

        core = load_gaussian(folder, card, device=device)
    elif card.kind == "diffusion":
        from cxraug.cores.diffusion.core import load_diffusion

        core = load_diffusion(folder, card, device=device)
    elif card.kind == "multiprompt":
        from cxraug.cores.multiprompt.core import load_multiprompt

        core = load_multiprompt(folder, card, device=device)
    elif card.kind == "lora":
        from cxraug.cores.pipelines.tuning import open_tuned

        core = open_tuned(folder, card, device=device)
    else:
        expected = "gaussian, diffusion, multiprompt or lora"
        raise InputError("unknown kind of core", file=folder / CARD, found=card.kind, expected=expected)
    core.configure(**(overrides or {}))
    return core


def _read_foreign_card(spec: CoreSpec) -> Card:
    if spec.kind == "diffusers":
        from cxraug.cores.pipelines.core import read_diffusers_card

        return read_diffusers_card(spec)
    if spec.kind == "chexgen":
        from cxraug.cores.chexgen.opening import read_chexgen_card

        return _as_told(read_chexgen_card(spec), spec)
    from cxraug.cores.xgem.opening import read_xgem_card

    return _as_told(read_xgem_card(spec), spec)


def _as_told(card: Card, spec: CoreSpec) -> Card:
    """``card`` without what its captions leave out: that cannot be asked for."""
    from cxraug.cores.captions import captions_of

    captions = captions_of(spec, CAPTIONS[spec.kind])
    views = captions.views(spec.options.get("view"), card.views) if spec.kind == "chexgen" else card.views
    return card.model_copy(update={"conditions": captions.conditions(card.conditions), "views": views})


def _open_foreign(spec: CoreSpec, device: str) -> GenerativeCore:
    from cxraug.cores.captions import captions_of

    if spec.kind == "diffusers":
        from cxraug.cores.pipelines.core import open_diffusers

        return open_diffusers(spec, device=device)
    if spec.kind == "chexgen":
        from cxraug.cores.chexgen.opening import open_chexgen

        core: GenerativeCore = open_chexgen(spec, captions=captions_of(spec, CAPTIONS["chexgen"]), device=device)
    else:
        from cxraug.cores.xgem.opening import open_xgem

        core = open_xgem(spec, captions=captions_of(spec, CAPTIONS["xgem"]), device=device)
    core.card = _as_told(core.card, spec)
    return core


def convert_core(source: str, folder: Path) -> Card:
    """Convert ``chexgen:FILE`` or ``xgem:FILE`` into ``folder``; what was converted before is not done again."""
    spec = parse_spec(source)
    if spec is not None and spec.kind == "chexgen":
        from cxraug.cores.chexgen.conversion import convert_chexgen

        return convert_chexgen(Path(spec.path), folder)
    if spec is not None and spec.kind == "xgem":
        from cxraug.cores.xgem.conversion import convert_xgem

        return convert_xgem(Path(spec.path), folder)
    found = source if spec is None else spec.kind
    raise InputError("nothing to convert", found=found, expected="chexgen:FILE or xgem:FILE")
