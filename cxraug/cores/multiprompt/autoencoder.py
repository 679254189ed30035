"""An autoencoder of views, so that large views are generated as small maps of latents (Rombach et al. 2022).

Its first stage is diffusers' ``AutoencoderKL``; latents are standardised by mean and deviation per channel, so that
white noise and they are of one size.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from cxraug.cores.multiprompt.settings_autoencoder import AutoencoderSettings
from cxraug.cores.multiprompt.spectrum import as_float
from cxraug.cores.steps import compute_dtype, restore_checkpoint, save_checkpoint, schedule, step_seed, threads_of
from cxraug.errors import InputError
from cxraug.progress import track
from cxraug.storage import atomic, digest, read_json, write_json

CHECKPOINT, WEIGHTS, CARD = "checkpoint.pt", "autoencoder.safetensors", "autoencoder.json"
STATISTICS = 2048  # images that latents are standardised over
BATCH = 16  # images encoded or decoded at once
SCALES = 3  # of the gradient loss: full, half and quarter size
LOG_EVERY = 50


class ViewAutoencoder(nn.Module):
    """Between views (B, 1, S, S) in [-1, 1] and standardised latents (B, ``latents``, S / factor, S / factor)."""

    body: Any  # AutoencoderKL, whose decorated methods type checkers do not see
    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: AutoencoderSettings) -> None:
        super().__init__()
        self.settings = settings
        levels = len(settings.channels)
        self.body = AutoencoderKL(
            in_channels=1, out_channels=1, latent_channels=settings.latents, layers_per_block=settings.layers,
            block_out_channels=settings.channels, down_block_types=("DownEncoderBlock2D",) * levels,  # type: ignore[arg-type]
            up_block_types=("UpDecoderBlock2D",) * levels,  # type: ignore[arg-type]
            norm_num_groups=32 if all(c % 32 == 0 for c in settings.channels) else 8,
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(settings.latents))
        self.register_buffer("deviation", torch.ones(settings.latents))

    def moments(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior of raw latents, each (B, latents, s, s)."""
        found = self.body.encode(views).latent_dist
        return found.mean, found.logvar

    @torch.no_grad()
    def encode(self, views: Tensor) -> Tensor:
        """The standardised posterior mean, a few views at a time."""
        return torch.cat([self._standard(self.moments(part)[0]) for part in views.split(BATCH)])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Views of standardised latents, a few at a time."""
        raw = latents * self.deviation[:, None, None] + self.mean[:, None, None]
        return torch.cat([self.body.decode(part, return_dict=False)[0] for part in raw.split(BATCH)])

    def _standard(self, raw: Tensor) -> Tensor:
        return (raw - self.mean[:, None, None]) / self.deviation[:, None, None]

    def stored(self) -> dict[str, Tensor]:
        """The weights as a core stores them: tables in half precision."""
        return {k: (v.half() if v.is_floating_point() and v.ndim > 1 else v).contiguous()
                for k, v in self.state_dict().items()}  # fmt: skip

    @classmethod
    def of(cls, weights: dict[str, Tensor], settings: AutoencoderSettings) -> ViewAutoencoder:
        """Rebuild from stored weights, ready for use."""
        model = cls(settings)
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        return model.eval().requires_grad_(False)


def train_autoencoder(maps: np.ndarray, folder: Path, settings: AutoencoderSettings, *, seed: int) -> ViewAutoencoder:
    """Train (or go on training) an autoencoder of ``maps`` (images, 1, S, S) uint8 in ``folder``.

    Interrupted at any step and called again with the same arguments it ends in the same weights, bit for bit, on one
    kind of machine. A finished folder of the same arguments is read; one of others is an :class:`InputError`.
    """
    if maps.shape[-1] % settings.factor:
        raise InputError("image size does not fit the autoencoder", found=maps.shape[-1],
                         expected=f"a multiple of {settings.factor}")  # fmt: skip
    folder = Path(folder)
    chosen = settings.model_dump(mode="json", exclude={"checkpoint_every"})
    key = digest({"maps": maps_digest(maps), "settings": chosen, "seed": seed})
    if (folder / CARD).is_file():
        if read_json(folder / CARD).get("key") != key:
            raise InputError("the folder holds another autoencoder", file=folder, expected="a new folder")
        return ViewAutoencoder.of(load_file(folder / WEIGHTS), settings)
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with threads_of(settings.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViewAutoencoder(settings).to(device)
        loss = _train(model, maps, folder, key, seed, device)
        model = ViewAutoencoder.of(model.cpu().stored(), settings).to(device)  # as it is stored, so it is used
        rows = np.random.default_rng(seed).permutation(len(maps))[:STATISTICS]
        raw = torch.cat([model.encode(as_float(maps[part]).to(device)).cpu() for part in _batches(rows)])
        model.mean, model.deviation = raw.mean((0, 2, 3)).to(device), raw.std((0, 2, 3)).clamp(min=1e-6).to(device)
        model = model.cpu()
    with atomic(folder / WEIGHTS) as temporary:
        save_file(model.stored(), str(temporary))
    write_json(folder / CARD, {"key": key, "settings": settings.model_dump(mode="json"), "seed": seed, "loss": loss})
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return model


def reconstruction_loss(found: Tensor, views: Tensor, gradient_weight: float) -> Tensor:
    """Mean absolute error of pixels, and ``gradient_weight`` times that of neighbours' differences at three sizes."""
    loss = (found - views).abs().mean()
    edges = torch.zeros((), device=views.device)
    for scale in range(SCALES):
        error = found - views
        if scale:
            error = functional.avg_pool2d(error, 2**scale)
        edges = edges + (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / SCALES
    return loss + gradient_weight * edges


def cached_latents(model: ViewAutoencoder, maps: np.ndarray, folder: Path) -> np.ndarray:
    """(images, latents, s, s) half precision latents of ``maps``: a memory map in ``folder``, made once."""
    made = hashlib.sha256()
    for name, tensor in sorted(model.stored().items()):
        made.update(name.encode() + tensor.cpu().numpy().tobytes())
    made.update(maps_digest(maps).encode())
    path = Path(folder) / f"latents-{made.hexdigest()[:16]}.npy"
    if not path.is_file():
        side = maps.shape[-1] // model.settings.factor
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device)
        with atomic(path) as temporary:
            table = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.float16, shape=(len(maps), model.settings.latents, side, side)
            )
            for part in track(_batches(np.arange(len(maps))), "latents", total=-(-len(maps) // BATCH)):
                table[part] = model.encode(as_float(maps[part]).to(device)).cpu().half().numpy()
            table.flush()
            del table
        model.cpu()
    return np.load(path, mmap_mode="r")


def maps_digest(maps: np.ndarray) -> str:
    """SHA-256 (hex) of an image table, in order."""
    found = hashlib.sha256()
    for begin in range(0, len(maps), 4096):
        found.update(np.ascontiguousarray(maps[begin : begin + 4096]).tobytes())
    return found.hexdigest()


def _train(model: ViewAutoencoder, maps: np.ndarray, folder: Path, key: str, seed: int, device: str) -> float:
    """Run the steps that are left; return the last losses' mean."""
    settings = model.settings
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    done = restore_checkpoint(folder / CHECKPOINT, key, network=model, optimizer=optimizer)
    dtype = compute_dtype(settings.precision)
    recent: list[float] = []
    for step in track(range(done, settings.steps), "autoencoder", total=settings.steps, done=done):
        random = torch.Generator().manual_seed(step_seed(seed, step))
        rows = torch.randint(len(maps), (settings.batch_size,), generator=random).numpy()
        views = as_float(maps[rows]).to(device)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            mean, spread = model.moments(views)
            noise = torch.randn(mean.shape, generator=random).to(device)
            found = model.body.decode(mean + (0.5 * spread).exp() * noise, return_dict=False)[0]
        mean, spread = mean.float(), spread.float()
        divergence = 0.5 * (mean.square() + spread.exp() - 1 - spread).mean()
        loss = reconstruction_loss(found.float(), views, settings.gradient_weight) + settings.kl_weight * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule(step, settings.steps, settings.warmup)
        optimizer.step()
        recent = [*recent[1 - LOG_EVERY :], float(loss.detach())]
        if (step + 1) % settings.checkpoint_every == 0 and step + 1 < settings.steps:
            save_checkpoint(folder / CHECKPOINT, key, step + 1, network=model, optimizer=optimizer)
    return float(np.mean(recent)) if recent else float("nan")


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[begin : begin + BATCH] for begin in range(0, len(rows), BATCH)]
