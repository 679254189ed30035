"""Fixtures of the classifier tests."""

from __future__ import annotations

import pytest
import torch

from cxraug.classifiers.settings import TrainSettings
from cxraug.studies.seen import Seen


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings() -> TrainSettings:
    return TrainSettings(model="test_resnet", steps=12, batch_size=8, eval_every=4, checkpoint_every=5, device="cpu")


@pytest.fixture
def seen() -> Seen:
    return Seen.of(["p1"], ["i1"], key="00ff")
