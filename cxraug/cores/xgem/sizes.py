"""The sizes of an XGeM model, part by part."""

from __future__ import annotations

from dataclasses import dataclass

IMAGES = ("frontal", "lateral")
SLOTS = (*IMAGES, "text")  # what has a UNet of its own


@dataclass(frozen=True)
class Published:
    """Numbers of the published model that no tensor shows: heads of attention, and the side of an image's latent."""

    unet_heads: int = 8
    bert_heads: int = 12
    gpt2_heads: int = 12
    clip_text_heads: int = 12
    clip_vision_heads: int = 16
    latent_side: int = 32


@dataclass(frozen=True)
class Level:
    """One level of a UNet: channels, residual blocks on the way down, and whether attention and connectors follow."""

    width: int
    blocks: int
    attention: bool
    connectors: bool


@dataclass(frozen=True)
class UNetSizes:
    """Sizes of one UNet. ``rows`` is 0 for images; for text a hidden state is (N, width, rows, 1).

    ``channels`` enter and leave (4 of an image's latent, 768 of a report's). ``environment`` are the widths of the
    environment encoder's levels, ``environment_width`` is that of the vector it gives. ``temporal`` divides the
    width of the temporal attention, which nothing here uses.
    """

    channels: int
    width: int
    levels: tuple[Level, ...]
    context: int
    environment: tuple[int, ...]
    environment_width: int
    rows: int = 0
    temporal: int = 0


@dataclass(frozen=True)
class AutoencoderSizes:
    """Sizes of the image autoencoder: channels per level, residual blocks of a level, of a latent, of an image."""

    widths: tuple[int, ...]
    blocks: int
    latent: int
    channels: int


@dataclass(frozen=True)
class TransformerSizes:
    """Sizes of BERT, GPT-2 or one half of CLIP; ``vocabulary`` is 0 where images enter, in patches of ``patch``."""

    width: int
    inner: int
    layers: int
    positions: int
    vocabulary: int = 0
    patch: int = 0


@dataclass(frozen=True)
class XGeMSizes:
    """Sizes of all parts: ``report`` is the width of a report's latent, ``shared`` that of CLIP's shared space."""

    unets: dict[str, UNetSizes]
    autoencoder: AutoencoderSizes
    bert: TransformerSizes
    gpt2: TransformerSizes
    report: int
    clip_text: TransformerSizes
    clip_vision: TransformerSizes
    shared: int
    schedule: int
    published: Published = Published()

    @property
    def resolution(self) -> int:
        """Side of an image in pixels."""
        return int(self.published.latent_side * 2 ** (len(self.autoencoder.widths) - 1))
