"""Checkpoints of others are read without running what they hold."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cxraug.cores.checkpoint.reading import read_checkpoint, state_dict
from cxraug.errors import InputError

RAN: list[str] = []


class Planted:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return RAN.append, ("ran",)


class Plain:
    """An object of the program that wrote the file."""


def test_tensors_of_both_formats(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    torch.save({"state": OrderedDict(tensors), "epoch": 3}, tmp_path / "x.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "x.safetensors")
    found = read_checkpoint(tmp_path / "x.pth")
    assert found["epoch"] == 3
    for read in (state_dict(found, tmp_path, "state"), read_checkpoint(tmp_path / "old.pth"),
                 read_checkpoint(tmp_path / "x.safetensors")):  # fmt: skip
        assert set(read) == {"a", "b"}
        assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in read)


def test_a_common_prefix_of_parallel_training_goes(tmp_path: Path) -> None:
    x = torch.ones(1)
    assert list(state_dict({"module.a": x, "module.b.c": x}, tmp_path)) == ["a", "b.c"]
    assert list(state_dict({"module.a": x, "b": x}, tmp_path)) == ["module.a", "b"], "not of all keys"


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_no_tensor_is_refused_by_its_type_and_never_run(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(1), "b": Plain()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"x\.pth: .*neither a tensor nor a plain value.*test_reading\.Plain"):
        read_checkpoint(path)
    torch.save({"b": Planted()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="neither a tensor nor a plain value"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Planted(), protocol=2))
    with pytest.raises(InputError, match="neither a tensor nor a plain value"):
        read_checkpoint(path)
    assert RAN == []


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(InputError, match="no such checkpoint"):
        read_checkpoint(path)
    for content in (b"", b"abc" * 100, b"PK\x03\x04 not a zip"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.pth: "):
            read_checkpoint(path)
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"x\.pth: not a torch checkpoint"):
        read_checkpoint(path)
    torch.save([torch.ones(1)], path)
    with pytest.raises(InputError, match=r"found 'list'.*a dict of tensors"):
        read_checkpoint(path)
    (tmp_path / "x.safetensors").write_bytes(b"abc")
    with pytest.raises(InputError, match="not a safetensors file"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_an_entry_must_be_there_and_hold_tensors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no 'state_dict_ema'.*found 'epoch'"):
        state_dict({"epoch": 3}, tmp_path, "state_dict_ema")
    with pytest.raises(InputError, match=r"is no dict.*found 'int'"):
        state_dict({"epoch": 3}, tmp_path, "epoch")
    with pytest.raises(InputError, match=r"key 'a'.*found 'list'"):
        state_dict({"a": [1]}, tmp_path)
