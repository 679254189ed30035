"""Settings of the multi-prompt core (no heavy imports: recipes read them)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Stage = Literal["autoencoder", "report", "alignment", "denoiser"]
STAGES: tuple[Stage, ...] = ("autoencoder", "report", "alignment", "denoiser")
SAMPLER = {
    "sampler_steps", "guidance", "text_guidance", "guidance_from", "guidance_until", "flow_shift", "solver",
    "draw_boxes", "report_guidance", "report_tries", "strength",
}  # fmt: skip

SIZES: dict[str, dict[str, Any]] = {
    "nano": {"channels": (32, 64, 128, 192), "layers": 2, "depth": 4, "grid": 32, "band": 48, "components": 256},
    "small": {
        "channels": (128, 256, 512), "layers": 2, "depth": 12, "grid": 32, "band": 32, "components": 1024,
        "autoencoder": True, "batch_size": 64, "precision": "bfloat16", "lr": 3e-4,
    },
    "base": {
        "channels": (192, 384, 768), "layers": 2, "depth": 16, "grid": 64, "band": 48, "components": 1024,
        "autoencoder": True, "batch_size": 128, "precision": "bfloat16", "lr": 2e-4, "checkpointing": True,
    },
}  # fmt: skip


class MultipromptSettings(BaseModel):
    """Settings of the multi-prompt core: network, training and default sampler.

    Size
        ``size`` nano (128 px, CPU), small (256 px, one GPU) or base (512 px) fills in what is not given of the network:
        ``channels`` per level of the convolutions with ``layers`` residual blocks each, ``depth`` transformer blocks,
        ``grid`` (pixels of the finest level), ``band`` and ``components`` of the Gaussian preconditioner.
        ``autoencoder`` works in the latent space of an autoencoder instead of rearranged pixels.
        ``checkpointing`` computes activations again in the backward pass instead of keeping them.
    Training
        ``steps`` of ``batch_size`` studies with AdamW at ``lr`` (``finetune_lr`` where a run fine-tunes), cosine to a
        tenth after ``warmup``; noise levels are logit-normal (``t_mean``, ``t_sd``). ``loss`` weighs them:
        ``residual`` between equal weight of all (``velocity_weight`` 0) and that of rectified flow (1), ``flow`` as
        plain rectified flow, ``min_snr`` with the signal-to-noise ratio but at most ``snr_limit`` (Hang et al. 2023).
        Weights are averaged with decay ``ema``. ``lora`` fine-tunes by adapters of that rank (0: all weights).
        ``rare_power`` shows images in proportion to (frequency of the rarest present finding) to the power
        ``-rare_power``. ``jitter`` shifts and scales a share of the images by a few per cent and tells the network so:
        few images look like more, and samples stay unmoved.
    Multi-prompt training
        ``lone_view`` is the share of steps with one view of studies that have both; ``joint`` the share of studies
        whose slots are all wanted (of one noise level), the others have some given. Attributes and boxes are hidden in
        the share ``given_alone`` of studies that have a slot or a reference given: beside known findings a report
        says nothing new. All conditions of a study are hidden with ``dropout``, each with ``field_dropout``; masks,
        boxes, reports and references are shown with ``mask_share``, ``boxes_share``, ``report_share`` and
        ``reference_share`` (0: no condition of the core).
        References are embedded in a shared space of ``shared_width`` dimensions, aligned in ``alignment_steps``; what
        given views and reports say about open conditions is read by a network of ``recognition_steps`` (0: none).
    Sampler
        ``sampler_steps`` of ``solver``; classifier-free ``guidance`` by attributes, boxes and masks (of a generated
        report: ``report_guidance``) and ``text_guidance`` by reports and references (1 is none), at noise levels from
        ``guidance_from`` to ``guidance_until``; ``flow_shift`` above 1 spends more steps at high noise.
        ``draw_boxes`` draws the boxes of findings that are asked for without one, if the core was trained with boxes. A
        report that does not read as it was asked for is drawn again, ``report_tries`` times in all beside the views
        and, where no finding is left open, as often without them. ``strength`` is the noise level from which a
        reference image of a view that is also asked for is drawn again (Meng et al. 2022, SDEdit; coarse shape outlives
        nearly all noise, so 0.9 is still close to it); at 1 such a reference enters through the shared space only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: Literal["nano", "small", "base"] = "nano"
    channels: tuple[int, ...] = SIZES["nano"]["channels"]
    layers: int = Field(2, ge=1)
    depth: int = Field(4, ge=1)
    grid: int = Field(32, ge=4)
    band: int = Field(48, ge=1)
    components: int = Field(256, ge=1)
    autoencoder: bool = False
    steps: int = Field(4000, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(1e-3, gt=0)
    finetune_lr: float = Field(3e-4, gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    t_mean: float = 0.6
    t_sd: float = Field(1.8, gt=0)
    loss: Literal["residual", "flow", "min_snr"] = "residual"
    velocity_weight: float = Field(0.0, ge=0, le=1)
    snr_limit: float = Field(5.0, gt=0)
    lora: int = Field(0, ge=0)
    ema: float = Field(0.998, ge=0, lt=1)
    rare_power: float = Field(0.3, ge=0, le=1)
    jitter: float = Field(0.0, ge=0, le=1)
    lone_view: float = Field(0.5, ge=0, le=1)
    joint: float = Field(0.5, ge=0, le=1)
    given_alone: float = Field(0.5, ge=0, le=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    field_dropout: float = Field(0.1, ge=0, lt=1)
    mask_share: float = Field(0.2, ge=0, le=1)
    boxes_share: float = Field(0.4, ge=0, le=1)
    report_share: float = Field(0.7, ge=0, le=1)
    reference_share: float = Field(0.15, ge=0, le=1)
    report_weight: float = Field(1.0, ge=0)
    shared_width: int = Field(64, ge=0)
    alignment_steps: int = Field(800, ge=1)
    recognition_steps: int = Field(1500, ge=0)
    threads: int = Field(2, ge=1)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    checkpointing: bool = False
    checkpoint_every: int = Field(200, ge=1)
    sheet_every: int = Field(0, ge=0)
    solver: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    sampler_steps: int = Field(12, ge=1)
    guidance: float = Field(1.5, ge=0)
    text_guidance: float = Field(1.5, ge=0)
    report_guidance: float = Field(1.5, ge=0)
    guidance_from: float = Field(0.0, ge=0, lt=1)
    guidance_until: float = Field(1.0, gt=0, le=1)
    flow_shift: float = Field(1.0, gt=0)
    draw_boxes: bool = True
    report_tries: int = Field(4, ge=1)
    strength: float = Field(1.0, gt=0, le=1)
    sample_batch: int = Field(16, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {**SIZES.get(given.get("size", "nano"), {}), **given}
        return given

    @model_validator(mode="after")
    def _shapes(self) -> MultipromptSettings:
        if not self.channels or any(c < 8 or c % 8 for c in self.channels) or self.channels[-1] % 32:
            raise ValueError(f"channels must be multiples of 8, the last of 32; found {list(self.channels)}")
        if self.grid % 2 ** (len(self.channels) - 1):
            raise ValueError(f"grid {self.grid} cannot be halved {len(self.channels) - 1} times")
        if self.guidance_from >= self.guidance_until:
            raise ValueError("guidance_from must be below guidance_until")
        if self.loss != "residual" and self.velocity_weight:
            raise ValueError(f"velocity_weight belongs to loss residual, not {self.loss}")
        if self.autoencoder and self.jitter:
            raise ValueError("jitter moves pixels, which a core with an autoencoder does not train on")
        return self
