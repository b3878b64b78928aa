"""Encoded bytes -> RGB pixels, the same for every part of the project."""

import io
import warnings

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import BadImageError

RGBImage = npt.NDArray[np.uint8]  # (H, W, 3)

# Sizes are judged from headers before anything gets here.
Image.MAX_IMAGE_PIXELS = None

_JPEG_MAGIC = b"\xff\xd8\xff"
_OTHER_FORMATS = ("PNG", "BMP", "TIFF", "WEBP", "GIF")
_ORIENTATION = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FROM_UPRIGHT = _TO_UPRIGHT | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_DAMAGED = "the image is truncated or damaged"


def decode_image(data: bytes, *, apply_exif: bool = False) -> RGBImage:
    """The first picture in a JPEG, PNG, BMP, TIFF, WebP or GIF file.

    Alpha is dropped, 16 bits are scaled to 8, CMYK and palettes become the colours they stand for.

    Args:
        data: The whole file.
        apply_exif: Turn the picture the way its EXIF orientation says, instead of leaving it on
            the pixel grid it is stored on.

    Raises:
        BadImageError: It is none of these, or damaged, or of pixels that have no colour.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if data.startswith(_JPEG_MAGIC):
                return _decode_jpeg(data, apply_exif)
            return _decode_with_pillow(data, apply_exif)
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise BadImageError(_DAMAGED) from error


def _decode_jpeg(data: bytes, apply_exif: bool) -> RGBImage:
    flags = cv2.IMREAD_COLOR_RGB | (0 if apply_exif else cv2.IMREAD_IGNORE_ORIENTATION)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise BadImageError(_DAMAGED)
    return pixels.astype(np.uint8, copy=False)


def _decode_with_pillow(data: bytes, apply_exif: bool) -> RGBImage:
    with Image.open(io.BytesIO(data), formats=_OTHER_FORMATS) as image:
        turn = _turn(image, apply_exif)  # before loading, which forgets a TIFF's orientation
        image.load()
        return np.array(_to_rgb(image if turn is None else image.transpose(turn)))


def _turn(image: Image.Image, apply_exif: bool) -> Image.Transpose | None:
    """What must be done once loaded: Pillow turns a TIFF upright by itself, and nothing else."""
    turned_by_pillow = image.format == "TIFF"
    if apply_exif == turned_by_pillow:
        return None
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a picture is still one when what is said about it is damaged
        return None
    return (_TO_UPRIGHT if apply_exif else _FROM_UPRIGHT).get(orientation)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(_scale_to_bytes(np.asarray(image))).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImageError("pixels of 32 bits are not supported")
    return image.convert("RGB")


def _scale_to_bytes(pixels: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """0 to 65535 -> 0 to 255, rounded."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
