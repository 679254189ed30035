"""Masks and boxes as channels on the grid of the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cxraug.studies.images import MASK_BITS

PARTS = tuple(MASK_BITS)
BOX_CHANNELS = 16
CHANNELS = BOX_CHANNELS + 1 + 2 * len(PARTS)


@dataclass(frozen=True)
class Layout:
    """Where things are asked to be, for B views.

    ``boxes`` (B, M, 5): place in the vocabulary of findings (-1: no box) and x, y, width, height as fractions of the
    side. ``boxes_known`` (B, 1): 1 where the boxes are all there are. ``masks`` (B, 3, grid, grid): share of each cell
    that a part covers; ``masks_known`` (B, 3).
    """

    boxes: Tensor
    boxes_known: Tensor
    masks: Tensor
    masks_known: Tensor

    @classmethod
    def nothing(cls, n: int, grid: int, most: int = 1) -> Layout:
        """Nothing asked."""
        boxes = torch.zeros(n, most, 5)
        boxes[..., 0] = -1
        return cls(boxes, torch.zeros(n, 1), torch.zeros(n, len(PARTS), grid, grid), torch.zeros(n, len(PARTS)))

    def hide(self, boxes: Tensor, masks: Tensor) -> Layout:
        """The same with boxes and masks unknown where ``boxes, masks`` (B, 1) are 0."""
        return Layout(self.boxes, self.boxes_known * boxes, self.masks, self.masks_known * masks)

    def take(self, rows: Tensor) -> Layout:
        """Some rows."""
        return Layout(self.boxes[rows], self.boxes_known[rows], self.masks[rows], self.masks_known[rows])

    def cat(self, other: Layout) -> Layout:
        """These rows followed by those of ``other``."""
        return Layout(*(torch.cat([getattr(self, f), getattr(other, f)]) for f in _FIELDS))

    def to(self, device: str | torch.device) -> Layout:
        """The same on another device."""
        return Layout(*(getattr(self, f).to(device) for f in _FIELDS))

    @property
    def known(self) -> Tensor:
        """(B, 1) 1 where anything is asked."""
        return torch.maximum(self.boxes_known, self.masks_known.amax(1, keepdim=True))


_FIELDS = ("boxes", "boxes_known", "masks", "masks_known")


class SpatialEmbedding(nn.Module):
    """Boxes drawn with a learned vector of their finding, the masks' parts, and planes that say what is known."""

    def __init__(self, findings: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.finding = nn.Parameter(torch.randn(max(1, findings), BOX_CHANNELS))

    def forward(self, layout: Layout) -> Tensor:
        """(B, CHANNELS, grid, grid)."""
        label, x, y, w, h = layout.boxes.unbind(-1)
        there = (label >= 0).float() * layout.boxes_known
        across, down = self._cover(x, w), self._cover(y, h) * there[..., None]
        vectors = self.finding[label.clamp(min=0).long()]
        drawn = torch.einsum("bmc,bmi,bmj->bcij", vectors, down, across)
        plane = torch.ones(1, 1, self.grid, self.grid, device=drawn.device)
        known = layout.masks_known[..., None, None]
        return torch.cat([drawn, layout.boxes_known[..., None, None] * plane, layout.masks * known, known * plane], 1)

    def _cover(self, start: Tensor, length: Tensor) -> Tensor:
        """(B, M, grid) share of each cell of a line that [start, start + length] covers."""
        edges = torch.arange(self.grid + 1, device=start.device) / self.grid
        low = torch.maximum(start[..., None], edges[:-1])
        high = torch.minimum((start + length)[..., None], edges[1:])
        return (high - low).clamp(min=0) * self.grid
