"""The optional package that low-rank adapters come from."""

from __future__ import annotations

import importlib.util

from cxraug.errors import InputError


def need_peft() -> None:
    """Raise :class:`InputError` where peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise InputError("lora: low-rank adapters need the package peft", found="none",
                         expected="pip install 'cxraug[lora]', or a core without adapters")  # fmt: skip
