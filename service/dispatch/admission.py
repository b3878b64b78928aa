"""Who may wait, whose turn it is, and when one more would be done."""

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence

from service.dispatch.canvas import Canvas
from service.dispatch.jobs import Job
from service.dispatch.pace import Pace
from service.errors import BadRequestError, QueueFullError, ScoringTimeoutError
from service.metrics import Metrics
from service.protocol import EncodedImage
from service.settings import Settings

MAX_RETRY_AFTER_S = 60

_GUESSED_PACE_S = 0.1  # of an image, until one is measured


class Admission:
    """Counts the images, and their bytes, that are taken and not answered.

    Args:
        settings: How many may wait, and how long.
        metrics: Shows them.
        forget: Called with each job that ends, however it ends.
    """

    def __init__(self, settings: Settings, metrics: Metrics, forget: Callable[[Job], None]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._forget = forget
        self._pace = Pace()
        self._numbers = itertools.count()
        self._images = 0
        self._bytes = 0

    def admit(
        self, images: Sequence[EncodedImage], canvas: Callable[[EncodedImage], Canvas]
    ) -> list[Job]:
        """A job for each image of a request, or none for any. Their time runs from here on.

        An image's turn comes as if the images of its request had come one by one, as fast as they
        can be scored: so a request of a hundred does not keep the others waiting until it is done.

        Raises:
            BadRequestError: So many could never wait.
            QueueFullError: So many cannot wait now.
        """
        self._require_room(images)
        now = asyncio.get_running_loop().time()
        if self._images == 0:
            self._pace.begin(now)
        step = self._pace.seconds_per_image() or _GUESSED_PACE_S
        jobs = [
            Job(
                number=next(self._numbers) % 2**32,
                image=image,
                canvas=canvas(image),
                turn=now + place * step,
                admitted=now,
                answer=asyncio.get_running_loop().create_future(),
            )
            for place, image in enumerate(images)
        ]
        for job in jobs:
            self._take(job)
        return jobs

    def note_scored(self) -> None:
        """One more image is done, as far as its pace is concerned."""
        self._pace.note(asyncio.get_running_loop().time())

    def retry_after_s(self) -> int:
        """Until those that wait are done, going by the pace of the last; one second at least."""
        pace = self._pace.seconds_per_image() or 0
        return min(max(1, math.ceil(self._images * pace)), MAX_RETRY_AFTER_S)

    def _require_room(self, images: Sequence[EncodedImage]) -> None:
        limits = self._settings
        own_size = sum(len(image.data) for image in images)
        if len(images) > limits.max_queue_images or own_size > limits.max_queue_bytes:
            raise BadRequestError(
                f"{len(images)} images of {own_size} bytes, more than the limits of "
                f"{limits.max_queue_images} images and {limits.max_queue_bytes} bytes that may wait"
            )
        count = self._images + len(images)
        size = self._bytes + own_size
        if count > limits.max_queue_images or size > limits.max_queue_bytes:
            raise QueueFullError("too many images are waiting; retry shortly", self.retry_after_s())

    def _take(self, job: Job) -> None:
        timeout_ms = self._settings.scoring_timeout_ms
        loop = asyncio.get_running_loop()
        job.expiry = loop.call_later(timeout_ms / 1000, job.settle, ScoringTimeoutError(timeout_ms))
        job.answer.add_done_callback(lambda _: self._release(job))
        self._images += 1
        self._bytes += len(job.image.data)
        self._metrics.queue_bytes.set(self._bytes)
        self._metrics.image_pixels.observe(job.source_pixels)

    def _release(self, job: Job) -> None:
        self._images -= 1
        self._bytes -= len(job.image.data)
        self._metrics.queue_bytes.set(self._bytes)
        if job.expiry is not None:
            job.expiry.cancel()
        if not job.answer.cancelled():
            job.answer.exception()  # seen, also where nobody awaits it any more
        self._forget(job)
