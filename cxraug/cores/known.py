"""A small registry of public cores of others: what they are, where they are, and how to open them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

FILE = Path(__file__).with_name("known.yaml")


class KnownCore(BaseModel):
    """A public core: facts of its source (empty: it does not say); ``spec`` names it once its weights are at hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    title: str
    source: str
    paper: str
    licence: str
    access: str
    trained_on: tuple[str, ...]
    resolution: int
    views: tuple[str, ...]
    conditions: tuple[str, ...]
    spec: str

    @property
    def words(self) -> str:
        """Everything that a search looks in."""
        return " ".join(str(value) for value in self.model_dump().values()).lower()


def known_cores() -> list[KnownCore]:
    """All of the registry."""
    return [KnownCore.model_validate(entry) for entry in yaml.safe_load(FILE.read_text())]


def search_cores(
    words: Sequence[str] = (), *, conditions: Sequence[str] = (), views: Sequence[str] = ()
) -> list[KnownCore]:
    """The cores whose entry has all ``words``, which know all ``conditions`` and draw all ``views``."""
    return [
        core for core in known_cores()
        if all(word.lower() in core.words for word in words)
        and set(conditions) <= set(core.conditions) and set(views) <= set(core.views)
    ]  # fmt: skip
