"""DICOM files made for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

SECRET = "Doe^Jane"


def dataset(pixels: np.ndarray, *, syntax: Any = ExplicitVRLittleEndian, **elements: Any) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    plain = syntax != ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=not plain[0],
                       is_little_endian=plain[1])  # fmt: skip
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = SECRET, "MRN-4711"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    return data


def save(path: Path, data: FileDataset) -> Path:
    data.save_as(path, enforce_file_format=True)
    return path


def write(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    return save(path, dataset(pixels, **elements))
