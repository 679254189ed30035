"""Opening a text-to-image pipeline from a local folder or file: no hub, no code of its own, no weight left to chance.

diffusers and transformers draw weights at random that a checkpoint does not have, and drop those that they do not know,
with a warning at most. Here every component's file is compared with its network first.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cxraug.cores.checkpoint.layout import check_layout
from cxraug.cores.checkpoint.reading import read_checkpoint, state_dict
from cxraug.cores.checkpoint.shards import read_headers
from cxraug.cores.pipelines.single_file import check_single_file
from cxraug.errors import InputError

INDEX = "model_index.json"
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
CLIP_PREFIX = "text_model."
_LIBRARIES = ("diffusers", "transformers")
_MORE = re.compile("Control|Inpaint|Img2Img|Upscale|Pix2Pix|Video")  # pipelines that need more than a text


def open_pipeline(path: Path, config: Path | None = None, *, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline in a folder with ``model_index.json``, or in a single file with the folder ``config`` of one.

    Safety checkers are left out: they were trained on photographs and blacken X-rays. Nothing is ever asked of a hub.

    Raises
    ------
    InputError
        That names what is missing; a component that is no part of diffusers or transformers; a weight that is missing,
        unknown, of another shape or type; a torch file with anything but tensors in it.
    """
    more: dict[str, Any] = {}
    if path.is_dir():
        kind, _ = check_pipeline(path)
        call = kind.from_pretrained
    else:
        folder = described_in(path, config)
        kind, components = read_index(folder)
        check_single_file(path, folder, components)
        call, more["config"] = kind.from_single_file, str(folder)
    if "safety_checker" in inspect.signature(kind.__init__).parameters:
        more |= {"safety_checker": None, "requires_safety_checker": False}
    with _told(path):
        pipeline = call(str(path), dtype=dtype, local_files_only=True, **more)
    for name, part in pipeline.components.items():
        for key, tensor in part.state_dict().items() if isinstance(part, nn.Module) else ():
            if tensor.is_meta:
                raise InputError(f"key {key} is missing, of the {name}", file=path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def described_in(path: Path, config: Path | None) -> Path:
    """The folder that describes the pipeline in ``path``: itself, or ``config`` for a single file of weights."""
    if path.is_dir():
        return path
    if not path.is_file():
        raise InputError("no such pipeline", file=path, expected=f"a folder with {INDEX}, or a single file of weights")
    if config is None:
        raise InputError("a single file says nothing of its pipeline", file=path,
                         expected=f"+config:DIR, a folder with {INDEX} and configurations")  # fmt: skip
    return config


def check_pipeline(folder: Path) -> tuple[Any, dict[str, tuple[str, str]]]:
    """Class and components of the pipeline in ``folder``, after every component's weights were compared."""
    kind, components = read_index(folder)
    for name, (library, class_name) in components.items():
        if name == "safety_checker":
            continue
        if not (folder / name).is_dir():
            raise InputError(
                f"the pipeline has no {name}", file=folder / name, expected=f"a folder with a {class_name}"
            )
        if _is_model(library, class_name):
            check_component(folder / name, library, class_name)
    return kind, components


def read_index(folder: Path) -> tuple[Any, dict[str, tuple[str, str]]]:
    """Class of a pipeline, and component -> (library, class), as ``model_index.json`` says."""
    import diffusers

    path = folder / INDEX
    if not path.is_file():
        raise InputError("not a pipeline of diffusers", file=path, expected=f"a folder with {INDEX}")
    try:
        index = json.loads(path.read_text())
        name = index["_class_name"]
        parts = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1] is not None}
    except (ValueError, KeyError, TypeError):
        raise InputError("not the index of a pipeline", file=path) from None
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise InputError("a pipeline that diffusers does not have; code beside weights is not run", file=path,
                         found=name, expected="a pipeline class of diffusers")  # fmt: skip
    asked = inspect.signature(kind.__call__).parameters
    if "prompt" not in asked or "num_frames" in asked or _MORE.search(name):
        raise InputError("not a text-to-image pipeline", file=path, found=name)
    for part, (library, class_name) in parts.items():
        known = library in _LIBRARIES or (part == "safety_checker" or hasattr(diffusers.pipelines, str(library)))
        if not known or not isinstance(class_name, str):
            raise InputError(f"{part} is of a library that is not used here", file=path,
                             found=f"{library}.{class_name}", expected=" or ".join(_LIBRARIES))  # fmt: skip
    return kind, {part: (library, class_name) for part, (library, class_name) in parts.items()}


def check_component(folder: Path, library: str, class_name: str) -> None:
    """Refuse weights of a component that are not exactly those of its network."""
    found, file = component_headers(folder)
    model = empty_component(folder, library, class_name)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    names = {name: name if name in expected else _modern(name, expected) for name in found}
    found = {name if names[name] in found else names[name]: t for name, t in found.items()}
    tied = _tied(model)
    expected = {name: shape for name, shape in expected.items() if name in found or name not in tied}
    ignored = [name for name in found if name.endswith("position_ids") and name not in expected]
    found = {name: t for name, t in found.items() if name not in ignored}
    kept = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    loose = [name for name in expected if any(f".{part}." in f".{name}" for part in kept)]
    buffers = [name for name, _ in model.named_buffers()]
    check_layout(found, expected, file=file, free=buffers, loose=loose)


def component_headers(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Name -> tensor without storage of the weights in ``folder``, and the file (or index) that they are in."""
    for stem in STEMS:
        for path in (folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"):
            if path.is_file():
                return read_headers(path), path
    for stem in STEMS:
        path = folder / f"{stem}.bin"
        if path.is_file():
            return state_dict(read_checkpoint(path), path), path
    raise InputError("no weights", file=folder, expected=" or ".join(f"{stem}.safetensors" for stem in STEMS))


def empty_component(folder: Path, library: str, class_name: str) -> nn.Module:
    """A component's network as its ``config.json`` describes it, without storage."""
    import diffusers
    import transformers

    module = getattr({"diffusers": diffusers, "transformers": transformers}[library], class_name, None)
    if module is None or not (folder / "config.json").is_file():
        raise InputError("no such component", file=folder / "config.json", found=f"{library}.{class_name}")
    with _told(folder), torch.device("meta"):
        if library == "diffusers":
            return module.from_config(module.load_config(str(folder), local_files_only=True))  # type: ignore[no-any-return]
        return module(module.config_class.from_pretrained(str(folder), local_files_only=True))  # type: ignore[no-any-return]


def _is_model(library: str, class_name: str) -> bool:
    import diffusers
    import transformers

    part = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), class_name, None)
    return inspect.isclass(part) and issubclass(part, nn.Module)


def _tied(model: nn.Module) -> set[str]:
    """Names of parameters that are another's too: a file may hold such a one once."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    keys = getattr(model, "all_tied_weights_keys", None) or getattr(model, "_tied_weights_keys", None) or []
    return {name for group in names.values() if len(group) > 1 for name in group} | set(keys)


def _modern(name: str, expected: Collection[str]) -> str:
    """What the libraries read an older name as; every published CLIP has a prefix that transformers 5 takes off."""
    if name.removeprefix(CLIP_PREFIX) in expected:
        return name.removeprefix(CLIP_PREFIX)
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new) if "attentions" in name else name
    return name


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What diffusers and transformers raise for files they cannot read, as one line; their own bars are not shown."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    for library in (ours, theirs):
        library.disable_progress_bar()
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a dozen kinds, one of their own for single files
        line = next((text.strip() for text in str(error).splitlines() if text.strip()), type(error).__name__)
        raise InputError(f"the pipeline cannot be opened ({line})", file=path) from error
