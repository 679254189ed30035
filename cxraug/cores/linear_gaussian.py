"""A linear-Gaussian model of images: mean linear in the conditions, covariance of low rank plus a white remainder.

    x = m + W z(c) + e,    e ~ N(0, U diag(s) U' + r (I - U U'))

with z(c) the centred condition vector (unknown entries 0, so that nothing known gives the pooled mean m). The frontal
and the lateral projection have a model each, because they share no covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cxraug.cores.conditions import Conditions, Vocabulary, projection

PROJECTIONS = ("frontal", "lateral")
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of the ridge regression, chosen by leave-one-out error
FIT_LIMIT = 20_000  # images; more do not change 512 components and would not fit in memory
SMALLEST_VARIANCE = 1e-6  # far below one grey level (1/127.5)^2 = 6e-5


class LinearGaussian(nn.Module):
    """The model of one projection for images of D pixels, d condition entries and K components.

    Buffers: ``mean`` (D,), ``weight`` (d, D), ``centre`` (d,), ``basis`` U (D, K) with orthonormal columns,
    ``variance`` s (K,), ``remainder`` r (). Pixels are in [-1, 1].
    """

    mean: Tensor
    weight: Tensor
    centre: Tensor
    basis: Tensor
    variance: Tensor
    remainder: Tensor

    def __init__(self, pixels: int, entries: int, components: int) -> None:
        super().__init__()
        for name, shape in (
            ("mean", (pixels,)), ("weight", (entries, pixels)), ("centre", (entries,)),
            ("basis", (pixels, components)), ("variance", (components,)), ("remainder", ()),
        ):  # fmt: skip
            self.register_buffer(name, torch.zeros(shape))

    def class_mean(self, values: Tensor, known: Tensor) -> Tensor:
        """(B, D) mean image of each row's conditions; ``values`` and ``known`` (B, d) come from a vocabulary."""
        return self.mean + ((values - self.centre) * known) @ self.weight

    def sample(self, values: Tensor, known: Tensor, scores: Tensor, white: Tensor) -> Tensor:
        """(B, D) draws, from standard normal ``scores`` (B, K) and ``white`` (B, D)."""
        white = white - (white @ self.basis) @ self.basis.T
        structure = (scores * self.variance.sqrt()) @ self.basis.T
        return self.class_mean(values, known) + structure + white * self.remainder.sqrt()

    def wiener(self, noisy: Tensor, t: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Exact posterior of x given (1 - t) x + t noise: mean (B, D), and variance averaged over pixels (B, 1).

        ``noisy`` (B, D), ``t`` (B, 1) in (0, 1), ``mean`` (B, D) the prior mean. With a = 1 - t and prior variance s in
        a direction, the gain is a s / (a^2 s + t^2) and the posterior variance s t^2 / (a^2 s + t^2).
        """
        a, noise = 1 - t, t**2
        total = a**2 * self.variance + noise
        total_rest = a**2 * self.remainder + noise
        rest_gain = a * self.remainder / total_rest
        gain = a * self.variance / total - rest_gain
        deviation = noisy - a * mean
        estimate = mean + rest_gain * deviation + ((deviation @ self.basis) * gain) @ self.basis.T
        d, k = self.basis.shape
        structure = (self.variance * noise / total).sum(1, keepdim=True)
        return estimate, (structure + (d - k) * self.remainder * noise / total_rest) / d

    @property
    def pixel_variance(self) -> Tensor:
        """() total variance around the class mean, averaged over pixels."""
        d, k = self.basis.shape
        return (self.variance.sum() + (d - k) * self.remainder) / d


@dataclass(frozen=True)
class ConditionBatch:
    """Encoded conditions of a batch: ``values`` and ``known`` (B, d), ``projections`` (B,) 0 frontal or 1 lateral."""

    values: Tensor
    known: Tensor
    projections: Tensor

    @classmethod
    def of(cls, vocabulary: Vocabulary, conditions: Conditions) -> ConditionBatch:
        """Encode ``conditions``."""
        values, known = vocabulary.encode(conditions)
        return cls(torch.from_numpy(values), torch.from_numpy(known), torch.from_numpy(projection(conditions.view)))

    def take(self, rows: Tensor) -> ConditionBatch:
        """Some rows, by mask or indices."""
        return ConditionBatch(self.values[rows], self.known[rows], self.projections[rows])

    def hide(self, keep: Tensor) -> ConditionBatch:
        """The same with entries made unknown where ``keep`` (B, d) is 0."""
        return ConditionBatch(self.values * keep, self.known * keep, self.projections)

    def null(self) -> ConditionBatch:
        """The same with nothing known but the projection."""
        return self.hide(torch.zeros_like(self.known))

    def cat(self, other: ConditionBatch) -> ConditionBatch:
        """This batch followed by ``other``."""
        return ConditionBatch(
            torch.cat([self.values, other.values]),
            torch.cat([self.known, other.known]),
            torch.cat([self.projections, other.projections]),
        )

    def to(self, device: str) -> ConditionBatch:
        """The same on another device."""
        return ConditionBatch(self.values.to(device), self.known.to(device), self.projections.to(device))


class GaussianModel(nn.Module):
    """One :class:`LinearGaussian` per projection that occurs, applied row by row as the conditions say."""

    def __init__(self, parts: dict[str, LinearGaussian]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    @classmethod
    def empty(cls, pixels: int, entries: int, components: dict[str, int]) -> GaussianModel:
        """A model of the right shapes, to load weights into."""
        return cls({name: LinearGaussian(pixels, entries, k) for name, k in components.items()})

    @property
    def components(self) -> dict[str, int]:
        """Number of components of each projection."""
        return {name: part.variance.numel() for name, part in self._named()}

    def class_mean(self, batch: ConditionBatch) -> Tensor:
        """(B, D) mean image of each row."""
        return self._merge(batch, lambda part, rows: part.class_mean(batch.values[rows], batch.known[rows]))

    def sample(self, batch: ConditionBatch, scores: Tensor, white: Tensor) -> Tensor:
        """(B, D) draws; ``scores`` (B, at least K), ``white`` (B, D) are standard normal."""

        def draw(part: LinearGaussian, rows: Tensor) -> Tensor:
            some = scores[rows][:, : part.variance.numel()]
            return part.sample(batch.values[rows], batch.known[rows], some, white[rows])

        return self._merge(batch, draw)

    def wiener(self, noisy: Tensor, t: Tensor, batch: ConditionBatch) -> tuple[Tensor, Tensor]:
        """Posterior mean (B, D) and mean posterior variance (B, 1) of each row (see :meth:`LinearGaussian.wiener`)."""

        def both(part: LinearGaussian, rows: Tensor) -> Tensor:
            prior = part.class_mean(batch.values[rows], batch.known[rows])
            return torch.cat(part.wiener(noisy[rows], t[rows], prior), 1)

        joint = self._merge(batch, both)
        return joint[:, :-1], joint[:, -1:]

    @property
    def pixel_variance(self) -> float:
        """Variance of a pixel in [-1, 1] around the class mean, averaged over pixels and projections."""
        return float(np.mean([float(part.pixel_variance) for _, part in self._named()]))

    def _named(self) -> list[tuple[str, LinearGaussian]]:
        return [(name, part) for name, part in self.parts.items() if isinstance(part, LinearGaussian)]

    def _merge(self, batch: ConditionBatch, of) -> Tensor:  # type: ignore[no-untyped-def]
        parts = dict(self._named())
        present = torch.unique(batch.projections).tolist()
        if len(present) == 1:
            return of(parts[PROJECTIONS[present[0]]], torch.arange(len(batch.values)))
        result: Tensor | None = None
        for code in present:
            rows = (batch.projections == code).nonzero()[:, 0]
            some = of(parts[PROJECTIONS[code]], rows)
            result = some.new_empty((len(batch.values), some.shape[1])) if result is None else result
            result[rows] = some
        assert result is not None
        return result


def fit_gaussian_model(
    pixels: np.ndarray, conditions: Conditions, vocabulary: Vocabulary, *, components: int, seed: int = 0
) -> GaussianModel:
    """Fit by ridge regression on the conditions and principal components of what is left.

    Parameters
    ----------
    pixels : (n, S, S) uint8. At most ``FIT_LIMIT`` of them, drawn by ``seed``, are used.
    conditions : (n) rows. The ridge penalty is the one of ``PENALTIES`` with the smallest leave-one-out error, so class
        means are shrunk to the pooled mean, those of rare classes most.
    components : K, cut to what n and the image size allow.
    """
    projections = projection(conditions.view)
    parts: dict[str, LinearGaussian] = {}
    for code in np.unique(projections):
        rows = np.flatnonzero(projections == code)
        if len(rows) > FIT_LIMIT:
            rows = np.sort(np.random.default_rng(seed).choice(rows, FIT_LIMIT, replace=False))
        values, known = vocabulary.encode(conditions.take(rows))
        images = torch.from_numpy(np.ascontiguousarray(pixels[rows])).reshape(len(rows), -1).float() / 127.5 - 1
        parts[PROJECTIONS[code]] = fit_part(images, torch.from_numpy(values), torch.from_numpy(known), components, seed)
    return GaussianModel(parts)


def fit_part(images: Tensor, values: Tensor, known: Tensor, components: int, seed: int) -> LinearGaussian:
    """Fit one projection; ``images`` (n, D) in [-1, 1] is overwritten by its residuals."""
    n, d = images.shape
    model = LinearGaussian(d, values.shape[1], max(1, min(components, n - 1, d - 1)))
    model.mean = images.mean(0)
    images -= model.mean
    model.centre = values.sum(0) / known.sum(0).clamp(min=1)
    z = (values - model.centre) * known
    model.weight, freedom = _ridge(z, images)
    images -= z @ model.weight
    divisor = max(1.0, n - 1 - freedom)
    total = float(images.square().sum(dtype=torch.float64)) / divisor
    model.basis, scale = _principal(images, model.variance.numel(), seed)
    model.basis = model.basis.half().float()  # as stored, so that a loaded model computes the same
    model.weight, model.mean = model.weight.half().float(), model.mean.half().float()
    model.variance = (scale**2 / divisor).clamp(min=SMALLEST_VARIANCE)
    rest = (total - float(model.variance.sum())) / (d - model.variance.numel())
    model.remainder = torch.tensor(max(rest, SMALLEST_VARIANCE))
    return model


def _ridge(z: Tensor, images: Tensor) -> tuple[Tensor, float]:
    """Ridge weights (d, D) and their effective degrees of freedom; the penalty minimises the leave-one-out error.

    The leave-one-out residual of row i is its residual / (1 - h_i) with h the diagonal of the hat matrix (Allen 1974);
    rows at h = 1 (the only one of their kind) are left out of the criterion.
    """
    z64 = z.double()
    gram = z64.T @ z64
    cross = (z.T @ images).double()
    norms = images.square().sum(1, dtype=torch.float64)
    best: tuple[float, Tensor, float] | None = None
    for penalty in PENALTIES:
        inverse = torch.linalg.inv(gram + penalty * torch.eye(len(gram), dtype=torch.float64))
        weight = inverse @ cross
        leverage = ((z64 @ inverse) * z64).sum(1) + 1 / len(z)
        fitted = (images @ weight.T.float()).double()
        residual = norms - 2 * (z64 * fitted).sum(1) + ((z64 @ (weight @ weight.T)) * z64).sum(1)
        usable = leverage < 0.999
        error = float((residual[usable] / (1 - leverage[usable]) ** 2).sum())
        if best is None or error < best[0]:
            best = (error, weight.float(), float(leverage.sum()) - 1)
    assert best is not None
    return best[1], best[2]


def _principal(residuals: Tensor, components: int, seed: int) -> tuple[Tensor, Tensor]:
    """Leading right singular vectors (D, K) and singular values (K,) by randomised subspace iteration.

    Halko, Martinsson & Tropp 2011, algorithm 4.4 with three iterations and 32 extra directions.
    """
    n, d = residuals.shape
    width = min(components + 32, n, d)
    start = torch.randn(d, width, generator=torch.Generator().manual_seed(seed))
    left = torch.linalg.qr(residuals @ start).Q
    for _ in range(3):
        right = torch.linalg.qr(residuals.T @ left).Q
        left = torch.linalg.qr(residuals @ right).Q
    _, scale, vectors = torch.linalg.svd(left.T @ residuals, full_matrices=False)
    return vectors[:components].T.contiguous(), scale[:components]
