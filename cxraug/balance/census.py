"""The census: a manifest seen as studies and as patients instead of as images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from cxraug.studies.manifest import Manifest

NO_FINDING = "No Finding"
VIEW_ORDER = ("PA", "AP", "AP Supine", "Lateral", "unknown")


@dataclass(frozen=True)
class Census:
    """One row per study.

    Attributes
    ----------
    frame : columns of the study's first image, and ``views`` (its views, frontal ones first, joined by ``|``).
    y : (n, F) float32; 1 if any image of the study shows the finding, else 0 if any is known not to, else NaN.
    complete : (n,) bool; labels were given and none of the findings that the study's source annotates is unknown, so
        that the present findings are the whole label set.
    findings : names of the columns of ``y``.
    annotated : per source, the findings it annotates.
    """

    frame: pd.DataFrame
    y: np.ndarray
    complete: np.ndarray
    findings: tuple[str, ...]
    annotated: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    def label_sets(self) -> list[tuple[str, ...] | None]:
        """The present findings of each study; None where the labels are not completely known.

        A study with every finding absent has the set ``("No Finding",)`` where that is one of the findings, and the
        empty set ``()`` where it is not.
        """
        present = self.y == 1
        healthy = (self.y == 0).all(axis=1) & (NO_FINDING not in self.findings) & bool(self.findings)
        code = pd.Series(np.zeros(len(self), dtype=np.int64))
        for start in range(0, present.shape[1], 60):  # 60 findings fit into one integer
            bits = present[:, start : start + 60]
            code = pd.Series(pair_codes(code, pd.Series(bits @ (1 << np.arange(bits.shape[1], dtype=np.int64)))))
        _, first = np.unique(code, return_index=True)
        sets = [tuple(f for f, on in zip(self.findings, present[row], strict=True) if on) for row in first]
        named = self.complete & (present.any(axis=1) | healthy)
        return [sets[int(i)] if ok else None for i, ok in zip(code.tolist(), named, strict=True)]


def take_census(manifest: Manifest, findings: Sequence[str] | None = None, *, y: np.ndarray | None = None) -> Census:
    """Gather the images of ``manifest`` into studies (a study is a ``study_id`` of one patient).

    ``y`` (n, F) is ``manifest.y(findings)`` where it is at hand already.
    """
    names = tuple(findings if findings is not None else manifest.findings)
    frame = manifest.frame.reset_index(drop=True)
    code = pair_codes(frame["patient_id"], frame["study_id"])
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    y = manifest.y(names) if y is None else y
    known = unknown_labels(manifest, names, y)
    views = frame["view"].to_numpy(dtype=object)[order]
    studies = frame.iloc[order[starts]].reset_index(drop=True)
    studies["views"] = _joined_views(views, starts)
    return Census(
        frame=studies,
        y=_any_positive(y[order], starts),
        complete=~np.logical_or.reduceat(known[order].any(axis=1), starts) if len(starts) else np.zeros(0, bool),
        findings=names,
        annotated=manifest.annotated,
    )


def _joined_views(views: np.ndarray, starts: np.ndarray) -> pd.Series:
    """The distinct views of each study joined by ``|``; ``views`` (n,) by study, ``starts`` of each."""
    code, names = pd.factorize(views)
    place = {view: i for i, view in enumerate(VIEW_ORDER)}
    texts = [str(name) for name in names]
    ordered = sorted(range(len(texts)), key=lambda i: (place.get(texts[i], len(place)), texts[i]))
    if len(ordered) > 60:  # more than fit into one integer
        parts = np.split(views, starts[1:]) if len(starts) else []
        lists = [sorted(set(part), key=lambda v: (place.get(v, len(place)), v)) for part in parts]
        return pd.Series(["|".join(part) for part in lists], dtype="str")
    bit = np.zeros(len(names), np.int64)
    bit[ordered] = 1 << np.arange(len(names), dtype=np.int64)
    sets = np.bitwise_or.reduceat(bit[code], starts) if len(starts) else np.zeros(0, np.int64)
    kinds, of = np.unique(sets, return_inverse=True)
    joined = ["|".join(texts[i] for k, i in enumerate(ordered) if int(kind) >> k & 1) for kind in kinds]
    return pd.Series(np.array(joined, dtype=object)[of] if joined else [], dtype="str")


def unknown_labels(manifest: Manifest, findings: Sequence[str], y: np.ndarray | None = None) -> np.ndarray:
    """(n, F) bool: the image's source annotates the finding, but this image's label is uncertain or blank."""
    sources = manifest.frame["source"].to_numpy(dtype=object)
    unknown = np.isnan(manifest.y(findings) if y is None else y)
    for source in pd.unique(sources):
        annotated = manifest.annotated.get(source, manifest.findings)
        unknown[np.ix_(sources == source, [f not in annotated for f in findings])] = False
    blank = manifest.frame["labels"].isna().to_numpy()
    return unknown | blank[:, None]


def pair_codes(first: pd.Series, second: pd.Series) -> np.ndarray:
    """(n,) int: the same number for rows with the same pair of values, in order of first appearance."""
    a, _ = pd.factorize(first)
    b, names = pd.factorize(second, use_na_sentinel=False)
    codes, _ = pd.factorize(a.astype(np.int64) * max(len(names), 1) + b)
    return codes


def _any_positive(y: np.ndarray, starts: np.ndarray) -> np.ndarray:
    if not len(starts):
        return y[:0]
    filled = np.where(np.isnan(y), -1.0, y).astype(np.float32)
    best = np.maximum.reduceat(filled, starts, axis=0)
    return np.where(best < 0, np.nan, best).astype(np.float32)
