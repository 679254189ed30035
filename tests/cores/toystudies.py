"""A tiny multi-prompt core trained on toy studies whose every relation is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxraug.cores.conditions import Conditions
from cxraug.cores.core import GenerativeCore
from cxraug.cores.multiprompt.settings import MultipromptSettings
from cxraug.cores.multiprompt.settings_codec import ReportCodecSettings
from cxraug.cores.multiprompt.stages import train_multiprompt
from cxraug.cores.multiprompt.studyset import StudySet
from cxraug.cores.registry import open_core
from cxraug.studies.seen import Seen

SIZE, GRID = 16, 8
FINDINGS = ("Effusion", "Nodule")
CODEC = ReportCodecSettings(
    tokens=2, channels=8, vocabulary=300, max_tokens=40, width=32, heads=2, encoder_layers=1, decoder_layers=1,
    steps=250, batch_size=32, lr=5e-3, warmup=20, noise=0.3,
)  # fmt: skip


def toy_settings(**changes: object) -> MultipromptSettings:
    """A network of a few ten thousand weights."""
    base = {
        "steps": 8, "batch_size": 8, "channels": (16, 32), "layers": 1, "depth": 1, "grid": GRID, "band": 8,
        "components": 12, "threads": 1, "precision": "float32", "sampler_steps": 4, "sample_batch": 4,
        "checkpoint_every": 3, "warmup": 0, "alignment_steps": 6, "shared_width": 8,
        "recognition_steps": 6,
    }  # fmt: skip
    return MultipromptSettings(**{**base, **changes})  # type: ignore[arg-type]


def toy_studies(n: int = 60, seed: int = 0) -> StudySet:
    """Studies of a frontal (image 2i) and a lateral view (2i + 1).

    Effusion brightens the lower half of both views, women the left half of the frontal one. Exposure is the patient's
    own: both views share it. A nodule is a bright square of 4 x 4 pixels, in the frontal view, inside its box. The
    lungs (mask) are a dark rectangle of the frontal view, at the top left or at the top right. The report says whether
    there is an effusion and who is examined.
    """
    rng = np.random.default_rng(seed)
    y = (rng.random((n, 2)) < 0.5).astype(np.float32)
    female = rng.random(n) < 0.5
    exposure = rng.normal(0, 25, n)
    maps = rng.normal(100, 6, (2 * n, 1, SIZE, SIZE)) + exposure.repeat(2)[:, None, None, None]
    boxes = np.zeros((2 * n, 1, 5), np.float32)
    boxes[..., 0] = -1
    masks = np.zeros((2 * n, 3, GRID, GRID), np.uint8)
    masks_known = np.zeros((2 * n, 3), np.float32)
    for i in range(n):
        frontal, lateral = maps[2 * i, 0], maps[2 * i + 1, 0]
        right = int(rng.random() < 0.5)
        frontal[:6, 8 * right : 8 * right + 8] -= 40
        masks[2 * i, 0, :3, 4 * right : 4 * right + 4] = 255
        masks_known[2 * i, 0] = 1
        if y[i, 0]:
            frontal[8:] += 50
            lateral[8:] += 50
        if female[i]:
            frontal[:, :8] += 20
        if y[i, 1]:
            row, column = 2 * int(rng.integers(0, 7)), 2 * int(rng.integers(0, 7))
            frontal[row : row + 4, column : column + 4] += 70
            boxes[2 * i, 0] = (1, column / SIZE, row / SIZE, 4 / SIZE, 4 / SIZE)
    sex = np.where(female, "F", "M").repeat(2)
    conditions = Conditions.of(
        FINDINGS, y.repeat(2, 0), sex=list(sex), view=["PA", "Lateral"] * n, source=["toy"] * (2 * n)
    )
    reports = [
        f"{'There is a pleural effusion' if a else 'No pleural effusion'}. Examined was a {'woman' if f else 'man'}."
        for a, f in zip(y[:, 0], female, strict=True)
    ]
    known = np.tile([1.0, 0.0], n).astype(np.float32)
    pairs = np.arange(2 * n).reshape(n, 2)
    return StudySet(
        np.clip(maps, 0, 255).astype(np.uint8), conditions, pairs, np.array(reports, dtype=object), boxes, known, masks,
        masks_known,
    )  # fmt: skip


def train_toy(studies: StudySet, folder: Path, settings: MultipromptSettings, **others: object) -> Path:
    """Train a core on ``studies``."""
    codec = CODEC.model_copy(update={"steps": 20}) if settings.steps < 50 else CODEC
    seen = Seen.of(["p"], ["i"], key="ab" * 16)
    facts = {"report": codec, "seen": seen, "training_data": {}, "name": "toy", "seed": 3, **others}
    return train_multiprompt(studies, folder, settings, **facts)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A barely trained core, for shapes, bytes and refusals."""
    return train_toy(toy_studies(), tmp_path_factory.mktemp("toy") / "core", toy_settings())


@pytest.fixture(scope="session")
def learned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A core that has learned the toy studies."""
    settings = toy_settings(
        steps=1400, batch_size=32, lr=3e-3, depth=2, ema=0.99, alignment_steps=250, recognition_steps=900,
        sample_batch=16, sampler_steps=8, boxes_share=0.5, mask_share=0.5, reference_share=0.2, joint=0.4,
        given_alone=0.2, checkpoint_every=1000,
    )  # fmt: skip
    return train_toy(toy_studies(1500, seed=1), tmp_path_factory.mktemp("learned") / "core", settings)


@pytest.fixture(scope="session")
def learned(learned_folder: Path) -> GenerativeCore:
    return open_core(learned_folder)
