"""Splits by patient: a patient's split is a function of the patient's name alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxraug.errors import InputError

SPLITS = ("train", "val", "test")


def split_by_patient(patient_ids: pd.Series, fractions: Sequence[float] = (0.7, 0.1, 0.2)) -> pd.Series:
    """Assign every row to ``train``, ``val`` or ``test`` by the SHA-256 of its patient.

    The hash (first 64 bits, as a fraction of 2^64) is compared with the cumulated ``fractions``. So a patient has one
    split whatever else is in the table: adding, dropping or reordering rows moves nobody.

    Parameters
    ----------
    patient_ids : (n,) text without missing values.
    fractions : expected shares of patients in train, val and test; they sum to 1.

    Returns
    -------
    (n,) text with the index of ``patient_ids``.
    """
    shares = np.asarray(fractions, float)
    if shares.shape != (3,) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise InputError(
            "split fractions are wrong", found=list(fractions), expected="three shares (train, val, test) that sum to 1"
        )
    codes, patients = pd.factorize(patient_ids)
    position = np.array([patient_hash(str(p)) for p in patients])
    split = np.searchsorted(np.cumsum(shares)[:2], position, side="right")
    return pd.Series(np.array(SPLITS)[split[codes]], index=patient_ids.index, dtype="str")


def patient_hash(text: str) -> float:
    """The first 64 bits of the SHA-256 of ``text`` as a number in [0, 1): uniform, and the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64
