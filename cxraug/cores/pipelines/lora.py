"""LoRA weights on top of a pipeline, all of them or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from cxraug.cores.checkpoint.reading import read_checkpoint, state_dict
from cxraug.cores.peft import need_peft
from cxraug.errors import InputError

DENOISERS = ("unet", "transformer")
NAME = "cxraug"


def denoiser_of(pipeline: Any) -> tuple[str, Any]:
    """Name and network of what denoises."""
    for name in DENOISERS:
        network = getattr(pipeline, name, None)
        if network is not None:
            return name, network
    raise InputError(f"{type(pipeline).__name__} has neither {' nor '.join(DENOISERS)}")


def add_lora(pipeline: Any, path: Path) -> int:
    """Put the LoRA in ``path`` on the pipeline's denoiser (and text encoder); returns the number of adapted layers.

    Raises
    ------
    InputError
        Without peft; for a file that holds no LoRA, or layers that this pipeline does not have: a LoRA that is used in
        part is not the one that was trained.
    """
    need_peft()
    tensors = state_dict(read_checkpoint(path), path)
    name, network = denoiser_of(pipeline)
    ups = [key for key in tensors if ".lora_B." in key or ".lora_up." in key or ".lora.up." in key]
    if not ups:
        raise InputError("no LoRA weights", file=path, found=next(iter(tensors), "nothing"), expected="lora_A, lora_B")
    text = [key for key in ups if key.startswith("text_encoder.")]
    trained = _trained_settings(path)
    try:
        if trained and (text or not hasattr(network, "load_lora_adapter")):
            for key in (k for k in trained if k.endswith("lora_alpha")):
                if trained[key] != trained.get(f"{key.removesuffix('lora_alpha')}r"):
                    raise ValueError(f"{key} {trained[key]} is not its rank, which is not supported here")
        if text and hasattr(pipeline, "load_lora_weights"):
            pipeline.load_lora_weights(dict(tensors), adapter_name=NAME)
        else:
            prefix = name if any(key.startswith(f"{name}.") for key in tensors) else None
            if hasattr(network, "load_lora_adapter"):
                network.load_lora_adapter(dict(tensors), prefix=prefix, adapter_name=NAME, metadata=trained)
            else:
                _inject(network, {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items()})
    except (ValueError, RuntimeError, KeyError, AttributeError, IndexError, TypeError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"the LoRA does not fit the pipeline ({line})", file=path) from None
    used = sum(adapted_layers(part) for part in (network, getattr(pipeline, "text_encoder", None)) if part is not None)
    if used != len(ups):
        raise InputError("the LoRA is of another network", file=path, found=f"{used} of {len(ups)} layers fit")
    return used


def _trained_settings(path: Path) -> dict[str, Any] | None:
    """What diffusers wrote into the header on the adapters: alpha over rank scales them; None of another program."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(str(path), framework="pt") as stored:
        held = (stored.metadata() or {}).get("lora_adapter_metadata")
    try:
        found = None if held is None else json.loads(held)
    except ValueError:
        found = ""
    if found is not None and not isinstance(found, dict):
        raise InputError("the settings of the LoRA in its header are no JSON object", file=path)
    return found or None


def _inject(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """For networks without diffusers' loader of adapters; its reading is the same: alpha is the rank."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import set_peft_model_state_dict

    ranks = {key.partition(".lora_B.")[0]: tensor.shape[1] for key, tensor in tensors.items() if ".lora_B." in key}
    names = {name for name, _ in network.named_modules()}
    if not ranks or set(ranks) - names:
        raise ValueError(f"no layer {next(iter(set(ranks) - names), 'at all')}")
    usual = next(iter(ranks.values()))
    config = LoraConfig(r=usual, lora_alpha=usual, target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=ranks)
    inject_adapter_in_model(config, network, NAME)
    set_peft_model_state_dict(network, tensors, NAME)


def adapted_layers(network: nn.Module) -> int:
    """Layers of ``network`` that have the adapter :data:`NAME`."""
    return sum(NAME in module for key, module in network.named_modules() if key.endswith("lora_B"))  # type: ignore[operator]
