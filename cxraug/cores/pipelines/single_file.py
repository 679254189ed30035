"""Single files in the layout of the original Stable Diffusion programs, compared with their networks key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from cxraug.cores.checkpoint.layout import check_layout
from cxraug.cores.checkpoint.reading import read_checkpoint, state_dict
from cxraug.errors import InputError

TEXT = "cond_stage_model.transformer."
PREFIXES = ("model.diffusion_model.", "first_stage_model.", TEXT)


def check_single_file(path: Path, config: Path, components: dict[str, tuple[str, str]]) -> None:
    """Refuse a file whose weights are not exactly those of the networks that ``config`` describes, by the key's name.

    diffusers' own tables give the names. What else such files hold (a running average, the noise schedule, optimisers)
    is left alone; the text encoder of SD 2 is checked by its loader, for its layout has no table.
    """
    from diffusers.loaders import single_file_model

    from cxraug.cores.pipelines.opening import empty_component

    tables: dict[str, Any] = single_file_model.SINGLE_FILE_LOADABLE_CLASSES
    held = read_checkpoint(path)
    tensors = state_dict(held, path, "state_dict" if isinstance(held.get("state_dict"), dict) else None)
    used: set[int] = set()
    for name, (library, class_name) in components.items():
        table = tables.get(class_name)
        text = name == "text_encoder" and class_name == "CLIPTextModel" and any(key.startswith(TEXT) for key in tensors)
        if table is None and not text:
            continue
        model = empty_component(config / name, library, class_name)
        if text:
            found = {_bare(k.removeprefix(TEXT)): t for k, t in tensors.items() if k.startswith(TEXT)}
        else:
            try:
                found = (table or {})["checkpoint_mapping_fn"](checkpoint=dict(tensors), config=model.config)
            except (KeyError, IndexError) as error:
                raise InputError(f"key {error.args[0]} is missing, of the {name}", file=path) from None
        expected = {_bare(key) if text else key: tuple(t.shape) for key, t in model.state_dict().items()}
        found = {key: t for key, t in found.items() if not key.endswith("position_ids") or key in expected}
        check_layout(found, expected, file=path, free=[key for key, _ in model.named_buffers()])
        used |= {_address(t) for t in found.values()}
    for key, tensor in tensors.items():
        if key.startswith(PREFIXES) and _address(tensor) not in used and not key.endswith("position_ids"):
            raise InputError(f"key {key} is not known", file=path, expected="the keys of the format")


def _bare(key: str) -> str:
    return key.removeprefix("text_model.")


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr() + tensor.storage_offset() * tensor.element_size())
