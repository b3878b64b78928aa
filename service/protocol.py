"""What crosses the pipes between the HTTP process and a worker.

A frame is one byte of kind, four bytes of job number, four bytes of length (big-endian) and the
payload. The parent sends START once, then IMAGE after IMAGE. The worker answers START with READY
or FATAL, and each IMAGE with RESULT, BAD_IMAGE or FAILED, in any order. In between it says STARTED
when images go to the device, which tells the parent that there is room for more, and REPORT when
it is done with them.
"""

import struct
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import BinaryIO, Self

import orjson

HEADER = struct.Struct("!BII")


class Kind(IntEnum):
    START = 1  # WorkerStart
    IMAGE = 2  # one encoded image, to be decoded at once and scored when the device is free
    CANCEL = 3  # nobody waits for this job any more
    READY = 4  # WorkerInfo: the model is loaded and warm
    FATAL = 5  # no worker can ever start like this: one line saying why
    STARTED = 6  # job numbers: these images are on the device now
    RESULT = 7  # the JSON fragment of one image
    BAD_IMAGE = 8  # why this image cannot be scored, for the client's eyes
    FAILED = 9  # the worker's own fault; its log says more
    REPORT = 10  # BatchReport


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as the client sent it. Its sides are those its header declares, in pixels."""

    data: bytes
    width: int
    height: int


class _JsonPayload:
    """A dataclass that travels as JSON."""

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, payload: bytes) -> Self:
        return cls(**orjson.loads(payload))


@dataclass(frozen=True)
class WorkerStart(_JsonPayload):
    """What a worker is to be."""

    settings: str  # the deployment's settings, as JSON
    device: str  # auto, cpu, cuda or cuda:N
    workers: int  # how many there are on this machine, to share its processors


@dataclass(frozen=True)
class WorkerInfo(_JsonPayload):
    """What a worker has become."""

    device: str  # cpu or cuda:N
    devices: list[str]  # all that "auto" stands for on this machine
    max_batch_size: int  # images that go through the network at once
    short_side: int  # of the resized image, at most
    long_side: int
    start_s: dict[str, float] = field(default_factory=dict)  # import, load and warm_up


@dataclass(frozen=True)
class BatchReport(_JsonPayload):
    """What became of images that went to the device together."""

    sizes: list[int]  # images on the device at once; fewer than all where memory is short
    padding_ratio: float  # share of the canvases that is no image
    stage_s: dict[str, list[float]]  # by stage: one duration a batch, or one an image
    objects: list[int]  # found in each image
    out_of_memory: int = 0  # times the device had too little memory
    retries: int = 0  # times a part of the batch was run again
    device_memory_bytes: int = 0  # the most that was allocated so far; 0 on a CPU


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    job: int = 0
    payload: bytes = b""

    def header(self) -> bytes:
        return HEADER.pack(self.kind, self.job, len(self.payload))


def pack_jobs(jobs: list[int]) -> bytes:
    return struct.pack(f"!{len(jobs)}I", *jobs)


def unpack_jobs(payload: bytes) -> tuple[int, ...]:
    return struct.unpack(f"!{len(payload) // 4}I", payload)


def send_frame(stream: BinaryIO, frame: Frame) -> None:
    stream.write(frame.header())
    stream.write(frame.payload)
    stream.flush()


def receive_frame(stream: BinaryIO) -> Frame | None:
    """Block for the next frame; None once the other side has closed the pipe."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, job, length = HEADER.unpack(header)
    payload = stream.read(length)
    return Frame(Kind(kind), job, payload) if len(payload) == length else None
