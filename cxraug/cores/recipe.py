"""The recipe of a core: which data, which encoding, which kind of core. One YAML file, checked before anything runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cxraug.cores.multiprompt.settings import STAGES, MultipromptSettings, Stage
from cxraug.cores.multiprompt.settings_autoencoder import AutoencoderSettings
from cxraug.cores.multiprompt.settings_codec import ReportCodecSettings
from cxraug.cores.pipelines.training import LoraSettings
from cxraug.cores.registry import CARD
from cxraug.cores.settings import DiffusionSettings, GaussianSettings
from cxraug.cores.spec import parse_spec, resolve_spec
from cxraug.errors import InputError, first_problem
from cxraug.storage import parse_yaml
from cxraug.studies.burned_text import BurnedText
from cxraug.studies.images import Encoding
from cxraug.studies.phantom.cohort import PhantomSettings

if TYPE_CHECKING:
    from cxraug.studies.manifest import Manifest

MAX_BYTES = 1_000_000
STAGE = "stage.json"
WRITTEN = (  # by a training into its folder
    "recipe.json", CARD, "model.safetensors", "checkpoint.pt", STAGE, "alignment.pt", "recognition.pt", "losses.csv",
    "sheets/step-*.png",
    "report/checkpoint.pt", "report/codec.safetensors", "report/codec.json",
    "autoencoder/checkpoint.pt", "autoencoder/autoencoder.safetensors", "autoencoder/autoencoder.json",
    "autoencoder/latents-*.npy", "copies.csv", "nearest_pairs.csv",
)  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CoreData(_Strict):
    """The training data: a phantom cohort or a manifest with a selection of its rows.

    ``splits`` names the splits that the core may see; by default only train. ``where``, ``findings`` and the rest are
    those of :func:`cxraug.studies.manifest.read_manifest`. Images with text burned into their pixels are left out
    unless ``burned_text`` is ``keep``: a core may learn to write it.
    """

    phantom: PhantomSettings | None = None
    manifest: str | None = None
    root: str | None = None
    where: dict[str, Any] = {}
    findings: list[str] | None = None
    label_columns: dict[str, str] | list[str] | None = None
    findings_annotated: dict[str, list[str]] | None = None
    splits: tuple[Literal["train", "val", "test"], ...] = ("train",)
    on_bad_image: Literal["error", "skip"] = "error"
    burned_text: BurnedText = "leave_out"

    @model_validator(mode="after")
    def _one_source(self) -> CoreData:
        if (self.manifest is None) == (self.phantom is None):
            raise ValueError("give either manifest or phantom")
        return self


class EncodingSettings(_Strict):
    """How images are brought to one size (see :class:`cxraug.studies.images.Encoding`)."""

    size: int = Field(64, ge=16, le=1024)
    fit: Literal["crop", "pad", "stretch"] = "crop"
    jpeg_quality: int | None = Field(None, ge=1, le=100)


class GaussianKind(GaussianSettings):
    """``core: {kind: gaussian, ...}``."""

    kind: Literal["gaussian"] = "gaussian"


class DiffusionKind(DiffusionSettings):
    """``core: {kind: diffusion, ...}``; ``init`` is the folder of an earlier core to fine-tune."""

    kind: Literal["diffusion"] = "diffusion"
    init: str | None = None


class MultipromptKind(MultipromptSettings):
    """``core: {kind: multiprompt, ...}``; ``report`` are settings of the report codec, null for a core without reports.

    ``autoencoder_training`` are settings of the autoencoder, where there is one. ``init`` is the folder of an earlier
    core to fine-tune, with ``lora`` above 0 by adapters.
    """

    kind: Literal["multiprompt"] = "multiprompt"
    report: ReportCodecSettings | None = ReportCodecSettings()
    autoencoder_training: AutoencoderSettings = AutoencoderSettings()
    init: str | None = None

    @model_validator(mode="after")
    def _something_to_adapt(self) -> MultipromptKind:
        if self.lora and self.init is None:
            raise ValueError("lora fine-tunes an earlier core: name its folder in init")
        return self


class LoraKind(LoraSettings):
    """``core: {kind: lora, base: "diffusers:PATH", ...}``: adapters on a pipeline of another program."""

    kind: Literal["lora"] = "lora"
    base: str

    @model_validator(mode="after")
    def _a_pipeline(self) -> LoraKind:
        spec = parse_spec(self.base)
        if spec is None or spec.kind != "diffusers" or "lora" in spec.options:
            raise ValueError("base is no diffusers:PATH without a LoRA")
        return self


class CoreRecipe(_Strict):
    """Everything that makes a core."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    licence: str = "as the training data"
    data: CoreData
    encoding: EncodingSettings = EncodingSettings()
    core: Annotated[GaussianKind | DiffusionKind | MultipromptKind | LoraKind, Field(discriminator="kind")]


