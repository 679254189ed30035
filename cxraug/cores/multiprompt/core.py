"""The multi-prompt core behind the contract: any subset of conditions and slots given, any slots wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cxraug.cores.conditions import Conditions, Vocabulary
from cxraug.cores.core import LATERAL, Card, Prompt, Study
from cxraug.cores.given import Given, given_files, read_given
from cxraug.cores.linear_gaussian import LinearGaussian
from cxraug.cores.multiprompt.alignment import Alignment
from cxraug.cores.multiprompt.autoencoder import ViewAutoencoder
from cxraug.cores.multiprompt.denoiser import JITTER, Asked, MultipromptDenoiser
from cxraug.cores.multiprompt.network import FRONTAL, LATERAL_SLOT, REPORT, SLOTS
from cxraug.cores.multiprompt.placement import Placement
from cxraug.cores.multiprompt.recognition import Recognition
from cxraug.cores.multiprompt.report_codec import ReportCodec
from cxraug.cores.multiprompt.sampling import Model, guided, noise_levels, sample
from cxraug.cores.multiprompt.settings import SAMPLER, MultipromptSettings
from cxraug.cores.multiprompt.settings_autoencoder import AutoencoderSettings
from cxraug.cores.multiprompt.spatial import Layout
from cxraug.cores.multiprompt.spectrum import SpectralGaussian, as_float
from cxraug.cores.multiprompt.stated_age import state_age
from cxraug.cores.multiprompt.studyset import general_entries, mask_planes
from cxraug.cores.pixel_core import load_weights, stream, to_uint8, vocabulary_of
from cxraug.cores.sampled_core import SampledCore
from cxraug.errors import InputError


@dataclass(frozen=True)
class Role:
    """What a batch computes: prompts of one role share it, so an image never depends on its neighbours' roles."""

    wanted: tuple[int, ...]  # view slots
    given: tuple[int, ...]
    varied: tuple[int, ...]  # those of ``wanted`` that start from a reference image
    report: str  # "write", "given" or "none"
    attributes: bool
    text: bool


