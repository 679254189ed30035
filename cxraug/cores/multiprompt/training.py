"""Training of the multi-prompt denoiser: random subsets of slots and conditions, so that any subset works.

A step draws which views take part, which studies, and for every study which slots are given and which are wanted; all
of it follows from the number of the step, so that an interrupted training goes on to the same weights, bit for bit, on
one kind of machine. Devices, processes and gradients are accelerate's.
"""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.diffusion.training import chances
from cxraug.cores.linear_gaussian import LinearGaussian, fit_part
from cxraug.cores.multiprompt.denoiser import Asked, MultipromptDenoiser
from cxraug.cores.multiprompt.network import FRONTAL, LATERAL_SLOT, REPORT
from cxraug.cores.multiprompt.settings import SAMPLER, MultipromptSettings
from cxraug.cores.multiprompt.spectrum import as_float, fit_spectral
from cxraug.cores.multiprompt.studyset import StudySet
from cxraug.cores.steps import restore_checkpoint, save_checkpoint, schedule, step_seed
from cxraug.errors import InputError
from cxraug.progress import track
from cxraug.storage import atomic, digest

CHECKPOINT, LOSSES = "checkpoint.pt", "losses.csv"
REPORT_COMPONENTS = 192
SHIFT, ZOOM = 0.04, 0.05  # of the jitter: share of the side, log of the scale
LOG_EVERY = 20
LATER = ("loss", "snr_limit", "lora")  # settings that came later: at their defaults they are no part of the key
APART = ("recognition_steps",)  # of parts that the denoiser's weights do not depend on


def start(studies: StudySet, vocabulary: Vocabulary, settings: MultipromptSettings, seed: int) -> MultipromptDenoiser:
    """A denoiser of fresh weights behind Gaussian models fitted to ``studies``."""
    values, known = (torch.from_numpy(a) for a in vocabulary.encode(studies.conditions))
    views = {}
    for slot in (FRONTAL, LATERAL_SLOT):
        images = studies.views[studies.with_slots([slot]), slot]
        if len(images) > 1:
            views[slot] = fit_spectral(studies.maps[images], values[images], known[images], band=settings.band,
                                       components=settings.components, seed=seed)  # fmt: skip
    if not views:
        raise InputError("no images to train on")
    report: LinearGaussian | None = None
    shape = (0, 0)
    if studies.latents is not None:
        rows = np.flatnonzero([bool(r) for r in studies.reports])
        shape = (studies.latents.shape[1], studies.latents.shape[2])
        latents = studies.latents[torch.from_numpy(rows)].flatten(1).clone()
        # findings explain so much of a report that a Gaussian given them is far too sure where they are hidden: the
        # model of reports knows no conditions
        nothing = torch.zeros(len(latents), len(vocabulary))
        report = fit_part(latents, nothing, nothing, REPORT_COMPONENTS, seed)
    shared = 0 if studies.shared is None else studies.shared.shape[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultipromptDenoiser(views, report, vocabulary, settings, shape, shared)


def train_denoiser(
    denoiser: MultipromptDenoiser, studies: StudySet, folder: Path, settings: MultipromptSettings, *, key: str,
    seed: int = 0, rate: float | None = None, trainable: list[dict[str, Any]] | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> None:  # fmt: skip
    """Train ``denoiser`` in place, ending with its averaged weights; checkpoints and ``losses.csv`` lie in ``folder``.

    Parameters
    ----------
    studies : encoded (:meth:`StudySet.encode`).
    key : digest of all that the weights depend on; a checkpoint of another key is refused.
    trainable : what to train, as groups of an optimiser; default all of network and spatial embedding.
    decode : from maps to pixels in [-1, 1], for the sample sheets.

    Several processes (``accelerate launch``) share every step, each with ``batch_size`` studies: the weights are those
    of one process with all of them, but for rounding.
    """
    uneven = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[uneven])
    device, processes = accelerator.device, accelerator.num_processes
    groups = trainable or [{"params": [*denoiser.network.parameters(), *denoiser.spatial.parameters()]}]
    parameters = [p for group in groups for p in group["params"]]
    rate = settings.lr if rate is None else rate
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay)
    average = EMAModel(parameters, decay=settings.ema)
    states: dict[str, Any] = {"network": denoiser, "optimizer": optimizer, "average": average}
    done = restore_checkpoint(folder / CHECKPOINT, key, **states)
    model, optimizer = accelerator.prepare(denoiser.to(device), optimizer)
    average.to(device)
    draw = StepDraw(studies, settings)
    log: list[dict[str, Any]] = []
    began = time.monotonic()
    model.train()
    for step in track(range(done, settings.steps), "training", total=settings.steps, done=done):
        random = torch.Generator().manual_seed(step_seed(seed, step))
        clean, times, asked = draw(random, processes)
        noise = {s: torch.randn(x.shape, generator=random) for s, x in clean.items()}
        counts = {s: wanted(s, times, asked).sum().clamp(min=1) / processes for s in clean}
        if processes > 1:
            mine = torch.arange(settings.batch_size) + accelerator.process_index * settings.batch_size
            clean, times, noise = ({s: x[mine] for s, x in part.items()} for part in (clean, times, noise))
            asked = _take(asked, mine)
        clean, times, noise = ({s: x.to(device) for s, x in part.items()} for part in (clean, times, noise))
        losses = slot_losses(model, clean, times, asked.to(device), settings, noise, counts)
        loss = sum((settings.report_weight if s == REPORT else 1.0) * v for s, v in losses.items())
        assert isinstance(loss, Tensor)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, settings.steps, settings.warmup)
        optimizer.step()
        average.step(parameters)
        log.append({"step": step + 1, **{f"slot{s}": float(v.detach()) for s, v in losses.items()}})
        last = step + 1 == settings.steps
        if accelerator.is_main_process:
            if (step + 1) % LOG_EVERY == 0 or last:
                _log(folder, log, step + 1, time.monotonic() - began)
                log = []
            if (step + 1) % settings.checkpoint_every == 0 and not last:
                save_checkpoint(folder / CHECKPOINT, key, step + 1, **states)
                if settings.sheet_every and (step + 1) % settings.sheet_every == 0:
                    average.store(parameters)
                    average.copy_to(parameters)
                    write_sheet(folder / "sheets" / f"step-{step + 1:06d}.png", denoiser, studies, settings, decode)
                    average.restore(parameters)
                    model.train()
    average.copy_to(parameters)
    denoiser.to("cpu").eval()


