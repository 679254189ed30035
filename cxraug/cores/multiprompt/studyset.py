"""The training data of a multi-prompt core: images paired into studies, with what is known of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cxraug.cores.conditions import Conditions, Vocabulary, projection
from cxraug.cores.given import Fit, read_mask
from cxraug.cores.multiprompt.denoiser import JITTER, Asked
from cxraug.cores.multiprompt.network import REPORT
from cxraug.cores.multiprompt.spatial import PARTS, Layout
from cxraug.studies.images import image_size

if TYPE_CHECKING:
    from cxraug.studies.manifest import Manifest


@dataclass(frozen=True)
class StudySet:
    """Studies as rows; images as a table beside them.

    Attributes
    ----------
    maps : (images, C, S, S) uint8 pixels (C = 1), or float latents of an autoencoder.
    conditions : (images) what is known of each image.
    views : (studies, 2) image of the frontal and of the lateral view, -1 where there is none.
    reports : (studies,) text, "" where there is none.
    latents : (studies, tokens, d) of the reports, or None without a codec.
    shared : (studies, 3, e) embeddings of frontal view, lateral view and report, NaN where there is none, or None.
    boxes : (images, M, 5), numbered as ``conditions.findings``, and ``boxes_known`` (images,); masks : (images, parts,
        grid, grid) uint8 0..255, and ``masks_known`` (images, parts); see
        :class:`~cxraug.cores.multiprompt.spatial.Layout`.
    """

    maps: np.ndarray
    conditions: Conditions
    views: np.ndarray
    reports: np.ndarray
    boxes: np.ndarray
    boxes_known: np.ndarray
    masks: np.ndarray
    masks_known: np.ndarray
    latents: Tensor | None = None
    shared: Tensor | None = None
    encoded: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.views)

    @property
    def first(self) -> np.ndarray:
        """(studies,) image that stands for the study: the frontal view, or the lateral one where there is no other."""
        return np.where(self.views[:, 0] >= 0, self.views[:, 0], self.views[:, 1])

    def encode(self, vocabulary: Vocabulary) -> StudySet:
        """The same with conditions encoded once."""
        values, known = vocabulary.encode(self.conditions)
        pad = np.zeros((len(values), JITTER), np.float32)
        boxes = self.boxes.copy()  # of a core that is fine-tuned the vocabulary begins with its own findings
        places = np.array([*(vocabulary.findings.index(name) for name in self.conditions.findings), -1], np.float32)
        boxes[..., 0] = places[self.boxes[..., 0].astype(int)]
        return replace(
            self,
            encoded={
                "boxes": torch.from_numpy(boxes),
                "values": torch.from_numpy(np.concatenate([values, pad], 1)),
                "known": torch.from_numpy(np.concatenate([known, pad], 1)),
                "first": torch.from_numpy(self.first),
                "general": torch.from_numpy(general_entries(vocabulary)),
                "groups": torch.from_numpy(vocabulary.groups()),
            },
        )

    def with_slots(self, slots: Sequence[int]) -> np.ndarray:
        """Numbers of the studies that have all the view ``slots``."""
        return np.flatnonzero((self.views[:, list(slots)] >= 0).all(1))

    def asked(self, rows: np.ndarray, slots: Sequence[int]) -> Asked:
        """Everything known of the studies ``rows`` for the view ``slots``; nothing hidden yet."""
        values, known, general = self.encoded["values"], self.encoded["known"], self.encoded["general"]
        index = {s: torch.from_numpy(self.views[rows, s]) for s in slots}
        first = self.encoded["first"][torch.from_numpy(rows)]
        v = {s: values[i] for s, i in index.items()} | {REPORT: values[first]}
        k = {s: known[i] for s, i in index.items()} | {REPORT: known[first] * general}
        layouts = {s: self._layout(i.numpy()) for s, i in index.items()}
        has = torch.tensor([[float(self.latents is not None and bool(self.reports[r]))] for r in rows])
        return Asked(v, k, layouts, has)

    def _layout(self, images: np.ndarray) -> Layout:
        return Layout(
            self.encoded["boxes"][torch.from_numpy(images)],
            torch.from_numpy(self.boxes_known[images][:, None]),
            torch.from_numpy(self.masks[images]).float() / 255,
            torch.from_numpy(self.masks_known[images]),
        )


def general_entries(vocabulary: Vocabulary) -> np.ndarray:
    """(entries,) 1 for conditions of the study, 0 for the view, which belongs to one slot."""
    groups = vocabulary.groups()
    keep = np.ones(len(vocabulary) + JITTER, np.float32)
    start = len(vocabulary.findings) + 3
    keep[start : start + len(vocabulary.views)] = 0
    assert len(groups) == len(vocabulary)
    keep[len(vocabulary) :] = 0
    return keep


def read_studies(
    manifest: Manifest, pixels: np.ndarray, findings: Sequence[str], *, grid: int, fit: Fit = "crop"
) -> StudySet:
    """Pair the images of ``manifest`` into studies and read masks and boxes.

    Parameters
    ----------
    pixels : (images, S, S) uint8, in the order of the manifest's rows.
    findings : those that boxes may be of; boxes of other labels make the boxes of that image unknown.
    grid : side of the network's finest level, for the masks.
    fit : how the pixels were made square (see :class:`cxraug.studies.images.Encoding`): boxes and masks follow.
    """
    frame = manifest.frame
    conditions = Conditions.from_manifest(manifest, findings)
    names = list(conditions.findings)
    side = pixels.shape[1]
    lateral = projection(conditions.view)
    study = frame["study_id"].where(frame["study_id"].astype("str").str.len() > 0, frame["image"]).astype("str")
    key = (frame["patient_id"].astype("str") + "\t" + study.fillna("")).tolist()
    reports = frame["report"].fillna("").astype("str").tolist() if "report" in frame else [""] * len(frame)
    other: dict[str, int] = {}
    for image, (name, is_lateral) in enumerate(zip(key, lateral, strict=True)):
        if is_lateral:
            other.setdefault(name, image)
    pairs, texts, paired = [], [], set()
    for image, (name, is_lateral) in enumerate(zip(key, lateral, strict=True)):
        if not is_lateral:
            pairs.append((image, other.get(name, -1)))
            texts.append(reports[image])
            paired.add(other.get(name, -1))
    for image, is_lateral in enumerate(lateral):
        if is_lateral and image not in paired:
            pairs.append((-1, image))
            texts.append(reports[image])
    boxes, boxes_known = _boxes(frame["boxes"].tolist() if "boxes" in frame else [None] * len(frame), names,
                                manifest, fit)  # fmt: skip
    masks, masks_known = _masks(manifest, side, grid, fit)
    return StudySet(
        pixels[:, None], conditions, np.array(pairs, np.int64).reshape(-1, 2), np.array(texts, dtype=object),
        boxes, boxes_known, masks, masks_known,
    )  # fmt: skip


def _boxes(column: list[object], names: list[str], manifest: Manifest, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    parsed = [json.loads(str(v)) if isinstance(v, str) and v else None for v in column]
    most = max([1, *(len(b) for b in parsed if b)])
    table = np.zeros((len(parsed), most, 5), np.float32)
    table[..., 0] = -1
    known = np.zeros(len(parsed), np.float32)
    sizes = None
    for row, items in enumerate(parsed):
        if items is None:
            continue
        if any(item["label"] not in names for item in items):
            continue
        if sizes is None:
            sizes = _sizes(manifest)
        height, width = sizes(row)
        known[row] = 1
        square = {"crop": min(height, width), "pad": max(height, width)}.get(fit)
        across, down = (width, height) if square is None else (square, square)
        left, top = (width - across) / 2, (height - down) / 2
        for at, item in enumerate(items):
            x, y = (item["x"] - left) / across, (item["y"] - top) / down
            table[row, at] = (names.index(item["label"]), x, y, item["w"] / across, item["h"] / down)
    return table, known


def _sizes(manifest: Manifest) -> Callable[[int], tuple[int, int]]:
    """(height, width) of a row's stored image."""
    paths = manifest.paths()

    def of(row: int) -> tuple[int, int]:
        return image_size(paths[row])

    return of


def _masks(manifest: Manifest, side: int, grid: int, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    n = len(manifest.frame)
    masks, known = np.zeros((n, len(PARTS), grid, grid), np.uint8), np.zeros((n, len(PARTS)), np.float32)
    if "mask" not in manifest.frame:
        return masks, known
    column = manifest.frame["mask"]
    rows = np.flatnonzero((column.notna() & (column.astype("str") != "")).to_numpy())
    step = side // grid
    for row, path in zip(rows, manifest.take(rows).paths("mask") if len(rows) else [], strict=True):
        masks[row], known[row] = mask_planes(read_mask(path, step * grid, fit), grid)
    return masks, known


def mask_planes(parts: dict[str, np.ndarray], grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (3, grid, grid) uint8 of each part of a mask as :func:`read_mask` reads it, and which are known (3,)."""
    planes, known = np.zeros((len(PARTS), grid, grid), np.uint8), np.zeros(len(PARTS), np.float32)
    for at, part in enumerate(PARTS):
        if part in parts:
            step = parts[part].shape[0] // grid
            planes[at] = np.rint(parts[part].reshape(grid, step, grid, step).mean((1, 3)) * 255)
            known[at] = 1
    return planes, known
