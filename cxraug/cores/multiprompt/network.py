"""The network: views enter and leave a transformer through convolutions; prompts and reports are tokens of it.

Every slot (frontal, lateral, report) has a noise level of its own (UniDiffuser, Bao et al. 2023), so one network
denoises any of them given any others. A view passes a convolutional encoder (shared by both views) down to a coarse
grid of tokens; all tokens - of both views, of the report and of the prompt - meet in transformer blocks (Peebles & Xie
2023, adaLN-zero), and a view's tokens go back up beside the encoder's skips (U-ViT, Bao et al. 2023). A view that takes
no part is left out of the computation: it is the marginal that full noise would give, for free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

FRONTAL, LATERAL_SLOT, REPORT = 0, 1, 2
SLOTS = ("frontal", "lateral", "report")
GROUPS = 8  # of group normalisation
HEAD = 32  # width of an attention head
FREQUENCIES = 64  # of the time embedding


@dataclass(frozen=True)
class Sizes:
    """What decides the shapes: entries per pixel of the grid that come in and go out, and the widths between.

    ``inputs, outputs``: channels of a view's maps (``grid`` x ``grid``). ``spatial``: channels of masks and boxes.
    ``channels``: per level of the convolutions, the last is the transformer's width; ``layers`` residual blocks per
    level; ``depth`` transformer blocks. ``entries``: length of the condition vector, ``groups`` its parts that are
    known or hidden together. ``report``: (tokens, width) of the report latent, (0, 0) without reports. ``shared``:
    width of the shared space of images and reports, 0 without.
    """

    inputs: int
    outputs: int
    spatial: int
    grid: int
    channels: tuple[int, ...]
    layers: int
    depth: int
    entries: int
    groups: tuple[int, ...]
    report: tuple[int, int] = (0, 0)
    shared: int = 0


class PromptEmbedding(nn.Module):
    """Conditions as tokens: one per group of entries, and one for an embedding in the shared space.

    A group nobody knows is a token of its own learned kind, so "not asked" differs from every answer. ``known`` and
    ``value`` hold one vector per entry: a larger vocabulary appends rows.
    """

    member: Tensor

    def __init__(self, sizes: Sizes, width: int) -> None:
        super().__init__()
        count = max(sizes.groups) + 1
        self.known = nn.Parameter(torch.randn(sizes.entries, width) * 0.02)
        self.value = nn.Parameter(torch.randn(sizes.entries, width) * 0.02)
        self.group = nn.Parameter(torch.randn(count, width) * 0.02)
        self.register_buffer("member", torch.tensor(sizes.groups), persistent=False)
        self.shared = nn.Linear(sizes.shared, width) if sizes.shared else None
        self.no_shared = nn.Parameter(torch.randn(1, width) * 0.02) if sizes.shared else None

    def forward(self, values: Tensor, known: Tensor, shared: Tensor | None = None,
                shared_known: Tensor | None = None) -> Tensor:  # fmt: skip
        """(B, tokens, width) from ``values, known`` (B, entries) and ``shared`` (B, e) with ``shared_known`` (B, 1)."""
        each = known[..., None] * (self.known + values[..., None] * self.value)
        tokens = self.group.repeat(len(values), 1, 1).index_add(1, self.member, each)
        if self.shared is None or self.no_shared is None:
            return tokens
        if shared is None or shared_known is None:
            extra = self.no_shared.expand(len(values), -1)
        else:
            extra = torch.where(shared_known > 0, self.shared(shared * math.sqrt(shared.shape[1])), self.no_shared)
        return torch.cat([tokens, extra[:, None]], 1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v of (B, heads, N, d); on the CPU as plain products, whose gradient is faster."""
    if q.device.type != "cpu":
        return functional.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return torch.softmax((q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2), -1) @ v


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each scaled, shifted and gated by its token's own modulation vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: Tensor, modulations: Tensor, kind: Tensor) -> Tensor:
        """``tokens`` (B, N, W); ``modulations`` (B, kinds, W); ``kind`` (N,) which of them each token follows."""
        parts = self.modulation(functional.silu(modulations))[:, kind].chunk(6, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        b, n, w = tokens.shape
        mixed = self.qkv(self.norm1(tokens) * (1 + scale1) + shift1).view(b, n, 3, self.heads, w // self.heads)
        q, k, v = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        seen = attention(q, k, v).transpose(1, 2).reshape(b, n, w)
        tokens = tokens + gate1 * self.out(seen)
        hidden = functional.gelu(self.up(self.norm2(tokens) * (1 + scale2) + shift2), approximate="tanh")
        return tokens + gate2 * self.down(hidden)


class MultipromptNetwork(nn.Module):
    """F of the preconditioned denoiser: residuals of every slot that takes part."""

    frequencies: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, width = sizes, sizes.channels[-1]
        if width % HEAD or any(c % GROUPS for c in sizes.channels):
            raise ValueError(f"channels {sizes.channels}: the last must divide by {HEAD}, all by {GROUPS}")
        self.coarse = sizes.grid // 2 ** (len(sizes.channels) - 1)
        self.prompt = PromptEmbedding(sizes, width)
        self.view_prompt = PromptEmbedding(sizes, width)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.slot = nn.Parameter(torch.randn(len(SLOTS) + 1, width) * 0.02)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), FREQUENCIES)), persistent=False)
        c = sizes.channels
        self.enter = nn.Conv2d(sizes.inputs + sizes.spatial, c[0], 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, out in enumerate(c):
            before = c[max(level - 1, 0)]
            blocks = [_resnet(before if i == 0 else out, out, width) for i in range(sizes.layers)]
            shrink = Downsample2D(out, use_conv=True, name="op") if level + 1 < len(c) else nn.Identity()
            self.downs.append(nn.ModuleList([*blocks, shrink]))
        for level in reversed(range(len(c))):
            out = c[level]
            below = c[min(level + 1, len(c) - 1)]
            blocks = [_resnet((below if i == 0 else out) + out, out, width) for i in range(sizes.layers)]
            grow = Upsample2D(below, use_conv=False) if level + 1 < len(c) else nn.Identity()
            self.ups.append(nn.ModuleList([grow, *blocks]))
        self.leave_norm = nn.GroupNorm(GROUPS, c[0])
        self.leave = nn.Conv2d(c[0], sizes.outputs, 3, padding=1)
        # means over large areas pass no group normalisation, which would forget their size
        self.coarse_in = nn.Linear(sizes.inputs + sizes.spatial, width)
        self.coarse_norm = nn.LayerNorm(width)
        self.coarse_out = nn.Linear(width, sizes.outputs)
        nn.init.zeros_(self.coarse_out.weight)
        nn.init.zeros_(self.coarse_out.bias)
        self.position = nn.Parameter(torch.randn(self.coarse**2, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width) for _ in range(sizes.depth)])
        tokens, wide = sizes.report
        if tokens:
            self.report_in = nn.Linear(2 * wide, width)
            self.report_out = nn.Linear(width, wide)
            self.report_norm = nn.LayerNorm(width)
            self.report_position = nn.Parameter(torch.randn(tokens, width) * 0.02)
            self.no_report = nn.Parameter(torch.randn(tokens, width) * 0.02)
            nn.init.zeros_(self.report_out.weight)
            nn.init.zeros_(self.report_out.bias)
        nn.init.zeros_(self.leave.weight)  # untrained, the denoiser is the Wiener filter
        if self.leave.bias is not None:
            nn.init.zeros_(self.leave.bias)
        self.checkpointed = False

    def forward(
        self,
        maps: dict[int, Tensor],
        times: dict[int, Tensor],
        conditions: dict[int, tuple[Tensor, Tensor]],
        report: Tensor | None = None,
        report_known: Tensor | None = None,
        shared: Tensor | None = None,
        shared_known: Tensor | None = None,
    ) -> dict[int, Tensor]:
        """Residuals of the slots in ``maps`` (and of ``report``).

        Parameters
        ----------
        maps : slot 0 or 1 -> (B, inputs + spatial, grid, grid).
        times : slot -> (B, 1) noise level, 0 for what is given.
        conditions : slot -> values and known (B, entries); they differ between slots in the view. Key ``REPORT`` holds
            those without any view, which the prompt's tokens come from.
        report : (B, tokens, 2 d) inputs of the report slot, with ``report_known`` (B, 1) 0 where there is none.
        """
        general = self.prompt(*conditions[REPORT], shared, shared_known)
        context = general.mean(1)
        b = len(context)
        slots = [s for s in (FRONTAL, LATERAL_SLOT) if s in maps]
        modulations = [context + self.slot[len(SLOTS)]]
        for s in slots:
            own = self.view_prompt(*conditions[s]).mean(1)
            modulations.append(context + own + self.slot[s] + self.time(self._wave(times[s])))
        if report is not None:
            modulations.append(context + self.slot[REPORT] + self.time(self._wave(times[REPORT])))
        vectors = torch.stack([m + self.mix(m * 8) for m in modulations], 1)
        tokens, kinds, skips = [general], [0] * general.shape[1], {}
        for at, s in enumerate(slots, 1):
            coarse, skips[s] = self._down(maps[s], vectors[:, at])
            means = functional.adaptive_avg_pool2d(maps[s], self.coarse).flatten(2).transpose(1, 2)
            tokens.append(coarse.flatten(2).transpose(1, 2) + self.coarse_in(means) + self.position + self.slot[s])
            kinds += [at] * self.coarse**2
        if report is not None:
            entered = self.report_in(report)
            known = torch.ones(b, 1, device=entered.device) if report_known is None else report_known
            tokens.append(torch.where(known[..., None] > 0, entered, self.no_report) + self.report_position)
            kinds += [len(slots) + 1] * report.shape[1]
        sequence = torch.cat(tokens, 1)
        kind = torch.tensor(kinds, device=sequence.device)
        for block in self.blocks:
            sequence = self._run(block, sequence, vectors, kind)
        start = general.shape[1]
        found: dict[int, Tensor] = {}
        for at, s in enumerate(slots, 1):
            part = sequence[:, start : start + self.coarse**2]
            start += self.coarse**2
            coarse = part.transpose(1, 2).reshape(b, -1, self.coarse, self.coarse)
            plain = self.coarse_out(self.coarse_norm(part)).transpose(1, 2).reshape(b, -1, self.coarse, self.coarse)
            plain = functional.interpolate(plain, size=self.sizes.grid, mode="bilinear", align_corners=False)
            found[s] = self._up(coarse, skips[s], vectors[:, at]) + plain
        if report is not None:
            found[REPORT] = self.report_out(self.report_norm(sequence[:, start:]))
        return found

    def _down(self, maps: Tensor, vector: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, skips = self.enter(maps), []
        for level in self.downs:
            *blocks, shrink = cast(nn.ModuleList, level)
            for block in blocks:
                x = self._run(block, x, vector)
                skips.append(x)
            x = shrink(x)
        return x, skips

    def _up(self, x: Tensor, skips: list[Tensor], vector: Tensor) -> Tensor:
        skips = list(skips)
        for level in self.ups:
            grow, *blocks = cast(nn.ModuleList, level)
            x = grow(x)
            for block in blocks:
                x = self._run(block, torch.cat([x, skips.pop()], 1), vector)
        return self.leave(functional.silu(self.leave_norm(x)))

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        if self.checkpointed and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _wave(self, t: Tensor) -> Tensor:
        angle = t * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], 1)


def _resnet(inputs: int, outputs: int, width: int) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=inputs, out_channels=outputs, temb_channels=width, groups=GROUPS, time_embedding_norm="scale_shift"
    )
