"""Image files as few programs write them."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

Value = tuple[int, int, bytes]  # type, count and content of a TIFF tag


def encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[274] = orientation
    return block


def noise(width: int = 64, height: int = 48) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """The same file with more chunks, before its pixels and after them."""
    more = b"".join(chunks)
    return png[:33] + more + png[33:-12] + more + png[-12:]


def sixteen_bit_png(pixels: np.ndarray, colour_type: int) -> bytes:
    """A PNG of (H, W, channels) uint16, which Pillow itself writes only in grey."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack("!IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def short(*values: int) -> Value:
    return 3, len(values), struct.pack(f"<{len(values)}H", *values)


def long(*values: int) -> Value:
    return 4, len(values), struct.pack(f"<{len(values)}I", *values)


def tiff(
    width: int, height: int, tags: Mapping[int, Value], *planes: bytes, lie: Sequence[int] = ()
) -> bytes:
    """An uncompressed little-endian TIFF.

    Args:
        width: In pixels.
        height: In pixels.
        tags: Besides those of size and place of the pixels, which they may overrule.
        planes: The pixels, in one strip each.
        lie: Offsets to declare instead of the true ones.
    """
    offsets = [8 + sum(map(len, planes[:n])) for n in range(len(planes))]
    every = {
        256: short(width),
        257: short(height),
        258: short(8),
        259: short(1),
        262: short(1),
        273: long(*(lie or offsets)),
        278: short(height),
        279: long(*map(len, planes)),
        **tags,
    }
    pixels = b"".join(planes)
    start = 8 + len(pixels)
    content_start = start + 2 + 12 * len(every) + 4
    entries, content = b"", b""
    for tag, (kind, count, data) in sorted(every.items()):
        place = data.ljust(4, b"\0")
        if len(data) > 4:
            place = struct.pack("<I", content_start + len(content))
            content += data
        entries += struct.pack("<HHI", tag, kind, count) + place
    directory = struct.pack("<H", len(every)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + pixels + directory + content
