"""Predictions of a trained classifier for a whole manifest, from files to file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxraug.classifiers.card import read_classifier_card, weights_file
from cxraug.classifiers.models import weights_seen
from cxraug.classifiers.prediction import predict_arm, write_predictions
from cxraug.errors import InputError
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import LabelColumns, read_manifest
from cxraug.studies.seen import refuse_hidden

SUFFIXES = (".csv", ".parquet")


def predict_manifest(
    model: Path,
    manifest: Path,
    out: Path,
    *,
    splits: Sequence[str] = (),
    where: Mapping[str, Any] | None = None,
    root: Path | None = None,
    label_columns: LabelColumns | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    cache: Path | None = None,
    arm: str | None = None,
) -> dict[str, Any]:
    """Predict every image of a manifest and write the predictions.

    Images are brought to the encoding in which the classifier was trained (``encoding`` in its card's ``info``; else
    its size alone). Labels that the manifest does not know are blank.

    Parameters
    ----------
    model : folder of a trained classifier. manifest : CSV or Parquet. out : ``.csv`` or ``.parquet``.
    splits : only rows of these. where, root, label_columns : as of ``read_manifest``. on_bad_image, cache : as of
        ``build_cache``; without ``cache`` the decoded images lie beside ``out`` until it is written.
    arm : name of the arm, written into the predictions.

    Returns
    -------
    Counts: ``images``, ``rejected``, the ``findings``, and the ``label_columns`` that labels were read from.

    Raises
    ------
    InputError : bad input. HiddenDataError : the classifier was trained on rows of the validation or test split.
    """
    if out.suffix not in SUFFIXES:
        raise InputError("unknown kind of table", file=out, found=out.suffix, expected=" or ".join(SUFFIXES))
    card = read_classifier_card(model)
    rows = read_manifest(manifest, root=root, where=where, label_columns=label_columns)
    if splits:
        rows = rows.take(rows.frame["split"].isin(list(splits)).to_numpy())
        if not len(rows):
            raise InputError("no row is left", file=manifest, column="split", expected=f"rows of {', '.join(splits)}")
    folder = cache if cache is not None else out.with_name(f".{out.stem}.cache")
    encoding = Encoding(**(card.info.get("encoding") or {"size": card.size}))
    kept, pixels = build_cache(rows, folder, encoding, on_bad_image=on_bad_image)
    seen = weights_seen(weights_file(model))
    if seen is not None:
        held = {
            role: (kept.frame["split"] == split).to_numpy() for role, split in (("validation", "val"), ("test", "test"))
        }
        refuse_hidden(
            seen,
            f"classifier {model}",
            patients={role: kept.frame.loc[mask, "patient_id"] for role, mask in held.items()},
            images={role: pixels.sha[mask] for role, mask in held.items()},
        )
    known = [finding for finding in card.findings if finding in kept.findings]
    y = np.full((len(kept), len(card.findings)), np.nan, dtype=np.float32)
    y[:, [card.findings.index(finding) for finding in known]] = kept.y(known)
    write_predictions(out, kept.frame, y, predict_arm(model, pixels.pixels), card.findings, arm)
    if cache is None:
        shutil.rmtree(folder)
    return {
        "images": len(kept),
        "rejected": len(rows) - len(kept),
        "findings": card.findings,
        "label_columns": rows.label_columns,
    }
