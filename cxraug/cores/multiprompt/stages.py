"""The stages of a multi-prompt core: autoencoder, report codec, alignment, denoiser. Each resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.core import LATERAL
from cxraug.cores.multiprompt.adapters import add_adapters
from cxraug.cores.multiprompt.alignment import Alignment, embed_studies, train_alignment
from cxraug.cores.multiprompt.autoencoder import ViewAutoencoder, cached_latents, train_autoencoder
from cxraug.cores.multiprompt.core import MultipromptCore, load_multiprompt
from cxraug.cores.multiprompt.denoiser import MultipromptDenoiser
from cxraug.cores.multiprompt.growth import grow
from cxraug.cores.multiprompt.placement import Placement, fit_placement
from cxraug.cores.multiprompt.recognition import Recognition, train_recognition
from cxraug.cores.multiprompt.report_codec import ReportCodec
from cxraug.cores.multiprompt.report_codec_training import train_report_codec
from cxraug.cores.multiprompt.settings import MultipromptSettings, Stage
from cxraug.cores.multiprompt.settings_autoencoder import AutoencoderSettings
from cxraug.cores.multiprompt.settings_codec import ReportCodecSettings
from cxraug.cores.multiprompt.studyset import StudySet
from cxraug.cores.multiprompt.training import start, train_denoiser, training_key
from cxraug.cores.peft import need_peft
from cxraug.cores.pixel_core import CARD, LICENCE, all_seen, save_core, vocabulary_of
from cxraug.cores.registry import read_card
from cxraug.cores.steps import threads_of
from cxraug.errors import InputError
from cxraug.storage import digest, file_sha256, read_json
from cxraug.studies.images import Encoding
from cxraug.studies.seen import Seen

ENCODE_BATCH = 128
AUTOENCODER = "autoencoder"  # folder of that stage


def train_multiprompt(
    studies: StudySet,
    folder: Path,
    settings: MultipromptSettings,
    *,
    report: ReportCodecSettings | None = None,
    autoencoder: AutoencoderSettings | None = None,
    init: Path | None = None,
    seen: Seen,
    training_data: dict[str, Any],
    name: str,
    seed: int = 0,
    licence: str = LICENCE,
    encoding: Encoding | None = None,
    until: Stage = "denoiser",
) -> Path:
    """Train (or go on training) a multi-prompt core and save it in ``folder``, which is returned.

    Interrupted anywhere and called again with the same arguments it ends in the same weights, bit for bit, on one kind
    of machine. A finished folder of the same arguments is left as it is.

    Parameters
    ----------
    studies : the training studies only.
    report : settings of the report codec; None, or no report in ``studies``, makes a core without reports.
    autoencoder : settings of the autoencoder, where ``settings.autoencoder`` asks for one (None: its defaults).
    init : folder of an earlier multi-prompt core to start from. Its autoencoder, codec, shared space, Gaussian
        models and network sizes are kept; new findings, views, sources and races start without effect.
        With ``settings.lora`` it is fine-tuned by adapters, which are merged at the end.
    encoding : how images were brought to their size, for the card.
    until : stop after this stage; call again to go on.

    Raises
    ------
    InputError
        An ``init`` that does not fit, or a folder that holds another training.
    """
    folder = Path(folder)
    if settings.lora:
        need_peft()
        if init is None:
            raise InputError("lora fine-tunes an earlier core", expected="the folder of one as init")
    key = training_key(studies, settings, None if init is None else read_card(init).sha256, seed)
    if (folder / CARD).is_file():
        if read_json(folder / CARD).get("settings", {}).get("key") != key:
            raise InputError("the folder holds another core", file=folder, expected="a new folder")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with threads_of(settings.threads):
        vocabulary = Vocabulary.of(studies.conditions)
        if init is not None:
            vocabulary = vocabulary_of(read_card(init)).union(vocabulary)
        studies = studies.encode(vocabulary)
        first = None if init is None else _open(init, studies.maps.shape[-1])
        size = studies.maps.shape[-1]
        coder = first.autoencoder if first is not None else _autoencoder(studies, folder, settings, autoencoder, seed)
        if until == "autoencoder":
            return folder
        codec = first.codec if first is not None else _codec(studies, folder, report, settings, seed)
        if until == "report":
            return folder
        if coder is not None:
            studies = replace(studies, maps=cached_latents(coder, studies.maps, folder / AUTOENCODER))
        studies = replace(studies, latents=_latents(codec, studies))
        alignment = first.alignment if first is not None else train_alignment(
            studies, folder, width=settings.shared_width if settings.reference_share else 0, seed=seed,
            steps=settings.alignment_steps, key=key,
        )  # fmt: skip
        recognition = first.recognition if first is not None else None
        recognition = recognition or train_recognition(
            studies, folder, steps=settings.recognition_steps, seed=seed, key=digest([key, settings.recognition_steps])
        )
        if until == "alignment":
            return folder
        if alignment is not None:
            studies = replace(studies, shared=embed_studies(alignment, studies))
        placement = _placement(studies, vocabulary, settings, first, seed)
        denoiser = start(studies, vocabulary, settings, seed) if init is None else grow(init, vocabulary, settings)
        rate = settings.lr if init is None else settings.finetune_lr
        adapters = None
        if settings.lora and init is not None:
            adapters = add_adapters(denoiser, settings.lora, vocabulary_of(read_card(init)), vocabulary, seed=seed)
        train_denoiser(denoiser, studies, folder, settings, key=key, seed=seed, rate=rate,
                       trainable=None if adapters is None else adapters.parameters,
                       decode=None if coder is None else coder.decode)  # fmt: skip
        if adapters is not None:
            adapters.merge()
    processes = PartialState()
    if not processes.is_main_process:
        processes.wait_for_everyone()
        return folder
    save_multiprompt(
        folder, denoiser, codec, alignment, settings, autoencoder=coder, placement=placement,
        recognition=recognition, resolution=size, vocabulary=vocabulary,
        conditions=conditions_of(studies, settings, init), seen=all_seen(seen, init),
        training_data=training_data, name=name, licence=licence, encoding=encoding,
        facts={"seed": seed, "key": key, "init": file_sha256(Path(init) / CARD) if init is not None else None},
    )  # fmt: skip
    for left in ("checkpoint.pt", "alignment.pt", "recognition.pt", "stage.json"):
        (folder / left).unlink(missing_ok=True)
    for cache in (folder / AUTOENCODER).glob("latents-*.npy"):
        cache.unlink()
    processes.wait_for_everyone()
    return folder


def save_multiprompt(
    folder: Path, denoiser: MultipromptDenoiser, codec: ReportCodec | None, alignment: Alignment | None,
    settings: MultipromptSettings, *, autoencoder: ViewAutoencoder | None = None, placement: Placement | None = None,
    recognition: Recognition | None = None, resolution: int, vocabulary: Vocabulary, conditions: list[str], seen: Seen,
    training_data: dict[str, Any], name: str, licence: str, facts: dict[str, Any], encoding: Encoding | None = None,
) -> None:  # fmt: skip
    """Write weights and card of a core put together from its parts; ``resolution`` is that of its images."""
    tensors: dict[str, Tensor] = {f"denoiser.{k}": v for k, v in denoiser.state_dict().items()}
    described: dict[str, Any] = {
        "codec": None, "alignment": None, "recognition": None, "placement": placement is not None,
    }  # fmt: skip
    if placement is not None:
        tensors |= {f"placement.{k}": v for k, v in vars(placement).items()}
    if recognition is not None:
        tensors |= {f"recognition.{k}": v for k, v in recognition.state_dict().items()}
        described["recognition"] = {"slots": recognition.slots, "findings": recognition.findings,
                                    "sources": recognition.sources, "told": recognition.told,
                                    "spelled": recognition.spelled}  # fmt: skip
    if codec is not None:
        tensors |= {f"codec.{k}": v for k, v in codec.state_dict().items()}
        described["codec"] = {"settings": codec.settings.model_dump(mode="json"), "tokenizer": codec.tokenizer.json}
    if alignment is not None:
        tensors |= {f"alignment.{k}": v for k, v in alignment.state_dict().items()}
        described["alignment"] = {"slots": sorted(int(s) for s in alignment.images)}
    if autoencoder is not None:
        tensors |= {f"autoencoder.{k}": v for k, v in autoencoder.state_dict().items()}
        described["autoencoder"] = autoencoder.settings.model_dump(mode="json")
    gaussians = {slot: denoiser._gaussian(slot) for slot in denoiser.slots}
    first = next(iter(gaussians.values()))
    report = denoiser.report_gaussian
    save_core(
        folder, tensors, kind="multiprompt", name=name, resolution=resolution, vocabulary=vocabulary,
        conditions=conditions, seen=seen, training_data=training_data, licence=licence, encoding=encoding,
        settings={
            "multiprompt": settings.model_dump(mode="json"),
            "channels": first.channels, "side": first.side, "band": first.band,
            "components": {str(s): g.low.variance.numel() for s, g in gaussians.items()},
            "report_shape": list(denoiser.report_shape),
            "report_components": 0 if report is None else report.variance.numel(),
            "shared": 0 if alignment is None else alignment.width,
            "writes_report": codec is not None,
            **described, **facts,
        },
    )  # fmt: skip


def conditions_of(studies: StudySet, settings: MultipromptSettings, init: Path | None = None) -> list[str]:
    """What the trained core can be asked for: what some study knows, and what training showed it."""
    names = studies.conditions.known()
    if settings.mask_share and studies.masks_known.any():
        names.append("mask")
    if settings.boxes_share and studies.boxes_known.any():
        names.append("boxes")
    if settings.report_share and studies.latents is not None:
        names.append("report")
    views = set(studies.conditions.view.tolist())
    if studies.shared is not None or (LATERAL in views and len(views) > 1):
        names.append("reference_image")
    earlier = [] if init is None else read_card(init).conditions
    return [*earlier, *(n for n in names if n not in earlier)]


def _codec(
    studies: StudySet, folder: Path, report: ReportCodecSettings | None, settings: MultipromptSettings, seed: int
) -> ReportCodec | None:
    texts = sorted(str(r) for r in studies.reports if r)
    if report is None or not texts or not settings.report_share:
        return None
    if len(texts) < 20:
        raise InputError("too few reports to learn from", found=len(texts), expected="20, or `report: null` for none")
    return train_report_codec(texts, folder / "report", report, seed=seed)


def _autoencoder(
    studies: StudySet, folder: Path, settings: MultipromptSettings, autoencoder: AutoencoderSettings | None, seed: int
) -> ViewAutoencoder | None:
    if not settings.autoencoder:
        return None
    autoencoder = autoencoder or AutoencoderSettings()
    side = studies.maps.shape[-1] / autoencoder.factor
    if side % settings.grid:
        expected = f"a multiple of grid {settings.grid}: another encoding.size or autoencoder_training.channels"
        raise InputError(
            "the autoencoder's latents do not fit the grid", found=f"a side of {side:g}", expected=expected
        )
    return train_autoencoder(studies.maps, folder / AUTOENCODER, autoencoder, seed=seed)


def _placement(
    studies: StudySet, vocabulary: Vocabulary, settings: MultipromptSettings, first: MultipromptCore | None, seed: int
) -> Placement | None:
    earlier = None if first is None else first.placement
    found = fit_placement(studies, vocabulary, seed) if settings.boxes_share else None
    return earlier if found is None else found.over(earlier)


@torch.no_grad()
def _latents(codec: ReportCodec | None, studies: StudySet) -> Tensor | None:
    """(studies, tokens, d) latents, 0 where a study has no report."""
    if codec is None:
        return None
    shape = (codec.settings.tokens, codec.settings.channels)
    found = torch.zeros(len(studies), *shape)
    rows = np.flatnonzero([bool(r) for r in studies.reports])
    for begin in range(0, len(rows), ENCODE_BATCH):
        part = rows[begin : begin + ENCODE_BATCH]
        found[part] = codec.encode([str(r) for r in studies.reports[part]]).float()
    return found


def _open(init: Path, size: int) -> MultipromptCore:
    card = read_card(init)
    if card.kind != "multiprompt":
        raise InputError("cannot fine-tune this core", file=init, found=card.kind, expected="a multi-prompt core")
    if card.resolution != size:
        raise InputError("cannot fine-tune this core to images of another size", file=init, found=size,
                         expected=f"encoding.size {card.resolution}")  # fmt: skip
    return load_multiprompt(Path(init), card)
