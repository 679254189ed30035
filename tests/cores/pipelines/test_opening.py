"""Pipelines open from local files alone, and only if their weights are exactly those of their networks."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from cores.changed_keys import change_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tinypipelines import KINDS

from cxraug.cores.pipelines.opening import check_component, open_pipeline, read_index
from cxraug.errors import InputError


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_opens_with_its_own_weights(tiny: dict[str, Path], kind: str) -> None:
    pipeline = open_pipeline(tiny[kind])
    name = "unet" if kind.startswith("sd") else "transformer"
    stored = load_file(tiny[kind] / name / "diffusion_pytorch_model.safetensors")
    held = getattr(pipeline, name).state_dict()
    assert all(torch.equal(held[key], tensor) for key, tensor in stored.items())
    assert getattr(pipeline, "safety_checker", None) is None


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_a_published_text_encoder_opens(tiny: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Folders from before transformers 5 have a prefix before every key of CLIP, and a table of positions."""
    shutil.copytree(tiny[kind], tmp_path / "sd")
    file = tmp_path / "sd" / "text_encoder" / "model.safetensors"
    stored = {key.removeprefix("text_model."): tensor for key, tensor in load_file(file).items()}
    old = {f"text_model.{key}": tensor for key, tensor in stored.items()}
    save_file(old | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, file, metadata={"format": "pt"})
    held = open_pipeline(tmp_path / "sd").text_encoder.state_dict()
    assert all(torch.equal(held[key], tensor) for key, tensor in stored.items())
    save_file(old | {"embeddings.token_embedding.weight": torch.ones(1)}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"key text_model\.embeddings\.token_embedding\.weight is not known"):
        open_pipeline(tmp_path / "sd")


