"""What the tests of plans share: training rows, and the card of a core that is never asked."""

from __future__ import annotations

from cxraug.cores.core import Card
from cxraug.studies.manifest import Manifest


def train_of(manifest: Manifest) -> Manifest:
    return manifest.take((manifest.frame["split"] == "train").to_numpy())


def card(**changes: object) -> Card:
    known = {
        "name": "toy", "version": "1", "kind": "toy", "sha256": "0" * 64, "resolution": 64, "views": ["PA", "AP"],
        "findings": ["Cardiomegaly", "Effusion", "Nodule"], "conditions": ["findings", "views", "sex", "age"],
        "licence": "none", "training_data": {}, "seen": {"key": "00", "patients": [], "images": []},
    }  # fmt: skip
    return Card.model_validate({**known, **changes})
