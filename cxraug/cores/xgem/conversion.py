"""Conversion of an XGeM checkpoint into a folder of diffusers and transformers parts, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxraug import __version__
from cxraug.cores.checkpoint.layout import check_layout
from cxraug.cores.checkpoint.reading import read_checkpoint, state_dict
from cxraug.cores.checkpoint.shards import LIMIT, write_shards
from cxraug.cores.core import Card
from cxraug.cores.registry import CARD, read_card
from cxraug.cores.xgem.files import configs
from cxraug.cores.xgem.layout import TIED, expected_layout, is_buffer, is_unused
from cxraug.cores.xgem.mapping import PARTS, Target, Targets
from cxraug.cores.xgem.recognition import UNETS, read_sizes
from cxraug.cores.xgem.sampler import scheduler
from cxraug.cores.xgem.settings import XGeMSettings
from cxraug.cores.xgem.sizes import Published, XGeMSizes
from cxraug.errors import InputError
from cxraug.evaluation.report_terms import TERMS
from cxraug.storage import file_sha256, plain, write_json
from cxraug.studies.seen import Seen

UNFINISHED, TOKENIZERS = "unfinished", "tokenizers"
VIEWS = ("PA", "Lateral")  # frontal and lateral
CONDITIONS = ("views", "findings", "sex", "age", "race", "report", "reference_image", "severity")
RACES = ("White", "Black", "Asian", "Hispanic", "Other")
LICENCE = "MIT (code of XGeM); the weights as their source says"


def convert_xgem(source: Path, folder: Path, *, published: Published | None = None, limit: int = LIMIT) -> Card:
    """Write the parts of ``source`` and, last, ``card.json`` into ``folder``; return the card.

    Tensors are mapped from the file and written shard by shard in their own type. A folder whose card names the same
    source and whose files are as they were written is left alone; any other loses its card first, so that one whose
    conversion was interrupted is no core.

    Parameters
    ----------
    source : the checkpoint, a flat state dict of the class MedCoDi_M.
    folder : of the core; a ``tokenizers`` folder in it is not touched.
    published : what tensors do not show, by default as in the published model.
    limit : bytes of a shard.

    Raises
    ------
    InputError
        For a file that is not exactly an XGeM checkpoint, by the name of the key; for a folder that holds other things.
    """
    source, folder = Path(source), Path(folder)
    done = _converted(source, folder, published)
    if done is not None:
        return done
    tensors, sizes = read_source(source, published or Published())
    targets = Targets(sizes)
    files = plan_files(tensors, targets)
    _clear(folder)
    written: list[Path] = []
    for part, config in configs(sizes).items():
        for old in (folder / part).glob("*.safetensors*"):
            old.unlink()
        for stem, entries in files[part].items():
            written += write_shards(folder / part, _placed(tensors, entries), stem=stem, limit=limit)
        write_json(folder / part / "config.json", config)
    card = _card(source, sizes, tensors)
    card.settings["files"] = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(written)}
    write_json(folder / CARD, card.model_dump(mode="json"))
    (folder / UNFINISHED).unlink()
    return card


def describe_xgem(source: Path, folder: Path, *, published: Published | None = None) -> Card:
    """The card that :func:`convert_xgem` writes, without writing anything."""
    source = Path(source)
    done = _converted(source, Path(folder), published)
    if done is not None:
        return done
    tensors, sizes = read_source(source, published or Published())
    return _card(source, sizes, tensors)


def read_source(source: Path, published: Published) -> tuple[dict[str, Tensor], XGeMSizes]:
    """The tensors of a checkpoint, mapped from its file, after every check, and its sizes."""
    tensors = state_dict(read_checkpoint(source), source)
    sizes = check_tensors(tensors, source, published)
    if not torch.equal(tensors[TIED[0]], tensors[TIED[1]]):
        raise InputError(f"key {TIED[0]} differs from {TIED[1]}", file=source, expected="one matrix, tied")
    check_schedule(tensors, source)
    return tensors, sizes


def check_tensors(tensors: Mapping[str, Tensor], file: Path, published: Published) -> XGeMSizes:
    """The sizes of the ``tensors``, after a check of every key, shape and type."""
    sizes = read_sizes(tensors, file, published)
    expected = expected_layout(sizes)
    check_layout(tensors, expected, file=file, free=[key for key in expected if is_buffer(key)])
    return sizes


def plan_files(tensors: Mapping[str, Tensor], targets: Targets) -> dict[str, dict[str, list[tuple[str, Target]]]]:
    """Part -> stem of a file -> (key, target) of what goes there; keys that are dropped are in none."""
    files: dict[str, dict[str, list[tuple[str, Target]]]] = {part: {} for part in PARTS}
    for key in tensors:
        target = targets.target(key)
        if target is not None:
            files[target.part].setdefault(target.stem, []).append((key, target))
    return files


def dropped(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Parameters that have no effect on images and reports and are left out, by part."""
    counts: Counter[str] = Counter()
    for key in filter(is_unused, tensors):
        part = key.removeprefix(UNETS).partition(".")[0]
        counts["vae" if part == "autokl" else part] += tensors[key].numel()
    return dict(counts)


