"""Pipelines behind the contract of cores."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_recipe import tiny_recipe
from tinypipelines import KINDS

from cxraug.cores.captions import Captions
from cxraug.cores.core import GenerativeCore, Prompt
from cxraug.cores.pipelines.core import PipelineCore, _scheduler
from cxraug.cores.registry import open_core, read_card
from cxraug.errors import InputError, WorkError
from cxraug.run import run_recipe

PROMPTS = [
    Prompt("a", {"Effusion": 1}, sex="F", age=60, views=("PA", "Lateral")), Prompt("b", {"Effusion": 0}),
    Prompt("c", {"Mass": 1, "Edema": 1}, race="White"), Prompt("d", report="Small left effusion."), Prompt("e"),
]  # fmt: skip


@pytest.fixture(scope="module")
def cores(tiny: dict[str, Path]) -> dict[str, GenerativeCore]:
    return {kind: open_core(f"diffusers:{tiny[kind]}", overrides={"steps": 2}) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_follows_from_its_prompt_and_seed_alone(cores: dict[str, GenerativeCore], kind: str) -> None:
    core = cores[kind]
    whole = core.generate(PROMPTS, [1, 2, 3, 4, 5])
    assert [set(study.images) for study in whole] == [{"PA", "Lateral"}, *[{"PA"}] * 4]
    assert all(image.shape == (32, 32) and image.dtype == np.uint8 for s in whole for image in s.images.values())
    for row in (0, 3):
        (alone,) = core.generate(PROMPTS[row : row + 1], [row + 1])
        assert all(np.array_equal(alone.images[v], whole[row].images[v]) for v in alone.images), "no neighbours"
    (frontal,) = core.generate([replace(PROMPTS[0], views=("PA",))], [1])
    assert np.array_equal(frontal.images["PA"], whole[0].images["PA"]), "no other view"
    (other,) = core.generate(PROMPTS[1:2], [7])
    assert not np.array_equal(other.images["PA"], whole[1].images["PA"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_caption_guidance_and_solver_reach_the_network(cores: dict[str, GenerativeCore], kind: str) -> None:
    core = cores[kind]

    def drawn(prompt: Prompt, **sampler: object) -> np.ndarray:
        own = core.settings
        core.configure(**sampler)
        try:
            return core.generate([prompt], [1])[0].images["PA"].astype(float)
        finally:
            core._use(own)

    asked = PROMPTS[3]
    base = drawn(asked)
    assert np.abs(drawn(replace(asked, report="Large pneumothorax of the right side.")) - base).mean() > 0.2
    assert np.abs(drawn(asked, guidance=1.0) - base).mean() > 0.2
    assert np.abs(drawn(asked, negative="blurred picture") - base).mean() > 0.05
    assert np.abs(drawn(asked, steps=5) - base).mean() > 0.2
    assert np.array_equal(drawn(asked), base)
    if kind in ("sd1", "sd2"):
        assert np.abs(drawn(asked, solver="dpm++") - base).mean() > 0.2
        assert type(core.pipeline.scheduler).__name__ in ("PNDMScheduler", "DDIMScheduler"), "its own again"
    if kind == "sana":
        with pytest.raises(InputError, match="predicts flows"):
            core.configure(solver="ddim")


def test_a_reference_image_is_varied_by_strength(cores: dict[str, GenerativeCore], tmp_path: Path) -> None:
    core = cores["sd1"]
    ramp = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (40, 1))
    Image.fromarray(ramp).save(tmp_path / "x.png")
    Image.fromarray(ramp[:, ::-1]).save(tmp_path / "y.png")
    asked = Prompt("p", {"Effusion": 1}, reference_image=str(tmp_path / "x.png"))
    own, apart = core.settings, {}
    try:
        for strength in (0.1, 1.0):
            core.configure(steps=10, strength=strength)
            both = [replace(asked, reference_image=str(tmp_path / name)) for name in ("x.png", "y.png")]
            one, other = (study.images["PA"].astype(float) for study in core.generate(both, [1, 1]))
            apart[strength] = np.abs(one - other).mean()
    finally:
        core._use(own)
    assert apart[0.1] > 3 * apart[1.0] > 0, "what is noised away says nothing"
    with pytest.raises(InputError, match=r"reference image in PA.*Lateral"):
        core.generate([replace(asked, views=("Lateral",))], [1])
    assert "reference_image" not in cores["pixart"].card.conditions
    with pytest.raises(InputError, match="does not know the condition 'reference_image'"):
        cores["pixart"].generate([asked], [1])


def test_what_a_core_cannot_honour_is_refused_before_anything_is_drawn(cores: dict[str, GenerativeCore]) -> None:
    core = cores["sd1"]
    for prompt, match in (
        (Prompt("p", {"Ebola": 1}), "does not know the finding 'Ebola'"), (Prompt("p", mask="m.png"), "'mask'"),
        (Prompt("p", views=("AP Supine",)), "view 'AP Supine'"), (Prompt("p", source="nih"), "'source'"),
        (Prompt("p", {"Mass": 1}, conditions={"severity": "huge"}), "severity"),
        (Prompt("p", views=(), labels={"Mass": 1}), "writes no report"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=match):
            core.generate([PROMPTS[0], prompt], [1, 2])


def test_a_decoder_that_overflows_is_an_error(
    cores: dict[str, GenerativeCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = cores["sd1"]
    assert isinstance(core, PipelineCore)
    monkeypatch.setattr(core, "_call", lambda _, texts, *__, **___: np.full((len(texts), 32, 32, 3), np.nan))
    with pytest.raises(WorkError, match="core sd1, prompt b, PA: the image is not a number"):
        core.generate(PROMPTS[1:2], [1])


def test_the_card_changes_with_the_weights_and_options(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = str(tiny["sd1"])
    card = read_card(f"diffusers:{folder}")
    assert (card.kind, card.resolution, card.views) == ("diffusers", 32, ["PA", "AP", "Lateral"])
    assert card.settings["pipeline"] == "StableDiffusionPipeline"
    assert card.model_dump() == read_card(f"diffusers:{folder}").model_dump()
    assert read_card(f"diffusers:{tiny['sd2']}").sha256 != card.sha256
    chosen = read_card(f"diffusers:{folder}+view:PA+findings:Effusion|Ebola+scheduler:dpm++")
    assert (chosen.views, chosen.findings) == (["PA"], ["Effusion", "Ebola"])
    assert chosen.settings["diffusers"]["solver"] == "dpm++"
    with pytest.raises(InputError, match=r"\+scheduler: unknown.*magic"):
        read_card(f"diffusers:{folder}+scheduler:magic")
    with pytest.raises(InputError, match="not a template"):
        read_card(f"diffusers:{folder}+prompt:magic")


def lora(core: PipelineCore, scale: float) -> dict[str, torch.Tensor]:
    """A random LoRA of all query layers, in the form that peft writes for diffusers."""
    torch.manual_seed(3)
    found = {}
    for name, layer in core.pipeline.unet.named_modules():
        if name.endswith("to_q"):
            found[f"unet.{name}.lora_A.weight"] = torch.randn(2, layer.in_features)
            found[f"unet.{name}.lora_B.weight"] = scale * torch.randn(layer.out_features, 2)
    return found


def test_a_lora_is_used_whole_or_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    name, overrides = f"diffusers:{tiny['sd1']}", {"steps": 2}
    plain = open_core(name, overrides=overrides)
    assert isinstance(plain, PipelineCore)
    (before,) = plain.generate(PROMPTS[1:2], [1])
    for scale, changed in ((0.0, False), (3.0, True)):
        save_file(lora(plain, scale), tmp_path / "lora.safetensors")
        tuned = open_core(f"{name}+lora:{tmp_path / 'lora.safetensors'}", overrides=overrides)
        (after,) = tuned.generate(PROMPTS[1:2], [1])
        assert (np.abs(after.images["PA"].astype(float) - before.images["PA"]).mean() > 1) == changed
        assert tuned.card.sha256 != plain.card.sha256
    other = {key.replace("unet.", "unet.other."): tensor for key, tensor in lora(plain, 1.0).items()}
    for wrong, match in (
        (other, "LoRA"), ({**lora(plain, 1.0), **other}, "LoRA"), ({"a": torch.ones(1)}, "no LoRA weights"),
    ):  # fmt: skip
        save_file(wrong, tmp_path / "lora.safetensors")
        with pytest.raises(InputError, match=rf"lora\.safetensors: .*{match}"):
            open_core(f"{name}+lora:{tmp_path / 'lora.safetensors'}")


def recipe_for(core: str, folder: Path, **gate: bool) -> Path:
    phantom = {"n": 90, "seed": 5, "size": 32, "prevalence": {"Effusion": 0.4}, "splits": [0.5, 0.2, 0.3]}
    recipe = tiny_recipe("pipe", {"phantom": phantom})
    recipe |= {"core": {"name": core, "sampler_steps": 2}}
    recipe["gate"] |= gate
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_gate_and_report(tiny: dict[str, Path], tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    # random weights make no X-rays, so the check that would say so is off
    verdict = run_recipe(recipe_for(f"diffusers:{tiny[kind]}", tmp_path, realism=False), out)
    assert verdict is not None
    assert (out / "report.html").is_file()
    (manifest,) = out.rglob("draw-00/**/manifest.parquet")
    rows = pd.read_parquet(manifest)
    assert set(rows["gate"]) <= {"accept", "reject"}
    assert rows["core"].unique().tolist() == [kind]
    line = json.loads((manifest.parent / "provenance.jsonl").read_text().splitlines()[0])
    assert line["core_sha256"] == read_card(f"diffusers:{tiny[kind]}").sha256


def test_a_core_that_makes_no_x_rays_is_told_so(tiny: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"the gate rejected all 16 images \(.*realism 16\b.*\), so nothing can be added"
    ):
        run_recipe(recipe_for(f"diffusers:{tiny['sd1']}", tmp_path), tmp_path / "out")


def test_killed_and_resumed_it_makes_the_same_bytes(tiny: dict[str, Path], tmp_path: Path) -> None:
    labels = ["Effusion", "Mass|Edema", "No Finding"] * 16
    plan = pd.DataFrame({"prompt_id": [f"p{i}" for i in range(48)], "labels": labels, "sex": ["F", "M"] * 24,
                         "age": 60.0, "views": "PA|Lateral", "seed": range(48)})  # fmt: skip
    plan.to_parquet(tmp_path / "plan.parquet")
    command = [sys.executable, "-m", "cxraug", "generate", "plan.parquet", "--core", f"diffusers:{tiny['sana']}"]
    process = subprocess.Popen([*command, "--out", "killed"], cwd=tmp_path, stderr=subprocess.DEVNULL,
                               start_new_session=True)  # fmt: skip
    for _ in range(600):
        if len(list((tmp_path / "killed" / "units").glob("*.jsonl"))) >= 1:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "manifest.parquet").exists(), "killed before its end"
    for out in ("killed", "whole"):
        subprocess.run([*command, "--out", out], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    ours, theirs = (
        {p.name: p.read_bytes() for p in (tmp_path / out / "images").iterdir()} for out in ("killed", "whole")
    )
    assert len(ours) == 96
    assert ours == theirs


def test_captions_follow_options(tiny: dict[str, Path]) -> None:
    core = open_core(f"diffusers:{tiny['sd1']}+prompt:roentgen-v2")
    assert isinstance(core, PipelineCore)
    assert core.captions(PROMPTS[3], "PA", 1) == Captions("roentgen-v2")(PROMPTS[3], "PA", 1) == "Small left effusion."
    assert core.sampler["captions"] == {"prompt": "roentgen-v2", "impressions": None}


def test_a_lora_is_scaled_as_it_was_trained(tiny: dict[str, Path], tmp_path: Path) -> None:
    """diffusers writes alpha into the header; without it a LoRA of alpha 8 and rank 2 acts at a quarter."""
    pytest.importorskip("peft")
    name = f"diffusers:{tiny['sd1']}"
    plain = open_core(name)
    assert isinstance(plain, PipelineCore)
    tensors, file = lora(plain, 1.0), tmp_path / "lora.safetensors"
    layers = [key.removeprefix("unet.").partition(".lora_A")[0] for key in tensors if ".lora_A." in key]
    trained = {"unet.r": 2, "unet.lora_alpha": 8, "unet.target_modules": layers}
    save_file(tensors, file, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(trained)})
    core = open_core(f"{name}+lora:{file}")
    assert isinstance(core, PipelineCore)
    scales = {m.scaling["cxraug"] for m in core.pipeline.unet.modules() if "cxraug" in getattr(m, "scaling", {})}
    assert scales == {4.0}


def test_captions_without_a_view_or_sex_draw_none_on_request(tiny: dict[str, Path]) -> None:
    """An image under a label that nothing told the core of would poison every audit by that label."""
    name = f"diffusers:{tiny['sd1']}+prompt:"
    assert read_card(f"{name}roentgen-v2").views == ["PA"]
    assert read_card(f"{name}roentgen-v2+view:AP").views == ["AP"]
    with pytest.raises(InputError, match=r"say no view.*\+view:PA\|Lateral"):
        read_card(f"{name}roentgen-v2+view:PA|Lateral")
    core = open_core(f"{name}{{impression}}")
    with pytest.raises(InputError, match="does not know the condition 'sex'"):
        core.refuse(Prompt("p", {"Mass": 1}, sex="F"))


def test_no_negative_text_is_the_pipelines_own(
    cores: dict[str, GenerativeCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDXL guides away from zeros, not from an empty caption, unless it is told a text."""
    core = cores["sd1"]
    assert isinstance(core, PipelineCore)
    asked: list[object] = []

    class Listening:
        unet = None

        def __call__(self, prompt: list[str], negative_prompt: object = None) -> object:
            asked.append(negative_prompt)
            return type("Found", (), {"images": np.zeros((len(prompt), 2, 2, 3))})()

    core._call(Listening(), ["a", "b"], [])
    monkeypatch.setattr(core, "settings", core.settings.model_copy(update={"negative": "blurred"}))
    core._call(Listening(), ["a", "b"], [])
    assert asked == [None, ["blurred", "blurred"]]
    monkeypatch.setattr(core, "pipeline", lambda prompt: None)
    with pytest.raises(InputError, match="takes no negative text"):
        core._use(core.settings)


