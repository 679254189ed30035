"""A training that dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cxraug.cores import steps


@contextmanager
def dying_after(step: int) -> Iterator[None]:
    """Inside the block a small training (``train_small``) is interrupted right after its checkpoint of ``step``."""
    saved = steps.save_checkpoint

    def dying(path: Path, key: str, at: int, **parts: object) -> None:
        saved(path, key, at, **parts)
        if at == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "save_checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            yield
