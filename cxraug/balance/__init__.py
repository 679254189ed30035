"""What is missing in a data set, and how to fill it: audit, plan, and the sampler of imbalanced-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxraug.balance.sampler import SyntheticOverSampler

__all__ = ["SyntheticOverSampler"]


def __getattr__(name: str) -> Any:
    """Import the sampler, and with it imbalanced-learn, only where it is asked for."""
    if name in __all__:
        from cxraug.balance import sampler

        return getattr(sampler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
