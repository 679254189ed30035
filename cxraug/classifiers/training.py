"""Training of one arm: a fixed number of steps, exact resume, and the best validated weights.

Everything random at a step (batch, augmentation, dropout) follows from the seed and the step's number, so a training
that was killed goes on bit for bit from its last checkpoint, and the arms of one seed see the same draws at a step.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxraug.classifiers.arms import ArmData, Images
from cxraug.classifiers.augmentation import augment
from cxraug.classifiers.card import CARD, WEIGHTS, ClassifierCard, seen_parts, weights_file
from cxraug.classifiers.models import UNREADABLE, Classifier, build_model
from cxraug.classifiers.objective import masked_loss, validation_aurocs
from cxraug.classifiers.schedule import batch_positions, learning_rate
from cxraug.classifiers.settings import TrainSettings
from cxraug.errors import InputError, WorkError
from cxraug.progress import track
from cxraug.seeds import derive_seed
from cxraug.storage import atomic, digest, file_sha256, read_json, write_json
from cxraug.studies.seen import Seen

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.csv"
VALIDATION_BATCH = 256


def train_arm(
    data: ArmData,
    val: Images,
    folder: Path,
    settings: TrainSettings,
    *,
    findings: Sequence[str],
    seed: int,
    select: str | None = None,
    card: dict[str, Any] | None = None,
    seen: Seen,
    init: Path | None = None,
    progress: bool = False,
) -> Path:
    """Train a classifier on an arm; write ``model.safetensors``, ``history.csv`` and ``card.json`` into ``folder``.

    Parameters
    ----------
    data, val : training data and validation images with labels (n, F); unknown labels (NaN) count in no loss or metric.
    folder : where the result goes. A finished training of the same inputs is returned as it is, an unfinished one goes
        on.
    settings : the same for all arms that are compared. findings : names of the F labels. seed : of weights and order.
    select : the finding whose validation AUROC picks the weights (ties: the later step); by default the mean over the
        findings. Where validation cannot give it, the last step's weights are kept, and the card says so.
    card : what else the card shall say. seen : what the arm's real images are. init : weights to start from in place of
        ``settings.weights``. progress : show a progress bar of the steps.

    Raises
    ------
    InputError : arrays that do not fit, weights that do not fit, a folder that holds another training.
    WorkError : the loss is not finite any more, or the disk is full.
    """
    _check(data, val, findings, select)
    folder = Path(folder)
    weights = Path(init) if init is not None else Path(settings.weights) if settings.weights else None
    identity = _identity(data, val, settings, findings, seed, select, weights)
    if _finished(folder, identity):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*"):
        if leftover.is_file():
            leftover.unlink()  # of a write that a kill cut short
    with _quiet_state(settings.threads):
        training = _Training(data, val, settings, findings, seed, select, weights)
        training.restore(folder / CHECKPOINT, identity)
        steps: Any = range(training.step, settings.steps)
        for step in track(steps, folder.name, total=settings.steps, done=training.step) if progress else steps:
            training.advance(step)
            if training.step % settings.checkpoint_every == 0 and training.step < settings.steps:
                training.save(folder / CHECKPOINT, identity)
        _write(training, folder, identity, card or {}, seen, weights)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return folder


def initial_model(
    settings: TrainSettings, findings: Sequence[str], size: int, seed: int, weights: Path | None
) -> Classifier:
    """The network that a training of ``seed`` on images of side ``size`` begins with; sets torch's random state."""
    torch.manual_seed(derive_seed(seed, "init"))
    return build_model(settings.model, len(findings), weights=weights, size=size, findings=findings)


