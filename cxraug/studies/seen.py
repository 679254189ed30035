"""Keyed hashes of the patients and images a model was trained on: proof of overlap without a list of names."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cxraug.errors import HiddenDataError

HEX = 16  # 64 bits of each hash are kept: a false match among 10^6 x 10^6 pairs has probability 5e-8


@dataclass(frozen=True)
class Seen:
    """What a model has seen, as HMAC-SHA256 (first 64 bits, hex) under a key of its own.

    ``patients`` hashes ``patient_id``; ``images`` hashes the SHA-256 of an image's native pixels. Each card has
    its own key, so that hashes of two cards cannot be joined with each other.
    """

    key: str
    patients: frozenset[str] = field(default_factory=frozenset)
    images: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, patients: Iterable[str], images: Iterable[str], *, key: str | None = None) -> Seen:
        """Hash patient ids and pixel digests under ``key`` (hex; a fresh random one by default)."""
        key = key or secrets.token_hex(16)
        return cls(key, frozenset(_hash(key, p) for p in set(patients)), frozenset(_hash(key, i) for i in set(images)))

    def count_patients(self, patients: Iterable[str]) -> int:
        """How many distinct ``patients`` (ids in clear) the model has seen."""
        return sum(_hash(self.key, p) in self.patients for p in set(patients))

    def count_images(self, images: Iterable[str]) -> int:
        """How many distinct ``images`` (pixel digests in clear) the model has seen."""
        return sum(_hash(self.key, i) in self.images for i in set(images))

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {"key": self.key, "patients": sorted(self.patients), "images": sorted(self.images)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Seen:
        """The inverse of :meth:`to_json`."""
        return cls(value["key"], frozenset(value["patients"]), frozenset(value["images"]))


def refuse_hidden(
    seen: Seen, what: str, *, patients: Mapping[str, Iterable[str]], images: Mapping[str, Iterable[str]]
) -> None:
    """Raise :class:`HiddenDataError` if a model has seen what it must not.

    Parameters
    ----------
    seen : the hashes in the model's card.
    what : how to call the model in the message, e.g. ``core runs/x/core``.
    patients, images : ids and pixel digests that are forbidden, by role, e.g. ``{"test": [...], "validation": [...],
        "limited-out": [...]}``.
    """
    for role in patients:
        n_patients = seen.count_patients(patients[role])
        n_images = seen.count_images(images.get(role, ()))
        if n_patients or n_images:
            raise HiddenDataError(
                f"{what} has seen {n_patients} patients and {n_images} images of the {role} rows",
                expected="a model trained on other patients, or retrained without these rows",
            )


def _hash(key: str, value: str) -> str:
    return hmac.new(bytes.fromhex(key), str(value).encode(), hashlib.sha256).hexdigest()[:HEX]
