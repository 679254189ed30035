"""The denoiser of all slots: Gaussian models around the network (see ``diffusion/preconditioner.py`` for the algebra).

Noise: x_t = (1 - t) x + t e. With the Wiener estimate w and its deviation s of a slot's own Gaussian model, the slot is
denoised as w + s F, F the network's residual, which sees w and what w leaves unexplained, both of unit size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.linear_gaussian import LinearGaussian
from cxraug.cores.multiprompt.network import FRONTAL, LATERAL_SLOT, REPORT, MultipromptNetwork, Sizes
from cxraug.cores.multiprompt.settings import MultipromptSettings
from cxraug.cores.multiprompt.spatial import CHANNELS, Layout, SpatialEmbedding
from cxraug.cores.multiprompt.spectrum import SpectralGaussian
from cxraug.cores.steps import compute_dtype

VIEW_SLOTS = (FRONTAL, LATERAL_SLOT)
JITTER = 4  # entries of the condition vector behind the vocabulary: shift x, shift y, log scale, turn
SMALL = 1e-4  # below this a slot is given


@dataclass(frozen=True)
class Asked:
    """What B studies are conditioned on beside the slots themselves.

    ``values, known``: slot -> (B, entries) of the encoded conditions of a view; key ``REPORT`` the same without view.
    ``layouts``: slot -> masks and boxes. ``shared`` (B, e) embedding of a reference, ``shared_known`` (B, 1).
    ``report_known`` (B, 1): 0 where the report takes no part.
    """

    values: dict[int, Tensor]
    known: dict[int, Tensor]
    layouts: dict[int, Layout]
    report_known: Tensor
    shared: Tensor | None = None
    shared_known: Tensor | None = None

    def without(self, *, attributes: bool = False, text: bool = False, report_given: Tensor | None = None) -> Asked:
        """The same with attributes, masks and boxes hidden, or references and reports (``report_given`` (B, 1))."""
        changed = self
        if attributes:
            changed = replace(
                changed,
                known={s: torch.zeros_like(k) for s, k in self.known.items()},
                layouts={s: replace(v, boxes_known=v.boxes_known * 0, masks_known=v.masks_known * 0)
                         for s, v in self.layouts.items()},
            )  # fmt: skip
        if text:
            if self.shared_known is not None:
                changed = replace(changed, shared_known=self.shared_known * 0)
            if report_given is not None:
                changed = replace(changed, report_known=self.report_known * (1 - report_given))
        return changed

    def cat(self, other: Asked) -> Asked:
        """These rows followed by those of ``other``."""

        def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else torch.cat([a, b])

        report = both(self.report_known, other.report_known)
        assert report is not None
        return Asked(
            {s: torch.cat([v, other.values[s]]) for s, v in self.values.items()},
            {s: torch.cat([k, other.known[s]]) for s, k in self.known.items()},
            {s: v.cat(other.layouts[s]) for s, v in self.layouts.items()},
            report, both(self.shared, other.shared), both(self.shared_known, other.shared_known),
        )  # fmt: skip

    def to(self, device: str | torch.device) -> Asked:
        """The same on another device."""
        return Asked(
            {s: v.to(device) for s, v in self.values.items()},
            {s: k.to(device) for s, k in self.known.items()},
            {s: v.to(device) for s, v in self.layouts.items()},
            self.report_known.to(device),
            None if self.shared is None else self.shared.to(device),
            None if self.shared_known is None else self.shared_known.to(device),
        )


@dataclass(frozen=True)
class Found:
    """Per slot: the ``clean`` estimate, shaped like the slot, and the Wiener ``deviation`` (B, 1)."""

    clean: dict[int, Tensor]
    deviation: dict[int, Tensor]


class MultipromptDenoiser(nn.Module):
    """D(x_t, t, c) for any of the slots at once.

    Slots hold maps (B, C, S, S) for views (pixels in [-1, 1], or latents) and (B, tokens, d) for the report.
    """

    def __init__(
        self,
        views: dict[int, SpectralGaussian],
        report: LinearGaussian | None,
        vocabulary: Vocabulary,
        settings: MultipromptSettings,
        report_shape: tuple[int, int] = (0, 0),
        shared: int = 0,
    ) -> None:
        super().__init__()
        self.gaussians = nn.ModuleDict({str(slot): model for slot, model in views.items()})
        self.report_gaussian = report
        self.report_shape = report_shape
        first = next(iter(views.values()))
        if first.side % settings.grid:
            raise ValueError(f"side {first.side} is not a multiple of the grid {settings.grid}")
        self.factor = first.side // settings.grid
        self.channels = first.channels * self.factor**2
        entries = len(vocabulary) + JITTER
        last = int(vocabulary.groups().max()) + 1 if len(vocabulary) else 0
        self.network = MultipromptNetwork(
            Sizes(
                inputs=2 * self.channels, outputs=self.channels, spatial=CHANNELS, grid=settings.grid,
                channels=settings.channels, layers=settings.layers, depth=settings.depth, entries=entries,
                groups=(*vocabulary.groups().tolist(), *[last] * JITTER), report=report_shape, shared=shared,
            )
        )  # fmt: skip
        self.network.checkpointed = settings.checkpointing
        self.spatial = SpatialEmbedding(len(vocabulary.findings), settings.grid)
        self.entries = len(vocabulary)
        self.dtype = compute_dtype(settings.precision)

    @property
    def slots(self) -> tuple[int, ...]:
        """The view slots that this denoiser has."""
        return tuple(sorted(int(s) for s in self.gaussians))

    def forward(self, noisy: dict[int, Tensor], times: dict[int, Tensor], asked: Asked) -> Found:
        """Denoise the slots in ``noisy``; where ``times`` (B, 1) is 0 a slot is given and comes back unchanged."""
        kind = next(iter(noisy.values())).device.type
        maps: dict[int, Tensor] = {}
        estimates: dict[int, Tensor] = {}
        deviations: dict[int, Tensor] = {}
        report_in = None
        with torch.autocast(kind, enabled=False):
            for s, x in noisy.items():
                t = times[s].clamp(min=SMALL)
                given = times[s] < SMALL
                estimate, variance = self._wiener(s, x, t, asked)
                wide = (-1,) + (1,) * (x.ndim - 1)
                estimate = torch.where(given.view(wide), x, estimate)
                variance = variance.clamp(min=1e-10)
                left = (t**2 - (1 - t) ** 2 * variance).clamp(min=1e-10).sqrt().view(wide)
                unexplained = torch.where(given.view(wide), 0.0, (x - (1 - t).view(wide) * estimate) / left)
                estimates[s], deviations[s] = estimate, torch.where(given, 0.0, variance.sqrt())
                if s == REPORT:
                    report_in = torch.cat([estimate, unexplained], 2)
                else:
                    scaled = estimate / (self._gaussian(s).scale + 0.25)
                    maps[s] = torch.cat([self._to_grid(scaled), self._to_grid(unexplained),
                                         self.spatial(asked.layouts[s])], 1)  # fmt: skip
        conditions = {s: (asked.values[s] * asked.known[s], asked.known[s]) for s in (*maps, REPORT)}
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            residual = self.network(
                maps, times, conditions, report_in, asked.report_known, asked.shared, asked.shared_known
            )
        clean = {}
        for s, estimate in estimates.items():
            out = residual[s].float()
            out = out if s == REPORT else nn.functional.pixel_shuffle(out, self.factor)
            clean[s] = estimate + deviations[s].view((-1,) + (1,) * (estimate.ndim - 1)) * out
        return Found(clean, deviations)

    def _gaussian(self, slot: int) -> SpectralGaussian:
        model = self.gaussians[str(slot)]
        assert isinstance(model, SpectralGaussian)
        return model

    def _wiener(self, slot: int, noisy: Tensor, t: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
        values, known = asked.values[slot][:, : self.entries], asked.known[slot][:, : self.entries]
        if slot != REPORT:
            return self._gaussian(slot).wiener(noisy, t, values * known, known)
        assert self.report_gaussian is not None
        model = self.report_gaussian
        estimate, variance = model.wiener(noisy.flatten(1), t, model.class_mean(values * known, known))
        return estimate.view(noisy.shape), variance

    def _to_grid(self, maps: Tensor) -> Tensor:
        return nn.functional.pixel_unshuffle(maps, self.factor)
