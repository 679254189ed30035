"""Reading one DICOM image: its pixels as they are meant to be seen, and what its header says of writing in them.

Only the elements that pixels need are read (:data:`ELEMENTS`). Nothing of a header ever stands in a message: patients'
names turn up in every element, and so an error of the decoder is named by its kind alone.
"""

from __future__ import annotations

import os
import re
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cxraug.studies.images import ImageError, check_size

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_BYTES = 1 << 29  # of a file; the largest image allowed has 2^28
ELEMENTS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "BurnedInAnnotation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
)  # fmt: skip
NEEDED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel", "PhotometricInterpretation")
GREY, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
WHOLE = "a whole DICOM image"
PACKAGES = "pip install 'cxraug[dicom]' (python-gdcm)"

# Images are read in threads, where warnings cannot be silenced for a while: filters belong to the process. What matters
# in a header raises.
warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")

_MARK = slice(128, 132)
# The first element of a file without preamble: group 0002 or 0008, little endian, with its value representation or
# (implicit) a length below 2^16.
_BARE = re.compile(rb"[\x02\x08]\0[\0-\x1f]\0(?:[A-Z]{2}|..\0\0)", re.DOTALL)
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}  # of JPEG (ITU T.81, B.1.1.3) and JPEG-LS


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (132 bytes) is a DICOM file, or looks like one without its preamble."""
    return head[_MARK] == b"DICM" or _BARE.match(head) is not None


def read_dicom(path: Path) -> np.ndarray:
    """The one frame of a DICOM file as a 2-D array, uint8 or uint16, 0 black.

    The modality LUT (or rescale slope and intercept) and the first VOI LUT or window are applied, MONOCHROME1 is
    inverted, colour becomes luminance. What is not plain 8 bit is scaled from its minimum and maximum to 0..65535;
    padding (PixelPaddingValue) takes no part in that and is black.

    Raises
    ------
    ImageError
        If it is broken, truncated, larger than 2^26 pixels, has no pixels or several frames, or is compressed in a way
        for which a package is missing.
    """
    try:
        data = _read(path)
        _check_header(path, data)
        _check_pixel_data(path, data)
        pixels = data.pixel_array  # YBR is RGB by now
        if pixels.shape[:2] != (data.Rows, data.Columns):
            raise ImageError("the pixels have another shape than the header says", file=path, expected=WHOLE)
        if pixels.ndim == 3:
            if pixels.dtype != np.uint8:
                raise ImageError("a DICOM file with colours of more than 8 bit", file=path, expected="8 bit or grey")
            return np.array(Image.fromarray(pixels).convert("L"))
        return _seen(path, pixels, data)
    except (ImageError, MemoryError):
        raise
    except RecursionError:
        raise ImageError("DICOM header is nested too deeply", file=path, expected=WHOLE) from None
    except Exception as error:  # a broken or hostile file may fail anywhere inside the decoder
        raise ImageError(f"DICOM cannot be decoded ({type(error).__name__})", file=path, expected=WHOLE) from None


def burned_in_annotation(path: Path) -> str:
    """The header's word on writing in the pixels (0028,0301): ``YES``, ``NO`` or empty where it says neither.

    YES may be believed. NO is what devices write by default and says nothing.
    """
    from pydicom import dcmread

    try:
        _check_file(path)
        data = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["BurnedInAnnotation"])
        said = str(data.get("BurnedInAnnotation", "")).strip().upper()
    except Exception:  # the same file is refused, or not, where its pixels are read
        return ""
    return said if said in ("YES", "NO") else ""


def _read(path: Path) -> Dataset:
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    _check_file(path)
    data = dcmread(path, force=True, specific_tags=list(ELEMENTS))
    if "PixelData" not in data:
        raise ImageError("a DICOM file without pixels", file=path, expected="a DICOM image")
    if "TransferSyntaxUID" not in data.file_meta:  # no file header: as it was read, and never compressed
        implicit, little = data.original_encoding
        plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
    return data


def _check_file(path: Path) -> None:
    """Refuse a file that would fill the memory before anything of it is known: a huge one, or one that inflates."""
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise ImageError("the file is too large", file=path, found=f"{size} bytes", expected=f"at most {MAX_BYTES}")
    with open(path, "rb") as stream:
        if stream.read(132)[_MARK] != b"DICM":
            return
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with open(path, "rb") as stream:
        stream.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        while (block := inflate.unconsumed_tail or stream.read(1 << 16)) and not inflate.eof:
            total += len(inflate.decompress(block, 1 << 20))
            if total > MAX_BYTES:
                raise ImageError("the file inflates to too much", file=path, expected=f"at most {MAX_BYTES} bytes")


def _check_header(path: Path, data: Dataset) -> None:
    absent = [name for name in NEEDED if data.get(name) is None]
    if absent:
        raise ImageError("a DICOM file without " + ", ".join(absent), file=path, expected="a DICOM image")
    if int(data.get("NumberOfFrames") or 1) != 1:
        raise ImageError("a DICOM file with several frames", file=path, expected="one frame")
    if not (data.Rows > 0 and data.Columns > 0):
        raise ImageError("a DICOM image of no size", file=path, found=f"{data.Columns} x {data.Rows}", expected=WHOLE)
    check_size(path, (int(data.Columns), int(data.Rows)))
    if data.PhotometricInterpretation not in GREY + COLOUR:
        raise ImageError(
            "a DICOM file of another kind of colours (PhotometricInterpretation)",
            file=path,
            expected="one of " + ", ".join(GREY + COLOUR),
        )


def _check_pixel_data(path: Path, data: Dataset) -> None:
    """Whether the bytes can be the pixels that the header promises, before any of them is decoded."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder
    from pydicom.uid import RLELossless

    syntax = data.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError("DICOM pixels in an unknown transfer syntax", file=path, expected="an image") from None
    if not decoder.is_available:
        raise ImageError(f"a package for {syntax.name} is missing", file=path, expected=PACKAGES)
    wanted = int(data.Rows) * int(data.Columns) * int(data.SamplesPerPixel) * int(data.BitsAllocated) // 8
    if not syntax.is_encapsulated:
        if data.PhotometricInterpretation == "YBR_FULL_422":
            wanted = wanted * 2 // 3
        if len(data.PixelData) < wanted:
            raise ImageError("DICOM pixels end early", file=path, found=f"{len(data.PixelData)} bytes",
                             expected=f"{wanted} bytes")  # fmt: skip
        return
    if len(data.PixelData) > 2 * wanted + (1 << 20):  # the bytes of an RLE bomb
        raise ImageError("DICOM pixels are longer compressed than plain", file=path,
                         found=f"{len(data.PixelData)} bytes", expected=f"{wanted} bytes")  # fmt: skip
    if syntax == RLELossless:
        return  # its decoder refuses a segment that is not as long as the header says
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    size = frame_size(frame)
    if size is None or not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ImageError("DICOM pixels are truncated or broken", file=path, expected=WHOLE)
    if size != (data.Columns, data.Rows):  # the decoder would believe the frame, and make room for it
        raise ImageError("the compressed pixels have another size than the header says", file=path,
                         found=f"{size[0]} x {size[1]}", expected=f"{data.Columns} x {data.Rows}")  # fmt: skip
    if decoder.missing_dependencies:
        _try_decoding(path, data, syntax.name)


