"""How a pipeline is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cxraug.cores.grey import COLOUR

SOLVERS = {
    "dpm++": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler", "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler", "euler": "EulerDiscreteScheduler",
}  # fmt: skip


class PipelineSettings(BaseModel):
    """Sampler of a pipeline.

    ``solver``: "own" is the one saved with the pipeline. ``strength``: how much of a given reference image is noised
    away, 1 leaves nothing of it. ``guidance`` 1 is none; ``negative`` is what to guide away from. ``colour``: see
    :func:`cxraug.cores.grey.grey_pixels`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    sampler_steps: int = Field(25, ge=1)
    guidance: float = Field(4.0, ge=0)
    solver: Literal["own", "dpm++", "unipc", "ddim", "ddpm", "euler"] = "own"
    strength: float = Field(0.6, gt=0, le=1)
    negative: str = ""
    sample_batch: int = Field(4, ge=1)
    colour: float = Field(COLOUR, ge=0)


SAMPLER = frozenset({"sampler_steps", "guidance", "solver", "strength", "negative"})
