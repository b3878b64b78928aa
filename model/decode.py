"""Encoded bytes -> RGB pixels, the same for every part of the project.

The bytes may be hostile: sizes are checked before memory is spent on them, no parser goes over
them in more than a bounded number of steps, and nothing about them is printed.
"""

import contextlib
import ctypes
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, TiffImagePlugin, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from model.image_file import JPEG_MAGIC, PNG_MAGIC, orientation, picture_only
from model.structures import RGBImage

_DAMAGED = "the image is truncated or damaged"

_BAND_ROWS = 256

# By EXIF orientation: what makes the stored pixels upright.
_TURNS: dict[int, Callable[[RGBImage], RGBImage]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}

# ``max_pixels`` is the limit here; Pillow's own would warn or raise at other numbers.
Image.MAX_IMAGE_PIXELS = None
# Pillow's own reader of uncompressed TIFFs decodes as many strips as a file lists, one above the
# other, and mixes up planes of 16 bits.
TiffImagePlugin.READ_LIBTIFF = True

# What is odd about a picture is its sender's business, not the log's. Warnings are filtered once
# and for all, since ``warnings.catch_warnings`` does not work in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
with contextlib.suppress(AttributeError, OSError):  # a Pillow without libtiff
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


class ImageError(ValueError):
    """The bytes are no picture that can be used; the text says why."""


def decode_image(
    data: bytes, *, apply_exif: bool = False, max_pixels: int | None = None
) -> RGBImage:
    """The first picture in a JPEG, PNG, BMP, TIFF, WebP or GIF file.

    Alpha is dropped, 16 bits are scaled to 8, CMYK and palettes become the colours they stand for.

    Args:
        data: The whole file.
        apply_exif: Turn the picture the way its EXIF orientation says, instead of leaving it on
            the pixel grid it is stored on.
        max_pixels: Refuse larger pictures before they take memory.

    Raises:
        ImageError: It is none of these, or damaged, too large, or of pixels that have no colour.
        MemoryError: This machine is short of memory, which is not the picture's fault.
    """
    try:
        pixels = _decode_usual_jpeg(data, max_pixels) if data.startswith(JPEG_MAGIC) else None
        if pixels is None:
            pixels = _decode_with_pillow(data, max_pixels)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise ImageError(_DAMAGED) from error
    turn = _TURNS.get(orientation(data)) if apply_exif else None
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def read_image(path: Path, *, apply_exif: bool = False) -> RGBImage:
    """Decode a file.

    Raises:
        ValueError: There is no such file, or it is no whole picture; the text names it.
    """
    try:
        return decode_image(path.read_bytes(), apply_exif=apply_exif)
    except OSError as error:
        raise ValueError(f"cannot read the image {path} ({error.strerror})") from error
    except ImageError as error:
        raise ValueError(f"cannot decode the image {path} ({error})") from error


def _decode_usual_jpeg(data: bytes, max_pixels: int | None) -> RGBImage | None:
    """None where Pillow has to judge: it knows more kinds, and forgives what does no harm."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height, max_pixels)
        return simplejpeg.decode_jpeg(data)
    except ImageError:
        raise
    except ValueError as error:
        # libjpeg's words for a scan that stops short, of which Pillow would make the rest grey.
        if "premature end of data segment" in str(error):
            raise ImageError(_DAMAGED) from error
        return None


def _decode_with_pillow(data: bytes, max_pixels: int | None) -> RGBImage:
    with _open(data) as image:
        _check_size(image.width, image.height, max_pixels)
        image.load()
        return _rgb_pixels(image)


def _check_size(width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise ImageError(
            f"the image is {width}x{height} pixels, more than the limit of {max_pixels} in all"
        )


class _Source(io.BytesIO):
    """A file that can be read so often and no more: some parsers go over it byte by byte."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads_left = 10_000 + len(data) // 100

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ImageError(_DAMAGED)
        return super().read(size)


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nobody asks for it, and a hostile file makes it last."""


_READERS: dict[bytes, type[ImageFile]] = {
    JPEG_MAGIC: _Jpeg,
    PNG_MAGIC: PngImageFile,
    b"BM": BmpImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"RIFF": WebPImageFile,
    b"GIF8": GifImageFile,
}


def _open(data: bytes) -> ImageFile:
    reader = next((reader for magic, reader in _READERS.items() if data.startswith(magic)), None)
    if reader is None:
        raise ImageError("not a JPEG, PNG, BMP, TIFF, WebP or GIF image")
    try:
        return reader(_Source(picture_only(data)))
    except SyntaxError as error:
        raise ImageError(f"{_DAMAGED}, or of a kind that is not supported") from error


def _rgb_pixels(image: Image.Image) -> RGBImage:
    """Converted in bands: as a whole, each step of Pillow would copy the picture once more."""
    if image.mode.startswith("I;16"):
        return np.repeat(_sixteen_bits_to_eight(image)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ImageError("pixels of 32 bits are not supported")
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _BAND_ROWS):
        band = image.crop((0, top, width, min(top + _BAND_ROWS, height)))
        if band.mode.endswith("a"):  # colours that were multiplied by alpha
            band = band.convert(band.mode.upper())
        pixels[top : top + _BAND_ROWS] = np.asarray(band.convert("RGB"))
    return pixels


def _sixteen_bits_to_eight(image: Image.Image) -> npt.NDArray[np.uint8]:
    highest, white_is_zero = 0xFFFF, False
    if isinstance(image, TiffImageFile):
        highest = 2 ** image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0] - 1
        white_is_zero = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    pixels = (np.asarray(image).astype(np.uint32) * 255 + highest // 2) // highest
    return (255 - pixels if white_is_zero else pixels).astype(np.uint8)
