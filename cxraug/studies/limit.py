"""Scarcity on purpose: keep only so many training patients of a finding or a group, and say what else went."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.studies.manifest import Manifest

REMOVED_COLUMNS = ("split", "what", "name", "before", "kept", "removed")


@dataclass(frozen=True, eq=False)
class Limited:
    """What a limit keeps.

    Attributes
    ----------
    keep : (n,) mask of the manifest's rows.
    removed : what went, one row per split and thing counted: ``split, what, name, before, kept, removed``. ``what`` is
        ``rows``, ``patients``, ``positives`` (``name`` is the finding) or ``sex`` (rows; ``name`` is M, F or missing).
    """

    keep: np.ndarray
    removed: pd.DataFrame


def count_patients(
    manifest: Manifest, keep: np.ndarray, *, finding: str | None = None, group: Mapping[str, str] | None = None
) -> int:
    """Training patients with a finding, in a group, that the rows ``keep`` (n,) still have."""
    rows = _rows_concerned(manifest, finding, group) & (manifest.frame["split"] == "train").to_numpy()
    return len(_patients(manifest.frame, rows & keep))


def limit_patients(
    manifest: Manifest,
    *,
    finding: str | None = None,
    group: Mapping[str, str] | None = None,
    patients: int | None = None,
    share: float | None = None,
    seed: int = 0,
    limit_val: bool = True,
) -> Limited:
    """Keep only some of the training patients with a finding, or in a group, and drop the others with all their rows.

    A patient counts if any of their images has the finding (and, with both, is in the group as well). Which ones are
    kept follows a hash of seed and patient: for one seed the kept sets are nested (10 within 30 within 100), and other
    seeds are independent draws. Test rows are never touched.

    Parameters
    ----------
    finding : limit the patients with it.
    group : limit the patients in it: for each group its level, as in :func:`cxraug.evaluation.groups.group_levels`
        (``{"sex": "F"}``, ``{"age": "60-79"}``).
    patients, share : how many of them to keep in train; one of the two. A share above 0 keeps at least one.
    limit_val : whether validation loses the same proportion of its patients (keeping at least one).

    Raises
    ------
    InputError
        If more are asked for than there are (asked against available), nobody in train has the finding or is in the
        group, or the arguments do not fit together.
    """
    _check(manifest, finding, group, patients, share)
    rows = _rows_concerned(manifest, finding, group)
    frame = manifest.frame
    keep = np.ones(len(frame), bool)
    available = _patients(frame, rows & (frame["split"] == "train").to_numpy())
    what = describe(finding, group)
    if not available:
        raise InputError(f"limit: no training patient with {what}", file=manifest.file)
    if patients is not None:
        wanted = patients
    else:
        assert share is not None
        wanted = max(round(share * len(available)), int(share > 0))
    if wanted > len(available):
        raise InputError(
            f"limit: asked for {wanted} training patients with {what}, {len(available)} are available",
            file=manifest.file,
        )
    keep &= ~_rows_of_dropped(frame, "train", available, wanted, seed)
    if limit_val:
        val = _patients(frame, rows & (frame["split"] == "val").to_numpy())
        val_wanted = min(len(val), max(round(len(val) * wanted / len(available)), 1))
        keep &= ~_rows_of_dropped(frame, "val", val, val_wanted, seed)
    return Limited(keep, count_removed(manifest, keep))


def _check(
    manifest: Manifest, finding: str | None, group: Mapping[str, str] | None, patients: int | None, share: float | None
) -> None:
    if finding is None and not group:
        raise InputError("limit: nothing to limit", expected="a finding, a group, or both")
    if finding is not None and finding not in manifest.findings:
        known = ", ".join(manifest.findings)
        raise InputError("limit: unknown finding", file=manifest.file, found=finding, expected=f"one of {known}")
    if (patients is None) == (share is None):
        raise InputError("limit: how many to keep is unclear", expected="either patients or share")
    if patients is not None and patients < 0:
        raise InputError("limit: patients is negative", found=patients, expected="0 or more")
    if share is not None and not 0 <= share <= 1:
        raise InputError("limit: share is out of range", found=share, expected="0 to 1")


def describe(finding: str | None, group: Mapping[str, str] | None) -> str:
    """Whom a limit is about, in words: the finding and the group's levels."""
    parts = ([finding] if finding is not None else []) + [f"{k}={v}" for k, v in (group or {}).items()]
    return " and ".join(parts)


def _rows_concerned(manifest: Manifest, finding: str | None, group: Mapping[str, str] | None) -> np.ndarray:
    from cxraug.evaluation.groups import group_levels  # the audit of predictions has the words for groups

    rows = np.ones(len(manifest), bool)
    if finding is not None:
        rows &= manifest.y([finding])[:, 0] == 1
    for name, level in (group or {}).items():
        levels = group_levels(manifest.frame, name)
        if level not in set(levels):
            known = ", ".join(sorted(set(levels)))
            raise InputError(
                f"limit: no such level of {name}", file=manifest.file, found=level, expected=f"one of {known}"
            )
        rows &= (levels == level).to_numpy()
    return rows


def _patients(frame: pd.DataFrame, rows: np.ndarray) -> list[str]:
    return [str(p) for p in pd.unique(frame.loc[rows, "patient_id"])]


def _rows_of_dropped(frame: pd.DataFrame, split: str, patients: list[str], wanted: int, seed: int) -> np.ndarray:
    ranked = sorted(patients, key=lambda p: hashlib.sha256(f"limit {seed} {p}".encode()).digest())
    return (frame["patient_id"].isin(ranked[wanted:]) & (frame["split"] == split)).to_numpy()


def count_removed(manifest: Manifest, keep: np.ndarray) -> pd.DataFrame:
    """What the rows ``keep`` (n,) leave out, as in :class:`Limited`."""
    frame = manifest.frame
    y = manifest.y() == 1
    sex = frame["sex"].fillna("missing")
    records: list[tuple[str, str, str, int, int]] = []
    for split in ("train", "val", "test"):
        rows = (frame["split"] == split).to_numpy()
        kept = rows & keep
        records.append((split, "rows", "", int(rows.sum()), int(kept.sum())))
        records.append((split, "patients", "", len(_patients(frame, rows)), len(_patients(frame, kept))))
        for at, finding in enumerate(manifest.findings):
            records.append((split, "positives", finding, int(y[rows, at].sum()), int(y[kept, at].sum())))
        for level in sorted(set(sex)):
            mask = (sex == level).to_numpy()
            records.append((split, "sex", level, int((mask & rows).sum()), int((mask & kept).sum())))
    table = pd.DataFrame(records, columns=["split", "what", "name", "before", "kept"])
    table["removed"] = table["before"] - table["kept"]
    return table[list(REMOVED_COLUMNS)]
