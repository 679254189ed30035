"""What a trained classifier is, as written beside its weights, and what it has seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cxraug.errors import InputError, first_problem
from cxraug.storage import file_sha256, read_json
from cxraug.studies.seen import Seen

CARD = "card.json"
WEIGHTS = "model.safetensors"


class ClassifierCard(BaseModel):
    """The card of a trained classifier (``card.json`` beside ``model.safetensors``).

    ``seen_before`` holds what initial weights had seen; ``digest`` covers everything that the weights depend on.
    """

    model_config = ConfigDict(extra="forbid")
    kind: Literal["classifier"] = "classifier"
    model: str
    findings: list[str]
    size: int
    sha256: str  # of the weights file
    digest: str
    settings: dict[str, Any]
    seed: int
    val_auroc: float | None  # of the weights that were kept, by the metric of selection; None where there is none
    selection: dict[str, Any]  # which step was kept, by which metric, or why the last one
    data: dict[str, Any]  # counts of the arm
    notes: list[str] = []
    seen: dict[str, Any]
    seen_before: list[dict[str, Any]] = []
    info: dict[str, Any] = {}  # what the caller adds: arm, draw, ratio, encoding, ...


@dataclass(frozen=True)
class SeenTogether(Seen):
    """What a model and the weights it started from have seen; each part keeps its own key."""

    parts: tuple[Seen, ...] = ()

    @classmethod
    def join(cls, parts: Iterable[Seen]) -> Seen:
        """One object for all ``parts``; a single part is returned as it is."""
        flat = tuple(parts)
        if len(flat) == 1:
            return flat[0]
        return cls(flat[0].key, flat[0].patients, flat[0].images, flat)

    def count_patients(self, patients: Iterable[str]) -> int:
        """How many distinct ``patients`` any part has seen."""
        return sum(any(part.count_patients([p]) for part in self.parts) for p in set(patients))

    def count_images(self, images: Iterable[str]) -> int:
        """How many distinct ``images`` any part has seen."""
        return sum(any(part.count_images([i]) for part in self.parts) for i in set(images))


def read_classifier_card(folder: str | Path) -> ClassifierCard:
    """Read and check the card of a trained classifier's folder, and that it describes the weights beside it.

    Raises
    ------
    InputError : no card, a card of something else, or weights that are not the card's.
    """
    path = Path(folder) / CARD
    try:
        card = ClassifierCard.model_validate(read_json(path))
    except ValidationError as error:
        raise InputError(f"not the card of a classifier ({': '.join(first_problem(error))})", file=path) from None
    weights = Path(folder) / WEIGHTS
    if not weights.is_file():
        raise InputError("no such file", file=weights, expected="the weights that card.json describes")
    if file_sha256(weights) != card.sha256:
        raise InputError("these weights are not the ones card.json describes", file=weights)
    return card


def seen_parts(weights: Path) -> list[Seen]:
    """What the weights in a file or folder have seen, themselves and through what they started from.

    Read from ``FILE.card.json`` or, failing that, ``card.json`` beside the file. No card: an empty list, nothing is
    known. A card may be a classifier's or a core's; all that is needed is its ``seen``.

    Raises
    ------
    InputError : a card that cannot be read, or that describes another file.
    """
    weights = weights_file(weights)
    path = card_beside(weights)
    if path is None:
        return []
    card = read_json(path)
    try:
        parts = [Seen.from_json(value) for value in (card["seen"], *card.get("seen_before", []))]
        for part in parts:
            part.count_patients(["-"])  # a key that is no hexadecimal number shows here, not in the middle of a run
        sha256 = card.get("sha256")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            "the card does not say what was seen", file=path, expected="seen: key, patients, images"
        ) from None
    if sha256 is not None and weights.is_file() and file_sha256(weights) != sha256:
        raise InputError(f"the card describes other weights than {weights.name}", file=path)
    return parts


def card_beside(weights: Path) -> Path | None:
    """The card of a weights file: ``FILE.card.json`` or ``card.json`` beside it; None if there is none."""
    candidates = (weights.with_name(weights.name + ".card.json"), weights.parent / CARD)
    return next((path for path in candidates if path.is_file()), None)


def weights_file(path: Path) -> Path:
    """The weights file that ``path`` names: itself, or ``model.safetensors`` of a trained classifier's folder."""
    return path / WEIGHTS if path.is_dir() else path
