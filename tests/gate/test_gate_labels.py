"""Planted wrong labels, small: trained networks on toy pictures. The phantom version is benchmarks/gate_labels.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from cohort import toy_images
from toycore import FINDINGS

from cxraug.gate.check import Images
from cxraug.gate.gate import Gate, open_checks
from cxraug.gate.settings import GateSettings

SOURCE = Path(__file__).parents[2] / "benchmarks" / "gate_labels.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("gate_labels", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_planting_turns_one_finding_in_the_asked_share_and_no_finding_follows(benchmark) -> None:
    y = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0]] * 25, np.float32)
    claimed, which = benchmark.plant(y, ["Effusion", "Mass", "No Finding"], 0.2, 0)
    assert (which >= 0).sum() == 20
    assert set(which) == {-1, 0, 1}
    assert np.array_equal((claimed[:, :2] != y[:, :2]).sum(axis=1), (which >= 0).astype(int))
    assert np.array_equal(claimed[:, 2], (claimed[:, :2] == 0).all(axis=1))


def test_nine_of_ten_wrong_labels_are_found_within_the_budget(benchmark, tmp_path: Path) -> None:
    settings = GateSettings(model="test_resnet", steps=60, batch_size=16, learning_rate=4e-3)
    gate = Gate(open_checks(settings, tuple(FINDINGS), 0, tmp_path), settings.false_reject).fit(toy_images(400))
    assert gate.real["rate"] <= 0.05
    truth = toy_images(400, seed=4)
    claimed, which = benchmark.plant(truth.y, FINDINGS, 0.2, 1)
    studies = np.array([f"syn-{i}" for i in range(400)], object)
    told = benchmark.judge(gate, Images(truth.pixels, claimed, studies), which, FINDINGS)
    found, named, n = np.sum([told["flipped"][f] for f in range(2)], axis=0)
    assert n == 80
    assert found >= 0.9 * n
    assert named >= 0.85 * n
    k, right = told["right"]
    assert k / right <= 0.075
