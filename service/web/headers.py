"""Format and size of an image as its first bytes declare them.

They are read here, in few steps however a file is made. A decoder's parser also unpacks colour
profiles, comments and tables: one file made for that purpose keeps it busy for a minute.
"""

import re
import struct
from collections.abc import Callable

from service.errors import BadImageError
from service.web.jpeg import frame_size

Size = tuple[int, int]  # width and height in pixels

_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I"}  # struct's sign for a type


def read_header(data: bytes) -> tuple[str, Size]:
    """The format's name, and the size.

    Raises:
        BadImageError: It is none of the known formats, or does not say its size.
    """
    formats = ((name, read) for name, (magic, read) in _FORMATS.items() if magic.match(data))
    name, read_size = next(formats, (None, None))
    if name is None or read_size is None:
        raise BadImageError("not a JPEG, PNG, BMP, TIFF, WebP or GIF image")
    try:
        width, height = read_size(data)
    except (struct.error, KeyError):
        width = height = 0
    if width < 1 or height < 1:
        raise BadImageError(f"the {name} header is damaged, cut short or declares no pixels")
    return name, (width, height)


def _png_size(data: bytes) -> Size:
    name, width, height = struct.unpack_from(">4sII", data, 12)
    return (width, height) if name == b"IHDR" else (0, 0)


def _bmp_size(data: bytes) -> Size:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return width, abs(height)  # below zero, rows go from the top down


def _gif_size(data: bytes) -> Size:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _webp_size(data: bytes) -> Size:
    kind = data[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return 1 + low_width + (high_width << 16), 1 + low_height + (high_height << 16)
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        return (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)) if signature == 0x2F else (0, 0)
    if kind == b"VP8 ":
        signature, width, height = struct.unpack_from("<3sHH", data, 23)
        return (width & 0x3FFF, height & 0x3FFF) if signature == b"\x9d\x01\x2a" else (0, 0)
    return 0, 0


def _tiff_size(data: bytes) -> Size:
    """Of the pixels as they are stored, whatever the orientation."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (length,) = struct.unpack_from(order + "H", data, start)
    sides = {_TIFF_WIDTH: 0, _TIFF_HEIGHT: 0}
    for entry in range(start + 2, start + 2 + 12 * length, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in sides:
            (sides[tag],) = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, entry + 8)
    return sides[_TIFF_WIDTH], sides[_TIFF_HEIGHT]


_FORMATS: dict[str, tuple[re.Pattern[bytes], Callable[[bytes], Size]]] = {
    "JPEG": (re.compile(rb"\xff\xd8\xff"), frame_size),
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), _png_size),
    "BMP": (re.compile(rb"BM"), _bmp_size),
    "TIFF": (re.compile(rb"II\*\x00|MM\x00\*"), _tiff_size),
    "WEBP": (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp_size),
    "GIF": (re.compile(rb"GIF8[79]a"), _gif_size),
}
