"""One cell of the request -> an encoded image whose header promises nothing harmful.

Everything is judged here before any decoder sees a pixel: size in bytes, format, dimensions,
number of JPEG scans.
"""

import asyncio
import re

import pybase64

from service.errors import BadImageError
from service.protocol import EncodedImage
from service.settings import Settings
from service.web.budget import Account
from service.web.fetch import Fetcher
from service.web.headers import read_header
from service.web.jpeg import count_scans

# Scans times pixels: about a second of decoding. A photo of 50 megapixels may have a dozen scans.
_MAX_SCANNED_PIXELS = 640_000_000

# Characters of a string that takes long enough to decode to disturb a health probe.
_LARGE = 1 << 20

DATA_URI = re.compile(r"\s*data:[^,]{0,100};base64,", re.IGNORECASE)
URL = re.compile(r"\s*https?://", re.IGNORECASE)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


async def read_image(
    text: str, settings: Settings, fetcher: Fetcher, account: Account
) -> EncodedImage:
    """The image that one string of the request stands for.

    Args:
        text: Base64 (line-wrapped, unpadded and URL-safe too, with or without ``data:`` prefix),
            or the address of the image.
        settings: The limits.
        fetcher: Downloads what is named by its address.
        account: Holds what is downloaded.

    Raises:
        BadImageError: It is no image, cannot be had, or is larger than the limits.
    """
    if URL.match(text):
        data = await fetcher.fetch(text.strip(), hold=account.add)
        return check_image(data, settings)
    if len(text) > _LARGE:
        return await asyncio.to_thread(_from_base64, text, settings)
    return _from_base64(text, settings)


def _from_base64(text: str, settings: Settings) -> EncodedImage:
    return check_image(decode_base64(text, settings.max_image_bytes), settings)


def check_image(data: bytes, settings: Settings) -> EncodedImage:
    """The content of an image file, if a decoder may see it."""
    check_size(len(data), settings.max_image_bytes)
    width, height = check_header(data, settings)
    return EncodedImage(data, width, height)


def check_size(size: int, max_bytes: int) -> None:
    if not size:
        raise BadImageError("the image is empty")
    if size > max_bytes:
        raise BadImageError(f"the image has {size} bytes, more than the limit of {max_bytes}")


def decode_base64(text: str, max_bytes: int) -> bytes:
    """Decode strictly: nothing is skipped but white space."""
    prefix = DATA_URI.match(text)
    digits = text[prefix.end() :] if prefix else text
    try:
        data = pybase64.b64decode(digits, validate=True)
    except ValueError:
        data = _decode_unusual_base64(digits)
    check_size(len(data), max_bytes)
    return data


def _decode_unusual_base64(digits: str) -> bytes:
    """Base64 with line breaks, the URL-safe alphabet, or too little or too much padding."""
    try:
        packed = digits.encode("ascii").translate(_URL_SAFE, delete=b" \t\r\n\v\f").rstrip(b"=")
        return pybase64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except ValueError:
        raise BadImageError("not a base64-encoded image") from None


def check_header(data: bytes, settings: Settings) -> tuple[int, int]:
    """(width, height) in pixels as the header declares them."""
    found, (width, height) = read_header(data)
    if max(width, height) > settings.max_image_side:
        raise BadImageError(
            f"the image is {width}x{height} pixels, "
            f"more than the limit of {settings.max_image_side} a side"
        )
    if max(width, height) > settings.max_image_aspect * min(width, height):
        raise BadImageError(
            f"the image is {width}x{height} pixels, one side more than "
            f"{settings.max_image_aspect} times the other"
        )
    if width * height > settings.max_image_pixels:
        raise BadImageError(
            f"the image is {width}x{height} pixels, "
            f"more than the limit of {settings.max_image_pixels} in all"
        )
    if found == "JPEG":
        limit = min(settings.max_jpeg_scans, _MAX_SCANNED_PIXELS // (width * height))
        if (scans := count_scans(data)) > max(limit, 1):
            raise BadImageError(
                f"the JPEG has {scans} scans, more than the limit of {limit} for its size"
            )
    return width, height