class StepDraw:
    """What a training step sees: studies, slots, roles, noise levels and what is hidden."""

    def __init__(self, studies: StudySet, settings: MultipromptSettings) -> None:
        self.studies, self.settings = studies, settings
        self.weights = torch.from_numpy(chances(studies.conditions, settings.rare_power))
        self.modes: list[tuple[tuple[int, ...], np.ndarray, Tensor]] = []
        shares = []
        both, single = studies.with_slots([FRONTAL, LATERAL_SLOT]), 1 - settings.lone_view
        for slots in ((FRONTAL,), (LATERAL_SLOT,), (FRONTAL, LATERAL_SLOT)):
            rows = studies.with_slots(slots)
            if not len(rows):
                continue
            weight = self.weights[torch.from_numpy(studies.views[rows, slots[0]])]
            self.modes.append((slots, rows, weight))
            share = len(rows) / len(studies)
            if len(both) and len(slots) == 1:
                alone = len(rows) - len(both)
                share = (alone + len(both) * settings.lone_view * (0.65 if slots == (FRONTAL,) else 0.35)) / len(
                    studies
                )
            shares.append(share if len(slots) == 1 else len(both) / len(studies) * single)
        self.shares = torch.tensor(shares, dtype=torch.float64)
        last = int(studies_groups(studies).max()) + 1
        self.fields = torch.from_numpy(np.concatenate([studies_groups(studies), np.full(_pad(studies), last)]))
        self.last = last

    def __call__(
        self, random: torch.Generator, processes: int = 1
    ) -> tuple[dict[int, Tensor], dict[int, Tensor], Asked]:
        """Clean slots, noise levels (B, 1) by slot, and the conditions of one step, for all processes together."""
        s = self.settings
        slots, rows, weight = self.modes[int(torch.multinomial(self.shares, 1, generator=random))]
        n = s.batch_size * processes
        picked = rows[torch.multinomial(weight, n, replacement=True, generator=random).numpy()]

        def coin(p: float) -> Tensor:
            return (torch.rand(n, 1, generator=random) < p).float()

        studies = self.studies
        asked = studies.asked(picked, slots)
        clean = {slot: as_float(studies.maps[studies.views[picked, slot]]) for slot in slots}
        asked = replace(asked, report_known=asked.report_known * coin(s.report_share))
        parts = list(slots)
        if studies.latents is not None:
            clean[REPORT] = studies.latents[torch.from_numpy(picked)]
            parts.append(REPORT)
        level = torch.sigmoid(s.t_mean + s.t_sd * torch.randn(n, 1, generator=random)).clamp(0.005, 0.999)
        joint = coin(s.joint)
        given = (torch.rand(n, len(parts), generator=random) < 0.5).float() * (1 - joint)
        forced = torch.randint(len(parts), (n, 1), generator=random)
        if REPORT in parts:  # a report that takes no part cannot be the only slot that is wanted
            view = torch.randint(len(slots), (n, 1), generator=random)
            forced = torch.where(asked.report_known > 0, forced, view)
        given = given.scatter(1, forced, 0.0)
        own = torch.sigmoid(s.t_mean + s.t_sd * torch.randn(n, len(parts), generator=random)).clamp(0.005, 0.999)
        apart = coin(0.3) * (1 - joint)
        times = {slot: torch.where(apart > 0, own[:, [i]], level) * (1 - given[:, [i]]) for i, slot in enumerate(parts)}
        if REPORT not in times:
            times[REPORT] = torch.zeros(n, 1)
        asked = self._hide(asked, slots, n, random, coin)
        if studies.shared is not None:
            asked = self._refer(asked, picked, coin(s.reference_share), n, random)
        asked = self._alone(asked, slots, times, coin(s.given_alone))
        if s.jitter:
            clean, asked = self._jitter(clean, asked, slots, coin(s.jitter), n, random)
        return clean, times, asked

    def _alone(self, asked: Asked, slots: tuple[int, ...], times: dict[int, Tensor], alone: Tensor) -> Asked:
        """Attributes hidden beside something given: who knows the findings has nothing to learn from the report."""
        given = asked.report_known * (times[REPORT] == 0)
        for slot in slots:
            given = torch.maximum(given, (times[slot] == 0).float())
        if asked.shared_known is not None:
            given = torch.maximum(given, asked.shared_known)
        keep = 1 - alone * given
        return replace(
            asked,
            known={k: v * keep for k, v in asked.known.items()},
            layouts={k: v.hide(keep, torch.ones_like(keep)) for k, v in asked.layouts.items()},
        )

    def _hide(self, asked: Asked, slots: tuple[int, ...], n: int, random: torch.Generator, coin: Any) -> Asked:
        """All conditions hidden with ``dropout``, else each field with ``field_dropout``; masks and boxes mostly."""
        s = self.settings
        some = 1 - coin(s.dropout)
        each = (torch.rand(n, self.last + 1, generator=random) >= s.field_dropout).float() * some
        keep = each[:, self.fields]
        boxes, masks = coin(s.boxes_share) * some, coin(s.mask_share) * some
        return replace(
            asked,
            known={k: v * keep for k, v in asked.known.items()},
            layouts={k: v.hide(boxes, masks) for k, v in asked.layouts.items()},
        )

    def _refer(self, asked: Asked, picked: np.ndarray, some: Tensor, n: int, random: torch.Generator) -> Asked:
        """Show the embedding of one random modality that the study has."""
        assert self.studies.shared is not None
        vectors = self.studies.shared[torch.from_numpy(picked)]
        has = torch.isfinite(vectors[..., 0]).double()
        which = torch.multinomial(has + 1e-9, 1, generator=random)[:, 0]
        chosen = vectors[torch.arange(n), which]
        known = some * torch.isfinite(chosen[:, :1]).float()
        return replace(asked, shared=torch.nan_to_num(chosen), shared_known=known)

    def _jitter(
        self, clean: dict[int, Tensor], asked: Asked, slots: tuple[int, ...], some: Tensor, n: int,
        random: torch.Generator,
    ) -> tuple[dict[int, Tensor], Asked]:  # fmt: skip
        """Shift and scale some images (boxes with them, masks hidden) and say so in the conditions."""
        moves = (2 * torch.rand(n, 3, generator=random) - 1) * some
        zoom = torch.exp(ZOOM * moves[:, 2])
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 / zoom
        theta[:, :, 2] = -2 * SHIFT * moves[:, :2] / zoom[:, None]
        values, known, layouts = dict(asked.values), dict(asked.known), dict(asked.layouts)
        told = torch.cat([moves, torch.zeros(n, 1)], 1)
        for slot in slots:
            grid = nn.functional.affine_grid(theta, list(clean[slot].shape), align_corners=False)
            moved = nn.functional.grid_sample(clean[slot], grid, padding_mode="border", align_corners=False)
            clean[slot] = torch.where(some[..., None, None] > 0, moved, clean[slot])
            layout = layouts[slot]
            boxes = layout.boxes.clone()
            for i in (0, 1):
                boxes[..., 1 + i] = (boxes[..., 1 + i] - 0.5) * zoom[:, None] + 0.5 + SHIFT * moves[:, i : i + 1]
                boxes[..., 3 + i] = boxes[..., 3 + i] * zoom[:, None]
            layouts[slot] = replace(layout, boxes=boxes, masks_known=layout.masks_known * (1 - some))
        for key in known:
            e = known[key].shape[1] - told.shape[1]
            values[key] = torch.cat([values[key][:, :e], told], 1)
            known[key] = torch.cat([known[key][:, :e], some.expand(-1, told.shape[1])], 1)
        return clean, replace(asked, values=values, known=known, layouts=layouts)


