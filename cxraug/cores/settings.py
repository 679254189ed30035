"""Settings of the cores that are fitted or trained here (no heavy imports: recipes read them)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SAMPLER = {"solver", "sampler_steps", "guidance", "guidance_until", "flow_shift"}  # no part of the weights


class GaussianSettings(BaseModel):
    """Settings of the closed-form core: how many principal components each projection keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    components: int = Field(256, ge=1)


class DiffusionSettings(BaseModel):
    """Settings of the conditional diffusion core: network, training and default sampler.

    Training
        ``steps`` of ``batch_size`` images with AdamW at ``lr`` (``finetune_lr`` where a run fine-tunes in a draw),
        cosine to a tenth after ``warmup`` steps; times from a logit-normal (``t_mean``, ``t_sd``), the loss between
        equal weight of all times (``velocity_weight`` 0) and that of rectified flow (1). Weights are averaged with
        decay ``ema``. ``rare_power`` draws a training image in proportion to (frequency of its rarest present
        finding) to the power ``-rare_power``: 0 is uniform, 1 shows every finding about equally often. ``threads``
        CPU threads are part of the settings because bytes depend on them. ``precision`` bfloat16 doubles the speed of
        CPUs that multiply it; others compute in float32.
    Conditions
        With probability ``dropout`` all conditions of an image are hidden (the unconditional case that guidance
        needs), and otherwise each one with probability ``field_dropout``, so that any subset works.
    Network
        ``channels`` per level of the U-Net with ``layers`` residual blocks each; ``components`` of the Gaussian
        preconditioner. The image is rearranged to ``grid`` x ``grid`` pixels with more channels.
    Sampler
        ``sampler_steps`` of ``solver`` with classifier-free ``guidance`` (1 is none), applied where the noise level
        is below ``guidance_until``; ``flow_shift`` above 1 spends more steps at high noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    steps: int = Field(2000, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(1e-3, gt=0)
    finetune_lr: float = Field(3e-4, gt=0)
    warmup: int = Field(50, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    t_mean: float = 0.0
    t_sd: float = Field(1.0, gt=0)
    velocity_weight: float = Field(0.5, ge=0, le=1)
    ema: float = Field(0.998, ge=0, lt=1)
    rare_power: float = Field(0.5, ge=0, le=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    field_dropout: float = Field(0.1, ge=0, lt=1)
    channels: tuple[int, ...] = (48, 96, 160)
    layers: int = Field(1, ge=1)
    grid: int = Field(32, ge=8)
    components: int = Field(256, ge=1)
    threads: int = Field(2, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: int = Field(200, ge=1)
    solver: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    sampler_steps: int = Field(12, ge=1)
    guidance: float = Field(1.5, ge=0)
    guidance_until: float = Field(1.0, gt=0, le=1)
    flow_shift: float = Field(2.0, gt=0)
    sample_batch: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _channels(self) -> DiffusionSettings:
        if not self.channels or any(c < 8 or c % 8 for c in self.channels):
            raise ValueError(f"channels must be multiples of 8; found {list(self.channels)}")
        if self.grid % 2 ** (len(self.channels) - 1):
            raise ValueError(f"grid {self.grid} cannot be halved {len(self.channels) - 1} times")
        return self
