"""What crosses the pipes between the HTTP process and a worker.

A frame is one byte of kind, four bytes of length (big-endian) and the payload. The parent sends
START once, then SCORE after SCORE; the worker answers START with READY or FATAL and each SCORE
with RESULT, BAD_IMAGE or FAILED.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

HEADER = struct.Struct("!BI")


class Kind(IntEnum):
    START = 1  # the settings, as JSON
    SCORE = 2  # one encoded image
    READY = 3  # the model is loaded and warm
    FATAL = 4  # no worker can ever start like this: one line saying why
    RESULT = 5  # the JSON fragment of one image
    BAD_IMAGE = 6  # why this image cannot be scored, for the client's eyes
    FAILED = 7  # the worker's own fault; its log says more


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as the client sent it. Its sides are those its header declares, in pixels."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    payload: bytes = b""

    def header(self) -> bytes:
        return HEADER.pack(self.kind, len(self.payload))


def send_frame(stream: BinaryIO, frame: Frame) -> None:
    stream.write(frame.header())
    stream.write(frame.payload)
    stream.flush()


def receive_frame(stream: BinaryIO) -> Frame | None:
    """Block for the next frame; None once the other side has closed the pipe."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, length = HEADER.unpack(header)
    payload = stream.read(length)
    return Frame(Kind(kind), payload) if len(payload) == length else None
