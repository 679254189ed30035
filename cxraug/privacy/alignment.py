"""How alike two X-rays are once one is turned, scaled and shifted onto the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from cxraug.privacy.structure import NOISE, SIDE, Look, blur

COARSE, FINE = (1.5, 32, 5), (0.0, SIDE, 3)  # blur in pixels of 64, side of the grid of points, steps
SCALES, ANGLE, SHIFT = (0.8, 1.25), 0.14, 0.3  # limits: of the scale, radians, of half a side
STEP = torch.tensor([0.05, 0.05, 0.1, 0.1])  # largest change in one step
EDGE = 3  # pixels of 64 at the border of the fixed image that are not compared
BLANK = 0.01  # sum of squares in grey values, at most, of a picture that shows nothing
OVERLAP = 0.5  # of the picture that must be in both
CHUNK = 256


@dataclass(frozen=True)
class Alignment:
    """Pairs after alignment, each field (n,).

    ``correlation`` -1 to 1; the copy is the training image mirrored or not, magnified by ``scale``, turned by
    ``angle`` degrees and moved by ``shift_x, shift_y`` pixels of 64.
    """

    correlation: np.ndarray
    mirrored: np.ndarray
    scale: np.ndarray
    angle: np.ndarray
    shift_x: np.ndarray
    shift_y: np.ndarray


def align(
    moving: torch.Tensor, fixed: torch.Tensor, looks: Sequence[Look], owner: np.ndarray
) -> tuple[np.ndarray, Alignment]:
    """The best pair of each owner, and its best correlation near the look that found it.

    Parameters
    ----------
    moving, fixed : (n, 1, 64, 64) of :func:`cxraug.privacy.structure.fine`: the suspected copy and the training image.
    looks : (n,) where to start: the copy seen so looks like the training image.
    owner : (n,) the copy that each pair is of.

    Returns
    -------
    Places (u,) of the best pairs, owners in order, and their alignment.

    Notes
    -----
    Gauss-Newton on a similarity transform with gain and offset free, coarse to fine (Lucas & Kanade 1981; with gain,
    which makes it a search for the largest correlation: Evangelidis & Psarakis 2008, TPAMI 30, 1858-1865). Scale
    stays in 0.8 to 1.25, the angle within 8 degrees, the shift within 9.6 pixels of 64, and half the picture must be
    in both; the correlation is Pearson's over what is in both. The pair of an owner that agrees best when coarse is
    the one that is looked at finely.
    """
    mirrored = torch.tensor([look.mirrored for look in looks], dtype=torch.bool)
    sign = torch.where(mirrored, -1.0, 1.0)
    moving = torch.where(mirrored[:, None, None, None], moving.flip(3), moving)
    start = torch.tensor([[k.scale, 0.0, k.x * 2 / SIDE, k.y * 2 / SIDE] for k in looks]).reshape(-1, 4)
    start[:, 2] *= sign
    value, place = _climb(moving, fixed, start, *COARSE)
    order = np.lexsort((-value.numpy(), owner))
    best = order[np.unique(owner[order], return_index=True)[1]]
    value, place = _climb(moving[best], fixed[best], place[best], *FINE)
    size, angle = place[:, :2].norm(dim=1), torch.rad2deg(torch.atan2(place[:, 1], place[:, 0]))
    shift = place[:, 2:] * SIDE / 2
    # ``place`` says where in the copy a place of the training image is found: the copy is magnified by that much.
    columns = (value, mirrored[best], size, angle, shift[:, 0] * sign[best], shift[:, 1])
    return best, Alignment(*(column.numpy() for column in columns))


def _climb(
    moving: torch.Tensor, fixed: torch.Tensor, place: torch.Tensor, width: float, side: int, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest correlation (n,) that is met in ``steps`` from ``place`` (n, 4), and where."""
    values, places = [torch.zeros(0)], [torch.zeros(0, 4)]
    for rows in torch.arange(len(place)).split(CHUNK):
        sources, target, points = _level(moving[rows], fixed[rows], width, side)
        here, at = place[rows], place[rows]
        best = torch.full((len(rows),), -1.0)
        for _ in range(steps + 1):
            value, change = _step(sources, target, points, here)
            better = value > best
            best, at = torch.where(better, value, best), torch.where(better[:, None], here, at)
            here = _within(here + change.clamp(-STEP, STEP))
        values.append(best)
        places.append(at)
    return torch.cat(values), torch.cat(places)


