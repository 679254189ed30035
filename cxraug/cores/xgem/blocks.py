"""What the UNets and their connectors are built of, beyond diffusers' own UNet."""

from __future__ import annotations

from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS, EPSILON = 32, 1e-5


def spatial_transformer(width: int, context: int, heads: int) -> Transformer2DModel:
    """Self-attention, attention to a context (N, 1, ``context``) and a gated layer on (N, ``width``, H, W)."""
    return Transformer2DModel(
        num_attention_heads=heads, attention_head_dim=width // heads, in_channels=width, num_layers=1,
        cross_attention_dim=context, norm_num_groups=GROUPS, use_linear_projection=False,
    )  # fmt: skip


def image_residual(first: int, width: int, embedding: int) -> ResnetBlock2D:
    """The residual block of images, 3 x 3 convolutions with the time embedding added between."""
    return ResnetBlock2D(in_channels=first, out_channels=width, temb_channels=embedding, groups=GROUPS, eps=EPSILON)


class TextResidual(nn.Module):
    """The same for text: (N, C, rows, 1) seen as C * rows channels of one pixel, 1 x 1 convolutions."""

    def __init__(self, first: int, width: int, embedding: int, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.norm1 = nn.GroupNorm(GROUPS, first * rows, EPSILON)
        self.conv1 = nn.Conv2d(first * rows, width * rows, 1)
        self.time_emb_proj = nn.Linear(embedding, width * rows)
        self.norm2 = nn.GroupNorm(GROUPS, width * rows, EPSILON)
        self.conv2 = nn.Conv2d(width * rows, width * rows, 1)
        self.conv_shortcut = nn.Identity() if first == width else nn.Conv2d(first * rows, width * rows, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(N, first, rows, 1) and (N, E) to (N, width, rows, 1)."""
        x = x.reshape(x.shape[0], -1, 1, 1)
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(embedding))[..., None, None]
        h = self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))
        return h.reshape(h.shape[0], -1, self.rows, 1)


class TextLinear(nn.Linear):
    """A linear layer on the flattened hidden state, (N, C, rows, 1) to (N, C', rows, 1)."""

    def __init__(self, first: int, width: int, rows: int) -> None:
        super().__init__(first, width * rows)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = super().forward(x.flatten(1))
        return h.reshape(h.shape[0], -1, self.rows, 1)
