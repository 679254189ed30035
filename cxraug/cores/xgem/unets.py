"""The three denoisers of XGeM, alone or jointly.

They differ from the UNet of Stable Diffusion 1.x in one more thing than the connectors: the first output block gets
the middle block's output twice. (The original appends the hidden state to the skips and then overwrites it in place,
and was trained so.)
"""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, cat, nn
from torch.nn import functional as F

from cxraug.cores.xgem.blocks import EPSILON, GROUPS, TextLinear, TextResidual, spatial_transformer
from cxraug.cores.xgem.connectors import Connectors
from cxraug.cores.xgem.sizes import UNetSizes


class _Level(nn.Module):
    """Residual blocks of one level, attention after each where the level has it, then the change of level."""

    def __init__(self, widths: list[tuple[int, int]], sizes: UNetSizes, attention: bool, heads: int,
                 change: bool) -> None:  # fmt: skip
        super().__init__()
        rows, embedding, out = sizes.rows, 4 * sizes.width, widths[-1][1]
        self.resnets = nn.ModuleList(TextResidual(a, b, embedding, rows) for a, b in widths)
        self.attentions = nn.ModuleList(
            spatial_transformer(b, sizes.context, heads) for _, b in (widths if attention else [])
        )
        self.change = TextLinear(out * rows, out, rows) if change else None


class _Middle(nn.Module):
    def __init__(self, width: int, sizes: UNetSizes, heads: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(TextResidual(width, width, 4 * sizes.width, sizes.rows) for _ in range(2))
        self.attentions = nn.ModuleList([spatial_transformer(width, sizes.context, heads)])

    def forward(self, x: Tensor, embedding: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, embedding), encoder_hidden_states=encoder_hidden_states).sample
        found: Tensor = self.resnets[1](x, embedding)
        return found


class TextNetwork(nn.Module):
    """The network of the report's latent (N, channels), named and walked like diffusers' UNet."""

    def __init__(self, sizes: UNetSizes, heads: int) -> None:
        super().__init__()
        self.time_proj = Timesteps(sizes.width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(sizes.width, 4 * sizes.width)
        self.conv_in = TextLinear(sizes.channels, sizes.width, sizes.rows)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        width, skips, top = sizes.width, [sizes.width], len(sizes.levels) - 1
        for number, level in enumerate(sizes.levels):
            widths = [(width if i == 0 else level.width, level.width) for i in range(level.blocks)]
            self.down_blocks.append(_Level(widths, sizes, level.attention, heads, change=number < top))
            width = level.width
            skips += [width] * (level.blocks + (number < top))
        self.mid_block = _Middle(width, sizes, heads)
        for number in range(top, -1, -1):
            level = sizes.levels[number]
            widths = []
            for _ in range(level.blocks + 1):
                widths.append((width + skips.pop(), level.width))
                width = level.width
            self.up_blocks.append(_Level(widths, sizes, level.attention, heads, change=number > 0))
        self.conv_norm_out = nn.GroupNorm(GROUPS, sizes.width, EPSILON)
        self.conv_out = nn.Linear(sizes.width * sizes.rows, sizes.channels)


class JointUNet(nn.Module):
    """A denoiser: predicts the noise of its own latent.

    ``network`` is diffusers' UNet of images or :class:`TextNetwork`; ``connectors`` are only walked through in joint
    generation, so a modality generated alone and generated jointly gives different numbers.
    """

    def __init__(self, network: UNet2DConditionModel | TextNetwork, connectors: Connectors) -> None:
        super().__init__()
        self.network: Any = network
        self.connectors = connectors

    def forward(self, x: Tensor, t: Tensor, context: Tensor, *, joint: bool) -> Tensor:
        """Noise in ``x``.

        Parameters
        ----------
        x : (N, 4, h, w) of an image or (N, 768) of a report, noisy.
        t : (N,) timesteps, 0 to 999.
        context : (N, 1, 768), the mixed conditions.
        joint : whether other modalities are generated with this one.
        """
        net, more = self.network, self.connectors
        text = isinstance(net, TextNetwork)
        embedding = net.time_embedding(net.time_proj(t).to(x.dtype))
        environment = more.environment(x, embedding) if joint else None
        h = net.conv_in(x)
        skips = [h]
        for number, level in enumerate(net.down_blocks):
            h = _walk(level, h, embedding, context, environment, more, "down", number, skips)
            change = level.change if text else level.downsamplers and level.downsamplers[0]
            if change:
                h = change(h)
                skips.append(h)
        h = net.mid_block(h, embedding, encoder_hidden_states=context)
        skips[-1] = h  # see the module's text
        for number, level in enumerate(net.up_blocks):
            h = _walk(level, h, embedding, context, environment, more, "up", number, skips)
        h = F.silu(net.conv_norm_out(h))
        found: Tensor = net.conv_out(h.flatten(1) if text else h)
        return found


def _walk(level: nn.Module, h: Tensor, embedding: Tensor, context: Tensor, environment: Tensor | None,
          connectors: Connectors, side: str, number: int, skips: list[Tensor]) -> Tensor:  # fmt: skip
    """Through the blocks of one level; ``skips`` are put down on the way down and taken up on the way up.

    On the way up the last block holds the change of level, so the connector follows that.
    """
    attentions = getattr(level, "attentions", ())
    for i, resnet in enumerate(level.resnets):  # type: ignore[arg-type]
        h = resnet(h if side == "down" else cat([h, skips.pop()], 1), embedding)
        if len(attentions):
            h = attentions[i](h, encoder_hidden_states=context).sample
        if side == "up" and i == len(level.resnets) - 1:  # type: ignore[arg-type]
            change = getattr(level, "change", None) or (getattr(level, "upsamplers", None) or [None])[0]
            h = h if change is None else change(h)
        if environment is not None:
            h = connectors.after(side, number, i, h, environment)
        if side == "down":
            skips.append(h)
    return h
