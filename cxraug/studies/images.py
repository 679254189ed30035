"""Reading one image (PNG, JPEG, DICOM; 8 or 16 bit) and bringing it to the encoding that all images share."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFile

from cxraug.errors import InputError

MAX_PIXELS = 1 << 26  # 8192 x 8192; the largest detectors have about 20 million
MASK_BITS = {"lung": 1, "heart": 2, "lesion": 4}  # part of a mask -> its bit in a mask file
KINDS = "a PNG, JPEG or DICOM image"

# Images are read in threads, where warnings cannot be silenced for a while: filters belong to the process. Sizes are
# checked here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(InputError):
    """An image that cannot be read; the message names the file."""


@dataclass(frozen=True)
class Encoding:
    """How every image, real or synthetic, is brought to the same ``size`` x ``size`` uint8 pixels.

    Attributes
    ----------
    size : side in pixels.
    fit : ``crop`` takes the central square, ``pad`` adds black to a square, ``stretch`` ignores the aspect ratio.
    jpeg_quality : images larger than ``size`` pass through a JPEG of this quality after resizing, so that they share
        the compression of sources stored at that size; None leaves them alone.
    """

    size: int = 64
    fit: Literal["crop", "pad", "stretch"] = "crop"
    jpeg_quality: int | None = None

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 2048:
            raise InputError("image size is out of range", found=self.size, expected="8 to 2048 pixels")
        if self.fit not in ("crop", "pad", "stretch"):
            raise InputError("unknown fit", found=self.fit, expected="crop, pad or stretch")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise InputError("JPEG quality is out of range", found=self.jpeg_quality, expected="1 to 100")


def read_pixels(path: str | Path) -> np.ndarray:
    """Read an image at its native size as a 2-D array, uint8 or uint16, 0 black.

    Colour becomes luminance (ITU-R BT.601), an alpha channel is dropped. DICOM is read as
    :func:`cxraug.studies.dicom.read_dicom` says.

    Raises
    ------
    ImageError
        If the file is missing, not a regular file, empty, not an image of these kinds, truncated or broken, or larger
        than 2^26 pixels (a decompression bomb).
    """
    path = Path(path)
    head = _head(path, KINDS)
    from cxraug.studies.dicom import is_dicom, read_dicom

    if is_dicom(head):
        return read_dicom(path)
    with _open_picture(path, head, ("PNG", "JPEG"), KINDS) as image:
        return _luminance(image)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels; only the header of a PNG or JPEG is read. Raises as :func:`read_pixels` does."""
    path = Path(path)
    head = _head(path, KINDS)
    if head.startswith((b"\x89PNG", b"\xff\xd8")):
        with _open_picture(path, head, ("PNG", "JPEG"), KINDS, load=False) as image:
            return image.height, image.width
    height, width = read_pixels(path).shape
    return height, width


def read_mask_values(path: str | Path) -> np.ndarray:
    """Read a mask at its native size as its values, uint8 (H, W): a PNG with one channel of 8 bits (or 1: 0 and 255).

    Raises :class:`ImageError` as :func:`read_pixels` does, and for any other kind of picture: colours, a palette or the
    blur of a JPEG would have to be guessed at.
    """
    path, kind = Path(path), "a PNG with one channel of 8 bits"
    with _open_picture(path, _head(path, kind), ("PNG",), kind) as image:
        if image.mode not in ("1", "L"):
            raise ImageError("not a mask", file=path, found=f"a picture of mode {image.mode}", expected=kind)
        return np.array(image.convert("L"))


def pixel_sha256(pixels: np.ndarray) -> str:
    """SHA-256 (hex) of pixels with their shape and type: the identity of an image whatever file it is in."""
    state = hashlib.sha256(f"{pixels.dtype.str} {pixels.shape}".encode())
    state.update(np.ascontiguousarray(pixels).tobytes())
    return state.hexdigest()


