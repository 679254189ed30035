"""Shards under the names that diffusers opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cxraug.cores.checkpoint.shards import read_headers, write_shards
from cxraug.errors import InputError


@pytest.mark.parametrize(("limit", "files"), [(1 << 20, 1), (100, 3), (1, 5)])
def test_all_tensors_are_written_and_found_by_the_index(tmp_path: Path, limit: int, files: int) -> None:
    tensors = {f"t{i}": torch.arange(10.0) + i for i in range(5)}
    paths = write_shards(tmp_path, iter(tensors.items()), stem="model", limit=limit)
    assert len(paths) == files
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {p.name for p in paths}
    read = {name: t for path in paths for name, t in load_file(path).items()}
    assert set(read) == set(tensors)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    if files == 1:
        assert paths[0].name == "model.safetensors"
        return
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    assert all(name in load_file(tmp_path / index["weight_map"][name]) for name in tensors)


def test_diffusers_opens_them(tmp_path: Path) -> None:
    from diffusers.models.unets.unet_2d import UNet2DModel

    torch.manual_seed(0)
    model = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 32), layers_per_block=1,
                        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    model.save_config(tmp_path)
    write_shards(tmp_path, model.state_dict().items(), stem="diffusion_pytorch_model", limit=20_000)
    again = UNet2DModel.from_pretrained(tmp_path, local_files_only=True)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_shard_outside_the_folder_is_refused(tmp_path: Path) -> None:
    """Loaders follow such a name, so what was compared would not be what is opened."""
    inside = tmp_path / "inside"
    (shard,) = write_shards(inside, [("t", torch.ones(1))], stem="model")
    index = inside / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"t": f"../{shard.name}"}}))
    with pytest.raises(InputError, match=r"index\.json: a shard outside the folder.*\.\./model"):
        read_headers(index)