class MultipromptCore(SampledCore):
    """Samples frontal view, lateral view and report from one denoiser. ``settings`` may override the card's sampler."""

    sampler_fields = SAMPLER

    def __init__(
        self,
        card: Card,
        denoiser: MultipromptDenoiser,
        settings: MultipromptSettings,
        *,
        codec: ReportCodec | None = None,
        alignment: Alignment | None = None,
        autoencoder: ViewAutoencoder | None = None,
        placement: Placement | None = None,
        recognition: Recognition | None = None,
        device: str = "cpu",
    ) -> None:
        self.card, self.device = card, device
        self.vocabulary = vocabulary_of(card)
        self.denoiser = denoiser.to(device).eval().requires_grad_(False)
        self.codec = None if codec is None else codec.to(device).eval().requires_grad_(False)
        self.alignment = None if alignment is None else alignment.to(device).eval().requires_grad_(False)
        self.autoencoder = None if autoencoder is None else autoencoder.to(device).eval().requires_grad_(False)
        self.placement = placement
        self.recognition = None if recognition is None else recognition.to(device).eval().requires_grad_(False)
        self.batch_size = settings.sample_batch
        self.dtype = str(denoiser.dtype).removeprefix("torch.")
        self._use(settings)

    def noise_levels(self) -> list[float]:
        """As the contract."""
        return noise_levels(self.settings.sampler_steps, self.settings.flow_shift).tolist()  # type: ignore[no-any-return]

    @property
    def conditions(self) -> list[str]:
        """Those of the card; below strength 1 also a reference image, which any denoiser can vary."""
        more = ["reference_image"] if self.settings.strength < 1 else []
        return list(dict.fromkeys([*self.card.conditions, *more]))

    def refuse(self, prompt: Prompt) -> None:
        """As the contract, and views that this denoiser cannot draw together: one of each projection at most.

        A reference image of a projection that is not asked for takes a core that was trained with such ones.
        """
        super().refuse(prompt)
        slots = [_slot(view) for view in prompt.views]
        references = {_slot(view) for view in given_files(prompt, "reference_image")}
        if len(set(slots)) < len(slots):
            raise InputError(f"prompt {prompt.prompt_id}: two views of one projection", found="|".join(prompt.views),
                             expected="at most one frontal and one lateral view")  # fmt: skip
        if self.alignment is None and self.settings.strength == 1 and set(slots) & references:
            expected = "one of another projection, or strength below 1"
            raise InputError(f"prompt {prompt.prompt_id}: core {self.card.name} has no shared space to vary "
                             "a reference image in", expected=expected)  # fmt: skip
        if "reference_image" not in self.card.conditions and references - set(slots):
            raise InputError(f"prompt {prompt.prompt_id}: core {self.card.name} only varies a reference image, and a "
                             "view of its projection is not asked for", found="|".join(prompt.views))  # fmt: skip

    def embed(self, content: Sequence[str] | np.ndarray, view: str | None = None) -> np.ndarray:
        """(n, e) unit vectors in the shared space of reports (texts) or of uint8 images (n, R, R) of ``view``."""
        if self.alignment is None:
            raise InputError(f"core {self.card.name} has no shared space")
        with torch.no_grad():
            if view is None:
                assert self.codec is not None
                return self.alignment.embed(REPORT, self.codec.encode([str(c) for c in content])).cpu().numpy()
            return self.alignment.embed(_slot(view), self._maps(np.asarray(content))).cpu().numpy()

    def _maps(self, images: np.ndarray) -> Tensor:
        """(n, C, S, S) what the denoiser works on, of uint8 images (n, R, R): their pixels, or latents of them."""
        pixels = as_float(images[:, None]).to(self.device)
        return pixels if self.autoencoder is None else self.autoencoder.encode(pixels)

    @torch.no_grad()
    def denoising_loss(
        self, pixels: np.ndarray, conditions: Conditions, levels: Sequence[float], seed: int
    ) -> np.ndarray:
        """(n, levels) squared residual in units of the Wiener filter's deviation, of uint8 pixels (n, R, R).

        Each view stands alone, without report or other views; all images get the same noise, which follows from
        ``seed``.
        """
        found = np.full((len(pixels), len(levels)), np.nan)
        slots = np.array([_slot(str(view)) for view in conditions.view])
        for slot in np.unique(slots).tolist():
            rows = np.flatnonzero(slots == slot)
            maps = self._maps(pixels[rows])
            asked = self._attributes_alone(conditions.take(rows), slot).to(self.device)
            random = torch.Generator().manual_seed(seed)
            for column, level in enumerate(levels):
                t = torch.full((len(rows), 1), float(level), device=self.device)
                noise = torch.randn(1, *maps.shape[1:], generator=random).to(self.device)
                share = t[:, :, None, None]
                guess = self.denoiser({slot: (1 - share) * maps + share * noise}, {slot: t}, asked)
                error = (guess.clean[slot] - maps) / guess.deviation[slot][:, :, None, None]
                found[rows, column] = error.square().mean((1, 2, 3)).cpu().numpy()
        return found

    def _attributes_alone(self, conditions: Conditions, slot: int) -> Asked:
        """What one view is conditioned on where nothing but attributes is known."""
        n = len(conditions)
        pad = torch.zeros(n, JITTER)
        values, known = (torch.from_numpy(part) for part in self.vocabulary.encode(conditions))
        general = torch.from_numpy(general_entries(self.vocabulary))
        shared = None if self.alignment is None else torch.zeros(n, self.alignment.width)
        return Asked(
            {s: torch.cat([values, pad], 1) for s in (slot, REPORT)},
            {slot: torch.cat([known, pad], 1), REPORT: torch.cat([known, pad], 1) * general},
            {slot: Layout.nothing(n, self.settings.grid)}, torch.zeros(n, 1),
            shared, None if shared is None else torch.zeros(n, 1),
        )  # fmt: skip

    @torch.no_grad()
    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        roles = [self._role(p) for p in prompts]
        studies: list[Study | None] = [None] * len(prompts)
        for role in dict.fromkeys(roles):
            rows = [i for i, r in enumerate(roles) if r == role]
            padded = rows + [rows[-1]] * (len(prompts) - len(rows))
            found = self._draw([prompts[i] for i in padded], [seeds[i] for i in padded], role)
            for i, study in zip(rows, found, strict=False):
                studies[i] = study
        return [study for study in studies if study is not None]

    def _role(self, prompt: Prompt) -> Role:
        wanted = {_slot(view) for view in prompt.views}
        references = {_slot(view) for view in given_files(prompt, "reference_image")}
        report = (
            "none" if self.codec is None else "given" if prompt.report else "write" if prompt.writes_report else "none"
        )
        attributes = prompt.asks_for() & {"findings", "sex", "age", "race", "source", "mask", "boxes"}
        shown, both = report == "given" or bool(references), references & wanted
        return Role(
            tuple(sorted(wanted)), tuple(sorted(references - wanted)),
            tuple(sorted(both)) if self.settings.strength < 1 else (), report,
            bool(attributes) or (shown and self.recognition is not None),
            report == "given" or bool(both and self.alignment is not None),
        )  # fmt: skip

    def _draw(self, prompts: list[Prompt], seeds: list[int], role: Role) -> list[Study]:
        n, size = len(prompts), self.card.resolution
        slots = sorted({*role.wanted, *role.given})
        files = {(p.mask, p.reference_image, p.boxes, p.views): p for p in prompts}
        how = self.card.image_encoding
        read = {k: read_given(p, resolution=size, findings=self.card.findings, encoding=how) for k, p in files.items()}
        givens = [read[(p.mask, p.reference_image, p.boxes, p.views)] for p in prompts]
        shown: dict[int, Tensor] = {}
        for slot in (*role.given, *role.varied):
            images = np.stack([next(x for v, x in g.images.items() if _slot(v) == slot) for g in givens])
            shown[slot] = self._maps(images)
        given = {slot: shown[slot] for slot in role.given}
        report_known = torch.full((n, 1), float(role.report != "none"))
        latents: dict[str, Tensor] = {}
        if role.report == "given":
            assert self.codec is not None
            latents = {t: self.codec.encode([t])[0] for t in {p.report or "" for p in prompts}}
            given[REPORT] = torch.stack([latents[p.report or ""] for p in prompts])
        if self.recognition is not None:
            prompts = [self._completed(*row, latents) for row in zip(prompts, givens, seeds, strict=True)]
        placed = [self._placed(*row, role) for row in zip(prompts, givens, seeds, strict=True)]
        asked = self._asked(prompts, givens, placed, role, slots, report_known).to(self.device)
        facts = self.card.settings
        shape = (facts["channels"], facts["side"], facts["side"])
        shapes: dict[int, tuple[int, ...]] = dict.fromkeys(role.wanted, shape)
        if role.report == "write":
            shapes[REPORT] = self.denoiser.report_shape
        elif role.report == "none" and self.codec is not None:
            given[REPORT] = torch.zeros(n, *self.denoiser.report_shape, device=self.device)
        streams = {s: [stream(seed, SLOTS[s]) for seed in seeds] for s in shapes}
        told = torch.full((n, 1), float(role.report == "given"), device=self.device)

        def beside(shown: dict[int, Tensor], asked: Asked = asked) -> Model:
            return guided(self.denoiser, asked, shown, self.settings, attributes=role.attributes, text=role.text,
                          report_given=told)  # fmt: skip

        found: dict[int, Tensor] = {}
        if role.varied:  # first and by themselves, for slots drawn together share one noise level
            first, nothing = {s: shapes.pop(s) for s in role.varied}, dict(given)
            if role.report == "write":
                nothing[REPORT] = torch.zeros(n, *self.denoiser.report_shape, device=self.device)
            model = beside(nothing, replace(asked, report_known=told) if role.report == "write" else asked)
            found = sample(model, self.settings, first, streams, self.device, shown)
        if shapes:
            found |= sample(beside({**given, **found}), self.settings, shapes, streams, self.device)
        views = {s: found[s] if self.autoencoder is None else self.autoencoder.decode(found[s]) for s in role.wanted}
        pixels = {s: to_uint8(view[:, 0]) for s, view in views.items()}
        written: list[str | None] = [None] * n
        if role.report == "write":
            with_views = beside({**given, **{s: found[s] for s in role.wanted}})
            written = [
                text if prompt.age is None else state_age(text, prompt.age) for text, prompt in
                zip(self._reports(found[REPORT], prompts, seeds, with_views, beside({})), prompts, strict=True)
            ]  # fmt: skip
        return [
            Study({view: pixels[_slot(view)][i] for view in p.views}, written[i],
                  {view: self._written(placed[i][_slot(view)], givens[i], view) for view in p.views
                   if _slot(view) in placed[i]})
            for i, p in enumerate(prompts)
        ]  # fmt: skip

    def _reports(
        self, latents: Tensor, prompts: list[Prompt], seeds: list[int], with_views: Model, alone: Model
    ) -> list[str]:
        """Texts of report ``latents``; a text that does not read as its prompt asks is drawn again, the best is kept.

        First ``with_views``, beside what was given and drawn; then, where the prompt leaves no finding open that the
        views would have to tell, ``alone``. A row that reads right is never touched, so that it does not depend on its
        neighbours.
        """
        assert self.codec is not None
        texts = list(self.codec.decode(latents))
        if self.recognition is None or REPORT not in self.recognition.slots:
            return texts
        findings = self.recognition.findings
        y = torch.from_numpy(Conditions.from_prompts(prompts, [self.card.views[0]] * len(prompts), findings).y)
        score, right = self._agreement(texts, y)
        closed = torch.isfinite(y).all(1)
        shape: dict[int, tuple[int, ...]] = {REPORT: self.denoiser.report_shape}
        tries = self.settings.report_tries
        for attempt in range(1, 2 * tries - 1):
            model = with_views if attempt < tries else alone
            if attempt == tries:
                right = right | ~closed
            if bool(right.all()):
                break
            streams = {REPORT: [stream(seed, f"{SLOTS[REPORT]} {attempt}") for seed in seeds]}
            again = list(self.codec.decode(sample(model, self.settings, shape, streams, self.device)[REPORT]))
            other, reads = self._agreement(again, y)
            for row in torch.nonzero(~right & (other > score))[:, 0].tolist():
                texts[row], score[row], right[row] = again[row], other[row], reads[row]
        return texts

    def _agreement(self, texts: list[str], y: Tensor) -> tuple[Tensor, Tensor]:
        """Log likelihood (n,) of the asked findings ``y`` (n, F; NaN: open) given each text; whether all are read."""
        assert self.codec is not None
        assert self.recognition is not None
        said = torch.stack([self.recognition.says(text, self.codec.encode([text])) for text in texts]).cpu()
        said = said[:, : y.shape[1]]
        asked = torch.isfinite(y)
        wanted = torch.where(asked, y, 0.0)
        loss = binary_cross_entropy_with_logits(said, wanted, reduction="none") * asked
        return -loss.sum(1), (((said > 0) == (wanted > 0)) | ~asked).all(1)

    def _written(self, drawn: Tensor, given: Given, view: str) -> list[dict[str, Any]]:
        """All boxes of a view in which some were drawn, as a manifest has them."""
        chosen = [(self.card.findings[int(place)], *sides) for place, *sides in drawn.tolist()]
        size, found = self.card.resolution, []
        for label, x, y, w, h in [*given.boxes.get(view, []), *chosen]:
            left, top, right, bottom = (round(side * size, 1) for side in (x, y, x + w, y + h))
            sides = {"x": left, "y": top, "w": round(right - left, 1), "h": round(bottom - top, 1)}
            found.append({"label": label, **sides})
        return found

    def _completed(self, prompt: Prompt, given: Given, seed: int, latents: dict[str, Tensor]) -> Prompt:
        """``prompt`` with what it leaves open read off what it shows, each alone, whatever its neighbours are."""
        assert self.recognition is not None
        shown = {_slot(view): self._maps(image[None]) for view, image in given.images.items()}
        if prompt.report is not None and prompt.report in latents:
            shown[REPORT] = latents[prompt.report][None]
        shown = {slot: x.to(self.device) for slot, x in shown.items() if slot in self.recognition.slots}
        return self.recognition.complete(prompt, shown, seed) if shown else prompt

    def _placed(self, prompt: Prompt, given: Given, seed: int, role: Role) -> dict[int, Tensor]:
        """Boxes (n, 5) drawn by slot for findings that are asked for without one; {} leaves all places to the network.

        Whatever else is given - a report, another view, a mask - may say where they are, and then nothing is drawn. As
        boxes are all there are, findings that the prompt leaves open get theirs as often as training studies have them.
        """
        elsewhere = role.given or role.varied or role.text or given.masks
        if self.placement is None or not self.settings.draw_boxes or elsewhere:
            return {}
        if any(not boxes for boxes in given.boxes.values()):
            return {}  # asked for without any box
        boxed = {label for boxes in given.boxes.values() for label, *_ in boxes}
        names = {place: self.card.findings[place] for place in sorted(self.placement.findings)}
        places = [place for place, name in names.items() if name not in boxed]
        if not any(prompt.labels.get(names[place]) == 1 for place in places):
            return {}
        views = {_slot(view) for view in (given.boxes or prompt.views)} & self.placement.slots
        found: dict[int, list[Tensor]] = {slot: [] for slot in role.wanted if slot in views}
        for place in places:
            random = stream(seed, f"box of {names[place]}")
            chance = prompt.labels.get(names[place], float(self.placement.frequency[place]))
            if float(torch.rand(1, generator=random)) < chance:
                for slot, boxes in self.placement.draw(place, found, random).items():
                    found[slot].append(boxes)
        return {slot: torch.cat(boxes) for slot, boxes in found.items()}

    def _asked(
        self, prompts: list[Prompt], givens: list[Given], placed: list[dict[int, Tensor]], role: Role,
        slots: list[int], report_known: Tensor,
    ) -> Asked:  # fmt: skip
        grid = self.settings.grid
        values, known, layouts = {}, {}, {}
        general = torch.from_numpy(general_entries(self.vocabulary))
        for slot in [*slots, REPORT]:
            views = [self._view(p, slot) for p in prompts]
            conditions = Conditions.from_prompts(prompts, views, self.card.findings)
            v, k = self.vocabulary.encode(conditions)
            pad = torch.zeros(len(prompts), JITTER)
            values[slot] = torch.cat([torch.from_numpy(v), pad], 1)
            known[slot] = torch.cat([torch.from_numpy(k), pad], 1)
            if slot == REPORT:
                known[slot] = known[slot] * general
            else:
                layouts[slot] = self._layout(givens, views, [p.get(slot) for p in placed], grid)
        shared = shared_known = None
        if self.alignment is not None:
            shared = torch.zeros(len(prompts), self.alignment.width)
            shared_known = torch.zeros(len(prompts), 1)
            for row, g in enumerate(givens):
                for view, image in g.images.items():
                    if _slot(view) in role.wanted:
                        shared[row] = torch.from_numpy(self.embed(image[None], view)[0])
                        shared_known[row] = 1
        return Asked(values, known, layouts, report_known, shared, shared_known)

    def _view(self, prompt: Prompt, slot: int) -> str:
        named = [*prompt.views, *given_files(prompt, "reference_image")]
        return next((v for v in named if _slot(v) == slot), self.card.views[0])

    def _layout(self, givens: list[Given], views: list[str], placed: list[Tensor | None], grid: int) -> Layout:
        boxes: list[Tensor | None] = []
        for g, view, drawn in zip(givens, views, placed, strict=True):
            rows = [[self.card.findings.index(label), *sides] for label, *sides in g.boxes.get(view, [])]
            asked = torch.tensor(rows).reshape(-1, 5)
            boxes.append(torch.cat([asked, drawn]) if drawn is not None else asked if view in g.boxes else None)
        layout = Layout.nothing(len(givens), grid, max(MOST_BOXES, *(0 if b is None else len(b) for b in boxes)))
        for row, (g, view, here) in enumerate(zip(givens, views, boxes, strict=True)):
            if here is not None:
                layout.boxes_known[row], layout.boxes[row, : len(here)] = 1, here
            if view in g.masks:
                planes, parts = mask_planes(g.masks[view], grid)
                layout.masks[row] = torch.from_numpy(planes).float() / 255
                layout.masks_known[row] = torch.from_numpy(parts)
        return layout


