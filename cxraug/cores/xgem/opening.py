"""Cores named ``xgem:PATH``: opened from a checkpoint, which is converted once, or from a converted folder."""

from __future__ import annotations

from pathlib import Path

from cxraug.cores.core import Card
from cxraug.cores.registry import CARD, read_card
from cxraug.cores.spec import CoreSpec
from cxraug.cores.xgem.conversion import TOKENIZERS, check_files, convert_xgem, describe_xgem
from cxraug.cores.xgem.core import Caption, XGeMCore
from cxraug.cores.xgem.tokens import Tokenizers
from cxraug.errors import InputError


def open_xgem(spec: CoreSpec, *, captions: Caption, device: str = "cpu") -> XGeMCore:
    """Open ``xgem:PATH``: a converted folder, or a checkpoint, converted once into ``<stem>-converted`` beside it.

    ``+tokenizers:DIR`` names the folder of the tokenizers (default: ``tokenizers`` in the converted one),
    ``+findings:A|B`` the findings that captions may name. Parts are opened when they are first needed.

    Raises :class:`InputError` for a checkpoint of another layout, weights that are not those of the card, and missing
    tokenizers.
    """
    path, folder = Path(spec.path), _folder(spec)
    card = _read_folder(folder) if path.is_dir() else convert_xgem(path, folder)
    check_files(folder, card)
    tokenizers = find_tokenizers(spec)
    tokenizers.check()
    return XGeMCore(_as_asked(card, spec), folder, captions=captions, tokenizers=tokenizers.folder, device=device)


def find_tokenizers(spec: CoreSpec) -> Tokenizers:
    """The tokenizers that ``xgem:PATH`` reads and writes with; whether they are there says their ``check``."""
    named = spec.options.get("tokenizers")
    return Tokenizers(_folder(spec) / TOKENIZERS if named is None else Path(named))


def read_xgem_card(spec: CoreSpec) -> Card:
    """The card of ``xgem:PATH``; of a checkpoint that was not converted yet, what it will be. No weights are loaded."""
    path, folder = Path(spec.path), _folder(spec)
    return _as_asked(_read_folder(folder) if path.is_dir() else describe_xgem(path, folder), spec)


def _folder(spec: CoreSpec) -> Path:
    path = Path(spec.path)
    return path if path.is_dir() else converted_folder(path)


def converted_folder(source: Path) -> Path:
    """Where a checkpoint is converted to."""
    return source.with_name(f"{source.stem}-converted")


def _read_folder(folder: Path) -> Card:
    if not (folder / CARD).is_file():
        raise InputError("not a converted XGeM", file=folder, expected=f"{CARD}, as a finished conversion leaves it")
    card = read_card(folder)
    if card.kind != "xgem":
        raise InputError("a core of another kind", file=folder / CARD, found=card.kind, expected="xgem")
    return card


def _as_asked(card: Card, spec: CoreSpec) -> Card:
    findings = spec.options.get("findings")
    return card if findings is None else card.model_copy(update={"findings": findings.split("|")})
