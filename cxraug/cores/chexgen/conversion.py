"""A checkpoint of ChexGen written once in diffusers' layout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from pydantic import ValidationError
from torch import Tensor

from cxraug import __version__
from cxraug.cores.checkpoint.reading import read_checkpoint, state_dict
from cxraug.cores.checkpoint.shards import LIMIT, write_shards
from cxraug.cores.chexgen.layout import (
    BASE,
    POSITION_SCALE,
    Sizes,
    mapped,
    number_of_heads,
    read_sizes,
    transformer_config,
)
from cxraug.cores.chexgen.network import EMBEDDINGS, STEM
from cxraug.cores.chexgen.settings import ChexGenSettings
from cxraug.cores.core import Card
from cxraug.cores.given import given_sha256
from cxraug.errors import InputError
from cxraug.evaluation.report_terms import TERMS
from cxraug.progress import track
from cxraug.storage import digest, read_json, write_json
from cxraug.studies.seen import Seen

CARD = "card.json"
ENTRY = "state_dict_ema"  # the averaged weights, which are the ones to sample from
FOLDERS = ("transformer", "control")
VIEWS = ("PA", "AP", "Lateral")
RACES = ("Asian", "Black", "White")  # those that the published examples of captions name
CONDITIONS = ("views", "findings", "sex", "age", "race", "report", "severity")
LICENCE = "Apache-2.0 code; weights: see their source"
TRAINED_ON = (
    "about 960,000 radiograph-report pairs of public data sets, MIMIC-CXR among them (Ji et al., NEJM AI 2026, "
    "arXiv 2509.03903); which patients is not published with the weights"
)
DRIFT = 0.05  # of the stored positions from their formula, root mean square


def convert_chexgen(source: Path, folder: Path, *, heads: int | None = None, limit: int = LIMIT) -> Card:
    """Write the averaged weights of the checkpoint ``source`` as a core in ``folder``; nothing is done twice.

    ``folder/transformer`` opens in diffusers by itself; ``embeddings.safetensors`` holds what its module has no key
    for: the stored positions and the null caption; ``folder/control`` holds the copied blocks of the control variant.
    The card is written last, so that an interrupted conversion looks like none, and starts over. Other folders there
    (``t5``, ``vae``) are left alone. Not more than a shard of ``limit`` bytes is in memory at once.

    Parameters
    ----------
    heads : number of attention heads; by default hidden width / 72, as in the published model.

    Raises
    ------
    InputError
        For a checkpoint that is not exactly of the layout (the key is named), and where ``heads`` cannot be told.
    """
    saved, held = read_checkpoint(source), read_held_card(folder)
    origin = {"file": source.name, "sha256": given_sha256(source)}
    if held is not None and held.settings["source"] == origin and held.sha256 == weights_sha256(folder) \
            and heads in (None, held.settings["network"]["heads"]):  # fmt: skip
        return held
    found = state_dict(saved, source, ENTRY)
    network = read_sizes(found, source)
    heads = number_of_heads(network, heads, source)
    if network.control:
        _check_positions(found[BASE + "pos_embed"], network, source)
    print(f"converting {source} to {folder} (once)", file=sys.stderr, flush=True)
    (folder / CARD).unlink(missing_ok=True)
    for part in FOLDERS:
        shutil.rmtree(folder / part, ignore_errors=True)
    write_json(folder / "transformer" / "config.json", _config(network, heads))
    tensors = _tracked(found, "transformer")
    write_shards(folder / "transformer", tensors, stem=STEM, limit=limit)
    write_shards(folder, mapped(found, "embeddings"), stem=Path(EMBEDDINGS).stem, limit=1 << 40)
    if network.control:
        write_shards(folder / "control", _tracked(found, "control"), stem=STEM, limit=limit)
    card = _card(source.stem, network, heads, origin, weights_sha256(folder))
    write_json(folder / CARD, card.model_dump(mode="json"))
    return card


def read_held_card(folder: Path) -> Card | None:
    """The card of a converted folder, None where there is none; an :class:`InputError` for one of another kind."""
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        card = Card.model_validate(read_json(path))
        kind, known = card.kind, card.settings["network"]["heads"] and card.settings["source"]["sha256"]
    except (ValidationError, KeyError, TypeError):
        kind, known = "another program", None
    if kind != "chexgen" or not known:
        raise InputError("the folder holds a core of another kind", file=path, found=kind, expected="chexgen")
    return card


def weights_sha256(folder: Path) -> str:
    """Digest of the converted weights and of how their network is built."""
    paths = [folder / EMBEDDINGS, *(p for part in FOLDERS for p in sorted((folder / part).glob("*")))]
    return digest({str(p.relative_to(folder)): given_sha256(p) for p in paths if p.is_file()})


def _tracked(found: Mapping[str, Tensor], part: str) -> Iterator[tuple[str, Tensor]]:
    return track(mapped(found, part), f"converting ({part})")


def _config(network: Sizes, heads: int) -> dict[str, Any]:
    with torch.device("meta"):
        model: Any = PixArtTransformer2DModel(**transformer_config(network, heads))
    known = {name: value for name, value in model.config.items() if not name.startswith("_")}
    return {"_class_name": "PixArtTransformer2DModel", **known}


def _check_positions(stored: Tensor, network: Sizes, source: Path) -> None:
    """The control variant computes positions by the formula too: the stored ones must be about those."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    grid = network.side // network.patch
    formula = get_2d_sincos_pos_embed(network.hidden, grid, base_size=grid, interpolation_scale=POSITION_SCALE,
                                      output_type="pt")  # fmt: skip
    drift = float((stored[0].float() - formula.float()).pow(2).mean().sqrt())
    if not drift < DRIFT:
        raise InputError(f"key {BASE}pos_embed is not the sin-cos table of the published model", file=source,
                         found=f"a distance of {drift:.3f}", expected=f"below {DRIFT}")  # fmt: skip


def _card(name: str, network: Sizes, heads: int, origin: dict[str, str], sha256: str) -> Card:
    return Card(
        name=name, version=__version__, kind="chexgen", sha256=sha256, resolution=8 * network.side, views=list(VIEWS),
        findings=list(TERMS), conditions=[*CONDITIONS, *(("mask", "boxes") if network.control else ())],
        licence=LICENCE, training_data={"description": TRAINED_ON}, races=list(RACES),
        seen=Seen.of([], [], key=origin["sha256"][:32]).to_json(),
        settings={"chexgen": ChexGenSettings().model_dump(), "source": origin,
                  "network": {**asdict(network), "heads": heads}},
    )  # fmt: skip
