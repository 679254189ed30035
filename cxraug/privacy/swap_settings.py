"""The settings of a swap."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxraug.errors import InputError
from cxraug.gate.settings import GateSettings

KINDS = ("attributes", "report", "variation")
Split = Literal["train", "val", "test"]


class SwapSettings(BaseModel):
    """What is swapped, how, and what is refused.

    Attributes
    ----------
    k : fewest patients behind every published combination. splits : of the rows that are swapped.
    strength : ``attributes`` alone, ``report`` (the real report is a condition), ``variation`` (the real images enter
        through the core's shared embedding), or the share in (0, 1) of the noise that is added to the real images
        before they are denoised: the smaller, the closer to the original.
    candidates : stand-ins drawn per study, of which the gate takes the best.
    drop : attributes, findings and views that are given up. view_as : a view the core does not know -> one it does.
    keep_patients : studies of one patient share one new patient. dates : the column of dates, if one is to be kept.
    max_phrases : rare phrases that a report may repeat; None: as many as real reports of different patients share.
    own_nearest : also refuse a stand-in whose nearest training image is of the very patient that it stands for.
    size : side in pixels at which images are judged. gate : the gate's settings (its re-draws are the candidates).
    """

    model_config = ConfigDict(extra="forbid")
    k: int = Field(5, ge=1)
    splits: tuple[Split, ...] = ("train",)
    strength: str | float = "attributes"
    candidates: int = Field(4, ge=1, le=64)
    drop: tuple[str, ...] = ()
    view_as: dict[str, str] = Field(default_factory=dict)
    keep_patients: bool = False
    dates: str | None = None
    max_phrases: float | None = Field(None, ge=0)
    own_nearest: bool = True
    size: int = Field(64, ge=8, le=2048)
    gate: GateSettings = Field(default_factory=GateSettings)

    @model_validator(mode="after")
    def _possible(self) -> SwapSettings:
        if isinstance(self.strength, str) and self.strength not in KINDS:
            raise ValueError(f"strength is {self.strength!r}, not a number or one of {', '.join(KINDS)}")
        if not isinstance(self.strength, str) and not 0 < self.strength < 1:
            raise ValueError(f"strength is {self.strength:g}, not between 0 and 1")
        if not self.splits:
            raise ValueError("no split is swapped")
        return self

    @property
    def guided(self) -> bool:
        """Whether anything of the originals besides attributes reaches the core."""
        return self.strength != "attributes"

    @property
    def shows_images(self) -> bool:
        """Whether the original images reach the core."""
        return self.strength not in ("attributes", "report")


def parse_strength(text: str) -> str | float:
    """``attributes``, ``report``, ``variation`` or a number; :class:`InputError` otherwise."""
    if text in KINDS:
        return text
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        expected = f"{', '.join(KINDS)}, or a share of noise between 0 and 1"
        raise InputError("--strength", found=text, expected=expected)
    return value