MOST_BOXES = 16  # boxes are padded to this many, so that a batch's shape does not depend on its neighbours


def _slot(view: str) -> int:
    return LATERAL_SLOT if view == LATERAL else FRONTAL


def empty_denoiser(card: Card) -> MultipromptDenoiser:
    """A denoiser of a card's shapes, to load weights into."""
    vocabulary: Vocabulary = vocabulary_of(card)
    facts = card.settings
    settings = MultipromptSettings(**facts["multiprompt"])
    views = {
        int(slot): SpectralGaussian(facts["channels"], facts["side"], facts["band"], len(vocabulary), components)
        for slot, components in facts["components"].items()
    }
    shape = tuple(facts["report_shape"])
    report = LinearGaussian(shape[0] * shape[1], len(vocabulary), facts["report_components"]) if shape[0] else None
    return MultipromptDenoiser(views, report, vocabulary, settings, (shape[0], shape[1]), facts["shared"])


def load_multiprompt(folder: Path, card: Card, *, device: str = "cpu") -> MultipromptCore:
    """Open a saved multi-prompt core."""
    facts, weights = card.settings, load_weights(folder, card)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

    denoiser = empty_denoiser(card)
    denoiser.load_state_dict(part("denoiser."))
    codec = alignment = autoencoder = None
    if facts.get("codec"):
        codec = ReportCodec.from_parts(part("codec."), facts["codec"]["settings"], facts["codec"]["tokenizer"])
    if facts.get("alignment"):
        slots = tuple(facts["alignment"]["slots"])
        alignment = Alignment(facts["channels"], facts["shared"], slots, denoiser.report_shape)
        alignment.load_state_dict(part("alignment."))
    if facts.get("autoencoder"):
        autoencoder = ViewAutoencoder.of(part("autoencoder."), AutoencoderSettings(**facts["autoencoder"]))
    recognition = None
    if facts.get("recognition"):
        about = facts["recognition"]
        recognition = Recognition(
            facts["channels"], about["slots"], denoiser.report_shape, about["findings"], about["sources"],
            about["told"], about["spelled"],
        )  # fmt: skip
        recognition.load_state_dict(part("recognition."))
    placement = Placement(**part("placement.")) if facts.get("placement") else None
    settings = MultipromptSettings(**facts["multiprompt"])
    return MultipromptCore(
        card, denoiser, settings, codec=codec, alignment=alignment, autoencoder=autoencoder, placement=placement,
        recognition=recognition, device=device,
    )  # fmt: skip
