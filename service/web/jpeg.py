"""How often a JPEG makes a decoder go over the whole picture.

A progressive file may hold any number of scans, each refining all pixels: 60 kB of them keep any
decoder busy for seconds. A camera's or editor's file has 1 to about 10.
"""

import re

# In compressed data FF is followed by 00 (a plain FF), by another FF (padding) or by D0 to D7
# (restart); any other pair begins the next segment.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_END_OF_IMAGE = 0xD9
_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = {0x01, 0xD8}


def count_scans(data: bytes) -> int:
    """Scans up to the end-of-image marker.

    What follows that marker is not looked at (phones append films), nor what lies inside
    segments (thumbnails are JPEGs themselves).
    """
    scans = 0
    position = 0
    while match := _MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == _END_OF_IMAGE:
            break
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2])
        scans += marker == _START_OF_SCAN
    return scans