def read_core_recipe(path: str | Path) -> CoreRecipe:
    """Read and check a core's recipe; paths in it are relative to its folder.

    Raises
    ------
    InputError
        One line with the key's path, for a missing file, bad YAML, an unknown key or an impossible value.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such recipe", file=path)
    if path.stat().st_size > MAX_BYTES:
        raise InputError("recipe is too large", file=path, expected=f"at most {MAX_BYTES} bytes")
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not valid YAML: {error}", file=path) from None
    if not isinstance(raw, dict):
        raise InputError("a recipe is a mapping of keys", file=path, found=type(raw).__name__)
    for section, keys in (("data", ("manifest", "root")), ("core", ("init",))):
        part = raw.get(section)
        for key in keys:
            if isinstance(part, dict) and isinstance(part.get(key), str):
                part[key] = str((path.parent / part[key]).resolve())
    core = raw.get("core")
    if isinstance(core, dict) and isinstance(core.get("base"), str) and parse_spec(core["base"]) is not None:
        core["base"] = resolve_spec(core["base"], path.parent)
    try:
        return CoreRecipe.model_validate(raw)
    except ValidationError as error:
        key, message = first_problem(error)
        raise InputError(f"{key or 'recipe'}: {message}", file=path) from None


def stages_of(recipe: CoreRecipe) -> tuple[Stage, ...]:
    """The stages of a recipe's training, in order; only multi-prompt cores have several.

    Fine-tuning keeps the first core's autoencoder, codec and shared space: its alignment only reads the data.
    """
    core = recipe.core
    if not isinstance(core, MultipromptKind):
        return ("denoiser",)
    if core.init is not None:
        return ("alignment", "denoiser")
    left_out = {"autoencoder": not core.autoencoder, "report": core.report is None}
    return tuple(stage for stage in STAGES if not left_out.get(stage, False))


def train_core(recipe: CoreRecipe, out: Path, *, until: Stage = "denoiser") -> Path:
    """Make or read the data, then fit or train the core in ``out``, going on where an earlier call stopped.

    ``until`` names the stage (one of :func:`stages_of`) after which to stop; ``stage.json`` in ``out`` names the last
    one that is finished. Data that can be made again (phantom images, decoded pixels) lie in ``out/data`` and go when
    the core is finished.
    """
    from cxraug.cores.conditions import Conditions
    from cxraug.cores.diffusion.training import train_diffusion
    from cxraug.cores.gaussian import fit_gaussian
    from cxraug.cores.registry import read_card
    from cxraug.storage import digest
    from cxraug.studies.burned_text import clean_rows
    from cxraug.studies.cache import build_cache
    from cxraug.studies.manifest import read_manifest
    from cxraug.studies.phantom.cohort import make_cohort
    from cxraug.studies.seen import Seen

    data, out = recipe.data, Path(out)
    if until not in stages_of(recipe):
        raise InputError("the training of this core has no such stage", found=until,
                         expected=f"one of {', '.join(stages_of(recipe))}")  # fmt: skip
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and (until != "denoiser" or finished_stage(out) != "alignment"):
        raise InputError("several processes can only train the denoiser of a multi-prompt core", file=out,
                         expected="first, in one process, the same training with --stage alignment")  # fmt: skip
    if _finished(recipe, out):
        return out
    if isinstance(recipe.core, MultipromptKind) and recipe.core.lora:
        from cxraug.cores.peft import need_peft

        need_peft()
    file = make_cohort(data.phantom, out / "data" / "phantom") if data.phantom else Path(data.manifest or "")
    manifest = read_manifest(
        file, root=data.root, where=data.where or None, findings=data.findings, label_columns=data.label_columns,
        annotated=data.findings_annotated,
    )  # fmt: skip
    every = manifest
    manifest = manifest.take(manifest.frame["split"].isin(data.splits).to_numpy())
    if not len(manifest):
        raise InputError("no rows to train on", file=file, expected=f"rows of {', '.join(data.splits)}")
    encoding = Encoding(**recipe.encoding.model_dump())
    manifest, cache = build_cache(manifest, out / "data" / "pixels", encoding, on_bad_image=data.on_bad_image)
    clean = clean_rows(cache.writing, data.burned_text)
    if not clean.all():
        manifest, cache = manifest.take(clean), cache.stored(clean, out / "data" / "without_text.npy")
    conditions = Conditions.from_manifest(manifest, data.findings)
    patients = manifest.frame["patient_id"]
    init = getattr(recipe.core, "init", None)
    if isinstance(recipe.core, LoraKind):
        from cxraug.cores.pipelines.tuning import tune_pipeline

        tune_pipeline(recipe, recipe.core, out, manifest, cache, every, described=_described(recipe, manifest, file))
        shutil.rmtree(out / "data", ignore_errors=True)
        return out
    key = read_card(init).hashes.key if init else digest([recipe.name, recipe.seed, "seen"])[:32]
    seen = Seen.of(patients, cache.sha, key=key)
    described = _described(recipe, manifest, file)
    if isinstance(recipe.core, GaussianKind):
        fit_gaussian(
            cache.pixels, conditions, out, components=recipe.core.components, seen=seen, training_data=described,
            name=recipe.name, seed=recipe.seed, licence=recipe.licence, encoding=encoding,
        )  # fmt: skip
    elif isinstance(recipe.core, MultipromptKind):
        from cxraug.cores.multiprompt.stages import train_multiprompt
        from cxraug.cores.multiprompt.studyset import read_studies

        prompted = MultipromptSettings(
            **recipe.core.model_dump(exclude={"kind", "init", "report", "autoencoder_training"})
        )
        studies = read_studies(manifest, cache.pixels, conditions.findings, grid=prompted.grid, fit=encoding.fit)
        train_multiprompt(
            studies, out, prompted, report=recipe.core.report, autoencoder=recipe.core.autoencoder_training,
            init=Path(init) if init else None, seen=seen, training_data=described, name=recipe.name, seed=recipe.seed,
            licence=recipe.licence, encoding=encoding, until=until,
        )  # fmt: skip
        if not (out / CARD).is_file():
            _reached(out, until, stages_of(recipe))
            return out
    else:
        settings = DiffusionSettings(**recipe.core.model_dump(exclude={"kind", "init"}))
        train_diffusion(
            cache.pixels, conditions, out, settings, init=Path(init) if init else None, seen=seen,
            training_data=described, name=recipe.name, seed=recipe.seed, licence=recipe.licence, encoding=encoding,
        )  # fmt: skip
    shutil.rmtree(out / "data", ignore_errors=True)
    return out


def _described(recipe: CoreRecipe, manifest: Manifest, file: Path) -> dict[str, Any]:
    """What a card says of the training data."""
    phantom = recipe.data.phantom
    counts = {"images": len(manifest), "patients": int(manifest.frame["patient_id"].nunique())}
    return counts | ({"phantom": phantom.model_dump(mode="json")} if phantom else {"manifest": file.name})


def _finished(recipe: CoreRecipe, out: Path) -> bool:
    """Whether ``out`` holds the finished core of this recipe; another recipe's folder is refused."""
    from cxraug.storage import write_json

    wanted = recipe.model_dump(mode="json")
    if (out / "recipe.json").is_file() and _read(out / "recipe.json") != recipe:
        raise InputError("the folder holds a core of another recipe", file=out, expected="a new folder or --fresh")
    if (out / CARD).is_file():
        if not (out / "recipe.json").is_file():
            raise InputError("the folder holds another core", file=out, expected="a new folder or --fresh")
        return True
    write_json(out / "recipe.json", wanted)
    return False


def _read(path: Path) -> CoreRecipe | None:
    """The recipe that an earlier call wrote; settings that came later have their defaults."""
    from cxraug.storage import read_json

    try:
        return CoreRecipe.model_validate(read_json(path))
    except ValidationError:
        return None


def _reached(out: Path, stage: Stage, stages: tuple[Stage, ...]) -> None:
    from cxraug.storage import write_json

    earlier = finished_stage(out)
    if earlier not in stages or stages.index(stage) > stages.index(earlier):
        write_json(out / STAGE, {"finished": stage})


def finished_stage(out: Path) -> Stage | None:
    """The last stage that an unfinished training in ``out`` has gone through, None before the first."""
    from cxraug.storage import read_json

    return read_json(out / STAGE)["finished"] if (out / STAGE).is_file() else None


def start_over(out: Path) -> None:
    """Remove what a training wrote into ``out``, and nothing else."""
    for pattern in WRITTEN:
        for file in out.glob(pattern):
            file.unlink(missing_ok=True)
    for folder in ("report", "sheets", "autoencoder"):
        if (out / folder).is_dir() and not any((out / folder).iterdir()):
            (out / folder).rmdir()
    shutil.rmtree(out / "data", ignore_errors=True)
