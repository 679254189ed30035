"""Checkpoints give back exactly what they took, and only to the training they belong to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toystudies import toy_studies

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.multiprompt.alignment import train_alignment
from cxraug.cores.steps import restore_checkpoint, save_checkpoint, threads_of
from cxraug.errors import InputError


def test_a_checkpoint_gives_back_what_it_took(tmp_path: Path) -> None:
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert restore_checkpoint(tmp_path / "c.pt", "key", network=second) == 0
    save_checkpoint(tmp_path / "c.pt", "key", 7, network=first)
    assert restore_checkpoint(tmp_path / "c.pt", "key", network=second) == 7
    assert torch.equal(first.weight, second.weight)
    with pytest.raises(InputError, match="another training"):
        restore_checkpoint(tmp_path / "c.pt", "other", network=second)


def test_the_shared_space_of_another_training_is_refused(tmp_path: Path) -> None:
    studies = toy_studies(20)
    studies = studies.encode(Vocabulary.of(studies.conditions))
    studies = replace(studies, latents=torch.randn(20, 2, 8))
    assert train_alignment(studies, tmp_path, width=8, steps=2, key="one") is not None
    with pytest.raises(InputError, match="another training"):
        train_alignment(studies, tmp_path, width=8, steps=2, key="two")


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with threads_of(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