def _level(
    moving: torch.Tensor, fixed: torch.Tensor, width: float, side: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Moving image with its gradients (n, 3, 64, 64), the fixed image at the points (n, p), and the points (2, p)."""
    if width > NOISE:
        moving, fixed = blur(moving, width), blur(fixed, width)
    wide = functional.pad(moving, (1, 1, 1, 1), mode="replicate")
    x = (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) * (SIDE / 4)
    y = (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) * (SIDE / 4)
    line = (torch.arange(side) + 0.5) * 2 / side - 1
    v, u = torch.meshgrid(line, line, indexing="ij")
    target = functional.avg_pool2d(fixed, SIDE // side).flatten(1)
    inside = (u.abs() < 1 - 2 * EDGE / SIDE) & (v.abs() < 1 - 2 * EDGE / SIDE)
    keep = inside.flatten()
    points = torch.stack([u.flatten()[keep], v.flatten()[keep]])
    return torch.cat([moving, x, y], dim=1), target[:, keep], points


def _step(
    sources: torch.Tensor, target: torch.Tensor, points: torch.Tensor, place: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlation (n,) at ``place`` (n, 4) and the step (n, 4) to a better one."""
    u, v = points
    a, b, p, q = (place[:, k, None] for k in range(4))
    x, y = a * u - b * v + p, b * u + a * v + q
    here = ((x.abs() < 1) & (y.abs() < 1)).float()
    seen = functional.grid_sample(sources, torch.stack([x, y], dim=2)[:, :, None], align_corners=False)[:, :, :, 0]
    image, dx, dy = seen.unbind(1)
    slopes = [dx * u + dy * v, dy * u - dx * v, dx, dy]
    total = here.sum(1, keepdim=True).clamp_min(1)

    def centred(values: torch.Tensor) -> torch.Tensor:
        return (values - (values * here).sum(1, keepdim=True) / total) * here

    wanted = centred(target)
    columns = torch.stack([*(centred(s) for s in slopes), centred(image)], dim=1)
    gram = columns @ columns.transpose(1, 2)
    right = columns @ wanted[:, :, None]
    power = torch.stack([gram[:, 4, 4], wanted.square().sum(1)])
    enough = (total[:, 0] >= OVERLAP * (SIDE / (SIDE - 2 * EDGE)) ** 2 * len(u)) & (power > BLANK).all(0)
    value = torch.where(enough, right[:, 4, 0] / power.clamp_min(BLANK).prod(0).sqrt(), 0.0)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    ridge = torch.diag_embed(1e-3 * diagonal + 1e-6)
    solved = torch.linalg.solve(gram + ridge, right)[:, :, 0]
    gain = solved[:, 4:]
    moves = (gain > 0.05) & enough[:, None]
    return value.clamp(-1, 1), torch.where(moves, solved[:, :4] / gain.clamp_min(0.05), 0.0)


def _within(place: torch.Tensor) -> torch.Tensor:
    size = place[:, :2].norm(dim=1)
    angle = torch.atan2(place[:, 1], place[:, 0]).clamp(-ANGLE, ANGLE)
    size = size.clamp(*SCALES)
    turn = torch.stack([size * angle.cos(), size * angle.sin()], dim=1)
    return torch.cat([turn, place[:, 2:].clamp(-SHIFT, SHIFT)], dim=1)
