"""Conversion writes every value once, is not done twice, and never leaves half a core that looks whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file
from tinychexgen import CONTROL, PLAIN, original, save_checkpoint

from cxraug.cores.chexgen import conversion
from cxraug.cores.chexgen.conversion import CARD, convert_chexgen, weights_sha256
from cxraug.cores.chexgen.layout import Sizes
from cxraug.cores.chexgen.network import load_network
from cxraug.errors import InputError
from cxraug.storage import read_json, write_json


def test_weights_are_where_diffusers_reads_them(tmp_path: Path) -> None:
    convert_chexgen(save_checkpoint(tmp_path / "x.pth", PLAIN), tmp_path / "core", limit=50_000)
    weights = original(PLAIN)
    model = PixArtTransformer2DModel.from_pretrained(tmp_path / "core" / "transformer", local_files_only=True)
    block = model.transformer_blocks[2]
    shares = [block.attn1.to_q.weight, block.attn1.to_k.weight, block.attn1.to_v.weight]
    assert torch.equal(torch.cat(shares), weights["blocks.2.attn.qkv.weight"])
    shares = [block.attn2.to_k.bias, block.attn2.to_v.bias]
    assert torch.equal(torch.cat(shares), weights["blocks.2.cross_attn.kv_linear.bias"])
    embeddings = load_file(tmp_path / "core" / "embeddings.safetensors")
    assert torch.equal(embeddings["pos_embed"], weights["pos_embed"])
    assert torch.equal(embeddings["null_caption"], weights["y_embedder.y_embedding"])
    assert len(list((tmp_path / "core" / "transformer").glob("*-of-*.safetensors"))) > 2


def test_card_says_what_the_core_is(tmp_path: Path) -> None:
    card = convert_chexgen(save_checkpoint(tmp_path / "mine.pth", CONTROL), tmp_path / "core")
    assert (card.name, card.kind, card.resolution) == ("mine", "chexgen", 64)
    assert {"views", "findings", "sex", "age", "race", "mask", "boxes"} <= set(card.conditions)
    assert not card.hashes.patients
    assert card.sha256 == weights_sha256(tmp_path / "core")
    assert card.settings["chexgen"] | {"sampler_steps": 100, "guidance": 4.0} == card.settings["chexgen"]
    assert card.settings["network"]["control"] == 2
    plain = convert_chexgen(save_checkpoint(tmp_path / "plain.pth", PLAIN), tmp_path / "plain")
    assert not {"mask", "boxes"} & set(plain.conditions)
    assert plain.sha256 != card.sha256


def test_an_unchanged_file_is_converted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, core = save_checkpoint(tmp_path / "x.pth", PLAIN), tmp_path / "core"
    first = convert_chexgen(source, core)
    assert capsys.readouterr().err.count("converting") == 1
    written = {path: path.stat().st_mtime_ns for path in core.rglob("*")}
    assert convert_chexgen(source, core) == first
    assert {path: path.stat().st_mtime_ns for path in core.rglob("*")} == written
    assert "converting" not in capsys.readouterr().err
    other = convert_chexgen(save_checkpoint(source, PLAIN, seed=1), core)
    assert other.sha256 != first.sha256
    path = core / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    assert convert_chexgen(source, core).sha256 == other.sha256 == weights_sha256(core)


def test_heads_are_named_once(tmp_path: Path) -> None:
    """A width that is not the published one says nothing of its heads; a converted folder does."""
    narrow = Sizes(hidden=64, depth=2, patch=2, side=8, text=32, tokens=12)
    source = save_checkpoint(tmp_path / "x.pth", narrow)
    with pytest.raises(InputError, match="attention heads"):
        convert_chexgen(source, tmp_path / "core")
    card = convert_chexgen(source, tmp_path / "core", heads=4)
    assert convert_chexgen(source, tmp_path / "core") == card
    assert load_network(tmp_path / "core", 0).transformer.config.num_attention_heads == 4
    assert convert_chexgen(source, tmp_path / "core", heads=2).sha256 != card.sha256


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_conversion_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    source, core = save_checkpoint(tmp_path / "x.pth", CONTROL), tmp_path / "core"
    whole = convert_chexgen(source, tmp_path / "whole")
    (core / "t5").mkdir(parents=True)
    (core / "t5" / "config.json").write_text("{}")
    calls, write = [], conversion.write_shards

    def interrupted(folder: Path, tensors: object, **how: object) -> object:
        calls.append(folder)
        if len(calls) == stop:
            tensors = iter([next(iter(tensors)), ("then", None)])
        return write(folder, tensors, **how)

    monkeypatch.setattr(conversion, "write_shards", interrupted)
    with pytest.raises(AttributeError):
        convert_chexgen(source, core)
    assert not (core / CARD).exists()
    monkeypatch.undo()
    assert convert_chexgen(source, core).sha256 == whole.sha256
    assert (core / "t5" / "config.json").is_file(), "is not the conversion's"
    names = {str(p.relative_to(tmp_path / "whole")) for p in (tmp_path / "whole").rglob("*")}
    assert {str(p.relative_to(core)) for p in core.rglob("*")} - names == {"t5", "t5/config.json"}
    load_network(core, 2)


@pytest.mark.parametrize("network", [PLAIN, CONTROL])
@pytest.mark.parametrize("change", ["missing", "extra", "renamed", "transposed", "dtype"])
def test_a_refused_checkpoint_leaves_nothing(tmp_path: Path, network: Sizes, change: str) -> None:
    weights = original(network)
    name = next(key for key in weights if key.endswith("blocks.1.mlp.fc1.weight"))
    tensor, named = weights[name], name
    if change == "extra":
        named = "blocks.9.mlp.fc1.weight"
        weights[named] = tensor
    elif change == "transposed":
        weights[name] = tensor.T.contiguous()
    elif change == "dtype":
        weights[name] = tensor.half()
    else:
        del weights[name]
        if change == "renamed":
            weights[name + ".0"] = tensor
    torch.save({"state_dict_ema": weights}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=f"x.pth: key {named}"):
        convert_chexgen(tmp_path / "x.pth", tmp_path / "core")
    assert not (tmp_path / "core").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": original(PLAIN)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="no 'state_dict_ema'"):
        convert_chexgen(tmp_path / "x.pth", tmp_path / "core")
    moved = original(CONTROL)
    moved["base_model.pos_embed"] = moved["base_model.pos_embed"].flip(1)
    torch.save({"state_dict_ema": moved}, tmp_path / "y.pth")
    with pytest.raises(InputError, match=r"base_model\.pos_embed is not the sin-cos table"):
        convert_chexgen(tmp_path / "y.pth", tmp_path / "core")
    source = save_checkpoint(tmp_path / "z.pth", PLAIN)
    write_json(tmp_path / "core" / CARD, {**read_json_card(tmp_path, source), "kind": "gaussian"})
    with pytest.raises(InputError, match="a core of another kind; found 'gaussian'"):
        convert_chexgen(source, tmp_path / "core")


def read_json_card(tmp_path: Path, source: Path) -> dict[str, object]:
    convert_chexgen(source, tmp_path / "other")
    return dict(read_json(tmp_path / "other" / CARD))
