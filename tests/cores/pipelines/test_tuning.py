"""LoRA fine-tuning of a pipeline: learns, resumes to the same bytes, opens again, and is checked for copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from cores.interrupted import dying_after
from tinypipelines import KINDS

from cxraug.cores import steps as steps_module
from cxraug.cores.core import Prompt
from cxraug.cores.pipelines.opening import open_pipeline
from cxraug.cores.pipelines.training import _loss, _noise_table, encode_texts, predict, refuse_untrainable
from cxraug.cores.recipe import read_core_recipe, start_over, train_core
from cxraug.cores.registry import open_core, read_card, write_sampler
from cxraug.errors import InputError
from cxraug.storage import write_json
from cxraug.studies.phantom.cohort import PhantomSettings, make_cohort

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = PhantomSettings(n=30, seed=4, size=32, prevalence={"Effusion": 0.4}, splits=(0.6, 0.2, 0.2))
    return make_cohort(settings, tmp_path_factory.mktemp("cohort") / "c")


def write(folder: Path, base: Path, manifest: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    core = {"kind": "lora", "base": f"diffusers:{base}", "rank": 4, "steps": 20, "batch_size": 4, "lr": 2e-3,
            "check_samples": 6, **changes}  # fmt: skip
    recipe = {"name": "tuned", "seed": 2, "data": {"manifest": str(manifest)}, "encoding": {"size": 32}, "core": core}
    path = folder / "lora.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_steps_change_the_images_and_the_core_opens_again(
    tiny: dict[str, Path], cohort: Path, tmp_path: Path, kind: str
) -> None:
    out = train_core(read_core_recipe(write(tmp_path, tiny[kind], cohort)), tmp_path / "out")
    card = read_card(out)
    assert card.kind == "lora"
    assert card.training_data["images"] == len(pd.read_parquet(cohort).query("split == 'train'"))
    assert len(card.hashes.patients) == card.training_data["patients"]
    assert "of 6 drawn images are closer to a training image" in card.settings["copies"]
    assert {"nearest training image", "closer than any real"} <= set(pd.read_csv(out / "copies.csv")["measure"])
    assert not (out / "checkpoint.pt").exists()
    asked, overrides = [Prompt("p", {"Effusion": 1}, sex="F")], {"steps": 2}
    (tuned,) = open_core(out, overrides=overrides).generate(asked, [1])
    (plain,) = open_core(f"diffusers:{tiny[kind]}", overrides=overrides).generate(asked, [1])
    assert np.abs(tuned.images["PA"].astype(float) - plain.images["PA"]).mean() > 0.2
    (by_name,) = open_core(f"diffusers:{tiny[kind]}+lora:{out / 'model.safetensors'}", overrides=overrides).generate(
        asked, [1]
    )
    assert np.array_equal(by_name.images["PA"], tuned.images["PA"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_pipelines_own(tiny: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows the answer, from the noise levels of the pipeline's own scheduler, has no loss."""
    pipeline = open_pipeline(tiny[kind])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    table = _noise_table(pipeline)
    assert (table is None) == (kind == "sana")
    clean = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    scaled = clean / pipeline.vae.config.scaling_factor
    latents = type("Encoded", (), {"latent": scaled} if kind == "sana" else {
        "latent_dist": type("Dist", (), {"sample": staticmethod(lambda: scaled)})})()  # fmt: skip
    monkeypatch.setattr(pipeline.vae, "encode", lambda _: latents)
    times: list[float] = []

    class Answer:
        device = torch.device("cpu")
        share = 1.0

        def __call__(self, noisy: torch.Tensor, timestep: torch.Tensor, **_: object) -> object:
            t = timestep.view(-1, 1, 1, 1)
            times.extend(timestep.tolist())
            if kind == "sana":
                right = (noisy - clean) / (t / 1000)  # (1 - t) x + t e - x = t (e - x)
            else:
                kept = pipeline.scheduler.alphas_cumprod[timestep].view(-1, 1, 1, 1)
                noise = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
                right = kept.sqrt() * noise - (1 - kept).sqrt() * clean if kind == "sd2" else noise
            return type("Found", (), {"sample": torch.cat([self.share * right, torch.ones_like(right)], 1)})()

    answer = Answer()
    for seed in range(5):
        torch.manual_seed(seed)
        assert _loss(pipeline, answer, table, pixels, ["a", "b"]).item() < 1e-4
    answer.share = 0.0
    assert _loss(pipeline, answer, table, pixels, ["a", "b"]).item() > 0.5
    assert max(times) - min(times) > 200


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_called_as_its_pipeline_calls_it(
    tiny: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline(tiny[kind])
    network = pipeline.unet if kind.startswith("sd") else pipeline.transformer
    own, seen = network.forward, []

    def listening(*arguments: object, **named: object) -> object:
        found = own(*arguments, **named)
        seen.append((arguments, named, found[0] if isinstance(found, tuple) else found.sample))
        return found

    monkeypatch.setattr(network, "forward", listening)
    how = {} if kind.startswith("sd") else {"clean_caption": False, "use_resolution_binning": False}
    pipeline("effusion", num_inference_steps=2, guidance_scale=1.0, height=32, width=32, **how,
             **({"complex_human_instruction": None} if kind == "sana" else {}))  # fmt: skip
    arguments, named, drawn = seen[0]
    noisy = arguments[0]
    t = arguments[1] if len(arguments) > 1 else named["timestep"]
    monkeypatch.undo()
    with torch.no_grad():
        found = predict(network, noisy, t, encode_texts(pipeline, ["effusion"]))
    assert torch.allclose(found, drawn[:, : noisy.shape[1]], atol=1e-5)


def test_interrupted_and_resumed_is_bit_identical(
    tiny: dict[str, Path], cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_module, "CHECKPOINT_EVERY", 2)
    recipe = read_core_recipe(write(tmp_path, tiny["sd1"], cohort, steps=6, check_samples=0))
    whole = train_core(recipe, tmp_path / "whole")
    with dying_after(4):
        train_core(recipe, tmp_path / "killed")
    again = train_core(recipe, tmp_path / "killed")
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert read_card(whole).settings["copies"] == "not looked for"
    start_over(again)
    assert not [p for p in again.rglob("*") if p.is_file()]


def test_a_chosen_sampler_is_that_of_the_pipeline(tiny: dict[str, Path], tmp_path: Path) -> None:
    card = read_card(f"diffusers:{tiny['sd1']}")
    about = {**card.settings, "lora": {"rank": 4}}
    tuned = card.model_copy(update={"kind": "lora", "settings": about})
    write_json(tmp_path / "card.json", tuned.model_dump(mode="json"))
    write_sampler(tmp_path, sampler_steps=7, guidance=2.0)
    found = read_card(tmp_path).settings
    assert (found["diffusers"]["sampler_steps"], found["diffusers"]["guidance"]) == (7, 2.0)
    assert found["lora"] == {"rank": 4}


def test_what_does_not_fit_is_refused(tiny: dict[str, Path], cohort: Path, tmp_path: Path) -> None:
    path = write(tmp_path, tiny["sd1"], cohort)
    raw = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**raw, "encoding": {"size": 64}}))
    with pytest.raises(InputError, match=r"encoding\.size.*64.*32"):
        train_core(read_core_recipe(path), tmp_path / "out")
    path.write_text(yaml.safe_dump({**raw, "core": {**raw["core"], "base": "phantom-nano"}}))
    with pytest.raises(InputError, match="base is no diffusers:PATH"):
        read_core_recipe(path)
    base = tmp_path / "base"
    shutil.copytree(tiny["sd1"], base)
    out = train_core(read_core_recipe(write(tmp_path, base, cohort, steps=1, check_samples=0)), tmp_path / "fine")
    config = json.loads((base / "scheduler" / "scheduler_config.json").read_text())
    (base / "scheduler" / "scheduler_config.json").write_text(json.dumps({**config, "beta_end": 0.02}))
    with pytest.raises(InputError, match="not the one that it was trained on"):
        open_core(out)


def test_networks_that_must_be_told_more_are_refused(tiny: dict[str, Path]) -> None:
    for kind in KINDS:
        refuse_untrainable(open_pipeline(tiny[kind]))
    large = open_pipeline(tiny["pixart"])
    large.transformer.use_additional_conditions = True
    with pytest.raises(InputError, match=r"PixArtAlphaPipeline cannot be fine-tuned.*with more conditions"):
        refuse_untrainable(large)
    other = open_pipeline(tiny["sd1"])
    other.unet.register_to_config(addition_embed_type="text_time")
    with pytest.raises(InputError, match="StableDiffusionPipeline cannot be fine-tuned"):
        refuse_untrainable(other)
