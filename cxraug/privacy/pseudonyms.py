"""New ids, seeds, orders and dates that say nothing about the old ones to anyone without the key."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import date, timedelta
from pathlib import Path

from cxraug.errors import InputError
from cxraug.storage import atomic

KEY_BYTES = 32
ID_HEX = 15  # 60 bits: two of 10^6 studies get the same id with probability 4e-7
FIRST_DAY, DAYS = date(2100, 1, 1), 36_525  # new dates lie after any real one, so none can be taken for one

_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")


class Pseudonyms:
    """Keyed names: HMAC-SHA256 (RFC 2104) of what a name is for and the old name, cut to what is needed.

    The key is random and forgotten with the object unless it is kept on purpose: without it nobody, the owner of the
    data included, can find out which new name belongs to which old one, not even by trying all old ones.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self.key = secrets.token_bytes(KEY_BYTES) if key is None else key

    def name(self, what: str, old: str) -> str:
        """A letter and 15 hexadecimal digits for the ``old`` name of a ``what`` (study, patient): never a number."""
        return what[0] + self._digest(what, old).hex()[:ID_HEX]

    def seed(self, new: str) -> int:
        """A seed in [0, 2**31) for a new id."""
        return int.from_bytes(self._digest("seed", new)[:4], "big") >> 1

    def dates(self, owner: str, old: list[date]) -> list[date]:
        """New dates of what belongs to one ``owner``: the first falls anywhere in 2100 to 2199, distances stay."""
        if not old:
            return []
        start = FIRST_DAY + timedelta(days=int.from_bytes(self._digest("date", owner)[:8], "big") % DAYS)
        return [start + (day - min(old)) for day in old]

    def _digest(self, what: str, old: str) -> bytes:
        return hmac.new(self.key, f"{what}\0{old}".encode(), hashlib.sha256).digest()


def read_key(path: str | Path) -> bytes:
    """A key as :func:`write_key` wrote it: 64 hexadecimal digits."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise InputError("no such key file", file=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the key file cannot be read ({error})", file=path) from None
    if not _HEX_KEY.fullmatch(text):  # never printed: it may be a key all the same
        raise InputError("not a key", file=path, found=f"{len(text)} characters", expected="64 hexadecimal digits")
    return bytes.fromhex(text)


def write_key(path: str | Path, key: bytes) -> None:
    """Write a key that only the owner may read."""
    path = Path(path)
    with atomic(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(key.hex() + "\n")


def parse_date(text: str) -> date:
    """A day written as ``2019-03-31``, ``20190331`` (DICOM), or the first with a time behind; else ``ValueError``."""
    text = text.strip()
    match = re.fullmatch(r"(\d{4})-(\d{2})-(\d{2})(?:[T ].*)?", text) or re.fullmatch(r"(\d{4})(\d{2})(\d{2})", text)
    if match is None:
        raise ValueError(f"not a date: {text!r}")
    return date(*(int(part) for part in match.groups()))