def slot_losses(
    model: nn.Module, clean: dict[int, Tensor], times: dict[int, Tensor], asked: Asked,
    settings: MultipromptSettings, noise: dict[int, Tensor], counts: dict[int, Tensor],
) -> dict[int, Tensor]:  # fmt: skip
    """Weighted squared error of each slot, summed over the studies where it is wanted and divided by ``counts``.

    The residual in units of the posterior deviation, times :func:`level_weight`; see also
    :func:`cxraug.cores.diffusion.training.diffusion_loss`. ``noise`` is shaped like ``clean``.
    """
    noisy = {}
    for s, x in clean.items():
        t = times[s].view((-1,) + (1,) * (x.ndim - 1))
        noisy[s] = (1 - t) * x + t * noise[s]
    found = model(noisy, times, asked)
    losses = {}
    for s, x in clean.items():
        deviation = found.deviation[s].clamp(min=1e-5)
        error = ((found.clean[s] - x).flatten(1) / deviation).square().mean(1, keepdim=True)
        weight = level_weight(times[s].clamp(min=1e-3), deviation, settings)
        losses[s] = (error * weight * wanted(s, times, asked)).sum() / counts[s].to(x.device)
    return losses


def wanted(slot: int, times: dict[int, Tensor], asked: Asked) -> Tensor:
    """(B, 1) 1 where a slot is to be denoised."""
    return (times[slot] > 0).float() * (asked.report_known if slot == REPORT else 1.0)