def redundant(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Values that are left out because they follow from others: buffers, and the copy of a tied matrix."""
    return {"buffers": sum(tensors[key].numel() for key in filter(is_buffer, tensors)),
            "tied copy": tensors[TIED[0]].numel()}  # fmt: skip


def check_schedule(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuse a checkpoint that was trained with another noise schedule than the one that is sampled with."""
    ours, found = scheduler().alphas_cumprod, tensors["alphas_cumprod"].float()
    if ours.shape != found.shape or not torch.allclose(ours, found, rtol=0, atol=1e-5):
        raise InputError("key alphas_cumprod", file=file, found=f"last value {float(found[-1]):.6g}",
                         expected=f"the schedule of XGeM, last value {float(ours[-1]):.6g}")  # fmt: skip


def check_files(folder: Path, card: Card) -> None:
    """Refuse a converted folder whose weights are not of the sizes that its card says."""
    for name, size in card.settings["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
            raise InputError("weights are not those of card.json: convert again", file=path, found=found,
                             expected=f"{size} bytes")  # fmt: skip


def _converted(source: Path, folder: Path, published: Published | None) -> Card | None:
    """The card of ``folder`` where it holds just this source, with other numbers only where none were given."""
    if not (folder / CARD).is_file():
        return None
    try:
        card = read_card(folder)
        was = card.settings["source"]
        check_files(folder, card)
    except (InputError, KeyError):
        return None
    if card.kind != "xgem" or not source.is_file():
        return None
    if published is not None and card.settings["sizes"]["published"] != asdict(published):
        return None
    status = source.stat()
    same = was["bytes"] == status.st_size and (was["changed_ns"] == status.st_mtime_ns
                                               or was["sha256"] == file_sha256(source))  # fmt: skip
    return card if same else None


def _clear(folder: Path) -> None:
    """Make ``folder`` one of an unfinished conversion: without a card, and marked as one that may be written over."""
    held = {path.name for path in folder.iterdir()} - {TOKENIZERS} if folder.is_dir() else set()
    try:
        ours = not held or UNFINISHED in held or read_card(folder).kind == "xgem"
    except InputError:
        ours = False
    if not ours:
        raise InputError("the folder holds something else", file=folder, found=", ".join(sorted(held)[:5]),
                         expected="an empty folder, or a converted XGeM")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).touch()
    (folder / CARD).unlink(missing_ok=True)


def _placed(tensors: Mapping[str, Tensor], entries: list[tuple[str, Target]]) -> Iterator[tuple[str, Tensor]]:
    for key, target in entries:
        yield target.name, target.place(tensors[key])


def _card(source: Path, sizes: XGeMSizes, tensors: Mapping[str, Tensor]) -> Card:
    digest, status = file_sha256(source), source.stat()
    settings: dict[str, Any] = {
        "xgem": XGeMSettings().model_dump(mode="json"),
        "writes_report": True,
        "sizes": asdict(sizes),
        "dropped": dropped(tensors),
        "redundant": redundant(tensors),
        "source": {"name": source.name, "bytes": status.st_size, "changed_ns": status.st_mtime_ns, "sha256": digest},
        "files": {},  # name -> bytes, once they are written
    }
    return Card(
        name=source.stem, version=__version__, kind="xgem", sha256=digest, resolution=sizes.resolution,
        views=list(VIEWS), findings=list(TERMS), conditions=list(CONDITIONS), races=list(RACES), licence=LICENCE,
        training_data={"description": "unknown to cxraug: see the checkpoint's source"},
        seen=Seen.of([], [], key=digest[:32]).to_json(), settings=plain(settings),
    )  # fmt: skip
