"""ChexGen behind the contract: bytes that depend on prompt and seed alone, captions and masks that count, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tinychexgen import CONTROL, PLAIN, save_checkpoint, save_parts

from cxraug.cores.captions import captions_of
from cxraug.cores.chexgen.condition import draw_condition
from cxraug.cores.chexgen.core import ChexGenCore
from cxraug.cores.chexgen.opening import open_chexgen, read_chexgen_card
from cxraug.cores.chexgen.text import load_text_encoder
from cxraug.cores.core import Prompt
from cxraug.cores.spec import parse_spec
from cxraug.errors import InputError, WorkError
from cxraug.studies.seen import refuse_hidden

STEPS = 3


def caption(prompt: Prompt, view: str, seed: int) -> str:
    """Findings, in the manner of the published captions."""
    return f"sex:{prompt.sex}, {view}. {', '.join(prompt.labels) or 'normal chest'}."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chexgen")
    save_parts(folder)
    save_checkpoint(folder / "plain.pth", PLAIN)
    save_checkpoint(folder / "control.pth", CONTROL)
    return folder


def opened(folder: Path, name: str) -> ChexGenCore:
    spec = parse_spec(f"chexgen:{folder / name}.pth")
    assert spec is not None
    core = open_chexgen(spec, captions=caption)
    core.configure(steps=STEPS)
    core.batch_size = 3
    return core


@pytest.fixture(scope="module")
def plain(folder: Path) -> ChexGenCore:
    return opened(folder, "plain")


@pytest.fixture(scope="module")
def control(folder: Path) -> ChexGenCore:
    return opened(folder, "control")


@pytest.fixture
def mask(tmp_path: Path) -> str:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[10:50, 5:30] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return str(tmp_path / "mask.png")


def prompts(n: int) -> list[Prompt]:
    findings = ("Effusion", "Pneumonia", "Cardiomegaly")
    return [Prompt(f"p{i}", {findings[i % 3]: 1}, "MF"[i % 2]) for i in range(n)]


def images(core: ChexGenCore, asked: list[Prompt], seeds: list[int]) -> list[np.ndarray]:
    return [next(iter(study.images.values())) for study in core.generate(asked, seeds)]


def test_grey_images_of_the_right_size(plain: ChexGenCore) -> None:
    study = plain.generate([Prompt("a", views=("PA", "Lateral"))], [1])[0]
    assert list(study.images) == ["PA", "Lateral"]
    assert study.report is None
    for pixels in study.images.values():
        assert pixels.shape == (64, 64)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 3
    assert not np.array_equal(study.images["PA"], study.images["Lateral"])
    assert np.array_equal(images(plain, [Prompt("a")], [1])[0], study.images["PA"]), "views do not know each other"


def test_bytes_depend_on_prompt_and_seed_alone(plain: ChexGenCore) -> None:
    asked, seeds = prompts(5), [1, 2, 3, 4, 5]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    together = images(plain, asked, seeds)
    assert torch.equal(torch.get_rng_state(), state)
    for i in (0, 4):
        alone = images(plain, [asked[i]], [seeds[i]])[0]
        assert np.array_equal(alone, together[i])
    others = images(plain, [asked[0], asked[3], asked[4]], [1, 9, 9])
    assert np.array_equal(others[0], together[0])
    assert len({image.tobytes() for image in [*together, *others]}) == 7


def test_caption_reaches_the_network(plain: ChexGenCore) -> None:
    one, other, same = images(
        plain, [Prompt("a", {"Effusion": 1}), Prompt("b", {"Pneumonia": 1}), Prompt("c", {"Effusion": 1})], [1, 1, 1]
    )
    assert np.abs(one.astype(int) - other).max() > 2
    assert np.array_equal(one, same)


def test_captions_in_the_published_manner(folder: Path) -> None:
    """With the captions of the package: their settings are recorded, a report is the impression."""
    spec = parse_spec(f"chexgen:{folder / 'plain.pth'}")
    assert spec is not None
    core = open_chexgen(spec, captions=captions_of(spec, "chexgen"))
    core.configure(steps=2)
    asked = Prompt("a", {"Effusion": 1}, "M", 71.0, "Black")
    told = replace(asked, report="Small pleural effusion.")
    assert core.captions(told, "PA", 1) == "sex:Male, age:71.0, race:Black. Small pleural effusion."
    assert not np.array_equal(*images(core, [asked, told], [1, 1]))
    assert core.sampler["captions"] == {"prompt": "chexgen", "impressions": None}


def test_a_decoder_with_a_wrong_key_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "vae", tmp_path / "vae")
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["decoder.conv_out.weights"] = weights.pop("decoder.conv_out.weight")
    save_file(weights, path)
    spec = parse_spec(f"chexgen:{folder / 'plain.pth'}+vae:{tmp_path / 'vae'}")
    assert spec is not None
    with pytest.raises(InputError, match=r"key decoder\.conv_out\.weight is missing"):
        open_chexgen(spec, captions=caption)


def test_sampler_settings_count_and_are_recorded(plain: ChexGenCore) -> None:
    first = images(plain, prompts(1), [1])[0]
    plain.configure(guidance=1.0)
    assert not np.array_equal(images(plain, prompts(1), [1])[0], first)
    assert plain.sampler["guidance"] == 1.0
    plain.configure(guidance=4.0)
    assert np.array_equal(images(plain, prompts(1), [1])[0], first)
    assert plain.sampler["steps"] == STEPS
    assert len(plain.sampler["t5"]) == len(plain.sampler["vae"]) == 64
    levels = plain.noise_levels()
    assert len(levels) == STEPS
    assert levels[0] > 0.99 > levels[-1] > 0
    for wrong in ({"steps": 1}, {"solver": "dpm"}):
        with pytest.raises(InputError, match="sampler setting"):
            plain.configure(**wrong)


def test_masks_and_boxes_change_the_image(control: ChexGenCore, mask: str) -> None:
    box = json.dumps([{"label": "Effusion", "x": 8, "y": 8, "w": 20, "h": 30}])
    free = Prompt("a", {"Effusion": 1})
    masked, boxed, empty = replace(free, mask=mask), replace(free, boxes=box), replace(free, boxes="[]")
    found = images(control, [free, masked, boxed, empty, masked], [1] * 5)
    assert len({image.tobytes() for image in found}) == 4
    assert np.array_equal(found[1], found[4])
    assert np.array_equal(images(control, [free], [1])[0], found[0]), "neighbours with masks do not matter"
    assert np.array_equal(images(control, [masked], [1])[0], found[1])
    assert control.sampler["guidance_with_control"] == 1.0


def test_without_masks_the_control_variant_is_its_base(control: ChexGenCore, mask: str) -> None:
    """Nothing but the lateral view has a mask here: the frontal one is as without."""
    asked = Prompt("a", views=("PA", "Lateral"))
    lateral = replace(asked, mask=json.dumps({"Lateral": mask}))
    without, given = control.generate([asked, lateral], [1, 1])
    assert np.array_equal(without.images["PA"], given.images["PA"])
    assert not np.array_equal(without.images["Lateral"], given.images["Lateral"])


def test_condition_images() -> None:
    lung = np.zeros((8, 8), bool)
    lung[:4] = True
    alone = draw_condition({"lung": lung}, [], 8)
    assert (alone[:4] == 255).all()
    assert not alone[4:].any()
    boxed = draw_condition({}, [("Nodule", 0.5, 0.25, 0.25, 0.5)], 8)
    assert np.argwhere(boxed.any(-1)).min(0).tolist() == [2, 4]
    assert np.argwhere(boxed.any(-1)).max(0).tolist() == [5, 5]
    both = draw_condition({"lung": lung}, [("Nodule", 0, 0, 0.01, 0.01)], 8)
    assert both[0, 0].tolist() == [255, 0, 0], "a small box does not vanish"
    assert both[1, 1].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"mask": "m.png"}, "mask"), ({"labels": {"Scoliosis": 1}}, "Scoliosis"), ({"race": "x"}, "race"),
     ({"views": ("Oblique",)}, "Oblique"), ({"views": ()}, "view"), ({"reference_image": "x.png"}, "reference_image")],
)  # fmt: skip
def test_refusals_name_what_is_unknown(plain: ChexGenCore, change: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        plain.generate([replace(prompts(1)[0], **change)], [1])


@pytest.mark.parametrize(
    ("pixels", "said"),
    [(torch.full((3, 3, 64, 64), float("nan")), "is not a number"),
     (torch.full((3, 3, 64, 64), -1.0), "is 0 everywhere"),
     (torch.linspace(-1, 1, 64).repeat(3, 3, 64, 1) * torch.tensor([1.0, 0, -1]).view(1, 3, 1, 1), "is in colour")],
)  # fmt: skip
def test_what_is_no_x_ray_is_no_output(
    plain: ChexGenCore, monkeypatch: pytest.MonkeyPatch, pixels: torch.Tensor, said: str
) -> None:
    pixels = pixels + (said == "is in colour") * torch.linspace(-1, 1, 64).view(1, 1, 64, 1)
    monkeypatch.setattr(plain, "_decoded", lambda *_: pixels)
    with pytest.raises(WorkError, match=f"core plain, prompt p0, PA: the image {said}"):
        plain.generate(prompts(1), [1])


def test_card_opens_nothing_else_and_converts_once(folder: Path) -> None:
    spec = parse_spec(f"chexgen:{folder / 'plain.pth'}+view:PA+findings:Effusion|Scoliosis")
    assert spec is not None
    card = read_chexgen_card(spec)
    assert card.views == ["PA"]
    assert card.findings == ["Effusion", "Scoliosis"]
    converted = parse_spec(f"chexgen:{folder / 'plain-converted'}")
    assert converted is not None
    assert read_chexgen_card(converted).sha256 == card.sha256
    refuse_hidden(card.hashes, "core", patients={"test": ["p1"]}, images={})
    with pytest.raises(InputError, match="not a view"):
        read_chexgen_card(parse_spec(f"chexgen:{folder / 'plain.pth'}+view:Oblique"))


def test_what_is_missing_is_said_before_anything_is_computed(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.pth"

    def refused(said: str, options: str = "") -> None:
        with pytest.raises(InputError) as error:
            open_chexgen(parse_spec(f"chexgen:{file}{options}"), captions=caption)
        assert said in str(error.value)
        assert not (tmp_path / "x-converted").exists()

    refused("no such checkpoint")
    shutil.copy(folder / "plain.pth", file)
    refused("needs the T5 encoder DeepFloyd/t5-v1_1-xxl, which is not here")
    refused(f"looked in {tmp_path / 'elsewhere'};", f"+t5:{tmp_path / 'elsewhere'}")
    refused(f"expected its files in {tmp_path / 'vae'}, or +vae:DIR", f"+t5:{folder / 't5'}")
    shutil.copytree(folder / "t5", tmp_path / "t5")
    for part in ("tokenizer.json", "config.json"):
        (tmp_path / "t5" / part).unlink()
        refused(f"is not whole: no {part}")
    refused("is not whole: no config.json", f"+t5:{folder / 't5'}+vae:{tmp_path}")


def test_other_encoders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another width; found 32; expected 4096"):
        load_text_encoder(folder / "t5", tokens=12, width=4096)
    shutil.copytree(folder / "t5", tmp_path / "t5")
    for path in tmp_path.glob("t5/tokenizer*"):
        path.unlink()
    (tmp_path / "t5" / "spiece.model").write_bytes(b"not read without sentencepiece")
    with pytest.raises(InputError, match="token"):
        load_text_encoder(tmp_path / "t5", tokens=12, width=32)
    weights = folder / "plain-converted" / "embeddings.safetensors"
    shutil.copytree(folder / "plain-converted", tmp_path / "core")
    save = weights.read_bytes()
    (tmp_path / "core" / weights.name).write_bytes(save[:-1] + bytes([save[-1] ^ 1]))
    with pytest.raises(InputError, match=r"not those of card\.json"):
        open_chexgen(parse_spec(f"chexgen:{tmp_path / 'core'}+t5:{folder / 't5'}+vae:{folder / 'vae'}"),
                     captions=caption)  # fmt: skip
