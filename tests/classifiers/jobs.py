"""Jobs for the pool's tests: at the top of a module, so that another process finds them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cxraug.errors import InputError


def square(value: int) -> int:
    return value * value


def threads() -> tuple[int, bool]:
    import torch

    return torch.get_num_threads(), os.getpid() == int(os.environ["POOL_TEST_PARENT"])


def train_toy(folder: Path, seed: int) -> str:
    from squares import FINDINGS, toy

    from cxraug.classifiers.arms import ArmData
    from cxraug.classifiers.settings import TrainSettings
    from cxraug.classifiers.training import train_arm
    from cxraug.storage import file_sha256
    from cxraug.studies.seen import Seen

    settings = TrainSettings(model="test_resnet", steps=4, batch_size=8, eval_every=2, device="cpu")
    data, val = ArmData(toy(16, seed)), toy(12, 9)
    done = train_arm(data, val, folder, settings, findings=FINDINGS, seed=seed, seen=Seen("00"))
    return file_sha256(done / "model.safetensors")


def refuse() -> None:
    raise InputError("bad labels", file="x.csv", row=3)


def die() -> None:
    os._exit(7)


def sleep(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    time.sleep(120)
