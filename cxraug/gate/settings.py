"""The gate's settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SHARES = {"agreement": 6.0, "demographics": 1.0, "realism": 1.0, "reports": 1.0}
XRV_KEYS = ("xrv_findings", "xrv_sex", "xrv_age", "xrv_race")


class GateSettings(BaseModel):
    """How synthetic images are accepted or rejected.

    ``false_reject`` is the share of held-out real images that all checks together may reject. ``copy_rate`` is the part
    of it that the copy check may use: the chance that a real image is called a copy of another patient's. ``shares``
    divide the rest among the other checks that are on, in proportion; what one does not use the others get.
    ``per_group`` names a group (a column, ``age``, or columns joined by ``*``) within whose levels the checks are
    calibrated. ``xrv_findings, xrv_sex, xrv_age, xrv_race`` are local files with weights of torchxrayvision's networks;
    what they read is not read by networks of our own.
    """

    model_config = ConfigDict(extra="forbid")
    agreement: bool = True  # does an independent classifier see what was asked for?
    demographics: bool = True  # does it look like the sex, age and race that were asked for?
    realism: bool = True  # is it a stranger to real images?
    reports: bool = True  # does its report contradict what was asked for?
    duplicates: bool = True  # is it a copy of a training image, or of another synthetic one?
    false_reject: float = Field(0.05, gt=0, lt=0.5)
    copy_rate: float = Field(0.01, gt=0, lt=0.5)
    shares: dict[str, float] = SHARES
    per_group: str | None = None
    folds: int = Field(2, ge=2, le=10)
    model: str = "resnet10t"  # any timm model
    steps: int = Field(120, ge=1)
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    min_calibration: int = Field(19, ge=1)  # fewer real images than this: a pooled cut-off, or none
    max_redraws: int = Field(1, ge=0, le=10)
    weights: str | None = None  # folder of a gate classifier trained before
    xrv_findings: str | None = None
    xrv_sex: str | None = None
    xrv_age: str | None = None
    xrv_race: str | None = None

    @field_validator("shares")
    @classmethod
    def _known_shares(cls, value: dict[str, float]) -> dict[str, float]:
        for name, share in value.items():
            if name not in SHARES or not 0 < share < float("inf"):
                raise ValueError(f"{name}: {share}; expected positive numbers for some of {', '.join(SHARES)}")
        return SHARES | value

    @model_validator(mode="after")
    def _possible(self) -> GateSettings:
        if self.duplicates and any(getattr(self, name) for name in SHARES) and self.copy_rate >= self.false_reject:
            raise ValueError("copy_rate must be smaller than false_reject, which covers all checks together")
        return self

    def rates(self) -> dict[str, float]:
        """The false-reject rate that each check that is on begins with: the budget without copies, by ``shares``."""
        left = self.false_reject - (self.copy_rate if self.duplicates else 0)
        on = {name: self.shares[name] for name in SHARES if getattr(self, name)}
        return {name: left * share / sum(on.values()) for name, share in on.items()}

    def networks(self) -> dict[str, str]:
        """Files and folders of weights that are named, by setting."""
        return {key: path for key in ("weights", *XRV_KEYS) if (path := getattr(self, key)) is not None}
