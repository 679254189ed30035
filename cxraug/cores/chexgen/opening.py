"""Opening ``chexgen:FILE``: the checkpoint is converted once, T5 and the autoencoder are found beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from cxraug.cores.chexgen.conversion import CARD, convert_chexgen, read_held_card, weights_sha256
from cxraug.cores.chexgen.core import Captions, ChexGenCore
from cxraug.cores.chexgen.layout import CHANNELS
from cxraug.cores.chexgen.network import load_network
from cxraug.cores.chexgen.text import load_text_encoder
from cxraug.cores.core import VIEWS, Card
from cxraug.cores.given import given_sha256
from cxraug.cores.pipelines.opening import check_component
from cxraug.cores.spec import CoreSpec
from cxraug.errors import InputError
from cxraug.storage import digest

WEIGHTS = "*.safetensors|*.bin"
NEEDED = {  # option -> what it is, its source, and the files of which at least one each must be there
    "t5": ("T5 encoder", "DeepFloyd/t5-v1_1-xxl", ("config.json", WEIGHTS, "tokenizer.json|spiece.model")),
    "vae": ("autoencoder", "stabilityai/sd-vae-ft-ema", ("config.json", WEIGHTS)),
}


def open_chexgen(
    spec: CoreSpec, *, captions: Captions, device: str = "cpu", heads: int | None = None
) -> ChexGenCore:  # fmt: skip
    """Open a checkpoint (``.pth``) or a converted folder, with the folders ``+t5:`` and ``+vae:``.

    By default these are ``t5`` and ``vae`` in the converted folder or beside the checkpoint.

    Raises
    ------
    InputError
        That names what is missing, where it was looked for and where to put it, before anything is computed; and as
        :func:`convert_chexgen` does.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    parts = {option: find_part(spec, option) for option in NEEDED}
    card = read_chexgen_card(spec, heads=heads)
    folder, network = converted_folder(spec), card.settings["network"]
    if weights_sha256(folder) != card.sha256:
        raise InputError("weights are not those of card.json", file=folder, expected=f"sha256 {card.sha256}")
    vae = _load_autoencoder(parts["vae"], card)
    text = load_text_encoder(parts["t5"], tokens=network["tokens"], width=network["text"], device=device)
    made_with = {option: _files_sha256(part) for option, part in parts.items()}
    return ChexGenCore(card, load_network(folder, network["control"]), text, vae, captions, made_with=made_with,
                       device=device)  # fmt: skip


def read_chexgen_card(spec: CoreSpec, *, heads: int | None = None) -> Card:
    """The card, without loading weights; a checkpoint is converted first. ``+view:`` and ``+findings:`` narrow it."""
    path = _existing(spec)
    card = convert_chexgen(path, converted_folder(spec), heads=heads) if path.is_file() else read_held_card(path)
    if card is None:
        raise InputError("not a converted checkpoint of ChexGen, or its conversion was interrupted", file=path / CARD,
                         expected="the checkpoint, to convert it again")  # fmt: skip
    changed = {what: spec.options[option].split("|") for option, what in (("view", "views"), ("findings", "findings"))
               if option in spec.options}  # fmt: skip
    for view in changed.get("views", []):
        if view not in VIEWS:
            raise InputError("+view: not a view", found=view, expected="|".join(VIEWS))
    return card.model_copy(update=changed)


def converted_folder(spec: CoreSpec) -> Path:
    """Where a checkpoint is converted to: STEM-converted beside it; a folder is itself."""
    path = Path(spec.path)
    return path if path.is_dir() else path.with_name(f"{path.stem}-converted")


def find_part(spec: CoreSpec, option: str) -> Path:
    """The folder of the text encoder (``t5``) or the autoencoder (``vae``)."""
    path, (what, source, files) = _existing(spec), NEEDED[option]
    folder = converted_folder(spec)
    named = spec.options.get(option)
    places = [Path(named)] if named else [folder / option, path.parent / option]
    place = next((p for p in places if p.is_dir()), None)
    if place is None:
        looked = " and ".join(map(str, places))
        raise InputError(f"core {path.name} needs the {what} {source}, which is not here: looked in {looked}",
                         expected=f"its files in {path.parent / option}, or +{option}:DIR")  # fmt: skip
    for wanted in files:
        if not any(True for pattern in wanted.split("|") for _ in place.glob(pattern)):
            raise InputError(f"the {what} {source} is not whole: no {wanted.replace('|', ' or ')}", file=place,
                             expected=f"all files of {source}")  # fmt: skip
    return place


def _existing(spec: CoreSpec) -> Path:
    path = Path(spec.path)
    if not path.exists():
        raise InputError("no such checkpoint", file=path, expected="a .pth of ChexGen, or a converted folder")
    return path


def _files_sha256(folder: Path) -> str:
    return digest({path.name: given_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()})


def _load_autoencoder(folder: Path, card: Card) -> Any:
    from diffusers import AutoencoderKL

    check_component(folder, "diffusers", "AutoencoderKL")
    try:
        vae = AutoencoderKL.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"not an autoencoder of diffusers ({line})", file=folder) from None
    side = card.settings["network"]["side"]
    found = (vae.config.latent_channels, side * 2 ** (len(vae.config.block_out_channels) - 1))
    if found != (CHANNELS, card.resolution):
        raise InputError("an autoencoder of another shape", file=folder,
                         found=f"{found[0]} channels, {found[1]} pixels",
                         expected=f"{CHANNELS} channels, {card.resolution} pixels")  # fmt: skip
    return vae
