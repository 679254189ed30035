"""XGeM behind the contract: every path, studies that do not depend on their neighbours, refusals by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tinyxgem import TINY, tiny_checkpoint, write_tokenizers
from transformers import CLIPImageProcessor

from cxraug.cores.core import Prompt, Study
from cxraug.cores.spec import CoreSpec
from cxraug.cores.xgem.conversion import convert_xgem
from cxraug.cores.xgem.core import XGeMCore
from cxraug.cores.xgem.embedding import clip_pixels
from cxraug.cores.xgem.opening import open_xgem
from cxraug.errors import InputError, WorkError


def caption(prompt: Prompt, view: str, seed: int) -> str:
    return prompt.report or " ".join(name.lower() for name, value in prompt.labels.items() if value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xgem")
    torch.save(tiny_checkpoint(), path / "tiny.pt")
    convert_xgem(path / "tiny.pt", path / "core", published=TINY)
    write_tokenizers(path / "core" / "tokenizers")
    return path / "core"


@pytest.fixture(scope="module")
def core(folder: Path) -> XGeMCore:
    card = json.loads((folder / "card.json").read_text())
    card["settings"]["xgem"]["sample_batch"] = 3
    (folder / "card.json").write_text(json.dumps(card))
    opened = open_xgem(CoreSpec("xgem", str(folder), {}), captions=caption)
    opened.configure(steps=2, report_tokens=6)
    return opened


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path, rng = tmp_path_factory.mktemp("references"), np.random.default_rng(0)
    found = {}
    for view in ("PA", "Lateral"):
        found[view] = str(path / f"{view}.png")
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(found[view])
    return found


def same(a: Study, b: Study) -> bool:
    return a.report == b.report and a.images.keys() == b.images.keys() and all(
        np.array_equal(a.images[view], b.images[view]) for view in a.images
    )  # fmt: skip


def test_paths_and_neighbours(core: XGeMCore, references: dict[str, str]) -> None:
    mass = {"Mass": 1}
    prompts = [
        Prompt("text", mass, views=("PA",), wants_report=False),
        Prompt("joint", mass, views=("PA", "Lateral")),
        Prompt("turned", views=("Lateral",), reference_image=references["PA"], wants_report=False),
        Prompt("back", views=("PA",), reference_image=json.dumps({"Lateral": references["Lateral"]})),
        Prompt("mix", mass, views=("PA",), reference_image=references["PA"], wants_report=False),
        Prompt("read", views=(), reference_image=json.dumps(references)),
        Prompt("from report", report="mass.", views=("PA",)),
    ]
    seeds = [5] * len(prompts)
    studies = dict(zip([p.prompt_id for p in prompts], core.generate(prompts, seeds), strict=True))
    assert {name: (*study.images,) for name, study in studies.items()} == {
        "text": ("PA",), "joint": ("PA", "Lateral"), "turned": ("Lateral",), "back": ("PA",), "mix": ("PA",),
        "read": (), "from report": ("PA",),
    }  # fmt: skip
    assert [name for name, study in studies.items() if study.report is not None] == ["joint", "back", "read"]
    for study in studies.values():
        for image in study.images.values():
            assert image.shape == (16, 16)
            assert image.dtype == np.uint8
            assert image.std() > 1
    # what is given and what else is wanted both matter; a given report is read like any caption
    assert not np.array_equal(studies["text"].images["PA"], studies["joint"].images["PA"])
    assert not np.array_equal(studies["text"].images["PA"], studies["mix"].images["PA"])
    assert not np.array_equal(studies["text"].images["PA"], studies["from report"].images["PA"])

    for i in (1, 5):  # alone, with other neighbours in other rows of the batch
        alone = core.generate([prompts[4], prompts[i]], [9, 5])[1]
        assert same(alone, studies[prompts[i].prompt_id]), prompts[i].prompt_id
    other_seed = core.generate([prompts[0]], [6])[0]
    assert not same(other_seed, studies["text"])


def test_weights_of_what_is_given(core: XGeMCore, references: dict[str, str]) -> None:
    prompt = Prompt("mix", {"Mass": 1}, reference_image=json.dumps(references), wants_report=False)
    even = core._context(prompt, 1)[0]
    parts = [core._embed("mass"), *(core._see(np.asarray(Image.open(references[v]))) for v in ("PA", "Lateral"))]
    assert torch.allclose(even, (parts[0] + parts[1] + parts[2]) / 3, atol=1e-6)
    assert all(torch.allclose(part.norm(), torch.tensor(1.0)) for part in parts)
    core.configure(text_weight=3.0, lateral_weight=2.0)
    try:
        given, empty = core._context(prompt, 1)
    finally:
        core.configure(text_weight=1.0, lateral_weight=1.0)
    assert torch.allclose(given, (3 * parts[0] + parts[1] + 2 * parts[2]) / 6, atol=1e-6)
    black = core._see(np.zeros((16, 16), np.uint8))
    assert torch.allclose(empty, (3 * core._embed("") + 3 * black) / 6, atol=1e-6)


def test_settings_are_recorded(core: XGeMCore) -> None:
    assert core.sampler["scheduler"] == "DDIM"
    assert (core.sampler["steps"], core.sampler["guidance"], core.sampler["eta"]) == (2, 7.5, 1.0)
    levels = core.noise_levels()
    assert len(levels) == 2
    assert 1 > levels[0] > levels[1] > 0
    with pytest.raises(InputError, match=r"not a sampler setting.*solver"):
        core.configure(solver="euler")


def test_missing_tokenizers_say_what_and_where(folder: Path, tmp_path: Path) -> None:
    spec = CoreSpec("xgem", str(folder), {"tokenizers": str(tmp_path / "mine")})
    with pytest.raises(InputError, match=r"mine: tokenizers are missing; expected clip/.* and gpt2-vocab\.json"):
        open_xgem(spec, captions=caption)
    write_tokenizers(tmp_path / "mine")
    open_xgem(spec, captions=caption)
    (tmp_path / "mine" / "gpt2-vocab.json").unlink()
    with pytest.raises(InputError, match=r"tokenizers are missing; expected gpt2-vocab\.json"):
        open_xgem(spec, captions=caption)


def test_refusals_by_name(core: XGeMCore, references: dict[str, str]) -> None:
    for prompt, what in (
        (Prompt("a", {"Gout": 1}), "does not know the finding 'Gout'"),
        (Prompt("a", views=("AP",)), "does not know the view 'AP'"),
        (Prompt("a", mask="m.png"), "does not know the condition 'mask'"),
        (Prompt("a", source="nih"), "does not know the condition 'source'"),
        (Prompt("a", views=("PA", "PA")), "two views of one projection"),
        (Prompt("a", views=(), report="mass"), "nothing is wanted"),
    ):
        with pytest.raises(InputError, match=f"prompt a: .*{what}"):
            core.refuse(prompt)


def test_images_that_are_none_are_errors(folder: Path, core: XGeMCore) -> None:
    prompt = Prompt("p7", {"Mass": 1}, wants_report=False)
    noise = np.random.default_rng(0).random((1, 16, 16)).astype(np.float32)
    grey = np.repeat(noise, 3, 0)
    assert core._grey(grey, prompt, "PA").dtype == np.uint8
    broken = grey.copy()
    broken[0, 0, 0] = np.nan
    for image, what in ((broken, "not a number"), (np.zeros_like(grey), "0 everywhere"),
                        (np.stack([noise[0], noise[0] * 0, noise[0]]), "in colour")):  # fmt: skip
        with pytest.raises(WorkError, match=rf"prompt p7, PA: the image is {what}"):
            core._grey(image, prompt, "PA")


def test_a_decoder_that_overflows_names_the_prompt(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "core"
    broken.mkdir()
    for part in folder.iterdir():
        if part.name != "vae":
            (broken / part.name).symlink_to(part)
    (broken / "vae").mkdir()
    (broken / "vae" / "config.json").symlink_to(folder / "vae" / "config.json")
    tensors = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    tensors["decoder.conv_out.bias"][:] = torch.inf
    save_file(tensors, broken / "vae" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    core = open_xgem(CoreSpec("xgem", str(broken), {}), captions=caption)
    core.configure(steps=1)
    with pytest.raises(WorkError, match=r"prompt p7, PA: the image is not a number"):
        core.generate([Prompt("p7", {"Mass": 1}, wants_report=False)], [0])


def test_images_as_clip_sees_them() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    expected = processor(Image.fromarray(image).convert("RGB"), return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(clip_pixels(image, 28), expected, atol=0.02)  # one grey level is 0.015
