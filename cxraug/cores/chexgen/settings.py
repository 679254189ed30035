"""How ChexGen is sampled."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from cxraug.cores.grey import COLOUR


class ChexGenSettings(BaseModel):
    """Sampler of ChexGen; the defaults are the published ones.

    ``guidance`` 1 is none; where a mask or boxes are given there never is any, as in the original sampler. ``colour``:
    see :func:`cxraug.cores.grey.grey_pixels`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    sampler_steps: int = Field(100, ge=2, le=1000)
    guidance: float = Field(4.0, ge=0)
    sample_batch: int = Field(4, ge=1)
    colour: float = Field(COLOUR, ge=0)


SAMPLER = frozenset({"sampler_steps", "guidance"})