def _try_decoding(path: Path, data: Dataset, name: str) -> None:
    """Decode (pydicom keeps the result); where the packages here cannot, name the one that can."""
    try:
        _ = data.pixel_array
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f"{name} cannot be decoded by the packages here ({type(error).__name__})", file=path,
                         expected=f"{WHOLE}, or {PACKAGES}") from None  # fmt: skip


def frame_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that a JPEG, JPEG-LS or JPEG 2000 codestream names, None where it names none.

    ITU T.81 B.2.2 (start of frame), T.87 C.2.2, T.800 A.5.1 (SIZ).
    """

    def number(at: int, size: int) -> int:
        return int.from_bytes(frame[at : at + size], "big")

    if frame[:2] == b"\xff\xd8":
        at = 2
        while at + 9 <= len(frame) and frame[at] == 0xFF:
            marker = frame[at + 1]
            if marker in _START_OF_FRAME:
                return number(at + 7, 2), number(at + 5, 2)
            at += 1 if marker == 0xFF else 2 + number(at + 2, 2)
        return None
    at = frame.find(b"\xff\x4f\xff\x51")  # a codestream may lie in a JP2 file
    if at < 0 or at + 24 > len(frame):
        return None
    return number(at + 8, 4) - number(at + 16, 4), number(at + 12, 4) - number(at + 20, 4)


def _seen(path: Path, pixels: np.ndarray, data: Dataset) -> np.ndarray:
    """Stored grey values as they are meant to be seen."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    inverted, padding = data.PhotometricInterpretation == "MONOCHROME1", _padding(pixels, data)
    with np.errstate(all="ignore"):  # what is not finite is refused below
        values: Any = np.asarray(apply_voi_lut(apply_modality_lut(pixels, data), data))
    if values.dtype == np.uint8:
        result = 255 - values if inverted else values.copy()
    else:
        values = values.astype(np.float64)
        shown = values[~padding] if padding is not None and not padding.all() else values
        low, high = float(shown.min()), float(shown.max())
        if not np.isfinite([low, high]).all():
            raise ImageError("DICOM values are not finite after rescaling", file=path, expected=WHOLE)
        scaled = (np.clip(values, low, high) - low) * (65535.0 / (high - low if high > low else 1.0))
        result = np.rint(scaled).astype(np.uint16)
        if inverted:
            result = 65535 - result
    if padding is not None:
        result[padding] = 0
    return result


def _padding(pixels: np.ndarray, data: Dataset) -> np.ndarray | None:
    """Which stored values are no part of the picture (PS3.3, C.7.5.1.1.2), None where the header names none."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return None
    other = data.get("PixelPaddingRangeLimit")
    ends = sorted((int(value), int(value if other is None else other)))
    if ends[0] < 0 and not np.issubdtype(pixels.dtype, np.signedinteger):  # written as signed, meant as unsigned
        ends = sorted(end % (1 << int(data.BitsAllocated)) for end in ends)
    return np.asarray((pixels >= ends[0]) & (pixels <= ends[1]))
