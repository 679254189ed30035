"""Settings of drawing with XGeM."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from cxraug.cores.grey import COLOUR

SAMPLER = ("sampler_steps", "guidance", "eta", "text_weight", "frontal_weight", "lateral_weight", "report_tokens")


class XGeMSettings(BaseModel):
    """How studies are drawn. Defaults are those of the original's demo.

    ``eta`` is DDIM's: 0 draws noise once, 1 in every step. The weights mix what is given (text, a frontal, a lateral
    image): context = sum of embedding * weight / sum of weights. ``report_tokens`` is the longest report.
    ``colour``: see :func:`cxraug.cores.grey.grey_pixels`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler_steps: int = Field(50, ge=1, le=1000)
    guidance: float = Field(7.5, ge=0, le=100)
    eta: float = Field(1.0, ge=0, le=1)
    text_weight: float = Field(1.0, gt=0)
    frontal_weight: float = Field(1.0, gt=0)
    lateral_weight: float = Field(1.0, gt=0)
    report_tokens: int = Field(100, ge=1, le=1023)
    sample_batch: int = Field(4, ge=1)
    colour: float = Field(COLOUR, ge=0)
