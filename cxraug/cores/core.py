"""The contract of every generative core: prompts in, studies out, refusals by name."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from cxraug.cores.given import FILES, given_boxes, given_files, read_given
from cxraug.errors import InputError
from cxraug.studies.columns import BOOLEANS
from cxraug.studies.images import Encoding
from cxraug.studies.labels import DEVICES, NO_FINDING, parse_labels
from cxraug.studies.seen import Seen

LATERAL = "Lateral"
VIEWS = ("PA", "AP", "AP Supine", "Lateral", "unknown")
NO_VIEWS = "none"  # in a plan's column ``views``: a report alone
PLAN_COLUMNS = (
    "prompt_id", "labels", "sex", "age", "race", "views", "source", "report", "mask", "boxes",
    "reference_image", "conditions", "seed", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """Everything a study is conditioned on. Empty strings, ``None`` and NaN mean "not asked for".

    ``labels`` maps a finding to 1 (present) or 0 (absent); a finding that is not named is left to the core.
    ``age`` is in years. ``conditions`` holds whatever else a core takes.

    ``views`` are the images wanted; none, if a report alone is. ``wants_report``: whether a core that writes reports
    is to write one. A ``report`` that is given is a condition, and then none is written.

    ``mask`` and ``reference_image`` are paths, or JSON objects view -> path. A bare path belongs to the first frontal
    view asked for, a bare reference image to PA. A reference in a projection (frontal or lateral) that is not asked
    for is taken pixel by pixel; in one that is also asked for it enters through the shared embedding only: the result
    is a variation of that study. For what mask files hold see :func:`cxraug.cores.given.read_mask`.

    ``boxes`` is a JSON list of ``{label, x, y, w, h}`` in pixels of the core's output, if need be with ``view``
    (default: the first frontal view asked for). It says where all lesions of that view lie for the labels it names;
    ``[]`` means no boxes.
    """

    prompt_id: str
    labels: Mapping[str, int] = field(default_factory=dict)
    sex: str | None = None
    age: float | None = None
    race: str | None = None
    views: tuple[str, ...] = ("PA",)
    source: str | None = None
    report: str | None = None
    mask: str | None = None
    boxes: str | None = None
    reference_image: str | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    wants_report: bool = True

    @property
    def writes_report(self) -> bool:
        """Whether a report is to be written: it is wanted and not given."""
        return self.wants_report and self.report is None

    @property
    def frontal_view(self) -> str:
        """The first frontal view asked for, PA where none is: whose a mask or box without a view is."""
        return frontal_view(self.views)

    def asks_for(self) -> set[str]:
        """Names of the conditions that this prompt sets."""
        asked = ({"views"} if self.views else set()) | ({"findings"} if self.labels else set())
        asked |= {n for n in ("sex", "age", "race", "source", "report", "mask", "boxes", "reference_image")
                  if getattr(self, n) is not None}  # fmt: skip
        return asked | set(self.conditions)


@dataclass
class Study:
    """One generated study: ``images`` maps a view to uint8 pixels (H, W), 0 black to 255 white; ``report`` is text.

    Where a report alone was wanted, there are no images. ``boxes`` maps a view to the boxes, as a manifest has them,
    where a core put findings that its prompt did not place.
    """

    images: dict[str, np.ndarray]
    report: str | None = None
    boxes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class Card(BaseModel):
    """What a core is, as written beside its weights (``card.json``)."""

    model_config = ConfigDict(extra="forbid")
    name: str
    version: str
    kind: str  # which class loads it: "gaussian", "diffusion", ...
    sha256: str  # of the weights file
    resolution: int
    views: list[str]
    findings: list[str]
    conditions: list[str]  # names as in Prompt.asks_for
    licence: str
    training_data: dict[str, Any]  # a description; {"phantom": {...settings}} where the data can be made again
    seen: dict[str, Any]  # Seen.to_json()
    sources: list[str] = []
    races: list[str] = []
    encoding: dict[str, Any] = {}  # how its images were made square: the fields of Encoding; none: cropped
    settings: dict[str, Any] = {}  # of training and sampling

    @property
    def hashes(self) -> Seen:
        """The keyed hashes of what the core was trained on."""
        return Seen.from_json(self.seen)

    @property
    def image_encoding(self) -> Encoding:
        """How given images are brought to what the core was trained on."""
        return Encoding(**{**self.encoding, "size": self.resolution})


class GenerativeCore(ABC):
    """A generative model behind one contract.

    Subclasses set ``card``, ``batch_size`` (the shape in which everything is computed, so that bytes do not depend
    on how work is cut) and implement :meth:`_generate`.
    """

    card: Card
    batch_size: int = 16
    sampler: Mapping[str, Any] = {}  # what provenance records: scheduler, steps, guidance, ...

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions that prompts may set: those of the card, and what sampler settings add to them."""
        return self.card.conditions

    def refuse(self, prompt: Prompt) -> None:
        """Raise :class:`InputError` that names a condition, finding or view of ``prompt`` this core cannot honour.

        So are combinations that cannot be: nothing wanted, a box of a finding that the labels deny, two reference
        images of one projection. Files are not opened here.
        """
        card, where = self.card, f"prompt {prompt.prompt_id}"
        unknown = sorted(prompt.asks_for() - set(self.conditions))
        if unknown:
            raise InputError(
                f"{where}: core {card.name} does not know the condition {unknown[0]!r}",
                expected=f"only {', '.join(self.conditions)}",
            )
        if prompt.sex not in (None, "M", "F"):
            raise InputError(f"{where}: unknown sex", found=prompt.sex, expected="M, F or nothing")
        files = {what: given_files(prompt, what) for what in FILES}
        boxes = given_boxes(prompt, resolution=card.resolution, findings=card.findings)
        views = [*prompt.views, *files["mask"], *files["reference_image"], *boxes]
        for what, asked, known in (
            ("finding", [f for f in prompt.labels if f != NO_FINDING], card.findings),
            ("view", views, card.views),
            ("source", [prompt.source] if prompt.source is not None else [], card.sources),
            ("race", [prompt.race] if prompt.race is not None else [], card.races),
        ):
            for name in asked:
                if name not in known:
                    raise InputError(
                        f"{where}: core {card.name} does not know the {what} {name!r}",
                        expected=f"one of {', '.join(known) or 'none'}",
                    )
        if not prompt.views and not prompt.writes_report:
            raise InputError(
                f"{where}: nothing is wanted, neither a view nor a report", expected="at least one of them"
            )
        if not prompt.views and not card.settings.get("writes_report"):
            raise InputError(f"{where}: core {card.name} writes no report without a view", expected="at least one view")
        references = list(files["reference_image"])
        if sum(view == LATERAL for view in references) > 1 or sum(view != LATERAL for view in references) > 1:
            expected = "at most one frontal and one lateral"
            raise InputError(f"{where}: two reference images of one projection", found=references, expected=expected)
        healthy = prompt.labels.get(NO_FINDING) == 1
        for label in [box[0] for part in boxes.values() for box in part]:
            if prompt.labels.get(label, 0 if healthy and label not in DEVICES else 1) == 0:
                expected = "a box of a finding that is present, or left open"
                raise InputError(f"{where}: a box of {label!r}, which the labels deny", expected=expected)

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Study]:
        """Generate one study per prompt; the same prompt and seed give the same bytes on one kind of machine.

        A study has a report only where one is wanted and not given. Raises :class:`InputError` for a prompt the core
        cannot honour or a file that cannot be read, before anything is computed.
        """
        if len(prompts) != len(seeds):
            raise InputError("prompts and seeds differ in length", found=len(seeds), expected=str(len(prompts)))
        for prompt in prompts:
            self.refuse(prompt)
        files = {(p.mask, p.reference_image): p for p in prompts if p.mask or p.reference_image}
        for prompt in files.values():
            read_given(prompt, resolution=self.card.resolution, findings=self.card.findings,
                       encoding=self.card.image_encoding)  # fmt: skip
        studies: list[Study] = []
        for start in range(0, len(prompts), self.batch_size):
            stop = start + self.batch_size
            part, part_seeds = list(prompts[start:stop]), list(seeds[start:stop])
            n = len(part)
            part += [part[-1]] * (self.batch_size - n)
            part_seeds += [part_seeds[-1]] * (self.batch_size - n)
            studies += self._generate(part, part_seeds)[:n]
        wanted = [prompt.writes_report for prompt in prompts]
        return [s if report else replace(s, report=None) for s, report in zip(studies, wanted, strict=True)]

    def configure(self, **sampler: Any) -> None:
        """Change sampler settings (``steps``, ``guidance``, ...); None keeps one. Cores without any take only None."""
        changed = [key for key, value in sampler.items() if value is not None]
        if changed:
            raise InputError(f"core {self.card.name} has no sampler setting {changed[0]!r}")

    def noise_levels(self) -> list[float]:
        """Noise levels in (0, 1] of the sampler's steps, falling; none of a core without steps."""
        return []

    @abstractmethod
    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        """Generate exactly ``batch_size`` studies; prompts were checked."""


