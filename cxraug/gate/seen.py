"""What the networks that the gate is given have seen, so that none of them knows rows that it must not know."""

from __future__ import annotations

from pathlib import Path

from cxraug.classifiers.models import weights_seen
from cxraug.errors import InputError
from cxraug.gate.crossfit import folds_seen
from cxraug.gate.settings import GateSettings
from cxraug.studies.seen import Seen


def networks_seen(settings: GateSettings) -> dict[str, Seen | None]:
    """Keyed hashes of what each file or folder of weights in ``settings`` was trained on, by its path.

    None for weights of torchxrayvision without a card (``FILE.card.json`` or ``card.json`` beside them): nothing is
    known about what they have seen. A gate classifier must have one.

    Raises
    ------
    InputError : a missing file, or a gate classifier without a card.
    """
    found: dict[str, Seen | None] = {}
    for key, path in settings.networks().items():
        if key == "weights":
            found[path] = folds_seen(Path(path))
            continue
        if not Path(path).is_file():
            raise InputError("no such weights file, and nothing is downloaded here", file=path)
        found[path] = weights_seen(Path(path))
    return found
