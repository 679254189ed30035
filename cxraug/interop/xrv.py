"""A manifest as a data set of torchxrayvision (Cohen et al., MIDL 2022; github.com/mlmed/torchxrayvision)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torchxrayvision import datasets

from cxraug.errors import InputError
from cxraug.studies.cache import refuse_missing
from cxraug.studies.images import MASK_BITS, read_mask_values, read_pixels
from cxraug.studies.labels import NO_FINDING
from cxraug.studies.manifest import Manifest, read_manifest

Transform = Callable[[np.ndarray], np.ndarray]
PEAK = 1024.0  # torchxrayvision's grey values run from -1024 to 1024
SAME = {"pleural effusion": "Effusion"}  # findings that torchxrayvision calls otherwise
MASKS = {"lung": "Lungs", "heart": "Heart", "lesion": "Lesion"}


class XRVDataset(datasets.Dataset):
    """A manifest, or a synthetic set, with the interface of ``torchxrayvision.datasets``.

    Parameters
    ----------
    manifest : a manifest, its file, or the folder of a generated or swapped set.
    findings : the columns of ``labels``; default all of the manifest but ``No Finding``. Those that torchxrayvision has
        under another spelling (``Pleural Thickening``) get its (``Pleural_Thickening``), so that
        ``relabel_dataset(default_pathologies, d)`` finds them; ``own_names=True`` keeps them.
    views : views to keep, ``["*"]`` for all.
    transform, data_aug : callables on (1, H, W) arrays, such as torchxrayvision's ``XRayCenterCrop``
        and ``XRayResizer``.
    pathology_masks : items have ``pathology_masks`` (index of the finding -> (1, H, W), 1 inside its boxes).
    semantic_masks : items have ``semantic_masks`` (``Lungs, Heart, Lesion`` -> (1, H, W)) of the column ``mask``.
    unique_patients : keep the first row of each patient. with_rejected : also rows that a gate rejected.

    Attributes
    ----------
    pathologies : list of F names. labels : float32 (n, F), 1 present, 0 absent, NaN unknown or uncertain.
    csv : (n) the manifest's rows, with torchxrayvision's ``patientid``, ``age_years``, ``sex_male``, ``sex_female`` and
        ``has_masks``.

    An item is ``{"idx": int, "lab": (F,), "img": float32 (1, H, W) in [-1024, 1024]}``: 0 to 255 of 8-bit images,
    minimum to maximum of 16-bit ones, as everywhere in cxraug.

    Raises
    ------
    InputError : a missing image, an unknown finding, no row left.
    """

    def __init__(
        self, manifest: Manifest | str | Path, *, findings: Sequence[str] | None = None, views: Sequence[str] = ("*",),
        transform: Transform | None = None, data_aug: Transform | None = None, pathology_masks: bool = False,
        semantic_masks: bool = False, unique_patients: bool = False, with_rejected: bool = False,
        own_names: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        data = manifest if isinstance(manifest, Manifest) else _read(Path(manifest))
        data = data.take(_kept(data, views, with_rejected, unique_patients))
        if not len(data):
            raise InputError("no row is left", file=data.file, expected="other views, or rejected rows too")
        refuse_missing(data)
        wanted = [f for f in data.findings if f != NO_FINDING] if findings is None else list(findings)
        strange = [f for f in wanted if f not in data.findings]
        if strange:
            raise InputError("unknown finding", file=data.file, found=strange[0], expected=", ".join(data.findings))
        self.manifest, self.findings = data, wanted
        self.views = list(views)
        self.transform, self.data_aug = transform, data_aug
        self.pathology_masks, self.semantic_masks = pathology_masks, semantic_masks
        self.imgpath = str(data.root)
        self.pathologies = wanted if own_names else [xrv_name(finding) for finding in wanted]
        self.labels = data.y(wanted)
        self.csv = _csv(data.frame)
        self._paths = data.paths()
        self._name_of = dict(zip(wanted, self.pathologies, strict=True))

    def string(self) -> str:
        """One line about the data set, as torchxrayvision prints it."""
        name = type(self).__name__
        return f"{name} num_samples={len(self)} views={self.views} data_aug={self.data_aug}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        idx = range(len(self))[idx]  # negative ones too; IndexError ends a loop over the data set
        pixels = read_pixels(self._paths[idx])
        sample: dict[str, Any] = {"idx": idx, "lab": self.labels[idx], "img": grey_values(pixels)}
        if self.pathology_masks:
            sample["pathology_masks"] = self._pathology_masks(idx, pixels.shape)
        if self.semantic_masks:
            sample["semantic_masks"] = self._semantic_masks(idx, pixels.shape)
        sample = datasets.apply_transforms(sample, self.transform)
        return dict(datasets.apply_transforms(sample, self.data_aug))

    def _pathology_masks(self, idx: int, shape: tuple[int, ...]) -> dict[int, np.ndarray]:
        """Index in ``pathologies`` as it is now (torchxrayvision may have reordered it) -> mask."""
        text = self.manifest.frame["boxes"].iloc[idx] if "boxes" in self.manifest.frame else None
        masks: dict[int, Any] = {}
        for box in json.loads(text) if isinstance(text, str) else []:
            name = self._name_of.get(box["label"], box["label"])
            if name in self.pathologies:
                mask = masks.setdefault(list(self.pathologies).index(name), np.zeros((1, *shape), np.float32))
                left, top = max(round(box["x"]), 0), max(round(box["y"]), 0)
                mask[0, top : max(round(box["y"] + box["h"]), 0), left : max(round(box["x"] + box["w"]), 0)] = 1
        return masks

    def _semantic_masks(self, idx: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        if "mask" not in self.manifest.frame or not isinstance(self.manifest.frame["mask"].iloc[idx], str):
            return {}
        path = self.manifest.take([idx]).paths("mask")[0]
        values = read_mask_values(path)
        if values.shape != shape:
            raise InputError("the mask has another size than its image", file=path, found=str(values.shape))
        values = values // 255 if set(np.unique(values).tolist()) <= {0, 255} else values
        parts = {MASKS[part]: (values & bit > 0).astype(np.float32)[None] for part, bit in MASK_BITS.items()}
        return {name: mask for name, mask in parts.items() if mask.any()}


def grey_values(pixels: np.ndarray) -> np.ndarray:
    """2-D uint8 or uint16 pixels as float32 (1, H, W) from -1024 to 1024; a constant 16-bit image is -1024."""
    values: Any = pixels.astype(np.float32)
    if pixels.dtype == np.uint16:
        low = values.min()
        values = (values - low) / max(float(values.max() - low), 1.0)
    else:
        values = values / 255
    return ((2 * values - 1) * np.float32(PEAK)).astype(np.float32)[None]


def xrv_name(finding: str) -> str:
    """How torchxrayvision spells a finding of ours; findings that it does not have keep their name."""
    known = {_plain(name): name for name in datasets.default_pathologies}
    return known.get(_plain(finding), SAME.get(_plain(finding), finding))


def _plain(name: str) -> str:
    return name.replace("_", " ").lower()


def _read(path: Path) -> Manifest:
    return read_manifest(path / "manifest.parquet" if path.is_dir() else path)


def _kept(data: Manifest, views: Sequence[str], with_rejected: bool, unique_patients: bool) -> np.ndarray:
    frame = data.frame
    kept = np.ones(len(frame), bool) if "*" in views else frame["view"].isin(list(views)).to_numpy(bool)
    if not with_rejected and "gate" in frame:
        kept &= (frame["gate"] != "reject").to_numpy(bool)
    if unique_patients:
        first = ~frame["patient_id"][kept].duplicated()
        kept[np.flatnonzero(kept)[~first.to_numpy(bool)]] = False
    return kept


def _csv(frame: pd.DataFrame) -> pd.DataFrame:
    boxed: Mapping[str, Any] = {"has_masks": frame["boxes"].notna()} if "boxes" in frame else {}
    return frame.assign(
        patientid=frame["patient_id"].astype("str"), age_years=frame["age"], sex_male=(frame["sex"] == "M"),
        sex_female=(frame["sex"] == "F"), **boxed,
    )  # fmt: skip
