"""Decode, device and encode at the same time, each on images of its own.

Images are decoded as they arrive. The device takes what is decoded by the time it is free, so a
batch is settled at the last moment, and waits only for images that are being decoded already.
"""

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from model.structures import ImageBatch, Instances
from service.errors import BadImageError
from service.protocol import BatchReport, Frame, Kind, pack_jobs
from service.worker.isolation import Isolation, Outcome

logger = logging.getLogger(__name__)

#: Batches that may wait for encoding before the device waits for them.
_ENCODE_BACKLOG = 2


class ImageStages(Protocol):
    """What the pipeline needs of ``Stages``."""

    def decode(self, data: bytes, /) -> ImageBatch: ...
    def encode(self, instances: Instances, /) -> bytes: ...


@dataclass(eq=False, slots=True)
class _Image:
    job: int
    decoded: ImageBatch | None = None
    decode_s: float = 0.0


@dataclass(eq=False, slots=True)
class _Batch:
    """Images on their way from the device to the parent."""

    images: Sequence[_Image]
    outcome: Outcome
    padding_ratio: float
    unfinished: int
    stage_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class Pipeline:
    """Takes jobs from one thread, answers them with frames from several.

    Args:
        stages: What is done with an image before and after the device.
        isolation: Runs batches on the device.
        answer: Sends a frame; called from any thread.
        max_batch_size: Images on the device at once.
        max_batch_delay_s: How long an idle device waits for images still being decoded.
        threads: For decoding, and as many for encoding.
        device_memory: Bytes allocated on the device at most so far.
        begin_thread: Called once in each thread that decodes or encodes.
    """

    def __init__(
        self,
        stages: ImageStages,
        isolation: Isolation,
        answer: Callable[[Frame], None],
        *,
        max_batch_size: int,
        max_batch_delay_s: float,
        threads: int,
        device_memory: Callable[[], int] = lambda: 0,
        begin_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._stages = stages
        self._isolation = isolation
        self._answer = answer
        self._max_batch_size = max_batch_size
        self._max_batch_delay_s = max_batch_delay_s
        self._device_memory = device_memory
        self._decoders = ThreadPoolExecutor(threads, "decode", begin_thread)
        self._encoders = ThreadPoolExecutor(threads, "encode", begin_thread)
        self._encode_room = threading.Semaphore(_ENCODE_BACKLOG * max_batch_size)
        self._waiting: dict[int, _Image] = {}  # not on the device yet, in order of arrival
        self._busy = False  # whether the one thread that is not spare has a batch
        self._bug: BaseException | None = None  # of a thread that decodes or encodes
        self._change = threading.Condition()  # guards the three lines above

    def submit(self, job: int, data: bytes) -> None:
        """Begin to decode an image; its answer comes some time later."""
        image = _Image(job)
        with self._change:
            self._waiting[job] = image
        self._decoders.submit(self._decode, image, data).add_done_callback(self._check)

    def cancel(self, job: int) -> None:
        """Nobody waits for this one any more; it is not answered if that saves work."""
        with self._change:
            self._waiting.pop(job, None)
            self._change.notify_all()

    def run(self, *, spare: bool = False) -> None:
        """Keep the device busy, for ever. One thread does so, and spare ones while it is busy.

        Raises:
            DeviceLostError: It can do no more.
            BaseException: A bug in any thread; some image may never be answered.
        """
        while True:
            images = self._next_batch(spare=spare)
            self._answer(Frame(Kind.STARTED, payload=pack_jobs([image.job for image in images])))
            self._infer(images)

    def _decode(self, image: _Image, data: bytes) -> None:
        if image.job not in self._waiting:
            return
        started = time.perf_counter()
        answer = None
        try:
            decoded = self._stages.decode(data)
        except BadImageError as error:
            answer = Frame(Kind.BAD_IMAGE, image.job, str(error).encode())
        except Exception:
            logger.exception("an image of %d bytes could not be decoded", len(data))
            answer = Frame(Kind.FAILED, image.job)
        if answer is not None:
            self.cancel(image.job)
            self._answer(answer)
            return
        with self._change:
            image.decode_s = time.perf_counter() - started
            image.decoded = decoded
            self._change.notify_all()

    def _check(self, task: Future[None]) -> None:
        """Hand what ended a task to ``run``; nobody else would ever see it."""
        if bug := task.exception():
            with self._change:
                self._bug = bug
                self._change.notify_all()

    def _next_batch(self, *, spare: bool) -> list[_Image]:
        """Decoded images of one canvas, at least one."""
        deadline: float | None = None
        with self._change:
            self._busy = self._busy and spare
            while True:
                if self._bug:
                    raise self._bug
                batch = self._decoded() if self._busy or not spare else []
                if not batch:
                    deadline = None
                    self._change.wait()
                    continue
                deadline = deadline or time.monotonic() + self._max_batch_delay_s
                patience = deadline - time.monotonic()
                if patience <= 0 or not self._can_grow(batch):
                    for image in batch:
                        del self._waiting[image.job]
                    self._busy = True
                    self._change.notify_all()
                    return batch
                self._change.wait(patience)

    def _decoded(self) -> list[_Image]:
        """The images decoded so far that share the canvas of the first of them."""
        decoded = [image for image in self._waiting.values() if image.decoded]
        same = [image for image in decoded if _canvas(image) == _canvas(decoded[0])]
        return same[: self._max_batch_size]

    def _can_grow(self, batch: list[_Image]) -> bool:
        decoding = any(image.decoded is None for image in self._waiting.values())
        return decoding and len(batch) < self._max_batch_size

    def _infer(self, images: Sequence[_Image]) -> None:
        started = time.perf_counter()
        outcome = self._isolation.run([image.decoded for image in images if image.decoded])
        batch = _Batch(images, outcome, _padding_ratio(images), len(images))
        batch.stage_s["infer"].append(time.perf_counter() - started)
        for image, instances in zip(images, outcome.instances, strict=True):
            image.decoded = None  # megabytes that the encoding needs no more
            self._encode_room.acquire()
            task = self._encoders.submit(self._encode, batch, image, instances)
            task.add_done_callback(self._check)

    def _encode(self, batch: _Batch, image: _Image, instances: Instances | None) -> None:
        started = time.perf_counter()
        answer = Frame(Kind.FAILED, image.job)
        try:
            if instances is not None:
                answer = Frame(Kind.RESULT, image.job, self._stages.encode(instances))
        except Exception:
            logger.exception("the instances of an image could not be encoded")
        finally:
            self._encode_room.release()
        self._answer(answer)
        with self._change:
            batch.stage_s["encode"].append(time.perf_counter() - started)
            batch.unfinished -= 1
            finished = not batch.unfinished
        if finished:
            self._answer(Frame(Kind.REPORT, payload=self._report(batch).to_json()))

    def _report(self, batch: _Batch) -> BatchReport:
        found = [len(instances) for instances in batch.outcome.instances if instances is not None]
        return BatchReport(
            sizes=batch.outcome.sizes,
            padding_ratio=batch.padding_ratio,
            stage_s={"decode": [image.decode_s for image in batch.images], **batch.stage_s},
            objects=found,
            out_of_memory=batch.outcome.out_of_memory,
            retries=batch.outcome.retries,
            device_memory_bytes=self._device_memory(),
        )


def _canvas(image: _Image) -> tuple[int, int] | None:
    return image.decoded.geometries[0].canvas if image.decoded else None


def _padding_ratio(images: Sequence[_Image]) -> float:
    """The share of the canvases of a batch that is no image."""
    geometries = [image.decoded.geometries[0] for image in images if image.decoded]
    filled = sum(math.prod(geometry.resized) for geometry in geometries)
    return 1 - filled / sum(math.prod(geometry.canvas) for geometry in geometries)
