"""What joint generation adds to a UNet: an environment vector of its own noisy latent, attended to after its blocks."""

from __future__ import annotations

from itertools import pairwise

from diffusers.models.downsampling import Downsample2D
from torch import Tensor, nn
from torch.nn import functional as F

from cxraug.cores.xgem.blocks import (
    EPSILON,
    GROUPS,
    TextLinear,
    TextResidual,
    image_residual,
    spatial_transformer,
)
from cxraug.cores.xgem.sizes import UNetSizes


class Environment(nn.Module):
    """The environment encoder: a noisy latent and its time embedding to a vector of norm 1.

    No information passes between modalities: each encodes its own latent.
    """

    def __init__(self, sizes: UNetSizes) -> None:
        super().__init__()
        half, rows, embedding = sizes.width // 2, sizes.rows, 4 * sizes.width
        widths = [half, *sizes.environment]
        pairs = list(pairwise(widths))
        last = widths[-1]
        self.norm_out = nn.GroupNorm(GROUPS, last, EPSILON)
        if rows:
            self.conv_in: nn.Module = TextLinear(sizes.channels, half, rows)
            self.resnets = nn.ModuleList(TextResidual(a, b, embedding, rows) for a, b in pairs)
            self.changes = nn.ModuleList(TextLinear(w * rows, w, rows) for w in widths[1:-1])
            self.conv_out: nn.Module = nn.Linear(last * rows, sizes.environment_width)
        else:
            self.conv_in = nn.Conv2d(sizes.channels, half, 3, padding=1)
            self.resnets = nn.ModuleList(image_residual(a, b, embedding) for a, b in pairs)
            self.changes = nn.ModuleList(Downsample2D(w, use_conv=True, name="op") for w in widths[1:-1])
            self.conv_out = nn.Conv2d(last, sizes.environment_width, 3, padding=1)
        self.rows = rows

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(N, channels, ...) and (N, E) to (N, 1, environment_width)."""
        h = self.conv_in(x)
        for i, resnet in enumerate(self.resnets):
            h = resnet(self.changes[i - 1](h) if i else h, embedding)
        h = F.silu(self.norm_out(h))
        h = self.conv_out(h.flatten(1)) if self.rows else self.conv_out(h).mean((-1, -2))
        return (h / h.norm(dim=-1, keepdim=True))[:, None]


class Connectors(nn.Module):
    """The environment encoder and a spatial transformer after each block of a level that has connectors."""

    def __init__(self, sizes: UNetSizes, heads: int) -> None:
        super().__init__()
        self.environment = Environment(sizes)
        top = len(sizes.levels) - 1

        def side(more: int, levels: list[int]) -> nn.ModuleDict:
            return nn.ModuleDict({
                str(place): nn.ModuleList(
                    spatial_transformer(sizes.levels[level].width, sizes.environment_width, heads)
                    for _ in range(sizes.levels[level].blocks + more)
                )
                for place, level in enumerate(levels) if sizes.levels[level].connectors
            })  # fmt: skip

        self.down = side(0, list(range(top + 1)))
        self.up = side(1, list(range(top, -1, -1)))

    def after(self, side: str, level: int, block: int, x: Tensor, environment: Tensor) -> Tensor:
        """``x`` after ``block`` of the level that is the ``level``-th on its ``side`` (``down`` or ``up``)."""
        places: nn.ModuleDict = getattr(self, side)
        if str(level) not in places:
            return x
        transformers: nn.ModuleList = places[str(level)]  # type: ignore[assignment]
        found: Tensor = transformers[block](x, encoder_hidden_states=environment).sample
        return found
