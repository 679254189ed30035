"""Whether a frontal and a lateral image are of one patient: two small towers that embed the views of a study."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cxraug.cores.measures import table
from cxraug.cores.measures.fitting import Fit, fit
from cxraug.cores.measures.paired import paired_auroc, paired_mean
from cxraug.seeds import derive_seed

SIDE, WIDTH, BATCH = 64, 64, 48
WEAK_AUROC = 0.7
HOW = "two towers trained on real pairs: own lateral against the lateral of another patient of the same sex; "


class Towers(nn.Module):
    """One tower per projection, each to unit vectors (n, 64); their dot product says how well two views go together."""

    def __init__(self) -> None:
        super().__init__()
        self.frontal, self.lateral = _tower(), _tower()
        self.scale = nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32))

    def forward(self, frontal: torch.Tensor, lateral: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of images (n, 1, S, S) in [0, 1]."""
        return _unit(self.frontal, frontal), _unit(self.lateral, lateral)


def train_towers(
    frontal: np.ndarray, lateral: np.ndarray, sex: np.ndarray, patients: np.ndarray,
    *, steps: int, seed: int, device: str = "cpu",
) -> Towers:  # fmt: skip
    """Train on real pairs uint8 (n, S, S): in a batch of one sex each frontal has to find its own lateral.

    The loss is the symmetric cross-entropy of CLIP (Radford et al. 2021, arXiv 2103.00020, fig. 3). ``sex`` (n,) is
    text, of which each value is a group; two studies of one patient are never told apart.
    """
    groups = [np.flatnonzero(sex == value) for value in np.unique(sex)]
    groups = [g for g in groups if len(g) >= 2]
    sizes = np.array([len(g) for g in groups], float)

    def loss(model: nn.Module, step: int, rng: np.random.Generator) -> torch.Tensor:
        mine = groups[rng.choice(len(groups), p=sizes / sizes.sum())]
        rows = rng.permutation(mine)
        rows = rows[np.unique(patients[rows], return_index=True)[1]]
        rows = rng.permutation(rows)[:BATCH]
        images = []
        for side in (frontal, lateral):
            x = torch.from_numpy(np.array(side[rows])).to(device)[:, None].float() / 255
            down, right = (int(v) for v in rng.integers(-4, 5, 2))
            change = torch.from_numpy(rng.uniform(-1, 1, (2, len(rows), 1, 1, 1)).astype(np.float32)).to(device)
            x = torch.roll(x, (down, right), (2, 3))
            images.append(((x - 0.5) * torch.exp(0.15 * change[0]) + 0.5 + 0.08 * change[1]).clamp(0, 1))
        a, b = model(*images)
        products = a @ b.T * model.scale.exp().clamp(max=50)  # type: ignore[operator, union-attr]
        own = torch.arange(len(rows), device=a.device)
        return (functional.cross_entropy(products, own) + functional.cross_entropy(products.T, own)) / 2

    torch.manual_seed(derive_seed(seed, "towers"))
    model = Towers().to(device)
    fit(model, loss, Fit(steps=steps, lr=2e-3), seed=derive_seed(seed, "towers order"), what="training the towers")
    return model


def embed_views(
    model: Towers, frontal: np.ndarray, lateral: np.ndarray, *, batch: int = 256, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, 64) of both views of n pairs uint8 (n, S, S)."""
    model, parts = model.eval().to(device), []
    with torch.inference_mode():
        for i in range(0, len(frontal), batch):
            x, y = (torch.from_numpy(np.array(p[i : i + batch])).to(device)[:, None].float() / 255
                    for p in (frontal, lateral))  # fmt: skip
            parts.append([v.cpu().numpy() for v in model(x, y)])
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def others(sex: np.ndarray, patients: np.ndarray, seed: int) -> np.ndarray:
    """For each study another patient's of the same sex, drawn at random; -1 where there is none (n,)."""
    rng, found = np.random.default_rng([seed, 11]), np.full(len(sex), -1)
    for i in range(len(sex)):
        able = np.flatnonzero((sex == sex[i]) & (patients != patients[i]))
        if len(able):
            found[i] = rng.choice(able)
    return found


def view_consistency(
    real: tuple[np.ndarray, np.ndarray], generated: tuple[np.ndarray, np.ndarray], sex: np.ndarray,
    patients: np.ndarray, *, prompts: str, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """AUROC of matched against mismatched pairs, and how often the own lateral is the better match of the two.

    ``real`` and ``generated`` are vectors of both views, (n, d) each. The mismatched lateral of a generated pair was
    made for the prompt of another patient, so that what tells them apart may also be what was asked.
    """
    other = others(sex, patients, seed)
    at = np.flatnonzero(other >= 0)
    if len(at) < 2:
        return [table.row(name, "frontal and lateral", prompts, n=len(at), method=HOW)
                for name in ("pair auroc", "pair accuracy")]  # fmt: skip
    own, wrong = (np.stack([(side[0][at] * side[1][j]).sum(1) for side in (real, generated)]) for j in (at, other[at]))
    label = np.repeat([1.0, 0.0], len(at))
    found = paired_auroc(np.concatenate([own, wrong], axis=1), label, np.tile(patients[at], 2))
    better = paired_mean(own > wrong, patients[at])
    about: dict[str, Any] = {"n": len(at), "weak_below": WEAK_AUROC}
    return [
        table.row("pair auroc", "frontal and lateral", prompts, found, method=HOW + "AUROC of the product", **about),
        table.row("pair accuracy", "frontal and lateral", prompts, better, method=HOW + "own is the better", **about),
    ]


def _tower() -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((1, 24), (24, 48), (48, 96), (96, 96)):
        layers += [nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96 * 16, WIDTH))


def _unit(tower: nn.Module, images: torch.Tensor) -> torch.Tensor:
    if images.shape[-1] > SIDE:
        images = functional.interpolate(images, (SIDE, SIDE), mode="area")
    return functional.normalize(tower(images * 4 - 2), dim=1)
