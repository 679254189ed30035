"""Training of the diffusion core: every step's randomness follows from its number, so that resuming is exact."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from cxraug.cores.conditions import Conditions, Vocabulary, projection
from cxraug.cores.core import LATERAL, Card
from cxraug.cores.diffusion.core import load_denoiser
from cxraug.cores.diffusion.denoiser import Denoiser
from cxraug.cores.gaussian import check_training
from cxraug.cores.linear_gaussian import ConditionBatch, LinearGaussian, fit_gaussian_model
from cxraug.cores.pixel_core import CARD, LICENCE, all_seen, save_core, vocabulary_of
from cxraug.cores.settings import SAMPLER, DiffusionSettings
from cxraug.cores.steps import compute_dtype, restore_checkpoint, save_checkpoint, schedule, step_seed, threads_of
from cxraug.errors import InputError
from cxraug.progress import track
from cxraug.storage import digest, file_sha256, read_json
from cxraug.studies.images import Encoding
from cxraug.studies.seen import Seen

CHECKPOINT = "checkpoint.pt"


def train_diffusion(
    pixels: np.ndarray,
    conditions: Conditions,
    folder: Path,
    settings: DiffusionSettings,
    *,
    init: Path | None = None,
    seen: Seen,
    training_data: dict[str, Any],
    name: str,
    seed: int = 0,
    licence: str = LICENCE,
    encoding: Encoding | None = None,
) -> Path:
    """Train (or go on training) a diffusion core and save it in ``folder``, which is returned.

    Interrupted at any step and called again with the same arguments it ends in the same weights, bit for bit, on one
    kind of machine. A finished folder of the same arguments is left as it is.

    Parameters
    ----------
    pixels : (n, S, S) uint8, the training images only (a memory map will do); S a multiple of ``settings.grid``.
    conditions : what is known about each image.
    init : folder of an earlier core to start from. Its preconditioner and what it knew of the vocabulary are kept;
        new findings, views of a known projection, sources and races start without effect. Its network sizes
        are kept too.
    seen, training_data, name, licence, encoding : go into the card. What ``init`` has seen is added, so ``seen`` uses
        its key.

    Raises
    ------
    InputError
        Images of the wrong shape, an ``init`` of another image size, or a folder that holds another training.
    """
    check_training(pixels, conditions)
    folder = Path(folder)
    seen = all_seen(seen, init)
    key = _key(pixels, conditions, settings, init, seed)
    if (folder / CARD).is_file():
        if read_json(folder / CARD).get("settings", {}).get("key") != key:
            raise InputError("the folder holds another core", file=folder, expected="a new folder")
        return folder
    with threads_of(settings.threads):
        vocabulary, denoiser = _start(pixels, conditions, settings, init, seed)
        final = _train(denoiser, vocabulary, pixels, conditions, folder, settings, key, seed)
    save_core(
        folder,
        final,
        kind="diffusion",
        name=name,
        resolution=pixels.shape[1],
        vocabulary=vocabulary,
        conditions=_conditions(conditions, init),
        seen=seen,
        training_data=training_data,
        settings={
            "diffusion": settings.model_dump(mode="json"),
            "components": denoiser.precondition.model.components,
            "scale": denoiser.precondition.scale,
            "seed": seed,
            "key": key,
            "init": file_sha256(Path(init) / CARD) if init is not None else None,
        },
        licence=licence,
        encoding=encoding,
    )
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return folder


def _train(
    denoiser: Denoiser, vocabulary: Vocabulary, pixels: np.ndarray, conditions: Conditions, folder: Path,
    settings: DiffusionSettings, key: str, seed: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Run the steps that are left and return the averaged weights."""
    parameters = denoiser.network()
    rate = settings.lr
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay)
    average = EMAModel(parameters, decay=settings.ema)
    states = {"network": denoiser, "optimizer": optimizer, "average": average}
    done = restore_checkpoint(folder / CHECKPOINT, key, **states)
    everything = ConditionBatch.of(vocabulary, conditions)
    weights = torch.from_numpy(chances(conditions, settings.rare_power))
    fields = torch.from_numpy(vocabulary.groups())
    for step in track(range(done, settings.steps), "training", total=settings.steps, done=done):
        random = torch.Generator().manual_seed(step_seed(seed, step))
        rows = torch.multinomial(weights, settings.batch_size, replacement=True, generator=random)
        images = torch.from_numpy(pixels[rows.numpy()]).flatten(1).float() / 127.5 - 1
        batch = everything.take(rows).hide(_keep(settings, fields, len(rows), random))
        loss = diffusion_loss(denoiser, images, batch, settings, random)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, settings.steps, settings.warmup)
        optimizer.step()
        average.step(parameters)
        if (step + 1) % settings.checkpoint_every == 0 and step + 1 < settings.steps:
            save_checkpoint(folder / CHECKPOINT, key, step + 1, **states)
    average.copy_to(parameters)
    return dict(denoiser.state_dict())


def diffusion_loss(
    denoiser: Denoiser, images: Tensor, batch: ConditionBatch, settings: DiffusionSettings, random: torch.Generator
) -> Tensor:
    """Squared error of the network's output (the residual in units of the posterior deviation s) times (s / t)^2p.

    With p = ``velocity_weight`` 0 every noise level counts the same (Karras et al. 2022, table 1); 1 is the error of
    the velocity e - x of rectified flow. ``images`` (B, D). Times are logit-normal (Esser et al. 2024, section 3.1),
    kept off 0 and 1.
    """
    t = torch.sigmoid(settings.t_mean + settings.t_sd * torch.randn(len(images), 1, generator=random))
    t = t.clamp(0.005, 0.999)
    noisy = (1 - t) * images + t * torch.randn(images.shape, generator=random)
    found = denoiser(noisy, t, batch)
    error = (found.clean - images) / found.deviation
    return (error.square().mean(1, keepdim=True) * (found.deviation / t) ** (2 * settings.velocity_weight)).mean()