def level_weight(t: Tensor, deviation: Tensor, settings: MultipromptSettings) -> Tensor:
    """(B, 1) weight of the squared residual in units of the deviation s, at noise levels ``t`` (B, 1).

    ``residual``: (s / t)^(2 ``velocity_weight``). ``flow``: (s / t)^2, the squared error of the velocity e - x.
    ``min_snr``: s^2 min(SNR, ``snr_limit``) with SNR = ((1 - t) / t)^2 (Hang et al. 2023, equation 8, for estimates of
    the clean image).
    """
    if settings.loss == "min_snr":
        return deviation**2 * ((1 - t) / t).square().clamp(max=settings.snr_limit)
    power = 1.0 if settings.loss == "flow" else settings.velocity_weight
    return (deviation / t) ** (2 * power)


def training_key(studies: StudySet, settings: MultipromptSettings, init: str | None, seed: int) -> str:
    """Digest of everything the weights depend on. How the core is sampled, and how often it is saved, is not part."""
    data = hashlib.sha256()
    c = studies.conditions
    for start_ in range(0, len(studies.maps), 4096):
        data.update(np.ascontiguousarray(studies.maps[start_ : start_ + 4096]).tobytes())
    for table in (c.y, c.age, studies.views, studies.boxes, studies.boxes_known, studies.masks, studies.masks_known):
        data.update(np.ascontiguousarray(table).tobytes())
    sex, view, source, *race = c.texts()
    for text in (sex, view, source, [str(r) for r in studies.reports], *race):
        data.update("\n".join(text).encode())
    excluded = {"checkpoint_every", "sample_batch", "sheet_every", *SAMPLER, *APART}
    excluded |= {name for name in LATER if getattr(settings, name) == MultipromptSettings.model_fields[name].default}
    return digest({
        "data": data.hexdigest(),
        "findings": c.findings,
        "settings": settings.model_dump(mode="json", exclude=excluded),
        "init": init,
        "seed": seed,
    })  # fmt: skip


