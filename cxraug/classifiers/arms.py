"""Arms: the training mixes that are compared, and the controls that share an arm's steps and image counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cxraug.errors import InputError
from cxraug.seeds import derive_seed

KINDS = (
    "real", "duplicated", "oversampled", "weighted", "augmented", "gaussian", "mixed", "pretrained", "real_pretrained",
    "outside", "ungated", "random_reject",
)  # fmt: skip
WITH_ADDED = ("gaussian", "mixed", "outside", "ungated", "random_reject", "pretrained")
MAX_WEIGHT = 20.0
NO_FINDING = "No Finding"


@dataclass(frozen=True)
class Images:
    """Images and their labels, in the order in which an epoch shows them before it is shuffled.

    ``pixels`` uint8 (n, S, S); ``y`` float32 (n, F): 1, 0 or NaN (unknown); ``rows`` int (m,): which stored image
    stands at each of m positions, repeats allowed (None: each image once). Repeats cost no memory.
    """

    pixels: np.ndarray
    y: np.ndarray
    rows: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 (n, S, S), not {self.pixels.dtype} {self.pixels.shape}")
        if self.y.ndim != 2 or len(self.y) != len(self.pixels):
            raise ValueError(f"y {self.y.shape} does not go with pixels {self.pixels.shape}")

    def __len__(self) -> int:
        return len(self.pixels) if self.rows is None else len(self.rows)

    def stored(self, positions: np.ndarray) -> np.ndarray:
        """Indices into ``pixels`` and ``y`` of ``positions``."""
        return positions if self.rows is None else self.rows[positions]

    def take(self, positions: np.ndarray) -> Images:
        """The images at ``positions`` (repeats allowed), without a copy of the pixels."""
        return Images(self.pixels, self.y, self.stored(np.asarray(positions, dtype=np.int64)))

    @property
    def labels(self) -> np.ndarray:
        """Labels (m, F) of the positions."""
        return self.y if self.rows is None else self.y[self.rows]


def concat(parts: Sequence[Images]) -> Images:
    """One after another; parts must agree in image size and findings."""
    shapes = {(part.pixels.shape[1:], part.y.shape[1]) for part in parts}
    if len(shapes) != 1:
        raise InputError("images of different size or findings cannot be mixed", found=str(sorted(shapes)))
    starts = np.cumsum([0, *(len(part.pixels) for part in parts)])
    rows = [part.stored(np.arange(len(part))) + start for part, start in zip(parts, starts[:-1], strict=True)]
    plain = all(part.rows is None for part in parts)
    return Images(
        np.concatenate([part.pixels for part in parts]),
        np.concatenate([part.y for part in parts]).astype(np.float32),
        None if plain else np.concatenate(rows),
    )


@dataclass(frozen=True)
class ArmData:
    """What an arm trains on.

    For the first ``pretrain_share`` of the steps ``pretrain`` (if any), then ``main``. ``loss_weights`` (F,) multiply
    the loss of positives; ``augment`` replaces the settings' augmentation; ``facts`` are counts for the card.
    """

    main: Images
    pretrain: Images | None = None
    pretrain_share: float = 0.0
    loss_weights: np.ndarray | None = None
    augment: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def arm_data(
    kind: str,
    real: Images,
    real_cells: Sequence[str],
    *,
    added: Images | None = None,
    planned_cells: Sequence[str] | None = None,
    seed: int,
    pretrain_share: float = 0.5,
) -> ArmData:
    """The training data of an arm.

    Parameters
    ----------
    kind : one of :data:`KINDS`. ``real``: the real images. ``duplicated``: and, for each planned row, one real image of
        its cell, drawn with replacement. ``oversampled``: imbalanced-learn's RandomOverSampler, classes are the label
        sets over the planned findings. ``weighted``: positives weigh negatives / positives. ``augmented``: stronger
        classical augmentation. ``gaussian``, ``mixed``, ``outside``, ``ungated``, ``random_reject``: real and
        ``added``. ``pretrained``: first real and ``added``, then real. ``real_pretrained``: first as ``duplicated``,
        then real.
    real, real_cells : real images and the cell of each, ``label set|sex|age band|view`` with the label set ``A+B``.
    added, planned_cells : images that a core made, and the cell that was planned for each of them.
    seed : of the draws of this arm. pretrain_share : share of the steps spent on the first stage, if there is one.

    Raises
    ------
    InputError : what the kind needs is not given, or a planned cell shares no finding with any real image.
    """
    if kind not in KINDS:
        raise InputError("no such arm", found=kind, expected=", ".join(KINDS))
    if len(real) == 0:
        raise InputError(f"arm {kind!r}: there are no real training images")
    if len(real_cells) != len(real):
        raise InputError(f"arm {kind!r}: real images and cells differ", found=len(real_cells), expected=str(len(real)))
    facts: dict[str, Any] = {"kind": kind, "real": len(real), "added": 0}
    if kind in WITH_ADDED:
        added = _needed(kind, "added images", added)
        if planned_cells is not None and len(planned_cells) != len(added):
            raise InputError(
                f"arm {kind!r}: planned cells and added images differ",
                found=len(planned_cells),
                expected=str(len(added)),
            )
        facts["added"] = len(added)
        both = concat([real, added])
        if kind == "pretrained":
            return ArmData(real, both, pretrain_share, facts=facts)
        return ArmData(both, facts=facts)
    if kind in ("duplicated", "real_pretrained"):
        rows, levels = duplicates(
            real_cells, _needed(kind, "planned cells", planned_cells), derive_seed(seed, "duplicated")
        )
        facts |= {"added": len(rows), "duplicates_by_match": levels}
        both = real.take(np.concatenate([np.arange(len(real)), rows]))
        if kind == "real_pretrained":
            return ArmData(real, both, pretrain_share, facts=facts)
        return ArmData(both, facts=facts)
    if kind == "oversampled":
        rows = oversample(real_cells, planned_cells, derive_seed(seed, "oversampled"))
        return ArmData(real.take(rows), facts=facts | {"added": len(rows) - len(real)})
    if kind == "weighted":
        weights = positive_weights(real.labels)
        return ArmData(
            real, loss_weights=weights, facts=facts | {"loss_weights": [round(float(w), 4) for w in weights]}
        )
    return ArmData(real, augment="strong" if kind == "augmented" else None, facts=facts)


def duplicates(real_cells: Sequence[str], planned_cells: Sequence[str], seed: int) -> tuple[np.ndarray, dict[str, int]]:
    """For each planned cell a real row of it, drawn with replacement.

    A cell without a real image falls back to its label set, and that to the real images that share most of its
    findings. Returns the rows, as many as planned, and how many matched by ``cell``, ``label set`` and ``finding``.
    """
    by_cell, by_set = _index(real_cells), _index([cell.split("|", 1)[0] for cell in real_cells])
    rng = np.random.default_rng(seed)
    rows, levels = np.empty(len(planned_cells), dtype=np.int64), Counter({"cell": 0, "label set": 0, "finding": 0})
    by_finding: dict[str, np.ndarray] = {}
    for i, cell in enumerate(planned_cells):
        label_set = cell.split("|", 1)[0]
        if cell in by_cell:
            level, pool = "cell", by_cell[cell]
        elif label_set in by_set:
            level, pool = "label set", by_set[label_set]
        else:
            if label_set not in by_finding:
                by_finding[label_set] = _closest(label_set, by_set)
            level, pool = "finding", by_finding[label_set]
        levels[level] += 1
        rows[i] = rng.choice(pool)
    return rows, dict(levels)


def oversample(real_cells: Sequence[str], planned_cells: Sequence[str] | None, seed: int) -> np.ndarray:
    """Rows of imbalanced-learn's RandomOverSampler: every label set as often as the most frequent one.

    Label sets are cut down to the planned findings (all findings without a plan). The real rows come first.
    """
    from imblearn.over_sampling import RandomOverSampler

    planned = {f for cell in planned_cells or real_cells for f in _findings(cell)}
    classes = ["+".join(sorted(_findings(cell) & planned)) for cell in real_cells]
    if len(set(classes)) < 2:
        return np.arange(len(classes))
    sampler = RandomOverSampler(random_state=seed)
    sampler.fit_resample(np.arange(len(classes))[:, None], np.array(classes))
    return np.asarray(sampler.sample_indices_, dtype=np.int64)


def positive_weights(y: np.ndarray, largest: float = MAX_WEIGHT) -> np.ndarray:
    """Weights (F,) of positives: negatives / positives over the known labels, between 1 / ``largest`` and ``largest``.

    A finding without positives or without negatives has weight 1.
    """
    positive, negative = np.nansum(y == 1, axis=0), np.nansum(y == 0, axis=0)
    usable = (positive > 0) & (negative > 0)
    weights = np.where(usable, negative / np.maximum(positive, 1), 1.0)
    return np.clip(weights, 1 / largest, largest).astype(np.float32)


def _needed(kind: str, what: str, value: Any) -> Any:
    if value is None:
        raise InputError(f"arm {kind!r} needs {what}")
    return value


def _findings(cell: str) -> set[str]:
    return {f for f in cell.split("|", 1)[0].split("+") if f and f != NO_FINDING}


def _index(keys: Sequence[str]) -> dict[str, np.ndarray]:
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return {key: np.array(value) for key, value in rows.items()}


def _closest(label_set: str, by_set: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of the label sets that share most findings with ``label_set``."""
    shared = {other: len(_findings(label_set) & _findings(other)) for other in by_set}
    most = max(shared.values())
    if most == 0:
        raise InputError("no real image shares a finding with a planned cell", found=label_set or "no finding")
    return np.sort(np.concatenate([by_set[other] for other, count in shared.items() if count == most]))