def draw_by_view(
    prompts: Sequence[Prompt], draw: Callable[[list[str]], Iterable[np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """View -> pixels of every prompt, for cores that draw each view by itself.

    ``draw`` takes one view per prompt and returns one image per prompt. A prompt with fewer views than others is drawn
    along, in its first view, so that the shape of a batch never changes.
    """
    images: list[dict[str, np.ndarray]] = [{} for _ in prompts]
    for slot in range(max(len(p.views) for p in prompts)):
        views = [p.views[slot] if slot < len(p.views) else p.views[0] for p in prompts]
        for image, view, pixels in zip(images, views, draw(views), strict=True):
            image.setdefault(view, pixels)
    return images


def frontal_view(views: Sequence[str]) -> str:
    """The first frontal one of ``views``, PA where none is."""
    return next((view for view in views if view != LATERAL), "PA")


def prompts_from_plan(plan: pd.DataFrame, findings: Sequence[str] = ()) -> list[Prompt]:
    """Read a plan's rows (columns of the contract, missing optional ones allowed) as prompts.

    ``findings`` are those the core knows: in a row that has labels, those it does not name are asked to be absent, as
    the grammar of labels reads them everywhere (left open, a core would draw some of them under a label that denies
    them). Uncertain ones (``?X``) are left to the core. Two things a plan may say beyond its contract: ``views`` may
    be ``none`` (a report alone), and a column ``wants_report`` (true or false) may stand beside the others.

    Raises ``ValueError`` for text that is no label, number, JSON or truth value, and for a report given and wanted.
    """

    def text(row: Mapping[Any, Any], name: str) -> str | None:
        value = row.get(name)
        return None if value is None or value != value or value == "" else str(value)

    prompts = []
    for row in plan.to_dict("records"):
        age = row.get("age")
        views, report, wants = (text(row, name) for name in ("views", "report", "wants_report"))
        if wants is not None and wants.lower().removesuffix(".0") not in BOOLEANS:
            raise ValueError(f"wants_report is {wants!r}, neither true nor false")
        wants_report = wants is None or BOOLEANS[wants.lower().removesuffix(".0")]
        if wants is not None and wants_report and report is not None:
            raise ValueError("a report is given and one is wanted")
        named = parse_labels(text(row, "labels") or "")
        absent = {f: 0 for f in findings if f not in named} if named else {}
        prompts.append(
            Prompt(
                prompt_id=str(row["prompt_id"]),
                labels={k: v for k, v in named.items() if v in (0, 1)} | absent,
                sex=text(row, "sex"),
                age=None if age is None or age != age else float(age),
                race=text(row, "race"),
                views=() if views == NO_VIEWS else tuple((views or "PA").split("|")),
                source=text(row, "source"),
                report=report,
                mask=text(row, "mask"),
                boxes=text(row, "boxes"),
                reference_image=text(row, "reference_image"),
                conditions=json.loads(text(row, "conditions") or "{}"),
                wants_report=wants_report,
            )
        )
    return prompts
