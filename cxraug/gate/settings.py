"""The gate's settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class GateSettings(BaseModel):
    """How synthetic images are accepted or rejected.

    ``false_reject`` is the share of held-out real images that all checks together may reject. ``copy_rate`` is the part
    of it that the copy check may use: the chance that a real image is called a copy of another patient's.
    """

    model_config = ConfigDict(extra="forbid")
    agreement: bool = True  # does an independent classifier see what was asked for?
    duplicates: bool = True  # is it a copy of a training image, or of another synthetic one?
    false_reject: float = Field(0.05, gt=0, lt=0.5)
    copy_rate: float = Field(0.01, gt=0, lt=0.5)
    folds: int = Field(2, ge=2, le=10)
    model: str = "resnet10t"  # any timm model
    steps: int = Field(120, ge=1)
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    min_calibration: int = Field(19, ge=1)  # fewer real positives than this (or 1 / rate - 1): the pooled cut-off
    max_redraws: int = Field(1, ge=0, le=10)
    weights: str | None = None  # folder of a gate classifier trained before

    @model_validator(mode="after")
    def _possible(self) -> GateSettings:
        if self.duplicates and self.agreement and self.copy_rate >= self.false_reject:
            raise ValueError("copy_rate must be smaller than false_reject, which covers all checks together")
        return self