def chances(conditions: Conditions, power: float) -> np.ndarray:
    """(n,) chances of drawing each image: frequency of its rarest present finding to the power ``-power``."""
    present = conditions.y == 1
    share = np.maximum(present.mean(0), 1 / len(conditions)) if len(conditions) else present.mean(0)
    rarity = np.where(present, share, 1.0)
    return rarity.min(1, initial=1.0) ** -power


def _keep(settings: DiffusionSettings, fields: Tensor, n: int, random: torch.Generator) -> Tensor:
    """(n, d) 1 where a condition stays known: all hidden with ``dropout``, else each field with ``field_dropout``."""
    each = torch.rand(n, int(fields.max()) + 1, generator=random) >= settings.field_dropout
    some = torch.rand(n, 1, generator=random) >= settings.dropout
    return (each & some)[:, fields].float()


def _start(
    pixels: np.ndarray, conditions: Conditions, settings: DiffusionSettings, init: Path | None, seed: int
) -> tuple[Vocabulary, Denoiser]:
    """A fresh denoiser with a fitted preconditioner, or the one of ``init`` with room for new conditions."""
    vocabulary = Vocabulary.of(conditions)
    size = pixels.shape[1]
    if init is not None:
        return _extend(Path(init), vocabulary, conditions, size, settings)
    if size % settings.grid:
        raise InputError("image size does not fit the grid", found=size, expected=f"a multiple of {settings.grid}")
    model = fit_gaussian_model(pixels, conditions, vocabulary, components=settings.components, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return vocabulary, Denoiser(model, vocabulary, size, settings)


def _extend(
    init: Path, wanted: Vocabulary, conditions: Conditions, size: int, settings: DiffusionSettings
) -> tuple[Vocabulary, Denoiser]:
    """Load ``init`` and give its vocabulary the new entries of ``wanted``, with zero weights."""
    card = Card.model_validate(read_json(init / CARD))
    if card.kind != "diffusion" or card.resolution != size:
        raise InputError(
            "cannot fine-tune this core", file=init, found=f"{card.kind} at {card.resolution} px",
            expected=f"a diffusion core at {size} px",
        )  # fmt: skip
    old = vocabulary_of(card)
    vocabulary = old.union(wanted)
    strange = set(projection(conditions.view).tolist()) - {int(v == LATERAL) for v in old.views}
    if strange:
        raise InputError("cannot fine-tune this core to views of another projection", file=init,
                         found=", ".join(wanted.views), expected=f"views like {', '.join(old.views)}")  # fmt: skip
    denoiser = load_denoiser(init, card)
    frozen = DiffusionSettings(**card.settings["diffusion"])
    for field in ("channels", "layers", "grid", "components"):
        if getattr(frozen, field) != getattr(settings, field):
            raise InputError(
                f"fine-tuning keeps the network: {field} differs from the first core's",
                file=init, found=getattr(settings, field), expected=str(getattr(frozen, field)),
            )  # fmt: skip
    denoiser.dtype = compute_dtype(settings.precision)
    positions = torch.from_numpy(old.positions(vocabulary))
    d_old, d_new = len(old), len(vocabulary)
    first = denoiser.embed[0]
    assert isinstance(first, torch.nn.Linear)
    wider = torch.nn.Linear(2 * d_new, first.out_features)
    with torch.no_grad():
        wider.weight.zero_()
        wider.weight[:, positions] = first.weight[:, :d_old]
        wider.weight[:, d_new + positions] = first.weight[:, d_old:]
        wider.bias.copy_(first.bias)
    denoiser.embed[0] = wider
    for part in denoiser.precondition.model.parts.values():
        assert isinstance(part, LinearGaussian)
        weight, centre = torch.zeros(d_new, size * size), torch.zeros(d_new)
        weight[positions], centre[positions] = part.weight, part.centre
        part.weight, part.centre = weight, centre
    return vocabulary, denoiser


def _conditions(conditions: Conditions, init: Path | None) -> list[str]:
    earlier = read_json(Path(init) / CARD)["conditions"] if init is not None else []
    return list(earlier) + [c for c in conditions.known() if c not in earlier]


def _key(pixels: np.ndarray, conditions: Conditions, settings: DiffusionSettings, init: Path | None, seed: int) -> str:
    """Digest of everything the weights depend on. How the core is sampled, and how often it is saved, is not part."""
    data = hashlib.sha256()
    for start in range(0, len(pixels), 4096):
        data.update(np.ascontiguousarray(pixels[start : start + 4096]).tobytes())
    for column in (conditions.y, conditions.age):
        data.update(np.ascontiguousarray(column).tobytes())
    for text in conditions.texts():
        data.update("\n".join(text).encode())
    return digest({
        "data": data.hexdigest(),
        "findings": conditions.findings,
        "settings": settings.model_dump(mode="json", exclude={"checkpoint_every", "sample_batch", *SAMPLER}),
        "init": read_json(Path(init) / CARD)["sha256"] if init is not None else None,
        "seed": seed,
    })  # fmt: skip
