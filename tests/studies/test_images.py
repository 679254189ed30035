import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from cxraug.errors import InputError
from cxraug.studies.images import Encoding, ImageError, encode, image_size, pixel_sha256, read_pixels

RAMP = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30)
GRAY = (RAMP % 256).astype(np.uint8)


def save_png(path, pixels=GRAY, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def save_dicom(path, pixels, *, kind="MONOCHROME2", window=None, slope=None):
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape[:2]
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = pixels[0, 0].size, kind, 0
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = 8 if pixels.dtype == np.uint8 else 12
    data.HighBit = data.BitsStored - 1
    if window:
        data.WindowCenter, data.WindowWidth = window
    if slope:
        data.RescaleSlope, data.RescaleIntercept = slope
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def test_eight_bit_png_keeps_its_values(tmp_path):
    pixels = read_pixels(save_png(tmp_path / "a.png"))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, GRAY)


def test_sixteen_bit_png_is_accepted(tmp_path):
    deep = RAMP * 50
    pixels = read_pixels(save_png(tmp_path / "a.png", deep))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, deep)


def test_rgb_jpeg_is_accepted_as_luminance(tmp_path):
    colour = np.zeros((16, 16, 3), np.uint8)
    colour[..., 0] = 255
    Image.fromarray(colour).save(tmp_path / "a.jpg", quality=95)
    pixels = read_pixels(tmp_path / "a.jpg")
    assert pixels.shape == (16, 16)
    assert pixels.dtype == np.uint8
    assert pixels.mean() == pytest.approx(0.299 * 255, abs=2)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_two_dimensional(tmp_path, mode):
    Image.fromarray(GRAY).convert(mode).save(tmp_path / "a.png")
    assert read_pixels(tmp_path / "a.png").shape == GRAY.shape


def test_a_name_does_not_make_a_kind(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.jpg"), GRAY)


def png_of_size(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def bad_files(folder):
    whole = save_png(folder / "whole.png", np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).read_bytes()
    Image.fromarray(np.frombuffer(whole[:4096], np.uint8).reshape(64, -1)).save(folder / "whole.jpg")
    jpeg = (folder / "whole.jpg").read_bytes()
    dicom = save_dicom(folder / "whole.dcm", GRAY).read_bytes()
    return {
        "truncated.png": whole[: len(whole) // 2],
        "header_only.png": whole[:20],
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "damaged.png": whole[:200] + b"\0" * 200 + whole[400:],
        "text.png": b"these are not the pixels you are looking for\n" * 9,
        "empty.png": b"",
        "picture.gif.png": b"GIF89a" + b"\0" * 200,
        "noise.png": bytes(range(256)) * 4,
        "bomb.png": png_of_size(30_000, 30_000),
        "big.png": png_of_size(9_000, 8_000),
        "truncated.dcm": dicom[: len(dicom) - 600],
    }


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("truncated.png", "truncated"),
        ("header_only.png", "broken"),
        ("truncated.jpg", "truncated"),
        ("damaged.png", "broken"),
        ("text.png", "not an image; found 'text'"),
        ("empty.png", "empty"),
        ("picture.gif.png", "found 'a GIF'"),
        ("noise.png", "not an image; found 'unknown data'"),
        ("bomb.png", "too large"),
        ("big.png", "too large; found '9000 x 8000'"),
        ("truncated.dcm", "DICOM pixels end early"),
    ],
)
def test_a_bad_image_is_one_line_with_its_name(tmp_path, name, part):
    (tmp_path / name).write_bytes(bad_files(tmp_path)[name])
    with pytest.raises(ImageError) as error:
        read_pixels(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert part in str(error.value)
    assert "expected" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_truncation_is_seen_even_if_another_library_allows_it(tmp_path):
    (tmp_path / "t.png").write_bytes(bad_files(tmp_path)["truncated.png"])
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with pytest.raises(ImageError, match="truncated"):
            read_pixels(tmp_path / "t.png")
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    for name, part in (("pipe.png", "not a regular file"), ("none.png", "no such image"), (".", "not a regular file")):
        with pytest.raises(ImageError, match=part):
            read_pixels(tmp_path / name)


def test_dicom_is_scaled_from_minimum_to_maximum(tmp_path):
    pixels = read_pixels(save_dicom(tmp_path / "a.dcm", RAMP))
    assert pixels.dtype == np.uint16
    assert (pixels.min(), pixels.max()) == (0, 65535)
    assert (np.diff(pixels.ravel().astype(int)) > 0).all()


def test_monochrome1_is_inverted(tmp_path):
    plain = read_pixels(save_dicom(tmp_path / "a.dcm", RAMP))
    inverted = read_pixels(save_dicom(tmp_path / "b.dcm", RAMP, kind="MONOCHROME1"))
    np.testing.assert_array_equal(inverted, 65535 - plain)
    eight = read_pixels(save_dicom(tmp_path / "c.dcm", GRAY, kind="MONOCHROME1"))
    np.testing.assert_array_equal(eight, 255 - GRAY)


def test_colour_dicom_is_luminance(tmp_path):
    ycc = np.full((8, 10, 3), 128, np.uint8)
    ycc[..., 0] = 90
    assert (read_pixels(save_dicom(tmp_path / "a.dcm", ycc, kind="YBR_FULL")) == 90).all()
    red = np.zeros((8, 10, 3), np.uint8)
    red[..., 0] = 255
    assert (read_pixels(save_dicom(tmp_path / "b.dcm", red, kind="RGB")) == 76).all()


def test_window_and_rescale_are_applied(tmp_path):
    windowed = read_pixels(save_dicom(tmp_path / "a.dcm", RAMP, window=(600, 200)))
    assert (windowed[RAMP < 490] == 0).all()
    assert (windowed[RAMP > 710] == 65535).all()
    steep = read_pixels(save_dicom(tmp_path / "b.dcm", RAMP, slope=(-1, 0)))  # a negative slope turns the ramp round
    assert steep[0, 0] == 65535
    assert steep[-1, -1] == 0


def test_pixel_identity_knows_shape_and_type():
    zeros = np.zeros((4, 6), np.uint8)
    shas = {pixel_sha256(zeros), pixel_sha256(zeros.T), pixel_sha256(np.zeros((2, 6), np.uint16))}
    assert len(shas) == 3
    assert pixel_sha256(GRAY[:, ::-1]) == pixel_sha256(GRAY[:, ::-1].copy())


def test_an_image_of_the_size_keeps_its_bytes():
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8)
    result = encode(pixels, Encoding(64, jpeg_quality=50))
    np.testing.assert_array_equal(result, pixels)
    assert result is not pixels


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(64, 64), (100, 300), (300, 100), (10, 10), (65, 64)])
def test_a_constant_image_stays_constant(fit, shape):
    result = encode(np.full(shape, 77, np.uint8), Encoding(32, fit))
    assert result.shape == (32, 32)
    assert result.dtype == np.uint8
    if fit != "pad" or shape[0] == shape[1]:
        assert (result == 77).all()


