"""What the segments of a JPEG say: its size, and how often a decoder goes over the whole picture.

A progressive file may hold any number of scans, each refining all pixels: 60 kB of them keep any
decoder busy for seconds. A camera's or editor's file has 1 to about 10.
"""

import re
import struct
from collections.abc import Iterator

from service.errors import BadImageError

# In compressed data FF is followed by 00 (a plain FF), by another FF (padding) or by D0 to D7
# (restart); any other pair begins the next segment.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_END_OF_IMAGE = 0xD9
_START_OF_SCAN = 0xDA
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, 0xD8}
_MAX_SEGMENTS = 10_000  # a photo has tens of them, one with a large profile hundreds


def frame_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels; zeros if there is no frame."""
    for marker, content in _segments(data):
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, content + 1)
            return width, height
    return 0, 0


def count_scans(data: bytes) -> int:
    """Scans up to the end-of-image marker.

    What follows that marker is not looked at (phones append films), nor what lies inside
    segments (thumbnails are JPEGs themselves).
    """
    return sum(marker == _START_OF_SCAN for marker, _ in _segments(data))


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker, and where the content begins, of each segment up to the end-of-image marker."""
    position = 0
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER.search(data, position)
        if match is None or match[1][0] == _END_OF_IMAGE:
            return
        marker, position = match[1][0], match.end()
        yield marker, position + 2
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2])
    raise BadImageError(f"the JPEG has more than {_MAX_SEGMENTS} segments")
