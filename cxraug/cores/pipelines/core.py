"""Any text-to-image pipeline of diffusers behind the contract of cores."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxraug import __version__
from cxraug.cores.captions import Captions, captions_of
from cxraug.cores.core import LATERAL, Card, Prompt, Study, draw_by_view
from cxraug.cores.given import given_files, given_sha256, read_given
from cxraug.cores.grey import grey_pixels
from cxraug.cores.pipelines.lora import add_lora, denoiser_of
from cxraug.cores.pipelines.opening import INDEX, check_pipeline, described_in, open_pipeline, read_index
from cxraug.cores.pipelines.settings import SAMPLER, SOLVERS, PipelineSettings
from cxraug.cores.pixel_core import stream
from cxraug.cores.sampled_core import SampledCore
from cxraug.cores.spec import CoreSpec
from cxraug.errors import InputError
from cxraug.evaluation.report_terms import TERMS
from cxraug.storage import digest, read_json
from cxraug.studies.seen import Seen

VIEWS = ("PA", "AP", "Lateral")
RACES = ("White", "Black", "Asian", "Hispanic", "Other")
CONDITIONS = ("views", "findings", "sex", "age", "race", "report", "severity")
WEIGHTS = {".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".json", ".txt", ".model"}


class PipelineCore(SampledCore):
    """Every view of a study is drawn by itself, from a caption and a random stream of its own."""

    sampler_fields = SAMPLER

    def __init__(self, card: Card, pipeline: Any, captions: Captions, settings: PipelineSettings, *,
                 device: str = "cpu") -> None:  # fmt: skip
        self.card, self.device, self.captions = card, device, captions
        self.pipeline = pipeline.to(device)
        self.dtype = str(denoiser_of(pipeline)[1].dtype).removeprefix("torch.")
        self.batch_size = settings.sample_batch
        self._own_scheduler = pipeline.scheduler
        self._variation = _image_to_image(pipeline)
        self._use(settings)

    def _use(self, settings: Any) -> None:
        known = inspect.signature(self.pipeline.__call__).parameters
        if settings.negative and "negative_prompt" not in known:
            raise InputError(f"{type(self.pipeline).__name__} takes no negative text", found=settings.negative)
        super()._use(settings)
        solver = settings.solver
        if solver == "own":
            self.pipeline.scheduler = self._own_scheduler
        else:
            self.pipeline.scheduler = _scheduler(self._own_scheduler, solver)
        if self._variation is not None:
            self._variation.scheduler = self.pipeline.scheduler
        name = type(self.pipeline.scheduler).__name__
        self.sampler = {**self.sampler, "scheduler": name, "solver": solver, "captions": self.captions.settings}

    def refuse(self, prompt: Prompt) -> None:
        """As the contract, and references in another projection than asked for: a pipeline varies, but cannot turn."""
        super().refuse(prompt)
        asked = {view == LATERAL for view in prompt.views}
        for view in given_files(prompt, "reference_image"):
            if asked != {view == LATERAL}:
                raise InputError(f"prompt {prompt.prompt_id}: a reference image in {view}, and other views asked for",
                                 found="|".join(prompt.views), expected="views of the same projection")  # fmt: skip
        for view in prompt.views:
            self.captions(prompt, view, 0)
        steps, strength = self.settings.sampler_steps, self.settings.strength
        if prompt.reference_image is not None and int(steps * strength) < 1:
            raise InputError(f"prompt {prompt.prompt_id}: strength {strength:g} of {steps} steps leaves none to vary "
                             "the reference image", expected="steps * strength of at least 1")  # fmt: skip

    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        return [Study(images) for images in draw_by_view(prompts, lambda views: self._draw(prompts, views, seeds))]

    @torch.no_grad()
    def _draw(self, prompts: Sequence[Prompt], views: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        captions = [self.captions(p, view, seed) for p, view, seed in zip(prompts, views, seeds, strict=True)]
        given = [bool(given_files(p, "reference_image")) for p in prompts]
        pixels: list[np.ndarray | None] = [None] * len(prompts)
        for varied in sorted(set(given)):
            rows = [i for i, g in enumerate(given) if g == varied]
            padded = rows + [rows[-1]] * (len(prompts) - len(rows))  # one batch shape, whatever the neighbours are
            generators = [stream(seeds[i], views[i]) for i in padded]
            texts = [captions[i] for i in padded]
            found = self._varied([prompts[i] for i in padded], texts, generators) if varied else self._call(
                self.pipeline, texts, generators, height=self.card.resolution, width=self.card.resolution)  # fmt: skip
            for i, image in zip(rows, found, strict=False):
                where = f"core {self.card.name}, prompt {prompts[i].prompt_id}, {views[i]}"
                pixels[i] = grey_pixels(image, where, self.settings.colour)
        return [image for image in pixels if image is not None]

    def _varied(self, prompts: list[Prompt], texts: list[str], generators: list[torch.Generator]) -> np.ndarray:
        assert self._variation is not None
        how: dict[str, Any] = {"resolution": self.card.resolution, "findings": self.card.findings}
        images = [next(iter(read_given(p, **how).images.values())) for p in prompts]
        pixels = torch.from_numpy(np.stack(images)).float()[:, None].expand(-1, 3, -1, -1) / 255
        return self._call(self._variation, texts, generators, image=pixels, strength=self.settings.strength)

    def _call(self, pipeline: Any, texts: list[str], generators: list[torch.Generator], **more: Any) -> np.ndarray:
        """(n, R, R, 3) in [0, 1]."""
        known = inspect.signature(pipeline.__call__).parameters
        negative = self.settings.negative  # Stable Diffusion wants one per caption, the transformers one for all
        if negative:  # what stands for no text is the pipeline's own: some (SDXL) take zeros, not an empty caption
            more["negative_prompt"] = [negative] * len(texts) if hasattr(pipeline, "unet") else negative
        asked = {
            "prompt": texts,
            "num_inference_steps": self.settings.sampler_steps, "guidance_scale": self.settings.guidance,
            "generator": generators, "output_type": "np", "clean_caption": False, "use_resolution_binning": False,
            "complex_human_instruction": None, **more,
        }  # fmt: skip
        return np.asarray(pipeline(**{key: value for key, value in asked.items() if key in known}).images)


def open_diffusers(spec: CoreSpec, *, card: Card | None = None, device: str = "cpu") -> PipelineCore:
    """Open ``diffusers:PATH`` with its options (:data:`cxraug.cores.spec.OPTIONS`), under another ``card`` if given."""
    card = card or read_diffusers_card(spec)
    config = spec.options.get("config")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32  # half precision overflows in decoders
    pipeline = open_pipeline(Path(spec.path), None if config is None else Path(config), dtype=dtype)
    if "lora" in spec.options:
        add_lora(pipeline, Path(spec.options["lora"]))
    if "reference_image" in card.conditions and _image_to_image(pipeline) is None:
        card = card.model_copy(update={"conditions": [c for c in card.conditions if c != "reference_image"]})
    settings = PipelineSettings(**card.settings["diffusers"])
    return PipelineCore(card, pipeline, captions_of(spec), settings, device=device)


def read_diffusers_card(spec: CoreSpec) -> Card:
    """The card of a pipeline, from its files; weights are hashed and compared with their networks, not loaded."""
    path, options = Path(spec.path), spec.options
    folder = described_in(path, Path(options["config"]) if "config" in options else None)
    kind, components = check_pipeline(path) if path.is_dir() else read_index(folder)
    captions = captions_of(spec)
    findings = options.get("findings", "|".join(TERMS)).split("|")
    solver = options.get("scheduler", "own")
    if solver not in ("own", *SOLVERS):
        raise InputError("+scheduler: unknown", found=solver, expected=", ".join(("own", *SOLVERS)))
    settings = PipelineSettings(solver=solver, negative=options.get("negative", ""))  # type: ignore[arg-type]
    views = captions.views(options.get("view"), VIEWS)
    varies = "StableDiffusion" in kind.__name__
    hashes = {"weights": _files_sha256(path), "config": _files_sha256(folder)}
    if "lora" in options:
        hashes["lora"] = _files_sha256(Path(options["lora"]))
    return Card(
        name=path.stem if path.is_file() else path.resolve().name, version=__version__, kind="diffusers",
        sha256=digest(hashes),
        resolution=_resolution(folder, components), views=views, findings=findings,
        conditions=captions.conditions([*CONDITIONS, *(["reference_image"] if varies else [])]),
        licence="as its source says", training_data={"description": "unknown to cxraug: see the pipeline's source"},
        seen=Seen.of([], [], key=digest(hashes)[:32]).to_json(), races=list(RACES),
        settings={"diffusers": settings.model_dump(mode="json"), "pipeline": kind.__name__,
                  "components": {name: what for name, (_, what) in sorted(components.items())},
                  "captions": captions.settings, "files": hashes},
    )  # fmt: skip


def _files_sha256(path: Path) -> str:
    files = [path] if path.is_file() else _files_below(path)
    if not files:
        raise InputError("no such file", file=path)
    named = [(str(p.relative_to(path)) if p != path else p.name, given_sha256(p)) for p in files]
    return hashlib.sha256(repr(named).encode()).hexdigest()


def _files_below(folder: Path) -> list[Path]:
    """Also of components that are links to folders elsewhere, as large text encoders often are."""
    found = (Path(at) / name for at, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(p for p in found if p.is_file() and p.suffix in WEIGHTS)


def _resolution(folder: Path, components: dict[str, tuple[str, str]]) -> int:
    """Side of the images: what the denoiser was trained on, times the factor of the decoder."""
    name = next((n for n in ("unet", "transformer") if n in components), None)
    if name is None or "vae" not in components:
        raise InputError("a pipeline without a denoiser or decoder of latents", file=folder / INDEX,
                         found=", ".join(components))  # fmt: skip
    size = read_json(folder / name / "config.json").get("sample_size")
    vae = read_json(folder / "vae" / "config.json")
    blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
    if not isinstance(size, int) or not isinstance(blocks, list):
        raise InputError("no size of images", file=folder / name / "config.json", expected="sample_size, a number")
    return int(size * 2 ** (len(blocks) - 1))


def _scheduler(own: Any, solver: str) -> Any:
    import diffusers

    kind = getattr(diffusers, SOLVERS[solver])
    flow = own.config.get("prediction_type") == "flow_prediction" or own.config.get("use_flow_sigmas", False)
    if flow and "use_flow_sigmas" not in inspect.signature(kind.__init__).parameters:
        raise InputError(f"the core's network predicts flows, and {solver} does not know them", expected="own or dpm++")
    if type(own).__name__.startswith("FlowMatch"):
        raise InputError(f"{type(own).__name__} has no equal among other solvers", found=solver, expected="own")
    more: dict[str, Any] = {}
    chosen = set(own.config) - set(own.config.get("_use_default_values", ()))
    if "clip_sample" in inspect.signature(kind.__init__).parameters and "clip_sample" not in chosen:
        more["clip_sample"] = False  # their default is for pixels: latents are no numbers between -1 and 1
    return kind.from_config(own.config, **more)


def _image_to_image(pipeline: Any) -> Any | None:
    """The pipeline's twin that begins at an image; None where diffusers has none."""
    from diffusers import AutoPipelineForImage2Image

    try:
        twin = AutoPipelineForImage2Image.from_pipe(pipeline)
    except (ValueError, TypeError):
        return None
    twin.set_progress_bar_config(disable=True)
    return twin
