"""What trainings of many steps share: rate, seeds, threads and precision of a step, and checkpoints to go on from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cxraug.errors import InputError
from cxraug.progress import track
from cxraug.storage import atomic

CHECKPOINT_EVERY = 200


def schedule(step: int, steps: int, warmup: int) -> float:
    """Learning rate factor: linear warm-up, then a cosine from 1 to 0.1 at the last step."""
    warmup = min(warmup, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.55 + 0.45 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))


def step_seed(seed: int, step: int) -> int:
    """The seed of one step, so that its random numbers follow from its number alone."""
    key = hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8]
    return int.from_bytes(key, "little") >> 1


def compute_dtype(precision: str) -> torch.dtype:
    """What a network computes in: bfloat16 only where the CPU multiplies it (elsewhere it is slow), else float32."""
    fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if precision == "bfloat16" and fast else torch.float32


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Compute with ``count`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def save_checkpoint(path: Path, key: str, step: int, **parts: Any) -> None:
    """Write the state of ``parts`` (networks, optimisers, averages) after ``step`` steps of the training ``key``."""
    with atomic(path) as temporary:
        torch.save({"key": key, "step": step, **{n: part.state_dict() for n, part in parts.items()}}, temporary)


def restore_checkpoint(path: Path, key: str, **parts: Any) -> int:
    """Load the checkpoint into ``parts``, if there is one, and return the number of finished steps (0 without).

    Raises :class:`InputError` for the checkpoint of another training.
    """
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("key") != key:
        raise InputError("the folder holds a checkpoint of another training", file=path,
                         expected="the same data and settings, or a new folder")  # fmt: skip
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def train_small(
    model: torch.nn.Module, loss: Callable[[int], torch.Tensor], path: Path, *, steps: int, rate: float, key: str,
    seed: int, what: str,
) -> None:  # fmt: skip
    """Train a small float32 network beside a core: AdamW on ``loss`` of the step's number, going on from ``path``."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    done = restore_checkpoint(path, key, model=model, optimizer=optimizer)
    for step in track(range(done, steps), what, total=steps, done=done):
        torch.manual_seed(step_seed(seed, step))
        found = loss(step)
        optimizer.zero_grad()
        found.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, steps, 50)
        optimizer.step()
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            save_checkpoint(path, key, step + 1, model=model, optimizer=optimizer)
