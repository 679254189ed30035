"""Seeds that are explicit, far apart and independent of the order of work."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2**31) from any parts, e.g. ``derive_seed(recipe.seed, "limit", draw)``; SHA-256 of their text."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