def test_a_single_file_opens_with_a_local_configuration_and_no_network(tiny: dict[str, Path], tmp_path: Path) -> None:
    """The original layout of Stable Diffusion, as most fine-tunes are shared."""
    file = tmp_path / "tuned.safetensors"
    save_file(original_layout(tiny["sd1"]), file)
    with pytest.raises(InputError, match=r"tuned\.safetensors.*\+config:DIR"):
        open_pipeline(file)
    found, own = open_pipeline(file, tiny["sd1"]), open_pipeline(tiny["sd1"])
    for name in ("unet", "vae"):
        ours, theirs = getattr(found, name).state_dict(), getattr(own, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


@pytest.mark.parametrize("change", ["missing", "extra", "renamed", "transposed", "integer"])
@pytest.mark.parametrize(
    ("key", "named"),
    [("model.diffusion_model.out.2.weight", "conv_out.weight|out.2.weight"),
     ("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", "attn2.to_k.weight"),
     ("first_stage_model.decoder.conv_in.weight", "decoder.conv_in.weight"),
     ("cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight", "layers.1.mlp.fc1.weight")],
)  # fmt: skip
def test_one_changed_key_of_a_single_file_is_refused_by_name(
    tiny: dict[str, Path], tmp_path: Path, key: str, named: str, change: str
) -> None:
    tensors = original_layout(tiny["sd1"])
    if change_key(tensors, key, change) != key:
        named = rf"({named})\.extra"
    save_file(tensors, tmp_path / "tuned.safetensors")
    with pytest.raises(InputError, match=rf"tuned\.safetensors: key \S*({named})"):
        open_pipeline(tmp_path / "tuned.safetensors", tiny["sd1"])


def original_layout(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a tiny SD 1.x folder under the names of the original programs.

    Made from the table that diffusers' loader reads them with, turned round.
    """
    from diffusers.loaders import single_file_utils as tables

    pipeline = open_pipeline(folder)
    blocks = {
        "down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "down_blocks.1.resnets.0": "input_blocks.3.0",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2", "up_blocks.0.resnets.0": "output_blocks.0.0",
        "up_blocks.0.resnets.1": "output_blocks.1.0", "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
        "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.attentions.0": "output_blocks.2.1",
        "up_blocks.1.resnets.1": "output_blocks.3.0", "up_blocks.1.attentions.1": "output_blocks.3.1",
    }  # fmt: skip
    layers = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    found = {}
    ends = tables.DIFFUSERS_TO_LDM_MAPPING["unet"]["layers"]
    for key, tensor in pipeline.unet.state_dict().items():
        name = ends.get(key)
        for ours, theirs in blocks.items():
            if name is None and key.startswith(f"{ours}."):
                rest = key.removeprefix(f"{ours}.")
                head, _, tail = rest.partition(".")
                name = f"{theirs}.{layers.get(head, head)}.{tail}" if "resnets" in ours else f"{theirs}.{rest}"
        assert name is not None, key
        found[f"model.diffusion_model.{name}"] = tensor
    for key, tensor in pipeline.vae.state_dict().items():
        found[f"first_stage_model.{original_vae(key)}"] = tensor
    for key, tensor in pipeline.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = tensor
    return {key: tensor.contiguous().clone() for key, tensor in found.items()}


def original_vae(key: str) -> str:
    names = {
        "encoder.down_blocks.": "encoder.down.", "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "mid_block.attentions.0": "mid.attn_1", ".resnets.": ".block.", "downsamplers.0": "downsample",
        "upsamplers.0": "upsample", "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut",
        "decoder.up_blocks.0": "decoder.up.1", "decoder.up_blocks.1": "decoder.up.0",
        "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    }  # fmt: skip
    for ours, theirs in names.items():
        key = key.replace(ours, theirs)
    return key


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([("sd1", "unet"), ("sd1", "vae"), ("sd1", "text_encoder"), ("pixart", "transformer"),
                        ("pixart", "text_encoder"), ("sana", "transformer"), ("sana", "vae")]),
       st.sampled_from(["missing", "extra", "renamed", "transposed", "integer", "double"]), st.data())  # fmt: skip
def test_one_changed_key_is_refused_by_name(
    tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, part: tuple[str, str], change: str,
    data: st.DataObject,
) -> None:  # fmt: skip
    kind, name = part
    folder = tmp_path_factory.mktemp("broken") / name
    shutil.copytree(tiny[kind] / name, folder)
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    key = data.draw(st.sampled_from(sorted(tensors)))
    named = change_key(tensors, key, change)
    if named is None:
        return
    save_file(tensors, file, metadata={"format": "pt"})
    library, class_name = read_index(tiny[kind])[1][name]
    with pytest.raises(InputError) as error:
        check_component(folder, library, class_name)
    assert f"key {named}" in str(error.value)
    shutil.rmtree(folder)


def test_what_is_not_there_is_named(tiny: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such pipeline"):
        open_pipeline(tmp_path / "none")
    with pytest.raises(InputError, match="not a pipeline of diffusers"):
        open_pipeline(tmp_path)
    folder = tmp_path / "sd"
    shutil.copytree(tiny["sd1"], folder)
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(InputError, match=r"text_encoder: the pipeline has no text_encoder"):
        open_pipeline(folder)
    shutil.copytree(tiny["sd1"] / "text_encoder", folder / "text_encoder")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"unet: no weights"):
        open_pipeline(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [({"_class_name": "MyPipeline"}, "code beside weights is not run.*MyPipeline"),
     ({"_class_name": ["pipeline", "Mine"]}, "code beside weights is not run"),
     ({"_class_name": "DDPMPipeline"}, "not a text-to-image pipeline"),
     ({"_class_name": "StableDiffusionInpaintPipeline"}, "not a text-to-image pipeline.*Inpaint"),
     ({"_class_name": "StableDiffusionControlNetPipeline"}, "not a text-to-image pipeline.*ControlNet"),
     ({"_class_name": "TextToVideoSDPipeline"}, "not a text-to-image pipeline.*VideoSD"),
     ({"unet": ["os", "system"]}, r"unet is of a library that is not used here.*os\.system")],
)  # fmt: skip
def test_code_of_others_is_never_run(tiny: dict[str, Path], tmp_path: Path, change: dict, match: str) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny["sd1"], folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **change}))
    (folder / "pipeline.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match=match):
        open_pipeline(folder)


def test_torch_files_are_read_without_running_them(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny["sd1"], folder)
    stored = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(stored), stored.with_suffix(".bin"))
    stored.unlink()
    assert open_pipeline(folder).unet is not None
    torch.save({"a": torch.ones(1), "b": Path("x")}, stored.with_suffix(".bin"))
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.bin: .*neither a tensor.*pathlib"):
        open_pipeline(folder)
    torch.save({"state_dict": {"b": Path("x")}}, tmp_path / "single.ckpt")
    with pytest.raises(InputError, match=r"single\.ckpt: .*neither a tensor.*pathlib"):
        open_pipeline(tmp_path / "single.ckpt", tiny["sd1"])
