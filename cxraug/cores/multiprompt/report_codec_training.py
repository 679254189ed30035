"""Training of the report codec: every step's randomness follows from its number, so that resuming is exact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from cxraug.cores.multiprompt.report_codec import ReportCodec
from cxraug.cores.multiprompt.settings_codec import ReportCodecSettings
from cxraug.cores.multiprompt.tokenizer import ReportTokenizer, normal, sentences
from cxraug.cores.steps import compute_dtype, restore_checkpoint, save_checkpoint, schedule, threads_of
from cxraug.errors import InputError
from cxraug.evaluation.report_labels import FINDINGS, report_labels
from cxraug.progress import track
from cxraug.seeds import derive_seed
from cxraug.storage import atomic, digest, read_json, write_json

CHECKPOINT, WEIGHTS, CARD = "checkpoint.pt", "codec.safetensors", "codec.json"
STATISTICS = 4096  # reports that the latents are standardised over
NOISES = (0.0, 0.2, 0.4)  # standard deviations at which reconstruction is measured


def train_report_codec(
    reports: Sequence[str],
    folder: Path,
    settings: ReportCodecSettings,
    *,
    seed: int,
    held_out: Sequence[str] = (),
) -> ReportCodec:
    """Train (or go on training) a report codec, save it in ``folder`` and return it as it was saved.

    Interrupted at any step and called again with the same arguments it ends in the same weights, bit for bit, on one
    kind of machine. A finished folder of the same arguments is read. ``codec.json`` holds the settings, the tokenizer
    and, per noise level, the measures of :func:`reconstruction` on ``held_out``: reports of other patients, never
    trained on.

    Raises
    ------
    InputError
        Fewer than two reports, an empty one, one longer than ``settings.max_tokens``, or a folder that holds another
        codec.
    """
    folder = Path(folder)
    for row, report in enumerate(reports):
        if not report.strip():
            raise InputError("empty report", row=row + 2, column="report", expected="text, or leave the row out")
    if len(reports) < 2:
        raise InputError("too few reports to train a codec", found=len(reports), expected="at least 2")
    key = _key(reports, settings, seed)
    if (folder / CARD).is_file():
        if read_json(folder / CARD).get("key") != key:
            raise InputError("the folder holds another report codec", file=folder, expected="a new folder")
        return load_report_codec(folder)
    tokenizer = ReportTokenizer.train(reports, settings.vocabulary)
    with _computing(settings.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = ReportCodec(settings, tokenizer)
        _train(codec, reports, folder, key, seed)
        state = {name: tensor.half().contiguous() for name, tensor in codec.state_dict().items()}
        with atomic(folder / WEIGHTS) as temporary:
            save_file(state, temporary)
        codec = ReportCodec.from_parts(state, settings.model_dump(), tokenizer.json)
        card = {
            "settings": settings.model_dump(mode="json"),
            "tokenizer": tokenizer.json,
            "parameters": sum(p.numel() for p in codec.parameters()),
            "reports": len(reports),
            "seed": seed,
            "key": key,
            "held_out": [reconstruction(codec, held_out, noise=noise) for noise in NOISES if len(held_out)],
        }
    write_json(folder / CARD, card)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return codec


def load_report_codec(folder: Path) -> ReportCodec:
    """Read the codec that :func:`train_report_codec` saved in ``folder``."""
    card = read_json(Path(folder) / CARD)
    return ReportCodec.from_parts(load_file(Path(folder) / WEIGHTS), card["settings"], card["tokenizer"])


def reconstruction(
    codec: ReportCodec,
    reports: Sequence[str],
    *,
    noise: float = 0.0,
    findings: Sequence[str] = FINDINGS,
    batch: int = 64,
) -> dict[str, Any]:
    """What survives encoding, Gaussian noise of standard deviation ``noise`` on the latent, and decoding.

    Returns
    -------
    dict : ``exact`` share of reports that come back letter by letter; ``token_accuracy`` given the true words before;
        ``label_f1`` micro-F1 of present findings, labelled by rule in the original (taken as true) and in the
        decoded report (None where nothing is present in either); ``n``, ``noise``.
    """
    latents = torch.cat([codec.encode(reports[i : i + batch]) for i in range(0, len(reports), batch)])
    random = torch.Generator().manual_seed(derive_seed("reconstruction", noise))
    latents = latents + noise * torch.randn(latents.shape, generator=random)
    decoded = [text for part in latents.split(batch) for text in codec.decode(part)]
    both = [(_present(a, findings), _present(b, findings)) for a, b in zip(reports, decoded, strict=True)]
    hits, named = sum(len(a & b) for a, b in both), sum(len(a) + len(b) for a, b in both)
    return {
        "noise": noise,
        "n": len(reports),
        "exact": sum(normal(a) == b for a, b in zip(reports, decoded, strict=True)) / len(reports),
        "token_accuracy": codec.token_accuracy(reports, latents),
        "label_f1": 2 * hits / named if named else None,
    }


def _present(report: str, findings: Sequence[str]) -> set[str]:
    return {finding for finding, y in report_labels(report, findings).items() if y == 1}


def _train(codec: ReportCodec, reports: Sequence[str], folder: Path, key: str, seed: int) -> None:
    """Run the steps that are left, then set the latent statistics."""
    settings = codec.settings
    texts = [codec.tokenizer.encode(sentences(report)) for report in reports]
    whole = codec.tokenizer.encode(reports, settings.max_tokens)
    parameters = list(codec.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, betas=(0.9, 0.95), weight_decay=settings.weight_decay)
    done = restore_checkpoint(folder / CHECKPOINT, key, codec=codec, optimizer=optimizer)
    dtype = compute_dtype(settings.precision)
    for step in track(range(done, settings.steps), "report codec", total=settings.steps, done=done):
        random = torch.Generator().manual_seed(derive_seed(seed, "report codec", step))
        rows = torch.randint(len(whole), (settings.batch_size,), generator=random).tolist()
        batch = [_recombined(row, whole, texts, settings, random) for row in rows]
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = codec.token_loss(batch, random)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule(step, settings.steps, settings.warmup)
        optimizer.step()
        if (step + 1) % settings.checkpoint_every == 0 and step + 1 < settings.steps:
            save_checkpoint(folder / CHECKPOINT, key, step + 1, codec=codec, optimizer=optimizer)
    some = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))[:STATISTICS].tolist()
    codec.standardise([whole[i] for i in some])


def _recombined(
    row: int,
    whole: list[list[int]],
    texts: list[list[list[int]]],
    settings: ReportCodecSettings,
    random: torch.Generator,
) -> list[int]:
    """The report, or (a share ``recombine``) one with half of its sentences exchanged for sentences of others."""
    if not settings.recombine or torch.rand((), generator=random) >= settings.recombine:
        return whole[row]
    mixed: list[int] = []
    for sentence in texts[row]:
        if torch.rand((), generator=random) < 0.5:
            other = texts[int(torch.randint(len(texts), (), generator=random))]
            sentence = other[int(torch.randint(len(other), (), generator=random))]
        mixed += sentence
    return mixed[: settings.max_tokens]


def _key(reports: Sequence[str], settings: ReportCodecSettings, seed: int) -> str:
    """Digest of everything the weights depend on; how often they are saved is not part."""
    text = hashlib.sha256("\0".join(reports).encode()).hexdigest()
    return digest({"reports": text, "settings": settings.model_dump(exclude={"checkpoint_every"}), "seed": seed})


@contextmanager
def _computing(threads: int) -> Iterator[None]:
    """Compute with ``threads`` threads and plain attention: on CPUs the fused kernel's backward pass is far slower."""
    with threads_of(threads), sdpa_kernel(SDPBackend.MATH):
        yield