def write_sheet(
    path: Path, denoiser: MultipromptDenoiser, studies: StudySet, settings: MultipromptSettings,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> None:  # fmt: skip
    """Sixteen samples of every view, with the conditions of the first studies, as one picture."""
    from PIL import Image

    from cxraug.cores.multiprompt.sampling import guided, sample

    denoiser.eval()
    rows = studies.with_slots(denoiser.slots)[:16] if len(studies.with_slots(denoiser.slots)) else np.arange(0)
    if not len(rows):
        return
    asked = studies.asked(rows, denoiser.slots)
    asked = replace(asked, layouts={s: v.hide(torch.zeros(1), torch.zeros(1)) for s, v in asked.layouts.items()})
    shapes = {s: tuple(studies.maps.shape[1:]) for s in denoiser.slots}
    streams = {s: [torch.Generator().manual_seed(1000 * s + i) for i in range(len(rows))] for s in shapes}
    asked = replace(asked, report_known=torch.zeros(len(rows), 1))
    device = next(denoiser.parameters()).device
    model = guided(denoiser, asked.to(device), {}, settings, attributes=True)
    found = sample(model, settings, shapes, streams, str(device))
    strips = []
    for s in sorted(found):
        views = found[s] if decode is None else decode(found[s].cpu())
        pixels = ((views[:, 0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        strips += [np.concatenate(list(pixels[i : i + 8]), 1) for i in range(0, len(pixels), 8) if len(pixels) - i >= 8]
    if strips:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(strips, 0)).save(path)


def studies_groups(studies: StudySet) -> np.ndarray:
    """(vocabulary entries,) the parts of the condition vector that are hidden together."""
    return studies.encoded["groups"].numpy()


def _pad(studies: StudySet) -> int:
    return studies.encoded["values"].shape[1] - len(studies.encoded["groups"])


def _take(asked: Asked, rows: Tensor) -> Asked:
    return Asked(
        {s: v[rows] for s, v in asked.values.items()}, {s: k[rows] for s, k in asked.known.items()},
        {s: v.take(rows) for s, v in asked.layouts.items()}, asked.report_known[rows],
        None if asked.shared is None else asked.shared[rows],
        None if asked.shared_known is None else asked.shared_known[rows],
    )  # fmt: skip


def _log(folder: Path, log: list[dict[str, Any]], step: int, seconds: float) -> None:
    """Append the means of the last steps to ``losses.csv``; rows of steps that are done again are dropped first."""
    path = folder / LOSSES
    names = {FRONTAL: "frontal", LATERAL_SLOT: "lateral", REPORT: "report"}
    means = {n: [r[f"slot{s}"] for r in log if f"slot{s}" in r] for s, n in names.items()}
    row = {"step": step, "seconds": f"{seconds:.0f}"} | {n: f"{np.mean(v):.4f}" if v else "" for n, v in means.items()}
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with path.open() as lines:
            rows = [r for r in csv.DictReader(lines) if int(r["step"]) < step]
    with atomic(path) as temporary, temporary.open("w") as out:
        writer = csv.DictWriter(out, list(row))
        writer.writeheader()
        writer.writerows([*rows, row])
