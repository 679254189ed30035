"""The recipe: everything one run does, in one checked YAML file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cxraug.balance.settings import PlanSettings
from cxraug.classifiers.settings import TrainSettings
from cxraug.cores.settings import DiffusionSettings
from cxraug.cores.spec import parse_spec, resolve_spec
from cxraug.errors import InputError, first_problem
from cxraug.evaluation.calibration import Asked
from cxraug.evaluation.endpoint import Endpoint
from cxraug.evaluation.evaluate import EvaluationSettings
from cxraug.gate.settings import SHARES, XRV_KEYS, GateSettings
from cxraug.storage import parse_yaml
from cxraug.studies.burned_text import BurnedText
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.phantom.cohort import PhantomSettings
from cxraug.studies.table import CSV_SUFFIXES, PARQUET_SUFFIXES

MAX_BYTES = 1_000_000
ArmKind = Literal[
    "real", "duplicated", "oversampled", "weighted", "augmented", "gaussian", "mixed", "pretrained",
    "real_pretrained", "outside", "ungated", "random_reject",
]  # fmt: skip
SYNTHETIC_ARMS = ("mixed", "pretrained")
WITHOUT_GATE = ("ungated", "random_reject")  # the core's images as no verdict has chosen them
CONTROLS: dict[str, tuple[str, ...]] = {
    "mixed": ("real", "duplicated", "oversampled", "weighted", "augmented", "gaussian", "outside", *WITHOUT_GATE),
    "pretrained": ("real", "real_pretrained", "duplicated", "outside"),
    "gaussian": ("real", "duplicated"),
    "ungated": ("real", "duplicated", "random_reject"),
}


class Strict(BaseModel):
    """A model in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class Limit(Strict):
    """Scarcity on purpose: keep only so many (or such a share) of the training patients of a finding or group."""

    finding: str | None = None
    group: dict[str, str] | None = None
    patients: int | None = Field(None, ge=1)
    share: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_of_each(self) -> Limit:
        if (self.finding is None) == (self.group is None):
            raise ValueError("name either a finding or a group")
        if (self.patients is None) == (self.share is None):
            raise ValueError("give either patients or share")
        return self


class DataSettings(Strict):
    """Where the studies come from, how images are encoded, and what is kept back on purpose."""

    manifest: str | None = None
    phantom: PhantomSettings | None = None
    root: str | None = None
    where: dict[str, Any] = {}
    findings: list[str] | None = None
    label_columns: dict[str, str] | list[str] | None = None
    findings_annotated: dict[str, list[str]] | None = None
    split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    size: int = Field(64, ge=16, le=1024)
    fit: Literal["crop", "pad", "stretch"] = "crop"
    jpeg_quality: int | None = Field(None, ge=1, le=100)
    on_bad_image: Literal["error", "skip"] = "error"
    limit: list[Limit] = []
    limit_val: bool = True

    @model_validator(mode="after")
    def _one_source(self) -> DataSettings:
        if (self.manifest is None) == (self.phantom is None):
            raise ValueError("give either manifest or phantom")
        return self

    @property
    def encoding(self) -> Encoding:
        """How every image of the run is brought to one size and encoding."""
        return Encoding(size=self.size, fit=self.fit, jpeg_quality=self.jpeg_quality)

    def read(self, path: str | Path) -> Manifest:
        """Read the manifest in ``path`` as these settings say."""
        return read_manifest(
            path,
            root=self.root,
            where=self.where or None,
            findings=self.findings,
            label_columns=self.label_columns,
            annotated=self.findings_annotated,
            split_fractions=self.split_fractions,
        )


class AuditSettings(Strict):
    """Groups that the audit and the plan look at."""

    groups: list[str] = ["sex", "age"]
    age_bins: tuple[int, ...] = (0, 20, 40, 60, 80)


