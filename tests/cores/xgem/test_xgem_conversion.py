"""A checkpoint is converted once, in its own type, and an interrupted conversion is no core."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tinyxgem import TINY, tiny_checkpoint, write_tokenizers

from cxraug.cores.spec import CoreSpec
from cxraug.cores.xgem import conversion
from cxraug.cores.xgem.conversion import convert_xgem, describe_xgem
from cxraug.cores.xgem.files import open_unet, sizes_from
from cxraug.cores.xgem.opening import converted_folder, open_xgem, read_xgem_card
from cxraug.errors import InputError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xgem") / "tiny.pt"
    torch.save(tiny_checkpoint(), path)
    return path


def state(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_converted_once_in_its_own_type(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "core"
    described = describe_xgem(source, folder, published=TINY)
    card = convert_xgem(source, folder, published=TINY, limit=1 << 20)
    assert card.settings.pop("files")
    described.settings.pop("files")
    assert card == described
    assert card.kind == "xgem"
    assert (card.resolution, card.views) == (16, ["PA", "Lateral"])
    assert card.settings["dropped"].keys() == {"unet_frontal", "unet_lateral", "vae", "clip"}
    assert (folder / "unet_frontal" / "diffusion_pytorch_model.safetensors.index.json").is_file()  # in shards
    with safe_open(str(folder / "clip" / "model.safetensors"), framework="pt") as tensors:
        assert tensors.get_tensor("text_projection.weight").dtype == torch.float16
    open_unet(folder, "frontal", sizes_from(card.settings["sizes"]))

    before = state(folder)
    convert_xgem(source, folder, published=TINY)
    assert state(folder) == before

    beside = converted_folder(source)  # by the name of the checkpoint
    assert beside.name == "tiny-converted"
    convert_xgem(source, beside, published=TINY)
    named = CoreSpec("xgem", str(source), {})
    write_tokenizers(beside / "tokenizers")
    assert read_xgem_card(named) == open_xgem(named, captions=lambda *_: "").card
    assert read_xgem_card(CoreSpec("xgem", str(folder), {"findings": "Mass|Nodule"})).findings == ["Mass", "Nodule"]


def test_an_interrupted_conversion_is_no_core(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, write, calls = tmp_path / "core", conversion.write_shards, []

    def interrupted(*args, **kwargs):  # type: ignore[no-untyped-def]
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return write(*args, **kwargs)

    convert_xgem(source, folder, published=TINY)
    stale = json.loads((folder / "card.json").read_text())
    stale["settings"]["source"]["sha256"] = "of another file"
    stale["settings"]["source"]["changed_ns"] = 0
    (folder / "card.json").write_text(json.dumps(stale))
    monkeypatch.setattr(conversion, "write_shards", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_xgem(source, folder, published=TINY)
    with pytest.raises(InputError, match="not a converted XGeM"):
        read_xgem_card(CoreSpec("xgem", str(folder), {}))
    monkeypatch.undo()
    assert convert_xgem(source, folder, published=TINY) == read_xgem_card(CoreSpec("xgem", str(folder), {}))

    part = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = part.stat().st_size
    part.write_bytes(part.read_bytes()[:-100])
    convert_xgem(source, folder, published=TINY)
    assert part.stat().st_size == whole


def test_a_folder_of_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "mine.safetensors").touch()
    with pytest.raises(InputError, match="holds something else; found 'vae'"):
        convert_xgem(source, tmp_path, published=TINY)
    assert (tmp_path / "vae" / "mine.safetensors").is_file()


def test_another_schedule_or_untied_weights_are_refused(tmp_path: Path) -> None:
    for key, what in (("alphas_cumprod", "the schedule of XGeM"), ("optimus.decoder.lm_head.weight", "tied")):
        tensors = tiny_checkpoint()
        tensors[key] = tensors[key] * 0.9
        torch.save(tensors, tmp_path / "x.pt")
        with pytest.raises(InputError, match=rf"key {key}.*{what}"):
            convert_xgem(tmp_path / "x.pt", tmp_path / "core", published=TINY)
        assert not (tmp_path / "core").exists()
