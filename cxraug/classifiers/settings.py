"""How classifiers are trained: one set of settings for all arms, so that arms differ in their data alone."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Augmentation = Literal["none", "base", "strong"]


class TrainSettings(BaseModel):
    """Settings of one training, shared by every arm of a comparison.

    ``model`` is a timm name or ``xrv:densenet121-res224-...``; ``weights`` a file to start from. ``steps`` counts all
    optimiser steps, pretraining included; ``warmup`` is the share of them over which the learning rate rises to ``lr``
    before it falls along a cosine. ``eval_every`` and ``checkpoint_every`` count steps. ``ema`` is the decay of a
    moving average of the weights; with one, the average is what is validated and saved. ``channels_last`` is the memory
    layout of images; by default it is used on CUDA only. ``threads`` are CPU threads of one training.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = "resnet10t"
    weights: str | None = None
    steps: int = Field(200, ge=1)
    batch_size: int = Field(32, ge=2)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    eval_every: int = Field(40, ge=1)
    augment: Augmentation = "base"
    ema: float | None = Field(None, gt=0, lt=1)
    threads: int = Field(1, ge=1)
    checkpoint_every: int = Field(100, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: Literal["no", "bf16"] = "no"
    channels_last: bool | None = None
