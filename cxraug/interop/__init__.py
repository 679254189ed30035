"""Sets and manifests in the layouts of other programs, and their annotations in ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxraug.interop.xrv import XRVDataset

__all__ = ["XRVDataset"]


def __getattr__(name: str) -> Any:
    if name == "XRVDataset":  # torchxrayvision takes seconds to import
        from cxraug.interop.xrv import XRVDataset

        return XRVDataset
    raise AttributeError(name)