class CoreSettings(Strict):
    """Which core is asked: a shipped one, a folder, ``gaussian`` (fitted on the spot), ``train`` (trained in the run).

    ``train`` fits once on the rows common to all draws and then fine-tunes inside each draw for ``finetune_steps``.
    ``device`` is where images are drawn: on ``cuda`` equal bytes are not promised.
    ``burned_text`` says whether cores that are fitted here see images with text burned into their pixels.
    """

    name: str = "phantom-nano"
    train: DiffusionSettings | None = None
    finetune_steps: int = Field(0, ge=0)
    sampler_steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0)
    device: Literal["cpu", "cuda"] = "cpu"
    burned_text: BurnedText = "leave_out"

    @model_validator(mode="after")
    def _train_settings(self) -> CoreSettings:
        if self.name == "train" and self.train is None:
            raise ValueError("core.name: train needs settings under core.train, for example train: {steps: 2000}")
        for key, none in (("train", "null"), ("finetune_steps", "0")):
            if self.name != "train" and getattr(self, key):
                raise ValueError(
                    f"core.{key} goes with core.name: train only; remove core.{key} (--set core.{key}={none})"
                )
        for key in ("sampler_steps", "guidance"):
            if self.name == "gaussian" and getattr(self, key) is not None:
                raise ValueError(f"core gaussian has no sampler; remove core.{key} (--set core.{key}=null)")
        return self


class ArmSettings(Strict):
    """The training mixes that are compared. ``ratios``: synthetic images per real one, chosen on validation.

    Without ``ratios`` the whole plan is used.
    """

    use: list[ArmKind] = ["real", "duplicated", "weighted", "gaussian", "mixed"]
    ratios: list[float] | None = None
    pretrain_share: float = Field(0.5, gt=0, lt=1)

    @model_validator(mode="after")
    def _ratios(self) -> ArmSettings:
        if self.ratios is not None and (not self.ratios or min(self.ratios) <= 0):
            raise ValueError("ratios must be a list of numbers above 0")
        if self.ratios is not None and sorted(set(self.ratios)) != self.ratios:
            raise ValueError("ratios must rise, each once: of two that score alike the smaller is chosen")
        if len(set(self.use)) != len(self.use):
            raise ValueError("an arm is named twice in use")
        if not set(self.use) & set(SYNTHETIC_ARMS):
            raise ValueError(f"use names no synthetic arm; add one of {', '.join(SYNTHETIC_ARMS)}")
        return self


class CurveSettings(Strict):
    """Learning curve of the real data alone: how much room is there for any augmentation?"""

    finding: str
    patients: list[int] = [10, 30, 100]
    draws: int = Field(2, ge=1)
    seeds: int = Field(2, ge=1)


class EvaluateSettings(Strict):
    """What is measured, and the one primary endpoint the verdict is about."""

    groups: list[str] = ["sex", "age"]
    age_bins: tuple[int, ...] = (0, 20, 40, 60, 80)
    primary: Endpoint
    threshold_rule: str = "youden"
    min_cell: int = Field(10, ge=2)
    metrics: list[str] | None = None
    non_inferiority: float | None = Field(None, gt=0)
    recalibration: Asked = "platt"  # on validation, before Brier score, ECE and calibration slope
    source_probe: bool = True
    probes: list[str] = []  # attributes that linear probes look for in the arms' features

    @field_validator("probes")
    @classmethod
    def _once_each(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value) or not all(value):
            raise ValueError("must name each attribute once")
        return value

    @model_validator(mode="after")
    def _known(self) -> EvaluateSettings:
        self.settings()
        return self

    def settings(self, **more: Any) -> EvaluationSettings:
        """These settings as the evaluation takes them."""
        own = self.model_dump(exclude={"recalibration", "source_probe", "probes", "metrics"}) | (
            {"metrics": self.metrics} if self.metrics else {}
        )
        try:
            return EvaluationSettings(**own, **more)
        except ValidationError as error:
            raise ValueError(": ".join(first_problem(error))) from None


