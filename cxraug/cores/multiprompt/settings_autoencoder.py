"""Settings of the autoencoder of views (no heavy imports: recipes read them)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class AutoencoderSettings(BaseModel):
    """Settings of the autoencoder that turns a view into a map of latents and back.

    Network
        ``channels`` per level, with ``layers`` residual blocks each; every level but the last halves the side, so that
        four levels make 32 x 32 latents of 256 x 256 pixels. ``latents`` numbers per cell.
    Training
        ``steps`` of ``batch_size`` views with AdamW at ``lr``, cosine to a tenth after ``warmup`` steps. The loss is
        the mean absolute error of pixels, plus ``gradient_weight`` times that of their differences between neighbours
        at full, half and quarter size (edges), plus ``kl_weight`` times the divergence of a latent from a standard
        normal. ``threads`` and ``precision`` as for the denoiser.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: tuple[int, ...] = (64, 128, 256, 256)
    layers: int = Field(2, ge=1)
    latents: int = Field(4, ge=1)
    steps: int = Field(20000, ge=1)
    batch_size: int = Field(16, ge=1)
    lr: float = Field(2e-4, gt=0)
    warmup: int = Field(200, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    kl_weight: float = Field(1e-4, ge=0)
    gradient_weight: float = Field(1.0, ge=0)
    threads: int = Field(2, ge=1)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    checkpoint_every: int = Field(500, ge=1)

    @property
    def factor(self) -> int:
        """Pixels per cell of latents, along a side."""
        return 2 ** (len(self.channels) - 1)

    @field_validator("channels")
    @classmethod
    def _multiples(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        if not channels or any(c < 8 or c % 8 for c in channels):
            raise ValueError(f"channels must be multiples of 8; found {list(channels)}")
        return channels
