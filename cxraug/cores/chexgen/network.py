"""ChexGen's network: diffusers' PixArt transformer, alone or with copied blocks that read a condition image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from safetensors.torch import load_file
from torch import Tensor, nn

from cxraug.cores.chexgen.layout import CHANNELS
from cxraug.errors import InputError

EMBEDDINGS = "embeddings.safetensors"
STEM = "diffusion_pytorch_model"
_MASKED = -10000.0  # what diffusers adds to the scores of keys that are left out


class ControlBlocks(nn.Module):
    """Copies of the first ``n`` blocks, with a projection into the first and one out of each."""

    def __init__(self, config: Any, n: int) -> None:
        super().__init__()
        width = config.num_attention_heads * config.attention_head_dim
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(
                width, config.num_attention_heads, config.attention_head_dim, cross_attention_dim=width,
                activation_fn=config.activation_fn, num_embeds_ada_norm=config.num_embeds_ada_norm,
                attention_bias=True, norm_type=config.norm_type, norm_elementwise_affine=False,
                norm_eps=config.norm_eps,
            )
            for _ in range(n)
        )  # fmt: skip
        self.before = nn.Linear(width, width)
        self.after = nn.ModuleList(nn.Linear(width, width) for _ in range(n))


class ChexGenNetwork(nn.Module):
    """Predicts noise and the share of its largest variance.

    Attributes
    ----------
    null_caption : (L, C) features of no caption, for guidance.
    formula : (1, N, D) positions of the condition image's patches, from the sin-cos formula; those of the picture are
        the stored ones, which drifted from it in training.
    """

    transformer: Any  # PixArtTransformer2DModel
    control: ControlBlocks | None
    null_caption: Tensor
    formula: Tensor

    def __init__(self, transformer: Any, embeddings: dict[str, Tensor], control: ControlBlocks | None = None) -> None:
        super().__init__()
        self.transformer, self.control = transformer, control
        positions = transformer.pos_embed.pos_embed
        self.register_buffer("formula", positions.clone(), persistent=False)
        self.register_buffer("null_caption", embeddings["null_caption"], persistent=False)
        positions.copy_(embeddings["pos_embed"])

    @property
    def side(self) -> int:
        """Side of the latent."""
        return int(self.transformer.config.sample_size)

    @property
    def tokens(self) -> int:
        """Number of caption features."""
        return len(self.null_caption)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """(n, 8, S, S): noise, and v in [-1, 1] that interpolates its log variance.

        Parameters
        ----------
        x : (n, 4, S, S) noisy latents.
        t : (n,) timesteps 0..999, as they are.
        y : (n, L, C) caption features.
        mask : (m, L), 1 where there is a token; repeated where m divides n. None: everywhere.
        c : (n, 4, S, S) latents of condition images (control variant only). None: the network without its copies.
        """
        if mask is not None:
            mask = mask.repeat(len(y) // len(mask), 1)
        if c is None:
            return self.transformer(
                x, encoder_hidden_states=y, timestep=t, encoder_attention_mask=mask, return_dict=False
            )[0]  # type: ignore[no-any-return]
        if self.control is None:
            raise InputError("the core has no control blocks to read a condition image")
        return self._controlled(x, t, y, mask, c, self.control)

    def _controlled(
        self, x: Tensor, t: Tensor, y: Tensor, mask: Tensor | None, c: Tensor, control: ControlBlocks
    ) -> Tensor:
        """As the transformer's own forward, with what block i's copy makes of ``c`` added before block i + 1."""
        net = self.transformer
        h = net.pos_embed(x)
        c = net.pos_embed.proj(c).flatten(2).transpose(1, 2) + self.formula
        modulation, time = net.adaln_single(t, batch_size=len(x), hidden_dtype=h.dtype)
        y = net.caption_projection(y)
        bias = None if mask is None else (1 - mask[:, None].to(h.dtype)) * _MASKED

        def run(block: nn.Module, tokens: Tensor) -> Tensor:
            return block(tokens, encoder_hidden_states=y, encoder_attention_mask=bias, timestep=modulation)  # type: ignore[no-any-return]

        blocks = list(net.transformer_blocks)
        h = run(blocks[0], h)
        c = control.before(c) + h
        for block, copied, after in zip(blocks[1:], control.blocks, control.after, strict=False):
            c = run(copied, c)
            h = run(block, h + after(c))
        for block in blocks[1 + len(control.blocks) :]:
            h = run(block, h)
        shift, scale = (net.scale_shift_table[None] + time[:, None]).chunk(2, dim=1)
        h = net.proj_out(net.norm_out(h) * (1 + scale) + shift)
        p, side = net.config.patch_size, net.config.sample_size
        h = h.reshape(-1, side // p, side // p, p, p, 2 * CHANNELS)
        return torch.einsum("nhwpqc->nchpwq", h).reshape(-1, 2 * CHANNELS, side, side)


def load_network(folder: Path, control_blocks: int) -> ChexGenNetwork:
    """The network of a converted folder, in float32."""
    transformer, info = PixArtTransformer2DModel.from_pretrained(
        folder / "transformer", local_files_only=True, torch_dtype=torch.float32, output_loading_info=True
    )
    wrong = [*info["missing_keys"], *info["unexpected_keys"]]
    if wrong:
        raise InputError(f"key {wrong[0]} is missing or unknown", file=folder / "transformer")
    embeddings = {name: tensor.float() for name, tensor in load_file(folder / EMBEDDINGS).items()}
    control = None
    if control_blocks:
        control = ControlBlocks(transformer.config, control_blocks)
        held = {k: v for path in sorted((folder / "control").glob("*.safetensors")) for k, v in load_file(path).items()}
        control.load_state_dict(held)
    return ChexGenNetwork(transformer, embeddings, control).eval().requires_grad_(False)