class Recipe(Strict):
    """One run from a manifest to a verdict."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    draws: int = Field(1, ge=1)
    seeds: int = Field(3, ge=1)
    workers: int | None = Field(None, ge=1)
    data: DataSettings
    audit: AuditSettings = AuditSettings()
    plan: PlanSettings = PlanSettings()
    core: CoreSettings = CoreSettings()
    gate: GateSettings = GateSettings()
    arms: ArmSettings = ArmSettings()
    train: TrainSettings = TrainSettings()
    curve: CurveSettings | None = None
    evaluate: EvaluateSettings

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        primary = self.evaluate.primary
        for role in ("arm", "control"):
            if getattr(primary, role) not in self.arms.use:
                raise ValueError(f"evaluate.primary.{role} {getattr(primary, role)!r} is not in arms.use")
        if primary.control not in CONTROLS.get(primary.arm, ()):
            raise ValueError(
                f"evaluate.primary: {primary.control!r} is no control of {primary.arm!r}; found {primary.control!r}, "
                f"expected one of {', '.join(CONTROLS.get(primary.arm, ())) or 'none: the arm adds nothing new'}"
            )
        if not set(self.arms.use) & {"duplicated", "real_pretrained"}:
            raise ValueError("arms.use has no count-matched control; add duplicated (or real_pretrained)")
        if self.core.name in ("train", "gaussian") and "outside" in self.arms.use:
            raise ValueError(f"arms.use: outside needs a core with outside data, and {self.core.name!r} has none")
        if primary.finding != "macro":
            self._refuse_outside_findings("evaluate.primary.finding", primary.finding)
        if self.curve is not None:
            self._refuse_outside_findings("curve.finding", self.curve.finding)
        if self.curve is not None and not any(limit.finding == self.curve.finding for limit in self.data.limit):
            raise ValueError(f"curve.finding {self.curve.finding!r} has no entry in data.limit")
        if self.train.augment == "strong" and "augmented" in self.arms.use:
            raise ValueError(
                "arms.use: with train.augment strong the arm augmented is real again; remove it from arms.use"
            )
        if self.core.name == "gaussian" and {"gaussian", "mixed"} <= set(self.arms.use):
            raise ValueError(
                "arms.use: with core.name gaussian the arms gaussian and mixed are the same arm twice; "
                "name arms.use without gaussian"
            )
        if "real_pretrained" in self.arms.use and "pretrained" not in self.arms.use:
            raise ValueError("arms.use has real_pretrained, the control of pretrained, without pretrained")
        self._refuse_gate_controls()
        return self

    def _refuse_gate_controls(self) -> None:
        """Refuse the controls of a gate where there is nothing to compare them with, or no gate."""
        asked = [arm for arm in WITHOUT_GATE if arm in self.arms.use]
        if asked and "mixed" not in self.arms.use:
            raise ValueError(f"arms.use has {asked[0]}, a control of mixed, without mixed")
        if asked and not any(getattr(self.gate, check) for check in (*SHARES, "duplicates")):
            raise ValueError(
                f"arms.use: with every check of the gate turned off the arm {asked[0]} is mixed again; turn one on "
                "(--set gate.agreement=true) or remove it from arms.use"
            )

    def _refuse_outside_findings(self, key: str, finding: str) -> None:
        """Refuse a finding that ``data.findings`` lacks; either of the two may be the misspelt one."""
        names = self.data.findings
        if names is None or finding in names:
            return
        near = difflib.get_close_matches(finding, names, 1)
        hint = f"{near[0]!r} there may be misspelt" if near else f"it names {', '.join(names) or 'none'}"
        raise ValueError(f"data.findings does not name {finding!r}, which {key} asks for: {hint}")


def read_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read and check a recipe; ``overrides`` are ``key.path=value`` as of ``--set``.

    Relative paths inside a recipe start at the recipe's folder; those of ``overrides`` at the current folder.

    Raises
    ------
    InputError
        One line with the file and the key's path.
    """
    path = Path(path)
    return parse_recipe(_load(path), path, overrides)


