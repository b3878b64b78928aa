"""The structure of image files: what of them is the picture, and which way up it is.

Files hold much besides pictures: texts, colour profiles, previews, tables of any length. Decoders
unpack it although nobody asks for it, and a small hostile file makes that last for minutes.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # the byte order, as struct writes it

_PNG_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_MAX_CHUNKS = 100_000

_EXIF_PREFIX = b"Exif\0\0"
_START_OF_SCAN, _APP1 = 0xFFDA, 0xFFE1
_MAX_SEGMENTS = 1000

_SHORT, _LONG = 3, 4
_ORIENTATION = 274
_SIDES = (256, 257, 322, 323)  # width and height, of the picture and of its tiles
_LISTS = {273, 279, 324, 325}  # where the strips or tiles are, and how long
_PICTURE_TAGS = _LISTS | {
    *(*_SIDES, 258, 262, 266, 277, 278, 284, 338, 339),
    *(259, 292, 293, 317, 347, 50674, *range(512, 522)),  # how it is compressed
    *(320, 529, 530, 531, 532),  # palette, YCbCr
}
_MAX_VALUES = 3 << 16  # of a tag: a palette of 16 bits
_MAX_TILE_PIXELS = 1 << 24  # in a picture that is smaller than its tile


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tag of a TIFF or EXIF directory."""

    tag: int
    count: int
    value: int  # its first, where that is an unsigned integer of 16 or 32 bits; else 0
    raw: bytes


def picture_only(data: bytes) -> bytes:
    """The first picture of a PNG or TIFF in a file without most of the rest; others as they are.

    A TIFF loses its orientation.

    Raises:
        ValueError: The file is damaged.
    """
    if data.startswith(PNG_MAGIC):
        kept = [chunk for name, chunk in _png_chunks(data) if name in _PNG_CHUNKS]
        return b"".join((PNG_MAGIC, *kept))
    if data[:4] in _TIFF_ORDERS:
        return _first_page(data)
    return data


def orientation(data: bytes) -> int:
    """How the stored pixels lie, 1 to 8, as the file's EXIF says; 1, upright, where it does not."""
    try:
        entries = list(_entries(_exif_block(data)))
    except (ValueError, struct.error):  # a picture is still one when what is said of it is damaged
        return 1
    return next((entry.value for entry in entries if entry.tag == _ORIENTATION), 1)


def _exif_block(data: bytes) -> bytes:
    """Laid out as a TIFF; empty if there is none."""
    if data.startswith(JPEG_MAGIC):
        return _jpeg_exif(data)
    if data.startswith(PNG_MAGIC):
        return next((chunk[8:] for name, chunk in _png_chunks(data) if name == b"eXIf"), b"")
    if data.startswith(b"RIFF"):
        return next((chunk for name, chunk in _riff_chunks(data) if name == b"EXIF"), b"")
    return data


def _png_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name, and the whole chunk."""
    start = len(PNG_MAGIC)
    for _ in range(_MAX_CHUNKS):
        if start >= len(png):
            return
        end = start + 12 + int.from_bytes(png[start : start + 4])
        yield png[start + 4 : start + 8], png[start:end]
        start = end
    raise ValueError("too many chunks")


def _riff_chunks(webp: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content."""
    start = 12
    for _ in range(_MAX_CHUNKS):
        if start >= len(webp):
            return
        end = start + 8 + int.from_bytes(webp[start + 4 : start + 8], "little")
        yield webp[start : start + 4], webp[start + 8 : end].removeprefix(_EXIF_PREFIX)
        start = end + end % 2
    raise ValueError("too many chunks")


def _jpeg_exif(jpeg: bytes) -> bytes:
    start = 2
    for _ in range(_MAX_SEGMENTS):
        marker, length = struct.unpack_from(">HH", jpeg, start)
        if marker == _START_OF_SCAN:
            return b""
        content = start + 4
        start += 2 + length
        if marker == _APP1 and jpeg.startswith(_EXIF_PREFIX, content):
            return jpeg[content + len(_EXIF_PREFIX) : start]
    raise ValueError("too many segments")


def _entries(tiff: bytes) -> Iterator[_Entry]:
    """What the first directory of a TIFF or an EXIF block lists."""
    if tiff[:4] not in _TIFF_ORDERS:
        return
    order, start = _directory(tiff)
    (length,) = struct.unpack_from(order + "H", tiff, start)
    for place in range(start + 2, start + 2 + 12 * length, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", tiff, place)
        form = {_SHORT: "H", _LONG: "I"}.get(kind)
        if tag in _SIDES and form is None:
            raise ValueError("a side that is no number of pixels")
        value = struct.unpack_from(order + form, tiff, place + 8)[0] if form else 0
        yield _Entry(tag, count, value, tiff[place : place + 12])


def _directory(tiff: bytes) -> tuple[str, int]:
    """The byte order, and where the first directory starts."""
    order = _TIFF_ORDERS[tiff[:4]]
    return order, struct.unpack_from(order + "I", tiff, 4)[0]


def _first_page(tiff: bytes) -> bytes:
    """With a directory in the place of the first that lists only what its picture needs."""
    kept = {entry.tag: entry for entry in _entries(tiff) if entry.tag in _PICTURE_TAGS}
    if any(e.count > _MAX_VALUES for e in kept.values() if e.tag not in _LISTS):
        raise ValueError("a tag of too many values")
    width, height, tile_width, tile_height = (
        kept[tag].value if tag in kept else 0 for tag in _SIDES
    )
    if tile_width * tile_height > max(width * height, _MAX_TILE_PIXELS):
        raise ValueError("a tile much larger than the picture")
    order, start = _directory(tiff)
    entries = (kept[tag].raw for tag in sorted(kept))
    directory = b"".join((struct.pack(order + "H", len(kept)), *entries, bytes(4)))
    return tiff[:start] + directory + tiff[start + len(directory) :]