def test_fits():
    wide = np.zeros((100, 300), np.uint8)
    wide[:, 100:200] = 200  # the central square
    assert (encode(wide, Encoding(20, "crop")) == 200).all()
    padded = encode(np.full((100, 300), 200, np.uint8), Encoding(30, "pad"))
    assert (padded[:9] == 0).all()
    assert (padded[21:] == 0).all()
    assert (padded[11:19] == 200).all()
    stretched = encode(wide, Encoding(30, "stretch"))
    assert (stretched[:, 12:18] == 200).all()
    assert (stretched[:, :8] == 0).all()


def test_reduction_averages_instead_of_picking():
    checker = np.indices((128, 128)).sum(axis=0) % 2 * 255
    result = encode(checker.astype(np.uint8), Encoding(16))
    assert abs(result.astype(int) - 127).max() <= 2


def test_sixteen_bit_is_scaled_from_minimum_to_maximum():
    deep = np.linspace(1000, 5000, 64, dtype=np.uint16)[None].repeat(64, 0)
    result = encode(deep, Encoding(64))
    assert (result[0, 0], result[0, -1]) == (0, 255)
    assert (encode(np.full((64, 64), 9, np.uint16), Encoding(64)) == 0).all()


def test_jpeg_only_for_what_was_larger():
    noise = np.random.default_rng(2).integers(0, 256, (128, 128), np.uint8)
    assert (encode(noise, Encoding(64, jpeg_quality=40)) != encode(noise, Encoding(64))).any()
    small = noise[:40, :40]
    np.testing.assert_array_equal(encode(small, Encoding(64, jpeg_quality=40)), encode(small, Encoding(64)))


@pytest.mark.parametrize("options", [{"size": 4}, {"size": 5000}, {"fit": "squash"}, {"jpeg_quality": 0}])
def test_wrong_encodings(options):
    with pytest.raises(InputError, match="expected"):
        Encoding(**options)


def test_only_plain_pixels_are_encoded():
    with pytest.raises(ValueError, match="2-D"):
        encode(np.zeros((4, 4, 3), np.uint8), Encoding(8))


def test_the_size_of_an_image_without_its_pixels(tmp_path):
    assert image_size(save_png(tmp_path / "a.png")) == GRAY.shape
    assert image_size(save_dicom(tmp_path / "a.dcm", RAMP)) == RAMP.shape
    whole = save_png(tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:-40])
    assert image_size(tmp_path / "b.png") == GRAY.shape
    (tmp_path / "c.png").write_bytes(png_of_size(9_000, 8_000))
    with pytest.raises(ImageError, match="too large"):
        image_size(tmp_path / "c.png")