def parse_recipe(raw: dict[str, Any], path: Path, overrides: list[str] | None = None) -> Recipe:
    """Check ``raw`` as a recipe that stands (or would stand) in ``path``."""
    _resolve(raw, path.parent)
    for override in overrides or []:
        _override(raw, override, path)
    raw.setdefault("name", path.stem)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise InputError(_one_line(error), file=path) from None


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError("no such recipe", file=path)
    if path.name.lower().endswith((*CSV_SUFFIXES, *PARQUET_SUFFIXES)):
        wanted = "a recipe (YAML); `cxraug recipe new` writes one for a manifest"
        raise InputError("this is a table", file=path, expected=wanted)
    if path.stat().st_size > MAX_BYTES:
        raise InputError("a recipe is a small text file", file=path, found=f"{path.stat().st_size} bytes")
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not valid YAML: {error}", file=path, expected="a recipe (YAML)") from None
    if not isinstance(raw, dict):
        raise InputError("not a recipe", file=path, found=type(raw).__name__, expected="keys and values")
    return raw


PATH_KEYS = (
    ("data", "manifest"), ("data", "root"), ("plan", "population"), ("train", "weights"),
    *(("gate", key) for key in ("weights", *XRV_KEYS)),
)  # fmt: skip


def _resolve(raw: dict[str, Any], base: Path) -> None:
    for part, key in PATH_KEYS:
        section = raw.get(part)
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = str((base / section[key]).resolve())
    core = raw.get("core")
    if isinstance(core, dict) and isinstance(core.get("name"), str):
        core["name"] = _core_name(core["name"], base)


def _core_name(name: str, base: Path) -> str:
    """A core's name with its paths made absolute, read from the folder ``base``."""
    if parse_spec(name) is not None:
        return resolve_spec(name, base)
    return str((base / name).resolve()) if (base / name / "card.json").is_file() else name


def _override(raw: dict[str, Any], text: str, path: Path) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError("--set takes key.path=value", found=text)
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        raise InputError(f"--set {key}: not valid YAML: {error}") from None
    *parents, last = key.split(".")
    node: Any = raw
    for parent in parents:
        node = node[int(parent)] if isinstance(node, list) and parent.isdigit() else node.setdefault(parent, {})
        if not isinstance(node, (dict, list)):
            raise InputError(f"--set {key}: {parent!r} holds no keys", file=path)
    if isinstance(node, list):
        node[int(last)] = parsed
    else:
        node[last] = parsed
    here = tuple(key.split("."))
    if isinstance(parsed, str) and here in PATH_KEYS:
        node[last] = str(Path(parsed).resolve())
    elif isinstance(parsed, str) and here == ("core", "name"):
        node[last] = _core_name(parsed, Path.cwd())


def _one_line(error: ValidationError) -> str:
    first, others = error.errors()[0], error.error_count() - 1
    key = ".".join(str(part) for part in first["loc"]) or "recipe"
    message = first["msg"].removeprefix("Value error, ")
    line = f"{key}: {message}"
    if first["type"] == "extra_forbidden":
        line = f"{key}: unknown key"
        near = difflib.get_close_matches(str(first["loc"][-1]), _known_keys(first["loc"][:-1]), 1)
        line += f"; did you mean {near[0]!r}?" if near else ""
    elif not isinstance(first["input"], dict) and first["type"] != "missing":
        line += f"; found {first['input']!r}"
    return line + (f" (and {others} more)" if others else "")


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    model: Any = Recipe
    for part in location:
        field = model.model_fields.get(part) if isinstance(part, str) and hasattr(model, "model_fields") else None
        if field is None:
            continue
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return list(getattr(model, "model_fields", {}))