def encode(pixels: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Bring 2-D ``pixels`` (uint8 or uint16) to uint8 of shape (size, size).

    16 bit is scaled linearly from the image's minimum and maximum to 0..255 (a constant image becomes black); 8 bit
    keeps its values. Resizing is antialiased (a triangle filter as wide as the reduction). An 8-bit image that has
    the size already keeps its bytes.
    """
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16) or not pixels.size:
        raise ValueError(f"expected 2-D uint8 or uint16 pixels, not {pixels.dtype} {pixels.shape}")
    size = encoding.size
    if pixels.dtype == np.uint8 and pixels.shape == (size, size):
        return pixels.copy()
    height, width = pixels.shape
    values = pixels.astype(np.float32)
    if pixels.dtype == np.uint16:
        low, high = values.min(), values.max()
        values = (values - low) * (255.0 / max(float(high - low), 1.0))
    if encoding.fit == "pad":
        side = max(height, width)
        above, left = (side - height) // 2, (side - width) // 2
        values = np.pad(values, ((above, side - height - above), (left, side - width - left)))
    if encoding.fit == "crop":
        side = min(height, width)
        above, left = (height - side) // 2, (width - side) // 2
        values = values[above : above + side, left : left + side]
    resized = Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR)
    result = np.clip(np.rint(np.asarray(resized)), 0, 255).astype(np.uint8)
    if encoding.jpeg_quality is not None and max(pixels.shape) > size:
        result = _through_jpeg(result, encoding.jpeg_quality)
    return result


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).copy()


def _head(path: Path, kinds: str) -> bytes:
    """The first bytes of a regular file that is not empty."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("not a regular file", file=path, expected=kinds)
        with open(path, "rb") as stream:
            head = stream.read(132)
    except FileNotFoundError:
        raise ImageError("no such image", file=path, expected=kinds) from None
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"cannot be opened ({error})", file=path, expected=kinds) from None
    except OSError as error:
        raise ImageError(f"cannot be opened ({error.strerror})", file=path, expected=kinds) from None
    if not head:
        raise ImageError("the file is empty", file=path, expected=kinds)
    return head


@contextmanager
def _open_picture(
    path: Path, head: bytes, formats: tuple[str, ...], kinds: str, *, load: bool = True
) -> Iterator[Image.Image]:
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have set it: the missing part would become black
    try:
        with Image.open(path, formats=formats) as image:
            check_size(path, image.size)
            if load:
                image.load()
            yield image
    except Image.UnidentifiedImageError:
        raise ImageError("not an image", file=path, found=_describe(head), expected=kinds) from None
    except Image.DecompressionBombError:
        raise ImageError("the image is too large", file=path, expected=f"at most {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        raise ImageError(f"truncated or broken image ({error})", file=path, expected="a whole image file") from None


def _luminance(image: Image.Image) -> np.ndarray:
    if image.mode in ("I;16", "I;16B", "I"):
        return np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
    if image.mode == "P":
        image = image.convert("RGB")
    return np.array(image if image.mode == "L" else image.convert("L"))


def check_size(path: Path, size: tuple[int, int]) -> None:
    """Refuse an image of ``size`` (width, height) that has too many pixels."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(
            "the image is too large", file=path, found=f"{width} x {height}", expected=f"at most {MAX_PIXELS} pixels"
        )


def _describe(head: bytes) -> str:
    marks = {b"GIF8": "a GIF", b"PK\x03\x04": "a zip archive", b"%PDF": "a PDF", b"\x1f\x8b": "a gzip file",
             b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"BM": "a BMP", b"\x89PNG": "a PNG with a broken header",
             b"\xff\xd8": "a JPEG with a broken header"}  # fmt: skip
    for mark, kind in marks.items():
        if head.startswith(mark):
            return kind
    text = head.decode("utf-8", errors="ignore")
    return "text" if text and sum(c.isprintable() or c.isspace() for c in text) == len(head) else "unknown data"
