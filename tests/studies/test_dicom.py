"""DICOM in: every way in which X-ray archives store pixels gives the picture that is meant, and a bad file one line."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicomfile import SECRET, dataset, save, write
from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxraug.studies import dicom
from cxraug.studies.dicom import burned_in_annotation, frame_size, is_dicom
from cxraug.studies.images import ImageError, read_pixels

SHAPE = (40, 30)
RAMP = np.arange(40 * 30, dtype=np.uint16).reshape(SHAPE)  # 0..1199
GRAY = (RAMP % 256).astype(np.uint8)


def encapsulated(path: Path, pixels: np.ndarray, frame: bytes, syntax: Any, **elements: Any) -> Path:
    data = dataset(pixels, syntax=syntax, **elements)
    data.PixelData = encapsulate([frame])
    data["PixelData"].VR = "OB"
    return save(path, data)


def coded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def stretched(values: np.ndarray) -> np.ndarray:
    values = values.astype(float)
    return np.rint((values - values.min()) * 65535 / (values.max() - values.min())).astype(np.uint16)


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as error:
        read_pixels(path)
    line = str(error.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert "expected" in line
    assert "Doe" not in line
    assert "4711" not in line
    return line.removeprefix(str(path))


def test_twelve_bit_in_sixteen_ignores_the_unused_bits(tmp_path: Path) -> None:
    dirty = RAMP | 0x8000  # an overlay of old devices
    found = read_pixels(write(tmp_path / "a.dcm", dirty, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(found, stretched(RAMP))


def test_signed_values_with_rescale_keep_their_order(tmp_path: Path) -> None:
    signed = RAMP.astype(np.int16) - 600
    found = read_pixels(write(tmp_path / "a.dcm", signed, RescaleSlope="2.5", RescaleIntercept="-1024"))
    np.testing.assert_array_equal(found, stretched(RAMP))


def test_of_several_windows_the_first_is_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RAMP, BitsStored=12, HighBit=11, WindowCenter=["600", "100"],
                 WindowWidth=["201", "50"])  # fmt: skip
    found = read_pixels(path)
    # PS3.3 C.11.2.1.2: x <= c - 0.5 - (w - 1) / 2 is black, x > c - 0.5 + (w - 1) / 2 white, linear between
    expected = np.clip((RAMP - 599.5) / 200 + 0.5, 0, 1) * 65535
    np.testing.assert_allclose(found, expected, atol=1)
    assert (found[RAMP <= 499] == 0).all()
    assert (found[RAMP > 699] == 65535).all()


def test_a_voi_lut_goes_before_a_window(tmp_path: Path) -> None:
    lut = Dataset()
    lut.LUTDescriptor = [1200, 0, 16]
    lut.LUTData = (np.arange(1200) ** 2 // 24).tolist()
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "US"
    path = write(tmp_path / "a.dcm", RAMP, VOILUTSequence=Sequence([lut]), WindowCenter="10", WindowWidth="2")
    np.testing.assert_array_equal(read_pixels(path), stretched(RAMP.astype(int) ** 2 // 24))


def test_padding_is_black_and_takes_no_part_in_the_scale(tmp_path: Path) -> None:
    padded = RAMP.astype(np.int16) + 100
    padded[:4] = -2000
    inside = padded[4:]
    found = read_pixels(write(tmp_path / "a.dcm", padded, PixelPaddingValue=-2000))
    assert (found[:4] == 0).all()
    np.testing.assert_array_equal(found[4:], stretched(inside))
    inverted = read_pixels(
        write(tmp_path / "b.dcm", padded, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1")
    )
    assert (inverted[:4] == 0).all()
    np.testing.assert_array_equal(inverted[4:], 65535 - stretched(inside))
    padded[0] = -1990
    limit = write(tmp_path / "c.dcm", padded, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1980)
    np.testing.assert_array_equal(read_pixels(limit)[4:], stretched(inside))
    everything = write(tmp_path / "d.dcm", np.full(SHAPE, 7, np.uint16), PixelPaddingValue=7)
    assert (read_pixels(everything) == 0).all()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_plain_transfer_syntax_is_the_same_picture(tmp_path: Path, syntax: Any) -> None:
    found = read_pixels(write(tmp_path / "a.dcm", RAMP, syntax=syntax, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(found, stretched(RAMP))


def test_compressed_pixels_are_decoded_with_what_is_always_there(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8) * 2
    jpeg = encapsulated(tmp_path / "a.dcm", smooth, coded(smooth, "JPEG", quality=95), JPEGBaseline8Bit)
    assert np.abs(read_pixels(jpeg).astype(int) - smooth).max() <= 4
    j2k = coded(smooth, "JPEG2000", no_jp2=True, irreversible=False)
    np.testing.assert_array_equal(read_pixels(encapsulated(tmp_path / "b.dcm", smooth, j2k, JPEG2000Lossless)), smooth)
    deep = coded(RAMP, "JPEG2000", no_jp2=True, irreversible=False)
    found = read_pixels(encapsulated(tmp_path / "c.dcm", RAMP, deep, JPEG2000Lossless))
    np.testing.assert_array_equal(found, stretched(RAMP))
    data = dataset(RAMP, BitsStored=12, HighBit=11)
    data.compress(RLELossless, encoding_plugin="pydicom")
    np.testing.assert_array_equal(read_pixels(save(tmp_path / "d.dcm", data)), stretched(RAMP))


@pytest.mark.parametrize("kind", ["JPEGLSLossless", "JPEGLosslessProcess14_1", "JPEG2000Lossless"])
def test_compressed_pixels_are_decoded_with_gdcm(tmp_path: Path, kind: str) -> None:
    gdcm = pytest.importorskip("gdcm", reason="needs python-gdcm (extra cxraug[dicom])")
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(write(tmp_path / "plain.dcm", RAMP, BitsStored=12, HighBit=11)))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "a.dcm"))
    assert writer.Write()
    assert pydicom.dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.dcm"), stretched(RAMP))
    whole = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-200])
    refused(tmp_path / "cut.dcm")


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEGLosslessSV1])
def test_a_missing_package_is_named(tmp_path: Path, syntax: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels import get_decoder

    monkeypatch.setattr(get_decoder(syntax), "_available", {})
    path = encapsulated(tmp_path / "a.dcm", GRAY, b"\xff\xd8\xff\xd9", syntax)
    assert refused(path).endswith(
        f"a package for {syntax.name} is missing; expected pip install 'cxraug[dicom]' (python-gdcm)"
    )


def test_a_file_without_preamble_or_header_is_still_read(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.dcm", RAMP).read_bytes()
    assert whole[128:132] == b"DICM"
    (tmp_path / "b.dcm").write_bytes(whole[132:])
    np.testing.assert_array_equal(read_pixels(tmp_path / "b.dcm"), stretched(RAMP))
    for name, implicit in (("c", True), ("d", False)):
        stream = io.BytesIO()
        data = Dataset()
        data.update({e.tag: e for e in dataset(RAMP)})
        pydicom.dcmwrite(stream, data, implicit_vr=implicit, little_endian=True)
        (tmp_path / f"{name}.dcm").write_bytes(stream.getvalue())
        np.testing.assert_array_equal(read_pixels(tmp_path / f"{name}.dcm"), stretched(RAMP))


def test_noise_that_begins_like_a_file_without_preamble_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + bytes(range(256)) * 4)
    assert is_dicom((tmp_path / "a.dcm").read_bytes()[:132])
    refused(tmp_path / "a.dcm")


def bad(name: str) -> FileDataset:
    data = dataset(RAMP)
    if name == "several frames":
        data.NumberOfFrames, data.PixelData = 2, data.PixelData * 2
    if name == "no size":
        data.Rows, data.PixelData = 0, b""
    if name == "huge":
        data.Rows = data.Columns = 65535
    if name == "no rows":
        del data.Rows
    if name == "no pixels":
        del data.PixelData
    if name == "truncated":
        data.PixelData = data.PixelData[:-600]
    if name == "palette":
        data.PhotometricInterpretation = "PALETTE COLOR"
    if name == "a name for colours":
        data.PhotometricInterpretation = SECRET.upper()
    if name == "infinite":
        data.add_new("RescaleSlope", "DS", "1e400")
        data.RescaleIntercept = "0"
    if name == "a name for a number":
        data.add_new(0x00281050, "LO", SECRET)  # window centre
        data.WindowWidth = "100"
    if name == "window of no width":
        data.WindowCenter, data.WindowWidth = "100", "0"
    if name == "odd bits":
        data.BitsAllocated = 24
    if name == "unknown syntax":
        data.file_meta.TransferSyntaxUID = "1.2.3.4711"
    return data


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("several frames", "several frames"),
        ("no size", "an image of no size; found '30 x 0'"),
        ("huge", "too large; found '65535 x 65535'"),
        ("no rows", "without Rows"),
        ("no pixels", "without pixels"),
        ("truncated", "end early; found '1800 bytes'; expected 2400 bytes"),
        ("palette", "another kind of colours"),
        ("a name for colours", "another kind of colours"),
        ("infinite", ""),
        ("a name for a number", "cannot be decoded"),
        ("window of no width", "cannot be decoded"),
        ("odd bits", ""),
        ("unknown syntax", "unknown transfer syntax"),
    ],
)
def test_a_bad_header_is_one_line_without_its_text(tmp_path: Path, name: str, words: str) -> None:
    data = bad(name)
    if name == "unknown syntax":
        data.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=True)
    else:
        save(tmp_path / "a.dcm", data)
    assert words.removeprefix("an ") in refused(tmp_path / "a.dcm")


def test_a_truncated_frame_is_refused_and_not_half_grey(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    for kind, syntax, options in (
        ("JPEG", JPEGBaseline8Bit, {}),
        ("JPEG2000", JPEG2000Lossless, {"no_jp2": True, "irreversible": False}),
    ):
        frame = coded(noise, kind, **options)
        path = encapsulated(tmp_path / f"{kind}.dcm", noise, frame[: len(frame) // 2], syntax)
        assert "truncated or broken" in refused(path)


def test_a_frame_of_another_size_than_the_header_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    bomb = coded(GRAY, "JPEG")
    at = bomb.index(b"\xff\xc0")
    bomb = bomb[: at + 5] + struct.pack(">HH", 65500, 65500) + bomb[at + 9 :]
    assert frame_size(bomb) == (65500, 65500)
    assert "found '65500 x 65500'; expected 30 x 40" in refused(
        encapsulated(tmp_path / "a.dcm", GRAY, bomb, JPEGBaseline8Bit)
    )
    j2k = coded(GRAY, "JPEG2000", no_jp2=True)
    assert frame_size(j2k) == frame_size(coded(GRAY, "JPEG2000")) == (30, 40)
    j2k = j2k[:8] + struct.pack(">II", 60000, 60000) + j2k[16:]
    assert "found '60000 x 60000'" in refused(encapsulated(tmp_path / "b.dcm", GRAY, j2k, JPEG2000Lossless))
    rle = encapsulated(tmp_path / "c.dcm", GRAY, b"\0" * (3 << 20), RLELossless)
    assert "longer compressed than plain" in refused(rle)


def test_what_inflates_to_gigabytes_is_refused_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom, "MAX_BYTES", 1 << 26)
    whole = write(tmp_path / "a.dcm", RAMP, syntax=DeflatedExplicitVRLittleEndian).read_bytes()
    meta = pydicom.filereader.read_file_meta_info(tmp_path / "a.dcm")
    head = whole[: 144 + meta.FileMetaInformationGroupLength]
    deflate, body = zlib.compressobj(9, zlib.DEFLATED, -15), io.BytesIO()
    for _ in range(80):
        body.write(deflate.compress(b"\0" * (1 << 20)))
    body.write(deflate.flush())
    (tmp_path / "b.dcm").write_bytes(head + body.getvalue())
    tracemalloc.start()
    try:
        assert "inflates to too much" in refused(tmp_path / "b.dcm")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RAMP)
    os.truncate(path, 1 << 33)  # sparse
    assert "the file is too large" in refused(path)


def test_a_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    item = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"  # a sequence with an open item
    whole = write(tmp_path / "a.dcm", RAMP).read_bytes()
    at = whole.index(b"\x10\0\x10\0PN")
    (tmp_path / "b.dcm").write_bytes(whole[:at] + item * 20_000)
    refused(tmp_path / "b.dcm")


@pytest.mark.parametrize(("said", "found"), [("YES", "YES"), ("NO", "NO"), (None, ""), ("MAYBE", "")])
def test_the_header_says_whether_there_is_writing(tmp_path: Path, said: str | None, found: str) -> None:
    data = dataset(RAMP)
    if said:
        data.BurnedInAnnotation = said
    assert burned_in_annotation(save(tmp_path / "a.dcm", data)) == found
    (tmp_path / "b.dcm").write_bytes(b"DICM" * 99)
    assert burned_in_annotation(tmp_path / "b.dcm") == ""