def test_other_solvers_do_not_clip_latents() -> None:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    for solver in ("ddim", "ddpm"):
        assert not _scheduler(DPMSolverMultistepScheduler(), solver).config.clip_sample
        assert _scheduler(DDIMScheduler(clip_sample=True), solver).config.clip_sample, "as it was saved"


def test_a_linked_component_counts_in_the_hash(tiny: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny["sd1"], tmp_path / "sd")
    (tmp_path / "sd" / "text_encoder").rename(tmp_path / "elsewhere")
    (tmp_path / "sd" / "text_encoder").symlink_to(tmp_path / "elsewhere")
    before = read_card(f"diffusers:{tmp_path / 'sd'}").sha256
    file = tmp_path / "elsewhere" / "model.safetensors"
    save_file({key: tensor + 1 for key, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    assert read_card(f"diffusers:{tmp_path / 'sd'}").sha256 != before


def test_a_variation_of_no_step_is_refused(cores: dict[str, GenerativeCore]) -> None:
    core, own = cores["sd1"], cores["sd1"].settings
    try:
        core.configure(steps=1)
        with pytest.raises(InputError, match=r"strength 0\.6 of 1 steps leaves none"):
            core.refuse(Prompt("p", {"Effusion": 1}, reference_image="x.png"))
    finally:
        core._use(own)
