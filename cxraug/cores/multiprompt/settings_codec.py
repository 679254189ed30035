"""Settings of the report codec (no heavy imports: recipes read them)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ReportCodecSettings(BaseModel):
    """Settings of the autoencoder that turns a report into a few latent tokens and back.

    Latent
        ``tokens`` latent tokens of ``channels`` numbers, each number with mean 0 and variance 1 over the training
        reports. In training each report's latent gets Gaussian noise of its own standard deviation, uniform between 0
        and ``noise``: decoding has to bear the errors of a generated latent.
    Text
        ``vocabulary`` entries of the tokenizer at most. A report of more than ``max_tokens`` tokens is refused (never
        cut in silence); the network takes reports of any length up to it and only pays for the length there is.
    Network
        ``width`` of both transformers (``heads`` heads), ``encoder_layers`` and ``decoder_layers``.
    Training
        ``steps`` of ``batch_size`` reports with AdamW at ``lr``, cosine to a tenth after ``warmup`` steps.
        ``word_dropout`` hides that share of the words the decoder has written so far, so that it reads the latent.
        ``recombine`` is the share of training reports whose sentences are partly exchanged for sentences of others:
        on few reports the codec otherwise learns the reports by heart.
        ``threads`` and ``precision`` as for the diffusion core.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    tokens: int = Field(8, ge=1)
    channels: int = Field(32, ge=1)
    noise: float = Field(0.4, ge=0)
    vocabulary: int = Field(1500, ge=300, le=65536)
    max_tokens: int = Field(256, ge=8)
    width: int = Field(192, ge=16)
    heads: int = Field(6, ge=1)
    encoder_layers: int = Field(2, ge=1)
    decoder_layers: int = Field(3, ge=1)
    steps: int = Field(3000, ge=1)
    batch_size: int = Field(64, ge=2)
    lr: float = Field(1.5e-3, gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    word_dropout: float = Field(0.3, ge=0, lt=1)
    recombine: float = Field(0.0, ge=0, le=1)
    threads: int = Field(1, ge=1)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    checkpoint_every: int = Field(250, ge=1)

    @model_validator(mode="after")
    def _heads(self) -> ReportCodecSettings:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        return self