def to_unit(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 (n, S, S) to float (n, 1, S, S) in [0, 1] on ``device``."""
    return torch.from_numpy(np.array(pixels)).to(device).unsqueeze(1).float().div_(255)


@dataclass
class _Best:
    """The weights to keep: those of the best validation, else of the last step."""

    step: int = -1
    value: float | None = None
    state: dict[str, torch.Tensor] = field(default_factory=dict)


class _Training:
    """A training in flight: what a checkpoint holds and what advances it by one step."""

    def __init__(
        self,
        data: ArmData,
        val: Images,
        settings: TrainSettings,
        findings: Sequence[str],
        seed: int,
        select: str | None,
        weights: Path | None,
    ) -> None:
        from timm.optim import param_groups_weight_decay

        self.data, self.val, self.settings, self.seed, self.select = data, val, settings, seed, select
        self.findings = list(findings)
        model = initial_model(settings, findings, data.main.pixels.shape[1], seed, weights)
        self.accelerator = _accelerator(settings)
        self.device = self.accelerator.device
        on_cuda = self.device.type == "cuda"
        self.channels_last = on_cuda if settings.channels_last is None else settings.channels_last
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = param_groups_weight_decay(model, settings.weight_decay)
        optimiser = torch.optim.AdamW(groups, lr=settings.lr, fused=self.device.type in ("cpu", "cuda"))
        self.plain_model = model.to(self.device)  # prepare wraps its forward for autocast, its weights stay its own
        self.ema = None
        if settings.ema is not None:
            from timm.utils import ModelEmaV3

            self.ema = ModelEmaV3(model, decay=settings.ema, use_warmup=True)
        self.model, self.optimiser = self.accelerator.prepare(model, optimiser)
        loss_weights = data.loss_weights
        self.loss_weights = None if loss_weights is None else torch.from_numpy(loss_weights).to(self.device)
        # at least one step is the second stage's: only its weights are the arm's
        share = data.pretrain_share if data.pretrain is not None else 0.0
        self.first_stage = min(round(share * settings.steps), settings.steps - 1)
        self.step, self.counted, self.losses = 0, 0, torch.zeros((), device=self.device)
        self.history: list[dict[str, Any]] = []
        self.best = _Best()

    @property
    def validated_net(self) -> nn.Module:
        """The network that is validated and saved: the moving average where there is one."""
        return (self.plain_model if self.ema is None else self.ema.module).net

    def advance(self, step: int) -> None:
        """One optimiser step, and validation where it is due."""
        first = step < self.first_stage
        images = self.data.pretrain if first and self.data.pretrain is not None else self.data.main
        own_step = step if first else step - self.first_stage
        order = derive_seed(self.seed, "stage", int(first))
        rows = images.stored(batch_positions(own_step, self.settings.batch_size, len(images), order))
        draw = derive_seed(self.seed, "step", step)
        x = augment(to_unit(images.pixels[rows], self.device), self.data.augment or self.settings.augment, draw)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        y = torch.from_numpy(images.y[rows]).to(self.device)
        torch.manual_seed(draw)  # dropout and drop path
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, self.settings)
        self.model.train()
        self.optimiser.zero_grad()
        loss = masked_loss(self.model(x).float(), y, self.loss_weights)
        self.accelerator.backward(loss)
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update(self.plain_model, step=step)
        self.losses += loss.detach()
        self.counted += 1
        self.step = step + 1
        if self.step % self.settings.eval_every == 0 or self.step == self.settings.steps:
            self._validate()

    def _validate(self) -> None:
        loss = float(self.losses) / self.counted
        if not math.isfinite(loss):
            raise WorkError(f"the loss is not finite at step {self.step}; a smaller train.lr may help")
        self.losses.zero_()
        self.counted = 0
        aurocs = validation_aurocs(self.val.labels, self._validation_probabilities())
        known = aurocs[~np.isnan(aurocs)]
        macro = float(known.mean()) if len(known) else math.nan
        value = macro if self.select is None else float(aurocs[self.findings.index(self.select)])
        row = {"step": self.step, "stage": 1 if self.step <= self.first_stage else 2, "loss": loss}
        row |= {"lr": learning_rate(self.step - 1, self.settings), "macro": macro}
        self.history.append(row | {f"auroc_{f}": float(a) for f, a in zip(self.findings, aurocs, strict=True)})
        if self.step <= self.first_stage:
            return  # weights that have not been through the second stage are not this arm's
        if math.isnan(value) or self.best.value is None or value >= self.best.value:
            state = {k: v.detach().cpu().clone() for k, v in self.validated_net.state_dict().items()}
            self.best = _Best(self.step, None if math.isnan(value) else value, state)

    def _validation_probabilities(self) -> np.ndarray:
        model = self.model if self.ema is None else self.ema.module
        model.eval()
        parts = []
        with torch.no_grad(), self.accelerator.autocast():
            for start in range(0, len(self.val), VALIDATION_BATCH):
                rows = self.val.stored(np.arange(start, min(start + VALIDATION_BATCH, len(self.val))))
                x = to_unit(self.val.pixels[rows], self.device)
                parts.append(torch.sigmoid(model(x).double()).cpu())
        return torch.cat(parts).numpy() if parts else np.empty((0, len(self.findings)))

    def save(self, path: Path, identity: str) -> None:
        """Write everything that :meth:`restore` needs."""
        state = {
            "identity": identity,
            "step": self.step,
            "model": self.plain_model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "losses": self.losses,
            "counted": self.counted,
            "history": self.history,
            "best": {"step": self.best.step, "value": self.best.value, "state": self.best.state},
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def restore(self, path: Path, identity: str) -> None:
        """Go on from a checkpoint if there is one.

        Raises :class:`InputError` if it belongs to a training with other inputs.
        """
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except UNREADABLE as error:
            raise WorkError(f"{path}: cannot be read ({error}); delete it to start this training over") from None
        if state["identity"] != identity:
            raise InputError(
                "this folder holds an unfinished training with other data or settings",
                file=path.parent,
                expected="the same ones, or another folder",
            )
        self.plain_model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.step, self.history, self.counted = state["step"], state["history"], state["counted"]
        self.losses = state["losses"].to(self.device)
        self.best = _Best(**state["best"])

    def selection(self) -> dict[str, Any]:
        """Which weights were kept and why, for the card."""
        metric = "mean AUROC over findings" if self.select is None else f"AUROC of {self.select}"
        chosen: dict[str, Any] = {"metric": metric, "split": "val", "step": self.best.step, "value": self.best.value}
        if self.best.value is None:
            chosen["note"] = f"validation gives no {metric} (no positives or no negatives): the last step is kept"
        return chosen


def _write(
    training: _Training, folder: Path, identity: str, extra: dict[str, Any], seen: Seen, weights: Path | None
) -> None:
    from safetensors.torch import save

    state = {
        k: (v.float() if v.is_floating_point() else v).contiguous() for k, v in sorted(training.best.state.items())
    }
    with atomic(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(state))
    with atomic(folder / HISTORY) as temporary:
        pd.DataFrame(training.history).to_csv(temporary, index=False)
    data = training.data
    card = ClassifierCard(
        model=training.settings.model,
        findings=training.findings,
        size=data.main.pixels.shape[1],
        sha256=file_sha256(folder / WEIGHTS),
        digest=identity,
        settings=training.settings.model_dump(mode="json"),
        seed=training.seed,
        val_auroc=training.best.value,
        selection=training.selection(),
        data=data.facts
        | {
            "main": len(data.main),
            "pretrain": 0 if data.pretrain is None else len(data.pretrain),
            "pretrain_steps": training.first_stage,
            "val": len(training.val),
            "augment": data.augment or training.settings.augment,
        },
        notes=training.plain_model.notes,
        seen=seen.to_json(),
        seen_before=[part.to_json() for part in seen_parts(weights)] if weights is not None else [],
        info=extra,
    )
    write_json(folder / CARD, card.model_dump(mode="json"))


def _check(data: ArmData, val: Images, findings: Sequence[str], select: str | None) -> None:
    for what, images in (("training", data.main), ("pretraining", data.pretrain), ("validation", val)):
        if images is None:
            continue
        if images.y.shape[1] != len(findings):
            raise InputError(f"{what} labels and findings differ", found=images.y.shape[1], expected=str(len(findings)))
        if images.pixels.shape[1:] != data.main.pixels.shape[1:]:
            raise InputError(f"{what} images have another size", found=images.pixels.shape[1:])
    for what, images in (("training", data.main), ("pretraining", data.pretrain)):
        if images is not None and len(images) == 0:
            raise InputError(f"there are no {what} images")
    if select is not None and select not in findings:
        raise InputError("select is not a finding", found=select, expected=", ".join(findings))


def _identity(
    data: ArmData,
    val: Images,
    settings: TrainSettings,
    findings: Sequence[str],
    seed: int,
    select: str | None,
    weights: Path | None,
) -> str:
    """Digest of everything that the trained weights depend on."""
    chosen = settings.model_dump(mode="json", exclude={"checkpoint_every", "weights"})
    file = None if weights is None else weights_file(weights)
    return digest(
        {
            "main": _images_digest(data.main),
            "pretrain": None if data.pretrain is None else [_images_digest(data.pretrain), data.pretrain_share],
            "loss_weights": data.loss_weights,
            "augment": data.augment,
            "val": _images_digest(val),
            "settings": chosen,
            "findings": list(findings),
            "seed": seed,
            "select": select,
            "weights": file_sha256(file) if file is not None and file.is_file() else None,
        }
    )


def _images_digest(images: Images) -> str:
    sha = hashlib.sha256(repr((images.pixels.shape, images.y.shape)).encode())
    for array in (images.pixels, images.y.astype(np.float32), images.stored(np.arange(len(images))).astype(np.int64)):
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _finished(folder: Path, identity: str) -> bool:
    if not (folder / CARD).is_file():
        return False
    card = read_json(folder / CARD)
    if card.get("digest") != identity:
        raise InputError(
            "this folder holds a training with other data or settings",
            file=folder,
            expected="the same ones, or another folder",
        )
    return (folder / WEIGHTS).is_file() and file_sha256(folder / WEIGHTS) == card["sha256"]


@contextmanager
def _quiet_state(threads: int) -> Iterator[None]:
    """Train with ``threads`` and repeatable kernels, and leave the caller's random state and threads as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(), torch.backends.cudnn.flags(benchmark=False, deterministic=True):
            yield
    finally:
        torch.set_num_threads(before)


def _accelerator(settings: TrainSettings) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device is cuda, and torch sees no CUDA device", expected="auto or cpu")
    # accelerate keeps one state per process and refuses another precision or device beside it.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=settings.device == "cpu", mixed_precision=settings.mixed_precision)
