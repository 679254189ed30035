"""What machine this is: said beside every measured time."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any, Literal

from cxraug.errors import InputError

Device = Literal["auto", "cpu", "cuda"]  # auto: CUDA where there is one


def machine() -> dict[str, Any]:
    """Operating system, processor, cores that may be used, memory (GiB), and the name of a CUDA device if any."""
    import torch

    found: dict[str, Any] = {"system": platform.system(), "processor": _processor(), "cores": _cores()}
    with contextlib.suppress(ValueError, OSError, AttributeError):  # not every system tells
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def check_device(device: str, *, name: str = "--device", auto: bool = False) -> Device:
    """``device`` if this machine has it (``auto``: or ``auto``); :class:`InputError` otherwise."""
    import torch

    known: tuple[Device, ...] = ("auto", "cpu", "cuda") if auto else ("cpu", "cuda")
    found = next((one for one in known if one == device), None)
    if found is None:
        raise InputError(f"{name} is not known", found=device, expected="one of " + ", ".join(known))
    if found == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{name} is cuda, and torch sees no CUDA device", expected=" or ".join(known[:-1]))
    return found


def _processor() -> str:
    """The processor's name; its architecture where the system gives no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
